"""Texts that come after training, from the command line: with vectors of their own they are answered."""

import numpy as np
import polars as pl
from tiny import random_log
from words import complaint, plait

TEXTS = pl.DataFrame({"text": ["home", "search"], "vector": [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]})
LATER = pl.DataFrame({"text": ["kiosk"], "vector": [[0.9, 0.1, 0.5]]})


def test_from_a_log_to_interests_under_a_later_text(tmp_path, capsys):
    log, data, run = tmp_path / "log.parquet", tmp_path / "data", tmp_path / "run"
    random_log().write_parquet(log)
    TEXTS.write_parquet(tmp_path / "texts.parquet")
    LATER.write_parquet(tmp_path / "later.parquet")
    plait(
        "data", "prepare", log, "--user", "user", "--item", "item", "--time", "time", "--min-item-events", 1,
        "--condition", f"scenario:vector:{tmp_path / 'texts.parquet'}", "--out", data,
    )  # fmt: skip
    plait("lum", "pretrain", data, "--out", run, "--protocol.max-epochs", 1)
    asked = ("lum", "query", run, "--condition", "scenario=kiosk", "--condition", "scenario=home")
    plait(
        *asked,
        "--condition-vectors",
        f"scenario={tmp_path / 'later.parquet'}",
        "--out",
        tmp_path / "a.parquet",
    )
    plait("lum", "query", run, "--condition", "scenario=home", "--condition", "scenario=search",
          "--out", tmp_path / "b.parquet")  # fmt: skip
    found = pl.concat([pl.read_parquet(tmp_path / f"{name}.parquet") for name in "ab"])
    of = {key: np.stack(part["interest"]) for (key,), part in found.group_by("condition")}
    assert of["scenario=home"].shape[0] == 2 * 23 and of["scenario=kiosk"].shape[0] == 23
    wants = {key: vectors[:23].astype(np.float32) for key, vectors in of.items()}
    near = (wants["scenario=kiosk"] * wants["scenario=home"]).sum(1).mean()
    far = (wants["scenario=kiosk"] * wants["scenario=search"]).sum(1).mean()
    assert near > far, "a text whose vector lies near another's is answered otherwise"
    capsys.readouterr()
    said = complaint(capsys, 2, *asked, "--condition-vectors", "scenario", "--out", tmp_path / "c.parquet")
    assert "expected NAME=FILE.parquet" in said
