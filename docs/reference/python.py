"""Prints docs/reference/python.md from docstrings: `make docs`."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import plait
from plait.schema import Kind

HEAD = """# Python

What `import plait` gives. `make docs` makes this page from the docstrings.

Shapes stand in names: `item_E` has one entry for each event. A file's first lines say what the letters mean.
"""
GROUPS = {
    "Data": ("prepare", "Dataset", "LeaveOneOut", "Temporal", "SplitColumn", "TextFormat", "Explode"),
    "Actions": ("Action", "Binary", "Regression", "Amount", "Categorical", "Ordinal"),
    "Features": ("Feature", "Category", "Categories", "Number", "Vector"),
    "Layouts": ("Layout",),
    "Training": ("fit", "refit", "ModelSettings", "LateSettings", "Optim", "Protocol"),
    "Answering": ("Recommender", "joined_states", "state_of_users"),
    "Exporting": ("export", "Exported"),
    "Counting": ("CountingRecommender", "CountingScorer"),
}
OF_CALLERS = {"Dataset": ("open", "history")}  # its other methods serve training
SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Returns:": "Returns", "Raises:": "Raises"}


def page() -> str:
    left = set(plait.__all__) - {name for names in GROUPS.values() for name in names}
    lines = [HEAD, *(line for title, names in GROUPS.items() for line in _group(title, names))]
    lines += _group("More", sorted(left)) if left else []
    return "\n".join(lines)


def _group(title: str, names: Any) -> Iterator[str]:
    yield from (f"## {title}", "")
    for name in names:
        found = getattr(plait, name)
        yield from (f"### plait.{name}", "")
        yield from _described(name, found)
        for method in _methods(name, found):
            yield from (f"#### {name}.{method}", "")
            yield from _described(method, getattr(found, method))


def _methods(name: str, found: Any) -> list[str]:
    """Those of its own that have something to say to callers."""
    if not inspect.isclass(found) or issubclass(found, Kind):  # a kind's methods serve the rooms
        return []
    own = [
        method for method, value in vars(found).items() if not method.startswith("_") and _is_callable(value)
    ]
    return [method for method in OF_CALLERS.get(name, own) if inspect.getdoc(getattr(found, method))]


def _is_callable(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)


def _described(name: str, found: Any) -> Iterator[str]:
    yield from ("```", f"{name}{_signature(found)}", "```", "")
    for part in re.split(r"\n\n+", inspect.getdoc(found) or ""):
        yield from _paragraph(part)


def _signature(found: Any) -> str:
    """Names and defaults; types stand in the code."""
    parameters = inspect.signature(found).parameters.values()
    return str(inspect.Signature([_shortened(each) for each in parameters if each.name != "self"]))


def _shortened(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default if parameter.default is parameter.empty else _Shown(parameter.default)
    return parameter.replace(annotation=parameter.empty, default=default)


class _Shown:
    """A default in a word: of settings, that they are the defaults."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        text = repr(self.value)
        return (
            re.sub(r"^(\w+)\(.*", r"\1()", text, flags=re.DOTALL) if re.match(r"[A-Z]\w+\(", text) else text
        )


def _paragraph(part: str) -> Iterator[str]:
    """Of a docstring: arguments and errors as lists, examples as code."""
    head, _, rest = part.partition("\n")
    if part.startswith(">>>"):
        yield from ("```", part, "```", "")
    elif head in SECTIONS:
        yield from (f"**{SECTIONS[head]}**", "")
        yield from (
            re.sub(r"^ {4}(?=\S)", "- ", rest, flags=re.MULTILINE).replace("\n        ", "\n  ").split("\n")
        )
        yield ""
    else:
        yield from (part, "")


if __name__ == "__main__":
    print(page(), end="")
