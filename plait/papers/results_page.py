"""Prints RESULTS.md, beside this file, from what studies recorded: `make docs`. A test compares the two."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec

from plait.compare.words import duration, number
from plait.papers import STUDIES
from plait.papers.study import Figure, Finding, StudyResult

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "studies"

HEAD = """# What the studies found

Each study of [the list](../../docs/guides/reproduce-a-paper.md), run in full on two processor cores. `make docs` makes
this page from `benchmarks/results/studies`, where commit, command, machine and date of every run stand beside the
figures. A verdict is about our size and our logs.
[What it says](../../docs/guides/reproduce-a-paper.md#what-a-verdict-says), and how a claim is tested, stands there.

```bash
plait study
```

"Not reproduced" means that the same evidence stands against the claim. "Too close to tell" means that this size cannot
tell the two apart: the interval says how far apart they may be.
"""


def page() -> str:
    return page_of(recorded())


def recorded() -> list[StudyResult]:
    """In the order of the papers."""
    paths = [RECORDED / f"{study.name}.json" for study in STUDIES]
    return [msgspec.json.decode(path.read_bytes(), type=StudyResult) for path in paths if path.exists()]


def page_of(results: list[StudyResult]) -> str:
    return "\n".join([HEAD, *_summary(results), *(line for result in results for line in _study(result))])


def _summary(results: list[StudyResult]) -> Iterator[str]:
    yield "| study | part | the paper's claims |"
    yield "|---|---|---|"
    for result in results:
        for part, answer in result.answers.items():
            yield f"| [{result.study}](#{result.study}) | {part} | {answer} |"
    yield ""
    missing = [study.name for study in STUDIES if study.name not in {result.study for result in results}]
    if missing:
        yield f"Not recorded yet: {', '.join(missing)}."
        yield ""


def _study(result: StudyResult) -> Iterator[str]:
    yield f"## {result.study}"
    yield ""
    yield f"{result.paper}. {result.question}"
    yield ""
    spent = f"{duration(result.wall_s)} of training and evaluation"
    yield f"`{result.command}`: {spent}, on {result.machine}; {result.date}."
    yield ""
    yield "| | the paper | here |"
    yield "|---|---|---|"
    yield from (f"| {row.what} | {row.paper} | {row.ours} |" for row in result.setting)
    yield ""
    yield from _since(result)
    for finding in result.findings:
        yield from _part(finding)
    yield from (f"- {part}: not run. {why}" for part, why in result.not_run.items())


def _since(result: StudyResult) -> Iterator[str]:
    """Where the study is another one by now than the one that was recorded."""
    (study,) = (study for study in STUDIES if study.name == result.study)
    now = {row.what: row.ours for row in study.setting}
    changed = [row for row in result.setting if now.get(row.what) != row.ours]
    for row in changed:
        yield f"*Changed since: {row.what}.* Recorded (commit {result.commit}) with: {row.ours}. "
        yield f"The study now runs with: {now.get(row.what, 'nothing of that name')}."
        yield ""


def _part(finding: Finding) -> Iterator[str]:
    yield f"### {finding.part}"
    yield ""
    yield f"{finding.data}."
    yield ""
    if finding.protocol:
        yield f"Protocol: {finding.protocol}."
        yield ""
    yield from _table(finding)
    if finding.drawing:
        yield from ("```", *finding.drawing, "```", "")
    for outcome, verdicts in groupby(sorted(finding.verdicts, key=lambda v: v.outcome), lambda v: v.outcome):
        yield f"*{outcome.capitalize()}*:"
        yield ""
        yield from (f"- {v.claim}{v.source and f' ({v.source})'}: {v.why}" for v in verdicts)
        yield ""
    yield from (f"{note}\n" for note in (*finding.notes, *finding.failed))


def _table(finding: Finding) -> Iterator[str]:
    """Ours, half its interval, and the paper's figure in brackets."""
    heads = [f"{ours} ({papers})" if papers else ours for ours, papers in finding.metrics.items()]
    yield f"| variant | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(heads)}"
    for variant, figures in groupby(finding.figures, lambda figure: figure.variant):
        cells = [_cell(figure) for figure in figures]
        cells += [""] * (len(heads) - len(cells))  # a query looks at nothing that comes after it
        yield f"| {variant} | {' | '.join(cells)} |"
    yield ""


def _cell(figure: Figure) -> str:
    text = number(figure.value)
    if figure.low is not None and figure.high is not None:
        text += f" ± {number((figure.high - figure.low) / 2)}"
    return text if figure.paper is None else f"{text} [{number(figure.paper)}]"


if __name__ == "__main__":
    print(page(), end="")
