"""Stable Diffusion 1 at full size, at random: `minildm` against `diffusers` with the same weights, in the same run.

    python benchmarks/stable_diffusion.py              # its U-Net, its decoder and its encoder: time and memory
    python benchmarks/stable_diffusion.py --picture    # one whole text-to-image run: time, memory, equal pictures

On a GPU where there is one, in bfloat16, otherwise on the CPU in float32. The two hold the very same tensors, so the
weights, 4.3 GB in float32, are there once. Both do the same work in turn, as in benchmarks/denoiser.py; above 1.00
minildm is faster. Memory is what comes on top of the weights: on a GPU what its allocator gave at the most, on the CPU
the most that tensors take at the same time.
"""

import argparse
import resource
import statistics
import tempfile
import time

import torch
from denoiser import LAYOUTS, flops, seconds
from diffusers import AutoencoderKL as TheirAutoencoderKL
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from minildm import AutoencoderKL, Denoiser, LatentDiffusion, NoiseSchedule, TextEncoder
from minildm.stable_diffusion import SD_1, reference_name
from minildm.tensors import count_parameters, peak_memory
from minildm.text import train_tokenizer

GB = 1e9
PROMPT = "a cat left of a red heart"


def both_u_nets(**how):
    ours = Denoiser(**SD_1.unet).to(**how)
    with torch.device("meta"):
        theirs = UNet2DConditionModel(cross_attention_dim=768)  # all else by default
    return shared(ours, theirs)


def both_autoencoders(**how):
    ours = AutoencoderKL(**SD_1.vae).to(**how)
    with torch.device("meta"):
        theirs = TheirAutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    return shared(ours, theirs)


def both_text_encoders(**how):
    ours = TextEncoder(**SD_1.text_encoder).to(**how)
    sizes = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return shared(ours, CLIPTextModel(CLIPTextConfig(**sizes)).to(**how))  # it counts positions outside its weights


def shared(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both networks, theirs with our very tensors."""
    prefix = "text_model." if next(iter(theirs.state_dict())).startswith("text_model.") else ""
    tensors = {prefix + reference_name(ours, name): tensor for name, tensor in ours.state_dict().items()}
    theirs.load_state_dict(tensors, assign=True)  # complains of a missing one
    return ours.eval(), theirs.eval()


def memory(work, device) -> int:
    """Bytes on top of what is there before."""
    if device.type != "cuda":
        return peak_memory(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(device) - before


def report(name, both, calls, device, chosen):
    """Time and memory of one call of each network."""
    calls, drawn, used = dict(zip(("minildm", "diffusers"), calls, strict=True)), {}, {}
    times = {who: [] for who in calls}
    with torch.no_grad():
        for who, call in calls.items():  # the first call also chooses kernels
            work = flops(lambda who=who, call=call: drawn.update({who: call().float()}))
            used[who] = memory(call, device)
        for turn in range(chosen.rounds):
            for who in list(calls)[:: 1 if turn % 2 == 0 else -1]:
                times[who].append(seconds(calls[who], device, 1))
    counts = " and ".join(f"{count_parameters(network):,}" for network in both)
    apart = ((drawn["minildm"] - drawn["diffusers"]).abs().max() / drawn["minildm"].abs().max()).item()
    ratios = sorted(b / a for a, b in zip(times["minildm"], times["diffusers"], strict=True))
    print(f"\n{name}: {counts} parameters, {work / 1e12:.2f} TFLOP; outputs differ by {apart:.1e} of the largest")
    print(f"  minildm is {statistics.median(ratios):.2f}× as fast (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    for who, rounds in times.items():
        took = statistics.median(rounds)
        print(f"  {who:9} {took:8.3f} s, {work / took / 1e9:8,.0f} GFLOP/s, {used[who] / GB:.3f} GB on top", flush=True)
    if apart > 1e-4 and chosen.dtype == "float32":
        raise RuntimeError("the two networks are not the same: nothing to compare")


def u_net(device, how, chosen):
    """Two latents at once, as under guidance."""
    both, side = both_u_nets(**how), chosen.size // 8
    x_t, t = placed(torch.randn(2, 4, side, side), **how), torch.tensor([501, 501], device=device)
    context = placed(torch.randn(2, 77, 768), **how)
    calls = lambda: both[0](x_t, t, context), lambda: both[1](x_t, t, context, return_dict=False)[0]
    report(f"U-Net, 2 latents of {side}×{side}", both, calls, device, chosen)


def autoencoder(device, how, chosen):
    both, side = both_autoencoders(**how), chosen.size
    z, x = placed(torch.randn(1, 4, side // 8, side // 8), **how), placed(torch.randn(1, 3, side, side), **how)
    calls = lambda: both[0].decode(z), lambda: both[1].decode(z, return_dict=False)[0]
    report(f"decoder, a picture of {side}×{side}", both, calls, device, chosen)
    calls = lambda: both[0].encode(x).mean, lambda: both[1].encode(x, return_dict=False)[0].mean
    report(f"encoder, a picture of {side}×{side}", both, calls, device, chosen)


def picture(device, how, chosen):
    """One prompt, under guidance, with both pipelines, from the same noise."""
    unet, vae, text = both_u_nets(**how), both_autoencoders(**how), both_text_encoders(**how)
    tokenizer = train_tokenizer([PROMPT], 300, length=77)  # CLIP's vocabulary has no part in the arithmetic
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        their_tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = LatentDiffusion(unet[0], vae[0], NoiseSchedule.scaled_linear(), text[0], tokenizer, **SD_1.pipeline)
    betas = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = dict(unet=unet[1], vae=vae[1], text_encoder=text[1], tokenizer=their_tokenizer, scheduler=scheduler)
    parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    theirs = StableDiffusionPipeline(**parts)
    theirs.set_progress_bar_config(disable=True)
    side, guidance = chosen.size, SD_1.pipeline["guidance"]
    x_T = torch.randn(1, 4, side // 8, side // 8)
    same = dict(height=side, width=side, latents=x_T.to(device, how["dtype"]), output_type="pt")
    calls = {
        "minildm": lambda: ours(PROMPT, steps=chosen.steps, x_T=x_T, output="tensor"),
        "diffusers": lambda: theirs(
            PROMPT, num_inference_steps=chosen.steps, guidance_scale=guidance, **same
        ).images.float(),
    }
    held = sum(p.numel() * p.element_size() for network in (unet[0], vae[0], text[0]) for p in network.parameters())
    print(f"\n{PROMPT!r}: {side}×{side}, {chosen.steps} steps, guidance {guidance}; {held / GB:.2f} GB of weights")
    drawn = {}
    for who, call in calls.items():
        start = time.perf_counter()
        used = memory(lambda who=who, call=call: drawn.update({who: call().cpu()}), device) / GB
        took = time.perf_counter() - start
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
        print(
            f"  {who:9} {took:8.1f} s, {used:.3f} GB on top; the process took up to {whole:.1f} GB by now", flush=True
        )
    x, x_theirs = drawn.values()
    apart, inside = (x - x_theirs).abs().max().item(), ((x > 0) & (x < 1)).float().mean().item()
    print(f"  the pictures, in [0, 1], differ by {apart:.1e} at the most", end="")
    print(f"; standard deviation {x.std():.3f}, {inside:.0%} of the values neither 0 nor 1")
    if apart > 1e-3 and chosen.dtype == "float32":
        raise RuntimeError("the two pictures are not the same")


def placed(x, device, dtype, memory_format):
    return x.to(device, dtype, memory_format=memory_format if x.ndim == 4 else torch.preserve_format)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", action="store_true", help="draw one picture with both pipelines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: bfloat16 on a GPU)")
    parser.add_argument("--layout", choices=LAYOUTS, help="of the weights (default: channels_last on a GPU)")
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=2, help="of the picture")
    parser.add_argument("--rounds", type=int, default=5, help="how often both are timed in turn")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    gpu = device.type == "cuda"
    chosen.dtype = chosen.dtype or ("bfloat16" if gpu else "float32")
    chosen.layout = chosen.layout or ("channels_last" if gpu else "contiguous")
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {chosen.dtype}, {chosen.layout}", flush=True)
    torch.manual_seed(0)
    how = dict(device=device, dtype=getattr(torch, chosen.dtype), memory_format=LAYOUTS[chosen.layout])
    for work in (picture,) if chosen.picture else (u_net, autoencoder):
        work(device, how, chosen)


if __name__ == "__main__":
    main()
