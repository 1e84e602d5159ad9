"""Files and folders on disk, written atomically: a crash at any moment leaves the old ones or the new, never half.

What is being written lies under a name that nobody else has (`.NAME.<16 digits>.part`, in the same folder), and is
renamed when it is whole. So nothing is removed or overwritten but the file of the very name that was asked for, and,
in a folder, what an earlier save put there. A killed process may leave a `.part` behind: it can be deleted, and the
next write of the same file deletes it when it is older than an hour.
A symbolic link is written through: it stays a link, and what it leads to is written.

Tensors lie in safetensors files, with a checksum over names, metadata and values. Nothing is unpickled.
"""

import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn


def state(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and persistent buffers by name: live, and a tied tensor only once.

    A module, or a part of one, that went through `torch.compile` has the names of the plain one.
    """
    first_name = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        first_name.setdefault(id(tensor), (name.replace("_orig_mod.", ""), tensor))
    return {name: tensor.detach() for name, tensor in first_name.values()}


def fill(target: dict[str, Tensor], tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy tensors into live ones of the same names and shapes; any difference is a ValueError that names it."""
    check_same(target, tensors, str(source))
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def check_same(expected: dict[str, Tensor], found: dict[str, Tensor], source: str) -> None:
    """Raise ValueError, which begins with `source`, unless both have the same names and shapes."""
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unexpected {name}" for name in found if name not in expected]
    for name, tensor in expected.items():
        if name in found and found[name].shape != tensor.shape:
            wrong.append(f"{name}: expected {tuple(tensor.shape)}, found {tuple(found[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(f"{source} does not fit this module: {'; '.join(wrong[:6])}{more}")


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and texts as one safetensors file, with a checksum; returns the path. OSError as of `file`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_bytes(path, to_bytes(tensors, {**metadata, "checksum": _checksum(tensors, metadata)}))


def read(path: str | Path, *, foreign: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the texts of a file made by `write`.

    foreign: also of one that another program wrote, which has no checksum.
    Raises FileNotFoundError, and ValueError when it is damaged or was written by another program.
    """
    with _open(path) as file:
        metadata = dict(file.metadata() or {})
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise ValueError(_damaged(path, error)) from error
    if "checksum" not in metadata:
        if foreign:
            return tensors, metadata
        raise ValueError(f"{path} is a safetensors file, but minildm did not write it: it carries no checksum")
    if metadata.pop("checksum") != _checksum(tensors, metadata):
        raise ValueError(_damaged(path, "its checksum does not match"))
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts alone of a file made by `write`, the "checksum" among them; reads no tensor. Errors as of `read`."""
    with _open(path) as file:
        return dict(file.metadata() or {})


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file; returns the path. OSError as of `file`."""
    with file(path) as part:
        part.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a file of text in UTF-8; returns the path. OSError as of `file`."""
    return write_bytes(path, text.encode())


@contextmanager
def file(path: str | Path) -> Iterator[Path]:
    """Inside, an empty file beside `path`, to be filled; at the end it takes the place of `path`.

    Where an exception leaves the block, `path` is as before. Folders on the way are made. It has the permissions of
    the file that it replaces, or those of any new file. Raises FileExistsError where `path` is there and no file,
    PermissionError where it may not be written.
    """
    target = Path(os.path.realpath(path))
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent, target.name)
    part = _unique(target.parent, target.name)
    part.open("xb").close()
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _sync(target.parent)


@contextmanager
def folder(path: str | Path, index: str, own: Collection[str] = ()) -> Iterator[Path]:
    """Inside, an empty folder, to be filled; at the end its files stand in `path`, all or none.

    index: the name of the file by which a folder is known as one of these, such as "pipeline.json". It is taken away
        first and put in place last, so a reader never finds it beside files of another save.
    own: names of further files that an earlier save may have left. They go where the new folder has none.

    `path` may be new, empty (but for hidden files), or have `index` in it. In the last case files of the same names
    are replaced, and everything else stays. Where an exception leaves the block, `path` is as before; a process killed
    among the renames leaves the old files, whole, in the `.part`. Raises FileExistsError where `path` is a file or
    holds other things but no `index`, PermissionError where a file may not be written.
    """
    check_folder(path, index)
    target = Path(os.path.realpath(path))
    there = target.is_dir()
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the folder where it is there, since the folder may be a disk of its own, across which nothing is renamed.
    part = _unique(target if there else target.parent, target.name)
    part.mkdir()
    try:
        (new := part / "new").mkdir()
        yield new
        if not (new / index).is_file():
            raise ValueError(f"expected {index} among what was written to {path}, found {', '.join(_visible(new))}")
        if there:
            _exchange(new, target, part / "old", index, own)
        else:
            new.rename(target)
            _sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_folder(path: str | Path, index: str) -> None:
    """Raise FileExistsError where `folder` would: to be asked before the work whose result is to lie there."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{path} is there and is no folder: choose another name")
    if target.is_dir() and not (target / index).is_file() and (others := _visible(target)):
        raise FileExistsError(f"{path} has no {index} but {', '.join(others[:3])}: choose another folder, or empty it")


def _exchange(new: Path, target: Path, old: Path, index: str, own: Collection[str]) -> None:
    """Move all files of `new` to `target`, and those that they replace to `old`; back again where one fails."""
    names = sorted(file.relative_to(new) for file in new.rglob("*") if not file.is_dir())
    for name in names:
        _check_replaceable(target / name)
    leaving = [name for name in dict.fromkeys([Path(index), *names, *map(Path, own)]) if os.path.lexists(target / name)]
    moves = [(target / name, old / name) for name in leaving]
    moves += [(new / name, target / name) for name in sorted(names, key=lambda name: name == Path(index))]
    done = []
    try:
        for source, place in moves:
            place.parent.mkdir(parents=True, exist_ok=True)
            source.rename(place)
            done.append((source, place))
    except BaseException:
        for source, place in reversed(done):
            place.rename(source)
        raise
    for name in {target / name for name in names}:
        _sync(name.parent)


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_file():
        raise FileExistsError(f"{target} is there and is no file: choose another name")
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{target} is protected from being written: choose another name, or allow it")


def _unique(home: Path, name: str) -> Path:
    """A name that nobody has: not by `tempfile`, which keeps others from reading what it makes."""
    return home / f".{name[:40]}.{secrets.token_hex(8)}.part"


def _sweep(home: Path, name: str) -> None:
    """Remove what a killed process left of writing this file; nobody is writing what has rested for an hour."""
    ours = re.compile(rf"\.{re.escape(name[:40])}\.[0-9a-f]{{16}}\.part")
    for left in home.iterdir():
        if ours.fullmatch(left.name) and left.is_file() and time.time() - left.stat().st_mtime > 3600:
            left.unlink(missing_ok=True)


def _visible(home: Path) -> list[str]:
    return sorted(entry.name for entry in home.iterdir() if not entry.name.startswith("."))


def _sync(home: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(home, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open(path: str | Path):
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: str | Path, why: object) -> str:
    return f"{path} is damaged or incomplete ({why}); copy it again from its source, or delete it"


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
