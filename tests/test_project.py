"""What the files around the package say agrees: with each other, and with what is there."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from minildm import homework

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = LESSONS + sorted((ROOT / "notebooks").glob("evidence/*.ipynb"))
HOMEWORK = sorted((ROOT / "notebooks").glob("homework/*.ipynb"))  # tests/test_homework.py has more of it
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, list[Requirement]]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    found = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)


def test_conda_and_pip_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = environment["dependencies"]
    assert environment["name"] == "minildm" and environment["channels"] == ["conda-forge"]
    assert conda == [f"python{PROJECT['requires-python']},<3.14", "pip"]
    options = [line for line in last["pip"] if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e ."]
    packages = [line for line in last["pip"] if line not in options]
    assert packages == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["course"]


def test_every_pin_is_one_exact_version():
    for name, requirements in pins().items():
        for requirement in requirements:
            (specifier,) = requirement.specifier
            assert specifier.operator == "==" and "*" not in specifier.version, name
            assert Version(specifier.version).local is None, f"{name}: +{Version(specifier.version).local} is one build"
        assert len(requirements) == 1, f"{name} is pinned more than once"


def test_every_dependency_has_a_lower_bound_and_a_pin_within_its_range():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(line) for group in groups for line in group if line != "minildm[course]"]
    for requirement in wanted:
        assert any(part.operator == ">=" for part in requirement.specifier), requirement
        (exact,) = pins()[canonicalize_name(requirement.name)][0].specifier
        assert requirement.specifier.contains(exact.version), f"{exact} is outside {requirement}"


@pytest.mark.parametrize("name", ["README.md", "INSTALL.md", "YOUR_PICTURES.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_pages_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not [link for link in links(text) if not (ROOT / link.partition("#")[0]).exists()]


def test_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:minildm|tests|data|notebooks|\.ci)/[^`]*)`", text)
    patterns = [re.sub(r"NN_name|NAME|NN|name(?=\.py)", "*", name) for name in named]
    assert len(patterns) > 15 and "minildm/data/*.py" in patterns
    assert not [pattern for pattern in patterns if not any(ROOT.glob(pattern.rstrip("/")))]


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert found == sorted(found, key=Version, reverse=True)
    assert importlib.import_module("minildm").__version__ == found[0]


def test_old_names_that_the_changelog_says_work_do():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(minildm\.[\w.]+)` \| `(minildm\.[\w.]+)` \|$", text, re.MULTILINE)
    assert len(table) >= 10
    for old, new in table:
        (old_home, _, old_name), (new_home, _, new_name) = old.rpartition("."), new.rpartition(".")
        with pytest.warns(DeprecationWarning, match=re.escape(new)):
            found = getattr(importlib.import_module(old_home), old_name)
        assert found is getattr(importlib.import_module(new_home), new_name)


def test_the_lesson_table_has_every_lesson_and_links_those_that_exist():
    table = re.findall(r"^\| (\d\d) \| (.+?) \|", README, re.MULTILINE)
    assert [number for number, _ in table] == [f"{n:02}" for n in range(15)]
    linked = [Path(link).name for _, title in table for link in links(title)]
    assert linked == [path.name for path in LESSONS]


def test_the_table_of_claims_is_what_the_notebooks_print():
    claims = script("claims")
    written = claims.PAGE.read_text(encoding="utf-8")
    assert written == claims.page(claims.rows(ROOT / "notebooks")), "run: python .ci/claims.py"
    assert not [link for link in links(written) if not (claims.PAGE.parent / link).is_file()]


def test_claims_are_read_from_printed_lines(tmp_path):
    claims = script("claims")
    outputs = [
        {"name": "stdout", "text": ["fold 1\n", "C12: 4 | 2 times\n", "C01: borders 0.9 to 0.7\n", "see C01: no\n"]},
        {"name": "stderr", "text": ["C02: not printed by an experiment\n"]},
        {"output_type": "display_data", "data": {}},
    ]
    cells = [{"source": "C03: text of a cell"}, {"outputs": outputs}]
    (tmp_path / "01_a.ipynb").write_text(json.dumps({"cells": cells}))
    rows = claims.rows(tmp_path)
    assert rows == [("C01", "01_a.ipynb", "borders 0.9 to 0.7"), ("C12", "01_a.ipynb", "4 | 2 times")]
    text = claims.page(rows)
    assert f"| C12 | {claims.CLAIMS['C12']} | 4 \\| 2 times | [lesson 01](../01_a.ipynb) |" in text
    assert f"Not measured yet: C02, {claims.CLAIMS['C02']}; C03, " in text and "; C12, " not in text
    assert claims.rows(tmp_path / "none") == []
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "01_a.ipynb").write_text(json.dumps({"cells": [{"outputs": [outputs[0]]}]}))
    found = claims.rows(tmp_path)
    assert [name for _, name, _ in found] == ["01_a.ipynb", "evidence/01_a.ipynb"] * 2
    assert "[evidence 01](01_a.ipynb) |" in claims.page(found)
    (tmp_path / "02_b.ipynb").write_text(json.dumps({"cells": [{"outputs": [{"name": "stdout", "text": "C77: x"}]}]}))
    with pytest.raises(ValueError, match="C77"):
        claims.rows(tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS + HOMEWORK, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    cells = [cell for cell in cells if "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run: make notebooks"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    shown = [cell for cell in cells if "BEGIN HIDDEN TESTS" not in "".join(cell["source"])]
    assert max(len("".join(cell["source"]).splitlines()) for cell in shown) <= 20
    assert len(text.encode()) <= 1_500_000
    readable = re.sub(r'"image/\w+": "[^"]*"', "", text)
    assert not re.findall(r"/(?:work|tmp|root|home|Users)/[^\s\"]*", readable)


@pytest.mark.parametrize("path", NOTEBOOKS + HOMEWORK, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    to_files = [link for link in links(prose) if not link.startswith("attachment:")]
    assert not [link for link in to_files if not (path.parent / link.partition("#")[0]).exists()]
    # `minildm lab` copies notebooks/ alone into a learner's folder.
    assert not [link for link in to_files if ROOT / "notebooks" not in (path.parent / link).resolve().parents]


def unrendered(markdown: str) -> list[str]:
    """The mathematics that JupyterLab would show as source, by the rules of its own markdown: where each begins.

    A formula ends at the delimiter it began with, braces closed, before the next blank line. Code is no mathematics.
    """
    text = re.sub(r"^(```+|~~~+).*?^\1[^\n]*$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
    lost, opened, depth, began = [], None, 0, 0
    for found in re.finditer(r"\\[{}$\\]|\$\$?|[{}]|\n\s*\n|\Z", text):
        token = found[0]
        if opened is None:
            if token in ("$", "$$"):
                opened, depth, began = token, 0, found.start()
        elif token == opened and depth == 0:
            opened = None
        elif token in ("{", "}"):
            depth += 1 if token == "{" else -1
        elif not token or token.isspace():  # a blank line, or the end
            lost, opened = [*lost, text[began : began + 60]], None
    return lost


def test_mathematics_that_would_not_render_is_seen():
    good = r"a $x_{t}$, $\{1\}$ and \$5, `$HOME`" + "\n\n$$\nx\n = y\n$$\n\n```sh\necho $PATH\n\n```"
    assert unrendered(good) == []
    assert unrendered("$$x\n\n= y$$ and more") == ["$$x\n\n= y$$ and more", "$$ and more"]
    assert unrendered("costs $5 a month\n\nand so on") == ["$5 a month\n\nand so on"]
    assert len(unrendered("$x_{t$")) == len(unrendered("$x_{t$ and\n\n$y$")) == len(unrendered("$$x$")) == 1


@pytest.mark.parametrize("path", NOTEBOOKS + HOMEWORK, ids=lambda path: path.stem)
def test_mathematics_of_a_notebook_renders(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert not [formula for text in prose for formula in unrendered(text)]


def test_make_notebooks_replaces_only_what_ran(tmp_path, monkeypatch, capsys):
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.syspath_prepend(ROOT / ".ci")
    notebooks = script("notebooks")
    monkeypatch.setattr(notebooks.claims, "main", lambda: None)
    monkeypatch.setattr(notebooks, "PATIENCE", 60)

    def written(name, *sources):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
        return tmp_path / name

    good = written("good.ipynb", "x = 6", "print(7 * x)")
    bad = written("bad.ipynb", "print('before')", "raise KeyError('no such thing')")
    loud = written("loud.ipynb", "import sys", "print('a warning', file=sys.stderr)")
    before = bad.read_text(), loud.read_text()
    assert notebooks.main([str(bad), str(good), str(loud)]) == 1
    assert [cell["outputs"][0]["text"] for cell in json.loads(good.read_text())["cells"][1:]] == [["42\n"]]
    assert (bad.read_text(), loud.read_text()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "good.ipynb", "loud.ipynb"]
    said = capsys.readouterr()
    assert "no such thing" in said.out and "prints to stderr: a warning" in said.out
    assert "bad.ipynb, loud.ipynb" in said.err
    assert notebooks.main([str(good)]) == 0


def test_a_path_of_this_machine_is_seen(monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.syspath_prepend(ROOT / ".ci")
    notebooks = script("notebooks")
    empty = nbformat.v4.new_notebook()
    assert list(notebooks.complaints(empty, "all is well")) == []
    (said,) = notebooks.complaints(empty, f'"file {ROOT}/minildm/unet.py"')
    assert str(ROOT) in said and "unet.py" in said
    (said,) = notebooks.complaints(empty, "x" * 1_600_000)
    assert "1.6 MB" in said


def test_the_wheel_carries_the_package_its_weights_and_the_lessons(tmp_path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minildm").rglob("*") if path.is_file()}
    lessons = [path.relative_to(ROOT / "notebooks") for path in (ROOT / "notebooks").rglob("*") if path.is_file()]
    lessons = [path for path in lessons if path.parts[0] != "homework"]  # with solutions: for instructors alone
    here |= {f"minildm/_lessons/{path.as_posix()}" for path in lessons}
    here = {name for name in here if "__pycache__" not in name and ".ipynb_checkpoints" not in name}
    assert {name for name in names if ".dist-info/" not in name} == here
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "notebooks/homework" in name or "_lessons/homework" in name]
    assert Path(wheel).name == homework.wheel()  # what the guide for instructors and the students' page call it


def test_the_source_distribution_is_lean(tmp_path):
    archive = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(archive) as file:
        names = file.getnames()
        assert not [name for name in names if "/notebooks/homework" in name]
        top = {name.split("/")[1] for name in names}
    assert top == {
        "minildm",
        "notebooks",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }


def test_the_top_level_holds_what_it_should():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for_people = {
        "README.md",
        "INSTALL.md",
        "YOUR_PICTURES.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "notebooks",
        "minildm",
        "data",
        "environment.yml",
    }
    for_tools = {"pyproject.toml", "Makefile", "LICENSE", "constraints.txt", ".ci", ".github", ".gitignore"}
    for_tools |= {"tests", "conftest.py", "benchmarks"}
    assert {name.split("/")[0] for name in listed if name} <= for_people | for_tools


@pytest.mark.parametrize("rule", ["check", "format --check"])
def test_the_style_is_kept(rule):
    ruff = [sys.executable, "-m", "ruff", *rule.split(), "."]
    said = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, f"run: make format\n{said.stdout}{said.stderr}"


def test_python_is_new_enough_everywhere():
    (lowest,) = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert sys.version_info >= tuple(int(part) for part in lowest.version.split("."))
    assert f"Python {lowest.version} to 3.13" in README
    major, minor = lowest.version.split(".")
    assert f"({major}, {minor}) <= sys.version_info < (3, 14)" in (ROOT / ".ci" / "setup").read_text(encoding="utf-8")


def test_the_workflow_runs_what_make_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert [name.split("-")[0] for name in matrix["system"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.13"]
    run = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (pytest_line,) = re.findall(r"^PYTEST := (.+)$", makefile, re.MULTILINE)
    for command in ("make test", pytest_line, "-m ruff check .", "-m ruff format --check .", '-e ".[test]"'):
        assert command in run


def test_continuous_integration_begins_with_the_style_and_ends_with_pytest():
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^test: lint\n\t@\$\(PY\) \$\(PYTEST\) \$\(ARGS\)\n\n", makefile, re.MULTILINE)
    lint = makefile.partition("\nlint: ")[2].partition("\n\n")[0]
    assert "ruff check" in lint and "ruff format --check" in lint


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_short(path):
    """Evidence may have as many words and cells as it needs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    words = sum(len("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown")
    assert words <= 2200 and len(cells) <= 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_is_in_sight_of_a_notebook_is_short(path):
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        hidden = cell["metadata"].get("jupyter", {}).get("source_hidden")
        if cell["cell_type"] == "code" and not hidden:
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
            assert len(lines) <= 12, f"cell {number} has {len(lines)} lines in sight"
