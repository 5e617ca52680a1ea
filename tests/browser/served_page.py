"""Serves the page over a made-up shop whose names are hostile, for service_page.mjs to look at.

python tests/browser/served_page.py FOLDER LAYOUT TRUNK [KEYS]

Under the layout lum it serves a large user model, which is asked under conditions, and lac beside it.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from answering import asked_under
from served import recommender_of
from test_page import compared

import plait
from plait.compare.comparing import SUMMARY
from plait.compare.page import html_page
from plait.data import Dataset
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkConfig
from plait.schema import Action, Binary, Category, FeatureKind, Number, Regression
from plait.service.keys import add_key
from plait.service.models import Model
from plait.service.running import run
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.store.history import Retention
from plait.store.lmdb_store import LmdbStore

SCRIPT = "<script>alert('id')</script>"
TITLES = {
    SCRIPT: "<img src=x onerror=alert('title')>",
    "i2": "A title that goes on and on, as whoever wrote it thought that every detail of the film mattered (1996)",
    "i3": "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}\N{HEBREW LETTER GIMEL} & \"quotes\" 'too'",
    "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW": None,
}
ACTIONS = [Action("rating", Regression(1, 5)), Action("liked", Binary())]
SCENARIOS = ["<b>search</b>", "home"]
CONDITIONS: dict[str, FeatureKind] = {"scenario": Category(), "hour": Number(4)}
NAMES = ("Fargo", "Casablanca", "Alien", "Heat", "Brazil", "Vertigo", "Psycho", "Ran", "Gattaca", "Solaris", "Stalker",
         "Metropolis", "Network")  # fmt: skip


def shop(folder: Path, conditions: dict[str, FeatureKind]) -> Dataset:
    ids = [*TITLES, *(f"{n}" for n in range(200, 200 + len(NAMES)))]
    titles = [*TITLES.values(), *(f"{name} ({1950 + 3 * n})" for n, name in enumerate(NAMES))]
    rng = np.random.default_rng(2)
    lengths = {"196": 40, "197": 3, "../a b/<i>": 9}  # events
    item = np.concatenate(
        [np.arange(9), rng.integers(0, 9, 31), np.arange(5, len(ids))]
    )  # of 196, and of the others
    log = pl.DataFrame(
        {
            "user_id": np.repeat(list(lengths), list(lengths.values())),
            "item_id": np.array(ids)[item],
            "timestamp": 1_500_000_000 + 3_600 * np.arange(len(item)),
            "rating": rng.integers(1, 6, len(item)),
            "liked": rng.integers(0, 2, len(item)),
            "scenario": rng.choice(SCENARIOS, len(item)),
            "hour": rng.integers(0, 24, len(item)),
        }
    )
    items = pl.DataFrame({"item_id": ids, "title": titles})
    return plait.prepare(
        log, user="user_id", item="item_id", time="timestamp", actions=ACTIONS, items=items, item_title="title",
        out=folder / "data", min_item_events=1, min_user_events=1, conditions=conditions,
    )  # fmt: skip


def service(folder: Path, layout: str, kind: str, with_keys: bool) -> tuple[Service, str]:
    data, out = shop(folder, CONDITIONS if layout == "lum" else {}), folder / "comparison"
    model_folder = out / "runs" / f"{layout}-seed0" / "model"
    model_folder.parent.mkdir(parents=True)
    trunk = TrunkConfig(dim=12, num_layers=2, num_heads=2, kind=kind)  # type: ignore[arg-type]
    settings_of_model = ModelSettings(trunk=trunk)
    if layout == "lum":
        recommender, beside = asked_under(data, "lum"), [Model("lac", out / "lac", data, "cpu")]
        asked_under(data, "lac").save_pretrained(out / "lac")
    else:
        recommender, beside = (
            recommender_of(data, layout, max_events=30, window_step=1, settings=settings_of_model),
            [],
        )
    recommender.save_pretrained(model_folder)
    comparison = compared()
    summary = {name: getattr(comparison, name) for name in SUMMARY}
    (out / "summary.json").write_bytes(msgspec.json.encode(summary | {"verdict": ["lac is the best here."]}))
    (out / "report.html").write_text(html_page(comparison, out), encoding="utf-8")
    key = add_key(folder / "keys.json", "page", ("ask", "users")) if with_keys else ""
    store = LmdbStore(folder / "store", "process", Retention())
    seed(store, data, recommender)
    settings = ServiceSettings(port=0, keys=folder / "keys.json" if with_keys else None)
    return Service([Model(layout, model_folder, data, "cpu"), *beside], store, settings), key


def main(folder: Path, layout: str, kind: str, with_keys: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    served, key = service(folder, layout, kind, with_keys)
    print(f"key {key}", flush=True)
    run(served, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "keys" in sys.argv[4:])
