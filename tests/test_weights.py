"""Weights files: what goes in comes out, and whatever else is in a file is refused with a helpful error."""

import json
import math
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from minildm import storage, weights
from minildm.denoiser import Denoiser
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet, residual_block

MADE = {"recipe": "nuclei", "seed": 7, "dice": [0.93, 0.94], "machine": "two CPU cores"}


def unet(seed=1, **changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(**dict(in_channels=2, out_channels=3, channels=(8, 4)) | changed)


@pytest.fixture
def file(tmp_path):
    return weights.save(tmp_path / "u.safetensors", unet(), **MADE)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of shipped weights of our own."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "shelf")
    return weights.FOLDER


def rewrite(path, tensors=None, **changed):
    """The same file with other tensors or metadata, and a checksum that fits."""
    found, metadata = storage.read(path)
    return storage.write(path, found if tensors is None else tensors, metadata | changed)


def test_round_trip(file):
    module, loaded = unet().train(), weights.load(file)
    x = torch.randn(5, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert type(loaded) is UNet and not loaded.training and loaded.config == module.config
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())
    before, after = storage.state(module), storage.state(loaded)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(module(x), loaded(x))
    assert torch.equal(weights.load(str(file))(x), module(x))


def test_half_precision_is_half_the_file_and_is_widened(file, tmp_path):
    half = weights.save(tmp_path / "half.safetensors", unet(channels=(32, 16)), dtype=torch.float16)
    full = weights.save(tmp_path / "full.safetensors", unet(channels=(32, 16)))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    for name, tensor in storage.state(weights.load(half)).items():
        assert tensor.dtype == torch.float32, name
        assert torch.equal(tensor, storage.state(unet(channels=(32, 16)))[name].half().float()), name
    assert torch.equal(
        weights.load(weights.save(tmp_path / "b.safetensors", unet(), dtype=torch.bfloat16)).stem.weight,
        unet().stem.weight.bfloat16().float(),
    )


def test_float8_is_for_matrices_and_kernels_and_is_widened(tmp_path):
    eight = torch.float8_e4m3fn
    sizes = [
        weights.save(tmp_path / f"{dtype}.safetensors", unet(channels=(32, 16)), dtype=dtype).stat().st_size
        for dtype in (eight, torch.float16)
    ]
    assert sizes[0] < 0.7 * sizes[1]
    for name, tensor in storage.state(weights.load(tmp_path / f"{eight}.safetensors")).items():
        stored = torch.float16 if tensor.ndim < 2 else eight
        assert tensor.dtype == torch.float32, name
        assert torch.equal(tensor, storage.state(unet(channels=(32, 16)))[name].to(stored).float()), name


def test_memory_layout_does_not_matter(tmp_path):
    module = unet().to(memory_format=torch.channels_last)
    loaded = weights.load(weights.save(tmp_path / "u.safetensors", module))
    assert torch.equal(module.stem.weight, loaded.stem.weight)


def test_record(file):
    record = weights.record(file)
    assert record.pop("torch") == torch.__version__ and record.pop("minildm")[0].isdigit()
    assert record == MADE


def test_checksum_tells_files_apart(file, tmp_path):
    same = weights.save(tmp_path / "same.safetensors", weights.load(file), **MADE)
    other = weights.load(file)
    with torch.no_grad():
        other.stem.weight[0, 0, 0, 0] += 1
    other = weights.save(tmp_path / "other.safetensors", other, **MADE)
    assert weights.checksum(same) == weights.checksum(weights.save(tmp_path / "again.safetensors", unet(), **MADE))
    assert weights.checksum(other) != weights.checksum(same)
    with pytest.raises(FileNotFoundError):
        weights.checksum(tmp_path / "none.safetensors")


def test_random_numbers_stay_in_place(file, tmp_path):
    before = torch.get_rng_state()
    weights.load(file)
    weights.save(tmp_path / "again.safetensors", unet())
    assert torch.equal(torch.get_rng_state(), before)


def test_shipped_names(shelf):
    assert weights.names() == []
    with pytest.raises(FileNotFoundError, match="'nuclei'.*Shipped names: none"):
        weights.load("nuclei")
    for name in ("scenes-judge", "nuclei"):
        assert weights.save(name, unet(), recipe=name) == shelf / f"{name}.safetensors"
    assert weights.names() == ["nuclei", "scenes-judge"]
    assert weights.record("nuclei")["recipe"] == "nuclei"
    assert torch.equal(weights.load("nuclei").stem.weight, unet().stem.weight)
    with pytest.raises(FileNotFoundError, match="'nuclie'; did you mean 'nuclei'. Shipped names: nuclei, scenes-judge"):
        weights.record("nuclie")
    with pytest.raises(FileNotFoundError, match="there is no weights file .*mine.safetensors"):
        weights.load(shelf.parent / "mine.safetensors")
    (shelf / "nuclei.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="nuclei.safetensors is damaged.*reinstall minildm"):
        weights.load("nuclei")


@pytest.mark.parametrize("name", ["", "../nuclei", "a/b", "nuclei.pt", ".safetensors/x", "a b"])
def test_what_is_neither_name_nor_path(name):
    with pytest.raises(ValueError, match="expected a name such as 'nuclei' or a path ending in .safetensors"):
        weights.load(name)


def test_every_class_in_the_table_is_there():
    for name, module in weights.CLASSES.items():
        assert module.startswith("minildm.")
        assert issubclass(weights._class(name), nn.Module)


def test_truncated_at_any_length(file):
    whole = file.read_bytes()
    dice = random.Random(0)
    for length in [0, 1, 7, 8, 9, len(whole) - 1, *(dice.randrange(len(whole)) for _ in range(40))]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="u.safetensors is damaged or incomplete.*copy it again"):
            weights.load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        weights.load(file)


def test_any_flipped_bit(file):
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    dice = random.Random(0)
    places = [
        *range(8),
        *(dice.randrange(8, header) for _ in range(60)),
        *(dice.randrange(header, len(whole)) for _ in range(20)),
    ]
    for place in places:
        if whole[place : place + 1].isspace():
            continue  # space between the parts of the header means nothing
        bad = bytearray(whole)
        bad[place] ^= 1 << dice.randrange(7)
        file.write_bytes(bad)
        with pytest.raises(ValueError, match="u.safetensors"):
            weights.load(file)
    file.write_bytes(whole)
    weights.load(file)


def test_other_files(file, tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    for open_it in (weights.load, weights.record):
        with pytest.raises(ValueError, match="other.safetensors.*(did not write|expected the format)"):
            open_it(tmp_path / "other.safetensors")
    (tmp_path / "page.safetensors").write_text("<!doctype html><title>404</title>" * 50)
    with pytest.raises(ValueError, match="page.safetensors is damaged"):
        weights.record(tmp_path / "page.safetensors")
    with pytest.raises(ValueError, match="expected the format 'minildm weights 1', found 'minildm weights 2'.*update"):
        weights.load(rewrite(file, format="minildm weights 2"))


def test_what_other_files_are_opened_by(file, tmp_path):
    for kind, says in (
        ("pipeline", "LatentDiffusion.from_pretrained opens it"),
        ("training", "training.restore fills"),
    ):
        with pytest.raises(ValueError, match=f"'minildm {kind} 1'; .*{says}"):
            weights.load(rewrite(file, format=f"minildm {kind} 1"))
    tensors, metadata = storage.read(weights.save(file, unet()))
    for key, value in (("config", "{"), ("config", "[1]"), ("schedule", "no"), ("schedule", "{}")):
        bad = storage.write(tmp_path / "bad.safetensors", tensors, metadata | {key: value})
        with pytest.raises(ValueError, match="bad.safetensors is damaged|expected what NoiseSchedule.config writes"):
            weights.load(bad)
    del metadata["config"]
    with pytest.raises(ValueError, match="bad.safetensors is damaged: expected the arguments of its UNet, found None"):
        weights.load(storage.write(tmp_path / "bad.safetensors", tensors, metadata))


def test_numbers_of_numpy_in_a_record(tmp_path):
    made = dict(dice=np.float32(0.25), steps=np.int64(7), good=np.bool_(True), many=[np.float64(0.5), (np.uint8(3),)])
    path = weights.save(tmp_path / "u.safetensors", UNet(np.int64(2), 3, (np.int32(8), 4)), **made)
    found = weights.record(path)
    assert [found[key] for key in made] == [0.25, 7, True, [0.5, [3]]] and weights.load(path).config["in_channels"] == 2
    for bad in (np.float32("nan"), np.float64("inf"), np.zeros(2), np.array(1.0)):
        with pytest.raises(ValueError, match="the record must hold only what JSON can"):
            weights.save(path, unet(), found=bad)


@pytest.mark.parametrize("name", ["Unet", "Linear", "os.system", "torch.nn.Linear", "_class", ""])
def test_no_file_can_name_code_to_run(file, name):
    with pytest.raises(ValueError, match=f"class {name!r} is none of UNet"):
        weights.load(rewrite(file, **{"class": name}))


def test_tensors_that_do_not_fit(file):
    tensors, metadata = storage.read(file)
    del tensors["stem.bias"]
    tensors["extra"] = torch.ones(1)
    tensors["head.weight"] = torch.zeros(3, 8, 1, 1)
    with pytest.raises(ValueError) as error:
        weights.load(rewrite(file, tensors))
    for part in ("missing stem.bias", "unexpected extra", "head.weight: expected (3, 8, 3, 3), found (3, 8, 1, 1)"):
        assert part in str(error.value)
    assert str(file) in str(error.value)
    with pytest.raises(ValueError, match=r"cannot build UNet.*depth.*update minildm"):
        weights.load(rewrite(file, config=json.dumps(unet().config | {"depth": 2})))


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "u.safetensors"
    with pytest.raises(ValueError, match="expected a module of class UNet.*got Linear"):
        weights.save(path, nn.Linear(2, 3))
    with pytest.raises(ValueError, match="expected a module of class UNet.*got function"):
        weights.save(path, lambda x: x)
    with pytest.raises(ValueError, match="got UNet; add it"):
        weights.save(path, type("UNet", (UNet,), {})(1, 1))
    with pytest.raises(ValueError, match="blocks of your own"):
        weights.save(path, unet(block=lambda *a: residual_block(*a)))
    module = unet()
    module.head = nn.Conv2d(8, 5, 3)
    with pytest.raises(ValueError, match=r"must rebuild.*head.weight: expected \(3, 8, 3, 3\), found \(5, 8, 3, 3\)"):
        weights.save(path, module)
    with pytest.raises(ValueError, match="the record must hold only what JSON can.*Tensor"):
        weights.save(path, unet(), loss=torch.ones(1))
    with pytest.raises(ValueError, match="floating-point dtype.*int8"):
        weights.save(path, unet(), dtype=torch.int8)
    module = unet()
    with torch.no_grad():
        module.stem.bias[1] = -70000.0
    with pytest.raises(ValueError, match=r"stem.bias has values up to 7e\+04, which torch.float16 cannot hold"):
        weights.save(path, module, dtype=torch.float16)
    module = unet()
    with torch.no_grad():
        module.stem.weight[0, 0, 1, 1] = 500.0
    with pytest.raises(ValueError, match=r"stem.weight has values up to 500, which torch.float8_e4m3fn cannot hold"):
        weights.save(path, module, dtype=torch.float8_e4m3fn)
    assert not list(tmp_path.iterdir())


def test_tied_and_whole_number_tensors(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module.append(module[0])
    state = storage.state(module)
    assert list(state) == ["0.weight", "0.bias", *(f"1.{n}" for n, _ in module[1].state_dict().items())]
    path = storage.write(tmp_path / "s.safetensors", state | {"scalar": torch.tensor(4), "none": torch.ones(0, 2)}, {})
    tensors, metadata = storage.read(path)
    assert metadata == {} and tensors["scalar"] == 4 and tensors["none"].shape == (0, 2)
    assert tensors["1.num_batches_tracked"].dtype == torch.int64
    del tensors["scalar"], tensors["none"]
    with torch.no_grad():
        module[0].weight.zero_()
    storage.fill(storage.state(module), tensors, path)
    assert torch.equal(module[2].weight, tensors["0.weight"]) and module[0].weight.any()


def test_writing_is_atomic(file, monkeypatch):
    whole = file.read_bytes()
    seen = []

    def replace(source, target):
        seen.append((os.path.dirname(source), os.path.dirname(target), Path(target).read_bytes() == whole))
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(os, "replace", replace)
        weights.save(file, unet(seed=2))
    assert seen == [(str(file.parent), str(file.parent), True)]
    assert file.read_bytes() == whole and os.listdir(file.parent) == [file.name]

    with safe_open(file, "pt") as reader:  # someone reads the old file meanwhile
        weights.save(file, unet(seed=2))
        assert torch.equal(reader.get_tensor("stem.weight"), unet().stem.weight)
    assert torch.equal(weights.load(file).stem.weight, unet(seed=2).stem.weight)
    assert os.listdir(file.parent) == [file.name]
    assert os.stat(file).st_mode & 0o444 == 0o444 or os.name != "posix"  # others may read it too


def test_makes_the_folder(tmp_path):
    assert weights.load(weights.save(tmp_path / "a" / "b" / "u.safetensors", unet())).config == unet().config


def test_several_modules_in_one_file(tmp_path):
    one, other = unet(1), unet(2, channels=(4, 8))
    tensors, metadata = {}, {}
    for name, module in (("one", one), ("other", other)):
        values, texts = weights.pack(module, torch.float16)
        tensors |= {f"{name}/{key}": value for key, value in values.items()}
        metadata[name] = json.dumps(texts)
    tensors, metadata = storage.read(storage.write(tmp_path / "both.safetensors", tensors, metadata))
    for name, module in (("one", one), ("other", other)):
        values = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
        again = weights.unpack(values, json.loads(metadata[name]), "both")
        assert again.config == module.config and not again.training
        assert torch.equal(again.stem.weight, module.stem.weight.half().float())
    with pytest.raises(ValueError, match="both does not fit this module: missing stem.weight"):
        weights.unpack({}, json.loads(metadata["one"]), "both")
    with pytest.raises(ValueError, match="both: its class None is none of"):
        weights.unpack(values, {}, "both")


def test_compiled_modules_are_saved_as_the_plain_ones(file, tmp_path):
    whole, part = torch.compile(unet()), unet()
    part.down = nn.ModuleList([torch.compile(block) for block in part.down]) if hasattr(part, "down") else part.down
    part.compile()
    for module in (whole, part):
        path = weights.save(tmp_path / "compiled.safetensors", module, **MADE)
        assert weights.checksum(path) == weights.checksum(file) and type(weights.load(path)) is UNet


def weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(module.head)


def adapters(module):
    """With the names that PEFT gives to the parts of an adapted layer."""
    layer = nn.Module()
    layer.base_layer = module.head
    layer.lora_A = nn.ModuleDict({"default": nn.Conv2d(8, 2, 3)})
    layer.lora_B = nn.ModuleDict({"default": nn.Conv2d(2, 3, 1)})
    module.head = layer


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda m: nn.utils.parametrizations.weight_norm(m.head), "parametrizations: .*remove_parametrizations.*head"),
        (lambda m: nn.utils.parametrizations.spectral_norm(m.stem), "remove_parametrizations.*stem"),
        (weight_norm, "remove_weight_norm"),
        (lambda m: nn.utils.spectral_norm(m.head), "remove_spectral_norm"),
        (lambda m: prune.l1_unstructured(m.stem, "weight", 0.5), "pruning.*stem.weight_mask"),
        (adapters, "adapters of PEFT.*head.(base_layer|lora_A)"),
    ],
    ids=["parametrized", "spectral parametrized", "weight norm", "spectral norm", "pruned", "PEFT"],
)
def test_what_was_put_in_from_outside_is_named(change, says, tmp_path):
    module = unet()
    change(module)
    with pytest.raises(ValueError, match=f"this UNet has .*{says}"):
        weights.save(tmp_path / "u.safetensors", module)
    with pytest.raises(ValueError, match="expected a module of class.*got DataParallel; it has a wrapper for several"):
        weights.save(tmp_path / "u.safetensors", nn.DataParallel(unet()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    module = unet()
    with torch.no_grad():
        module.head.bias[1] = value
    with pytest.raises(ValueError, match="head.bias has values"):
        weights.save(tmp_path / "u.safetensors", module)
    with torch.device("meta"):
        empty = unet()
    with pytest.raises(ValueError, match="stem.weight is on the meta device.*fill the UNet"):
        weights.save(tmp_path / "u.safetensors", empty)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_the_programs_defaults_change_nothing(file, device, dtype):
    expected, checksum, module = weights.load(file), weights.checksum(file), unet()
    schedule = NoiseSchedule.cosine(7).predicting("v")
    with_schedule = weights.save(file.with_name("d.safetensors"), Denoiser(2, 2, (8, 4), groups=2, schedule=schedule))
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        found = weights.load(file)
        weights.save(file, module, **MADE)
        assert weights.load(with_schedule).schedule == schedule
        assert torch.get_default_dtype() == dtype and torch.get_default_device().type == device
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert weights.checksum(file) == checksum
    for name, tensor in storage.state(found).items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, storage.state(expected)[name]), name
