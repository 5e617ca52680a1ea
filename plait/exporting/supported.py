"""What cannot be exported, and why: all that an exported program would leave out or answer otherwise."""

from collections.abc import Iterator

from plait.engine.agreement_cases import fields_asked
from plait.models.generative import GenerativeRecommender


def check_exportable(model: GenerativeRecommender) -> None:
    """
    Raises:
        ValueError: the model reads something that programs of tensors are not told.
    """
    problems = list(problems_of_exporting(model))
    if problems:
        raise ValueError(f"layout '{model.layout}' cannot be exported as the model is: {'; '.join(problems)}")


def problems_of_exporting(model: GenerativeRecommender) -> Iterator[str]:
    config, exposure = model.config, model.plan.exposure
    if not fields_asked(model):
        yield "it neither scores a given item nor retrieves one"
    if config.settings.ranker.is_on:
        yield "it is a ranker, which has no trunk to encode histories with; export a model with model.ranker off"
    if config.settings.two_tower.is_on:
        yield "it is of two towers, which have no trunk to encode histories with; export a model over a trunk"
    if "c" in model.layout.fields:
        yield "it shows conditions, whose values an exported program cannot code; use a layout without them"
    if model.items is None:
        yield "it reads no items"
    if exposure.time_anchor != "current":
        yield (
            f"time_anchor = '{exposure.time_anchor}' makes a history's keys anew for every moment that is asked about; "
            "use time_anchor = 'current'"
        )
    if exposure.history == "full":
        yield "history = 'full' sees events that come later; use history = 'causal'"
    if exposure.same_request == "blind":
        yield "same_request = 'blind' hides events by their requests; use same_request = 'causal'"
    if config.settings.allow_leaks:
        yield "allow_leaks: it may read its own answers"
    if model.users is not None or model.context is not None:
        what = "user features" if model.users is not None else "context features"
        yield f"it reads {what}, whose values an exported program cannot code; train without them"
    if config.settings.late.num_groups:
        yield "model.late counts features of the history for its heads; train without them"
