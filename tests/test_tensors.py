import pytest
import torch

from minildm.tensors import (
    best_device,
    check_images,
    count_parameters,
    defaults,
    expand,
    peak_memory,
    seeded,
)


def test_expand_gives_one_number_per_sample():
    v = torch.tensor([2.0, 3.0])
    assert torch.equal(
        expand(v, torch.ones(2, 3, 4, 5)) * torch.ones(2, 3, 4, 5), v.view(2, 1, 1, 1).expand(2, 3, 4, 5)
    )
    assert expand(v, torch.ones(2, 7)).shape == (2, 1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (1,)])
def test_expand_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"one number per sample, shape \(2,\)"):
        expand(torch.zeros(shape), torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize(
    "images, says",
    [
        (torch.zeros(3, 8, 8), r"x\[None\]"),
        (torch.zeros(8, 8), r"\(b, 3, h, w\), got shape \(8, 8\); add two axes with x\[None, None\]"),
        (torch.zeros(()), r"got shape \(\)"),
        (torch.zeros(3), r"got shape \(3,\)"),
        (torch.zeros(1, 2, 3, 8, 8), r"got shape \(1, 2, 3, 8, 8\)"),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            "floating-point numbers, got torch.uint8; minildm.images.to_model",
        ),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(2, 4, 8, 8), "in_channels=4"),
        (torch.zeros(2, 3, 12, 20), "halves the image 3 times; got 12×20: pad or resize it to 16×24"),
        (torch.zeros(2, 3, 0, 8), "got 0×8: pad or resize it to 8×8"),
        ([[1.0]], "got list"),
    ],
)
def test_check_images_says_what_to_do(images, says):
    with pytest.raises(ValueError, match=says):
        check_images(images, channels=3, multiple=8)


def test_check_images_accepts_what_fits():
    check_images(torch.zeros(2, 3, 16, 24), channels=3, multiple=8)


def test_seeded_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        assert torch.equal(torch.rand(4), first)
    with seeded(4):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_count_parameters_leaves_out_frozen_ones():
    layer = torch.nn.Linear(3, 5)
    assert count_parameters(layer) == 20
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 15


def test_best_device_can_hold_a_tensor():
    assert torch.ones(2, device=best_device()).sum().item() == 2


def test_peak_memory_counts_what_lives_at_the_same_time():
    x = torch.zeros(1000)  # 4,000 bytes, there before

    def three_in_turn(x):
        for _ in range(3):
            x = x + 1  # the new one and the one before it, but the first time x itself, which is free

    assert peak_memory(three_in_turn, x) == 8000
    assert peak_memory(lambda x: (x + 1, x + 2, x.view(10, 100)), x) == 8000
    assert peak_memory(lambda x: x.mul_(2), x) == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_programs_defaults_change_nothing(device, dtype):
    def everything():
        with seeded(3):
            drawn = torch.rand(4, dtype=torch.float32, device="cpu")
        with defaults("cpu"):
            made = torch.nn.Linear(2, 3).weight.detach().mul(0)
        return drawn, made, expand(drawn, torch.zeros(4, 2, dtype=torch.float32, device="cpu"))

    expected, bytes_ = everything(), peak_memory(lambda x: x + 1, torch.zeros(1000))
    x = torch.zeros(1000)
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        found = everything()
        assert peak_memory(lambda x: x + 1, x) == bytes_
        with pytest.raises(KeyError), defaults("meta", torch.float16):
            assert torch.zeros(1).dtype == torch.float16
            raise KeyError
        assert torch.get_default_dtype() == dtype and torch.get_default_device().type == device
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cpu" and one.dtype == other.dtype and torch.equal(one, other)
