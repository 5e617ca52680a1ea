"""MovieLens-1M, the 3,416-item version: five layouts under one protocol.

    python benchmarks/ml1m.py prepare --log ml1m_reconstructed.parquet --out runs/ml-1m-data
    plait compare runs/ml-1m-data --layouts lac,interleaved,lac_patched --config benchmarks/ml1m.toml --seeds 2 ...

The log is a reconstruction of MovieLens-1M: (user, item) pairs and their order are complete, `liked` (rating of
4 and 5) is exact on every row, and `position` is the user's rank in the 3,416-item file that SASRec and its
successors use. It is not part of this project.
"""

from pathlib import Path

import cyclopts
import polars as pl

import plait

app = cyclopts.App()


@app.command
def prepare(*, log: Path, out: Path) -> None:
    """Prepares the log: rows of the 3,416-item version, ties in the order of that version."""
    frame = pl.read_parquet(log).filter(pl.col("position").is_not_null())
    dataset = plait.prepare(
        frame,
        user="user_id",
        item="item_id",
        time="timestamp",
        order="position",
        actions={"liked": plait.Binary()},
        out=out,
        name="ml-1m (3,416 items)",
        note="reconstructed",
    )
    print(dataset, f"{dataset.manifest.tied_share:.1%} tied")


if __name__ == "__main__":
    app()
