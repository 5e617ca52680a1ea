"""Counts beside a trained model: evaluation, retrieval and appending agree, and a model keeps its counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from described import described, items_table
from small_runs import PROTOCOL, settings_of, silent
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait import Recommender
from plait.cli.evaluate import evaluate
from plait.compare.comparing import compare_variants
from plait.compare.notes import notes
from plait.compare.variants import Variant
from plait.compare.words import run_folder
from plait.counts.beside import Counts
from plait.data import Dataset, Temporal
from plait.engine import asking, plain, ranking
from plait.engine.state import append, before, encode, window
from plait.evaluation import combining
from plait.evaluation.answers import answers_of, measure
from plait.evaluation.combining import counts_of
from plait.evaluation.run_files import (
    MODEL,
    RunSettings,
    answers_without_counts,
    load_answers,
    load_result,
)
from plait.metrics.retrieval import NEVER
from plait.models.counts_file import COUNTS
from plait.models.generative import GenerativeRecommender
from plait.models.questions import Exposure
from plait.models.saving import load_model, save_model
from plait.training.run import run_training

FEW = 8  # answers that are enough in these tests


def counted(layout: str = "lac", **protocol: object) -> RunSettings:
    settings = settings_of(layout, **protocol)
    return replace(settings, model=replace(settings.model, counts="auto"))


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combining, "FEWEST", FEW)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with counts; not to be changed."""
    folder, said = tmp_path_factory.mktemp("counted") / "run", []
    run_training(dataset, counted(max_epochs=1), folder, said.append)
    assert any("counts: " in line and "gain in log-likelihood" in line for line in said)
    return folder


def heard(model: GenerativeRecommender) -> GenerativeRecommender:
    """With weights that let counts be heard, whatever they were fitted to."""
    assert model.counts is not None and model.counts.items is not None
    items = model.counts.items
    weight_T = np.array([0.5, *np.linspace(0.5, 1.0, len(items.tables.names))])
    model.counts = replace(model.counts, items=replace(items, weight_T=weight_T))
    return model


def check_agree(model: GenerativeRecommender, dataset: Dataset) -> None:
    """The rank of each test event is its place in the list that is retrieved, encoded at once or by appending."""
    answers, plan, ranked = answers_of(model, dataset, "test", PROTOCOL), model.plan, 0
    assert answers.rank_Q is not None
    for user in range(dataset.num_users):
        history = before(dataset.history(user), np.array([1]))
        state = encode(history, plan.window, plan.lead)
        shorter = encode(before(history, np.array([1])), plan.window, plan.lead)
        last = window(history, 1, 0)
        left = dataset.num_items - len(state.seen_U[0])
        item_UK, score_UK = plain.retrieve(model, state, left, True)
        appended = plain.retrieve(model, append(shorter, last, plan.window, plan.lead), left, True)
        np.testing.assert_array_equal(appended[0], item_UK)
        np.testing.assert_allclose(appended[1], score_UK, rtol=1e-5)
        place = np.flatnonzero(item_UK[0] == answers.item_Q[user])
        assert answers.rank_Q[user] == (place[0] + 1 if len(place) else NEVER)
        ranked += len(place)
    assert_not_vacuous({"ranked": ranked}, above=5)


def test_evaluation_retrieval_and_appending_agree(dataset, trained):
    model = heard(load_model(trained / MODEL))
    check_agree(model, dataset)
    with_counts = answers_of(model, dataset, "test", PROTOCOL).rank_Q
    model.counts = None
    alone = answers_of(model, dataset, "test", PROTOCOL).rank_Q
    assert (with_counts != alone).sum() > 5


def test_counts_that_read_another_history_are_caught(dataset, trained, monkeypatch):
    right = ranking.beside_of

    def longer(model, histories):
        return right(model, before(histories, np.minimum(1, histories.num_events_U)))

    model = heard(load_model(trained / MODEL))
    monkeypatch.setattr(asking, "beside_of", longer)
    assert_caught(check_agree, model, dataset)


def test_a_loaded_model_answers_as_it_was_tested(dataset, trained):
    model, kept = load_model(trained / MODEL), load_answers(trained, dataset.actions)
    assert model.counts is not None and model.counts.items.tables.names == ("rules", "EASE")
    np.testing.assert_array_equal(answers_of(model, dataset, "test", PROTOCOL).rank_Q, kept.rank_Q)
    again = counts_of(model, dataset, PROTOCOL, "cpu")
    saved = load_model(trained / MODEL).counts
    np.testing.assert_allclose(again.items.weight_T, saved.items.weight_T, rtol=1e-4)
    assert [line.split(" (")[0] for line in again.said] == [line.split(" (")[0] for line in saved.said]


def test_a_model_without_its_counts_is_refused(dataset, trained, tmp_path):
    model = load_model(trained / MODEL)
    save_model(model, tmp_path)
    (tmp_path / COUNTS).unlink()
    with pytest.raises(ValueError, match=f"it has no {COUNTS}, and model.counts = 'auto'"):
        load_model(tmp_path)


def test_counts_of_the_other_choice_of_requests_are_refused(trained, tmp_path):
    model = load_model(trained / MODEL)
    model.counts = replace(model.counts, same_request="blind")
    save_model(model, tmp_path)
    with pytest.raises(
        ValueError, match="counted under same_request = blind, and the model is asked under causal"
    ):
        load_model(tmp_path)


def test_a_damaged_file_is_refused(trained, tmp_path):
    save_model(load_model(trained / MODEL), tmp_path)
    (tmp_path / COUNTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=COUNTS):
        load_model(tmp_path)


def test_a_layout_that_retrieves_nothing_counts_no_items(dataset, tmp_path):
    run_training(dataset, counted("action_out", max_epochs=1), tmp_path / "run", silent)
    counts = load_model(tmp_path / "run" / MODEL).counts
    assert counts is not None and counts.items is None and counts.actions is not None


def test_a_layout_that_predicts_no_action_counts_none(dataset, tmp_path):
    run_training(dataset, counted("item", max_epochs=1), tmp_path / "run", silent)
    counts = load_model(tmp_path / "run" / MODEL).counts
    assert counts is not None and counts.items is not None and counts.actions is None


def test_two_checkpoints_have_weights_of_their_own(dataset, tmp_path, monkeypatch):
    fitted: list[Counts] = []

    def noted(*arguments: object) -> Counts:
        fitted.append(counts_of(*arguments))
        return fitted[-1]

    monkeypatch.setattr("plait.training.run.counts_of", noted)
    result = run_training(dataset, counted(), tmp_path / "run", silent)
    assert result.beside is not None
    own = [load_model(tmp_path / "run" / name).counts for name in (MODEL, f"{MODEL}-actions")]
    assert len(fitted) == 1 + (result.beside.best_epoch != result.best_epoch)
    for found, saved in zip((fitted[-1], fitted[0]), own, strict=True):
        assert saved is not None
        np.testing.assert_array_equal(saved.items.weight_T, found.items.weight_T)


def test_too_few_answers_and_answers_that_the_filter_removes(dataset, trained, monkeypatch):
    model = load_model(trained / MODEL)
    seen_by_all = lambda self, targets: (  # noqa: E731
        np.arange(len(targets) + 1),
        self.target_items(targets),
    )
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "seen_items", seen_by_all)
        found = counts_of(model, dataset, PROTOCOL, "cpu").items
    assert found.weight_T.tolist() == [1.0, 0.0, 0.0] and "over 0 answers" in found.said
    assert f"{dataset.num_users} that the filter removes left out" in found.said
    monkeypatch.setattr(combining, "SCORES", 1)
    assert "too many to hold" in counts_of(model, dataset, PROTOCOL, "cpu").items.said


@pytest.fixture(scope="module")
def of_requests(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Segments of several events, and requests that hold several events each."""
    nth = pl.int_range(pl.len()).over("user")
    log = random_log(40).with_columns(time=1_000_000 + 60 * nth // 150 * 150)
    return prepared(log, tmp_path_factory.mktemp("requests") / "data", split=Temporal(1_000_300, 1_000_600))


@pytest.mark.parametrize("same_request", ["causal", "blind"])
def test_several_answers_to_a_question(of_requests, tmp_path, same_request):
    settings = counted(max_epochs=1, filter_seen=False)
    settings = replace(settings, model=replace(settings.model, exposure=Exposure(same_request=same_request)))
    run_training(of_requests, settings, tmp_path / "run", silent)
    model = load_model(tmp_path / "run" / MODEL)
    assert model.counts is not None and model.counts.items.tables.names == ("rules", "EASE", "own frequency")
    targets = of_requests.targets("validation", same_request)
    with torch.no_grad():
        choices = combining._choices(
            model, of_requests, targets, model.counts.items.tables, settings.protocol, "cpu"
        )
    assert choices.weight_Q.sum() == pytest.approx(len(np.unique(of_requests.lists(targets))))
    assert len(np.unique(choices.weight_Q)) > 1
    ranks = answers_of(heard(model), of_requests, "test", settings.protocol).rank_Q
    assert ranks is not None and (ranks >= 1).all()


def test_a_run_keeps_what_it_would_answer_without_counts(dataset, trained, capsys):
    """Also where it is measured on the checkpoint beside the deployed one."""
    result = load_result(trained)
    model = load_model(trained / MODEL)
    model.counts = None
    without = answers_without_counts(trained, result)
    assert without is not None
    np.testing.assert_array_equal(without.rank_Q, answers_of(model, dataset, "test", PROTOCOL).rank_Q)
    evaluate(trained)
    assert "counts beside the model: ndcg@10" in " ".join(capsys.readouterr().out.split())


def test_a_run_without_counts_has_no_answers_without_them(dataset, tmp_path):
    result = run_training(dataset, settings_of(max_epochs=1), tmp_path, silent)
    assert answers_without_counts(tmp_path, result) is None
    assert load_model(tmp_path / MODEL).counts is None


def test_a_comparison_shows_every_layout_with_and_without_counts(dataset, tmp_path):
    variants = [Variant("lac", counted(max_epochs=1)), Variant("item", settings_of("item", max_epochs=1))]
    found = compare_variants(dataset, variants, 2, tmp_path, command="", report=silent)
    assert list(found.comparison.counts) == ["lac"]
    effects = {its.metric: its for its in found.comparison.counts["lac"]}
    shown = [*found.comparison.retrieval, *found.comparison.scoring]
    assert list(effects) == [metric for metric in shown if metric != "gauc:liked"], "users with both: none"
    folders = [tmp_path / run_folder("lac", seed) for seed in (0, 1)]
    alone = [measure(answers_without_counts(folder, load_result(folder))) for folder in folders]
    for metric, its in effects.items():
        both = [found.statistics["lac", seed][metric].value for seed in (0, 1)]
        assert its.with_counts == pytest.approx(np.mean(both))
        assert its.without == pytest.approx(np.mean([run[metric].value for run in alone]))
        assert its.difference.value == pytest.approx(its.with_counts - its.without)
    assert any("NDCG@10" in note for note in notes(found.comparison) if note.startswith("lac: "))
    (summary,) = found.comparison.without_counts
    values = {metric: its.estimate.value for metric, its in summary.metrics.items()}
    assert {metric: value for metric, value in values.items() if value is not None} == {
        metric: pytest.approx(its.without) for metric, its in effects.items()
    }


def test_layouts_with_counts_are_told_among_themselves_without(dataset, tmp_path):
    variants = [Variant(name, counted(name, max_epochs=1)) for name in ("lac", "item")]
    found = compare_variants(dataset, variants, 1, tmp_path, command="", report=silent).comparison
    assert [its.layout for its in found.without_counts] == ["lac", "item"]
    said = [note for note in notes(found) if "without counts, told among themselves: lac " in note]
    assert len(said) == len(found.retrieval)


def test_items_added_later_are_ranked_beside_counted_ones(tmp_path):
    known = described(tmp_path / "data")
    run_training(known, counted(max_epochs=1), tmp_path / "run", silent)
    model = Recommender.from_pretrained(tmp_path / "run" / MODEL, "cpu")
    heard(model.model)
    grown = model.add_items(items_table().head(1).with_columns(item=pl.lit("zz-new")))
    state, ways = model.encode(known.history(0)), []
    grown.save_pretrained(tmp_path / "grown")
    for way in (model, grown, Recommender.from_pretrained(tmp_path / "grown", "cpu")):
        found = way.retrieve(state, len(way.items), filter_seen=False)
        ways.append(dict(found.select("item", "score").iter_rows()))
    before_it, after_it, loaded = ways
    assert after_it.keys() - before_it.keys() == {"zz-new"} and np.isfinite(after_it["zz-new"])
    assert loaded == pytest.approx(after_it, rel=1e-5)
    assert {item: after_it[item] for item in before_it} == pytest.approx(before_it, rel=1e-5)
