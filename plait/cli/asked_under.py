"""How conditions are written on the command line, or stand in a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plait.cli.id_tables import list_tables
from plait.data.logs.tables import collect
from plait.schema import check_unique, split_quoted


def parse_condition(text: str) -> dict[str, str]:
    """Values by name.

    Raises:
        ValueError: a part is no NAME=VALUE, or a name stands twice.

    >>> parse_condition('scenario=search,query="tea, green"')
    Traceback (most recent call last):
        ...
    ValueError: --condition 'scenario=search,query="tea, green"': expected NAME=VALUE, several between commas
    >>> parse_condition('scenario=search,"query=tea, green"')
    {'scenario': 'search', 'query': 'tea, green'}
    """
    parts = split_quoted(text)
    for part in parts:
        if "=" not in part:
            raise ValueError(f"--condition {text!r}: expected NAME=VALUE, several between commas")
    check_unique([part.partition("=")[0] for part in parts], "--condition")
    return dict(part.split("=", 1) for part in parts)


def tables_by_name(texts: Sequence[str]) -> dict[str, str]:
    """Files by condition.

    Raises:
        ValueError: a text is no NAME=FILE, or a name stands twice.

    >>> tables_by_name(["query=queries.parquet"])
    {'query': 'queries.parquet'}
    """
    for text in texts:
        if not all(text.partition("=")):
            raise ValueError(
                f"--condition-vectors {text!r}: expected NAME=FILE.parquet; once for each condition"
            )
    check_unique([text.partition("=")[0] for text in texts], "--condition-vectors")
    return dict(text.split("=", 1) for text in texts)


def conditions_of(texts: Sequence[str], file: Path | None) -> list[Mapping[str, Any]]:
    """Those of the command line, then those of a table, a row each; a null in it says that nothing is known.

    Raises:
        ValueError: one is no condition, or the table cannot be read.
    """
    found: list[Mapping[str, Any]] = [parse_condition(text) for text in texts]
    if file is None:
        return found
    for table in list_tables(file):
        rows = collect(table.lazy(as_text=list(table.schema))).to_dicts()
        found += [{name: value for name, value in row.items() if value is not None} for row in rows]
    return found
