"""A ranker that goes on from a deployed one: with its weights, and with more features where there are more.

Source: the LUM paper, section 5.3 (incremental training: features and parameters that are inherited).
"""

from dataclasses import replace

from plait.evaluation.run_files import RunSettings
from plait.training.start import Start, settings_from


def going_on(start: Start | None, given: RunSettings, usual: RunSettings) -> RunSettings:
    """The settings of a run that goes on: those of the deployed one where nothing else was given. Interests are those
    that are given, or none.

    Args:
        start: the deployed ranker; None: the settings are those that are given.
        usual: what there is where nothing was given.
    """
    if start is None:
        return given
    filled = settings_from(
        start, given.layout, given.model, given.optim, given.protocol, usual.model, usual.protocol
    )
    ranker = replace(
        filled.model.ranker, kind=given.model.ranker.kind, interests=given.model.ranker.interests
    )
    return replace(filled, model=replace(filled.model, ranker=ranker))
