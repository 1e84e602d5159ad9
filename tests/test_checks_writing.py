"""What learners write of each idea: right in several ways, among them the package's, and wrong in likely ones."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minildm import NoiseSchedule, checks, losses, samplers
from minildm.attention import Attention
from minildm.autoencoder import Gaussian
from minildm.checks._check import EXERCISES, compare
from minildm.denoiser import timestep_embedding
from minildm.tensors import seeded


def expect(check, wrong, hint):
    with pytest.raises(checks.CheckFailed, match=f"likely: .*{hint}"):
        check(wrong)


class TestUNet:
    """The 2015 network's forward pass."""

    @staticmethod
    def good(net, x):
        x, kept = net.first(x), []
        for block in net.down:
            kept.append(x)
            x = block(F.max_pool2d(x, 2))
        for level in reversed(range(len(net.up))):
            x = net.up[level](torch.cat((kept[level], net.grow[level](x)), 1))
        return net.head(x)

    def test_right(self):
        assert checks.unet_forward(self.good)

    def test_one_level_more_or_less_is_not_right(self):
        def shallow(net, x):
            return net.head(net.first(x))

        with pytest.raises(checks.CheckFailed, match="off by"):
            checks.unet_forward(shallow)

    @pytest.mark.parametrize(
        "change, hint",
        [
            (
                lambda s: s.replace("(kept[level], net", "(net").replace("(x)), 1)", "(x), kept[level]), 1)"),
                "skip first",
            ),
            (lambda s: s.replace("F.max_pool2d", "F.avg_pool2d"), "pooled by the mean"),
            (lambda s: s.replace("return net.head(x)", "return net.head(x).sigmoid()"), "without a sigmoid"),
            (lambda s: s.replace("return net.head(x)", "return net.head(x).softmax(1)"), "without a softmax"),
            (lambda s: s.replace("kept[level], net", "kept[level] * 0, net"), "nothing arrives from the skip"),
            (lambda s: s.replace("kept[level],", "kept.pop(0),"), "from the last to the first"),
            (lambda s: s.replace("reversed(", "list("), "the lists run backwards"),
            (
                lambda s: s.replace("torch.cat((kept[level], net.grow[level](x)), 1)", "net.grow[level](x)"),
                "joined along",
            ),
            (
                lambda s: s.replace("kept.append(x)", "kept.append(F.max_pool2d(x, 2))"),
                "another size.*before it is pooled",
            ),
            (lambda s: s.replace("block(F.max_pool2d(x, 2))", "block(x)"), "pool before each block"),
            (lambda s: s.replace("net.head(x)", "x"), "net.head is missing"),
            (lambda s: s.replace("net.first(x), []", "x, []"), "the way down begins with net.first"),
            (lambda s: s.replace("return net.head(x)", "return net.down(x)"), "a list of blocks is not a block"),
        ],
    )
    def test_wrong(self, change, hint):
        source = """
def forward(net, x):
    x, kept = net.first(x), []
    for block in net.down:
        kept.append(x)
        x = block(F.max_pool2d(x, 2))
    for level in reversed(range(len(net.up))):
        x = net.up[level](torch.cat((kept[level], net.grow[level](x)), 1))
    return net.head(x)
"""
        changed = change(source)
        assert changed != source
        space = {"F": F, "torch": torch}
        exec(changed, space)
        expect(checks.unet_forward, space["forward"], hint)


def good_step(model, optimizer, loss_function, x, y):
    loss = loss_function(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def step_of(*lines):
    """A training step of lines of code."""
    space = {}
    exec("def step(model, optimizer, loss_function, x, y):\n    " + "\n    ".join(lines), space)
    return space["step"]


ZERO, LOSS, BACK, STEP, GIVE = (
    "optimizer.zero_grad()",
    "loss = loss_function(model(x), y)",
    "loss.backward()",
    "optimizer.step()",
    "return loss.item()",
)


class TestTrainingStep:
    def test_right(self):
        assert checks.training_step(good_step)
        assert checks.training_step(step_of(ZERO, LOSS, BACK, STEP, GIVE))
        assert checks.training_step(step_of("for p in model.parameters(): p.grad = None", LOSS, BACK, STEP, GIVE))

    @pytest.mark.parametrize(
        "lines, hint",
        [
            ([LOSS, BACK, STEP, GIVE], "are still there, and add up"),
            ([LOSS, BACK, STEP, ZERO, GIVE], "are still there, and add up"),
            ([LOSS, BACK, ZERO, STEP, GIVE], "thrown away"),
            ([ZERO, LOSS, BACK, GIVE], "optimizer.step\\(\\) is missing"),
            ([LOSS, BACK, STEP, "return loss"], "are still there, and add up"),
            ([ZERO, LOSS, BACK, STEP, "return loss"], r"its whole graph in memory: return loss.item\(\)"),
            ([ZERO, LOSS, STEP, GIVE], "backward is missing"),
            ([ZERO, LOSS, STEP, BACK, GIVE], "before backward"),
            ([ZERO, LOSS, BACK, STEP, STEP, GIVE], "two steps"),
            ([ZERO, LOSS, BACK, STEP, "return loss_function(model(x), y).item()"], "after the step is returned"),
            ([ZERO, LOSS, BACK, STEP, "return loss_function(model(x), y)"], "after the step is returned"),
            ([ZERO, "loss = loss_function(y, model(x))", BACK, STEP, GIVE], "exchanged in the loss"),
            ([ZERO, "loss = loss_function(model(x).detach(), y)", BACK, STEP, GIVE], "cut off by detach"),
            ([ZERO, "loss = loss_function(x, y)", BACK, STEP, GIVE], r"the prediction, model\(x\), with y"),
            ([ZERO, LOSS + ".item()", BACK, STEP, "return loss"], "take its number at the end"),
            (["model.eval()", ZERO, LOSS, BACK, STEP, GIVE], "put into evaluation mode"),
        ],
    )
    def test_wrong(self, lines, hint):
        expect(checks.training_step, step_of(*lines), hint)

    def test_a_return_that_is_forgotten(self):
        with pytest.raises(checks.CheckFailed, match="the loss: your function returned None"):
            checks.training_step(step_of(ZERO, LOSS, BACK, STEP))


class TestTrainingLoop:
    @staticmethod
    def make(train="model.train()", keep="losses.append(loss.item())", over="batches", give="return losses", zero=ZERO):
        lines = ["def loop(model, optimizer, loss_function, batches):", f"    {train}", "    losses = []"]
        lines += [f"    for x, y in {over}:"]
        lines += [f"        {line}" for line in (zero, LOSS, BACK, STEP, keep)] + [f"    {give}"]
        space = {}
        exec("\n".join(lines), space)
        return space["loop"]

    def test_right(self):
        assert checks.training_loop(self.make())
        assert checks.training_loop(self.make(keep="losses.append(loss.detach())"))

        def by_steps(model, optimizer, loss_function, batches):
            model.train()
            return [good_step(model, optimizer, loss_function, *one).item() for one in batches]

        assert checks.training_loop(by_steps)

    @pytest.mark.parametrize(
        "change, hint",
        [
            ({"zero": "pass"}, "zero_grad at each"),
            ({"train": "pass"}, "model.train\\(\\) is missing"),
            ({"keep": "losses.append(loss)"}, "its whole graph"),
            ({"give": "return loss.item()"}, "the last loss alone"),
            ({"give": "return sum(losses) / len(losses)"}, "their mean"),
            ({"keep": "pass"}, "no loss is kept"),
            ({"over": "batches[:1]"}, "only the first batch"),
            ({"keep": "return [loss.item()]"}, "only the first batch"),
            ({"over": "batches + batches"}, "seen twice"),
        ],
    )
    def test_wrong(self, change, hint):
        expect(checks.training_loop, self.make(**change), hint)


def good_noise(x_0, eps, t, alphas_cumprod):
    left = alphas_cumprod[t][:, None, None, None]
    return left.sqrt() * x_0 + (1 - left) ** 0.5 * eps


def wide(share):
    return share[:, None, None, None]


class TestAddNoise:
    def test_right(self):
        assert checks.add_noise(good_noise)
        assert checks.add_noise(
            lambda x, e, t, a: torch.stack([a[k] ** 0.5 * x[i] + (1 - a[k]) ** 0.5 * e[i] for i, k in enumerate(t)])
        )
        assert checks.add_noise(
            lambda x, e, t, a: (
                torch.einsum("b,bchw->bchw", a[t].sqrt(), x) + torch.einsum("b,bchw->bchw", (1 - a[t]).sqrt(), e)
            )
        )

    def test_the_package_agrees(self):
        schedule, t = NoiseSchedule.cosine(), torch.tensor([3, 700])
        x_0, eps = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
        torch.testing.assert_close(good_noise(x_0, eps, t, schedule.alphas_cumprod), schedule.add_noise(x_0, eps, t))

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda x, e, t, a: a[t].view(-1, 1, 1, 1) * x + (1 - a[t]).view(-1, 1, 1, 1) * e, "roots are missing"),
            (lambda x, e, t, a: good_noise(e, x, t, a), "exchanged"),
            (lambda x, e, t, a: good_noise(x, e, t[:1].expand_as(t), a), "noise of the first"),
            (lambda x, e, t, a: good_noise(x, e, t - 1, a), "too early"),
            (lambda x, e, t, a: good_noise(x, -e, t, a), "not subtracted"),
            (lambda x, e, t, a: a[t].sqrt() * x + (1 - a[t]).sqrt() * e, "shape \\(b, 1, 1, 1\\)"),
            (lambda x, e, t, a: good_noise(x, e, t, a.cumprod(0)), "no cumprod is needed"),
            (lambda x, e, t, a: good_noise(x, e, t, a**2), "is not squared"),
            (lambda x, e, t, a: wide(a[t]).sqrt() * x + 1 - wide(a[t]).sqrt() * e, "brackets are missing"),
            (lambda x, e, t, a: math.sqrt(a[t]) * x, "that are several numbers"),
            (
                lambda x, e, t, a: a[t].sqrt().view(-1, 1, 1, 1) * x + (1 - a[t].sqrt()).view(-1, 1, 1, 1) * e,
                "before the subtraction",
            ),
        ],
    )
    def test_wrong(self, wrong, hint):
        expect(checks.add_noise, wrong, hint)

    @pytest.mark.parametrize("method", ["add_noise", "linear"])
    def test_the_package_s_own_is_no_answer(self, method):
        def noise(x, e, t, a):
            return NoiseSchedule(a.sqrt(), (1 - a).sqrt()).add_noise(x, e, t)

        check, wrong = {
            "add_noise": (checks.add_noise, noise),
            "linear": (checks.schedule, lambda n, a, b: NoiseSchedule.linear(n, a, b).alphas_cumprod),
        }[method]
        with pytest.raises(checks.CheckFailed, match=f"leaves the work to the package's own NoiseSchedule.{method}"):
            check(wrong)

    def test_in_place(self):
        def wrong(x, e, t, a):
            x *= a[t].sqrt().view(-1, 1, 1, 1)
            return x + (1 - a[t]).sqrt().view(-1, 1, 1, 1) * e

        with pytest.raises(checks.CheckFailed, match="argument 1 in place"):
            checks.add_noise(wrong)


def betas(n, a, b):
    return torch.linspace(a, b, n, dtype=torch.float64)


class TestSchedule:
    def test_right(self):
        assert checks.schedule(lambda n, a, b: (1 - betas(n, a, b)).log().cumsum(0).exp())

        def by_hand(n, a, b):
            left, all_of_them = 1.0, []
            for k in range(n):
                left *= 1 - (a + (b - a) * k / (n - 1))
                all_of_them.append(left)
            return all_of_them

        assert checks.schedule(by_hand)
        assert by_hand(50, 1e-3, 0.1) == pytest.approx(NoiseSchedule.linear(50, 1e-3, 0.1).alphas_cumprod.tolist())

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (betas, "those are the betas"),
            (lambda n, a, b: betas(n, a, b).cumprod(0), "over the betas"),
            (lambda n, a, b: 1 - betas(n, a, b).cumprod(0), "the other way round"),
            (lambda n, a, b: 1 - betas(n, a, b), "the product .* is missing"),
            (lambda n, a, b: 1 - betas(n, a, b).cumsum(0), "not subtracted"),
            (lambda n, a, b: (1 - betas(n, a, b)).cumprod(0).sqrt(), "its square root"),
            (lambda n, a, b: (1 - betas(n, b, a)).cumprod(0), "run backwards"),
            (lambda n, a, b: (1 - betas(n, a, b)).cumprod(), "along which axis"),
            (lambda n, a, b: (1 - betas(n, a, b)).prod(), "not up to each t"),
            (lambda n, a, b: (1 - betas(n, a, b)[:-1]).cumprod(0), "arange leaves its end out"),
            (lambda n, a, b: torch.cat([torch.ones(1), (1 - betas(n, a, b)).cumprod(0)]), "not with the clean picture"),
            (lambda n, a, b: (1 - betas(n + 1, a, b)).cumprod(0), "not how many gaps"),
            (lambda n, a, b: (betas(n, a, b), (1 - betas(n, a, b)).cumprod(0)), "without the betas"),
            (lambda n, a, b: (1 - betas(n, a**0.5, b**0.5) ** 2).cumprod(0), "not their roots"),
            (lambda n, a, b: (1 - torch.linspace(n, a, b)).cumprod(0), "start and end first"),
        ],
    )
    def test_wrong(self, wrong, hint):
        expect(checks.schedule, wrong, hint)


def good_embedding(t, dim):
    half = dim // 2
    angles = t.double()[:, None] / 10_000 ** (torch.arange(half) / half)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def waves(angles):
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TestTimeEmbedding:
    def test_right(self):
        assert checks.time_embedding(good_embedding)
        assert checks.time_embedding(lambda t, dim: good_embedding(t, dim).float())
        t = torch.tensor([0, 3, 990])
        torch.testing.assert_close(good_embedding(t, 16).float(), timestep_embedding(t, 16), atol=1e-3, rtol=0)
        with pytest.raises(checks.CheckFailed, match="the package's own function"):
            checks.time_embedding(timestep_embedding)

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda t, dim: good_embedding(t, dim).roll(dim // 2, 1), "the sines come first"),
            (lambda t, dim: good_embedding(t, dim).unflatten(1, (2, -1)).mT.flatten(1), "cosine and sine alternate"),
            (
                lambda t, dim: good_embedding(t, 2 * dim)[:, [*range(dim // 2), *range(dim, 3 * dim // 2)]],
                "not over dim",
            ),
            (
                lambda t, dim: waves(t[:, None] * 10_000 ** (torch.arange(dim // 2) / (dim // 2))),
                "exponent is negative",
            ),
            (lambda t, dim: waves(t[:, None] * 10_000 ** (2 * torch.arange(dim // 2) / dim)), "exponent is negative"),
            (
                lambda t, dim: waves(t[:, None].double() * 10_000 ** (torch.arange(dim // 2).double() / (dim // 2))),
                "exponent is negative",
            ),
            (lambda t, dim: good_embedding(t * 2 * math.pi, dim), "in radians"),
            (lambda t, dim: good_embedding(t * math.pi / 180, dim), "those are degrees"),
            (
                lambda t, dim: waves(t[:, None] * 10_000.0 ** (-torch.arange(1.0, dim // 2 + 1) / (dim // 2))),
                "k counts from 0",
            ),
            (lambda t, dim: waves(t[:, None] * 10_000.0 ** (-torch.arange(dim) / (dim // 2))), "twice as many hands"),
            (lambda t, dim: torch.cat(good_embedding(t, dim).chunk(2, 1)), "joined along the wrong axis"),
            (
                lambda t, dim: waves(t[:, None] * (10_000.0 ** -torch.arange(dim / 2) / (dim // 2))),
                "bracket is missing",
            ),
            (lambda t, dim: waves(t[:, None] * (10_000 ** -torch.arange(dim // 2) / (dim // 2))), "bracket is missing"),
            (lambda t, dim: waves(t * 10_000 ** (-torch.arange(dim // 2) / (dim // 2))), r"the shape \(b, 1\)"),
        ],
    )
    def test_wrong(self, wrong, hint):
        expect(checks.time_embedding, wrong, hint)


def good_ddim(x_t, eps_hat, now, then):
    ratio = (then / now) ** 0.5
    return ratio * x_t + ((1 - then) ** 0.5 - ratio * (1 - now) ** 0.5) * eps_hat


def noise_of(x, level):
    return torch.tanh(2 * x) * (1 + level)


class TestSteps:
    """DDIM and Heun."""

    def test_right(self):
        assert checks.ddim_step(good_ddim)

        def heun(x_t, denoise, now, then):
            eps = denoise(x_t, now)
            x_next = good_ddim(x_t, eps, now, then)
            if then < 1:
                eps = torch.stack([eps, denoise(x_next, then)]).mean(0)
            return good_ddim(x_t, eps, now, then)

        assert checks.heun_step(heun)
        schedule = NoiseSchedule.cosine()
        kept = [*schedule.alphas_cumprod[[700, 400]].tolist(), 1.0]
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def denoise(x_t, t):
            return noise_of(x_t, schedule.alphas_cumprod[t[0]].item())

        for sampler, step in (
            (samplers.ddim, lambda x, now, then: good_ddim(x, noise_of(x, now), now, then)),
            (samplers.heun, lambda x, now, then: heun(x, noise_of, now, then)),
        ):
            _, middle, end = (one.x_t for one in sampler(denoise, schedule, x, timesteps=[700, 400]))
            torch.testing.assert_close(step(x, *kept[:2]), middle)
            torch.testing.assert_close(step(middle, *kept[1:]), end)

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda x, e, now, then: (x - (1 - now) ** 0.5 * e) / now**0.5, "that is x0_hat"),
            (lambda x, e, now, then: then**0.5 * x + (1 - then) ** 0.5 * e, "taken for the clean picture"),
            (lambda x, e, now, then: x + ((1 / then - 1) ** 0.5 - (1 / now - 1) ** 0.5) * e, "the step of z"),
            (lambda x, e, now, then: good_ddim(x, e, then, now), "now and then are exchanged"),
            (lambda x, e, now, then: x - ((1 - now) ** 0.5 - (1 - then) ** 0.5) * e, "difference of the noises"),
            (
                lambda x, e, now, then: good_ddim(x, e, now, then) + (1 - then) ** 0.5 * (torch.randn_like(e) - e),
                "two calls with the same arguments",
            ),
            (
                lambda x, e, now, then: good_ddim(x, e, now**2, then**2) if now == 2 else good_ddim(x, -e, now, then),
                "off by|$",
            ),
            (
                lambda x, e, now, then: then**0.5 * (x + (1 - now) ** 0.5 * e) / now**0.5 + (1 - then) ** 0.5 * e,
                "a sign",
            ),
            (lambda x, e, now, then: then * (x - (1 - now) * e) / now + (1 - then) * e, "roots are missing everywhere"),
            (
                lambda x, e, now, then: (x - (1 - now / then) / (1 - now) ** 0.5 * e) / (now / then) ** 0.5,
                "mean of DDPM",
            ),
            (
                lambda x, e, now, then: then**0.5 * (x - (1 - now) ** 0.5 * e / now**0.5) + (1 - then) ** 0.5 * e,
                "brackets are missing",
            ),
            (lambda x, e, now, then: good_ddim(x, e, now, then) - 2 * (1 - then) ** 0.5 * e, "the noise is added"),
            (lambda x, e, now, then: good_ddim(x, e, 1 - now, then), "shares of the picture"),
            (lambda x, e, now, then: good_ddim(x, e, 1 - now, 1 - then), "shares of the picture"),
        ],
    )
    def test_wrong_ddim(self, wrong, hint):
        if hint == "off by|$":
            with pytest.raises(checks.CheckFailed, match="off by"):
                checks.ddim_step(wrong)
        else:
            expect(checks.ddim_step, wrong, hint)

    @pytest.mark.parametrize(
        "second, hint",
        [
            (lambda x, n, d, now, then: d(n, then), "at the clean picture"),
            (lambda x, n, d, now, then: d(x, then) if then < 1 else None, "at x_t again"),
            (lambda x, n, d, now, then: d(n, now) if then < 1 else None, "still at level now"),
            (lambda x, n, d, now, then: None, "the first step alone"),
        ],
    )
    def test_wrong_heun(self, second, hint):
        def wrong(x_t, denoise, now, then):
            eps = denoise(x_t, now)
            other = second(x_t, good_ddim(x_t, eps, now, then), denoise, now, then)
            return good_ddim(x_t, eps if other is None else (eps + other) / 2, now, then)

        expect(checks.heun_step, wrong, hint)

    @pytest.mark.parametrize(
        "join, hint",
        [
            (lambda x, d, eps, n, now, then: eps + d(n, then) / 2 if then < 1 else eps, "brackets are missing"),
            (lambda x, d, eps, n, now, then: (eps + d(n, then)) / 2 if then < 1 else d(n, then) * 0 + eps, "too often"),
            (lambda x, d, eps, n, now, then: (d(x, now) + d(n, then)) / 2 if then < 1 else eps, "asked for twice"),
            (
                lambda x, d, eps, n, now, then: d(good_ddim(x, eps, now, (now + then) / 2), (now + then) / 2),
                "the midpoint method",
            ),
        ],
    )
    def test_heun_that_asks_otherwise(self, join, hint):
        def wrong(x_t, denoise, now, then):
            eps = denoise(x_t, now)
            return good_ddim(x_t, join(x_t, denoise, eps, good_ddim(x_t, eps, now, then), now, then), now, then)

        expect(checks.heun_step, wrong, hint)

    @pytest.mark.parametrize("returns", [True, False])
    def test_heun_that_goes_on_from_where_it_arrived(self, returns):
        def wrong(x_t, denoise, now, then):
            eps = denoise(x_t, now)
            x_next = good_ddim(x_t, eps, now, then)
            if then == 1 and returns:
                return x_next
            return good_ddim(x_next, (eps + denoise(x_next, then)) / 2, now, then)

        expect(checks.heun_step, wrong, "starts from x_t again")

    def test_heun_that_takes_the_mean_of_two_steps_in_a_row(self):
        def wrong(x_t, denoise, now, then):
            x_next = good_ddim(x_t, denoise(x_t, now), now, then)
            return x_next if then == 1 else (x_next + good_ddim(x_next, denoise(x_next, then), now, then)) / 2

        expect(checks.heun_step, wrong, "the states are averaged")


def good_attention(q, k, v):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return torch.einsum("bhnm,bhmd->bhnd", weights / weights.sum(-1, keepdim=True), v)


def unsafe_attention(less):
    """Attention by exponentials of the scores less `less(scores)`."""

    def answer(q, k, v):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = (scores - less(scores)).exp()
        return weights @ v / weights.sum(-1, keepdim=True)

    return answer


def weighted(weights):
    """Attention with `weights(e, scores)`, where e are the exponentials of the scores less each row's maximum."""

    def answer(q, k, v):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return weights((scores - scores.amax(-1, keepdim=True)).exp(), scores) @ v

    return answer


class TestAttention:
    def test_right(self):
        assert checks.attention(good_attention)
        assert checks.attention(lambda q, k, v: good_attention(q.float(), k.float(), v.float()))
        q, k, v = torch.randn(3, 2, 3, 5, 4, dtype=torch.float64)
        torch.testing.assert_close(good_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
        with pytest.raises(checks.CheckFailed, match="own scaled_dot_product_attention"):
            checks.attention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda q, k, v: (q @ k.mT).softmax(-1) @ v, "not divided by the root"),
            (lambda q, k, v: (q @ k.mT / q.shape[-1]).softmax(-1) @ v, "take its root"),
            (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(2) @ v, "wrong axis"),
            (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5) @ v, "without a softmax"),
            (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).exp() @ v, "do not add up to 1"),
            (lambda q, k, v: (q @ k.mT / k.shape[2] ** 0.5).softmax(-1) @ v, "not how many keys"),
            (lambda q, k, v: (q @ k.mT / k.shape[1] ** 0.5).softmax(-1) @ v, "not how many heads"),
            (unsafe_attention(lambda scores: 0), "subtract each row's maximum"),
            (unsafe_attention(lambda scores: scores.mean(-1, keepdim=True)), "subtract each row's maximum"),
            (unsafe_attention(lambda scores: scores.max()), "subtract each row's maximum"),
            (lambda q, k, v: (q @ k.permute(3, 2, 1, 0)).softmax(-1) @ v, "only its last two"),
            (lambda q, k, v: (q @ k).softmax(-1) @ v, "the last but one of b"),
            (lambda q, k, v: (q @ k.mT - (q @ k.mT).max(-1, keepdim=True)).softmax(-1) @ v, r"take its \.values"),
            (weighted(lambda e, s: e), "do not add up to 1"),
            (weighted(lambda e, s: e / e.sum()), "one sum for all queries"),
            (weighted(lambda e, s: e / s.sum(-1, keepdim=True)), "by the sum of the scores"),
            (weighted(lambda e, s: (s / s.amax(-1, keepdim=True)).softmax(-1)), "not divided by it"),
            (lambda q, k, v: good_attention(q, k, v[..., :1] * 0 + torch.eye(k.shape[2])), "these are the weights"),
            (lambda q, k, v: (q @ k.mT).softmax(-1) @ v / q.shape[-1] ** 0.5, "before the exponentials"),
            (lambda q, k, v: (q @ k.mT).exp() @ v / (q @ k.mT).exp().sum(-1, keepdim=True), "by the root"),
            (lambda q, k, v: (q @ k.mT) / (q @ k.mT).sum(-1) @ v, "keepdim=True"),
        ],
    )
    def test_wrong(self, wrong, hint):
        expect(checks.attention, wrong, hint)

    @staticmethod
    def good_cross(x, context, to_q, to_k, to_v, to_out, heads):
        parts = [z.chunk(heads, dim=2) for z in (to_q(x), to_k(context), to_v(context))]
        return to_out(
            torch.cat([good_attention(*(z[:, None] for z in one))[:, 0] for one in zip(*parts, strict=True)], 2)
        )

    def test_right_across(self):
        assert checks.cross_attention(self.good_cross)
        with seeded(0):
            layer = Attention(12, 10, heads=3)
            x, context = torch.randn(2, 5, 12), torch.randn(2, 4, 10)
        layers = layer.to_q, layer.to_k, layer.to_v, layer.to_out
        torch.testing.assert_close(self.good_cross(x, context, *layers, 3), layer(x, context))

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda x, c, q, k, v, o, heads: TestAttention.good_cross(x, c, q, k, v, o, 1), "all heads look alike"),
            (
                lambda x, c, q, k, v, o, heads: TestAttention.good_cross(x, c, q, k, v, nn.Identity(), heads),
                "to_out is missing",
            ),
            (lambda x, c, q, k, v, o, heads: TestAttention.good_cross(x, c, q, v, k, o, heads), "exchanged"),
            (
                lambda x, c, q, k, v, o, heads: TestAttention.good_cross(x, x, q, k, v, o, heads),
                "made from the context",
            ),
        ],
    )
    def test_wrong_across(self, wrong, hint):
        expect(checks.cross_attention, wrong, hint)


class TestLatents:
    def test_right(self):
        assert checks.reparameterise(lambda m, v, e: m + torch.sqrt(torch.exp(v)) * e)
        assert checks.kl(lambda m, v: (m**2 + v.exp() - 1 - v).sum((1, 2, 3)) / 2)
        normal = torch.distributions.Normal
        assert checks.kl(
            lambda m, v: (
                torch.distributions.kl_divergence(normal(m, (v / 2).exp()), normal(0.0 * m, 1.0)).flatten(1).sum(1)
            )
        )
        mean, logvar, eps = torch.randn(3, 2, 3, 4, 5)
        torch.testing.assert_close(mean + torch.exp(0.5 * logvar) * eps, Gaussian(mean, logvar).at(eps))
        with pytest.raises(checks.CheckFailed, match="own Gaussian.kl"):
            checks.kl(lambda m, v: Gaussian(m, v).kl())

    @pytest.mark.parametrize(
        "check, wrong, hint",
        [
            (checks.reparameterise, lambda m, v, e: m + v.exp() * e, "by the variance"),
            (checks.reparameterise, lambda m, v, e: m + v * e, "is a logarithm"),
            (checks.reparameterise, lambda m, v, e: m + e, "not weighted"),
            (checks.reparameterise, lambda m, v, e: (m + (v / 2).exp() * e).data, "no gradient"),
            (checks.reparameterise, lambda m, v, e: m + v.exp() / 2 * e, "belongs into the exponent"),
            (checks.reparameterise, lambda m, v, e: m + (v / 4).exp() * e, "a root too many"),
            (checks.reparameterise, lambda m, v, e: m + (-v / 2).exp() * e, "sign in the exponent"),
            (checks.reparameterise, lambda m, v, e: m + 10 ** (v / 2) * e, "the natural logarithm"),
            (checks.reparameterise, lambda m, v, e: (m + (v / 2).exp()) * e, "only the deviation multiplies"),
            (checks.reparameterise, lambda m, v, e: (e - m) / (v / 2).exp(), "the way back"),
            (checks.reparameterise, lambda m, v, e: m + math.exp(v.detach()) * e, "several numbers"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).sum((1, 2, 3)), "half is missing"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).sum(), "half is missing"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).mean((1, 2, 3)), "and the half is missing"),
            (checks.kl, lambda m, v: ((m**2 + v.exp()) / 2 - 1 - v).sum((1, 2, 3)), "the half belongs to all"),
            (checks.kl, lambda m, v: ((m**2 + v.exp() - v) / 2 - 1).sum((1, 2, 3)), "the half belongs to all"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v / 2).sum((1, 2, 3)) / 2, "log_variance itself"),
            (checks.kl, lambda m, v: (v.exp() - m**2 - 1 - v).sum((1, 2, 3)) / 2, "squared mean has the wrong sign"),
            (checks.kl, lambda m, v: (m**2 - v.exp() - 1 - v).sum((1, 2, 3)) / 2, "variance has the wrong sign"),
            (
                checks.kl,
                lambda m, v: (m**2 + v.exp() - 1 - v + math.log(2 * math.pi)).sum((1, 2, 3)) / 2,
                "so it cancels",
            ),
            (checks.kl, lambda m, v: ((m**2 + 1) / v.exp() - 1 + v).sum((1, 2, 3)) / 2, "p and q are exchanged"),
            (checks.kl, lambda m, v: ((m + (v / 2).exp()) ** 2 - 1 - v).sum((1, 2, 3)) / 2, "squared separately"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).mean((1, 2, 3)) / 2, "nats add up"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).sum() / 2, "each picture has its own"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).sum((1, 2, 3)).mean() / 2, "each picture has its own"),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v).sum(1) / 2, "not summed over all"),
            (checks.kl, lambda m, v: (m**2 + v.exp() + 1 - v).sum((1, 2, 3)) / 2, "1 has the wrong sign"),
            (checks.kl, lambda m, v: (1 + v - m**2 - v.exp()).sum((1, 2, 3)) / 2, "never negative"),
            (checks.kl, lambda m, v: (m**2 + v - 1 - v.log().nan_to_num()).sum((1, 2, 3)) / 2, "$"),
        ],
    )
    def test_wrong(self, check, wrong, hint):
        if hint == "$":
            with pytest.raises(checks.CheckFailed, match="off by"):
                check(wrong)
        else:
            expect(check, wrong, hint)

    @pytest.mark.parametrize(
        "check, wrong",
        [
            (checks.reparameterise, lambda m, v, e: m + v.sqrt() * e),
            (checks.reparameterise, lambda m, v, e: m + v.log() / 2 * e),
            (checks.kl, lambda m, v: (m**2 + v - 1 - v.log()).sum((1, 2, 3)) / 2),
            (checks.kl, lambda m, v: (m**2 + v.exp() - 1 - v.log()).sum((1, 2, 3)) / 2),
            (checks.kl, lambda m, v: (m**2 + v.sqrt() - 1 - v).sum((1, 2, 3)) / 2),
        ],
    )
    def test_a_root_or_logarithm_of_a_logarithm(self, check, wrong):
        with pytest.raises(checks.CheckFailed, match="log_variance may be negative") as caught:
            check(wrong)
        assert "drawn at random" not in str(caught.value)

    def test_noise_of_one_s_own_is_noticed(self):
        with pytest.raises(checks.CheckFailed, match="draw no noise of your own"):
            checks.reparameterise(lambda m, v, e: m + (v / 2).exp() * torch.randn_like(e))

    def test_a_stub_does_not_pass(self):
        def stub(*case):
            raise NotImplementedError

        assert not checks.reparameterise(stub) and not checks.kl(stub)


def low_rank(x, weight, bias, down, up, alpha):
    return F.linear(x, weight + alpha / down.shape[0] * up @ down, bias)


class TestLowRank:
    def test_right(self):
        assert checks.lora_forward(low_rank)  # merged into the weight
        assert checks.lora_forward(
            lambda x, w, b, down, up, alpha: F.linear(x, w, b) + F.linear(F.linear(x, down), up) * (alpha / len(down))
        )

    @pytest.mark.parametrize(
        "wrong, hint",
        [
            (lambda x, w, b, down, up, alpha: low_rank(x, w, b, down, up, len(down)), "but once"),
            (
                lambda x, w, b, down, up, alpha: low_rank(x, w, b, down, up, alpha * len(down)),
                "not divided by the rank",
            ),
            (lambda x, w, b, down, up, alpha: low_rank(x, 0 * w, 0 * b, down, up, alpha), "frozen layer is missing"),
            (lambda x, w, b, down, up, alpha: F.linear(x, w) + low_rank(x, 0 * w, 0 * b, down, up, alpha), "bias"),
            (lambda x, w, b, down, up, alpha: F.linear(x, w, b) + x @ up @ down, "down comes first"),
        ],
    )
    def test_wrong(self, wrong, hint):
        expect(checks.lora_forward, wrong, hint)


def good_denoising(model, x_0, alphas_cumprod):
    b = x_0.shape[0]
    t = torch.randint(0, len(alphas_cumprod), (b,), device=x_0.device)
    eps = torch.randn_like(x_0)
    return F.mse_loss(model(good_noise(x_0, eps, t, alphas_cumprod), t), eps)


def denoising(**changes):
    """The step above with other lines."""
    lines = {
        "t": "torch.randint(len(a), (len(x),))",
        "eps": "torch.randn(x.shape)",
        "x_t": "good_noise(x, eps, t, a)",
        "loss": "((model(x_t, t) - eps) ** 2).mean()",
    } | changes
    code = "def step(model, x, a):\n" + "\n".join(f"    {name} = {line}" for name, line in lines.items())
    space = {"torch": torch, "good_noise": good_noise, "F": F}
    exec(code + "\n    return loss", space)
    return space["step"]


class TestDenoising:
    def test_right(self):
        assert checks.denoiser_training_step(good_denoising)
        assert checks.denoiser_training_step(denoising())
        assert checks.denoiser_training_step(denoising(t="(torch.rand(len(x)) * len(a)).long()"))

    @staticmethod
    def by_the_package(model, x_0, alphas_cumprod):
        schedule = NoiseSchedule(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())
        return losses.denoising_loss(model, losses.draw_noise(x_0, schedule, torch.default_generator), schedule)

    def test_the_package_does_the_same_and_is_no_answer(self):
        what = dataclasses.replace(EXERCISES["denoiser_training_step"](), own=())
        assert compare(self.by_the_package, what).startswith("3 random cases")
        with pytest.raises(checks.CheckFailed, match="leaves the work to the package's own draw_noise"):
            checks.denoiser_training_step(self.by_the_package)

    def test_dice_of_the_caller_are_left_alone(self):
        with seeded(3):
            expected = torch.rand(1)
        with seeded(3):
            checks.denoiser_training_step(good_denoising)
            assert torch.rand(1) == expected

    @pytest.mark.parametrize(
        "changes, hint",
        [
            ({"t": "torch.randint(len(a), (1,)).expand(len(x))"}, "once for the whole batch"),
            ({"t": "torch.randint(len(a) - 1, (len(x),))"}, "last timestep is never drawn"),
            ({"t": "torch.randint(1, len(a), (len(x),))"}, "first timestep is never drawn"),
            ({"eps": "torch.rand_like(x)"}, "it is normal"),
            ({"eps": "torch.randn_like(x[:1]).expand_as(x)"}, "one noise for the whole batch"),
            ({"x_t": "a[t].view(-1, 1, 1, 1) * x + (1 - a[t]).view(-1, 1, 1, 1) * eps"}, "roots are missing"),
            ({"loss": "F.mse_loss(model(x, t), eps)"}, "shown the clean picture"),
            ({"loss": "F.mse_loss(model(x, t), x_t)"}, "shown the clean picture"),
            ({"loss": "F.mse_loss(model(eps, t), eps)"}, "shown the noise alone"),
            ({"loss": "F.mse_loss(model(x_t, t / len(a)), eps)"}, "not as a share of the steps"),
            ({"loss": "F.mse_loss(model(x_t, t), x)"}, "with what was clean"),
            ({"loss": "F.mse_loss(model(x_t, t), x_t)"}, "with x_t"),
            ({"loss": "F.l1_loss(model(x_t, t), eps)"}, "not squared"),
            ({"loss": "F.mse_loss(model(x_t, t), eps, reduction='sum')"}, "take the mean"),
            ({"loss": "F.mse_loss(model(x_t, t), eps).detach()"}, "no gradient"),
            ({"loss": "F.mse_loss(model(x_t, t), torch.randn_like(x))"}, "the noise is drawn twice"),
            ({"loss": "F.mse_loss(model(x_t, t), eps).sqrt()"}, "the root of the mean squared error"),
            ({"t": "torch.rand(len(x))"}, "indices are whole numbers"),
            ({"eps": "torch.randn_like(torch.arange(3))"}, "decimal numbers are needed"),
        ],
    )
    def test_wrong(self, changes, hint):
        expect(checks.denoiser_training_step, denoising(**changes), hint)

    @pytest.mark.parametrize(
        "changes, says",
        [
            ({"loss": "F.mse_loss(model(x_t, t), eps).item()"}, "the loss is a tensor without axes: no"),
            ({"loss": "(model(x_t, t) - eps) ** 2"}, "the loss is a tensor without axes: no"),
            ({"loss": "x.mean()"}, "model evaluations: off by 1"),
            ({"loss": "F.mse_loss(model(x_t, t), eps) + 0 * model(x_t, t).sum()"}, "model evaluations: off by 1"),
            ({"t": "torch.randint(len(a), (1,))"}, "t has one number for each picture: no"),
            ({"x_t": "a[t].sqrt() * x + (1 - a[t]).sqrt() * eps"}, r"likely: .* shape \(b, 1, 1, 1\)"),
            ({"t": "torch.randint(1000, (len(x),))"}, "likely: timesteps go from 0 to len"),
            ({"loss": "F.mse_loss(model(x_t), eps)"}, "likely: the model is told the time"),
        ],
    )
    def test_what_is_found_out_is_said(self, changes, says):
        with pytest.raises(checks.CheckFailed, match=says):
            checks.denoiser_training_step(denoising(**changes))

    @staticmethod
    def latent(encode="vae.encode(x).sample() * vae.scale_factor", grad=False, v="a * eps - s * z"):
        def step(model, vae, x, alphas_cumprod):
            with torch.set_grad_enabled(grad):
                z = eval(encode, {"vae": vae, "x": x, "torch": torch})
            t, eps = torch.randint(len(alphas_cumprod), (len(x),)), torch.randn_like(z)
            a, s = (share[t].view(-1, 1, 1, 1).sqrt() for share in (alphas_cumprod, 1 - alphas_cumprod))
            target = eval(v, {"a": a, "s": s, "x": x, "z": z, "eps": eps})
            return F.mse_loss(model(a * z + s * eps, t), target)

        return step

    @pytest.mark.parametrize(
        "encode",
        [
            "vae.encode(x).sample() * vae.scale_factor",
            "vae.scale(vae.encode(x).sample())",
            "(lambda q: vae.scale(q.mean + q.std * torch.randn_like(q.mean)))(vae.encode(x))",
        ],
    )
    def test_right_in_latents(self, encode):
        assert checks.latent_training_step(self.latent(encode))
        assert checks.latent_training_step(self.latent(f"({encode}).detach()", grad=True))

    @pytest.mark.parametrize(
        "encode, grad, hint",
        [
            ("vae.encode(x).sample()", False, "is not scaled"),
            ("vae.encode(x).sample() / vae.scale_factor", False, "the way back"),
            ("vae.encode(x).mean * vae.scale_factor", False, "a sample is asked for"),
            ("vae.scale(vae.encode(x).sample()) * vae.scale_factor", False, "scaled twice"),
            ("vae.encode(x) * vae.scale_factor", False, "draws a latent from it"),
            ("x", False, "encode them first"),
            ("vae.scale(vae.encode(x).sample())", True, "trained along"),
        ],
    )
    def test_wrong_in_latents(self, encode, grad, hint):
        expect(checks.latent_training_step, self.latent(encode, grad), hint)

    @pytest.mark.parametrize(
        "v, hint",
        [
            ("eps", "are asked for v"),
            ("z", "clean; asked is v"),
            ("s * z - a * eps", "sign turned around"),
            ("s * eps - a * z", "roots in v are exchanged"),
            ("a * z - s * eps", "the noise comes first"),
            ("a * eps + s * z", "are added"),
            ("a**2 * eps - s**2 * z", "roots are missing in v"),
            ("a * eps - s * x", "not of the pictures"),
        ],
    )
    def test_another_answer_than_v_in_latents(self, v, hint):
        expect(checks.latent_training_step, self.latent(v=v), hint)

    def test_a_loss_that_went_backward_already(self):
        def step(*case):
            loss = self.latent()(*case)
            loss.backward()
            return loss

        expect(checks.latent_training_step, step, "return the loss")

    def test_another_mixture_than_x_t_in_latents(self):
        def step(model, vae, x, alphas_cumprod):
            with torch.no_grad():
                z = vae.scale(vae.encode(x).sample())
            t, eps = torch.randint(len(alphas_cumprod), (len(x),)), torch.randn_like(z)
            a = alphas_cumprod[t].view(-1, 1, 1, 1).sqrt()
            return F.mse_loss(model(a * z + (1 - a) * eps, t), a * eps - (1 - a) * z)

        expect(checks.latent_training_step, step, "with a and s as roots")

    @staticmethod
    def flow(
        target="eps - x",
        x_t="(1 - u) * x + u * eps",
        t="torch.rand(len(x))",
        told="t",
        loss="error.square().mean()",
    ):
        def step(model, x):
            names = {"torch": torch, "x": x, "eps": torch.randn_like(x)}
            names["t"] = eval(t, names)
            names["u"] = names["t"].view(-1, 1, 1, 1)
            names["x_t"] = eval(x_t, names)
            names["error"] = model(names["x_t"], eval(told, names)) - eval(target, names)
            return eval(loss, names)

        return step

    def test_right_in_flow_matching(self):
        assert checks.flow_matching_step(self.flow())
        assert checks.flow_matching_step(self.flow(x_t="torch.lerp(x, eps, u.double())", t="1 - torch.rand(len(x))"))

    @pytest.mark.parametrize(
        "changes, hint",
        [
            ({"target": "x - eps"}, "the sign"),
            ({"target": "eps"}, "with the noise"),
            ({"target": "x_t - x"}, "part of the way"),
            ({"x_t": "u * x + (1 - u) * eps"}, "the wrong way"),
            ({"x_t": "(1 - u).sqrt() * x + u.sqrt() * eps"}, "square roots"),
            ({"x_t": "(1 - u**2).sqrt() * x + u * eps"}, "square roots"),
            ({"target": "x_t"}, "compared with x_t"),
            ({"t": "torch.rand(1).expand(len(x))"}, "once for the whole batch"),
            ({"told": "u"}, "without further axes"),
            ({"told": "(1000 * t).long()"}, "the time itself"),
            ({"told": "(1000 * t).round().long() - 1"}, "the time itself"),
            ({"x_t": "(1 - t) * x + t * eps"}, "give it the shape"),
            ({"loss": "error.abs().mean()"}, "absolute"),
            ({"loss": "error.square().mean().item()"}, "one number"),
            ({"loss": "error.square()"}, "one number"),
            ({"loss": "None"}, "one number"),
        ],
    )
    def test_wrong_in_flow_matching(self, changes, hint):
        expect(checks.flow_matching_step, self.flow(**changes), hint)
