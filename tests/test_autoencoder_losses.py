"""The losses of the autoencoder by hand, and what each network learns from them."""

import pytest
import torch
import torch.nn.functional as F
from compare import random, randomized
from test_autoencoder import SMALL
from torch import nn

from minildm.autoencoder import (
    AutoencoderKL,
    Gaussian,
    PatchDiscriminator,
    autoencoder_loss,
    draw_latent,
    hinge_loss,
    loss_terms,
    paired_loss,
    perceptual_distance,
)
from minildm.tensors import seeded
from minildm.training import train
from minildm.unet import UNet


def test_pixels_by_hand():
    x, x_hat = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, 1.0]]]])
    posterior = Gaussian(torch.full((1, 2, 1, 2), 2.0), torch.zeros(1, 2, 1, 2))
    terms = loss_terms(x, x_hat, posterior)
    assert {name: term.item() for name, term in terms.items()} == {"l1": 0.75, "l2": 0.625, "kl": 2.0}


def test_features_by_hand():
    """Directions (0.6, 0.8) and (1, 0) are 0.8 apart squared; equal ones, of whatever length, are 0 apart."""
    x, x_hat = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2, requires_grad=True)

    def features(images):
        first = torch.tensor([3.0, 4.0]) if images is x else torch.tensor([7.0, 0.0])
        second = torch.tensor([0.0, 2.0]) if images is x else torch.tensor([0.0, 9.0])
        fine = torch.stack([first, second], dim=1).reshape(1, 2, 1, 2)  # two places
        return [fine * images.mean().add(1), torch.ones(1, 3, 1, 1)]

    distance = perceptual_distance(features, x, x_hat)
    torch.testing.assert_close(distance, torch.tensor([(0.8 / 2 + 0) / 2]))
    terms = loss_terms(x, x_hat, Gaussian(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)), features)
    assert terms["perceptual"] == distance.mean()


def test_features_of_a_u_net_teach_the_autoencoder_and_not_the_u_net():
    model, u = AutoencoderKL(**SMALL), UNet(3, 2, (8, 12)).requires_grad_(False)
    batch = draw_latent(random(2, 3, 8, 12), model, torch.Generator().manual_seed(0))
    pixels = autoencoder_loss(model, batch)
    loss = autoencoder_loss(model, batch, perceptual=3.0, features=u.encode)
    with torch.no_grad():
        x_hat = model.decode(model.encode(batch["x"]).at(batch["eps"]))
        apart = perceptual_distance(u.encode, batch["x"], x_hat)
        assert perceptual_distance(u.encode, batch["x"], batch["x"]).abs().max() == 0
    assert apart.shape == (2,) and (apart > 0).all() and (apart < 4).all()
    torch.testing.assert_close(loss - pixels, 3 * apart.mean())
    autoencoder_loss(model, batch, l1=0, l2=0, kl=0, features=u.encode).backward()
    assert model.decoder.head.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in u.parameters())


def test_the_weights_of_the_loss():
    model = AutoencoderKL(**SMALL)
    x = random(2, 3, 8, 12)
    batch = draw_latent(x, model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = model.encode(x)
        x_hat = model.decode(posterior.mean + posterior.std * batch["eps"])
        expected = 2 * (x - x_hat).abs().mean() + 3 * (x - x_hat).square().mean()
        expected += 5 * posterior.kl().sum() / (2 * 5 * 2 * 3)
        torch.testing.assert_close(autoencoder_loss(model, batch, l1=2, l2=3, kl=5), expected)


def test_noise_is_drawn_from_the_generator():
    model, x = AutoencoderKL(2, 3, (8, 12), patch=2), random(50, 2, 12, 8)
    state = torch.get_rng_state()
    first, again, other = (draw_latent(x, model, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first["x"] is x and first["eps"].shape == (50, 3, 3, 2) == model.encode(x).mean.shape
    assert torch.equal(first["eps"], again["eps"]) and not torch.equal(first["eps"], other["eps"])
    assert first["eps"].std().item() == pytest.approx(1, abs=0.1)
    assert draw_latent(x.half(), model, torch.Generator())["eps"].dtype == torch.float16


def test_the_critics_loss_by_hand():
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([-1.5, -0.5, 1.0])
    torch.testing.assert_close(hinge_loss(real, fake), torch.tensor((0.25 + (0 + 0.5 + 2) / 3) / 2))


def test_the_critic_looks_at_patches():
    critic = randomized(PatchDiscriminator(2, (8, 12, 16)))
    x = random(1, 2, 96, 80).requires_grad_()
    logits = critic(x)
    assert logits.shape == (1, 1, 12, 10)
    for norm in (layer for layer in critic.layers if isinstance(layer, nn.GroupNorm)):
        norm.register_forward_hook(lambda norm, args, output: args[0])  # it alone sees the whole picture
    (seen,) = torch.autograd.grad(critic(x)[0, 0, 6, 5], x)
    rows, columns = seen[0].abs().sum(0).nonzero().unbind(1)
    assert rows.max() - rows.min() == columns.max() - columns.min() == 37


def with_critic(adversarial=0.5):
    with seeded(0):
        model, critic = AutoencoderKL(**SMALL), PatchDiscriminator(3, (8, 12))
    batch = draw_latent(random(2, 3, 16, 24), model, torch.Generator().manual_seed(0))
    return model, critic, batch


def gradients(loss, *modules):
    """The gradient of each module's parameters, as one vector."""
    for module in modules:
        module.zero_grad()
    loss.backward()
    return [torch.cat([p.grad.flatten() for p in module.parameters()]) for module in modules]


def test_each_learns_from_its_own_loss():
    model, critic, batch = with_critic()
    with torch.no_grad():
        x_hat = model.decode(model.encode(batch["x"]).at(batch["eps"]))
    (critics_own,) = gradients(hinge_loss(critic(batch["x"]), critic(x_hat)), critic)
    (plain,) = gradients(autoencoder_loss(model, batch), model)
    off, same = gradients(autoencoder_loss(model, batch, critic=critic, adversarial=0.0), model, critic)
    torch.testing.assert_close(same, critics_own)
    torch.testing.assert_close(off, plain)
    on, same = gradients(autoencoder_loss(model, batch, critic=critic, adversarial=0.5), model, critic)
    torch.testing.assert_close(same, critics_own)
    assert (on - plain).norm() > 0.01 * plain.norm()


def test_the_critics_gradient_is_as_long_as_asked_for():
    model, critic, batch = with_critic()
    head = model.decoder.head.weight
    (plain,) = torch.autograd.grad(autoencoder_loss(model, batch), head)
    for adversarial in (0.1, 0.8):
        (both,) = torch.autograd.grad(autoencoder_loss(model, batch, critic=critic, adversarial=adversarial), head)
        assert ((both - plain).norm() / plain.norm()).item() == pytest.approx(adversarial, rel=0.01)
    x_hat = model.decode(model.encode(batch["x"]).at(batch["eps"]))
    (towards,) = torch.autograd.grad(-critic(x_hat).mean(), head)  # where the critic takes them for real
    assert F.cosine_similarity((both - plain).flatten(), towards.flatten(), dim=0) > 0.99
    with torch.no_grad():
        assert autoencoder_loss(model, batch, critic=critic).isfinite()


def test_the_pair_is_trained_by_the_loop():
    model, critic, batch = with_critic()
    before = [[p.detach().clone() for p in module.parameters()] for module in (model, critic)]
    pair = nn.ModuleDict({"autoencoder": model, "critic": critic})
    expected = autoencoder_loss(model, batch, critic=critic, kl=0.1)
    torch.testing.assert_close(paired_loss(pair, batch, kl=0.1), expected)

    def draw(generator, n):
        return draw_latent(torch.rand(n, 3, 16, 24, generator=generator) * 2 - 1, model, generator)

    history = train(pair, draw, paired_loss, steps=2, batch_size=2, lr=1e-3, progress=False)
    assert len(history.loss) == 2
    for module, was in zip((model, critic), before, strict=True):
        assert max((p - old).abs().max() for p, old in zip(module.parameters(), was, strict=True)) > 1e-5


def test_it_learns():
    """Plain pictures of any brightness need one number each: the error falls far below that of the best constant."""
    with seeded(0):
        model = AutoencoderKL(1, 1, (8, 12), middle_attention=False)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(80):
        x = (torch.rand(16, 1, 1, 1, generator=generator) * 2 - 1).expand(16, 1, 8, 8)
        loss = autoencoder_loss(model, draw_latent(x, model, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.45 < 0.8 < losses[0]  # the best constant has 1/2 + 1/3
