"""The attention map: what is drawn is what the block attends with.

Shape letters: S seeds, L tokens, R rows, N heads, H head width.
"""

import numpy as np
import pytest
import tiny
import torch
from tiny import assert_caught, model_of

from plait.data import Dataset
from plait.layouts import resolve
from plait.models.inputs import training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.gpt import GptBlock
from plait.schema import UNKNOWN_ITEM
from plait.studies.lag import KNOWN, LAST, LENGTH, attention_map, dummies, looks_at, shaded, svg


def test_the_dummy_sequence_is_the_papers(dataset: Dataset) -> None:
    batch = dummies(dataset, num_items=5, num_actions=3)
    item_BL = batch.item_E.reshape(-1, LENGTH)
    assert item_BL.shape == (15, LENGTH) and batch.start_U1.tolist() == [6 * n for n in range(16)]
    assert (item_BL[:, [0, 2, 3, 4]] == UNKNOWN_ITEM).all()
    assert (item_BL[:, 1] == item_BL[:, 5]).all() and len(set(item_BL[:, 1])) == 5
    counts_V1 = dataset.train_item_counts()
    assert counts_V1[item_BL[:, 1]].min() >= np.sort(counts_V1)[-5]
    action_BLA = batch.action_EA.reshape(15, LENGTH, -1)
    np.testing.assert_array_equal(action_BLA[:, 1], action_BLA[:, 5])
    assert len(np.unique(action_BLA[:, 1, 0])) > 1 and len(np.unique(action_BLA[:, 0, 0])) == 1


def check_map(map_LL: np.ndarray, dataset: Dataset) -> None:
    """Values weighted with the map must be what the block itself gathers, for one sequence and one head."""
    model = model_of(resolve("lac"))
    block = model.trunk.blocks[-1]
    assert isinstance(block, GptBlock)
    gathered: list[torch.Tensor] = []
    hook = block.attention_out.register_forward_pre_hook(lambda _, given: gathered.append(given[0]))
    values: list[torch.Tensor] = []
    other = block.register_forward_pre_hook(lambda _, given: values.append(block.project(given[0], None)[2]))
    with torch.no_grad():
        model(training_inputs(model.layout, dummies(dataset, 1, 1)))
    hook.remove()
    other.remove()
    mean_LD = torch.from_numpy(map_LL).float() @ values[0][0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(gathered[0][0], mean_LD, rtol=1e-4, atol=1e-4)


def one_head_map(dataset: Dataset) -> np.ndarray:
    return attention_map(model_of(resolve("lac")), dummies(dataset, 1, 1))


def test_the_map_is_what_the_block_attends_with(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    single = TrunkConfig(dim=12, num_layers=2, num_heads=1, dropout=0.0)
    monkeypatch.setattr(tiny, "trunk_of", lambda *_: single)  # with one head its mean is the map itself
    map_LL = one_head_map(dataset)
    np.testing.assert_allclose(map_LL.sum(1), 1, rtol=1e-5)
    assert (np.triu(map_LL, 1) == 0).all() and map_LL.std() > 0.05
    check_map(map_LL, dataset)
    assert_caught(check_map, np.tril(np.ones((LENGTH, LENGTH))) / np.arange(1, LENGTH + 1)[:, None], dataset)


def maps(*rows: list[float]) -> np.ndarray:
    map_SLL = np.zeros((len(rows), LENGTH, LENGTH))
    map_SLL[:, LAST] = rows
    return map_SLL


TOWARDS, AWAY = [0.1, 0.3, 0.3, 0.1, 0.1, 0.1], [0.3, 0.1, 0.1, 0.2, 0.2, 0.1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((TOWARDS, TOWARDS), "reproduced"),
        ((AWAY, AWAY), "not reproduced"),
        ((TOWARDS, AWAY), "too close to tell"),
    ],
)
def test_all_seeds_must_agree(rows: tuple[list[float], ...], expected: str) -> None:
    assert [looks_at(maps(*rows), position).outcome for position in (1, 2)] == [expected] * 2


def test_each_position_is_judged_for_itself() -> None:
    found = maps([0.1, 0.4, 0.1, 0.1, 0.2, 0.1])
    assert [looks_at(found, position).outcome for position in (1, 2)] == ["reproduced", "not reproduced"]
    assert "0.400 against 0.200" in looks_at(found, 1).why


def test_the_drawings_show_the_map() -> None:
    map_LL = np.tril(np.full((LENGTH, LENGTH), 0.125))
    map_LL[LAST, 2] = 0.875
    lines = shaded(map_LL)
    assert len(lines) == LENGTH + 1 and lines[-1].count("█") == 2 and lines[1].count("█") == 2
    drawing = svg(map_LL)
    assert drawing.count("<rect") == LENGTH * (LENGTH + 1) // 2 and drawing.count(">0.88<") == 1
    assert all(
        f">{position} {'item' if position in KNOWN else 'unk'}<" in drawing for position in range(LENGTH)
    )
