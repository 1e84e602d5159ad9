import copy

import pytest
import torch
import torch.nn.functional as F

from minildm import Denoiser, NoiseSchedule, checks, images, losses
from minildm.tensors import seeded


def good_square(x, white=1.0):
    c, h, w = x.shape
    side = max(h, w)
    canvas = torch.full((c, side, side), white)
    top, left = (side - h) // 2, (side - w) // 2
    canvas[:, top : top + h, left : left + w] = x
    return canvas


def padded(value=1.0, shift=0):
    """A wrong answer: other margins, or another colour in them."""

    def answer(x):
        side = max(x.shape[1:])
        margins = []
        for n in (x.shape[2], x.shape[1]):
            before = (side - n + shift) // 2
            margins += [before, side - n - before]
        return F.pad(x, margins, value=value)

    return answer


def cut(x):
    side = min(x.shape[1:])
    top, left = ((n - side) // 2 for n in x.shape[1:])
    return x[:, top : top + side, left : left + side]


def good_nearest(drawn, known):
    d = torch.cdist(drawn.flatten(1), known.flatten(1)) / drawn[0].numel() ** 0.5
    return d.min(dim=1)


def compared(measure, pick=lambda d: d.min(1)):
    """A wrong answer, by another measure of the differences (n, m, c h w), or another choice among (n, m)."""
    return lambda drawn, known: tuple(pick(measure((drawn[:, None] - known).flatten(2))))


def rms(d):
    return d.square().mean(2).sqrt()


def training(
    x_t=lambda a, x, e: a.sqrt() * x + (1 - a).sqrt() * e,
    target=lambda a, x, e: a.sqrt() * e - (1 - a).sqrt() * x,
    lerp=lambda k: 1 - k,
    zero=True,
    first=False,
    item=True,
    order=("zero_grad", "backward", "step"),
    turned=False,
    stop=None,
):
    """The right loop; each argument makes a slip."""

    def average_in(average, model, keep):
        if turned:
            average, model = model, average
        with torch.no_grad():
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.lerp_(new, lerp(keep))

    def answer(model, average, optimizer, batches, alphas_cumprod, keep):
        losses = []
        for x_0, eps, t, y in batches[:stop]:
            a = alphas_cumprod[t].view(-1, 1, 1, 1)
            loss = F.mse_loss(model(x_t(a, x_0, eps), t, y=y), target(a, x_0, eps))
            for what in order:
                if what == "zero_grad" and zero:
                    optimizer.zero_grad()
                if what == "backward":
                    loss.backward()
                if what == "step":
                    if first:
                        average_in(average, model, keep)
                    optimizer.step()
            if not first:
                average_in(average, model, keep)
            losses.append(loss.item() if item else loss)
        return losses

    return answer


def no_guard(model, average, optimizer, batches, alphas_cumprod, keep):
    training()(model, average, optimizer, batches, alphas_cumprod, keep)
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.mul_(keep).add_((1 - keep) * new)


def multiplied(model, average, optimizer, batches, alphas_cumprod, keep):
    average = keep * average + (1 - keep) * model
    return training()(model, average, optimizer, batches, alphas_cumprod, keep)


def even(x):
    """Margins for F.pad, half of the missing rows and columns, rounded down, on each side."""
    down, right = ((max(x.shape[1:]) - n) // 2 for n in x.shape[1:])
    return right, right, down, down


def spread(x):
    """The margins of height and width exchanged."""
    down, right = (max(x.shape[1:]) - n for n in x.shape[1:])
    return F.pad(x, [down // 2, down - down // 2, right // 2, right - right // 2], value=1.0)


def placed(x, columns):
    canvas = torch.ones(len(x), max(x.shape[1:]), max(x.shape[1:]))
    canvas[:, :, columns] = x
    return canvas


RIGHT = [(checks.square, good_square), (checks.nearest, good_nearest), (checks.painter_training, training())]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_square_that_passes_keeps_what_the_loader_cuts():
    x = torch.rand(3, 8, 20, generator=torch.Generator().manual_seed(0))
    whole = good_square(x)
    assert torch.equal(whole[:, 6:14], x) and images.fit(whole, 20).shape == (1, 3, 20, 20)


def test_the_training_that_passes_has_the_package_s_loss():
    schedule = NoiseSchedule.cosine().predicting("v")
    with seeded(0):
        model = Denoiser(1, 1, channels=(8, 16), groups=4, num_classes=2, schedule=schedule)
    draw = torch.Generator().manual_seed(1)
    batch = losses.draw_noise(torch.randn(3, 1, 8, 8, generator=draw), schedule, draw) | {"y": torch.tensor([0, 1, -1])}
    expected = losses.denoising_loss(model, batch).item()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [(batch["x_0"], batch["eps"], batch["t"], batch["y"])]
    (loss,) = training()(model, copy.deepcopy(model), optimizer, batches, schedule.alphas_cumprod.float(), 0.9)
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.square, padded(0.0), "margin is black"),
        (checks.square, padded(-1.0), "margin is -1"),
        (checks.square, padded(255.0), "margin is 255"),
        (checks.square, padded(shift=1), "an odd margin"),
        (checks.square, lambda x: padded()(x.mT).mT if x.shape[1] == x.shape[2] else spread(x), "left, right, top"),
        (checks.square, lambda x: F.pad(x, even(x), value=1.0), "more behind than before"),
        (checks.square, lambda x: x[:, : min(x.shape[1:]), : min(x.shape[1:])], "it is cut"),
        (checks.square, lambda x: placed(x, slice(0, -0)), "0 : -0"),
        (checks.nearest, compared(lambda d: d.norm(dim=2) / d.shape[2]), "numbers one picture has"),
        (checks.nearest, compared(lambda d: d.norm(dim=2) / (len(d) * d.shape[2]) ** 0.5), "numbers one picture has"),
        (checks.nearest, compared(lambda d: d.abs().mean(2).sqrt()), "square them first"),
        (checks.nearest, compared(rms, lambda d: (d.min(), d.argmin())), "a single nearest one"),
        (checks.nearest, lambda drawn, known: (drawn - known).min(1), "every known one"),
        (checks.nearest, lambda x, y: torch.cdist(x.flatten()[None], y.flatten()[None]).min(1), r"flatten\(1\) a row"),
        (checks.painter_training, training(order=("zero_grad", "step")), "learns nothing"),
        (checks.painter_training, training(order=("backward", "zero_grad", "step")), "in this order"),
        (checks.painter_training, training(turned=True), "takes a little of the model"),
        (checks.painter_training, training(stop=1), "the return stands inside"),
        (checks.painter_training, lambda *case: sum(training()(*case)) / len(case[3]), "do not average"),
        (checks.painter_training, multiplied, "networks do not multiply"),
        (checks.square, lambda x: F.pad(x, [0, x.shape[1] - min(x.shape[1:]), 0, 0])[:, : x.shape[1]], None),
        (checks.square, cut, "it is cut"),
        (checks.square, lambda x: F.interpolate(x[None], max(x.shape[1:]))[0], "it is stretched"),
        (checks.square, lambda x: images.fit(x, max(x.shape[1:]), None)[0], "write it yourself"),
        (checks.nearest, compared(lambda d: d.square().mean(2)), "the root is missing"),
        (checks.nearest, compared(lambda d: d.norm(dim=2)), "the squares are added up"),
        (checks.nearest, compared(lambda d: d.abs().mean(2)), "absolute differences"),
        (checks.nearest, compared(rms, lambda d: d.max(1)), "the farthest"),
        (checks.nearest, compared(rms, lambda d: d.min(0)), "the other way round"),
        (checks.nearest, compared(rms, lambda d: (d.argmin(1), d.amin(1))), "exchanged"),
        (checks.nearest, compared(lambda d: d.mean(2).abs()), "the signs cancel"),
        (checks.painter_training, training(zero=False), "gradients of all steps add up"),
        (checks.painter_training, training(x_t=lambda a, x, e: x), "about the clean pictures"),
        (checks.painter_training, training(x_t=lambda a, x, e: a * x + (1 - a) * e), "without square roots"),
        (
            checks.painter_training,
            training(lambda a, x, e: a * x + (1 - a) * e, lambda a, x, e: a * e - (1 - a) * x),
            "a and s are square roots",
        ),
        (
            checks.painter_training,
            training(lambda a, x, e: a**0.5 * x + (1 - a) * e, lambda a, x, e: a**0.5 * e - (1 - a) * x),
            "a and s are square roots",
        ),
        (
            checks.painter_training,
            training(lambda a, x, e: a**0.5 * x + (1 - a**0.5) * e, lambda a, x, e: a**0.5 * e - (1 - a**0.5) * x),
            "it is not 1 - a",
        ),
        (checks.painter_training, training(target=lambda a, x, e: e), "the target is the noise"),
        (checks.painter_training, training(target=lambda a, x, e: x), "the target is the clean picture"),
        (checks.painter_training, training(lerp=lambda k: k), "keep and 1 - keep are exchanged"),
        (checks.painter_training, training(lerp=lambda k: 0), "the average stays"),
        (checks.painter_training, training(lerp=lambda k: 1), "keep is not used"),
        (checks.painter_training, training(first=True), "before the step"),
        (checks.painter_training, training(item=False), "loss.item"),
        (checks.painter_training, no_guard, "no_grad"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f".*{hint or ''}"):
        check(wrong)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
def test_a_stub_does_not_pass(check, capsys):
    def stub(*arguments):
        raise NotImplementedError

    assert not check(stub)
    assert "not written yet" in capsys.readouterr().out


@pytest.mark.parametrize("check", [checks.square, checks.nearest, checks.painter_training])
def test_a_forgotten_return_is_not_taken_for_dice(check):
    with pytest.raises(AssertionError) as info:
        check(lambda *arguments: None)
    assert "None" in str(info.value) and "at random" not in str(info.value)
