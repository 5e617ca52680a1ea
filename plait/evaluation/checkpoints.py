"""Which checkpoints of a run are kept, and by what the epoch of each is chosen.

A training has one best epoch for retrieval and another for actions. Under protocol.select = each both are kept: one is
the model that is deployed, the other lies beside it. Both are judged by the same validations.
"""

from collections.abc import Mapping
from typing import Literal

from plait.evaluation.reachable import Reach
from plait.evaluation.selection import Selection
from plait.layouts import audit
from plait.metrics.table import ERROR_OF_ACTIONS, Task
from plait.models.generative import ModelSettings
from plait.wording import setting

Checkpoint = Literal["deployed", Task]  # what is deployed, and what lies beside it by what it is best for
Rules = Mapping[Checkpoint, Selection]  # by checkpoint, by what it is chosen; the deployed one first


def rules_of(reach: Reach, model: ModelSettings) -> Rules:
    """The checkpoints that a run keeps.

    Args:
        reach: of the validation's targets.

    Raises:
        ValueError: nothing can choose an epoch by itself, and protocol.select names no metric.
    """
    selection = reach.protocol.selection
    if not selection.is_each:
        return {"deployed": selection.resolve(reach.layout, model.retrieval_weight)}
    rules: dict[Checkpoint, Selection] = {}
    if audit(reach.layout).can_retrieve and model.retrieval_weight > 0:
        rules["retrieval"] = Selection.parse(Selection.RETRIEVAL)
    if any(model.action_weights.get(name, 1.0) > 0 for name in reach.varying_actions):
        rules["actions"] = Selection.parse(ERROR_OF_ACTIONS)
    if not rules:
        raise ValueError(
            "no action that is trained has two different values in the validation, so the normalised error, which "
            "chooses the epoch, is not defined: choose by another metric "
            f"({setting('protocol.select', 'loss:actions')})"
        )
    deployed: Checkpoint = reach.protocol.deploy if reach.protocol.deploy in rules else next(iter(rules))
    return {"deployed": rules.pop(deployed), **rules}


def note_on_rules(rules: Rules, reach: Reach) -> str | None:
    """What to know where a layout predicts actions, and no checkpoint of its own is kept for them."""
    if not reach.protocol.selection.is_each or "a" not in reach.layout.predicts:
        return None
    if Selection.parse(ERROR_OF_ACTIONS) in rules.values():
        return None
    return (
        "no action that is trained has two different values in the validation: one checkpoint is kept, the best for "
        "retrieval"
    )
