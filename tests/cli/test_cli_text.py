"""Text files of other people from the command line: what is found is said, what is given is taken."""

from pathlib import Path

import pytest
from words import Capture, complaint, said_by

from plait.data import Dataset, TextFormat

FEW = ("--min-user-events", 1, "--min-item-events", 1)
NAMES = ("--user", "who", "--item", "what", "--time", "when")
ROWS = [(user, item, 1_600_000_000 + 10 * user + item, item + 0.5) for user in range(3) for item in range(4)]


def written(folder: Path, separator: str, header: bool) -> Path:
    lines = [["who", "what", "when", "rating", "title"]] if header else []
    lines += [[str(u), str(i), str(t), str(r).replace(".", ","), "caf\xe9"] for u, i, t, r in ROWS]
    text = "\n\n".join(separator.join(fields) for fields in lines) + "\n\n"
    (folder / "log.DAT").write_bytes(text.encode("latin-1"))
    return folder / "log.DAT"


@pytest.mark.parametrize(("separator", "said"), [(";", "';'"), ("::", "'::'"), ("\t", "tab"), ("|", "'|'")])
def test_all_options_together(separator: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    log = written(tmp_path, separator, header=False)
    words = (
        "data",
        "prepare",
        log,
        *NAMES,
        "--action",
        "rating:regression:0:5",
        *FEW,
        "--out",
        tmp_path / "out",
    )
    assert "It is likely latin-1: pass --encoding latin-1" in complaint(capsys, 2, *words)
    words += ("--encoding", "latin-1")
    assert "pass --encoding" not in (told := complaint(capsys, 2, *words)) and "--columns" in told
    words += ("--columns", "who,what,when,rating,title")
    assert "rating is not a number" in (told := complaint(capsys, 2, *words)) and "--decimal-comma" in told
    words += ("--decimal-comma",)
    told = said_by(capsys, *words)
    quoting = "without quoting" if separator in ("::", "\t") else "quoted by RFC 4180"
    assert f"log.DAT: text, separator {said}, {quoting}, without a header, latin-1\n" in told
    data = Dataset.open(tmp_path / "out")
    assert data.history(0).action_EA[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert data.manifest.settings.text == TextFormat(
        encoding="latin-1", columns=("who", "what", "when", "rating", "title"), decimal_comma=True
    )


def test_a_separator_and_quoting_that_are_given(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "log.txt").write_text("who what when\n" + "".join(f'{u} "{i} {t}\n' for u, i, t, _ in ROWS))
    words = ("data", "prepare", tmp_path / "log.txt", *NAMES, *FEW, "--out", tmp_path / "out")
    assert "none of the separators" in complaint(capsys, 2, *words)
    assert "line 2: it cannot be parted" in complaint(capsys, 2, *words, "--separator", "space")
    assert said_by(capsys, *words, "--separator", " ", "--quoting", "none")
    assert Dataset.open(tmp_path / "out").item_ids().to_list() == ['"0', '"1', '"2', '"3']
    assert "explode: found 'what'" in complaint(capsys, 2, *words, "--explode", "what", "--overwrite")
