"""Writes the report's page for made-up comparisons of every sort, for check.mjs to look at.

python tests/browser/pages.py FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import msgspec
from test_floor import floor_under
from test_page import LAYOUTS, compared, measured, row
from test_serving import invented

from plait.compare.comparing import card_of
from plait.compare.page import html_page
from plait.compare.results import Comparison, Example, LayoutCard
from plait.compare.variants import Variant
from plait.evaluation.run_files import RunSettings
from plait.layouts import CATALOGUE

LONG = "a_layout_whose_name_is_as_long_as_whoever_wrote_it_thought_that_every_detail_mattered_x"
ITEMS = tuple(f"item {n}" for n in range(5))
SCRIPT = "<script>alert('read')</script>"


def real_card(name: str, layout: str) -> LayoutCard:
    """Of a layout of the catalogue, under any name."""
    settings = RunSettings(layout=str(CATALOGUE[layout].layout))
    return msgspec.structs.replace(card_of(Variant(layout, settings)), name=name)


def usual() -> Comparison:
    found = compared()
    cards = tuple(real_card(its.name, its.name) for its in found.layouts)
    examples = tuple(
        Example(
            f"user {n}",
            tuple(f"item {n + m} (rating {m})" for m in range(8)),
            dict.fromkeys(("item", "lac"), ITEMS),
        )
        for n in range(5)
    )
    floor = floor_under({"item": 0.5, "lac": 0.6})
    return msgspec.structs.replace(
        found, layouts=cards, examples=examples, floor=floor, serving=invented().serving
    )


def eleven() -> Comparison:
    """Five cheap ones beside one 60 times dearer, and more than there are colours."""
    dear = {4: 60.0}
    more = [
        dataclasses.replace(
            LAYOUTS[4],
            name=f"lac_{n}",
            ndcg=0.158 + n / 1000,
            rmse=0.9 - n / 500,
            flops=4e13 * dear.get(n, 1 + n / 9),
        )
        for n in range(5)
    ]
    return compared((*LAYOUTS, *more))


def failed() -> Comparison:
    item, action_out, lac = LAYOUTS[0], LAYOUTS[1], LAYOUTS[4]
    statistics = {(layout.name, 0): measured(layout, 0) for layout in (item, action_out, lac)}
    rows = [
        row(item, 0, statistics["item", 0], status="capped", note="cap of 3 epochs"),
        row(
            action_out,
            0,
            {},
            cost=None,
            curve=(),
            status="failed",
            note="the loss is nan at step 7 of epoch 1",
        ),
        row(lac, 0, statistics["lac", 0]),
        row(lac, 1, {}, cost=None, curve=(), status="failed", note="the loss is nan at step 91 of epoch 2"),
    ]
    return compared((item, action_out, lac), seeds=(0,), rows=rows)


def hostile() -> Comparison:
    names = (
        LONG,
        SCRIPT,
        "(i[t], a[t-1]) -> (i[t+1], a[t])",
        '\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} & "quotes"',
    )
    which = tuple(
        dataclasses.replace(layout, name=name) for layout, name in zip(LAYOUTS[2:], names, strict=True)
    )
    return compared(which, reference=LONG, command=f"plait compare {SCRIPT} --out {LONG * 3}")


def temporal() -> Comparison:
    found = compared(seeds=(0, 1))
    protocol = (
        "temporal split at 2020-01-01T00:00:00; every event after it is asked about, one by one, with a rolling "
        "history; full catalogue; seen items filtered; ties against the model; T = 100; same_request = blind; seed 0, 1"
    )
    return msgspec.structs.replace(found, protocol=protocol)


def twelve_actions() -> Comparison:
    found = compared(seeds=(0, 1), which=LAYOUTS[3:], reference="pc")
    names = [f"{metric}:action_{n}" for n in range(12) for metric in ("rmse", "mae")]
    summaries = tuple(
        msgspec.structs.replace(its, metrics=its.metrics | dict.fromkeys(names, its.metrics["rmse:rating"]))
        for its in found.summaries
    )
    return msgspec.structs.replace(found, scoring=tuple(names), charted=("ndcg@10",), summaries=summaries)


PAGES = {
    "usual": usual,
    "eleven": eleven,
    "one": lambda: compared(LAYOUTS[4:5], reference="lac"),
    "one_seed": lambda: compared(seeds=(0,)),
    "failed": failed,
    "temporal": temporal,
    "hostile": hostile,
    "twelve_actions": twelve_actions,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, comparison in PAGES.items():
        (folder / f"{name}.html").write_text(html_page(comparison(), Path("runs/mine")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
