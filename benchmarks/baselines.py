"""What counting reaches on a prepared dataset, and how long it takes with its validation.

    python benchmarks/ml1m.py prepare --log ml1m_reconstructed.parquet --out runs/ml-1m-data
    OMP_NUM_THREADS=1 python benchmarks/baselines.py runs/ml-1m-data --out benchmarks/results/baselines-ml-1m.json
    OMP_NUM_THREADS=1 python benchmarks/baselines.py ml-100k --out benchmarks/results/baselines-ml-100k.json

Time is the processor's, of one thread: others may use the machine meanwhile.
"""

import tempfile
import time
from pathlib import Path

import cyclopts
from provenance import write_result

from plait.data import Dataset
from plait.data.sources.prepared import get
from plait.evaluation.answers import measure
from plait.evaluation.counting import baselines_of
from plait.evaluation.settings import Protocol

app = cyclopts.App()


@app.default
def main(data: str, *, out: Path, filter_seen: bool = True) -> None:
    """Counts, chooses settings on the validation, and measures the test under the default protocol."""
    dataset = Dataset.open(data) if Path(data).is_dir() else get(data)
    start_s = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        found, answers = baselines_of(dataset, Protocol(filter_seen=filter_seen), "causal", Path(scratch))
    processor_s = time.process_time() - start_s
    rows = {
        its.name: {
            "settings": its.settings,
            **{name: of.value for name, of in measure(answers[its.name]).items()},
        }
        for its in found.counted
    }
    for name, row in rows.items():
        print(
            name,
            {
                key: value
                for key, value in row.items()
                if key in ("settings", "hr@10", "ndcg@10") or ":" in key
            },
        )
    print(f"{processor_s:.1f} s of processor time")
    write_result(
        out,
        {
            "dataset": repr(dataset),
            "content_hash": dataset.manifest.content_hash,
            "filter_seen": filter_seen,
            "processor_s": processor_s,
            "rows": rows,
            "left_out": found.left_out,
        },
    )


if __name__ == "__main__":
    app()
