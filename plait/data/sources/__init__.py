"""Recipes for public logs, by name. Listing them loads nothing that reads a log; `prepared` follows them."""

import difflib

from plait.data.sources import amazon, completejourney, kuaishou, movielens
from plait.data.sources.recipe import Published, Recipe

__all__ = ["Published", "Recipe", "catalogue", "find_recipe"]


def catalogue() -> tuple[Recipe, ...]:
    """All recipes, by name."""
    recipes = movielens.RECIPES + amazon.RECIPES + kuaishou.RECIPES + completejourney.RECIPES
    return tuple(sorted(recipes, key=lambda recipe: recipe.name))


def find_recipe(name: str) -> Recipe:
    """The recipe of a dataset's name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    recipes = {recipe.name: recipe for recipe in catalogue()}
    if name in recipes:
        return recipes[name]
    near = difflib.get_close_matches(name, recipes, n=1)
    raise ValueError(
        f"no dataset is named {name!r}"
        + (f", did you mean {near[0]!r}?" if near else "; `plait data list` shows those there are")
    )
