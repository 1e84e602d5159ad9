"""The text encoder against the reference, and contrastive training by hand."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from clip_vocabulary import other
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from minildm import weights
from minildm.attention import attention_maps
from minildm.denoiser import Denoiser
from minildm.stable_diffusion import reference_name
from minildm.tensors import count_parameters, seeded
from minildm.text import CLIP, ImageEncoder, TextEncoder, Tokenizer, contrastive_loss, train_tokenizer

SMALL = dict(vocab_size=97, dim=24, depth=2, heads=3, length=13, hidden_dim=40)


def reference(**config):
    """transformers' text tower of our configuration."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["dim"],
            num_hidden_layers=config["depth"],
            num_attention_heads=config["heads"],
            intermediate_size=config.get("hidden_dim", 4 * config["dim"]),
            max_position_embeddings=config.get("length", 77),
            hidden_act=config.get("activation", "quick_gelu"),
            layer_norm_eps=config.get("eps", 1e-5),
            eos_token_id=config.get("end", config["vocab_size"] - 1),
            bos_token_id=0,
            pad_token_id=0,
        )
    ).eval()


def shapes(theirs):
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in theirs.state_dict().items()}


def at_random(module, seed=0):
    """All parameters at random: those that start at 0 or 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def copy_weights(ours, theirs):
    prefix = "text_model." if any(name.startswith("text_model.") for name in theirs.state_dict()) else ""
    found = {prefix + reference_name(ours, name): tensor for name, tensor in ours.state_dict().items()}
    return theirs.load_state_dict(found)  # strict


def draw_ids(b, n, seed=1, high=96):
    """Texts of random length, an end token (96) behind each, and padding (again 96) behind that; and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(high, (b, n), generator=generator)
    ends = torch.randint(2, n, (b, 1), generator=generator)
    return ids.masked_fill(torch.arange(n) >= ends, 96), torch.arange(n) <= ends


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(vocab_size=49408, dim=768, depth=12, heads=12), 123_060_480),
        (dict(vocab_size=49408, dim=1024, depth=23, heads=16, activation="gelu"), 340_387_840),
    ],
    ids=["SD 1", "SD 2"],
)
def test_full_size_is_stable_diffusions(config, expected):
    with torch.device("meta"):  # shapes only
        ours, theirs = TextEncoder(**config), reference(**config)
    assert count_parameters(ours) == expected
    assert {reference_name(ours, name): tuple(t.shape) for name, t in ours.state_dict().items()} == shapes(theirs)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("more", [{}, dict(depth=3, heads=4, dim=20, eps=1e-2), dict(depth=1, length=29, end=5)])
def test_equals_the_reference(activation, more):
    config = SMALL | dict(activation=activation) | more
    ours, theirs = at_random(TextEncoder(**config)), reference(**config)
    copy_weights(ours, theirs)
    ids, mask = draw_ids(7, 11)
    if "end" in more:
        ids = torch.where(ids == 5, 6, ids)
        ids[:, 4] = ids[:, 8] = 5
    with torch.no_grad():
        hidden, expected = ours(ids, mask), theirs(ids)
        assert hidden.shape == (7, 11, config["dim"]) and hidden.abs().max() > 0.5
        assert (hidden - expected.last_hidden_state).abs().max() <= 1e-5
        assert (ours.pool(hidden, ids) - expected.pooler_output).abs().max() <= 1e-5
        masked = theirs(ids, attention_mask=mask.long()).last_hidden_state
        assert (hidden - masked)[mask].abs().max() <= 1e-5  # a mask changes nothing before the padding


def test_the_last_but_one_is_one_block_less():
    """Stable Diffusion 2 was trained with 24 blocks, and takes what the 23rd says, normalised."""
    theirs = at_random(reference(**SMALL | dict(depth=3)))
    ours, copy = TextEncoder(**SMALL | dict(depth=2)), reference(**SMALL | dict(depth=2))
    copy.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if "layers.2." not in name})
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(copy.get_parameter(reference_name(ours, name)))
        ids, _ = draw_ids(3, 8)
        *_, last_but_one, _ = theirs(ids, output_hidden_states=True).hidden_states
        assert (ours(ids) - theirs.final_layer_norm(last_but_one)).abs().max() <= 1e-5


def test_nothing_looks_ahead():
    model = at_random(TextEncoder(**SMALL))
    ids, mask = draw_ids(3, 10)
    with torch.no_grad():
        before = model(ids)
        for k in (1, 6, 9):
            changed = ids.clone()
            changed[:, k] = (ids[:, k] + 7) % 97
            after = model(changed)
            assert torch.equal(before[:, :k], after[:, :k])
            assert (before[:, k:] - after[:, k:]).abs().amax((0, 2)).min() > 1e-3  # each later one hears of it
        torch.testing.assert_close(model(ids[:, :4]), before[:, :4])
        assert torch.equal(model(ids), model(ids, torch.zeros_like(mask)))  # the mask is for others
    with attention_maps(model) as maps:
        model(ids)
    assert all(not layer_map.triu(1).any() for calls in maps.values() for layer_map in calls) and len(maps) == 2


def test_pool_takes_the_first_end_token():
    model = TextEncoder(**SMALL)
    hidden = torch.arange(2 * 4 * 24.0).reshape(2, 4, 24)
    pooled = model.pool(hidden, torch.tensor([[3, 96, 96, 96], [0, 5, 7, 96]]))
    assert torch.equal(pooled, torch.stack([hidden[0, 1], hidden[1, 3]]))
    with pytest.raises(ValueError, match="end token, id 96, in each row"):
        model.pool(hidden, torch.tensor([[3, 96, 96, 96], [0, 5, 7, 8]]))


def test_it_starts_as_clip_does():
    with seeded(3):
        model = TextEncoder(301, 96, depth=8, heads=4, length=50)
    block = model.blocks[5]
    for weight, std in [
        (model.tokens.weight, 0.02),
        (model.positions.weight, 0.01),
        (block.attention.to_q.weight, 96**-0.5),
        (block.attention.to_k.weight, 96**-0.5),
        (block.attention.to_v.weight, 96**-0.5),
        (block.attention.to_out.weight, 96**-0.5 * 16**-0.5),
        (block.fc1.weight, (2 * 96) ** -0.5),
        (block.fc2.weight, 96**-0.5 * 16**-0.5),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert abs(weight.mean().item()) < 0.05 * std
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_config_rebuilds_it_and_weights_come_back(tmp_path):
    ids, mask = draw_ids(3, 9)
    for config in (SMALL, dict(vocab_size=97, dim=8, depth=1, heads=2, activation="gelu", end=3, eps=1e-3)):
        model = at_random(TextEncoder(**config))
        assert TextEncoder(**json.loads(json.dumps(model.config))).config == model.config
        loaded = weights.load(weights.save(tmp_path / "text.safetensors", model))
        assert type(loaded) is TextEncoder and loaded.config == model.config
        assert torch.equal(loaded(ids, mask), model(ids, mask))


def test_another_text_encoder_can_take_its_place():
    """The contract is (ids, mask) -> (b, n, d), so the denoiser takes what T5 says as well."""
    with seeded(0):
        t5 = T5EncoderModel(T5Config(vocab_size=5, d_model=10, d_kv=4, d_ff=12, num_layers=1, num_heads=2)).eval()
        denoiser = Denoiser(3, 3, channels=(8, 12), context_dim=10)

    def encode(ids, mask):
        return t5(input_ids=ids, attention_mask=mask).last_hidden_state

    ids, mask = Tokenizer(other("$A [END]"), length=6, pad=0)(["a cat", "a"])
    with torch.no_grad():
        context = encode(ids, mask)
        x_t, t = torch.zeros(2, 3, 8, 8), torch.tensor([3, 3])
        one, two = denoiser(x_t, t, context, mask)
    assert context.shape == (2, 6, 10) and one.shape == (3, 8, 8) and (one - two).abs().max() > 1e-5


@pytest.mark.parametrize("autocast", [False, True])
def test_lower_precision(autocast):
    model, (ids, mask) = at_random(TextEncoder(**SMALL)), draw_ids(3, 9)
    with torch.no_grad():
        exact = model(ids, mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = model(ids, mask) if autocast else model.bfloat16()(ids, mask)
    assert (found - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(activation="relu"), "expected activation as one of 'gelu', 'quick_gelu', got 'relu'"),
        (dict(heads=5), "24 channels do not split into 5 heads"),
        (dict(depth=0), "positive sizes, .*depth=0"),
        (dict(end=97), "end, an id, from 0 to 96, got 97"),
    ],
)
def test_bad_configurations(more, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**SMALL | more)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2]], "got list"),
        (torch.tensor([1, 2]), r"expected ids: \(b, n\) int64.* got shape \(2,\) of torch.int64"),
        (torch.tensor([[1.0, 2.0]]), "got shape .* of torch.float32"),
        (torch.tensor([[True, False]]), "of torch.bool"),
        (torch.zeros(1, 14, dtype=torch.int64), r"at most 13 tokens, got 14: tokenizer\(texts, length=13\)"),
        (torch.tensor([[1, 97]]), "expected ids from 0 to 96, got 1 to 97: do tokenizer"),
        (torch.tensor([[-1, 5]]), "got -1 to 5"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**SMALL)(ids)


E1, E2, E3 = torch.eye(3)


def test_the_loss_by_hand():
    """Cosines: 1 and 0.6 of caption 1 with pictures 1 and 2, 0 and 0.8 of caption 2."""
    text = torch.stack([2 * E1, 3 * E2])
    image = torch.stack([5 * E1, 0.6 * E1 + 0.8 * E2])
    log_scale = torch.tensor(math.log(10))
    by_text = [math.log(1 + math.exp(10 * (0.6 - 1.0))), math.log(1 + math.exp(10 * (0.0 - 0.8)))]
    by_image = [math.log(1 + math.exp(10 * (0.0 - 1.0))), math.log(1 + math.exp(10 * (0.6 - 0.8)))]
    expected = (sum(by_text) / 2 + sum(by_image) / 2) / 2
    torch.testing.assert_close(contrastive_loss(text, image, log_scale), torch.tensor(expected))


def test_equal_captions_are_no_wrong_answers():
    """Captions 1 and 3 say the same: 1 chooses among pictures 1 and 2, 3 among 2 and 3, and 2 among all three."""
    text = torch.stack([E1, E2, E1])
    image = torch.stack([E1, E3, 0.6 * E1 + 0.8 * E2])
    s = 4.0
    cosines = [[1.0, 0.0, 0.6], [0.0, 0.0, 0.8], [1.0, 0.0, 0.6]]

    def cost(right, *wrong):
        return math.log(sum(math.exp(s * c) for c in (right, *wrong))) - s * right

    by_text = cost(1.0, 0.0) + cost(0.0, 0.0, 0.8) + cost(0.6, 0.0)
    by_image = cost(1.0, 0.0) + cost(0.0, 0.0, 0.0) + cost(0.6, 0.8)
    assert [row[2] for row in cosines] == pytest.approx((text @ image[2]).tolist())
    found = contrastive_loss(text, image, torch.tensor(math.log(s)), torch.tensor([8, 5, 8]))
    torch.testing.assert_close(found, torch.tensor((by_text + by_image) / 6))
    plain = contrastive_loss(text, image, torch.tensor(math.log(s)))
    assert plain > found
    torch.testing.assert_close(contrastive_loss(text, image, torch.tensor(math.log(s)), torch.tensor([8, 5, 7])), plain)
    assert contrastive_loss(text, image, torch.tensor(0.0), torch.tensor([1, 1, 1])) == 0  # nothing to choose


def test_equal_captions_are_not_pushed_apart():
    generator = torch.Generator().manual_seed(0)
    text, image = torch.randn(2, 4, 6, generator=generator)
    captions = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]])
    meaning = captions.unique(dim=0, return_inverse=True)[1]
    assert meaning[0] == meaning[2] and len(meaning.unique()) == 3

    def pull(image):
        features = text.clone().requires_grad_()
        contrastive_loss(features, image, torch.tensor(1.0), meaning).backward()
        return features.grad

    moved = image.clone()
    moved[2] += 1.0
    assert torch.equal(pull(image)[0], pull(moved)[0])  # caption 1 is not pushed from the picture of its twin
    assert not torch.equal(pull(image)[1], pull(moved)[1])


def test_the_scale_is_bounded():
    generator = torch.Generator().manual_seed(0)
    text, image = torch.randn(2, 5, 3, generator=generator)
    losses = [contrastive_loss(text, image, torch.tensor(math.log(s))) for s in (100.0, 1e4, 50.0)]
    assert losses[0] == losses[1] != losses[2]
    guess = contrastive_loss(torch.ones(7, 3), torch.ones(7, 3), torch.tensor(2.0))
    torch.testing.assert_close(guess, torch.tensor(math.log(7)))
    assert contrastive_loss(text.bfloat16(), image.bfloat16(), torch.tensor(1.0)).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "image", "meaning", "message"),
    [
        ((4, 3), (5, 3), None, r"one shape \(b, d\), got \(4, 3\) and \(5, 3\)"),
        ((4,), (4,), None, r"got \(4,\) and \(4,\)"),
        ((4, 3), (4, 3), (4, 3), r"expected meaning: \(4,\), one label per caption, got shape \(4, 3\)"),
    ],
)
def test_bad_features(text, image, meaning, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.ones(text), torch.ones(image), torch.tensor(1.0), meaning and torch.ones(meaning))


def test_every_parameter_learns():
    with seeded(0):
        model = CLIP(TextEncoder(**SMALL), ImageEncoder(10, size=12, channels=(8, 16, 24), heads=2, in_channels=5), 10)
    ids, mask = draw_ids(6, 13)
    images = torch.randn(6, 5, 12, 12, generator=torch.Generator().manual_seed(2))
    text, image, log_scale = model(ids, mask, images)
    assert text.shape == image.shape == (6, 10) and log_scale.exp().item() == pytest.approx(1 / 0.07)
    contrastive_loss(text, image, log_scale).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name


def test_where_something_stands_matters_to_the_image_encoder():
    with seeded(0):
        model = ImageEncoder(7, size=16, channels=(8, 12)).eval()
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 5:8, 5:8] = 1.0
    with torch.no_grad():
        one, other = model(torch.cat([picture, picture.roll(4, -1)]))  # far from the edges: padding tells nothing
    assert (one - other).abs().max() > 1e-4 and one.shape == (7,)


def test_bad_pictures():
    model = ImageEncoder(7, size=16, channels=(8, 12))
    for shape, message in [
        ((1, 3, 16, 12), "16×16 pixels, got 16×12"),
        ((1, 1, 16, 16), "expected 3 channels, got 1"),
        ((3, 16, 16), "add a batch axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="halved 2 times, got 10"):
        ImageEncoder(7, size=10, channels=(8, 12, 16))


COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def squares(generator, n):
    """Squares in four colours, on the left or on the right, and what they are: 0 to 7."""
    kinds = torch.randint(8, (n,), generator=generator)
    images = -torch.ones(n, 3, 16, 16)
    for image, kind in zip(images, kinds.tolist(), strict=True):
        y, x = torch.randint(10, (), generator=generator), torch.randint(3, (), generator=generator) + 8 * (kind % 2)
        image[:, y : y + 6, x : x + 6] = torch.tensor(list(COLOURS.values())[kind // 2])[:, None, None]
    return images, kinds


def test_pictures_teach_words():
    """After a hundred small batches, full of equal captions, each picture finds its caption: colour and place."""
    texts = [f"a {colour} square {where}" for colour in COLOURS for where in ("left", "right")]
    tokenizer = train_tokenizer(texts * 2, 300, length=8)
    ids, mask = tokenizer(texts)
    with seeded(0):
        text_encoder = TextEncoder(len(tokenizer), 32, depth=1, heads=2, length=8)
        model = CLIP(text_encoder, ImageEncoder(16, size=16, channels=(8, 16)), dim=16)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(100):
        images, kinds = squares(generator, 16)
        loss = contrastive_loss(*model(ids[kinds], mask[kinds], images), meaning=kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    images, kinds = squares(generator, 64)
    with torch.no_grad():
        text, image, _ = model(ids, mask, images)
        found = (image @ F.normalize(text, dim=1).T).argmax(1)
    assert losses[0] > 1.5 and sum(losses[-10:]) / 10 < 0.2
    assert (found == kinds).float().mean() > 0.9
