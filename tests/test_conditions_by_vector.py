"""Conditions with frozen vectors: a query that no training event has means what its neighbours mean.

The log: 15 items in three groups, and queries about one group each. A query's vector is its group's axis plus noise.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from tiny import ACTIONS, assert_caught, trunk_of

from plait import fit, recommender
from plait.data import Dataset, prepare
from plait.data.columns.keyed import read_vectors
from plait.data.facts import summary_lines
from plait.data.history import columns_read, read_history
from plait.engine.item_index import ItemIndex, index_of_items
from plait.evaluation.settings import Optim, Protocol
from plait.models.generative import ModelSettings
from plait.nn.encoders import KeyedEmbedding
from plait.recommender import Recommender
from plait.schema import FIRST_VALUE, UNSEEN_VALUE, Keyed, Vector

WIDTH, GROUPS, OF_EACH = 7, 3, 5
NEW = [f"new {group}" for group in range(GROUPS)]  # in the table, and in no event


def vectors_of(seed: int = 3) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    keys = [f"asked {group} {n}" for group in range(GROUPS) for n in range(11)] + NEW
    group_K = np.array([int(key.split()[1]) for key in keys])
    vector_KW = 3 * np.eye(WIDTH)[group_K] + 0.4 * rng.normal(size=(len(keys), WIDTH))
    return pl.DataFrame({"text": keys, "vector": vector_KW.astype(np.float32)})


def a_log() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    user_E = np.repeat(np.arange(41), 9)
    group_E = rng.integers(0, GROUPS, len(user_E))
    query_E = [f"asked {group} {rng.integers(0, 11)}" for group in group_E]
    query_E[0] = "in no table"
    return pl.DataFrame(
        {
            "user": [f"u{user:02d}" for user in user_E],
            "item": [f"i{group}{rng.integers(0, OF_EACH)}" for group in group_E],
            "time": 1_000_000 + 60 * np.arange(len(user_E)),
            "rating": rng.integers(1, 6, len(user_E)).astype(np.float32),
            "liked": rng.integers(0, 2, len(user_E)).astype(np.float32),
            "query": query_E,
        }
    )


def write(folder, table: pl.DataFrame, encoder: str = "mini") -> str:
    path = folder / "queries.parquet"
    arrow = table.to_arrow()
    pq.write_table(arrow.replace_schema_metadata({"encoder": encoder}), path)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("vectors")
    return prepare(
        a_log(), user="user", item="item", time="time", actions=ACTIONS, min_item_events=1, out=folder / "data",
        conditions={"query": Vector(write(folder, vectors_of()))},
    )  # fmt: skip


def trained(data: Dataset) -> Recommender:
    settings = ModelSettings(trunk=replace(trunk_of(), dim=16))
    optim = Optim(learning_rate=0.01, warmup_steps=5)
    return fit(
        data,
        "lum",
        model=settings,
        optim=optim,
        protocol=Protocol(max_epochs=12),
        device="cpu",
        report=lambda line: None,
    )


@pytest.fixture(scope="module")
def model(data) -> Recommender:
    return trained(data)


def share_of_group(model: Recommender, data: Dataset, query: object, group: int) -> float:
    """Of the five items nearest to what users want under a query: how many are of its group."""
    state = model.encode(data.histories(np.arange(data.num_users)))
    found = model.retrieve(state, OF_EACH, filter_seen=False, condition={"query": query})
    return float(found["item"].str.starts_with(f"i{group}").mean())


def check_new_queries_are_understood(
    model: Recommender, data: Dataset, queries: Sequence[object] = NEW
) -> None:
    told = np.mean([share_of_group(model, data, query, group) for group, query in enumerate(queries)])
    with pytest.warns(UserWarning, match="condition 'query': 1 of 1 values are unseen"):
        unseen = np.mean([share_of_group(model, data, "in no table", group) for group in range(GROUPS)])
    assert abs(unseen - 1 / GROUPS) < 0.01, "a list without a query is of all groups together"
    assert told > unseen + 0.3, (told, unseen)


def test_a_query_without_events_is_answered_by_its_vector(model, data):
    assert not set(NEW) & set(a_log()["query"]), "the model met one of them"
    check_new_queries_are_understood(model, data)


def test_a_model_that_ignores_vectors_is_caught(data, monkeypatch):
    def ignoring(self, code_U):
        return self.project(0 * self.vector_KW[code_U])

    monkeypatch.setattr(KeyedEmbedding, "forward", ignoring)
    assert_caught(check_new_queries_are_understood, trained(data), data)


def test_a_vector_itself_and_one_that_comes_later(model, data, tmp_path):
    """As good as a key: of which the same vector gives the same answer."""
    axes = [(5 * np.eye(WIDTH)[group] + 0.1).tolist() for group in range(GROUPS)]
    check_new_queries_are_understood(model, data, axes)
    later = pl.DataFrame({"text": [f"later {group}" for group in range(GROUPS)], "vector": axes})
    grown = model.add_condition_vectors(query=write(tmp_path, later))
    state = model.encode(data.histories(np.arange(3)))
    by_key = grown.query(state, [{"query": "later 1"}, {"query": NEW[0]}])
    as_itself = model.query(state, [{"query": axes[1]}])
    interest = np.stack(by_key["interest"]).reshape(3, 2, -1)
    np.testing.assert_allclose(interest[:, 0], np.stack(as_itself["interest"]), atol=1e-5)
    of_old = np.stack(model.query(state, [{"query": NEW[0]}])["interest"])
    np.testing.assert_allclose(interest[:, 1], of_old, atol=1e-5)
    assert np.abs(interest[:, 0] - interest[:, 1]).max() > 0.01, "one answer to all proves nothing"
    for saved in (model, grown):
        saved.save_pretrained(tmp_path / "saved")
        again = Recommender.from_pretrained(tmp_path / "saved", "cpu")
        asked = [{"query": NEW[2]}]
        np.testing.assert_array_equal(
            np.stack(again.query(state, asked)["interest"]), np.stack(saved.query(state, asked)["interest"])
        )
        assert again.model.config.conditions == saved.model.config.conditions


def check_unnamed_encoder_is_said(model: Recommender, folder: Path) -> None:
    later = pl.DataFrame({"text": ["later"], "vector": [[1.0] * WIDTH]})
    for table in (later, write(folder, later, encoder="")):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert "later" in model.add_condition_vectors(query=table).model.config.conditions[0].kind.values
        assert [
            re.search(r"'query': the table names no encoder.*of 'mini'", str(its.message)) for its in said
        ]
    model.add_condition_vectors(query=write(folder, later))  # of the same, and a warning is an error


def test_a_table_without_an_encoders_name_is_said_to_be_so(model, tmp_path, monkeypatch):
    check_unnamed_encoder_is_said(model, tmp_path)
    monkeypatch.setattr(recommender, "warn_of_unnamed_encoder", lambda *told: None)
    assert_caught(check_unnamed_encoder_is_said, model, tmp_path)


def test_vectors_that_are_asked_with_need_no_name(model, data):
    model.query(model.encode(data.histories(np.arange(2))), [{"query": [1.0] * WIDTH}])


def check_index_answers_under_vectors(model: Recommender, data: Dataset) -> None:
    """As the whole catalogue does: of so few items all are candidates."""
    index = index_of_items(model.model, "hnsw")
    state, found = model.encode(data.histories(np.arange(3))), []
    for group in range(GROUPS):
        told = {"query": (5 * np.eye(WIDTH)[group] + 0.1).tolist()}
        found.append(model.retrieve(state, OF_EACH, filter_seen=False, condition=told, index=index))
        exact = model.retrieve(state, OF_EACH, filter_seen=False, condition=told)
        assert_frame_equal(found[-1], exact, rel_tol=1e-5, abs_tol=1e-5)
    assert len({tuple(table["item"]) for table in found}) == GROUPS, "one answer to all proves nothing"


def test_an_index_answers_under_a_vector_itself(model, data, monkeypatch):
    pytest.importorskip("faiss", reason="the extra [ann] is part of [test]")
    check_index_answers_under_vectors(model, data)
    monkeypatch.setattr(
        ItemIndex, "of_grown", lambda self, grown: replace(self, key_ID=-self.key_ID, model=grown)
    )
    assert_caught(check_index_answers_under_vectors, model, data)


def test_an_index_of_another_model_is_refused_until_it_is_built_again(model, data, tmp_path):
    pytest.importorskip("faiss", reason="the extra [ann] is part of [test]")
    later = pl.DataFrame({"text": ["later"], "vector": [[5.0] + [0.1] * (WIDTH - 1)]})
    grown = model.add_condition_vectors(query=write(tmp_path, later))
    state, told = model.encode(data.histories(np.arange(3))), {"query": [0.1] * WIDTH}
    for condition in (told, {"query": NEW[0]}):
        with pytest.raises(ValueError, match=r"the index is of another model.*build the index again"):
            grown.retrieve(state, 3, condition=condition, index=index_of_items(model.model, "hnsw"))
        built_again = index_of_items(grown.model, "hnsw")
        found = grown.retrieve(state, 3, condition=condition, index=built_again)
        assert_frame_equal(found, grown.retrieve(state, 3, condition=condition), rel_tol=1e-5, abs_tol=1e-5)


def test_vectors_are_stored_once_by_key(data):
    table, (query,) = vectors_of().sort("text"), data.conditions
    assert query.kind.values == tuple(table["text"]) and query.kind.encoder == "mini"
    assert query.kind.width == WIDTH and len(query.kind.digest) == 64
    vector_KW = data.condition_vectors()["query"]
    expected_KW = table["vector"].to_numpy() / np.linalg.norm(
        table["vector"].to_numpy(), axis=1, keepdims=True
    )
    np.testing.assert_allclose(vector_KW, expected_KW, rtol=1e-5)
    code_E = data.histories(np.arange(data.num_users)).condition_EG[:, 0]
    assert code_E[0] == UNSEEN_VALUE and (code_E[1:] >= FIRST_VALUE).all()
    keys = [table["text"][code - FIRST_VALUE] for code in code_E[1:].tolist()]
    assert keys == a_log()["query"].to_list()[1:]
    read = read_history(a_log(), columns_read(data), data.actions, data.items)
    np.testing.assert_array_equal(read.events.condition_EG[:, 0], code_E)
    said = [line for line in summary_lines(data.manifest) if line.startswith("query:")]
    assert said == ["query: 1 of 369 events have a value that its table of vectors lacks: unseen"]


def test_training_goes_on_with_a_larger_table(model, tmp_path):
    """The weights are the trained ones, the vectors those of the new data."""
    more = pl.concat([vectors_of(), pl.DataFrame({"text": ["aa"], "vector": [[1.0] * WIDTH]}, schema_overrides={
        "vector": pl.List(pl.Float32)}).cast({"vector": vectors_of().schema["vector"]})])  # fmt: skip
    data = prepare(
        a_log(), user="user", item="item", time="time", actions=ACTIONS, min_item_events=1, out=tmp_path / "data",
        conditions={"query": Vector(write(tmp_path, more))},
    )  # fmt: skip
    model.save_pretrained(tmp_path / "before")
    protocol, optim = Protocol(max_epochs=1), Optim(learning_rate=1e-9, warmup_steps=1)
    start_from = tmp_path / "before"
    after = fit(
        data, start_from=start_from, optim=optim, protocol=protocol, device="cpu", report=lambda line: None
    )
    keyed, before = after.model.conditions.keyed["0"], model.model.conditions.keyed["0"]
    assert len(keyed.vector_KW) == len(before.vector_KW) + 1
    np.testing.assert_array_equal(keyed.vector_KW[FIRST_VALUE:], data.condition_vectors()["query"])
    np.testing.assert_allclose(keyed.project.weight.detach(), before.project.weight.detach(), atol=1e-6)


BROKEN = {
    "row 2 .key 'b'. has no vector, or NaN, as 1 of 2": {"k": ["a", "b"], "v": [[1.0, 2.0], [np.nan] * 2]},
    "vector of row 2 is not finite in all": {"k": ["a", "b"], "v": [[1.0, 2.0], [np.nan, 1.0]]},
    "the vector of row 1 is not finite, or is 0": {"k": ["a"], "v": [[0.0, 0.0]]},
    "row 1 .key None. has no key": {"k": [None, "b"], "v": [[1.0], [2.0]]},
    "more than once: 'a'": {"k": ["a", "a"], "v": [[1.0], [2.0]]},
    "lengths .1, 2.; expected one length": {"k": ["a", "b"], "v": [[1.0], [2.0, 1.0]]},
    "expected a column of keys and one of lists": {"k": ["a"], "n": [1]},
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_tables_are_refused(message):
    with pytest.raises(ValueError, match=message):
        read_vectors(pl.DataFrame(BROKEN[message], strict=False), "queries")


def test_vectors_of_another_kind_are_refused(model, data, tmp_path):
    state = model.encode(data.histories(np.arange(2)))
    with pytest.raises(ValueError, match=r"vectors of 2 numbers.*reads 7 of 'mini'.*under another encoder"):
        model.query(state, [{"query": [1.0, 2.0]}])
    other = write(tmp_path, vectors_of(), encoder="other")
    with pytest.raises(ValueError, match=r"'other', the model reads 7 of 'mini'.*train again"):
        model.add_condition_vectors(query=other)
    with pytest.raises(ValueError, match="condition 'scenario' has no vectors; the model has those of query"):
        model.add_condition_vectors(scenario=other)
    with pytest.raises(ValueError, match="not finite"):
        model.query(state, [{"query": [np.nan] * WIDTH}])
    assert isinstance(model.model.config.conditions[0].kind, Keyed)
