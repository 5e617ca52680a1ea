import dataclasses
import gzip
import io
import json
import tarfile
import zipfile
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from plait.data import sources
from plait.data.sources import downloading, prepared
from plait.data.sources.recipe import ITEM, TIME, USER, agrees
from plait.schema import FIRST_VALUE

ROWS = 60
USERS, ITEMS = np.arange(ROWS) % 5, np.arange(ROWS) % 4
ASINS = [f"000{item}39Z" if item else "0001048791" for item in ITEMS]  # product numbers keep their zeros
SECONDS = 1_400_000_000 + 3_600 * np.arange(ROWS)
STARS = 1 + np.arange(ROWS) // 3 % 5


def lines(*columns, separator, header=()):
    rows = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([*header, *rows]) + "\n"


def write_100k(folder):
    (folder / "u.data").write_text(lines(USERS, ITEMS, STARS, SECONDS, separator="\t"))


def write_recbole_100k(folder):
    header = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    (folder / "ml-100k.inter").write_text(lines(USERS, ITEMS, STARS, SECONDS, separator="\t", header=header))


def write_1m(folder):
    (folder / "ml-1m").mkdir()
    (folder / "ml-1m" / "ratings.dat").write_text(lines(USERS, ITEMS, STARS, SECONDS, separator="::"))


def write_20m(folder):
    header = ["userId,movieId,rating,timestamp"]
    (folder / "ratings.csv").write_text(
        lines(USERS, ITEMS, STARS - 0.5, SECONDS, separator=",", header=header)
    )


def write_amazon_2014(folder):
    with gzip.open(folder / "reviews_Beauty_5.json.gz", "wt") as file:
        for user, asin, star, second in zip(USERS, ASINS, STARS, SECONDS, strict=True):
            review = {"reviewerID": f"A{user}", "asin": asin, "reviewerName": 'a, "b"', "helpful": [0, 1]}
            review |= {"reviewText": "x", "overall": float(star), "unixReviewTime": int(second)}
            file.write(json.dumps(review) + "\n")


def write_amazon_2018(folder):
    users = [f"A{user}" for user in USERS]
    (folder / "Video_Games.csv").write_text(lines(ASINS, users, STARS * 1.0, SECONDS, separator=","))


def write_amazon_2023(folder):
    users, header = [f"AE{user}" for user in USERS], ["user_id,parent_asin,rating,timestamp"]
    text = lines(users, ASINS, STARS * 1.0, SECONDS * 1000, separator=",", header=header)
    with gzip.open(folder / "Video_Games.csv.gz", "wt") as file:
        file.write(text)


def write_kuairand(folder):
    flags = ["is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view"]
    names = [
        "user_id",
        "video_id",
        "date",
        "hourmin",
        "time_ms",
        *flags,
        "play_time_ms",
        "duration_ms",
        "tab",
    ]
    zero = np.zeros(ROWS, dtype=int)
    columns = [USERS, ITEMS, zero, zero, SECONDS * 1000, *[STARS % 2] * 7, STARS * 100, zero, zero]
    data = folder / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    halves = [[column[:30] for column in columns], [column[30:] for column in columns]]
    names_of_files = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
    for name, half in zip(names_of_files, halves, strict=True):
        (data / name).write_text(lines(*half, separator=",", header=[",".join(names)]))
    (data / "log_random_4_22_to_5_08_pure.csv").write_text("not,read\n1,2\n")


def write_kuaisar(folder):
    names = [
        "user_id",
        "item_id",
        "playing_time",
        "duration_ms",
        "time",
        "timestamp",
        "click",
        "forward",
        "like",
    ]
    names += ["follow", "search", "search_item_related"]
    text = np.full(ROWS, "2023-05-22 15:53:20")
    flag = STARS % 2
    milliseconds = [f"{second * 1000.0:.1f}" for second in SECONDS]
    columns = [USERS, ITEMS, STARS * 100.0, STARS * 1.0, text, milliseconds, *[flag] * 6]
    (folder / "rec_inter.csv").write_text(lines(*columns, separator=",", header=[",".join(names)]))


def write_complete_journey(folder):
    frame = pl.DataFrame(
        {
            "household_id": USERS,
            "store_id": USERS,
            "basket_id": SECONDS // 7200,
            "product_id": ITEMS,
            "quantity": STARS,
            "sales_value": STARS * 0.5,
            "transaction_timestamp": pl.from_epoch(pl.Series(SECONDS)).cast(pl.Datetime("ns")),
        }
    )
    frame.write_parquet(folder / "transactions.parquet")


def write_promotions(folder):
    """Product 0 is displayed in store 0 in week 1 alone; household 0 has two campaigns at once, 1 has one, 2 none."""
    write_complete_journey(folder)
    log = pl.read_parquet(folder / "transactions.parquet")
    log.with_columns(week=pl.Series(np.arange(ROWS) % 2 + 1)).write_parquet(folder / "transactions.parquet")
    promotions = {"product_id": [0, 1, 99], "store_id": [0, 0, 0], "week": [1, 2, 1]}
    locations = {"display_location": ["7", "0", "9"], "mailer_location": ["0", "A", "D"]}
    pl.DataFrame(promotions | locations).write_parquet(folder / "promotions.parquet")
    pl.DataFrame({"campaign_id": [1, 2, 3, 3], "household_id": [0, 0, 1, 0]}).write_parquet(
        folder / "campaigns.parquet"
    )
    first = log["transaction_timestamp"].min().replace(hour=0, minute=0, second=0)
    day = timedelta(days=1)
    described = {
        "campaign_id": [1, 2, 3],
        "campaign_type": ["Type A", "Type B", "Type C"],
        "start_date": [first - 2 * day, first - day, first - 9 * day],
        "end_date": [first + 900 * day, first, first + 900 * day],
    }
    pl.DataFrame(described).write_parquet(folder / "campaign_descriptions.parquet")


def test_promotions_are_joined_by_product_store_and_week(tmp_path):
    write_promotions(tmp_path)
    weeks = np.arange(ROWS) % 2 + 1
    found = sources.find_recipe("complete-journey-promoted").read(tmp_path).collect()
    assert found["item_id"].to_list() == ITEMS.tolist(), "rows keep their order and number"
    displayed = (ITEMS == 0) & (USERS == 0) & (weeks == 1)  # a user's store has the user's number
    printed = (ITEMS == 1) & (USERS == 0) & (weeks == 2)
    assert displayed.any() and printed.any() and ((ITEMS == 0) & ~displayed).any()
    assert found["display"].to_list() == np.where(displayed, "7", "none").tolist()
    assert found["mailer"].to_list() == np.where(printed, "A", "none").tolist()


def test_the_campaign_of_a_day_is_the_one_that_started_last(tmp_path):
    write_promotions(tmp_path)
    found = sources.find_recipe("complete-journey-promoted").read(tmp_path).collect()
    day = pl.from_epoch(pl.Series(SECONDS)).dt.date().to_numpy()
    first_day = day == day.min()
    assert (first_day & (USERS == 0)).any() and (~first_day & (USERS == 0)).any()
    expected = np.where(USERS == 0, np.where(first_day, "Type B", "Type A"), "none")
    expected = np.where(USERS == 1, "Type C", expected)
    assert found["campaign"].to_list() == expected.tolist()


def test_display_and_mailer_stand_with_the_item_and_never_before_it(tmp_path):
    write_promotions(tmp_path)
    data = prepared.get("complete-journey-promoted", cache=tmp_path / "cache", from_files=tmp_path)
    assert [each.name for each in data.conditions] == ["store_id", "campaign"]
    assert [each.name for each in data.context] == ["display", "mailer"]


@pytest.mark.parametrize("name", ["promotions", "campaigns", "campaign_descriptions"])
def test_a_missing_table_of_promotions_is_named(tmp_path, name):
    write_promotions(tmp_path)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(ValueError, match=rf"holds no {name}\.parquet; give the folder with transactions"):
        sources.find_recipe("complete-journey-promoted").read(tmp_path)


FORMATS = {
    "ml-100k": write_100k,
    "ml-100k by RecBole": write_recbole_100k,
    "ml-1m": write_1m,
    "ml-20m": write_20m,
    "ml-32m": write_20m,
    "amazon-2014-beauty": write_amazon_2014,
    "amazon-2018-video-games": write_amazon_2018,
    "amazon-2023-video-games": write_amazon_2023,
    "kuairand-pure": write_kuairand,
    "kuaisar": write_kuaisar,
    "complete-journey": write_complete_journey,
    "complete-journey-promoted": write_promotions,
}


@pytest.mark.parametrize("case", FORMATS)
def test_owners_formats_are_read(tmp_path, case, capsys):
    name = case.split(" ")[0]
    files = tmp_path / "files"
    files.mkdir()
    FORMATS[case](files)
    data = prepared.get(name, cache=tmp_path / "cache", from_files=files)
    recipe = sources.find_recipe(name)
    assert data.manifest.name == name and recipe.origin in data.manifest.note
    assert (data.manifest.counts.events, data.num_users, data.num_items) == (ROWS, 5, 4)
    assert [action.name for action in data.actions] == [action.name for action in recipe.actions]
    assert [feature.name for feature in data.conditions] == [each.name for each in recipe.conditions]
    first = data.history(0)
    assert (first.condition_EG >= FIRST_VALUE).all() and first.condition_EG.shape[1] == len(recipe.conditions)
    assert first.time_s_E.tolist() == SECONDS[USERS == 0].tolist()
    assert not np.isnan(first.action_EA).any() and len(np.unique(first.action_EA)) > 1
    ids = {str(item) for item in data.item_ids()}
    assert ids == (set(ASINS) if name.startswith("amazon") else {"0", "1", "2", "3"})
    said = capsys.readouterr().err
    if recipe.published:  # sixty rows are not the owner's log, and both the user and the manifest are told so
        assert "differs from its owner's counts: 60 rows instead of" in said
        assert "differs from its owner's counts" in data.manifest.note


def test_baskets_are_requests(tmp_path):
    write_complete_journey(tmp_path)
    data = prepared.get(
        "complete-journey", cache=tmp_path / "cache", from_files=tmp_path / "transactions.parquet"
    )
    assert data.manifest.settings.request == "request_id"


def test_a_prepared_dataset_is_used_again_if_it_is_whole(tmp_path, capsys):
    write_100k(tmp_path)
    arguments = {"cache": tmp_path / "cache", "from_files": tmp_path / "u.data"}
    first = prepared.get("ml-100k", **arguments)
    made = (first.folder / "manifest.json").stat().st_mtime_ns
    assert (prepared.get("ml-100k", **arguments).folder / "manifest.json").stat().st_mtime_ns == made
    (first.folder / "item.npy").write_bytes(b"")
    again = prepared.get("ml-100k", **arguments)
    assert again.folder == first.folder and again.manifest.content_hash == first.manifest.content_hash
    assert "item.npy has 0 bytes" in capsys.readouterr().err
    other = prepared.get("ml-100k", min_user_events=3, **arguments)
    assert other.folder != first.folder


ML_100K = sources.find_recipe("ml-100k")


def no_network(folder):
    raise OSError("Name or service not known")


def short_download(folder):
    write_100k(folder)
    return folder / "u.data"


def test_sources_are_tried_in_turn_and_each_says_what_came_of_it(tmp_path, monkeypatch, capsys):
    published = sources.Published(rows="60", users="5", items="4")
    whole = dataclasses.replace(ML_100K, fetch=(no_network, short_download), published=published)
    monkeypatch.setattr(prepared, "find_recipe", lambda name: whole)
    assert prepared.get("ml-100k", cache=tmp_path).manifest.counts.events == ROWS
    assert capsys.readouterr().err.splitlines() == [
        "ml-100k: source 1 of 2 failed: Name or service not known",
        "ml-100k: fetched u.data from source 2 of 2",
    ]
    assert len(list(tmp_path.iterdir())) == 1, "a download is not kept"


def test_a_download_that_is_not_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        prepared, "find_recipe", lambda name: dataclasses.replace(ML_100K, fetch=(short_download,))
    )
    with pytest.raises(ValueError, match=r"60 rows instead of 100000, 5 users instead of 943.*not whole"):
        prepared.get("ml-100k", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_says_where_to_get_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(
        prepared, "find_recipe", lambda name: dataclasses.replace(ML_100K, fetch=(no_network,))
    )
    with pytest.raises(OSError, match=r"fetch its files from https://grouplens.org.* as from_files"):
        prepared.get("ml-100k", cache=tmp_path)


NO_FILES_OF_THEIRS = {
    "ml-20m": "has no column 'userId' .expected the owner's userId, movieId, rating, timestamp., did you mean 'user",
    "ml-100k": ": the separator tab is not in its first line",
    "ml-1m": ": the separator '::' is not in its first line",
    "amazon-2014-beauty": "cannot be read: .*of another format",
    "amazon-2023-video-games": "has no column 'parent_asin' .expected the owner's user_id, parent_asin, ",
    "kuairand-pure": "has no column 'video_id' .expected the owner's user_id, video_id, time_ms, is_click",
    "kuaisar": "has no column 'click'",
    "complete-journey": "cannot be read: ",
}


@pytest.mark.parametrize("name", NO_FILES_OF_THEIRS)
def test_a_file_of_another_log_is_refused(tmp_path, name):
    columns = (USERS, ITEMS, SECONDS, STARS)
    text = lines(*columns, separator=",", header=["user_id,item_id,timestamp,rating"])
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"log\.csv ?{NO_FILES_OF_THEIRS[name]}"):
        prepared.get(name, cache=tmp_path / "cache", from_files=tmp_path / "log.csv")
    assert not list(tmp_path.glob("cache/*"))


def test_files_that_are_not_there_are_refused_beside_a_kept_download(tmp_path, monkeypatch, capsys):
    published = sources.Published(rows="60", users="5", items="4")
    whole = dataclasses.replace(ML_100K, fetch=(short_download,), published=published)
    monkeypatch.setattr(prepared, "find_recipe", lambda name: whole)
    kept = prepared.get("ml-100k", cache=tmp_path / "cache")
    assert prepared.get("ml-100k", cache=tmp_path / "cache").folder == kept.folder
    (tmp_path / "empty").mkdir()
    for folder, message in (("nodir", "nodir does not exist; give"), ("empty", "empty holds no u.data")):
        with pytest.raises(ValueError, match=message):
            prepared.get("ml-100k", cache=tmp_path / "cache", from_files=tmp_path / folder)
    write_100k(tmp_path)
    for said in (False, True):
        capsys.readouterr()
        found = prepared.get("ml-100k", cache=tmp_path / "cache", from_files=tmp_path / "u.data")
        assert found.folder != kept.folder
        assert (f"u.data has not changed since {found.folder} was" in capsys.readouterr().err) == said


def test_missing_files_and_names_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"holds no u\.data or ml-100k.inter"):
        prepared.get("ml-100k", cache=tmp_path / "cache", from_files=tmp_path)
    with pytest.raises(ValueError, match="no dataset is named 'ml-100', did you mean 'ml-100k'"):
        sources.find_recipe("ml-100")


def test_the_catalogue_is_complete_and_names_are_unique():
    recipes = sources.catalogue()
    names = [recipe.name for recipe in recipes]
    assert len(names) == len(set(names)) and names == sorted(names)
    assert {case.split(" ")[0] for case in FORMATS} <= set(names)
    for recipe in recipes:
        assert recipe.fetch and recipe.actions and recipe.what and recipe.origin.startswith("https://")
        assert {USER, ITEM, TIME}.isdisjoint(action.name for action in recipe.actions)


def test_a_stated_count_is_exact_and_a_rounded_one_half_a_step_wide():
    for published, first, last in (
        ("1682", 1_682, 1_682),
        ("94.8K", 94_750, 94_850),
        ("95K", 94_500, 95_500),
        ("1.71M", 1_705_000, 1_715_000),
    ):
        assert [agrees(published, count) for count in (first, last)] == [True, True], published
        step = 1 if first == last else (last - first) // 10
        assert [agrees(published, count) for count in (first - step, last + step)] == [False, False], (
            published
        )


def test_archives_give_only_what_matches(tmp_path):
    (tmp_path / "wanted.csv").write_text("a\n")
    (tmp_path / "other.csv").write_text("b\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(tmp_path / "wanted.csv", "deep/wanted.csv")
        zipped.write(tmp_path / "other.csv", "deep/other.csv")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "wanted.csv", "deeper/wanted.csv")
        tar.add(tmp_path / "other.csv", "deeper/other.csv")
    for archive, folder in (("a.zip", "deep"), ("a.tar.gz", "deeper")):
        unpacked = downloading.unpack(tmp_path / archive, "want*.csv")
        assert [path.name for path in (unpacked / folder).iterdir()] == ["wanted.csv"]
    with pytest.raises(OSError, match=r"a.zip holds no \*.dat"):
        downloading.unpack(tmp_path / "a.zip", "*.dat")


def test_checksums(tmp_path):
    (tmp_path / "file").write_text("abc")
    md5 = "900150983cd24fb0d6963f7d28e17f72"
    assert downloading.check_download(tmp_path / "file", "md5", md5) == tmp_path / "file"
    (tmp_path / "file").write_text("abd")
    with pytest.raises(OSError, match=f"expected {md5}"):
        downloading.check_download(tmp_path / "file", "md5", md5)


def test_a_server_that_is_not_there_fails_fast(tmp_path, monkeypatch):
    def urlopen(url, timeout):
        assert timeout <= 5
        raise OSError("timed out")

    monkeypatch.setattr(downloading.urllib.request, "urlopen", urlopen)
    with pytest.raises(OSError, match="timed out"):
        downloading.download("https://example.org/file.zip", tmp_path)


@pytest.mark.parametrize("announced", [None, 3, 4])
def test_a_transfer_that_ends_early_is_told(tmp_path, monkeypatch, announced):
    class Answer(io.BytesIO):
        headers = {} if announced is None else {"Content-Length": str(announced)}

    def urlopen(url, timeout):
        return Answer(b"abc")

    monkeypatch.setattr(downloading.urllib.request, "urlopen", urlopen)
    if announced == 4:
        with pytest.raises(OSError, match=r"file.zip ended after 3 of 4 bytes"):
            downloading.download("https://example.org/file.zip", tmp_path)
    else:
        assert downloading.download("https://example.org/file.zip", tmp_path).read_bytes() == b"abc"


def test_a_wheel_comes_from_the_index_that_pip_knows(tmp_path, monkeypatch):
    ran = []

    def run(command, **options):
        ran.append(command)
        if len(ran) == 2:
            return SimpleNamespace(returncode=1, stderr="a warning\nERROR: no network\n")
        (tmp_path / "logs-1-py3.whl").touch()
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(downloading.subprocess, "run", run)
    assert downloading.download_wheel("logs==1", tmp_path) == tmp_path / "logs-1-py3.whl"
    with pytest.raises(OSError, match=r"^pip download logs==1: ERROR: no network$"):
        downloading.download_wheel("logs==1", tmp_path)
    for asked in ran:
        assert asked[1:4] == ["-m", "pip", "--disable-pip-version-check"] and "logs==1" in asked
        assert asked[asked.index("--timeout") + 1 : asked.index("--retries") + 2] == ["5", "--retries", "0"]
        assert {"download", "--no-deps"} < set(asked) and asked[-2:] == ["--dest", str(tmp_path)]
        assert asked[asked.index("--only-binary") + 1] == ":all:"
