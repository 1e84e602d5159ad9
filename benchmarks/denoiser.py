"""How fast is `minildm.Denoiser`, against `diffusers`' UNet2DModel with equal weights, in the same run?

    python benchmarks/denoiser.py                      # on a GPU where there is one, in bfloat16
    python benchmarks/denoiser.py --device cpu --rounds 5

Both do the same work in turn, each in the memory layout that suits it best here, and the ratio of each round is
taken, so that a machine that is busy or slows down hits both alike. Above 1.00 minildm is faster. FLOP/s are set
against the best rate that single convolutions of this kind reach in the same run.
"""

import argparse
import contextlib
import statistics
import time

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minildm import samplers
from minildm.denoiser import Denoiser
from minildm.losses import denoising_loss, draw_noise
from minildm.schedule import NoiseSchedule

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def both_networks(width: int) -> tuple[nn.Module, nn.Module]:
    """The network of DDPM on 32×32 pictures (attention at 16×16), ours and theirs, with the same weights."""
    channels = (width, 2 * width, 2 * width)
    heads = 2 * width // 64 or 1
    ours = Denoiser(3, 3, channels, blocks_per_level=2, attention=(1,), heads=heads, groups=32)
    theirs = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2 * width // heads,
        norm_num_groups=32,
    )
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([10, 900])
    mine, yours = leaves_in_order(ours, x, t), leaves_in_order(theirs, x, t)
    for a, b in zip(mine, yours, strict=True):
        b.load_state_dict(a.state_dict())
    with torch.no_grad():
        apart = (ours(x, t) - theirs(x, t).sample).abs().max().item()
    print(f"{sum(p.numel() for p in ours.parameters()):,} parameters each; outputs differ by {apart:.1e}")
    if apart > 1e-4:
        raise RuntimeError("the two networks are not the same: nothing to compare")
    return ours, theirs


def leaves_in_order(network, *inputs):
    """The layers that hold parameters, in the order in which they are called: it is the same in both networks."""
    called, hooks = [], []
    for layer in network.modules():
        if list(layer.parameters(recurse=False)):
            hooks.append(layer.register_forward_hook(lambda layer, *_: called.append(layer)))
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return called


def seconds(work, device, repeat):
    """One call, on average over `repeat`."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    wait()
    return (time.perf_counter() - start) / repeat


def compare(jobs, device, rounds, repeat):
    """Time {(who, layout): work} in turn. -> {who: seconds of each round, in its best layout}, {who: layout}"""
    times = {key: [] for key in jobs}
    for work in jobs.values():
        work()  # the first call also chooses kernels
    for turn in range(rounds):
        order = list(jobs) if turn % 2 == 0 else list(reversed(jobs))
        for key in order:
            times[key].append(seconds(jobs[key], device, repeat))
    best = {}
    for who in ("minildm", "diffusers"):
        best[who] = min((key for key in jobs if key[0] == who), key=lambda key: statistics.median(times[key]))
    return {who: times[key] for who, key in best.items()}, {who: key[1] for who, key in best.items()}


def flops(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def best_convolution(device, amp, batch, backward, rounds):
    """The highest FLOP/s of one 3×3 convolution, over widths, sizes and layouts. -> rate, what reached it"""
    found = []
    for width, size in ((64, 32), (128, 32), (128, 16), (256, 16), (512, 16)):
        for name, layout in LAYOUTS.items():
            x = torch.randn(batch, width, size, size, device=device).to(memory_format=layout)
            layer = nn.Conv2d(width, width, 3, padding=1, device=device).to(memory_format=layout)
            x.requires_grad_(backward)

            def work(layer=layer, x=x):
                with torch.set_grad_enabled(backward), amp():
                    y = layer(x)
                if backward:
                    y.backward(y.detach())

            count = flops(work)
            fastest = min(seconds(work, device, 3) for _ in range(rounds))
            found.append((count / fastest, f"{width} channels at {size}×{size}, {name}"))
    return max(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, help="channels at full resolution (default: 64, on a GPU 128)")
    parser.add_argument("--batch", type=int, help="pictures in a batch (default: 8, on a GPU 128)")
    parser.add_argument("--rounds", type=int, default=7, help="how often both are timed in turn")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    gpu = device.type == "cuda"
    width, batch = chosen.width or (128 if gpu else 64), chosen.batch or (128 if gpu else 8)
    repeat, steps = (10, 20) if gpu else (1, 3)
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {'bfloat16 autocast' if gpu else 'float32'}, batch {batch} of 32×32")

    def amp():
        return torch.autocast("cuda", torch.bfloat16) if gpu else contextlib.nullcontext()

    torch.manual_seed(0)
    ours, theirs = both_networks(width)
    schedule = NoiseSchedule.linear()
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    drawn = draw_noise(torch.rand(batch, 3, 32, 32) * 2 - 1, schedule, torch.Generator().manual_seed(0))
    drawn = {key: tensor.to(device) for key, tensor in drawn.items()}

    def train_ours(network, optimizer, data):
        with amp():
            loss = denoising_loss(network, data, schedule)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def train_theirs(network, optimizer, data):
        with amp():
            x_t = scheduler.add_noise(data["x_0"], data["eps"], data["t"])
            prediction = network(x_t, data["t"], return_dict=False)[0]
            loss = F.mse_loss(prediction.float(), data["eps"].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def sample_ours(network, x_T):
        with amp():
            for _ in samplers.ddim(network, schedule, x_T, steps):
                pass

    def sample_theirs(network, x_T):
        scheduler.set_timesteps(steps)
        x = x_T
        with torch.no_grad(), amp():
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t, return_dict=False)[0], t, x, return_dict=False)[0]

    jobs = {"training": {}, "sampling": {}}
    for who, network, train, sample in (
        ("minildm", ours, train_ours, sample_ours),
        ("diffusers", theirs, train_theirs, sample_theirs),
    ):
        for layout, memory_format in LAYOUTS.items():
            copy = type(network)(**network.config) if who == "minildm" else type(network).from_config(network.config)
            copy.load_state_dict(network.state_dict())
            copy.to(device, memory_format=memory_format)
            optimizer = torch.optim.AdamW(copy.parameters(), lr=1e-6, fused=True)
            data = {
                key: tensor.to(memory_format=memory_format) if tensor.ndim == 4 else tensor
                for key, tensor in drawn.items()
            }
            jobs["training"][who, layout] = lambda c=copy, o=optimizer, d=data, f=train: f(c, o, d)
            jobs["sampling"][who, layout] = lambda c=copy, d=data, f=sample: f(c, d["eps"])

    for kind, count in (("training", 1), ("sampling", steps)):
        times, layouts = compare(jobs[kind], device, chosen.rounds, repeat)
        work = {who: flops(jobs[kind][who, layouts[who]]) for who in times}
        peak, where = best_convolution(device, amp, batch, kind == "training", chosen.rounds)
        ratios = sorted(b / a for a, b in zip(times["minildm"], times["diffusers"], strict=True))
        print(f"\n{kind}: minildm is {statistics.median(ratios):.2f}× as fast as diffusers", end="")
        print(f" (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})")
        print(f"  best single convolution: {peak / 1e9:,.0f} GFLOP/s ({where})")
        for who in times:
            took = statistics.median(times[who])
            rate = work[who] / took
            print(
                f"  {who:9}  {batch * count / took:9.1f} pictures through it a second, {rate / 1e9:7,.0f} GFLOP/s "
                f"= {rate / peak:.0%} of it, {layouts[who]}"
            )


if __name__ == "__main__":
    main()
