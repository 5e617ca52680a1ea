"""What lists hold and slices of answers, beside the main table of a comparison: layouts and baselines alike."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from small_runs import settings_of, silent
from test_page import compared

from plait.compare.comparing import compare_variants
from plait.compare.page import html_page, terminal_side_tables, terminal_table
from plait.compare.results import Comparison
from plait.compare.side_tables import side_notes, side_tables
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.beyond_accuracy import TrainingFacts, beyond_accuracy
from plait.evaluation.run_files import load_result, measured_answers


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("compared")
    variants = [Variant(name, settings_of(name, max_epochs=1)) for name in ("item", "action_out")]
    compared_now = compare_variants(dataset, variants, 2, out, command="", report=silent, baselines=True)
    return out, compared_now.comparison


def test_layouts_and_baselines_are_told_alike_in_the_mean_over_seeds(dataset, found):
    out, comparison = found
    rows = {row.name: row for row in comparison.beyond_accuracy}
    assert (
        not rows["item"].is_baseline and rows["popularity"].is_baseline and rows["item and user"].is_baseline
    )
    folders = [out / "runs" / f"item-seed{seed}" for seed in (0, 1)]
    runs = [measured_answers(folder, load_result(folder)) for folder in folders]
    shown = (*comparison.retrieval, *comparison.scoring)
    assert rows["item"].found == beyond_accuracy(runs, TrainingFacts.of(dataset), shown)
    each = [beyond_accuracy([run], TrainingFacts.of(dataset)).lists["novelty@10"].value for run in runs]
    assert rows["item"].found.lists["novelty@10"].value == pytest.approx(sum(each) / 2)
    assert rows["action_out"].found.lists == {} == rows["item mean"].found.lists
    read = msgspec.json.decode((out / "comparison.json").read_bytes(), type=Comparison)
    assert read.beyond_accuracy == comparison.beyond_accuracy


def test_they_stand_beside_the_main_table_and_never_in_it(found):
    out, comparison = found
    tables = {table.title: table for table in side_tables(comparison)}
    lists = tables["What lists hold"]
    assert lists.headings == ("coverage@10", "novelty@10", "frequent items@10")
    assert {"item", "count: popularity"} <= {name for name, _ in lists.rows}
    slices = tables["NDCG@10 by training events (answers)"]
    assert [heading.split(" (")[0] for heading in slices.headings][:2] == ["item new", "item rare"]
    answers = [int(heading.split("(")[1][:-1]) for heading in slices.headings if heading.startswith("item")]
    assert sum(answers) == comparison.dataset.num_users
    assert "RMSE rating by training events (answers)" in tables
    text, side = io.StringIO(), io.StringIO()
    Console(width=200, file=text).print(terminal_table(comparison, 200))
    for table in terminal_side_tables(comparison):
        Console(width=200, file=side).print(table)
    page = html_page(comparison)
    for shown in (page, (out / "report.html").read_text(), side.getvalue()):
        assert "novelty@10" in shown and "item rare" in shown
    assert "novelty" not in text.getvalue() and page.index("novelty@10") > page.index('id="beyond"')
    assert "Catalogue coverage: the share of all items" in page, "the key says what it is"


def test_runs_whose_lists_are_not_known_are_named(found):
    _, comparison = found
    assert "Not known" not in side_notes(comparison)
    first, *others = comparison.beyond_accuracy
    unknown = msgspec.structs.replace(first, found=msgspec.structs.replace(first.found, lists={}))
    older = msgspec.structs.replace(comparison, beyond_accuracy=(unknown, *others))
    said = "Not known is what the lists of item hold"
    assert said in side_notes(older) and said in html_page(older)
    assert "item rare: 1 to" in side_notes(older)


def test_comparisons_of_before_have_nothing_beside_them():
    encoded = msgspec.json.decode(msgspec.json.encode(compared()))
    encoded.pop("beyond_accuracy")
    read = msgspec.json.decode(msgspec.json.encode(encoded), type=Comparison)
    assert side_tables(read) == [] and "Beyond accuracy" not in html_page(read)
