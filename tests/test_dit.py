"""DiT: the reference's outputs on the same weights, adaLN-zero, and the contract of every denoiser here."""

import pytest
import torch
from compare import assert_equal, random, randomized

from minildm import stable_diffusion, training, weights
from minildm.adapt import LoRA
from minildm.attention import attention_maps
from minildm.denoiser import Denoiser
from minildm.dit import DiT, DiTBlock, modulate, positions
from minildm.layers import Cond
from minildm.losses import denoising_loss, draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.tensors import count_parameters

X, T, Y = random(2, 3, 8, 8), torch.tensor([5, 700]), torch.tensor([2, -1])
CONTEXT, MASK = random(2, 5, 12, seed=2), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def dit(**more):
    return randomized(DiT(3, 4, dim=16, depth=2, heads=2, **more), matrices=0.7)


def test_the_reference():
    """DiTTransformer2DModel of diffusers, which embeds time and class in each block anew: with equal weights there."""
    diffusers = pytest.importorskip("diffusers")
    sizes = dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=4, num_layers=2, sample_size=8
    )
    theirs = diffusers.DiTTransformer2DModel(**sizes, patch_size=2, num_embeds_ada_norm=5).eval()
    mine = DiT(3, 4, dim=16, depth=2, heads=2, num_classes=5)
    randomized(mine, matrices=0.7)
    own, state = mine.state_dict(), {}
    state["pos_embed.proj.weight"] = own["stem.weight"].reshape(16, 3, 2, 2)
    for name in ("weight", "bias"):
        state[f"proj_out_1.{name}"], state[f"proj_out_2.{name}"] = own[f"modulation.{name}"], own[f"head.{name}"]
    state["pos_embed.proj.bias"] = own["stem.bias"]
    for i, block in enumerate(theirs.transformer_blocks):
        here = f"transformer_blocks.{i}"
        for name in ("weight", "bias"):
            for at in ("q", "k", "v"):
                state[f"{here}.attn1.to_{at}.{name}"] = own[f"blocks.{i}.attention.to_{at}.{name}"]
            state[f"{here}.attn1.to_out.0.{name}"] = own[f"blocks.{i}.attention.to_out.{name}"]
            state[f"{here}.norm1.linear.{name}"] = own[f"blocks.{i}.modulation.{name}"]
            state[f"{here}.ff.net.0.proj.{name}"] = own[f"blocks.{i}.fc1.{name}"]
            state[f"{here}.ff.net.2.{name}"] = own[f"blocks.{i}.fc2.{name}"]
            for k in (0, 2):
                state[f"{here}.norm1.emb.timestep_embedder.linear_{1 + k // 2}.{name}"] = own[f"time.{k}.{name}"]
        state[f"{here}.norm1.emb.class_embedder.embedding_table.weight"] = own["classes.weight"]
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # as in the paper's own program
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"pos_embed.pos_embed"}
    with torch.no_grad():
        expected = theirs(X, timestep=T, class_labels=torch.tensor([2, 5])).sample
        assert_equal(mine(X, T, y=Y), expected)


def test_positions_by_hand():
    found = positions(2, 3, 8)
    assert found.shape == (6, 8)
    column, row = torch.tensor([0.0, 1, 2, 0, 1, 2]), torch.tensor([0.0, 0, 0, 1, 1, 1])
    torch.testing.assert_close(found[:, [0, 2]], torch.stack([column.sin(), column.cos()], 1))
    torch.testing.assert_close(found[:, [4, 7]], torch.stack([row.sin(), (row / 100).cos()], 1))
    assert len({tuple(place) for place in found.tolist()}) == 6


def test_blocks_start_as_nothing_and_the_prediction_as_zero():
    net = DiT(3, 4, dim=16, depth=3, heads=2, context_dim=12)
    x, cond = random(2, 6, 16), Cond(random(2, 16), CONTEXT, MASK)
    assert all(torch.equal(block(x, cond), x) for block in net.blocks)
    assert not net(X, T, CONTEXT).any()
    assert torch.equal(modulate(x, torch.tensor(0.0), torch.tensor(0.0)), x)


def test_block_by_hand():
    block = randomized(DiTBlock(8, 2))
    x, emb = random(2, 3, 8), random(2, 8, seed=3)
    six = block.modulation(emb).reshape(2, 6, 1, 8)
    norm = torch.nn.functional.layer_norm
    h = x + six[:, 2] * block.attention(norm(x, (8,), eps=1e-6) * (1 + six[:, 1]) + six[:, 0])
    inside = block.fc1(norm(h, (8,), eps=1e-6) * (1 + six[:, 4]) + six[:, 3])
    expected = h + six[:, 5] * block.fc2(torch.nn.functional.gelu(inside, approximate="tanh"))
    torch.testing.assert_close(block(x, Cond(emb)), expected)


def test_the_contract_of_a_denoiser():
    net = dit(context_dim=12, num_classes=3, schedule=NoiseSchedule.cosine(20))
    twin = Denoiser(3, 4, (8, 16), context_dim=12, num_classes=3, schedule=NoiseSchedule.cosine(20))
    for name in (
        "in_channels",
        "out_channels",
        "multiple",
        "schedule",
        "conditions",
        "context_dim",
        "num_classes",
        "null_class",
    ):
        assert getattr(net, name) == getattr(twin, name)
    before = net(X, T, CONTEXT, MASK, Y)
    assert before.shape == (2, 4, 8, 8)
    hidden = CONTEXT.clone()
    hidden[1, 3:] = 7.0
    assert torch.equal(net(X, T, hidden, MASK, Y), before)
    for other in (
        net(X, T + 1, CONTEXT, MASK, Y),
        net(X, T, CONTEXT, None, Y),
        net(X, T, CONTEXT, MASK, Y - 1 + 2 * (Y < 0)),
    ):
        assert (other - before).abs().max() > 1e-3
    assert net(random(2, 3, 4, 12), T, CONTEXT).shape == (2, 4, 4, 12)  # any size
    with attention_maps(net, "cross_attention") as maps:
        net(X, T, CONTEXT, MASK, Y)
    assert [m[0].shape for m in maps.values()] == [(2, 2, 16, 5)] * 2


@pytest.mark.parametrize("more", [{}, dict(num_classes=3), dict(context_dim=12, patch=4)])
def test_every_parameter_learns(more):
    net = DiT(3, 3, dim=16, depth=2, heads=2, schedule=NoiseSchedule.cosine(20), **more)
    before = {name: p.clone() for name, p in net.named_parameters()}

    def batch(generator, n):
        tensors = draw_noise(torch.randn(n, 3, 8, 8, generator=generator), net.schedule, generator)
        tensors |= {"y": torch.tensor([0, 1, 2, -1])[:n]} if "num_classes" in more else {}
        return tensors | ({"context": torch.randn(n, 4, 12, generator=generator)} if "context_dim" in more else {})

    training.train(net, batch, denoising_loss, steps=5, batch_size=4, ema=None, progress=False)
    assert not [name for name, p in net.named_parameters() if torch.equal(p, before[name])]


def test_in_a_pipeline_saved_and_adapted(tmp_path):
    net = randomized(DiT(3, 3, dim=16, depth=2, heads=2, num_classes=2, schedule=NoiseSchedule.flow(50)))
    pipe = LatentDiffusion(net, size=(8, 12), labels=["ant", "bee"])
    how = dict(seed=0, steps=2, output="tensor", guidance=2.0)
    before = pipe(y="bee", **how)
    assert (pipe(y="ant", **how) - before).abs().max() > 0.01
    again = LatentDiffusion.from_pretrained(pipe.save_pretrained(tmp_path / "model.safetensors"))
    assert torch.equal(again(y="bee", **how), before)
    assert torch.equal(weights.load(weights.save(tmp_path / "net.safetensors", net))(X, T), net(X, T))
    lora = LoRA(net, rank=2)
    for parameter in lora.parameters():
        parameter.data = random(*parameter.shape)
    after = pipe(y="bee", **how)
    again.load_lora(lora.save(tmp_path / "lora.safetensors"))
    assert torch.equal(again(y="bee", **how), after) and not torch.equal(after, before)
    with pytest.raises(ValueError, match="no network like this DiT"):
        stable_diffusion.save(LatentDiffusion(net, size=8), tmp_path / "sd")


def test_sizes_of_the_paper():
    """Table 1: parameters in millions, for latents of 32×32 and 1,000 classes, with the mean and a variance."""
    with torch.device("meta"):
        for millions, dim, depth, heads in (
            (33, 384, 12, 6),
            (130, 768, 12, 12),
            (458, 1024, 24, 16),
            (675, 1152, 28, 16),
        ):
            assert round(count_parameters(DiT(4, 8, dim, depth, heads, num_classes=1000)) / 1e6) == millions


def test_what_does_not_fit():
    net = dit(patch=4)
    with pytest.raises(ValueError, match="divisible by 4, the side of a patch"):
        net(random(2, 3, 8, 6), T)
    with pytest.raises(ValueError, match="expected 3 channels"):
        net(random(2, 4, 8, 8), T)
    with pytest.raises(ValueError, match="one timestep per picture"):
        net(X, T[:1])
    with pytest.raises(ValueError, match="knows no classes"):
        net(X, T, y=Y)
    for sizes in (dict(dim=18), dict(depth=0), dict(patch=0), dict(heads=3), dict(num_classes=0)):
        with pytest.raises(ValueError):
            DiT(3, 3, **dict(dim=16, depth=1, heads=2) | sizes)
