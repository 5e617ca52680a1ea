"""KuaiRand and KuaiSAR (Kuaishou): impressions of short videos, with what the user did with each.

A request is the videos that were sent out together: those of one user with one timestamp.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.logs.text import TextFormat
from plait.data.sources.downloading import download, unpack
from plait.data.sources.recipe import ITEM, TIME, USER, Published, Recipe, find, renamed, scan_text
from plait.schema import Action, Amount, Binary, Category, Feature

if TYPE_CHECKING:  # to list recipes, nobody needs it
    import polars

KUAIRAND_ACTIONS = (
    *(
        Action(name, Binary())
        for name in ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
    ),
    Action("play_time_ms", Amount(zero_inflated=True)),
)
KUAIRAND_CONDITIONS = (Feature("tab", Category()),)  # which page of the app asked for the video
KUAISAR_ACTIONS = (
    *(Action(name, Binary()) for name in ("click", "like", "follow", "forward", "search")),
    Action("playing_time", Amount(zero_inflated=True)),
)


def read_kuairand(path: Path) -> "polars.LazyFrame":
    """`log_standard_*.csv`, in the order of their names: the feed as it was; random exposures are left out.

    Relied on: user_id, video_id, time_ms (milliseconds), the actions, tab.
    """
    import polars as pl

    first = find(path, "log_standard_*.csv")
    logs = [first] if path.is_file() else sorted(first.parent.glob("log_standard_*.csv"))
    columns = {"user_id": USER, "video_id": ITEM, "time_ms": TIME}
    lazy = pl.concat([scan_text(log, TextFormat(separator=",")) for log in logs])
    names = [action.name for action in KUAIRAND_ACTIONS] + [each.name for each in KUAIRAND_CONDITIONS]
    return renamed(lazy, first, columns | dict(zip(names, names, strict=True)))


def read_kuaisar(path: Path) -> "polars.LazyFrame":
    """`rec_inter.csv`: the recommendation half of the log.

    Relied on: user_id, item_id, timestamp (milliseconds), the actions.
    """
    file = find(path, "rec_inter.csv")
    columns = (USER, ITEM, TIME, *(action.name for action in KUAISAR_ACTIONS))
    return renamed(scan_text(file, TextFormat(separator=",")), file, {name: name for name in columns})


def _fetch(folder: Path, url: str, files: str) -> Path:
    return unpack(download(url, folder), files)


def _kuairand(version: str, what: str, published: Published) -> Recipe:
    url = f"https://zenodo.org/records/10439422/files/KuaiRand-{version}.tar.gz"
    return Recipe(
        name=f"kuairand-{version.lower()}",
        what=what,
        origin="https://kuairand.com",
        terms="CC BY-SA 4.0",
        actions=KUAIRAND_ACTIONS,
        read=read_kuairand,
        fetch=(partial(_fetch, url=url, files="log_standard_*.csv"),),
        published=published,
        milliseconds=True,
        conditions=KUAIRAND_CONDITIONS,
    )


RECIPES = (
    _kuairand(
        "Pure",
        "impressions of 7,551 videos by 27,285 users",
        Published(rows="1436609", users="27285", items="7551"),
    ),
    _kuairand(
        "1K",
        "11.7 million impressions of 1,000 users",
        Published(rows="11713045", users="1000", items="4369953"),
    ),
    _kuairand(
        "27K",
        "322 million impressions of 27,285 users",
        Published(rows="322278385", users="27285", items="32038725"),
    ),
    Recipe(
        name="kuaisar",
        what="recommended videos of users who search as well",
        origin="https://kuaisar.github.io",
        terms="CC BY-NC-SA 4.0",
        actions=KUAISAR_ACTIONS,
        read=read_kuaisar,
        fetch=(
            partial(
                _fetch, url="https://zenodo.org/records/8181109/files/KuaiSAR_v2.zip", files="rec_inter.csv"
            ),
        ),
        published=None,
        milliseconds=True,
    ),
)
