"""A study on a terminal: what it is, the paper's figures beside ours, and what became of its claims."""

from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from plait.compare.words import NOTHING, duration, number
from plait.papers.study import Figure, Finding, Study, StudyResult

OUTCOME_STYLE = {
    "reproduced": "bold",
    "not reproduced": "bold reverse",
    "too close to tell": "",
    "not measured": "dim",
}


def study_list(studies: tuple[Study, ...]) -> Table:
    table = Table("study", "of", "question", box=None, pad_edge=False)
    for study in studies:
        table.add_row(study.name, study.paper, study.question)
    return table


def study_report(result: StudyResult) -> Group:
    """Everything that a study found, for a terminal."""
    return Group(*_lines(result))


def _lines(result: StudyResult) -> Iterator[Table | Text]:
    yield Text(f"{result.study} ({result.paper}): {result.question}\n")
    setting = Table("", "the paper", "here", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in result.setting:
        setting.add_row(Text(row.what), Text(row.paper), Text(row.ours))
    yield setting
    for finding in result.findings:
        yield _table(finding)
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


def _table(finding: Finding) -> Table:
    table = Table(
        title=Text(f"{finding.part}: {finding.data}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("variant", overflow="fold")
    for metric, papers in finding.metrics.items():
        table.add_column(Text(f"{metric}\npaper: {papers}" if papers else metric), justify="right")
    by_variant: dict[str, list[Figure]] = {}
    for figure in finding.figures:
        by_variant.setdefault(figure.variant, []).append(figure)
    for variant, figures in by_variant.items():
        table.add_row(Text(variant), *map(_cell, figures))
    return table


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
