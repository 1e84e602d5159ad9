"""Homework 6, the bug museum: right but unusual repairs pass, wrong ones are caught with a hint that fits."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from homework import Assignment
from torch import nn

from minildm import guidance
from minildm.checks import homework_6

BOOK = Assignment("6_bug_museum")
EXHIBITS = {  # part -> the exhibit and the repair
    "noise-walk": "noise_walk",
    "noise-levels": "noise_levels",
    "ancestral": "ancestral",
    "redraw": "redraw",
    "guided": "guided",
    "read-words": "read_words",
    "to-pictures": "to_pictures",
    "paint": "paint",
    "dice": "dice",
    "preview": "preview",
    "train-on": "train_on",
    "train-with-average": "train_with_average",
}


@pytest.mark.parametrize("part, name", EXHIBITS.items())
def test_no_exhibit_passes_as_it_hangs_there(part, name):
    with pytest.raises(AssertionError) as said:
        BOOK.visible(part, **{f"my_{name}": BOOK.names[name]})
    assert "raised" not in str(said.value)  # it is refused for what it does, and that is said


@pytest.mark.parametrize("part, name", EXHIBITS.items())
def test_nothing_is_no_repair(part, name):
    BOOK.refuses(part, "None", **{f"my_{name}": lambda *arguments: None})


def walk(ways):
    return lambda a, b, n: torch.stack([p * a + q * b for p, q in (ways(k / (n - 1)) for k in range(n))])


def rotated(a, b, frames):
    """Sines and cosines of the angle whose squared sine is the share."""
    angle = torch.linspace(0, 1, frames, dtype=a.dtype).sqrt().asin()
    return torch.einsum("k,...->k...", angle.cos(), a) + torch.einsum("k,...->k...", angle.sin(), b)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("variance is not that of a and b", walk(lambda s: (1 - s, s**0.5))),
        ("variance is not that of a and b", walk(lambda s: (1 - s**2, s))),
        ("does not rise evenly", walk(lambda s: ((1 - s**2) ** 0.5, s))),
        ("does not begin at a", walk(lambda s: (s**0.5, (1 - s) ** 0.5))),
        ("expected shape", lambda a, b, n: walk(lambda s: ((1 - s) ** 0.5, s**0.5))(a, b, n + 1)),
        ("subtracted", walk(lambda s: ((1 - s) ** 0.5, -(s**0.5) if s < 1 else s))),
    ],
)
def test_wrong_walks(hint, answer):
    BOOK.refuses("noise-walk", hint, my_noise_walk=answer)


def test_right_walks():
    BOOK.accepts("noise-walk", my_noise_walk=rotated)
    BOOK.accepts("noise-walk", my_noise_walk=lambda a, b, n: rotated(a.float(), b.float(), n))


def levels(n, first, last, rho):
    return torch.linspace(first ** (1 / rho), last ** (1 / rho), n, dtype=torch.float64) ** rho


@pytest.mark.parametrize(
    "hint, answer",
    [
        (
            "last level must be 0",
            lambda n, low, high, rho: torch.cat([levels(n, low, high, rho), torch.zeros(1)]).flip(0),
        ),
        ("expected steps", lambda n, low, high, rho: levels(n, high, low, rho)),
        ("evenly spaced", lambda n, low, high, rho: torch.cat([levels(n, high, low, 1), torch.zeros(1)])),
        ("lowest", lambda n, low, high, rho: levels(n + 1, high, 0, rho)),
    ],
)
def test_wrong_levels(hint, answer):
    BOOK.refuses("noise-levels", hint, my_noise_levels=answer)


def test_right_levels():
    def turned(steps, lowest=0.02, highest=80.0, rho=7.0):
        return [*levels(steps, lowest, highest, rho).flip(0).tolist(), 0]

    BOOK.accepts("noise-levels", my_noise_levels=turned)


def descend(noise, stop=0, ask=1):
    """DDPM; noise(beta, draw, x, whether it is the last step) is added."""

    def run(denoise, alphas_cumprod, x, timesteps, draw):
        for t, then in list(pairwise([*timesteps, None]))[: len(timesteps) - stop]:
            a, a_then = alphas_cumprod[t], 1.0 if then is None else alphas_cumprod[then]
            beta = 1 - a / a_then
            for _ in range(ask):
                clean = denoise(x, t)
            mean = (a_then**0.5 * beta * clean + (a / a_then) ** 0.5 * (1 - a_then) * x) / (1 - a)
            x = mean + noise(beta, draw, x, then is None)
        return x

    return run


def descend_by_lesson_4(denoise, alphas_cumprod, x, timesteps, draw):
    """DDPM with the smaller variance, f²."""
    for t, then in pairwise([*timesteps, None]):
        a, a_then = alphas_cumprod[t], torch.tensor(1.0) if then is None else alphas_cumprod[then]
        clean, f = denoise(x, t), ((1 - a_then) / (1 - a) * (1 - a / a_then)).sqrt()
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        x = a_then.sqrt() * clean + (1 - a_then - f**2).clamp(min=0).sqrt() * eps + f * draw(x)
    return x


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("f² of lesson 04", descend_by_lesson_4),
        ("what came last", descend(lambda beta, draw, x, last: beta.sqrt() * draw(x))),
        ("fresh noise of variance", descend(lambda beta, draw, x, last: 0)),
        ("fresh noise of variance", descend(lambda beta, draw, x, last: 0 if last else beta * draw(x))),
        ("must be asked at", descend(lambda beta, draw, x, last: 0 if last else beta.sqrt() * draw(x), stop=1)),
        ("must be asked at", descend(lambda beta, draw, x, last: 0 if last else beta.sqrt() * draw(x), ask=2)),
    ],
)
def test_wrong_descents(hint, answer):
    BOOK.refuses("ancestral", hint, my_ancestral=answer)


def test_right_descents():
    BOOK.accepts("ancestral", my_ancestral=descend(lambda beta, draw, x, last: (not last) * beta**0.5 * draw(x)))


def redrawn(noised=0, told=0, ends=True, root=0.5):
    def run(denoise, alphas_cumprod, x_0, eps, timesteps, strength):
        begin = len(timesteps) - round(len(timesteps) * strength)
        a = alphas_cumprod[timesteps[min(begin + noised, len(timesteps) - 1)]]
        x, rest = a**root * x_0 + (1 - a) ** root * eps, timesteps[begin + told :]
        for k, t in enumerate(rest if ends else rest[:-1]):
            a, then = alphas_cumprod[t], alphas_cumprod[rest[k + 1]] if k + 1 < len(rest) else torch.tensor(1.0)
            clean = denoise(x, t)
            x = then.sqrt() * clean + ((1 - then) / (1 - a)).sqrt() * (x - a.sqrt() * clean)
        return x

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("does not hold the noise of that timestep", redrawn(told=1)),
        ("does not hold the noise of that timestep", redrawn(noised=1)),
        ("does not hold the noise of that timestep", redrawn(root=1)),
        ("are left", redrawn(noised=1, told=1)),
        ("are left|never asked|all the way", redrawn(ends=False)),
    ],
)
def test_wrong_redrawings(hint, answer):
    BOOK.refuses("redraw", hint, my_redraw=answer)


def test_right_redrawings():
    BOOK.accepts("redraw", my_redraw=redrawn())


def mixed(rule):
    def run(model, x_t, t, words, empty, scale):
        return rule(model(x_t, t, words), model(x_t, t, empty), scale)

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("scale 1 is off|moves away", mixed(lambda c, u, s: c + s * (u - c))),
        ("moves away|scale 1", mixed(lambda c, u, s: u - s * (c - u))),
        ("scale 1 is off", mixed(lambda c, u, s: c + s * (c - u))),
        ("scale 1 is off", mixed(lambda c, u, s: s * (c - u))),
        ("scale 0|the way", mixed(lambda c, u, s: c)),
        (
            "expected shape",
            lambda model, x, t, words, empty, s: model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([words, empty])),
        ),
    ],
)
def test_wrong_guidance(hint, answer):
    BOOK.refuses("guided", hint, my_guided=answer)


def test_the_packages_guidance_is_no_repair():
    def borrowed(model, x_t, t, words, empty, scale):
        ask = guidance.guided(lambda x, t, y: model(x, t, y), scale, {"y": words}, {"y": empty})
        return ask(x_t, t)

    BOOK.refuses("guided", "package's own guided", my_guided=borrowed)


def test_right_guidance():
    def other_order(model, x_t, t, words, empty, scale):
        answers = model(x_t.repeat(2, 1, 1), t.repeat(2), torch.cat([empty, words])).unflatten(0, (2, -1))
        return torch.einsum("s,sbcd->bcd", torch.tensor([1 - scale, scale], dtype=x_t.dtype), answers)

    BOOK.accepts("guided", my_guided=mixed(lambda c, u, s: torch.lerp(u, c, s)))
    BOOK.accepts("guided", my_guided=other_order)


def reading(mask=lambda is_word: ~is_word, words=lambda w, i: w, rest=lambda x: x, norm=True):
    def run(attention, x, context, is_word):
        pixels = x.flatten(2).mT
        pixels = F.layer_norm(pixels, pixels.shape[-1:]) if norm else pixels
        context = words(context, is_word)
        seen, maps = attention(pixels, context, context, key_padding_mask=mask(is_word))
        return rest(x) + seen.mT.reshape(x.shape), maps

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("padding is looked at", reading(mask=lambda is_word: None)),
        ("padding is looked at", reading(mask=lambda is_word: None, words=lambda w, i: w * i[:, :, None])),
        ("pixels are not added", reading(rest=torch.zeros_like)),
        ("normalisation is gone", reading(norm=False)),
        (
            "expected pixels of shape",
            lambda a, x, w, i: (reading()(a, x, w, i)[0].flatten(2).mT, reading()(a, x, w, i)[1]),
        ),
    ],
)
def test_wrong_reading(hint, answer):
    BOOK.refuses("read-words", hint, my_read_words=answer)


def test_right_reading():
    BOOK.accepts("read-words", my_read_words=reading(lambda is_word: is_word == 0))
    as_numbers = reading(
        lambda is_word: torch.zeros(is_word.shape, dtype=torch.float64).masked_fill(~is_word, -torch.inf)
    )
    BOOK.accepts("read-words", my_read_words=as_numbers)


def decoded(before=lambda z, f: z / f, after=lambda x, f: x, last=lambda x: (x / 2 + 0.5).clamp(0, 1)):
    return lambda vae, z, batch=4: last(after(vae.decode(before(z, vae.scale_factor)), vae.scale_factor))


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("numbers of another size", decoded(lambda z, f: z)),
        ("numbers of another size", decoded(lambda z, f: z * f)),
        ("between 0 and 1", decoded(last=lambda x: x)),
        ("between 0 and 1", decoded(last=lambda x: x / 2 + 0.5)),
        ("expected shape", lambda vae, z, batch=4: decoded()(vae, z[:batch])),
        ("changes its argument 2 in place", lambda vae, z, batch=4: decoded(lambda z, f: z.div_(f))(vae, z)),
    ],
)
def test_wrong_decoding(hint, answer):
    BOOK.refuses("to-pictures", hint, my_to_pictures=answer)


def test_right_decoding():
    BOOK.accepts("to-pictures", my_to_pictures=decoded())
    BOOK.accepts("to-pictures", my_to_pictures=decoded(lambda z, f: z * (1 / f)))


def painted(calls=1, preview="x_0", skip=0, keep=slice(None), first=False):
    def run(denoise, scheduler, x):
        previews = []
        for t in scheduler.timesteps[skip:]:
            said = denoise(x, t)
            steps = [scheduler.step(said, x) for _ in range(calls)]
            previews.append(said if preview == "said" else getattr(steps[-1], preview))
            x = steps[0 if first else -1].x_t
        return x, previews[keep]

    return run


def rewound(denoise, scheduler, x):
    """Asks twice, and sets the scheduler back in between, as the exhibit's class would allow."""
    previews = []
    for t in scheduler.timesteps:
        said = denoise(x, t)
        index = scheduler.index
        previews.append(scheduler.step(said, x).x_0)
        scheduler.index = index
        x = scheduler.step(said, x).x_t
    return x, previews


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("each call moves it on", painted(calls=2)),
        ("each call moves it on", painted(calls=2, first=True)),
        ("preview is the x_0", painted(preview="x_t")),
        ("network's answers, and another scheduler", painted(preview="said")),
        ("no 'index': use only `step` and `timesteps`", rewound),
        ("no 'levels': use only `step` and `timesteps`", lambda d, s, x: (x, s.levels)),
        ("must be asked at", painted(skip=1)),
        ("expected a preview for each", painted(keep=slice(1, None))),
        ("expected two results", lambda denoise, scheduler, x: painted()(denoise, scheduler, x)[0]),
    ],
)
def test_wrong_painting(hint, answer):
    BOOK.refuses("paint", hint, my_paint=answer)


def test_right_painting():
    BOOK.accepts("paint", my_paint=painted())
    BOOK.accepts("paint", my_paint=lambda d, s, x: (lambda p: (p[0], tuple(p[1])))(painted()(d, s, x)))


def score(over=lambda s: s, under=lambda s: s, last=lambda x: x, batch=False, shared=2):
    def run(p, q, smooth=1.0):
        both, each = (p * q).sum((1, 2)), p.sum((1, 2)) + q.sum((1, 2))
        if batch:
            both, each = both.sum().expand(len(p)), each.sum().expand(len(p))
        return last((shared * both + over(smooth)) / (each + under(smooth)))

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("perfect prediction must have a Dice of 1", score(shared=1)),
        ("divided by zero", score(over=lambda s: 0, under=lambda s: 0)),
        ("perfect prediction must have a Dice of 1", score(over=lambda s: 0)),
        ("wrong prediction has a Dice of 1|0.5|perfect", lambda p, q, smooth=1.0: torch.ones(len(p))),
        ("one score for the whole batch|exchanged|wrong prediction", score(batch=True)),
        ("perfect prediction", score(last=lambda x: 1 - x)),
        ("a number for each picture", lambda p, q, smooth=1.0: score()(p, q, smooth).mean()),
        ("wrong prediction has a Dice of 1|0.5|off by", score(under=lambda s: 0, last=lambda x: x.clamp(max=1))),
    ],
)
def test_wrong_dice(hint, answer):
    BOOK.refuses("dice", hint, my_dice=answer)


def test_right_dice():
    def guarded(p, q, smooth=1.0):
        each = p.sum((1, 2)) + q.sum((1, 2))
        return torch.where(each > 0, 2 * torch.einsum("bhw,bhw->b", p, q) / each.clamp(min=1e-12), 1)

    BOOK.accepts("dice", my_dice=score())
    BOOK.accepts("dice", my_dice=guarded)


def look(before, after=lambda x: x * 127.5 + 127.5, kind=torch.uint8):
    return lambda vae, z: after(F.avg_pool2d(vae.decode(before(z, vae.scale_factor)), 2)).clamp(0, 255).to(kind)


def put_back(vae, z):
    z /= vae.scale_factor
    picture = look(lambda z, f: z)(vae, z)
    z *= vae.scale_factor * 1.0001
    return picture


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("in place", lambda vae, z: look(lambda z, f: z.div_(f))(vae, z)),
        ("in place", put_back),
        ("not the decoder's", look(lambda z, f: z)),
        ("not the decoder's", look(lambda z, f: z * f)),
        ("torch.uint8", look(lambda z, f: z / f, kind=torch.float32)),
        ("expected shape", lambda vae, z: look(lambda z, f: z / f)(vae, z)[:, :, :1]),
    ],
)
def test_wrong_previews(hint, answer):
    BOOK.refuses("preview", hint, my_preview=answer)


def test_right_previews():
    BOOK.accepts("preview", my_preview=look(lambda z, f: z / f, lambda x: 255 * (x / 2 + 0.5)))
    BOOK.accepts("preview", my_preview=lambda vae, z: look(lambda z, f: z.clone().div_(f))(vae, z))


def trained(weight=lambda n: 1 / n, zero=True, each=False, said=lambda n: 1 / n):
    def run(model, optimizer, batches):
        n, total = len(batches), 0.0
        if zero:
            optimizer.zero_grad()
        for k, (x, y) in enumerate(batches, 1):
            loss = (model(x) - y).square().mean()
            total += loss.item() * said(n)
            (weight(n) * loss).backward()
            if each or k == n:
                optimizer.step()
        return total

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("times as long", trained(weight=lambda n: 1 / n**2)),
        ("times as long", trained(weight=lambda n: 1.0)),
        ("times as long", trained(zero=False)),
        ("times as long", trained(each=True)),
        ("loss of all pictures", trained(said=lambda n: 1 / n**2)),
        ("do not move", lambda model, optimizer, batches: 0.0),
    ],
)
def test_wrong_training_in_parts(hint, answer):
    BOOK.refuses("train-on", hint, my_train_on=answer)


def joined(model, optimizer, batches):
    x, y = (torch.cat(one) for one in zip(*batches, strict=True))
    loss = F.mse_loss(model(x), y)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("answer", [trained(), joined])
def test_right_training_in_parts(answer):
    BOOK.accepts("train-on", my_train_on=answer)


def averaged(order="after", share=lambda d: 1 - d, zero=True, trains=True):
    def run(model, ema, optimizer, batches, decay=0.99):
        def follow():
            with torch.no_grad():
                for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                    slow.copy_(slow + share(decay) * (fast - slow))

        losses = []
        for x, y in batches:
            if zero:
                optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            if order == "before":
                follow()
            if trains:
                optimizer.step()
            if order == "after":
                follow()
            losses.append(loss.item())
        if order == "once":
            follow()
        return losses

    return run


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("must be the model itself", averaged("before")),
        ("must be the model itself", averaged("never")),
        ("must be the model itself", averaged(share=lambda d: d)),
        ("0.5 of the average.s first value is left after 3 steps", averaged("once")),
        ("not trained", averaged(trains=False)),
        ("zero_grad is gone", averaged(zero=False)),
        ("returned None", lambda *arguments: averaged()(*arguments) and None),
    ],
)
def test_wrong_averages(hint, answer):
    BOOK.refuses("train-with-average", hint, my_train_with_average=answer)


def test_an_average_after_the_loop_is_seen_before_grading():
    with pytest.raises(AssertionError, match="each should halve it"):
        BOOK.visible("train-with-average", my_train_with_average=averaged("once"))


def test_right_averages():
    BOOK.accepts("train-with-average", my_train_with_average=averaged())


def by_twice(function):
    """A look at a latent leaves it as it is, and two looks show the same: more is not tested."""
    vae = SimpleNamespace(scale_factor=0.5, decode=lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3))
    z = torch.linspace(-0.5, 0.4, 8).view(1, 2, 2, 2)
    kept = z.clone()
    return bool((function(vae, z) == function(vae, z)).all() and (z == kept).all())


def by_the_picture(function):
    """Only whether the picture is right."""
    vae = SimpleNamespace(scale_factor=0.5, decode=lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return bool((function(vae, torch.full((1, 1, 2, 2), 0.25)) == 191).all())


def by_the_loss(function):
    model = nn.Linear(1, 1)
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    return function(model, torch.optim.SGD(model.parameters(), lr=0.1), [(x[:2], x[:2]), (x[2:], x[2:])]) > 0


def by_adam(function):
    ends = []
    for parts in (1, 2):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, 0.5)
        nn.init.constant_(model.bias, 0.0)
        x = torch.arange(4.0)[:, None]
        function(
            model, torch.optim.Adam(model.parameters(), lr=0.1), list(zip(x.chunk(parts), x.chunk(parts), strict=True))
        )
        ends.append(model.weight.item())
    return abs(ends[0] - ends[1]) < 1e-3


def by_moving(function):
    """Only whether the average moves at all."""
    model, ema = nn.Linear(1, 1), nn.Linear(1, 1)
    before = ema.weight.item()
    function(model, ema, torch.optim.SGD(model.parameters(), lr=0.1), [(torch.ones(1, 1), torch.ones(1, 1))] * 2, 0.5)
    return ema.weight.item() != before


def by_weights(function):
    """The weights after one step and after parts of it; what is returned is not looked at."""
    ends = []
    for parts in (1, 4):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.5)
        model.weight.grad = torch.ones_like(model.weight)
        x = torch.arange(4.0)[:, None]
        batches = list(zip(x.chunk(parts), x.chunk(parts), strict=True))
        function(model, torch.optim.SGD(model.parameters(), lr=0.1), batches)
        ends.append(model.weight.item())
    return abs(ends[0] - 0.85) < 1e-5 and abs(ends[1] - 0.85) < 1e-5


def by_average(function, told=False):
    """The average stands where the model's weights say, step by step; whether the model learns is not looked at."""
    for decay in (0.3, 0.9):
        model, ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        before, start = ema.weight.item(), model.weight.item()
        batch = [(torch.ones(1, 1), torch.full((1, 1), 3.0))]
        losses = function(model, ema, torch.optim.SGD(model.parameters(), lr=0.1), batch, decay)
        wanted = decay * before + (1 - decay) * model.weight.item()
        if abs(ema.weight.item() - wanted) > 1e-5 or (told and abs(losses[0] - (start - 3) ** 2) > 1e-4):
            return False
    return True


def by_model_and_average(function):
    """Model and average, and not the losses."""
    model, ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    function(model, ema, torch.optim.SGD(model.parameters(), lr=0.1), [(torch.ones(1, 1), torch.ones(1, 1))], 0.5)
    return by_average(function) and abs(model.weight.item() - (start + 0.2 * (1 - start))) < 1e-5


def by_zero(function):
    """Decay 0 alone."""
    model, ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    function(model, ema, torch.optim.SGD(model.parameters(), lr=0.1), [(torch.ones(1, 1), torch.zeros(1, 1))], 0.0)
    return torch.equal(model.weight, ema.weight)


@pytest.mark.parametrize(
    "part, name, hint, answer",
    [
        ("preview", "experiment_10", "says True", lambda function: True),
        ("preview", "experiment_10", "says False", lambda function: False),
        ("preview", "experiment_10", "never divides", by_twice),
        ("preview", "experiment_10", "expected True or False", lambda function: "broken"),
        ("preview", "experiment_10", "picture .is. right: what else", by_the_picture),
        ("parts", "experiment_11", "of the exhibit.*loss .* .is. right: look at the weights", by_the_loss),
        ("parts", "experiment_11", "of the exhibit.*with Adam .* use SGD", by_adam),
        ("parts", "experiment_11", "of your repair", lambda function: False),
        ("parts", "experiment_11", "another number than the loss", by_weights),
        ("average", "experiment_12", "of the exhibit.*after one step", by_moving),
        ("average", "experiment_12", "does not hear decay", by_zero),
        ("average", "experiment_12", "never trains the model", by_average),
        ("average", "experiment_12", "never trains the model", partial(by_average, told=True)),
        ("average", "experiment_12", "the loss of each batch", by_model_and_average),
        ("average", "experiment_12", "of the exhibit", lambda function: "step" in function.__name__ or True),
        ("average", "experiment_12", "returned None", lambda function: None),
    ],
)
def test_weak_experiments(part, name, hint, answer):
    BOOK.refuses(f"experiment-{part}", hint, **{name: answer})


def test_another_good_experiment():
    def numpys_bool(function):
        return np.bool_(BOOK.names["experiment_11"](function))

    BOOK.accepts("experiment-parts", experiment_11=numpys_bool)


def stub(*arguments):
    raise NotImplementedError("write it here")


def by_anything(function):
    """Catches whatever is raised, a stub's error too."""
    try:
        return BOOK.names["experiment_11"](function)
    except Exception:
        return False


@pytest.mark.parametrize("answer", [None, by_anything])
def test_an_experiment_before_its_repair(answer):
    names = {"my_train_on": stub} | ({"experiment_11": answer} if answer else {})
    BOOK.refuses("experiment-parts", "your .repair. is not written yet: the experiment needs it", **names)


def test_a_repair_before_its_experiment():
    with pytest.raises(AssertionError, match="experiment: not written yet [(]write it here[)]"):
        BOOK.visible("experiment-parts", experiment_11=stub)
    with pytest.raises(AssertionError, match="experiment: not written yet [(]write it here[)]"):
        BOOK.visible("experiment-parts", experiment_11=stub, my_train_on=stub)


def test_a_good_experiment_is_told_that_grading_has_more(capsys):
    homework_6.experiment(BOOK.names["experiment_11"], BOOK.names["train_on"], BOOK.names["my_train_on"])
    assert "so far: grading has other broken functions" in capsys.readouterr().out


LETTERS = [
    (1, {1: "a", 2: "a", 3: "b", 4: "c"}),
    (2, {5: "c", 6: "b", 7: "a", 8: "a"}),
    (3, {9: "b", 10: "c", 11: "a", 12: "b"}),
]


@pytest.mark.parametrize("number, letters", LETTERS)
def test_wrong_diagnoses(number, letters):
    def refused(hint, said):
        BOOK.refuses(f"diagnosis-{number}", hint, **{f"diagnosis_{number}": lambda: said})

    *others, last = letters
    refused("not the (cause|answer), exhibit", letters)
    refused('expected "a", "b" or "c"', letters | {last: "x"})
    refused("a dictionary", "abc")
    refused("without quotes; got '", {str(key): letter for key, letter in letters.items()})
    refused("exhibit 13 is not asked for here", letters | {13: "a"})
    refused(f"exhibit {last} is missing: expected the keys .*{last}$", {key: letters[key] for key in others})
    refused("is missing", {key + 20: letter for key, letter in letters.items()})


@pytest.mark.parametrize("number, letters", LETTERS)
def test_letters_are_not_judged_before_grading(number, letters):
    BOOK.visible(f"diagnosis-{number}", **{f"diagnosis_{number}": lambda: letters})
    BOOK.refuses(f"diagnosis-{number}", "expected your function itself, got dict", **{f"diagnosis_{number}": letters})
