"""LUM's table of retrieval: two towers told of interests and not, beside end-to-end models, in seconds."""

from pathlib import Path

import pytest

from plait.evaluation.run_files import load_result
from plait.papers import lum
from plait.papers.study import Place

ROWS = ("ebr", "ebr+user", "ebr+item", "ebr+lum")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrieval")


def test_a_quick_table_has_a_figure_of_every_row_beside_the_papers(out):
    found = lum.RETRIEVAL.quick().run("tiny", Place(out=out, quick=True, report=lambda line: None))
    assert not found.failed
    figures = {(figure.variant, figure.metric): figure for figure in found.figures}
    for row in (*ROWS, "SASRec", "HSTU"):
        for metric in ("recall@10", "recall@50"):
            assert figures[row, metric].value is not None, (row, metric)
    assert figures["ebr+lum", "recall@10"].paper == 0.2727 and figures["ebr", "recall@50"].paper == 0.4651
    assert len(found.verdicts) == 6


def test_rows_read_what_their_names_say_and_share_the_rest(out):
    read = {}
    for folder in sorted((out / "tiny-quick" / "retrieval" / "runs").iterdir()):
        settings = load_result(folder).settings
        towers = settings.model.two_tower
        if towers.is_on:
            its = towers.interests
            read[bool(its.width), its.of_user is not None, its.of_item] = settings.interests
            assert settings.model.retrieval.l2_norm and settings.protocol.supervise == "all"
    nothing, *told = (False, False, False), (True, True, False), (True, False, True), (True, True, True)
    assert read.keys() == {nothing, *told}
    assert read[nothing] == "" and len({read[switches] for switches in told} - {""}) == 1
