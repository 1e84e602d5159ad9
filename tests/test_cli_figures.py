"""`minildm figures`, on two small lessons."""

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from minildm import cli
from minildm.cli import _lessons as lessons

DRAWING = "import matplotlib.pyplot as plt\nfrom minildm import viz\nviz.style()\nplt.plot([1, 2])\nplt.show()"


def jpeg(side):
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def lesson(path, title, *cells):
    path.write_text(nbformat.writes(new_notebook(cells=[new_markdown_cell(title), *cells])), encoding="utf-8")


def shown(source, *kinds):
    return new_code_cell(source, outputs=[new_output("display_data", data=kind) for kind in kinds])


@pytest.fixture(autouse=True)
def source(tmp_path, monkeypatch):
    folder = tmp_path / "lessons"
    folder.mkdir()
    lesson(
        folder / "03_first.ipynb",
        "# 03 · The first\n\nSome words.\n\nWhat do you expect?",
        shown("1", {"image/jpeg": jpeg(8), "text/plain": "a figure"}, {"text/plain": "no figure"}),
        new_markdown_cell("It falls.\n\n## A section\n\n| a | table |\n\nLook at the\nleft curve.\n\n$$x$$"),
        shown("2", {"image/png": jpeg(9), "image/svg+xml": "<svg/>"}, {"image/gif": jpeg(4)}),
    )
    lesson(folder / "04_second.ipynb", "# 04 · The second", new_code_cell(DRAWING))
    monkeypatch.setattr(lessons, "shipped", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_stored_figures_come_as_they_are_with_their_captions(capsys):
    assert cli.main(["figures", "out"]) == 0
    names = ["03_first-01.jpg", "03_first-02.svg", "03_first-03.gif"]
    assert sorted(path.name for path in Path("out").iterdir()) == [*names, "captions.md"]
    assert Path("out", names[0]).read_bytes() == base64.b64decode(jpeg(8))
    assert Path("out", names[1]).read_text() == "<svg/>"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "[1 of 2] 03_first: 3 figures" and said[1] == "[2 of 2] 04_second: 0 figures"
    index = Path("out", "captions.md").read_text(encoding="utf-8")
    first, second = index.split("### ")[1:3]
    assert "## 03 · The first" in index and "CC BY-SA 4.0" in index
    assert "**Before:** What do you expect?" in first and "**After:** It falls." in first
    assert "**Under:** A section" in second and "**Before:** Look at the left curve." in second
    assert "After" not in second  # nothing follows


def test_one_lesson_alone_and_again_over_the_old_files(capsys):
    for _ in range(2):
        assert cli.main(["figures", "out", "--from", "03"]) == 0
    assert "[1 of 1] 03_first" in capsys.readouterr().out and len(list(Path("out").iterdir())) == 4


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["out", "--from", "7"], "there is no lesson '7'; there are: 03_first, 04_second"),
        (["out", "--format", "pdf"], "expected --format as one of stored, png, svg, got 'pdf'"),
        (["file.txt"], "file.txt is a file: name another"),
    ],
)
def test_what_cannot_be_is_said(capsys, arguments, says):
    Path("file.txt").write_text("mine")
    assert cli.main(["figures", *arguments]) == 1
    assert says in capsys.readouterr().err and not Path("out").exists()


def test_vectors_are_drawn_anew_whatever_format_the_lesson_sets(source):
    before = (source / "04_second.ipynb").read_bytes()
    assert cli.main(["figures", "out", "--format", "svg", "--from", "04_second"]) == 0
    assert "<svg" in Path("out", "04_second-01.svg").read_text(encoding="utf-8")
    assert (source / "04_second.ipynb").read_bytes() == before


def test_a_lesson_that_does_not_run_is_named_and_the_others_are_written(source, capfd):
    lesson(source / "03_first.ipynb", "# 03", new_code_cell("raise ValueError('no such pictures')"))
    assert cli.main(["figures", "out", "--format", "png"]) == 1
    said = capfd.readouterr()
    assert "03_first: did not run: ValueError: no such pictures" in said.out and "did not run: 03_first" in said.err
    with Image.open("out/04_second-01.png") as figure:
        assert figure.width > 900  # twice as large as in the lesson
    assert "04_second-01.png" in Path("out", "captions.md").read_text(encoding="utf-8")
