"""`plait lum`: what is written is what the model answers, to the keys, and goes on after a kill."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from tiny import assert_caught, prepared, random_log
from words import Capture, complaint, heard_of, plait, said_by, told_by

from plait.cli.lum import tables
from plait.data import Dataset
from plait.evaluation.run_files import MODEL, load_result
from plait.rankers.interests import Interests
from plait.recommender import Recommender

SHORT = ("--model.trunk.dim", 12, "--model.trunk.num-layers", 1, "--protocol.max-epochs", 2,
         "--protocol.max-events", 6, "--protocol.window-step", 3, "--model.interest-dim", 5)  # fmt: skip
HOME, SEARCH = {"scenario": "home"}, {"scenario": "search"}
ASKED = ("--condition", "scenario=home", "--condition", "scenario=search")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(random_log(), tmp_path_factory.mktemp("lum") / "data")


@pytest.fixture(scope="module")
def lum(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lum"
    assert plait("lum", "pretrain", data.folder, "--out", out, *SHORT) == 0
    return out


def test_pretrain_is_train_with_the_defaults_of_a_lum(
    lum: Path, data: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    settings = load_result(lum).settings
    loss, model = settings.model.retrieval, settings.model
    assert (settings.layout, model.interest_dim, model.counts) == ("c[t] -> i[t]; i[t] -> ()", 5, "none")
    assert (loss.kind, loss.l2_norm, loss.temperature, loss.item_bias) == ("info_nce", True, 0.2, "none")
    line = said_by(capsys, "evaluate", lum)
    assert "condition known (scenario)" in line
    words = ("train", data.folder, "--layout", "lum", "--out", tmp_path / "train", *SHORT, "--model.counts", "none",
             "--model.retrieval.kind", "info_nce", "--model.retrieval.l2-norm", "--model.retrieval.temperature", 0.2,
             "--model.retrieval.item-bias", "none")  # fmt: skip
    assert plait(*words) == 0
    names = "layout", "model", "optim", "protocol"
    found = load_result(tmp_path / "train").settings
    assert all(getattr(found, name) == getattr(settings, name) for name in names)
    (tmp_path / "settings.toml").write_text("[model]\ninterest_dim = 7\n")
    told = complaint(
        capsys,
        2,
        "lum",
        "pretrain",
        data.folder,
        "--out",
        lum,
        *SHORT[:-2],
        "--config",
        tmp_path / "settings.toml",
    )
    assert "model.interest_dim" in told.replace("-", "_"), "a settings file is read"


def test_a_log_without_conditions_is_refused(tmp_path: Path, capsys: Capture) -> None:
    plain = prepared(random_log().drop("scenario"), tmp_path / "plain")
    said = complaint(capsys, 2, "lum", "pretrain", plain.folder, "--out", tmp_path / "run", *SHORT)
    assert "the data has none: name what is known before the item when preparing (--condition" in said
    assert not (tmp_path / "run").exists()


def check_users(lum: Path, data: Dataset, table: Path) -> None:
    found = pl.read_parquet(table)
    assert found.columns == ["user", "condition", "time", "version", "interest"]
    assert found["interest"].dtype == pl.Array(pl.Float16, 5) and found["version"].n_unique() == 1
    model = Recommender.from_pretrained(lum / MODEL, device="cpu")
    for user in (3, 20):
        (id,) = data.user_ids().gather([user])
        history = data.history(user)
        expected = model.query(model.encode(history), [HOME, SEARCH])["interest"].to_numpy()
        its = found.filter(user=id)
        assert its["condition"].to_list() == ["scenario=home", "scenario=search"]
        assert its["time"].to_list() == [history.time_s_E[-1]] * 2
        np.testing.assert_allclose(its["interest"].to_numpy().astype(np.float32), expected, atol=2e-3)
        assert np.abs(expected[0] - expected[1]).max() > 5e-3, "conditions say something"


def test_interests_of_users_are_those_of_each(
    lum: Path, data: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "users.parquet"
    said, told = heard_of(capsys, "lum", "query", lum, *ASKED, "--out", out)
    assert (
        f"{2 * data.num_users} interests of 5 numbers, 0.00046 MB" in told
        and "23 users; 2 conditions" in said
    )
    check_users(lum, data, out)
    assert "holds this answer already" in told_by(capsys, "lum", "query", lum, *ASKED, "--out", out)
    assert "to another question" in complaint(capsys, 2, "lum", "query", lum, *ASKED[:2], "--out", out)
    moved = tmp_path / "moved.parquet"
    turned = pl.read_parquet(out).with_columns(pl.col("condition").reverse())
    turned.write_parquet(moved)
    assert_caught(check_users, lum, data, moved)


def test_what_was_killed_goes_on(
    lum: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    monkeypatch.setattr(tables, "USERS_PER_PART", 7)
    assert plait("lum", "query", lum, *ASKED, "--out", whole) == 0
    right, asked = tables.interests_of_users, []

    def killed(*arguments, **rest):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return right(*arguments, **rest)

    monkeypatch.setattr(tables, "interests_of_users", killed)
    assert plait("lum", "query", lum, *ASKED, "--out", out) == 130 and not out.exists()
    assert "goes on after 2 of 4 parts" in told_by(capsys, "lum", "query", lum, *ASKED, "--out", out)
    assert pl.read_parquet(out).equals(pl.read_parquet(whole)) and len(asked) == 5


def test_interests_of_events_are_what_was_wanted_then(
    lum: Path, data: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EVENTS_PER_PART", 50)
    out = tmp_path / "events.parquet"
    said, told = heard_of(capsys, "lum", "query", lum, "--of", "events", *ASKED[:2], "--out", out)
    assert "the model was trained on these events" in told and "23 events without history left out" in said
    found = pl.read_parquet(out)
    assert found["condition"].to_list() == ["own", "scenario=home"] * (len(found) // 2)
    moments = data.moments("train")
    assert found["event"].to_list() == np.repeat(data.number_among_own(moments), 2).tolist()
    model = Recommender.from_pretrained(lum / MODEL, device="cpu")
    log = random_log()
    for user, nth in ((3, 4), (7, 2), (20, 3)):
        (id,) = data.user_ids().gather([user])
        history = log.filter(user=id)
        expected = model.query(model.encode(history[:nth]), [{"scenario": history["scenario"][nth]}, HOME])
        its = found.filter(user=id, event=nth)
        assert its["user"].to_list() == [id] * 2 and its["time"].to_list() == [history["time"][nth]] * 2
        close = np.abs(its["interest"].to_numpy().astype(np.float32) - expected["interest"].to_numpy()).max()
        assert close < 2e-3
    later = tmp_path / "later.parquet"
    told = told_by(capsys, "lum", "query", lum, "--of", "events", "--part", "test", "--out", later)
    assert "trained on these" not in told
    table, moments = pl.read_parquet(later), data.targets("test")
    assert table["event"].to_list() == data.number_among_own(moments).tolist()
    assert table["known"].to_list() == data.target_lengths(moments).tolist()


def test_rankers_read_what_is_written(lum: Path, data: Dataset, tmp_path: Path, capsys: Capture) -> None:
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "validation", "test", "items")}
    for part in ("train", "validation", "test"):
        assert plait("lum", "query", lum, "--of", "events", "--part", part, "--out", files[part]) == 0
    assert plait("lum", "query", lum, "--of", "items", "--out", files["items"]) == 0
    given = [word for part in ("train", "validation", "test") for word in ("--interests", files[part])]
    words = ("rank", "train", data.folder, "--ranker", "din", *given, "--item-interests", files["items"],
             "--model.trunk.dim", 12, "--model.ranker.hidden", 8, "--protocol.max-epochs", 1)  # fmt: skip
    told = told_by(capsys, *words, "--out", tmp_path / "run")
    first = data.num_users  # events of which nobody could say anything: a user's first
    assert f"none is learned for them: {first} of" in told and ", 0 of their items; 0 of" in told
    assert "the model was trained" not in told and (tmp_path / "run" / MODEL).is_dir()
    interests = Interests.read(
        [files[part] for part in ("train", "validation", "test")], files["items"], data
    )
    assert interests.conditions == ("own",) and interests.version


def test_items_are_what_interests_are_compared_with(
    lum: Path, data: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    out, users = tmp_path / "items.parquet", tmp_path / "users.parquet"
    assert plait("lum", "query", lum, "--of", "items", "--out", out) == 0
    assert plait("lum", "query", lum, *ASKED, "--out", users) == 0
    items, (interest, *_) = (
        pl.read_parquet(out),
        pl.read_parquet(users).filter(user="u03")["interest"].to_numpy(),
    )
    assert items["item"].to_list() == data.item_ids().to_list() and pq.read_metadata(out).metadata[b"plait"]
    similarity = items["interest"].to_numpy().astype(np.float32) @ interest.astype(np.float32)
    words = (
        "recommend",
        lum,
        "--user",
        "u03",
        "-k",
        17,
        "--no-filter-seen",
        "--condition",
        "scenario=home",
        "--json",
    )
    lists = pl.read_json(said_by(capsys, *words).encode())
    scores = dict(zip(lists["item"], lists["score"], strict=True))
    np.testing.assert_allclose(similarity / 0.2, [scores[item] for item in items["item"]], atol=0.02)


def test_lists_of_many_are_asked_for_under_a_condition(lum: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "lists.parquet"
    words = ("recommend", lum, "-k", 3, "--no-filter-seen")
    assert plait(*words, "--users", "all", "--condition", "scenario=home", "--out", out) == 0
    for user in ("u03", "u07"):
        alone = pl.read_json(
            said_by(capsys, *words, "--user", user, "--condition", "scenario=home", "--json").encode()
        )
        assert pl.read_parquet(out).filter(user=user)["item"].to_list() == alone["item"].to_list()
    assert "say which, with --condition" in complaint(capsys, 2, *words, "--user", "u03")
    assert "expected NAME=VALUE" in complaint(capsys, 2, *words, "--user", "u03", "--condition", "home")


def test_questions_that_are_none(lum: Path, run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = ("--out", tmp_path / "out.parquet")
    pl.DataFrame({"scenario": ["home", "search"]}).write_csv(tmp_path / "two.csv")
    for words, message in (
        ((), "--condition is missing: under which to ask, of scenario"),
        (
            ("--condition", "scenario=home", "--condition", "scenario=home"),
            "'scenario=home' is given more than once",
        ),
        (("--condition", "scenari=home"), "did you mean 'scenario'"),
        (("--conditions", tmp_path / "two.csv", "--most", 1), "2 conditions for each, and --most is 1"),
        (("--of", "events", "--no-own"), "--condition is missing"),
    ):
        assert message in complaint(capsys, 2, "lum", "query", lum, *words, *out)
    assert "is not asked under conditions; train layout 'lum'" in complaint(
        capsys, 2, "lum", "query", run, *ASKED, *out
    )
    assert not list(tmp_path.glob("*.parquet"))


def test_a_model_of_before_answers_a_dataset_with_conditions(run: Path, capsys: Capture) -> None:
    """`run` is of a layout that reads none."""
    assert said_by(capsys, "check", run, "--exported", "none") and said_by(
        capsys, "recommend", run, "--user", "u03", "-k", 3
    )
