"""Every public function says what it takes and gives: its annotations are complete, so that tools can rely on them."""

import ast
from pathlib import Path

import pytest

import minildm

PACKAGE = Path(minildm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Called by Python or PyTorch, and by readers through them.
CALLED = {"__init__", "__call__", "__getitem__", "__iter__", "__len__", "__enter__", "__exit__", "__next__"}


def functions(tree: ast.AST) -> list[tuple[str, ast.FunctionDef, bool]]:
    """(name, definition, whether a method) of the public functions of a module, and of its public classes."""
    found = [(node.name, node, False) for node in tree.body if isinstance(node, ast.FunctionDef)]
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")):
        found += [(f"{kind.name}.{node.name}", node, True) for node in kind.body if isinstance(node, ast.FunctionDef)]
    return [row for row in found if row[1].name in CALLED or not row[1].name.startswith("_")]


def lacking(name: str, function: ast.FunctionDef, method: bool) -> list[str]:
    """What of a function has no annotation."""
    given = function.args
    named = [*given.posonlyargs, *given.args]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
    if method and not static:
        named = named[1:]  # self or cls
    named += [*given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    found = [f"{name}({argument.arg})" for argument in named if argument.annotation is None]
    return found + [f"{name} ->"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_public_functions_are_annotated(file):
    open_ends = [what for row in functions(ast.parse(file.read_text(encoding="utf-8"))) for what in lacking(*row)]
    assert not open_ends, f"no annotation: {', '.join(open_ends)}"


def test_what_lacks_is_seen():
    source = """
def whole(a: int, *b: str, c: float = 1.0, **d: object) -> None: ...
def open_ended(a, *b, c: int, d=1, **e): ...
def _private(a): ...
class Public:
    def __init__(self, a, b: int): ...
    def method(self) -> None: ...
    @classmethod
    def made(cls, a): ...
    @staticmethod
    def plain(a) -> int: ...
    def __repr__(self): ...
class _Private:
    def method(self, a): ...
"""
    open_ends = [what for row in functions(ast.parse(source)) for what in lacking(*row)]
    first = ["open_ended(a)", "open_ended(d)", "open_ended(b)", "open_ended(e)", "open_ended ->"]
    assert open_ends == [*first, "Public.__init__(a)", "Public.made(a)", "Public.made ->", "Public.plain(a)"]


def test_other_tools_are_told_that_there_are_types():
    assert (PACKAGE / "py.typed").read_text() == ""
