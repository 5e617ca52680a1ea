"""The way of asking a model that `plait check` gets from exporting: by its programs.

Shape letters: U users, C candidates of a user.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from plait import files
from plait.engine.agreement_cases import NEXT_ITEM, CheckCase, Logits
from plait.engine.agreement_ways import Pair, Way
from plait.engine.ranking import FIRST_ITEM
from plait.engine.state import some_users
from plait.engine.steps import even
from plait.exporting.comparing import LATER_S, arrays_of, exported_logits
from plait.exporting.exported import Exported, Format
from plait.exporting.supported import problems_of_exporting
from plait.exporting.writing import about_of, check_installed, fp32_copy, write_programs

SCORES_PER_STEP = 1 << 24  # of tokens against one another, which an exported program holds at a time


def exported_way(format: Format) -> Way:
    """By exported programs."""
    return Way(f"exported to {format}", partial(_ask_exported, format), partial(_why_not, format))


def _why_not(format: Format, case: CheckCase) -> str:
    try:
        check_installed(format)
    except ValueError as error:
        return str(error)
    return "; ".join(problems_of_exporting(case.model))


def _ask_exported(format: Format, case: CheckCase) -> Pair:
    """All users at one moment, some at a time."""
    network, moment = case.model, case.later
    with TemporaryDirectory() as folder:
        write_programs(fp32_copy(network), about_of(network, format), Path(folder))
        files.seal(Path(folder))
        exported = Exported.open(folder)
    longest = min(int(moment.history.num_events_U.max()), exported.about.events_read)
    tokens, heads = longest * network.layout.tokens_per_event, network.config.settings.trunk.num_heads
    names = tuple(port.name for port in exported.about.programs["encode"].inputs)
    at_s = moment.at_s if moment.at_s is not None else int(moment.history.time_s_E.max()) + LATER_S
    parts: list[Logits] = []
    for users in even(case.num_users, max(1, SCORES_PER_STEP // (heads * tokens**2))):
        history = arrays_of(some_users(moment.history, users), names, exported.about.events_read)
        parts.append(exported_logits(exported, history, case.item_UC[users], at_s))
    found = {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}
    if NEXT_ITEM in found:
        found[NEXT_ITEM] = found[NEXT_ITEM][..., case.items - FIRST_ITEM]
    return case.trained_later, found
