import pytest
import torch
from torch import nn

from minildm import checks
from minildm.adapt.dreambooth import dreambooth_loss
from minildm.adapt.lora import LowRank


def good_merged(weight, down, up, alpha):
    """By the package: a branch's matrix, added to the weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    branch = LowRank(layer, len(down), alpha)
    branch.down.weight.data, branch.up.weight.data = down.clone(), up.clone()
    return (weight + branch.matrix()).detach()


def good_prior_loss(error, prior, weight):
    """By the package: a denoiser of which each sample's error is known."""

    class Denoiser(nn.Module):
        schedule = conditions = None

    batch = {"error": error, "prior": prior}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minildm.adapt.dreambooth.example_error", lambda parts, batch: batch["error"])
        return dreambooth_loss({"unet": Denoiser()}, batch, weight)


RIGHT = [(checks.merged, good_merged), (checks.prior_loss, good_prior_loss)]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    assert check(answer)
    assert "✓" in capsys.readouterr().out


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
def test_what_is_not_written_is_said(check, capsys):
    def stub(*arguments):
        raise NotImplementedError

    assert not check(stub)
    assert "not written yet" in capsys.readouterr().out


SLIPS = [
    (checks.merged, lambda w, d, u, a: w + a * u @ d, "not divided by the rank"),
    (checks.merged, lambda w, d, u, a: a / len(d) * u @ d, "frozen weight is missing"),
    (checks.merged, lambda w, d, u, a: w + a / len(d) * d @ u, "comes first"),
    (checks.merged, lambda w, d, u, a: w + u @ d, "but once"),
    (checks.merged, lambda w, d, u, a: w + u @ d / len(d), "alpha is missing"),
    (checks.merged, lambda w, d, u, a: w + a / len(u) * u @ d, "wrong axis"),
    (checks.merged, lambda w, d, u, a: w + a / d.shape[1] * u @ d, "wrong axis"),
    (checks.merged, lambda w, d, u, a: a / len(d) * (w + u @ d), "counts once"),
    (checks.merged, lambda w, d, u, a: w + a / len(d) * d.T @ u.T, "comes first"),
    (checks.merged, lambda w, d, u, a: w + a / r * u @ d, "not handed in"),  # noqa: F821
    (checks.lora_forward, lambda x, w, b, d, u, a: x @ w.T + b + x @ d.T @ u.T / len(d), "alpha is missing"),
    (checks.lora_forward, lambda x, w, b, d, u, a: x @ w.T + b + a / len(u) * x @ d.T @ u.T, "wrong axis"),
    (checks.lora_forward, lambda x, w, b, d, u, a: x @ w.T + b + a / d.shape[1] * x @ d.T @ u.T, "wrong axis"),
    (checks.lora_forward, lambda x, w, b, d, u, a: w @ x.T + b + a / len(d) * u @ d @ x.T, "a row a sample"),
    (checks.lora_forward, lambda x, w, b, d, u, a: x @ w.T + b + a / r * x @ d.T @ u.T, "not handed in"),  # noqa: F821
    (checks.prior_loss, lambda e, p, w: e[p].mean() + w * e[~p].mean(), "exchanged"),
    (checks.prior_loss, lambda e, p, w: e.mean(), "one mean over all"),
    (checks.prior_loss, lambda e, p, w: e[~p].sum() + w * e[p].sum(), "sums"),
    (checks.prior_loss, lambda e, p, w: e[~p].mean() + w * e[p].sum(), "sums"),
    (checks.prior_loss, lambda e, p, w: e.mean() + w * e[p].mean(), "the first mean"),
    (checks.prior_loss, lambda e, p, w: (e[~p].mean() + w * e[p].mean()) / 2, "nothing is divided by two"),
    (checks.prior_loss, lambda e, p, w: (1 - w) * e[~p].mean() + w * e[p].mean(), "not 1 - weight"),
    (checks.prior_loss, lambda e, p, w: e[~p] + w * e[p], "a single number"),
    (checks.prior_loss, lambda e, p, w: e[-p].mean() + w * e[p].mean(), "use the `~`"),
    (checks.prior_loss, lambda e, p, w: torch.where(p, w * e, e).mean(), "a mean of its own"),
]


@pytest.mark.parametrize("check, answer, hint", SLIPS)
def test_slips_get_their_hint(check, answer, hint):
    with pytest.raises(checks.CheckFailed, match=hint):
        check(answer)
