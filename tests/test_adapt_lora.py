"""LoRA: against peft on the same weights, against diffusers' pipeline on the same files, and what does not fit."""

import copy
import json
import warnings

import pytest
import torch
from compare import random, randomized
from safetensors.torch import load_file, save_file
from small_sd import small
from torch import nn

from minildm import stable_diffusion, training, weights
from minildm.adapt import LoRA, LowRank
from minildm.adapt.lora import adaptable, names
from minildm.denoiser import Denoiser
from minildm.losses import denoising_loss, draw_noise
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet

EVERYTHING = ("to_q", "to_k", "to_v", "to_out", "conv1", "conv2", "conv", "project_in", "fc1", "shift")


def denoiser(seed=0, channels=(8, 16)):
    net = Denoiser(3, 3, channels, attention=(1,), heads=2, context_dim=12, groups=4)
    return randomized(net, seed)


def filled(lora, seed=3, scale=0.2):
    """Trained, as it were: `up` starts at zero and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return lora


X, T, CONTEXT = random(2, 3, 8, 12), torch.tensor([5, 700]), random(2, 7, 12, seed=2)


@torch.no_grad()
def answer(net):
    return net(X, T, CONTEXT)


class TestAgainstPeft:
    """On the same network: peft wraps layers, we stand beside them."""

    @pytest.fixture
    def theirs(self):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=list(EVERYTHING),
            alpha_pattern={"to_q": 7},
            rank_pattern={"conv1": 2},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(denoiser(), config)
        generator = torch.Generator().manual_seed(4)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    def test_the_same_weights_give_the_same_answer(self, theirs, tmp_path):
        theirs.save_pretrained(tmp_path)
        net = denoiser()
        before = answer(net)
        lora = LoRA.load(tmp_path, net)
        assert len(lora.branches) > 20 and {branch.rank for branch in lora.branches.values()} == {2, 3}
        assert {branch.alpha for branch in lora.branches.values()} == {5, 7}
        assert (answer(net) - answer(theirs)).abs().max() <= 1e-6 * before.abs().max()
        assert (answer(net) - before).abs().max() > 0.1

    def test_merged_the_same(self, theirs, tmp_path):
        theirs.save_pretrained(tmp_path)
        net = denoiser()
        LoRA.load(tmp_path, net, scale=1.0).merge()
        merged = theirs.merge_and_unload()
        assert (answer(net) - answer(merged)).abs().max() <= 1e-5
        for name, parameter in merged.named_parameters():
            assert (parameter - net.get_parameter(name)).abs().max() <= 1e-6

    def test_peft_reads_what_we_write(self, tmp_path):
        peft = pytest.importorskip("peft")
        net = UNet(1, 2, channels=(4, 8))
        lora = filled(LoRA(net, rank=2, alpha=3, layers=("conv1", "conv2")))
        x = random(2, 1, 8, 4)
        expected = net(x).detach()
        file = lora.save(tmp_path / "cells.safetensors")
        lora.remove()
        model = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=2, target_modules=["conv1", "conv2"]))
        tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(file).items()}
        assert not peft.set_peft_model_state_dict(model, tensors).unexpected_keys
        assert (model(x) - expected).abs().max() <= 1e-6

    def test_rank_stabilised(self, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q"], use_rslora=True, init_lora_weights=False)
        theirs = peft.get_peft_model(denoiser(), config).eval()
        theirs.save_pretrained(tmp_path)
        net = denoiser()
        LoRA.load(tmp_path, net)
        assert (answer(net) - answer(theirs)).abs().max() <= 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Stable Diffusion, in the layout of diffusers."""
    pipe = small()
    net = Denoiser(4, 4, (8, 16), attention=(1,), heads=2, context_dim=12, groups=8)
    pipe.unet = randomized(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stable_diffusion.save(pipe, tmp_path_factory.mktemp("sd") / "folder")


class TestAgainstDiffusers:
    """On the same folder, with the text tower."""

    @staticmethod
    def reference(folder):
        diffusers = pytest.importorskip("diffusers")
        pytest.importorskip("peft")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)

    @staticmethod
    def ours(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return stable_diffusion.load(folder)

    @torch.no_grad()
    def compare(self, ours, theirs, before):
        ids, _ = ours.tokenizer(["a cat", "a dog"])
        context = ours.text_encoder(ids)
        assert (context - theirs.text_encoder(ids)[0]).abs().max() <= 1e-5
        x, t = random(2, 4, 4, 6), torch.tensor([3, 40])
        found = ours.unet(x, t, context)
        assert (found - theirs.unet(x, t, context).sample).abs().max() <= 1e-5
        ids_before, plain = before.text_encoder(ids), before.unet(x, t, context)
        assert (context - ids_before).abs().max() > 0.01 and (found - plain).abs().max() > 0.01

    @staticmethod
    def adapted(pipe):
        from peft import LoraConfig

        how = dict(r=3, lora_alpha=3, init_lora_weights=False)
        pipe.unet.add_adapter(
            LoraConfig(target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"], **how)
        )
        pipe.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj", "v_proj", "fc1"], **how))

    def written(self, pipe, folder, prefix_text="text_encoder"):
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft import get_peft_model_state_dict

        unet = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
        text = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.text_encoder))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=unet, text_encoder_lora_layers=text)
        return folder

    def test_theirs_here(self, folder, tmp_path):
        theirs = self.reference(folder)
        self.adapted(theirs)
        assert (self.written(theirs, tmp_path) / "pytorch_lora_weights.safetensors").is_file()
        pipe = self.ours(folder)
        lora = pipe.load_lora(tmp_path)
        assert lora.scale == 1 and not lora.merged
        self.compare(pipe, theirs, self.ours(folder))
        lora.merge()
        self.compare(pipe, theirs, self.ours(folder))

    def test_ours_there(self, folder, tmp_path):
        pipe = self.ours(folder)
        networks = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
        lora = filled(LoRA(networks, rank=3, alpha=6, layers=EVERYTHING))
        lora.save(tmp_path)
        theirs = self.reference(folder)
        theirs.load_lora_weights(tmp_path)
        self.compare(pipe, theirs, self.ours(folder))

    def test_scale(self, folder, tmp_path):
        pipe = self.ours(folder)
        filled(LoRA(pipe.unet, rank=3)).save(tmp_path / "l.safetensors")
        theirs, pipe = self.reference(folder), self.ours(folder)
        theirs.load_lora_weights(tmp_path / "l.safetensors", adapter_name="l")
        theirs.set_adapters("l", 0.3)
        pipe.load_lora(tmp_path / "l.safetensors", scale=0.3)
        x, t, context = random(2, 4, 4, 6), torch.tensor([3, 40]), random(2, 5, 12)
        with torch.no_grad():
            assert (pipe.unet(x, t, context) - theirs.unet(x, t, context).sample).abs().max() <= 1e-5

    @pytest.mark.parametrize("kind", ["kohya", "older", "oldest"])
    def test_other_names(self, folder, tmp_path, kind):
        """Files as other programs write them; diffusers reads them too, so it says what they mean."""
        pipe = self.ours(folder)
        networks = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
        lora = filled(LoRA(networks, rank=3, layers=("to_q", "to_out")))
        lora.save(tmp_path)
        tensors, renamed = load_file(tmp_path / "pytorch_lora_weights.safetensors"), {}
        for name, tensor in tensors.items():
            layer, matrix = name.removesuffix(".weight").rsplit(".", 1)
            way = {"lora_A": "down", "lora_B": "up"}[matrix]
            if kind == "kohya":
                layer = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_").replace(".", "_")
                renamed[f"{layer}.lora_{way}.weight"] = tensor
                renamed[f"{layer}.alpha"] = torch.tensor(1.5)
            elif kind == "older" or "text_encoder" in name:
                inside = "lora_linear_layer" if "text_encoder" in name else "lora"
                renamed[f"{layer}.{inside}.{way}.weight"] = tensor
            else:
                block, last = layer.removesuffix(".0").rsplit(".", 1)
                renamed[f"{block}.processor.{last}_lora.{way}.weight"] = tensor
        save_file(renamed, tmp_path / "pytorch_lora_weights.safetensors")
        theirs, pipe = self.reference(folder), self.ours(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.load_lora_weights(tmp_path)
        pipe.load_lora(tmp_path)
        self.compare(pipe, theirs, self.ours(folder))


class TestBranches:
    @pytest.mark.parametrize(
        "layer, shape",
        [
            (nn.Linear(5, 7), (2, 3, 5)),
            (nn.Conv1d(5, 7, 3, padding=1), (2, 5, 9)),
            (nn.Conv2d(5, 7, 3, stride=2, padding=1), (2, 5, 8, 6)),
            (nn.Conv2d(5, 7, (3, 1), dilation=2, padding="same", padding_mode="circular", bias=False), (2, 5, 8, 6)),
            (nn.Conv3d(5, 7, 2), (2, 5, 4, 3, 6)),
        ],
    )
    def test_beside_and_merged_are_the_same(self, layer, shape):
        model = nn.ModuleDict({"it": layer})
        x = random(*shape)
        before, weight = layer(x).detach(), layer.weight.detach().clone()
        lora = LoRA(model, rank=2, alpha=3, layers=["it"])
        assert torch.equal(layer(x), before)  # `up` starts at zero
        filled(lora, scale=1.0)
        beside = layer(x).detach()
        lora.merge()
        close = 2e-6 * beside.abs().max()  # in float32, whichever order a machine sums in
        assert (layer(x) - beside).abs().max() <= close and (beside - before).abs().max() > 0.1
        lora.merge()  # once is enough
        lora.unmerge()
        assert (layer.weight - weight).abs().max() <= 1e-6
        lora.remove()
        assert (layer(x) - before).abs().max() <= 1e-5 and list(layer.state_dict()) == ["weight", "bias"][
            : len([*layer.parameters()])
        ]

    def test_by_hand(self):
        layer = nn.Linear(2, 1, bias=False)
        branch = LowRank(layer, 1, alpha=4)
        branch.down.weight.data, branch.up.weight.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
        branch.scale = 0.5
        assert branch(torch.tensor([[10.0, 100.0]])).item() == 0.5 * 4 * 3 * 210
        assert branch.matrix().tolist() == [[6.0, 12.0]]

    def test_only_the_branches_learn_and_all_of_them(self):
        net = denoiser()
        net.schedule = NoiseSchedule.linear(50)
        lora = LoRA(net, rank=2, layers=EVERYTHING)
        base = {name: p.clone() for name, p in net.named_parameters() if "lora_" not in name}

        def batch(generator, n):
            return draw_noise(torch.randn(n, 3, 8, 8, generator=generator), net.schedule, generator) | {
                "context": torch.randn(n, 4, 12, generator=generator)
            }

        training.train(net, batch, denoising_loss, steps=4, batch_size=2, ema=None, progress=False)
        assert all(torch.equal(net.get_parameter(name), value) for name, value in base.items())
        assert all(branch.up.weight.abs().max() > 0 for branch in lora.branches.values())
        assert sum(p.numel() for p in lora.parameters()) < 0.3 * sum(p.numel() for p in base.values())

    def test_several_add_up_and_go_one_by_one(self):
        net = denoiser()
        before = answer(net)
        first = filled(LoRA(net, rank=2, name="first"), 1)
        alone = answer(net)
        second = filled(LoRA(net, rank=3, name="second", layers=["to_q", "conv1"]), 2)
        both = answer(net)
        assert sorted(names(net)) == ["first", "second"] and not any("lora" in name for name in adaptable(net))
        assert not any(p.requires_grad for p in first.parameters()) and all(
            p.requires_grad for p in second.parameters()
        )
        second.remove()
        assert torch.equal(answer(net), alone)
        first.scale = 0
        assert torch.equal(answer(net), before)
        first.scale = 1
        filled(LoRA(net, rank=3, name="second", layers=["to_q", "conv1"]), 2)
        assert torch.equal(answer(net), both)

    def test_copies_and_devices(self):
        net = denoiser()
        lora = filled(LoRA(net))
        twin = copy.deepcopy(net)
        lora.scale = 0.0
        assert (answer(twin) - answer(net)).abs().max() > 0.01  # the copy has branches of its own
        assert net.to(torch.float64)(X.double(), T, CONTEXT.double()).dtype == torch.float64

    def test_small_file_with_its_record(self, tmp_path):
        net = denoiser()
        lora = filled(LoRA(net, words=["blorp"]))
        file = lora.save(tmp_path / "l.safetensors", seed=3)
        again = LoRA.load(file, denoiser())
        assert again.words == ["blorp"] and again.name == "loaded_1"
        from minildm import storage

        assert json.loads(storage.read_metadata(file)["record"])["seed"] == 3

    def test_in_16_bits(self, tmp_path):
        net = denoiser()
        lora = filled(LoRA(net, rank=3, alpha=6))
        whole, half = (
            lora.save(tmp_path / f"{dtype.itemsize}.safetensors", dtype=dtype)
            for dtype in (torch.float32, torch.float16)
        )
        assert {tensor.dtype for tensor in load_file(half).values()} == {torch.float16}
        plain, twin = denoiser(), denoiser()
        LoRA.load(half, twin)
        assert (answer(twin) - answer(net)).abs().max() < 0.01 * (answer(net) - answer(plain)).abs().max()
        assert half.stat().st_size < 0.8 * whole.stat().st_size

    def test_what_16_bits_cannot_hold(self, tmp_path):
        lora = filled(LoRA(denoiser()))
        next(iter(lora.branches.values())).down.weight.data[0, 0] = 1e6
        with pytest.raises(ValueError, match="lora_A.weight has values up to 1e.06, which torch.float16 cannot hold"):
            lora.save(tmp_path / "l.safetensors", dtype=torch.float16)
        assert not list(tmp_path.iterdir())
        assert lora.save(tmp_path / "l.safetensors").is_file()

    def test_a_model_with_branches_is_not_saved_as_if_it_had_none(self, tmp_path):
        net = denoiser()
        lora = LoRA(net)
        with pytest.raises(ValueError, match="lora.merge"):
            weights.save(tmp_path / "net.safetensors", net)
        lora.merge()
        lora.remove()
        weights.save(tmp_path / "net.safetensors", net)
        with pytest.raises(ValueError, match="pipe.load_lora"):
            weights.load(LoRA(net).save(tmp_path / "l.safetensors"))


class TestWhatDoesNotFit:
    def test_arguments(self):
        net = denoiser()
        with pytest.raises(ValueError, match="names of layers end in .*to_q"):
            LoRA(net, layers=["attn"])
        for rank in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match="rank"):
                LoRA(net, rank=rank)
        lora = LoRA(net)
        with pytest.raises(ValueError, match=r"no LoRA of this model has \(default\)"):
            LoRA(net)
        lora.merge()
        with pytest.raises(ValueError, match="unmerge"):
            lora.scale = 2
        with pytest.raises(ValueError, match="without groups"):
            LowRank(nn.Conv2d(4, 4, 3, groups=2), 2)

    def test_another_model(self, tmp_path):
        file = filled(LoRA(denoiser())).save(tmp_path / "l.safetensors")
        other = denoiser(channels=(8, 24))
        before = answer(other)
        with pytest.raises(
            ValueError, match="l.safetensors is a LoRA of another model.*takes 24 numbers to 24, not 16"
        ):
            LoRA.load(file, other)
        with pytest.raises(ValueError, match="it has no layer unet.down_blocks.*more"):
            LoRA.load(file, UNet(3, 3, (8, 16)))
        assert torch.equal(answer(other), before) and names(other) == []

    def test_half_of_a_pipeline(self, tmp_path):
        pipe = small()
        networks = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
        LoRA(networks).save(tmp_path)
        with pytest.raises(ValueError, match="pipe.load_lora takes both"):
            LoRA.load(tmp_path, small().unet)

    def test_files(self, tmp_path):
        net = denoiser()
        with pytest.raises(FileNotFoundError, match="there is no LoRA"):
            LoRA.load(tmp_path / "none.safetensors", net)
        with pytest.raises(FileNotFoundError, match="holds no LoRA"):
            LoRA.load(tmp_path, net)
        (tmp_path / "l.bin").write_bytes(b"pickle")
        with pytest.raises(FileNotFoundError, match="l.bin is not opened"):
            LoRA.load(tmp_path, net)
        with pytest.raises(ValueError, match="unpickles nothing"):
            LoRA.load(tmp_path / "l.bin", net)
        one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
        LoRA(net, name="a").save(one)
        LoRA.load(tmp_path, net).remove()
        LoRA(net, name="b").save(two)
        with pytest.raises(ValueError, match="one.safetensors, two.safetensors: say which"):
            LoRA.load(tmp_path, net)
        content = bytearray(one.read_bytes())
        content[-3] ^= 1
        one.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            LoRA.load(one, net)
        one.write_bytes(content[:500])
        with pytest.raises(ValueError, match="damaged"):
            LoRA.load(one, net)
        for name, said in {
            "unet.conv_in.weight": "is no LoRA",
            "unet.x.to_q.lora_magnitude_vector.weight": "DoRA",
            "lora_unet_x.hada_w1_a": "LoHa",
            "lora_unet_x.lora_down.weight": "two matrices",
        }.items():
            save_file({name: torch.ones(2, 2)}, two)
            with pytest.raises(ValueError, match=said):
                LoRA.load(two, net)
        for scale in (float("nan"), "1"):
            with pytest.raises(ValueError, match="scale"):
                LoRA.load(two, net, scale)


class TestPipelines:
    def test_words_of_a_lora_are_known(self, tmp_path):
        pipe = small()
        pipe.words = frozenset(["a", "cat"])
        filled(LoRA(pipe.unet, words=["a blorp"])).save(tmp_path)
        with pytest.warns(UserWarning, match="never saw 'blorp'"):
            before = pipe("a blorp", steps=2, seed=0, output="tensor")
        lora = pipe.load_lora(tmp_path)
        after = pipe("a blorp", steps=2, seed=0, output="tensor")
        assert (before - after).abs().max() > 0.01
        lora.remove()
        assert torch.equal(pipe("a blorp", steps=2, seed=0, output="tensor"), before)

    def test_pocket(self, tmp_path):
        from minildm.pipeline import LatentDiffusion

        pipe = LatentDiffusion.from_pretrained("pocket")
        file = filled(LoRA(pipe.unet), scale=0.05).save(tmp_path / "l.safetensors")
        assert file.stat().st_size < 1e6
        after = pipe("a red heart", steps=2, seed=0, output="tensor")
        pipe = LatentDiffusion.from_pretrained("pocket")
        lora = pipe.load_lora(file, scale=1.0)
        assert torch.equal(pipe("a red heart", steps=2, seed=0, output="tensor"), after)
        lora.scale = 0
        assert (pipe("a red heart", steps=2, seed=0, output="tensor") - after).abs().max() > 0.01
