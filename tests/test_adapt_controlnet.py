"""ControlNet: it starts as the denoiser it is copied from, learns alone, and computes what diffusers' does."""

import json
import shutil

import pytest
import torch
from compare import assert_equal, random, randomized
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from small_sd import change, small

from minildm import stable_diffusion, training, weights
from minildm.adapt import Controlled, ControlNet, LoRA
from minildm.denoiser import Denoiser
from minildm.losses import denoising_loss, draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.reference_names import reference_name
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import _configs


def denoiser(**more):
    how = dict(channels=(8, 16), attention=(1,), heads=2, context_dim=12, groups=4) | more
    return randomized(Denoiser(4, 4, **how))


X, T, CONTEXT = random(2, 4, 8, 12), torch.tensor([5, 700]), random(2, 7, 12, seed=2)
CONTROL = random(2, 1, 32, 48, seed=3).sigmoid()


class TestControlled:
    def test_at_first_it_is_the_denoiser(self):
        u = denoiser()
        both = Controlled(u, ControlNet.copy_of(u, factor=4))
        assert torch.equal(both(X, T, CONTEXT, control=CONTROL), u(X, T, CONTEXT))
        assert torch.equal(both(X, T, CONTEXT), u(X, T, CONTEXT))
        assert all(
            torch.equal(p, u.state_dict()[name])
            for name, p in both.controlnet.state_dict().items()
            if name in u.state_dict()
        )
        assert both.controlnet.state_dict().keys() - u.state_dict().keys() == {
            name for name in both.controlnet.state_dict() if name.startswith(("hint", "zero"))
        }

    @pytest.mark.parametrize(
        "more", [{}, dict(blocks_per_level=2, channels=(8, 12, 16)), dict(channels=(8,), attention=())]
    )
    def test_by_hand(self, more):
        """Each addition reaches its place, and counts as much as the scale says."""
        u = denoiser(**more)
        net = randomized(ControlNet.copy_of(u, control_channels=3, factor=2), 1)
        control = random(2, 3, 16, 24)
        *skips, bottom = net(X, T, control, CONTEXT)
        cond = u.embed(T, CONTEXT)
        mine = u.encode(X, cond)
        h = u.middle(mine[-1], cond) + 0.5 * bottom
        expected = u.output(u.decode(h, [a + 0.5 * b for a, b in zip(mine, skips, strict=True)], cond))
        found = Controlled(u, net, scale=0.5)(X, T, CONTEXT, control=control)
        assert (found - expected).abs().max() <= 1e-5 and (found - u(X, T, CONTEXT)).abs().max() > 0.05
        assert not torch.equal(found, Controlled(u, net, scale=0.5)(X, T, CONTEXT, control=1 - control))

    def test_every_parameter_of_the_copy_learns_and_no_other(self):
        u = denoiser(num_classes=3)
        u.schedule = NoiseSchedule.linear(50)
        both = Controlled(u, ControlNet.copy_of(u, factor=4))
        before = {name: p.clone() for name, p in both.named_parameters()}

        def batch(generator, n):
            x_0 = torch.randn(n, 4, 8, 8, generator=generator)
            more = dict(context=torch.randn(n, 4, 12, generator=generator), y=torch.tensor([0, 1, 2, -1])[:n])
            return draw_noise(x_0, both.schedule, generator) | more | {"control": torch.rand(n, 1, 32, 32)}

        training.train(both, batch, denoising_loss, steps=3, batch_size=4, ema=None, progress=False)
        for name, parameter in both.named_parameters():
            changed = not torch.equal(parameter, before[name])
            assert changed == name.startswith("controlnet."), name

    def test_contract(self):
        u = denoiser(num_classes=3)
        both = Controlled(u, ControlNet.copy_of(u))
        assert both.conditions == {"context", "mask", "y", "control"}
        for name in ("in_channels", "out_channels", "multiple", "context_dim", "num_classes", "null_class", "schedule"):
            assert getattr(both, name) == getattr(u, name)
        both.schedule = NoiseSchedule.cosine(10)
        assert u.schedule == both.schedule

    def test_saved_alone_and_with_its_denoiser(self, tmp_path):
        u = denoiser()
        net = randomized(ControlNet.copy_of(u, factor=4), 1)
        again = weights.load(weights.save(tmp_path / "net.safetensors", net))
        assert torch.equal(again(X, T, CONTROL, CONTEXT)[-1], net(X, T, CONTROL, CONTEXT)[-1])
        both = Controlled(u, net, scale=0.3)
        both.schedule = NoiseSchedule.cosine(10).predicting("v")
        again = weights.load(weights.save(tmp_path / "both.safetensors", both))
        assert torch.equal(again(X, T, CONTEXT, control=CONTROL), both(X, T, CONTEXT, control=CONTROL))
        assert again.schedule == both.schedule and again.scale == 0.3

    def test_in_a_pipeline(self, tmp_path):
        pipe = small()
        before = pipe("a cat", seed=0, steps=2, output="tensor")
        pipe.unet = Controlled(pipe.unet, ControlNet.copy_of(pipe.unet, factor=pipe.vae.multiple))
        mask = torch.zeros(1, 1, 8, 12)
        mask[..., :6] = 1
        assert torch.equal(pipe("a cat", seed=0, steps=2, output="tensor", control=mask), before)
        randomized(pipe.unet.controlnet, 1, vectors=0.5)
        how = dict(seed=0, steps=2, output="tensor", guidance=3)
        after = pipe("a cat", **how, control=mask)
        assert (after - before).abs().max() > 0.01
        two = pipe("a cat", **how | dict(seed=[0, 0]), control=torch.cat([mask, 1 - mask]))
        assert (two[0] - after[0]).abs().max() < 1e-4 < 0.002 < (two[1] - two[0]).abs().max()
        again = LatentDiffusion.from_pretrained(pipe.save_pretrained(tmp_path / "p"))
        assert torch.equal(again("a cat", **how, control=mask), after)
        with pytest.raises(ValueError, match=r"expected control: \(2, 1, 8, 12\).*got \(2, 1, 16, 12\)"):
            pipe("a cat", **how, control=torch.zeros(1, 1, 16, 12))
        with pytest.raises(ValueError, match="control as a tensor"):
            pipe("a cat", **how, control="mask.png")


class TestWhatDoesNotFit:
    def test_controls(self):
        net = ControlNet.copy_of(denoiser(), factor=4)
        for control in (
            CONTROL[:1],
            CONTROL[..., :8],
            CONTROL.expand(2, 3, 32, 48),
            CONTROL > 0.5,
            None,
            CONTROL[:, 0],
        ):
            with pytest.raises(ValueError, match=r"expected control: \(2, 1, 32, 48\)"):
                net(X, T, control, CONTEXT)

    def test_networks(self):
        u = denoiser()
        net = ControlNet.copy_of(u)
        with pytest.raises(ValueError, match=r"copy of another denoiser: its channels is \[8, 16\], not \[8, 24\]"):
            Controlled(denoiser(channels=(8, 24)), net)
        with pytest.raises(ValueError, match="Denoiser and a ControlNet"):
            Controlled(u, u)
        with pytest.raises(ValueError, match="skips"):
            ControlNet.copy_of(denoiser(skip=False))
        with pytest.raises(ValueError, match="expected a Denoiser"):
            ControlNet.copy_of(net)
        with pytest.raises(ValueError, match="factor"):
            ControlNet.copy_of(u, factor=3)


class TestDiffusers:
    """The same weights, in its layout."""

    LAYOUT = dict(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
        conditioning_channels=2,
        conditioning_embedding_out_channels=(5, 6, 7),
    )

    def same(self, net, theirs):
        control = CONTROL.repeat(1, net.control_channels, 1, 1)
        with torch.no_grad():
            *skips, bottom = net(X, T, control, CONTEXT)
            there = theirs(X, T, CONTEXT, control)
        assert len(skips) == len(there.down_block_res_samples)
        for mine, other in zip(
            [*skips, bottom], [*there.down_block_res_samples, there.mid_block_res_sample], strict=True
        ):
            assert_equal(mine, other)

    @pytest.fixture
    def theirs(self):
        return randomized(pytest.importorskip("diffusers").ControlNetModel(**self.LAYOUT))

    def test_theirs_here(self, theirs, tmp_path):
        theirs.save_pretrained(tmp_path / "net")
        self.same(stable_diffusion.load_controlnet(tmp_path / "net"), theirs)

    @pytest.mark.parametrize("more", [{}, dict(projection="linear", heads=(1, 4), blocks_per_level=2)])
    def test_ours_there(self, more, tmp_path):
        diffusers = pytest.importorskip("diffusers")
        net = randomized(ControlNet.copy_of(denoiser(**more), 3, factor=4), 1)
        folder = stable_diffusion.save_controlnet(net, tmp_path / "net")
        self.same(net, diffusers.ControlNetModel.from_pretrained(folder))
        again = stable_diffusion.load_controlnet(folder)
        assert again.config["hint"] == net.config["hint"]
        assert all(torch.equal(p, net.state_dict()[name]) for name, p in again.state_dict().items())

    def test_whole_step(self, theirs, tmp_path):
        """Denoiser and ControlNet together, as diffusers' pipeline calls them."""
        diffusers = pytest.importorskip("diffusers")
        shared = {k: v for k, v in self.LAYOUT.items() if not k.startswith("conditioning")}
        ups = ("CrossAttnUpBlock2D", "UpBlock2D")
        unet = randomized(diffusers.UNet2DConditionModel(**shared, up_block_types=ups), 3)
        unet.save_pretrained(tmp_path / "unet")
        mine = _configs.unet(json.loads((tmp_path / "unet" / "config.json").read_text()), tmp_path)
        state = unet.state_dict()
        mine.load_state_dict({name: state[reference_name(mine, name)] for name in mine.state_dict()})
        theirs.save_pretrained(tmp_path / "net")
        both = Controlled(mine, stable_diffusion.load_controlnet(tmp_path / "net"), scale=0.7)
        control = CONTROL.repeat(1, 2, 1, 1)
        with torch.no_grad():
            down, mid = theirs(X, T, CONTEXT, control, conditioning_scale=0.7, return_dict=False)
            expected = unet(
                X, T, CONTEXT, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            assert_equal(both(X, T, CONTEXT, control=control), expected)

    def test_from_the_hub(self, theirs, tmp_path, monkeypatch):
        """As a download leaves it there, and of the repository no more than is read."""
        cache, commit = tmp_path / "models--some--body", "0" * 40
        repository = cache / "snapshots" / commit
        theirs.save_pretrained(repository)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(commit)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        self.same(stable_diffusion.load_controlnet("some/body"), theirs)
        weights_file = repository / "diffusion_pytorch_model.safetensors"
        for name in ("diffusion_pytorch_model.bin", "picture.png", "diffusion_pytorch_model.fp16.bin", "README.md"):
            (repository / name).write_bytes(b"large")
        downloaded = tmp_path / "downloaded"

        def snapshot_download(repo_id, allow_patterns):
            downloaded.mkdir(exist_ok=True)
            names = [path.name for path in repository.iterdir()]
            for name in filter_repo_objects(names, allow_patterns=allow_patterns):
                shutil.copy(repository / name, downloaded)
            return str(downloaded)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        self.same(stable_diffusion.load_controlnet("some/body"), theirs)
        assert {path.name for path in downloaded.iterdir()} == {"config.json", weights_file.name}
        shutil.rmtree(downloaded)
        weights_file.rename(weights_file.with_suffix(".fp16.safetensors"))
        for variant in (None, "fp16"):
            self.same(stable_diffusion.load_controlnet("some/body", variant=variant), theirs)
        with pytest.raises(FileNotFoundError, match="no folder .*nowhere', and it is no name like 'owner/name'"):
            stable_diffusion.load_controlnet(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="is one file: name the folder it lies in"):
            stable_diffusion.load_controlnet(tmp_path / "net.safetensors")

    def test_a_lora_is_not_written(self, tmp_path):
        net = ControlNet.copy_of(denoiser(), 3, factor=4)
        lora = LoRA(net)
        with pytest.raises(ValueError, match="this ControlNet has a LoRA beside its layers"):
            stable_diffusion.save_controlnet(net, tmp_path / "net")
        assert not any(tmp_path.iterdir())
        lora.remove()
        stable_diffusion.load_controlnet(stable_diffusion.save_controlnet(net, tmp_path / "net"))

    def test_refused(self, theirs, tmp_path):
        folder = tmp_path / "net"
        theirs.save_pretrained(folder)
        for key, value in {
            "_class_name": "UNet2DConditionModel",
            "controlnet_conditioning_channel_order": "bgr",
            "global_pool_conditions": True,
            "addition_embed_type": "text_time",
            "conditioning_channels": "three",
        }.items():
            before = (folder / "config.json").read_text()
            change(folder / "config.json", **{key: value})
            with pytest.raises(ValueError, match=f"config.json: {key} is"):
                stable_diffusion.load_controlnet(folder)
            (folder / "config.json").write_text(before)
        save_file({"x": torch.zeros(2)}, folder / "diffusion_pytorch_model.safetensors")
        with pytest.raises(ValueError, match="the tensor x belongs to no part"):
            stable_diffusion.load_controlnet(folder)
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model.safetensors is missing"):
            stable_diffusion.load_controlnet(folder)
        with pytest.raises(FileNotFoundError, match="config.json"):
            stable_diffusion.load_controlnet(tmp_path)
        with pytest.raises(ValueError, match="words"):
            stable_diffusion.save_controlnet(ControlNet.copy_of(randomized(Denoiser(3, 3, (8,)))), tmp_path / "no")
        uneven = ControlNet.copy_of(denoiser(groups=None, channels=(8, 36)))
        with pytest.raises(ValueError, match="groups"):
            stable_diffusion.save_controlnet(uneven, tmp_path / "no")
        with pytest.raises(FileExistsError):
            (tmp_path / "mine").mkdir()
            (tmp_path / "mine" / "thesis.txt").write_text("text")
            stable_diffusion.save_controlnet(ControlNet.copy_of(denoiser()), tmp_path / "mine")
