"""Files and folders: a crash leaves the old or the new, and nothing goes that is not our own."""

import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from minildm import storage

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links as on Unix")


def tree(home: Path) -> dict[str, str]:
    """All files below a folder, hidden ones too, with what is in them."""
    return {
        str(path.relative_to(home)): path.read_bytes().decode(errors="replace")
        for path in home.rglob("*")
        if path.is_file()
    }


def save(path, index="index.json", own=(), **files):
    with storage.folder(path, index, own) as home:
        for name, text in {index: "new", **files}.items():
            storage.write_text(home / name.replace("__", "/"), text)


WRITERS = {
    "bytes": lambda path: storage.write_bytes(path, b"new"),
    "text": lambda path: storage.write_text(path, "new"),
    "tensors": lambda path: storage.write(path, {"a": torch.ones(2)}, {}),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@writers
def test_a_file_that_is_not_ours_stays(write, tmp_path):
    for name in ("x", "x.part", "x.old", "x.tmp", ".x.part", f".x.{'0' * 16}.part", f".xx.{'0' * 16}.part"):
        (tmp_path / name).write_text("mine")
    os.utime(tmp_path / f".xx.{'0' * 16}.part", (0, 0))  # the leftover of another file
    before = tree(tmp_path)
    assert write(tmp_path / "x") == tmp_path / "x"
    after = tree(tmp_path)
    assert after.pop("x") != before.pop("x") and after == before


def test_an_old_leftover_of_the_same_file_goes(tmp_path):
    (left := tmp_path / f".x.{'a' * 16}.part").write_text("half")
    (tmp_path / f".x.{'b' * 16}.part").mkdir()
    storage.write_text(tmp_path / "x", "new")
    assert left.exists()  # somebody may be writing it
    for path in (left, tmp_path / f".x.{'b' * 16}.part"):
        os.utime(path, (0, 0))
    storage.write_text(tmp_path / "x", "newer")
    assert sorted(os.listdir(tmp_path)) == [f".x.{'b' * 16}.part", "x"]


@posix
@writers
def test_links_are_written_through(write, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x").write_text("old")
    for name, leads_to in (("there", "disk/x"), ("nowhere", "disk/y"), ("chain", "there")):
        (tmp_path / name).symlink_to(leads_to)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / leads_to).read_bytes() != b"old"
        (tmp_path / "disk" / "x").write_text("old")


@posix
@writers
def test_permissions_are_ordinary(write, tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "kept").touch(mode=0o640)
    write(tmp_path / "kept")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o640
    with storage.folder(tmp_path / "folder", "i") as home:
        storage.write_text(home / "i", "new")
    (tmp_path / "by hand").mkdir()
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "by hand").stat().st_mode


@writers
@pytest.mark.parametrize("name", ["a" * 255, "图" * 85, "a b.c", "x."])
def test_any_name_will_do(write, name, tmp_path):
    write(tmp_path / "deep" / "er" / name)
    assert os.listdir(tmp_path / "deep" / "er") == [name]


@writers
def test_a_failure_leaves_the_old_file(write, tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        write(tmp_path / "x")
    with pytest.raises(KeyboardInterrupt), storage.file(tmp_path / "x") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"x": "old"}


@writers
def test_what_is_no_file_is_not_replaced(write, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="x is there and is no file"):
        write(tmp_path / "x")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileExistsError, match="pipe is there and is no file"):
            write(tmp_path / "pipe")
    (tmp_path / "kept").write_text("mine")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PermissionError, match="kept is protected"):
        patch.setattr(os, "access", lambda *_: False)  # as for anybody but root
        write(tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "mine"


def test_two_writers_at_once(tmp_path):
    with storage.file(tmp_path / "x") as one, storage.file(tmp_path / "x") as two:
        one.write_text("one")
        two.write_text("two")
    assert tree(tmp_path) == {"x": "one"}  # the block that ends last


# --- folders


@pytest.mark.parametrize("before", [None, {}, {".hidden": "x"}], ids=["new", "empty", "hidden"])
def test_a_new_folder(before, tmp_path):
    home = tmp_path / "a" / "b"
    for name, text in (before or {}).items():
        storage.write_text(home / name, text)
    if before == {}:
        home.mkdir(parents=True)
    save(home, unet="u", sub__deep="d")
    assert tree(home) == {"index.json": "new", "unet": "u", "sub/deep": "d"} | (before or {})
    assert os.listdir(home.parent) == ["b"]


def test_only_what_an_earlier_save_wrote_is_replaced(tmp_path):
    beside = {"model.old/thesis": "x", "model.part/thesis": "x", "model.part.part": "x", ".model/x": "x"}
    mine = {"README.md": "my notes", "unet.old": "x", "sub/mine": "x", ".git/config": "x", "other/a/b": "x"}
    for name, text in beside.items():
        storage.write_text(tmp_path / name, text)
    save(tmp_path / "model", unet="old", words="old", sub__deep="old", stale="old")
    for name, text in mine.items():
        storage.write_text(tmp_path / "model" / name, text)
    save(tmp_path / "model", own=["words", "never"], unet="u", sub__deep="d")
    expected = mine | {"index.json": "new", "unet": "u", "sub/deep": "d", "stale": "old"}
    assert tree(tmp_path / "model") == expected
    assert tree(tmp_path) == beside | {f"model/{name}": text for name, text in expected.items()}


@pytest.mark.parametrize("name", ["thesis.txt", "index.json.txt", "unet"])
def test_a_folder_of_other_things_is_refused(name, tmp_path):
    storage.write_text(tmp_path / "mine" / name, "x")
    with pytest.raises(FileExistsError, match=f"mine has no index.json but {name}: choose another folder"):
        save(tmp_path / "mine", unet="u")
    with pytest.raises(FileExistsError, match=f"{name} is there and is no folder"):
        save(tmp_path / "mine" / name, unet="u")
    assert tree(tmp_path) == {f"mine/{name}": "x"}


@posix
def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "nowhere").symlink_to("later")
    for _ in range(2):
        save(tmp_path / "link", unet="u")
        save(tmp_path / "nowhere", unet="u")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "nowhere").is_symlink()
    assert tree(tmp_path / "disk") == tree(tmp_path / "later") == {"index.json": "new", "unet": "u"}
    assert sorted(os.listdir(tmp_path)) == ["disk", "later", "link", "nowhere"]


@posix
def test_a_linked_file_in_a_folder_is_not_written(tmp_path):
    """As in a download's cache, whose blobs several folders share."""
    save(tmp_path / "model", unet="old")
    (tmp_path / "model" / "unet").rename(tmp_path / "blob")
    (tmp_path / "model" / "unet").symlink_to("../blob")
    save(tmp_path / "model", unet="u")
    assert tree(tmp_path) == {"blob": "old", "model/index.json": "new", "model/unet": "u"}


def test_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(".", unet="old")
    save(".", unet="u")
    assert os.listdir(".") and tree(Path.cwd()) == {"index.json": "new", "unet": "u"}


def test_at_every_moment_the_old_folder_or_the_new(tmp_path, monkeypatch):
    """Each single renaming fails once; and a reader never finds the index beside files of another save."""
    real, count, fails = Path.rename, 0, 0

    def rename(source, target):
        nonlocal count
        count += 1
        if count == fails:
            raise OSError("power cut")
        real(source, target)
        if (tmp_path / "model" / "index.json").exists() and done is None:
            assert tree_of() in (old, new)

    def tree_of():
        return {name: text for name, text in tree(tmp_path / "model").items() if not name.startswith(".model.")}

    old = {"index.json": "old", "unet": "old", "vae": "old", "mine": "x", "zzz": "old"}
    new = {"index.json": "new", "unet": "u", "mine": "x", "sub/deep": "d", "zzz": "z"}
    for name, text in old.items():
        storage.write_text(tmp_path / "model" / name, text)
    monkeypatch.setattr(Path, "rename", rename)
    for fails in range(1, 30):  # noqa: B007 (read in `rename`)
        count = 0
        done = None
        try:
            save(tmp_path / "model", own=["vae"], unet="u", sub__deep="d", zzz="z")
            break
        except OSError as error:
            done = error
            assert tree(tmp_path / "model") == old
    assert fails == 9 and tree(tmp_path / "model") == new  # four go, four come


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder(error, tmp_path):
    save(tmp_path / "model", unet="old")
    for name in ("model", "other"):
        with pytest.raises(error), storage.folder(tmp_path / name, "index.json") as home:
            storage.write_text(home / "unet", "half")
            raise error
    assert tree(tmp_path) == {"model/index.json": "new", "model/unet": "old"}
    assert os.listdir(tmp_path) == ["model"]
    with pytest.raises(ValueError, match="expected index.json among .* found unet"):  # noqa: SIM117
        with storage.folder(tmp_path / "model", "index.json") as home:
            storage.write_text(home / "unet", "new")


def test_a_folder_in_the_way_of_a_file(tmp_path):
    save(tmp_path / "model", unet="old")
    storage.write_text(tmp_path / "model" / "vae" / "mine", "x")
    storage.write_text(tmp_path / "model" / "sub", "x")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="vae is there and is no file"):
        save(tmp_path / "model", unet="u", vae="v")
    with pytest.raises(OSError):
        save(tmp_path / "model", unet="u", sub__deep="v")
    assert tree(tmp_path) == before


# --- the tensors of a module


def test_state_sees_through_compilation():
    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 5)))
    names = list(storage.state(module))
    assert list(storage.state(torch.compile(module))) == names
    module[1] = torch.compile(module[1])
    assert list(storage.state(module)) == names
    module.compile()
    assert list(storage.state(torch.compile(module))) == names
    assert storage.state(module)["1.0.bias"].data_ptr() == module[1]._orig_mod[0].bias.data_ptr()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_the_programs_defaults_change_nothing(device, dtype, tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.float16)}
    before = storage.write(tmp_path / "x", tensors, {}).read_bytes()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        assert storage.write(tmp_path / "y", tensors, {}).read_bytes() == before
        storage.write(tmp_path / "y", tensors, {"some": "text"})
        found, metadata = storage.read(tmp_path / "y")
        target = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        storage.fill(target, found, "y")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert metadata == {"some": "text"} and storage.read_metadata(tmp_path / "y")["some"] == "text"
    for name, tensor in tensors.items():
        assert found[name].device.type == "cpu" and found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor) and torch.equal(target[name], tensor)
