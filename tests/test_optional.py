import sys
from types import ModuleType

import pytest

from minildm.optional import moved, require


def test_gives_the_module_itself():
    import json.decoder

    assert require("json.decoder") is json.decoder


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_comes_with_the_line_that_installs_it(module):
    with pytest.raises(
        ImportError, match=r'"no_such_package", which is not installed: pip install "minildm\[course\]"'
    ):
        require(module)
    with pytest.raises(ImportError, match=r"minildm\[homework\]"):
        require(module, extra="homework")


@pytest.mark.parametrize("version", [(3, 13, 5), (3, 14, 0), (3, 15, 1)])
def test_a_package_without_a_wheel_for_this_python_says_which_python_to_take(monkeypatch, version):
    for name in ("stardist", "stardist.matching"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ImportError) as error:
        require("stardist.matching")
    said = str(error.value)
    assert '"stardist"' in said
    assert ("use Python 3.11 to 3.13" in said) == (version >= (3, 14)) == ("pip install" not in said)


def test_an_error_inside_the_package_is_not_hidden(tmp_path, monkeypatch):
    """A package that is there but lacks one of its own needs must say so itself."""
    (tmp_path / "half_installed.py").write_text("import something_else_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_else_that_is_missing"):
        require("half_installed")


def test_a_missing_part_of_a_present_package_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "hollow", ModuleType("hollow"))
    with pytest.raises(ImportError, match="hollow"):
        require("hollow.part")


def test_a_name_that_moved_warns_and_works_on(monkeypatch):
    old = ModuleType("old")
    old.__getattr__ = moved("old", {"decode": "json.loads", "path": "os.path"})
    monkeypatch.setitem(sys.modules, "old", old)
    with pytest.warns(DeprecationWarning, match="old.decode is json.loads now"):
        from old import decode
    assert decode("[1]") == [1]
    with pytest.warns(DeprecationWarning, match="old.path is os.path now"):
        assert old.path is sys.modules["os"].path
    with pytest.raises(AttributeError, match="module 'old' has no attribute 'other'"):
        _ = old.other
