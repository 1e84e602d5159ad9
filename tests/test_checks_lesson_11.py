import re

import pytest
import torch

from minildm import checks
from minildm.attention import TransformerBlock, attention_maps
from minildm.denoiser import Denoiser
from minildm.reference_names import reference_name
from minildm.tensors import count_parameters


def good_shape(height, width, level):
    side = 8 * 2**level
    return 8, (height // side) * (width // side), 77


def good_parameters(dim, context_dim):
    return 18 * dim**2 + 2 * dim * context_dim + 17 * dim


def good_bytes(parameters, trained):
    return 2 * parameters + 20 * trained


def good_name(name, **changed):
    """As a learner may write it: one rule after the other, each of which can be changed."""
    rules = {
        "tokens.": "embeddings.token_embedding.",
        "positions.": "embeddings.position_embedding.",
        "blocks.": "encoder.layers.",
        "attention.": "self_attn.",
        "to_out": "out_proj",
        "to_q": "q_proj",
        "to_k": "k_proj",
        "to_v": "v_proj",
        "fc": "mlp.fc",
        ".norm": ".layer_norm",
    }
    if name.startswith("norm"):
        return changed.get("last", "final_layer_norm.") + name.removeprefix("norm.")
    for old, new in (rules | {old.replace("_dot", "."): new for old, new in changed.items() if old != "last"}).items():
        name = name.replace(old, new)
    return name


def but(**changed):
    return lambda name: good_name(name, **changed)


RIGHT = [
    (checks.clip_name, good_name),
    (checks.map_shape, good_shape),
    (checks.block_parameters, good_parameters),
    (checks.training_bytes, good_bytes),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda name: good_name(name).replace("mlp", "mpl"), "does not have: .*mpl.fc1"),
        (but(to_q="v_proj", to_v="q_proj"), "name of another one: .*found 'blocks.0.attention.to_q.weight'"),
        (lambda name: None, "each answer is a name"),
        (lambda name: reference_name(None, name), "leaves the work"),
        (reference_name, "package's own"),
    ],
)
def test_a_wrong_name_is_told_and_the_right_one_is_not(wrong, says):
    with pytest.raises(checks.CheckFailed, match=says) as info:
        checks.clip_name(wrong)
    assert "mlp." not in str(info.value) and "q_proj" not in str(info.value)


def test_the_parameters_are_those_of_the_block():
    assert count_parameters(TransformerBlock(24, 10, heads=3)) == good_parameters(24, 10)


def test_the_shapes_are_those_of_the_maps():
    """At Stable Diffusion's layout, narrow: the picture is 8 times the latent."""
    net = Denoiser(4, 4, (8, 16, 24, 24), 2, attention=(0, 1, 2), heads=8, context_dim=6).eval()
    with attention_maps(net, "cross_attention") as maps, torch.no_grad():
        net(torch.zeros(1, 4, 16, 8), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 77, 6))
    found = {tuple(layer[0].shape[1:]) for name, layer in maps.items() if not name.startswith("middle")}
    assert found == {good_shape(128, 64, level) for level in (0, 1, 2)}


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.clip_name, lambda name: name, "nothing is translated"),
        (checks.clip_name, lambda name: f"text_model.{good_name(name)}", "without text_model. in front"),
        (checks.clip_name, but(last="layer_norm."), "very last normalisation is no part"),
        (checks.clip_name, but(last="norm."), "very last normalisation is no part"),
        (
            checks.clip_name,
            lambda name: good_name(name).replace(".layer_norm", ".final_layer_norm"),
            "only the very last",
        ),
        (checks.clip_name, but(to_out="to_out"), "layer behind the heads"),
        (checks.clip_name, but(to_q="q", to_k="k", to_v="v"), "queries, keys and values"),
        (checks.clip_name, but(to_q="to_q", to_k="to_k", to_v="to_v", to_out="to_out"), "all four layers"),
        (checks.clip_name, but(attention_dot="attention."), "the attention itself"),
        (checks.clip_name, but(fc="fc"), "feed-forward stand in a part"),
        (checks.clip_name, but(blocks_dot="layers."), "blocks stand in a part"),
        (checks.clip_name, but(tokens_dot="tokens."), "table of tokens"),
        (checks.clip_name, but(positions_dot="positions."), "table of positions"),
        (checks.clip_name, but(to_q="k_proj", to_k="q_proj"), "queries and keys are exchanged"),
        (checks.clip_name, lambda name: good_name(name).rpartition(".")[0], "the end stays"),
        (checks.clip_name, lambda name: re.sub(r"layers\.\d+", "layers", good_name(name)), "number of the block"),
        (checks.clip_name, lambda name: re.sub(r"layers\.\d+", "layers.0", good_name(name)), "number of the block"),
        (checks.map_shape, lambda h, w, k: (8, h // (8 * 2**k), w // (8 * 2**k), 77), "are one axis"),
        (checks.map_shape, lambda h, w, k: (8, h * w // 4**k, 77), "places of the picture"),
        (checks.map_shape, lambda h, w, k: good_shape(h, w, min(k, 1)), "once more"),
        (checks.map_shape, lambda h, w, k: good_shape(h, w, k + 1), "level 0 is the full"),
        (checks.map_shape, lambda h, w, k: (8, good_shape(h, w, k)[1], good_shape(h, w, k)[1]), "look at words"),
        (checks.map_shape, lambda h, w, k: (8, 77, good_shape(h, w, k)[1]), "exchanged"),
        (checks.map_shape, lambda h, w, k: (8, h // (8 * 2**k), 77), "rows times columns"),
        (checks.map_shape, lambda h, w, k: (8, h * w // 64 // 2**k, 77), "both sides are halved"),
        (checks.block_parameters, lambda d, c: 20 * d**2 + 17 * d, "read the context"),
        (checks.block_parameters, lambda d, c: 14 * d**2 + 2 * d * c + 13 * d, "gates the other half"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - 6 * d, "normalisations are missing"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - 3 * d, "and.? a shift"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - 11 * d, "those of the attentions' outputs and"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - 2 * d, "outputs are missing"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - 9 * d, "feed-forward are missing"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) + 6 * d, "no bias here"),
        (checks.block_parameters, lambda d, c: good_parameters(d, c) - d * c, "both the keys and the values"),
        (checks.block_parameters, lambda d, c: 16 * d**2 + 16 * d, "two attentions"),
        (checks.training_bytes, lambda n, m: 20 * m, "copies in 16 bits"),
        (checks.training_bytes, lambda n, m: 2 * (n - m) + 20 * m, "in 16 bits and in 32"),
        (checks.training_bytes, lambda n, m: 4 * n + 20 * m, "takes 2 bytes"),
        (checks.training_bytes, lambda n, m: 2 * n + 16 * m, "missing"),
        (checks.training_bytes, lambda n, m: 2 * n + 18 * m, "gradients have 32 here"),
        (checks.training_bytes, lambda n, m: 2 * n + 12 * m, "averages are missing"),
        (checks.training_bytes, lambda n, m: 22 * n, "only what is trained"),
        (checks.training_bytes, lambda n, m: 16 * n + 160 * m, "these are bits"),
        (checks.training_bytes, lambda n, m: n + 5 * m, "not bytes"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)


def test_a_failure_shows_some_of_the_names_that_it_was_asked_for():
    with pytest.raises(AssertionError, match="argument 1: 'tokens.weight', 'positions.weight', .* more"):
        checks.clip_name(lambda name: name)
