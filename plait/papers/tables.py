"""A study on a terminal: what it is, the paper's figures beside ours, and what became of its claims."""

from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from plait.compare.words import NOTHING, duration, number
from plait.papers.study import Figure, Finding, StudyResult
from plait.terminal import FittedTable, NumberHeading

OUTCOME_STYLE = {
    "reproduced": "bold",
    "not reproduced": "bold reverse",
    "too close to tell": "",
    "not measured": "dim",
}


def study_report(result: StudyResult, *, quick: bool = False) -> Group:
    """Everything that a study found, for a terminal; `quick`: on tiny worlds, and not at the size that it names."""
    return Group(*_lines(result, quick))


def _lines(result: StudyResult, quick: bool) -> Iterator[FittedTable | Text]:
    yield Text(f"{result.study} ({result.paper}): {result.question}\n")
    here = "here, without --quick" if quick else "here"
    yield FittedTable(("", "the paper", here), [(row.what, row.paper, row.ours) for row in result.setting])
    for finding in result.findings:
        yield Text()
        yield _table(finding, quick)
        if said := result.answers.get(finding.part):
            yield Text(f"{finding.part}: {said}", style="bold")
        yield from map(Text, finding.drawing)
        for verdict in finding.verdicts:
            text = Text("  ")
            text.append(verdict.outcome, style=OUTCOME_STYLE[verdict.outcome])
            yield text.append(f": {verdict.claim}{verdict.source and f' ({verdict.source})'}; {verdict.why}")
        yield from (Text(f"  {note}") for note in (*finding.notes, *finding.failed))
        yield Text(f"  Protocol: {finding.protocol}\n")
    yield from (Text(f"{part}: not run. {why}") for part, why in result.not_run.items())
    yield Text(
        f"{duration(result.wall_s)} on {result.machine}, {result.date}, commit {result.commit or NOTHING}"
    )


def _table(finding: Finding, quick: bool) -> FittedTable:
    """A line per variant; a quick run's columns say that the paper's size is not what was run."""
    ours, data = (
        ("here: a tiny world", f"a tiny world in place of {finding.data}") if quick else ("", finding.data)
    )
    by_variant: dict[str, list[Figure]] = {}
    for figure in finding.figures:
        by_variant.setdefault(figure.variant, []).append(figure)
    headings = [
        "\n".join(filter(None, (metric, ours, papers and f"paper: {papers}")))
        for metric, papers in finding.metrics.items()
    ]
    return FittedTable(
        headings=["variant", *map(NumberHeading, headings)],
        rows=[(variant, *map(_cell, figures)) for variant, figures in by_variant.items()],
        title=f"{finding.part}: {data}",
    )


def _cell(figure: Figure) -> Text:
    """Ours with half its interval and the standard deviation over seeds; the paper's below.

    >>> figure = Figure(variant="lac", metric="hr@10", paper=0.0869, value=0.11, low=0.10, high=0.12, spread=0.002)
    >>> _cell(figure).plain
    '0.1100 ±.0100 (SD .0020)\\n0.0869'
    """
    text = Text(number(figure.value))
    if figure.low is not None and figure.high is not None:
        text.append(f" ±{_bare((figure.high - figure.low) / 2)}")
    if figure.spread is not None:
        text.append(f" (SD {_bare(figure.spread)})", style="dim")
    return text if figure.paper is None else text.append(f"\n{number(figure.paper)}", style="dim")


def _bare(size: float) -> str:
    return number(size).removeprefix("0")
