"""How fast is `minildm.AutoencoderKL`, against `diffusers`' with equal weights, in the same run?

    python benchmarks/autoencoder.py                   # on a GPU where there is one, in bfloat16
    python benchmarks/autoencoder.py --device cpu --rounds 5

Both do the same work in turn, each in the memory layout that suits it best here, as in benchmarks/denoiser.py; above
1.00 minildm is faster. Besides, what decoding a large picture in tiles costs in time and saves in memory.
"""

import argparse
import contextlib
import statistics

import torch
import torch.nn.functional as F
from denoiser import LAYOUTS, compare, flops, leaves_in_order, seconds
from diffusers import AutoencoderKL as TheirAutoencoderKL
from torch import nn

from minildm.autoencoder import AutoencoderKL, autoencoder_loss, draw_latent, tiled_decode


def both_networks(width: int) -> tuple[nn.Module, nn.Module]:
    """Stable Diffusion's autoencoder at another width (its own: 128), ours and theirs, with the same weights."""
    channels = (width, 2 * width, 4 * width, 4 * width)
    ours = AutoencoderKL(3, 4, channels, 2, groups=32)
    theirs = TheirAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=2,
    )
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    for a, b in zip(leaves_in_order(ours, x), leaves_in_order(theirs, x), strict=True):
        b.load_state_dict(a.state_dict())
    with torch.no_grad():
        apart = (ours(x) - theirs(x).sample).abs().max().item()
    print(f"{sum(p.numel() for p in ours.parameters()):,} parameters each; outputs differ by {apart:.1e}")
    if apart > 1e-4:
        raise RuntimeError("the two networks are not the same: nothing to compare")
    return ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, help="channels at full resolution (default: 32, on a GPU 128)")
    parser.add_argument("--size", type=int, help="side of the pictures (default: 64, on a GPU 256)")
    parser.add_argument("--batch", type=int, help="pictures in a batch (default: 4, on a GPU 8)")
    parser.add_argument("--rounds", type=int, default=7, help="how often both are timed in turn")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    gpu = device.type == "cuda"
    width, size, batch = chosen.width or (128 if gpu else 32), chosen.size or (256 if gpu else 64), chosen.batch
    batch = batch or (8 if gpu else 4)
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    precision = "bfloat16 autocast" if gpu else "float32"
    print(f"{name}, torch {torch.__version__}, {precision}, batch {batch} of {size}×{size}")

    def amp():
        return torch.autocast("cuda", torch.bfloat16) if gpu else contextlib.nullcontext()

    torch.manual_seed(0)
    ours, theirs = both_networks(width)
    drawn = draw_latent(torch.rand(batch, 3, size, size) * 2 - 1, ours, torch.Generator().manual_seed(0))

    def loss_theirs(network, data):
        posterior = network.encode(data["x"], return_dict=False)[0]
        x_hat = network.decode(posterior.mean + posterior.std * data["eps"], return_dict=False)[0].float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(x_hat, data["x"]) + F.mse_loss(x_hat, data["x"]) + 1e-4 * kl

    def train(loss, network, optimizer, data):
        with amp():
            value = loss(network, data)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def run(method, *args):
        with torch.no_grad(), amp():
            method(*args)

    jobs = {"training": {}, "encoding": {}, "decoding": {}}
    for who, network, loss in (("minildm", ours, autoencoder_loss), ("diffusers", theirs, loss_theirs)):
        for layout, memory_format in LAYOUTS.items():
            copy = type(network)(**network.config) if who == "minildm" else type(network).from_config(network.config)
            copy.load_state_dict(network.state_dict())
            copy.to(device, memory_format=memory_format)
            optimizer = torch.optim.AdamW(copy.parameters(), lr=1e-6, fused=True)
            data = {key: tensor.to(device, memory_format=memory_format) for key, tensor in drawn.items()}
            jobs["training"][who, layout] = lambda f=loss, c=copy, o=optimizer, d=data: train(f, c, o, d)
            jobs["encoding"][who, layout] = lambda c=copy, d=data: run(c.encode, d["x"])
            jobs["decoding"][who, layout] = lambda c=copy, d=data: run(c.decode, d["eps"])

    for kind in jobs:
        times, layouts = compare(jobs[kind], device, chosen.rounds, 10 if gpu else 1)
        ratios = sorted(b / a for a, b in zip(times["minildm"], times["diffusers"], strict=True))
        print(f"\n{kind}: minildm is {statistics.median(ratios):.2f}× as fast as diffusers", end="")
        print(f" (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})")
        for who in times:
            took, work = statistics.median(times[who]), flops(jobs[kind][who, layouts[who]])
            rate = f"{batch / took:9.1f} pictures a second, {work / took / 1e9:7,.0f} GFLOP/s"
            print(f"  {who:9}  {rate}, {layouts[who]}")

    z = drawn["eps"][:1].to(device).repeat(1, 1, 4, 4)
    ways = {"whole": lambda: run(ours.decode, z), "in tiles": lambda: run(tiled_decode, ours, z, 2 * size)}
    ours.to(device)
    print(f"\none picture of {4 * size}×{4 * size} decoded, whole and in tiles of {2 * size}×{2 * size}")
    for way, work in ways.items():
        work()
        if gpu:
            torch.cuda.reset_peak_memory_stats(device)
        took = min(seconds(work, device, 1) for _ in range(2))
        peak = f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at the most" if gpu else ""
        print(f"  {way:9} {took:7.2f} s{peak}")


if __name__ == "__main__":
    main()
