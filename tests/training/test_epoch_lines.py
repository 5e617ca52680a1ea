"""What a line of an epoch says: the loss in its parts, how the epoch stands to the best, this epoch's speed."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import fitted, settings_of
from tiny import assert_caught

from plait.data import Dataset
from plait.training import loop

LINE = re.compile(
    r"epoch +(?P<epoch>\d+)  loss (?P<loss>[\d.]+) \((?P<parts>.+?)\)  ndcg@10 (?P<value>[\d.]+)"
    r"(?: best|, best (?P<best>[\d.]+) in (?P<best_epoch>\d+))"
    r"  normalised_error:actions [\d.]+(?: best|, best [\d.]+ in \d+)"
    r"(?:, no rise in (?P<stale>\d+) of (?P<patience>\d+))?"
    r"  (?P<speed>[\d,]+) tokens/s"
)


def lines_of(dataset: Dataset, folder: Path) -> tuple[list[re.Match[str]], list[dict[str, float]]]:
    """Of a short training whose parts weigh differently, and its validations."""
    settings = settings_of("lac")
    model = replace(settings.model, retrieval_weight=0.5, action_weights={"liked": 3.0})
    settings = replace(settings, model=model, protocol=replace(settings.protocol, max_epochs=4, patience=7))
    told: list[str] = []
    curve = fitted(dataset, folder, settings, told.append).progress.curve
    return [found for line in told if (found := LINE.fullmatch(line))], curve


def check_lines(dataset: Dataset, folder: Path) -> None:
    lines, curve = lines_of(dataset, folder)
    assert len(lines) == len(curve) == 4
    before = {"tokens": 0.0, "train_wall_s": 0.0}
    for line, row in zip(lines, curve, strict=True):
        parts = dict(part.rsplit(" ", 1) for part in line["parts"].split(", "))
        assert list(parts) == ["retrieval", "rating", "liked"]
        np.testing.assert_allclose(sum(map(float, parts.values())), float(line["loss"]), atol=2e-4)
        speed = (row["tokens"] - before["tokens"]) / (row["train_wall_s"] - before["train_wall_s"])
        assert line["speed"] == f"{speed:,.0f}"
        before = row
    best = max(range(4), key=lambda at: curve[at]["ndcg@10"])
    for line in lines[best + 1 :]:
        assert int(line["best_epoch"]) == best + 1 and line["patience"] in (None, "7")
        assert line["best"] == f"{curve[best]['ndcg@10']:.4f}"


def test_lines_say_what_the_epoch_was(dataset: Dataset, tmp_path: Path) -> None:
    check_lines(dataset, tmp_path)


def test_parts_that_are_not_weighted_are_caught(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.GenerativeRecommender, "weighted", lambda self, losses: losses)
    monkeypatch.setattr(loop.GenerativeRecommender, "total", lambda self, losses: 2 * sum(losses.values()))
    assert_caught(check_lines, dataset, tmp_path)
