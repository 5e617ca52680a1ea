"""One entry of the table is all that a metric takes: everything that reads one knows it.

Shape letters: Q queries, U users.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from small_runs import fitted, settings_of
from test_page import CAN, Invented, compared, row
from tiny import assert_caught

from plait.compare import presentation
from plait.compare.comparing import _metrics_of
from plait.compare.regret import regrets
from plait.compare.results import Comparison, summarise
from plait.compare.words import metric_label
from plait.data import Dataset
from plait.evaluation import answers as answers_module
from plait.evaluation.answers import Answers, measure, metric_values
from plait.evaluation.selection import Selection
from plait.metrics import table
from plait.metrics.intervals import bootstrap
from plait.metrics.scoring import Labelled, labelled, mae, rmse
from plait.metrics.statistic import Statistic, from_sums, ratio, sums_per_user
from plait.metrics.table import ActionMetric, Metric, check_full_name, metric_of, of_kind, shown_of_kind
from plait.nn.actions import scaled
from plait.schema import Action, ActionKind, Amount, Binary, Categorical, Judgement, Ordinal, Regression
from plait.training import loop

KINDS: tuple[type[ActionKind], ...] = get_args(ActionKind)
ACTIONS = {
    Binary: Action("liked", Binary()),
    Regression: Action("stars", Regression(1, 5)),
    Amount: Action("watch_s", Amount(log1p_scale=3.0)),
    Categorical: Action("device", Categorical(("phone", "tablet", "tv"))),
    Ordinal: Action("grade", Ordinal((1, 2, 4))),
}
U = 61


def cubic_error(pairs: Labelled) -> Statistic:
    """A made-up metric: less is better."""
    error_E = np.abs(pairs.prediction_E - pairs.label_E) ** 3
    sum_UK = sums_per_user(pairs.place_E, error_E, np.ones_like(error_E))
    return from_sums(pairs.user_U, sum_UK, ratio, "lower")


def rising_error(pairs: Labelled) -> Statistic:
    return replace(cubic_error(pairs), better="higher")


MADE_UP = ActionMetric(
    name="cubic",
    label="cubic error",
    better="lower",
    distance="share",
    has_limit=True,
    function=cubic_error,
    judges=("number",),
    shown=("number",),
)


def answers_of_every_kind() -> Answers:
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 2, U), rng.integers(1, 6, U), rng.exponential(9, U)]
    label_QA = np.stack(
        [*drawn, rng.integers(0, 3, U), rng.integers(0, 3, U)],
        axis=1,
        dtype=np.float32,
        casting="unsafe",
    )
    shape = {Categorical: (U, 3), Ordinal: (U, 3)}
    predicted = {
        action.name: rng.uniform(1 if kind is Regression else 0, 1, shape.get(kind, (U,))).astype(np.float32)
        for kind, action in ACTIONS.items()
    }
    return Answers(
        user_Q=np.arange(U) // 2,
        list_Q=np.arange(U) // 2,
        item_Q=np.arange(U) + 1,
        rank_Q=rng.integers(1, 99, U),
        predicted=predicted,
        label_QA=label_QA,
        loss={action.name: 1.0 for action in ACTIONS.values()},
        actions=tuple(ACTIONS.values()),
    )


def check_measured_is_in_the_table() -> None:
    """And the reverse: by kind of action, what goes under a name is what the table names, no more and no less."""
    values = metric_values(answers_of_every_kind())
    met = Counter[str]()
    for name in values:
        check_full_name(name)
        met[metric_of(name).name] += 1
    assert set(met) == {metric.name for metric in table.TABLE}
    for action in ACTIONS.values():
        own = {metric_of(name) for name in values if name.endswith(f":{action.name}")}
        assert own - {table.LOSS, table.ERROR} == {
            metric for metric in table.TABLE if judges(metric, action.kind)
        }


def judges(metric: Metric, kind: ActionKind) -> bool:
    return isinstance(metric, ActionMetric) and bool(set(metric.judges) & set(kind.judged_as))


def test_every_metric_that_is_measured_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ACTIONS) == set(KINDS)
    check_measured_is_in_the_table()
    unmeasured = replace(MADE_UP, judges=())
    monkeypatch.setattr(table, "TABLE", (*table.TABLE, unmeasured))
    assert_caught(check_measured_is_in_the_table)


def check_entries() -> None:
    """Names are such as `protocol.select` takes, and each stands once; every kind is led by one metric of its own."""
    entries = table.TABLE
    assert (
        len({metric.name for metric in entries}) == len({metric.label for metric in entries}) == len(entries)
    )
    for metric in entries:
        for name in metric.full_names("liked"):
            assert Selection.parse(name).weights == ((name, 1.0),)
    of_actions = [metric for metric in entries if isinstance(metric, ActionMetric)]
    for judgement in get_args(Judgement):
        assert sum(judgement in metric.leads for metric in of_actions) == 1, judgement
    for kind in KINDS:
        assert len(of_kind(ACTIONS[kind].kind)) >= 2
    for metric in of_actions:
        assert {*metric.leads, *metric.shown} <= set(metric.judges), metric.name


def errors_when(told: str) -> dict[str, float]:
    """Of every kind, the normalised error of predictions that are the best constant, or right."""
    answers = answers_of_every_kind()
    predicted = {}
    for column, (kind, action) in enumerate(ACTIONS.items()):
        label_Q = answers.label_QA[:, column]
        unit_Q = scaled((action,), torch.from_numpy(label_Q[:, None])).numpy()[:, 0]
        right_QC = np.eye(3, dtype=np.float32)[label_Q.astype(int).clip(0, 2)]
        best = {
            Binary: (label_Q, label_Q.mean()),
            Regression: (label_Q, label_Q.mean()),
            Amount: (label_Q, label_Q[np.abs(unit_Q - unit_Q.mean()).argmin()]),
            Categorical: (right_QC, right_QC.mean(axis=0)),
            Ordinal: (right_QC, right_QC.mean(axis=0)),
        }[kind]
        whole = np.broadcast_to(best[told == "constant"], best[0].shape)
        predicted[action.name] = whole.astype(np.float32)
    values = metric_values(replace(answers, predicted=predicted))
    return {action.name: values[f"{table.ERROR.name}:{action.name}"] for action in ACTIONS.values()} | {
        "actions": values[table.ERROR_OF_ACTIONS]
    }


def check_errors_of_kinds_can_be_summed() -> None:
    right, constant = errors_when("right"), errors_when("constant")
    for action in ACTIONS.values():
        assert right[action.name] == pytest.approx(0, abs=1e-5)
        assert constant[action.name] == pytest.approx(1, abs=0.02), action
    for found in (right, constant):
        assert found.pop("actions") == pytest.approx(sum(found.values()))


def test_a_kinds_normalised_error_is_0_where_it_is_right_and_1_for_the_best_constant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_errors_of_kinds_can_be_summed()
    *others, (judgement, scale, _) = table.ERROR.ways
    not_normalised = (*others, (judgement, scale, rmse))
    monkeypatch.setattr(answers_module, "ERROR", replace(table.ERROR, ways=not_normalised))
    assert_caught(check_errors_of_kinds_can_be_summed)


def test_what_a_comparison_shows_and_in_which_order() -> None:
    shown = {kind.__name__: [metric.name for metric in shown_of_kind(ACTIONS[kind].kind)] for kind in KINDS}
    assert shown == {
        "Binary": ["auc", "gauc", "ne"],
        "Regression": ["rmse", "mae"],
        "Amount": ["rmse_scaled", "mae"],
        "Categorical": ["accuracy", "log_loss"],
        "Ordinal": ["rmse", "accuracy", "log_loss", "mae"],
    }
    assert [metric.name for metric in shown_of_kind(Ordinal(("poor", "good")))] == ["accuracy", "log_loss"]
    assert table.shown_of_retrieval() == (
        *("hr@10", "ndcg@10", "recall@10"),
        *("hr@50", "ndcg@50", "recall@50", "mrr"),
    )


def test_values_are_written_in_the_tables_order() -> None:
    ranked = [f"{name}@{k}" for k in (1, 5, 10, 50) for name in ("hr", "ndcg", "recall")] + ["mrr"]
    pooled = {
        "liked": ("auc", "gauc", "ne", "log_loss", "ece"),
        "stars": ("rmse", "mae", "rmse_scaled", "mae_scaled"),
        "watch_s": ("rmse", "mae", "rmse_scaled", "mae_scaled"),
        "device": ("accuracy", "log_loss"),
        "grade": ("accuracy", "log_loss", "rmse", "mae"),
    }
    expected = [*ranked, *(f"{name}:{action}" for action, names in pooled.items() for name in names)]
    assert list(measure(answers_of_every_kind())) == expected
    one_each = replace(answers_of_every_kind(), list_Q=np.arange(U))
    assert list(measure(one_each)) == [name for name in expected if not name.startswith("recall")]


Add = Callable[[Metric], None]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """One entry more; of two that are added, the last."""
    before = table.TABLE
    return lambda entry: monkeypatch.setattr(table, "TABLE", (*before, entry))


def test_the_entries_agree_with_each_other(add: Add) -> None:
    check_entries()
    for wrong in (
        table.TABLE[0],
        replace(MADE_UP, leads=("number",), shown=()),
        replace(MADE_UP, shown=("chance",)),
    ):
        add(wrong)
        assert_caught(check_entries)


def check_best_epoch_is_kept(dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter((0.1, 0.5, 0.2, 0.4))  # the first before training, to see that the metric is there
    monkeypatch.setattr(loop, "metric_values", lambda answers, untrained: {"cubic:rating": next(given)})
    assert fitted(dataset, folder, settings_of(select="cubic:rating")).progress.best["deployed"].epoch == 2


def test_selection_keeps_the_best_epoch_of_a_new_metric(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: Add
) -> None:
    with pytest.raises(ValueError, match="no metric is called 'cubic:rating'"):
        settings_of(select="cubic:rating")
    add(MADE_UP)
    check_best_epoch_is_kept(dataset, tmp_path / "right", monkeypatch)
    add(replace(MADE_UP, better="higher", function=rising_error))
    assert_caught(check_best_epoch_is_kept, dataset, tmp_path / "wrong", monkeypatch)


def errors_of(size: float) -> Labelled:
    noise_U = np.random.default_rng(1).normal(0, 1, U)
    return labelled(np.arange(U), 3 + size * noise_U, np.full(U, 3.0))


def comparison_of(sizes: dict[str, float], metric: ActionMetric) -> Comparison:
    layouts = tuple(Invented(name, "i[t] -> a[t]", CAN, CAN, 1, None, None) for name in sizes)
    found = {
        (name, 0): {f"{metric.name}:stars": metric.statistic(errors_of(size))} for name, size in sizes.items()
    }
    rows = tuple(row(layout, 0, found[layout.name, 0]) for layout in layouts)
    return compared(
        layouts,
        (0,),
        rows,
        retrieval=(),
        scoring=(f"{metric.name}:stars",),
        charted=(),
        reference="small",
        summaries=summarise(rows, found, "small", 200),
    )


def check_comparison_marks_the_smallest(metric: ActionMetric) -> None:
    assert f"{metric.name}:stars" in _metrics_of(ACTIONS[Regression])
    comparison = comparison_of({"large": 1.3, "small": 0.9, "larger": 1.6}, metric)
    places = {line.card.name: line.cells["cubic:stars"].place for line in presentation.lines(comparison)}
    assert places == {"small": "best", "large": "second", "larger": "other"}


def check_regret_is_what_lacks(metric: ActionMetric) -> None:
    model, best = ({"cubic:stars": bootstrap(metric.statistic(errors_of(size)), 100)} for size in (1.2, 1.0))
    found = regrets(model, best)["cubic:stars"]
    assert found.unit == "share" and found.value == pytest.approx(1.2**3 - 1)


def test_comparison_words_and_regret_know_a_new_metric(add: Add) -> None:
    add(MADE_UP)
    check_comparison_marks_the_smallest(MADE_UP)
    check_regret_is_what_lacks(MADE_UP)
    assert metric_label("cubic:stars") == "cubic error stars"
    assert "cubic:stars" in measure(answers_of_every_kind())
    wrong = replace(MADE_UP, better="higher", function=rising_error)
    add(wrong)
    assert_caught(check_comparison_marks_the_smallest, wrong)
    assert_caught(check_regret_is_what_lacks, wrong)


def test_an_entry_and_its_function_have_one_direction() -> None:
    with pytest.raises(AssertionError, match="cubic: higher by its entry, lower by its function"):
        replace(MADE_UP, better="higher").statistic(errors_of(1.0))
    with pytest.raises(AssertionError, match="cubic: higher by its entry"):
        replace(MADE_UP, better="higher", function=mae).statistic(errors_of(1.0))
