"""The items of a model by what people call them: searched, and named."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import polars as pl

from plait.data.dataset import Dataset
from plait.recommender import Recommender
from plait.service.deployed import Deployed
from plait.service.service import Service

MOST_FOUND = 50  # items that a search answers with


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A table of every item that the model knows: `id` as text, and `title`, null where nobody wrote it down."""

    items: pl.DataFrame

    @classmethod
    def of(cls, recommender: Recommender, dataset: Dataset | None) -> "Catalogue":
        items = pl.DataFrame({"id": recommender.items.cast(pl.String)})
        titles = None if dataset is None else dataset.item_titles()
        if dataset is None or titles is None:
            return cls(items.with_columns(title=pl.lit(None, pl.String)))
        known = pl.DataFrame({"id": dataset.item_ids().cast(pl.String), "title": titles})
        return cls(items.join(known, on="id", how="left", maintain_order="left"))

    def search(self, text: str, most: int = 20) -> list[dict[str, Any]]:
        """Items whose id or title holds the text, whatever its case: the very id first, then ids that begin with it,
        then the others, in the catalogue's order.

        >>> table = pl.DataFrame({"id": ["12", "2", "3"], "title": ["Two", None, "Part 2"]})
        >>> [found["id"] for found in Catalogue(table).search("2")]
        ['2', '12', '3']
        """
        sought = pl.lit(text.lower())
        id, title = pl.col("id").str.to_lowercase(), pl.col("title").str.to_lowercase()
        holds = id.str.contains(sought, literal=True) | title.str.contains(sought, literal=True).fill_null(
            False
        )
        rank = (pl.col("id") != text).cast(pl.Int8) + (~id.str.starts_with(sought)).cast(pl.Int8)
        found = self.items.lazy().filter(holds).sort(rank, maintain_order=True).head(min(most, MOST_FOUND))
        return found.collect().to_dicts()

    def found(self, text: str, most: int, ids: Iterable[str]) -> list[dict[str, Any]]:
        """The items of the ids, then those that a search finds."""
        return [*self.titled(ids), *(self.search(text, most) if text else [])]

    def titled(self, ids: Iterable[str | int]) -> list[dict[str, Any]]:
        """Each id with its title; null where there is none."""
        return [{"id": str(id), "title": self._title_of.get(str(id))} for id in ids]

    @cached_property
    def _title_of(self) -> dict[str, str]:
        known = self.items.filter(pl.col("title").is_not_null())
        return dict(zip(known["id"], known["title"], strict=True))


@final
class Catalogues:
    """The catalogue of each model's version that is served, made when it is first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[str, tuple[Deployed, Catalogue]] = {}

    def of(self, model: str | None) -> Catalogue:
        """That of a model; of the first where none is named. Raises Problem where none is called so."""
        served = self._service.of(model)
        deployed, made = served.deployed, self._made.get(served.model.name)
        if made is None or made[0] is not deployed:
            made = deployed, Catalogue.of(deployed.recommender, served.model.dataset)
            self._made[served.model.name] = made
        return made[1]
