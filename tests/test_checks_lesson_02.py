import numpy as np
import pytest
import torch

from minildm import NoiseSchedule, checks


def onward(x_s, eps, s, t, betas):
    alphas_cumprod = (1 - betas).cumprod()
    left = alphas_cumprod[t] / alphas_cumprod[s]
    return left**0.5 * x_s + (1 - left) ** 0.5 * eps


def shifted(alphas_cumprod, k):
    return alphas_cumprod / (alphas_cumprod + k**2 * (1 - alphas_cumprod))


def half_noise(betas):
    return int((NoiseSchedule.from_betas(betas).alphas_cumprod > 0.5).sum())


@pytest.mark.parametrize("answer", [onward, half_noise, shifted])
def test_right_answers_pass(answer, capsys):
    getattr(checks, answer.__name__)(answer)
    assert capsys.readouterr().out.startswith(f"✓ {answer.__name__}: ")


def jump(share, rest=None, root=np.sqrt):
    def answer(x_s, eps, s, t, betas):
        a = share((1 - betas).cumprod(), s, t)
        noise = 1 - a if rest is None else rest((1 - betas).cumprod(), s, t)
        with np.errstate(invalid="ignore"):
            return root(a) * x_s + root(noise) * eps

    return answer


def in_steps(x_s, eps, s, t, betas):
    for k in range(s + 1, t + 1):
        x_s = (1 - betas[k]) ** 0.5 * x_s + betas[k] ** 0.5 * eps
    return x_s


def jump_of(share):
    def answer(x_s, eps, s, t, betas):
        left = share(betas[s + 1 : t + 1])
        with np.errstate(invalid="ignore"):
            return np.sqrt(left) * x_s + np.sqrt(1 - left) * eps

    return answer


def sliced(part):
    def answer(x_s, eps, s, t, betas):
        left = (1 - betas[part(s, t)]).prod()
        return left**0.5 * x_s + (1 - left) ** 0.5 * eps

    return answer


def ratio(bar, s, t):
    return bar[t] / bar[s]


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (jump(ratio, root=lambda share: share), "roots are missing"),
        (lambda x_s, eps, *rest: onward(eps, x_s, *rest), "swapped"),
        (jump(lambda bar, s, t: bar[t]), "jumps from x_0"),
        (jump(lambda bar, s, t: bar[t] / bar[t - 1]), "single step t"),
        (jump(lambda bar, s, t: bar[t] / (bar[s - 1] if s else 1)), "starts at s \\+ 1"),
        (jump(lambda bar, s, t: bar[t - 1] / bar[s]), "step t is missing"),
        (sliced(lambda s, t: slice(s, t)), r"a slice \[s:t\] begins with s"),
        (jump(ratio, rest=lambda bar, s, t: 1 - bar[t]), "noise counts from x_0"),
        (jump(ratio, rest=lambda bar, s, t: bar[s] - bar[t]), "shrinks along with the picture"),
        (in_steps, "the same eps in each of several steps"),
        (jump(lambda bar, s, t: bar[t - s]), "the first steps of the list"),
        (jump(lambda bar, s, t: bar[t - s - 1]), "the first steps of the list"),
        (jump_of(lambda betas: 1 - betas.sum()), "1 minus the sum of the betas"),
        (jump_of(lambda betas: 1 - betas.prod()), "1 minus the product of the betas"),
        (jump(lambda bar, s, t: bar[s] / bar[t]), "a share lies between 0 and 1"),
        (jump(lambda bar, s, t: bar[t] - bar[s]), "a share lies between 0 and 1"),
        (jump(lambda bar, s, t: bar[s] - bar[t]), "shares are not subtracted"),
    ],
)
def test_mistakes_in_a_jump_onward(wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        checks.onward(wrong)


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (lambda a, k: a / (a + k * (1 - a)), "multiplies it by k²"),
        (lambda a, k: k**2 * a / (k**2 * a + 1 - a), "wrong way round"),
        (lambda a, k: a / (1 - a) / k**2, "new SNR; turn it back"),
        (lambda a, k: np.log(a / (1 - a)) - 2 * np.log(k), "with a sigmoid"),
        (lambda a, k: 1 - shifted(a, k), "that is the noise"),
        (lambda a, k: a / k**2, "itself is divided"),
        (lambda a, k: a * k**2, "itself is multiplied"),
        (lambda a, k: 1 / (1 + k * np.sqrt(1 / a - 1)), "a root too many"),
        (lambda a, k: a / (k**2 * (1 - a) - a), "a sign below the fraction bar"),
        (lambda a, k: a * (1 - 1 / k**2) / (1 + a * (1 - 1 / k**2)), "brackets are missing"),
    ],
)
def test_mistakes_in_a_shift(wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        checks.shifted(wrong)


def test_a_shift_gives_the_averaged_large_picture_the_small_one_s_snr():
    schedule = NoiseSchedule.cosine(steps=50)
    large = shifted(schedule.alphas_cumprod.numpy(), 4)
    np.testing.assert_allclose(16 * large / (1 - large), schedule.snr(torch.arange(50)), rtol=1e-9)


def first(reached):
    return lambda betas: int(np.nonzero(reached(betas, (1 - betas).cumprod()))[0][0])


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (lambda betas: half_noise(betas) - 1, "one too early"),
        (lambda betas: half_noise(betas) + 1, "one too late"),
        (first(lambda betas, bar: np.sqrt(bar) <= 0.5), "half of the \\*amplitude\\*"),
        (first(lambda betas, bar: betas.cumsum() >= 0.5), "not simply added up"),
        (first(lambda betas, bar: bar <= 0.01), "all but drowned"),
        (lambda betas: abs((1 - betas).cumprod() / (1 - (1 - betas).cumprod()) - 1).argmin(), "closest to 1"),
        (lambda betas: np.where((1 - betas).cumprod() <= 0.5), "all t from there on"),
        (lambda betas: np.where((1 - betas).cumprod() <= 0.5)[0], "all t from there on"),
        (lambda betas: np.argwhere((1 - betas).cumprod() <= 0.5), "all t from there on"),
        (lambda betas: int(np.argmax(1 - betas <= 0.5)), "a single step's alpha"),
        (lambda betas: int(np.argmax((1 - betas).cumprod() >= 0.5)), "which way does the sign point"),
        (lambda betas: int(((1 - betas).cumprod() <= 0.5).sum()), "how many stages come from there on"),
        (lambda betas: int((1 - betas).cumprod().argmin()), "the last stage of all"),
        (lambda betas: next(bar for bar in (1 - betas).cumprod() if bar <= 0.5), "the value at the stage"),
        (lambda betas: next(b / (1 - b) for b in (1 - betas).cumprod() if b <= 0.5), "the value at the stage"),
    ],
)
def test_mistakes_in_half_noise(wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        checks.half_noise(wrong)
