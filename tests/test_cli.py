import inspect
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

import minildm
from minildm import cli
from minildm.cli import _course as course


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"minildm {minildm.__version__}"


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f" {command} " in said for command in ("generate", "evaluate", "lab", "train"))


def test_wrong_usage_is_no_success(capsys):
    assert cli.main(["paint"]) == 2
    assert "paint" in capsys.readouterr().err


def test_an_error_of_the_package_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(course, "recipes", lambda: ["nuclei", "scenes-judge"])
    assert cli.main(["train", "nucleii"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "minildm: there is no recipe 'nucleii'; there are: nuclei, scenes-judge\n"


def test_debug_shows_where():
    with pytest.raises(ValueError, match="no recipe 'x'"):
        cli.main(["--debug", "train", "x"])


def test_a_defect_is_not_hidden(monkeypatch):
    def broken(name):
        raise TypeError("a slip of ours")

    monkeypatch.setattr(course, "recipe", broken)
    with pytest.raises(TypeError):
        cli.main(["train", "nuclei"])


def test_warnings_of_the_package_are_one_line_and_others_are_as_before(monkeypatch, capsys):
    def warn(name):
        warnings.warn_explicit("never saw\n  'zebra'", UserWarning, str(Path(minildm.__file__)), 1)
        warnings.warn_explicit("of another library", UserWarning, "elsewhere.py", 7)
        return types.SimpleNamespace(run=lambda *arguments, **options: Path("x"))

    monkeypatch.setattr(course, "recipe", warn)
    others = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show = lambda message, *where: others.append(str(message))
        assert cli.main(["train", "nuclei"]) == 0
        assert warnings.showwarning is show  # as it was
    assert capsys.readouterr().err == "minildm: warning: never saw 'zebra'\n"
    assert others == ["of another library"]


def test_train_hands_on_its_options(monkeypatch, capsys):
    calls = []

    def run(*arguments, **options):
        calls.append((arguments, options))
        return Path("here.safetensors")

    recipe = types.SimpleNamespace(run=run)
    monkeypatch.setattr(course, "recipe", lambda name: recipe)
    assert cli.main(["train", "nuclei"]) == 0
    options = ["--out", "a.safetensors", "--steps", "7", "--seed", "3", "--no-resume", "--runs", "elsewhere"]
    assert cli.main(["train", "nuclei", *options]) == 0
    assert calls == [
        ((None,), {"steps": None, "seed": 0, "resume": True, "runs": Path("runs")}),
        ((Path("a.safetensors"),), {"steps": 7, "seed": 3, "resume": False, "runs": Path("elsewhere")}),
    ]
    assert capsys.readouterr().out == "written: here.safetensors\n" * 2


def test_every_recipe_can_be_called_so():
    for name in course.recipes():
        signature = inspect.signature(course.recipe(name).run)
        sources = {"images": ["folder"], "masks": ["images", "masks"]}.get(name, [])
        bound = signature.bind(*sources, None, steps=None, seed=0, resume=True, runs=Path("elsewhere"))
        assert bound.arguments["out"] is None


def test_help_parts_what_trains_from_what_measures(capsys):
    assert cli.main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    own, shipped, studies = (said.index(title) for title in ("Your own pictures", "What ships", "Studies"))
    assert own < said.index("masks ") < shipped < said.index("nuclei ") < studies < said.index("nuclei-folds ")
    assert all(f" {name} " in said for name in course.recipes())


@pytest.mark.parametrize(
    "name, sources, options, told",
    [
        ("images", ["F"], "--size 16 --width 8 --no-labels --grey", dict(size=16, width=8, labels=False, grey=True)),
        ("images", ["F"], "--minutes 3 --batch 4 --lr 0.01 --captions", dict(minutes=3.0, batch=4, captions=True)),
        ("masks", ["F", "G"], "--steps 9 --channels 1 --instances labels", dict(channels=1, steps=9)),
        ("pocket", [], "--batch 8 --width 32 --size 32", dict(batch=8, width=32, size=32)),
    ],
)
def test_recipes_take_settings(name, sources, options, told, monkeypatch, capsys):
    calls = []

    def run(*arguments, **settings):
        calls.append((arguments, settings))
        return Path("model")

    monkeypatch.setattr(course, "recipe", lambda asked: types.SimpleNamespace(run=run) if asked == name else None)
    assert cli.main(["train", name, *sources, "-o" if sources else "--out", "here", *options.split()]) == 0
    ((arguments, settings),) = calls
    assert [str(one) for one in arguments] == [*sources, "here"]
    assert settings.items() >= told.items() and settings["seed"] == 0 and settings["resume"]
    assert ("size" in settings) == ("--size" in options)  # else it is the recipe's own
    assert capsys.readouterr().out.startswith("written: model\n")


def test_without_the_extras_it_says_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert cli.main([]) == 1
    assert 'pip install "minildm[course]"' in capsys.readouterr().err


def test_python_dash_m():
    said = subprocess.run([sys.executable, "-m", "minildm", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["minildm", minildm.__version__]
