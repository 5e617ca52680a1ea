"""MovieLens (GroupLens). The owner publishes MD5 sums: beside each archive up to 20M, inside that of 32M."""

from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.logs.text import TextFormat
from plait.data.sources.downloading import check_download, download, download_wheel, unpack
from plait.data.sources.recipe import (
    FIVE_STARS,
    ITEM,
    TIME,
    TITLE,
    USER,
    Published,
    Recipe,
    beside,
    find,
    renamed,
    scan_text,
)
from plait.schema import Action, Regression

if TYPE_CHECKING:  # to list recipes, nobody needs it
    import polars

FILES = "https://files.grouplens.org/datasets/movielens"
TERMS = "research use, no redistribution, no commercial use without permission"
HALF_STARS = (Action("rating", Regression(0.5, 5)),)


ITEM_COLUMNS = (ITEM, TITLE, *(f"unread {n}" for n in range(22)))  # of the owner's 24: dates, address, genres
COLUMNS = (USER, ITEM, "rating", TIME)  # of the files without a header


def read_100k(path: Path) -> "polars.LazyFrame":
    """The owner's `u.data` (tabs, no header), or RecBole's copy, `ml-100k.inter` (tabs, typed header)."""
    file = find(path, "u.data", "ml-100k.inter")
    if file.suffix != ".inter":
        return scan_text(file, TextFormat(separator="tab"), COLUMNS)
    return renamed(scan_text(file, TextFormat(separator="tab")), file, {name: name for name in COLUMNS})


def read_1m(path: Path) -> "polars.LazyFrame":
    """`ratings.dat`: user::item::rating::timestamp, no header."""
    return scan_text(find(path, "ratings.dat"), TextFormat(separator="::"), COLUMNS)


def read_csv(path: Path) -> "polars.LazyFrame":
    """`ratings.csv` of 20M and 32M: userId,movieId,rating,timestamp."""
    file = find(path, "ratings.csv")
    columns = {"userId": USER, "movieId": ITEM, "rating": "rating", "timestamp": TIME}
    return renamed(scan_text(file, TextFormat(separator=",")), file, columns)


def read_100k_titles(path: Path) -> "polars.LazyFrame | None":
    """The owner's `u.item` (bars, Latin-1, no header: number, title, and more), or RecBole's `ml-100k.item`."""
    if (file := beside(path, "u.item")) is not None:
        return scan_text(file, TextFormat(separator="|", encoding="latin-1"), ITEM_COLUMNS).select(
            ITEM, TITLE
        )
    if (file := beside(path, "ml-100k.item")) is not None:
        columns = {"item_id": ITEM, "movie_title": TITLE}
        return renamed(scan_text(file, TextFormat(separator="tab")), file, columns)
    return None


def read_1m_titles(path: Path) -> "polars.LazyFrame | None":
    """`movies.dat`: number::title::genres, Latin-1, no header."""
    file = beside(path, "movies.dat")
    if file is None:
        return None
    text = TextFormat(separator="::", encoding="latin-1")
    return scan_text(file, text, (ITEM, TITLE, "genres")).select(ITEM, TITLE)


def read_csv_titles(path: Path) -> "polars.LazyFrame | None":
    """`movies.csv` of 20M and 32M: movieId,title,genres."""
    file = beside(path, "movies.csv")
    if file is None:
        return None
    return renamed(scan_text(file, TextFormat(separator=",")), file, {"movieId": ITEM, "title": TITLE})


def fetch_100k(folder: Path) -> Path:
    archive = check_download(
        download(f"{FILES}/ml-100k.zip", folder), "md5", "0e33842e24a9c977be4e0107933c0723"
    )
    return unpack(archive, "u.data", "u.item")


def fetch_100k_from_recbole(folder: Path) -> Path:
    """RecBole's wheel carries the data as an example. The sum is of the wheel's member, computed by us."""
    unpacked = unpack(download_wheel("recbole==1.2.1", folder), "ml-100k.inter", "ml-100k.item")
    sha256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
    check_download(find(unpacked, "ml-100k.inter"), "sha256", sha256)
    return unpacked


def fetch_1m(folder: Path) -> Path:
    archive = check_download(
        download(f"{FILES}/ml-1m.zip", folder), "md5", "c4d9eecfca2ab87c1945afe126590906"
    )
    return unpack(archive, "ratings.dat", "movies.dat")


def fetch_20m(folder: Path) -> Path:
    archive = check_download(
        download(f"{FILES}/ml-20m.zip", folder), "md5", "cd245b17a1ae2cc31bb14903e1204af3"
    )
    return unpack(archive, "ratings.csv", "movies.csv")


def fetch_32m(folder: Path) -> Path:
    unpacked = unpack(download(f"{FILES}/ml-32m.zip", folder), "ratings.csv", "movies.csv")
    check_download(find(unpacked, "ratings.csv"), "md5", "cf12b74f9ad4b94a011f079e26d4270a")
    return unpacked


RECIPES = (
    Recipe(
        name="ml-100k",
        what="100,000 film ratings",
        origin="https://grouplens.org/datasets/movielens/100k/",
        terms=TERMS,
        actions=FIVE_STARS,
        read=read_100k,
        read_titles=read_100k_titles,
        fetch=(fetch_100k, fetch_100k_from_recbole),
        published=Published(rows="100000", users="943", items="1682"),
    ),
    Recipe(
        name="ml-1m",
        what="1 million film ratings",
        origin="https://grouplens.org/datasets/movielens/1m/",
        terms=TERMS,
        actions=FIVE_STARS,
        read=read_1m,
        read_titles=read_1m_titles,
        fetch=(fetch_1m,),
        published=Published(rows="1000209", users="6040"),
    ),
    Recipe(
        name="ml-20m",
        what="20 million film ratings",
        origin="https://grouplens.org/datasets/movielens/20m/",
        terms=TERMS,
        actions=HALF_STARS,
        read=read_csv,
        read_titles=read_csv_titles,
        fetch=(fetch_20m,),
        published=Published(rows="20000263", users="138493"),
    ),
    Recipe(
        name="ml-32m",
        what="32 million film ratings",
        origin="https://grouplens.org/datasets/movielens/32m/",
        terms=TERMS,
        actions=HALF_STARS,
        read=read_csv,
        read_titles=read_csv_titles,
        fetch=(fetch_32m,),
        published=Published(rows="32000204", users="200948"),
    ),
)
