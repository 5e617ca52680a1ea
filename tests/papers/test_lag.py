"""The attention map: what is drawn is what the block attends with.

Shape letters: S seeds, P places of the item, L tokens, R rows, N heads, H head width.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
import torch
from tiny import assert_caught, assert_not_vacuous, model_of

from plait.data import Dataset
from plait.evaluation.provenance import Provenance
from plait.layouts import resolve
from plait.models.inputs import training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.gpt import GptBlock
from plait.papers import lac, lag
from plait.papers.claims import ClaimVerdict
from plait.papers.lag import (
    LAST,
    LENGTH,
    OFFSETS,
    PLACES,
    attention_map,
    dummies,
    looks_at,
    shaded,
    svg,
    verdicts_of_maps,
)
from plait.papers.study import Place
from plait.schema import UNKNOWN_ITEM
from plait.training.run import run_training


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
    assert len(np.unique(action_BLA[:, 0, 0])) == 1
    assert (action_BLA.reshape(5, 3, LENGTH, -1)[0] == action_BLA.reshape(5, 3, LENGTH, -1)[4]).all()


@pytest.mark.parametrize("place", PLACES)
def test_the_item_stands_where_it_is_asked_for(place: int, dataset: Dataset) -> None:
    item_BL = dummies(dataset, 2, 2, place).item_E.reshape(-1, LENGTH)
    assert np.flatnonzero(item_BL[0] != UNKNOWN_ITEM).tolist() == [place, LAST]


def test_actions_differ_from_the_least_to_the_greatest(dataset: Dataset) -> None:
    """Five ratings where the log has five, however rare one of them is."""
    known_E = dataset.train_batch(dataset.train_users(), LENGTH, 0).action_EA
    known = np.unique(known_E[~np.isnan(known_E).any(1)], axis=0)
    assert_not_vacuous({"different actions": len(known)}, above=4)
    action_BLA = dummies(dataset, 1, 5).action_EA.reshape(5, LENGTH, -1)
    chosen = action_BLA[:, PLACES[0]]
    assert len(np.unique(chosen, axis=0)) == 5 and not np.isnan(chosen).any()
    np.testing.assert_array_equal(chosen[[0, -1]], known[[0, -1]])


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
        model(training_inputs(model.plan, dummies(dataset, 1, 1)))
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


def maps(*seeds: str) -> np.ndarray:
    """Maps of queries that look in some way, one for each seed, beside a liking for a position."""
    map_SPLL = np.zeros((len(seeds), len(PLACES), LENGTH, LENGTH))
    map_SPLL[:, :, LAST] = [0.1, 0.9, 0.2, 0.5, 0.1, 0.3]  # of positions, whatever stands there
    for seed, looks in enumerate(seeds):
        for at, place in enumerate(PLACES):
            for offset in OFFSETS:
                towards = {"item": offset == 0, "both": True, "neither": False}[looks]
                map_SPLL[seed, at, LAST, place + offset] += (0.05 if towards else -0.05) + 0.001 * seed
    return map_SPLL


def outcomes(*seeds: str) -> list[str]:
    return [verdict.outcome for verdict in verdicts_of_maps(maps(*seeds))]


def test_content_is_told_from_position() -> None:
    """A position that is always looked at says nothing of what stands there."""
    assert outcomes(*["both"] * 3) == ["reproduced", "reproduced"]
    assert outcomes(*["neither"] * 3) == ["not reproduced", "not reproduced"]
    assert outcomes(*["item"] * 3) == ["reproduced", "not reproduced"]
    of_the_paper = maps("neither")[0, 0, LAST]  # at 1, more than at 0, 3 and 4 all the same
    assert of_the_paper[1] > of_the_paper[[0, 3, 4]].max()


def test_seeds_that_disagree_settle_nothing() -> None:
    assert outcomes("both", "neither", "both") == ["too close to tell"] * 2
    assert outcomes("both", "item", "both") == ["reproduced", "too close to tell"]


def test_one_seed_settles_nothing() -> None:
    """What --quick runs."""
    found = verdicts_of_maps(maps("both"))
    assert [verdict.outcome for verdict in found] == ["too close to tell"] * 2
    assert all("one seed does not tell noise" in verdict.why for verdict in found)


def test_attention_is_held_against_the_same_position() -> None:
    """0.9, 0.2 and 0.5 of positions 1 to 3, and 0.05 more where the item is."""
    assert looks_at(maps("both"), 0).words == "0.583 against 0.533, by seed"


def check_random_maps(judge: Callable[[np.ndarray], tuple[ClaimVerdict, ...]], trials: int = 100) -> None:
    """5 % are to be expected of both verdicts together; of 100 trials, 12 % are as likely as 1 in 200."""
    rng = np.random.default_rng(0)
    settled = [
        any(
            verdict.outcome != "too close to tell"
            for verdict in judge(rng.dirichlet(np.ones(LENGTH), (num_seeds, len(PLACES), LENGTH)))
        )
        for num_seeds in (3, 6)
        for _ in range(trials // 2)
    ]
    assert sum(settled) < 0.12 * trials, sum(settled)


def by_agreement(map_SPLL: np.ndarray) -> tuple[ClaimVerdict, ...]:
    """A verdict wherever every seed says the same."""
    agree = [abs(np.sign(looks_at(map_SPLL, offset).value_N).sum()) == len(map_SPLL) for offset in OFFSETS]
    return tuple(
        ClaimVerdict(claim="", outcome="reproduced" if alike else "too close to tell", why="")
        for alike in agree
    )


def test_random_maps_settle_nothing() -> None:
    check_random_maps(verdicts_of_maps)
    assert_caught(check_random_maps, by_agreement)


def test_the_runs_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 of another commit, and after midnight; the study has seeds enough to decide."""
    [part] = lac.figure_2.parts
    assert isinstance(part, lag.LagByOne) and part.num_seeds == 6

    def run_elsewhere(dataset: Dataset, settings: Any, *arguments: Any) -> Any:
        seed = settings.protocol.seed
        origin = Provenance(commit="ab"[seed == 1], date=f"2030-01-0{1 + seed}")
        return replace(run_training(dataset, settings, *arguments), provenance=origin)

    monkeypatch.setattr(lag, "run_training", run_elsewhere)
    where = Place(out=tmp_path, quick=True, report=lambda line: None)
    finding = replace(part.quick(), num_seeds=3).run("figure", where)
    assert finding.origins == {"commit a": "lac (seed 0, 2)", "commit b": "lac (seed 1)"}
    assert len(finding.verdicts) == 2


def test_the_drawings_show_the_map() -> None:
    map_LL = np.tril(np.full((LENGTH, LENGTH), 0.125))
    map_LL[LAST, 2] = 0.875
    lines = shaded(map_LL)
    assert len(lines) == LENGTH + 1 and lines[-1].count("█") == 2 and lines[1].count("█") == 2
    drawing = svg(map_LL)
    assert drawing.count("<rect") == LENGTH * (LENGTH + 1) // 2 and drawing.count(">0.88<") == 1
    assert all(
        f">{position} {'item' if position in (1, 5) else 'unk'}<" in drawing for position in range(LENGTH)
    )


def check_labels(drawing: str, map_LL: np.ndarray) -> None:
    """Every token's name stands once beside its row and once above its column, every weight in its cell."""
    texts = [
        (float(text.attrib["x"]), float(text.attrib["y"]), text.text or "")
        for text in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")
    ]
    beside = {name: y for x, y, name in texts if x < lag.MARGIN}
    above = {name: x for x, y, name in texts if y < lag.MARGIN}
    names = lag.position_names()
    assert len(texts) == 2 * LENGTH + LENGTH * (LENGTH + 1) // 2
    for labels in (beside, above):
        assert list(labels) == names, "in order, each once"
        np.testing.assert_allclose(np.diff(list(labels.values())), lag.CELL)
    inside = [(x, y, text) for x, y, text in texts if x > lag.MARGIN and y > lag.MARGIN]
    for x, y, text in inside:
        row = int(np.argmin([abs(y - beside[name]) for name in names]))
        column = int(np.argmin([abs(x - above[name]) for name in names]))
        assert float(text) == pytest.approx(map_LL[row, column], abs=0.005), (row, column)
        assert abs(y - beside[names[row]]) < 1 and abs(x - above[names[column]]) < 3
    assert len(inside) == LENGTH * (LENGTH + 1) // 2


def test_rows_and_columns_of_the_drawing_are_named_and_hold_their_weights() -> None:
    map_LL = np.tril(np.random.default_rng(1).dirichlet(np.ones(LENGTH), LENGTH))
    drawing = svg(map_LL)
    check_labels(drawing, map_LL)
    rows, columns = (
        re.findall(rf'<text[^>]* text-anchor="{at}">[^<]*</text>\n', drawing) for at in ("end", "middle")
    )
    for gone in (rows[0], rows[-1], columns[0], columns[-1]):
        assert_caught(check_labels, drawing.replace(gone, "", 1), map_LL)
    assert_caught(check_labels, drawing, map_LL.T)
    for line, row_L, name in zip(shaded(map_LL)[1:], map_LL, lag.position_names(), strict=True):
        assert line.startswith(f"{name:>6}  ")
        cells = [line[8 + 4 * key : 10 + 4 * key] for key in range(LENGTH)]
        darkness = [lag.SHADES.index(cell[0]) for cell in cells]
        assert darkness == [round(weight / row_L.max() * (len(lag.SHADES) - 1)) for weight in row_L]
    heads = shaded(map_LL)[0]
    assert [int(heads[8 + 4 * key : 11 + 4 * key]) for key in range(LENGTH)] == list(range(LENGTH))
