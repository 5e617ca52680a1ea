"""Amazon Reviews (McAuley Lab): 2014 5-core JSON lines, 2018 ratings only, 2023 5-core ratings only.

The owner publishes no checksums: downloads are held against the published counts. Ids are text, because
product numbers start with zeros. Times of 2014 and 2018 are days, so many of a user's events are tied.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.logs.text import TextFormat
from plait.data.sources.downloading import download
from plait.data.sources.recipe import (
    FIVE_STARS,
    ITEM,
    TIME,
    USER,
    Published,
    Recipe,
    find,
    renamed,
    scan_text,
)

if TYPE_CHECKING:  # to list recipes, nobody needs it
    import polars

URL_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_{}_5.json.gz"
URL_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/{}.csv"
URL_2023 = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only/{}.csv.gz"
)
TERMS = "research use; cite the dataset's paper"

# Reviews, users, items. The pages of 2014 and 2018 state reviews; users and items of 2014 are those of the
# papers that use it. The page of 2023 rounds.
COUNTS_2014 = {
    "Beauty": ("198502", "22363", "12101"),
    "Sports_and_Outdoors": ("296337", "35598", "18357"),
    "Toys_and_Games": ("167597", "19412", "11924"),
}
COUNTS_2018 = {
    "Sports_and_Outdoors": ("12980837", "", ""),
    "Toys_and_Games": ("8201231", "", ""),
    "Video_Games": ("2565349", "", ""),
}
COUNTS_2023 = {
    "Arts_Crafts_and_Sewing": ("1.8M", "197.3K", "90.0K"),
    "Baby_Products": ("1.2M", "150.8K", "36.0K"),
    "Beauty_and_Personal_Care": ("6.6M", "729.6K", "207.6K"),
    "Books": ("9.5M", "776.4K", "495.1K"),
    "CDs_and_Vinyl": ("1.6M", "123.9K", "89.4K"),
    "Cell_Phones_and_Accessories": ("2.8M", "381.0K", "111.5K"),
    "Clothing_Shoes_and_Jewelry": ("23.1M", "2.5M", "715.0K"),
    "Electronics": ("15.5M", "1.6M", "368.2K"),
    "Industrial_and_Scientific": ("412.9K", "51.0K", "25.8K"),
    "Movies_and_TV": ("7.4M", "657.2K", "197.9K"),
    "Musical_Instruments": ("511.8K", "57.4K", "24.6K"),
    "Office_Products": ("1.8M", "223.3K", "77.6K"),
    "Software": ("1.3M", "146.4K", "17.6K"),
    "Sports_and_Outdoors": ("3.5M", "409.8K", "156.2K"),
    "Toys_and_Games": ("3.9M", "432.3K", "162.0K"),
    "Video_Games": ("814.6K", "94.8K", "25.6K"),
}


def read_2014(path: Path, category: str) -> "polars.LazyFrame":
    """`reviews_CATEGORY_5.json.gz`, one review a line: its reviewerID, asin, overall, unixReviewTime."""
    import polars as pl

    from plait.data.logs.containers import open_content

    fields = {"reviewerID": pl.String, "asin": pl.String, "overall": pl.Float64, "unixReviewTime": pl.Int64}
    file = find(path, f"reviews_{category}_5.json*")
    lines = open_content(file).data.tobytes()  # a path would be a pattern
    return pl.scan_ndjson(lines, schema=fields).rename(
        dict(zip(fields, [USER, ITEM, "rating", TIME], strict=True))
    )


def read_2018(path: Path, category: str) -> "polars.LazyFrame":
    """`CATEGORY.csv`: item,user,rating,timestamp, no header."""
    columns = [ITEM, USER, "rating", TIME]
    file = find(path, f"{category}.csv*")
    return scan_text(file, TextFormat(separator=","), columns, as_text=(USER, ITEM))


def read_2023(path: Path, category: str) -> "polars.LazyFrame":
    """`CATEGORY.csv.gz`: user_id,parent_asin,rating,timestamp, in milliseconds."""
    file = find(path, f"{category}.csv*")
    lazy = scan_text(file, TextFormat(separator=","), as_text=("user_id", "parent_asin"))
    return renamed(lazy, file, {"user_id": USER, "parent_asin": ITEM, "rating": "rating", "timestamp": TIME})


def _fetch(folder: Path, url: str) -> Path:
    return download(url, folder)


def _recipe(year: int, category: str, counts: tuple[str, str, str]) -> Recipe:
    read, url, origin = {
        2014: (read_2014, URL_2014, "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"),
        2018: (read_2018, URL_2018, "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"),
        2023: (read_2023, URL_2023, "https://amazon-reviews-2023.github.io/data_processing/5core.html"),
    }[year]
    rows, users, items = counts
    return Recipe(
        name=f"amazon-{year}-{category.lower().replace('_', '-')}",
        what=f"{rows} ratings of {category.replace('_', ' ').lower()}, "
        + ("all" if year == 2018 else "5-core"),
        origin=origin,
        terms=TERMS,
        actions=FIVE_STARS,
        read=partial(read, category=category),
        fetch=(partial(_fetch, url=url.format(category)),),
        published=Published(rows=rows, users=users, items=items),
        milliseconds=year == 2023,
    )


RECIPES = tuple(
    _recipe(year, category, counts)
    for year, table in ((2014, COUNTS_2014), (2018, COUNTS_2018), (2023, COUNTS_2023))
    for category, counts in table.items()
)
