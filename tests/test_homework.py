"""Homework as nbgrader sees it: what students get, full marks for the solutions, none for what is handed out."""

import html
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from homework import FOLDER, is_marked

from minildm import cli, homework
from minildm.homework._feedback import BEGIN, END, divide, mask

NOTEBOOKS = sorted(FOLDER.glob("[0-9]*_*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")
LESSONS = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")


def nbgrader(root: Path, *arguments: str) -> str:
    """Run one of nbgrader's own commands in a course folder; returns what it says."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in an activated environment
    said = subprocess.run(
        command, cwd=root, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=3600
    )
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr[-3000:]
    return said.stdout + said.stderr


def cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The course as an instructor makes it, where students have handed in; the first assignment has a cheat, too.

    "solved" hands in the solutions, "untouched" what was handed out, "edited" that with easier tests and one test less.
    The solutions of the second assignment warn, which is no mistake. All is graded in one go, each notebook in a kernel
    of its own.
    """
    root = tmp_path_factory.mktemp("course") / "course"
    assert cli.main(["homework", "course", str(root)]) == 0
    for name in NAMES:
        hand_in(root, name)
    nbgrader(root, "autograde", "*", "--create")
    nbgrader(root, "generate_feedback", "*")
    return root


def hand_in(root: Path, name: str) -> None:
    """Put what each student hands in for an assignment where nbgrader looks for it."""
    given = root / "release" / name / f"{name}.ipynb"
    for student in students(name):
        target = root / "submitted" / student / name / given.name
        target.parent.mkdir(parents=True)
        shutil.copy(FOLDER / given.name if student == "solved" else given, target)
        if student == "solved" and name == NAMES[1]:
            loud = 'print("a warning", file=__import__("sys").stderr)'
            text = target.read_text(encoding="utf-8").replace("### BEGIN SOLUTION", json.dumps(loud)[1:-1])
            target.write_text(text, encoding="utf-8")
    if "edited" in students(name):
        book = nbformat.read(target, as_version=4)
        tests = [cell for cell in book.cells if is_marked(cell, "grade") and not is_marked(cell, "solution")]
        for cell in tests:
            cell.source = "pass  # my test is easier"
        book.cells.remove(tests[0])
        nbformat.write(book, target)


def students(name: str) -> list[str]:
    return ["solved", "untouched", "edited"][: 3 if name == NAMES[0] else 2]


def points(root: Path, student: str, name: str) -> dict[str, tuple[float | None, float]]:
    """Each graded cell's points of nbgrader's own and the most there are, from the gradebook."""
    query = """
        select base_cell.name, grade.auto_score, grade_cells.max_score from grade
        join grade_cells on grade_cells.id = grade.cell_id join base_cell on base_cell.id = grade_cells.id
        join submitted_notebook on submitted_notebook.id = grade.notebook_id
        join submitted_assignment on submitted_assignment.id = submitted_notebook.assignment_id
        join assignment on assignment.id = submitted_assignment.assignment_id
        where submitted_assignment.student_id = ? and assignment.name = ?
    """
    with sqlite3.connect(root / "gradebook.db") as base:
        rows = base.execute(query, (student, name)).fetchall()
    assert rows, f"{student} was not graded in {name}"
    return {cell: (score, most) for cell, score, most in rows}


def autograded(name: str) -> set[str]:
    return {
        cell.metadata.nbgrader.grade_id
        for cell in cells(FOLDER / f"{name}.ipynb")
        if is_marked(cell, "grade") and not is_marked(cell, "solution")
    }


def test_the_solutions_score_full_marks(graded, name):
    found = points(graded, "solved", name)
    tests = autograded(name)
    assert {cell: score for cell, (score, most) in found.items() if cell in tests and score != most} == {}
    assert tests <= found.keys()


def test_what_is_handed_out_scores_nothing_even_with_its_tests_edited(graded, name):
    for student in students(name)[1:]:
        found = points(graded, student, name)
        assert {cell: score for cell, (score, _) in found.items() if score != 0} == {}
        assert autograded(name) <= found.keys()


def secrets(name: str, hidden_tests_alone: bool = False) -> list[str]:
    """Lines of the instructor's that no student may see: of solutions, of hidden tests, of model answers."""
    found, shown = [], set()
    for cell in cells(FOLDER / f"{name}.ipynb"):
        in_words = is_marked(cell, "solution") and cell.cell_type == "markdown"
        hidden = in_words
        for line in cell.source.splitlines():
            line = line.strip()
            if BEGIN in line or "BEGIN SOLUTION" in line:
                hidden, tests = True, BEGIN in line
            elif END in line or "END SOLUTION" in line:
                hidden = False
            elif not hidden or (hidden_tests_alone and (in_words or not tests)):
                shown.add(line)  # a page of who handed in the solutions shows these
            elif len(line) >= 20:
                found.append(line)
    return [line for line in found if not any(line in other for other in shown)]


def test_students_get_neither_solutions_nor_hidden_tests_nor_outputs(graded, name):
    text = (graded / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    secret = secrets(name)
    assert len(secret) > 20
    assert not [line for line in secret if json.dumps(line, ensure_ascii=False)[1:-1] in text]
    assert json.dumps("Run the cells in order. Write where")[1:-1] in text  # so it would have been seen
    assert BEGIN not in text and END not in text and "BEGIN SOLUTION" not in text
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]]
    assert "write it here" in text and "Write your answer here" in text


def test_feedback_shows_no_hidden_test_and_no_solution(graded, name):
    for student in students(name):
        page = (graded / "feedback" / student / name / f"{name}.html").read_text(encoding="utf-8")
        text = re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", page)))
        secret = secrets(name, hidden_tests_alone=student == "solved")
        assert secret and not [line for line in secret if re.sub(r"\s+", "", line) in text]
        assert "Moretestsranhere" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_package_holds_no_solution(name):
    package = Path(homework.__file__).parents[1]
    lines = {line.strip() for file in package.rglob("*.py") for line in file.read_text(encoding="utf-8").splitlines()}
    ordinary = ("import ", "from ", "return ", "def ", "for ", "if ")
    shared = [line for line in secrets(name) if line in lines and len(line) >= 40 and not line.startswith(ordinary)]
    assert shared == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_points_are_stated_where_they_are_earned(path):
    book = cells(path)
    assert "20 points" in book[0].source
    stated, earned = {}, {}
    part = None
    for cell in book:
        if cell.cell_type == "markdown" and not is_marked(cell, "grade"):
            for heading, number in re.findall(r"^## (.*?)\((\d+) points?\)$", cell.source, re.MULTILINE):
                part, stated[heading] = heading, int(number)
        if is_marked(cell, "grade"):
            earned[part] = earned.get(part, 0) + cell.metadata.nbgrader.points
    assert stated == earned and sum(stated.values()) == 20
    assert 4 <= len(stated) <= 8
    assert any(is_marked(cell, "grade") and is_marked(cell, "solution") for cell in book), "no answer in words"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_every_test_has_hidden_ones_and_cells_are_marked_in_nbgraders_way(path):
    ids = [cell.metadata.nbgrader.grade_id for cell in cells(path) if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids))
    for cell in cells(path):
        if is_marked(cell, "grade") and not is_marked(cell, "solution"):
            assert cell.metadata.nbgrader.locked and divide(cell.source)[1], cell.metadata.nbgrader.grade_id


def test_release_writes_notebooks_and_a_page_and_touches_nothing_else(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("stays")
    assert cli.main(["homework", "release", str(tmp_path), "--only", "1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [NOTEBOOKS[0].name, "README.md", "mine.txt"]
    assert f"`{NOTEBOOKS[0].name}`: " in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("written: 1 notebooks")
    assert cli.main(["homework", "release", str(tmp_path), "--only", "9"]) == 1
    assert NAMES[0] in capsys.readouterr().err


def test_the_page_for_students_names_the_file_that_they_install(tmp_path, capsys):
    assert cli.main(["homework", "release", str(tmp_path), "--only", "1"]) == 0
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f'pip install "{homework.wheel()}[course]"' in page and "{" not in page
    assert f"pip wheel . --no-deps -w {tmp_path}" in capsys.readouterr().out
    (tmp_path / homework.wheel()).touch()
    assert cli.main(["homework", "release", str(tmp_path), "--only", "1"]) == 0
    assert "pip wheel" not in capsys.readouterr().out
    assert f'pip install "{homework.wheel()}[course]"' in GUIDE
    pages = [GUIDE, page, (FOLDER.parents[1] / "INSTALL.md").read_text(encoding="utf-8")]
    assert not [text for text in pages if re.search(r"""install ["']?minildm(\[|["'\s])(?! @)(?!course] @)""", text)]


def handed_in(path: Path, names: Sequence[str]) -> bytes:
    """A zip as a student packs it on macOS, in which each file holds its own name."""
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, name)
            file.writestr(f"__MACOSX/{name}", "a fork")
    return path.read_bytes()


def test_what_moodle_gives_is_sorted_with_the_pictures_of_a_project(tmp_path):
    root, name = tmp_path / "course", NAMES[-1]
    assert cli.main(["homework", "course", str(root), "--only", name]) == 0
    files = [f"{name}.ipynb", "leaves.ipynb", "pictures/oak/1.png", "pictures/oak/1.txt"]
    archive = root / "downloaded" / name / "archive"
    archive.mkdir(parents=True)
    with zipfile.ZipFile(archive / "Course-Project-1.zip", "w") as file:
        packed = handed_in(tmp_path / "flat.zip", files)
        file.writestr(f"Ada Lovelace_4711_assignsubmission_file/{name}.zip", packed)
        file.writestr(f"Li Wei_4713_assignsubmission_file_{name}.zip", packed)
        packed = handed_in(tmp_path / "folder.zip", [f"{name}/{one}" for one in files])
        file.writestr(f"Eva_Maria O'Neil_4712_assignsubmission_file_/{name}.zip", packed)
        for one in files:
            file.writestr(f"Wu_4714_assignsubmission_file_/{one}", one)
        file.writestr("Wu_4714_assignsubmission_onlinetext_/onlinetext.html", "the plan")
    nbgrader(root, "zip_collect", name)
    for student in ("Ada Lovelace", "Li Wei", "Eva_Maria O'Neil", "Wu"):
        place = root / "submitted" / student / name
        found = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
        assert sorted(found) == sorted([*files, "timestamp.txt"]) or sorted(found) == sorted(files)
        assert all((place / one).read_text().endswith(one) for one in files)
    assert len(list((root / "submitted").iterdir())) == 4


def table(text: str) -> list[list[str]]:
    """The rows of a table in markdown, without its head."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_guides_table_says_how_points_are_given_and_what_a_notebook_says():
    listed = {row[0]: row for row in table(GUIDE.partition("## Routes")[0])}
    assert list(listed) == [name[0] for name in NAMES]
    for path in NOTEBOOKS:
        graded = [cell for cell in cells(path) if is_marked(cell, "grade")]
        read = sum(cell.metadata.nbgrader.points for cell in graded if is_marked(cell, "solution"))
        number, name, _, minutes, points, _ = listed[path.stem[0]]
        assert points == f"{20 - read} / {read}" and f"({path.name})" in name
        assert f"about {minutes} minutes" in cells(path)[0].source


def test_routes_can_be_kept():
    """What is due needs lessons of earlier weeks alone, a lesson what it is taken with or after, and hours add up."""
    lessons = {row[0]: row for row in table(LESSONS) if re.fullmatch(r"\d\d", row[0])}
    listed = {row[0]: row for row in table(GUIDE.partition("## Routes")[0])}
    routes = re.findall(r"^### \w+ weeks: .*?\n(.*?)(?=^##|^- )", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(routes) == 3
    for route in routes:
        seen, minutes, due_before = set(), 0, set()
        for _, *taught, due in table(route):
            here = re.findall(r"\b\d\d\b", " ".join(taught))
            for number in here:
                needs = set(re.findall(r"\d\d", lessons[number][4]))
                assert needs <= seen | set(here), f"lesson {number} comes too early"
            minutes += 2 * sum(int(lessons[number][3]) for number in here)
            whole = set(re.findall(r"\b[1-7]\b", re.sub(r"room \d of 6", "", due)))
            for number in whole:
                after = re.findall(r"\d\d", listed[number][2].partition(",")[0])
                assert set(after) <= seen, f"assignment {number} is due in the week of its lesson, or before"
            due_before |= whole
            seen |= set(here)
        hours = float(re.match(r"\s*(\d+) hours for the lessons", route)[1])
        assert abs(minutes / 60 - hours) <= 0.5, f"the lessons take {minutes / 60:.1f} hours, not {hours:.0f}"
        asked = sum(int(listed[number][3]) for number in due_before - {"7"})
        if {"2", "3"} <= due_before and "2 or 3" in route:
            asked -= (int(listed["2"][3]) + int(listed["3"][3])) / 2
        asked += 30 if due_before == {"1"} else 0  # room 1 of 6
        hours = float(re.search(r"(\d+) for homework", route)[1])
        assert abs(asked / 60 - hours) <= 0.5, f"homework takes {asked / 60:.1f} hours, not {hours:.0f}"


def test_a_course_is_made_in_its_own_folder_and_keeps_its_settings(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert cli.main(["homework", "course", str(tmp_path / "full")]) == 1
    assert "neither" in capsys.readouterr().err
    assert cli.main(["homework", "course", str(tmp_path / "new"), "--only", "1"]) == 0
    config = tmp_path / "new" / "nbgrader_config.py"
    config.write_text(config.read_text(encoding="utf-8").replace("write it here", "your turn"), encoding="utf-8")
    assert cli.main(["homework", "course", str(tmp_path / "new"), "--only", "1"]) == 0
    assert "your turn" in (tmp_path / "new" / "release" / NAMES[0] / NOTEBOOKS[0].name).read_text(encoding="utf-8")


def test_an_installation_has_no_solutions_to_release(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(homework._course, "PACKAGE", tmp_path / "site-packages" / "minildm")
    assert cli.main(["homework", "release", str(tmp_path / "out")]) == 1
    assert "checkout" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_a_failing_test_says_is_masked():
    source = f"check.f(f)\n### {BEGIN}\nassert f(3) == the_hidden_truth(3), 'a hint'\n### {END}"
    cell = nbformat.v4.new_code_cell(source)
    stolen = "assert f(3)   ==\n  the_hidden_truth(3), 'a hint'"
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"✓ f: 3 facts\n{stolen}\n{stolen!r}\n"),
        nbformat.v4.new_output("error", ename="AssertionError", evalue="a hint", traceback=["----> 3 " + stolen]),
        nbformat.v4.new_output("execute_result", data={"text/plain": stolen}),
    ]
    mask(cell)
    assert cell.source == "check.f(f)\n# More tests ran here; what they say is below."
    assert "truth" not in json.dumps(cell) and "AssertionError: a hint" in cell.outputs[1].traceback[0]
    assert cell.outputs[0].text.startswith("✓ f: 3 facts\n(hidden)")
