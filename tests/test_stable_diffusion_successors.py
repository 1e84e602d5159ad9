"""Stable Diffusion 3 and FLUX.1, counted from their configurations."""

import pytest
import torch

from minildm.stable_diffusion import successors
from minildm.stable_diffusion.successors import FLUX_1_DEV, FLUX_1_SCHNELL, SD_3_MEDIUM, parameters
from minildm.tensors import count_parameters


@pytest.mark.parametrize(
    "c, whole", [(SD_3_MEDIUM, 2_028_328_000), (FLUX_1_DEV, 11_901_408_320), (FLUX_1_SCHNELL, 11_891_178_560)]
)
def test_the_published_sizes_come_out(c, whole):
    assert sum(parameters(c).values()) == whole


def sd3(c):
    diffusers = pytest.importorskip("diffusers")
    dim = c.heads * c.head_dim
    with torch.device("meta"):
        return diffusers.SD3Transformer2DModel(
            patch_size=c.patch,
            in_channels=c.latent_channels,
            out_channels=c.latent_channels,
            num_layers=c.double,
            attention_head_dim=c.head_dim,
            num_attention_heads=c.heads,
            joint_attention_dim=c.context_dim,
            caption_projection_dim=dim,
            pooled_projection_dim=c.pooled_dim,
        )


def flux(c):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        return diffusers.FluxTransformer2DModel(
            in_channels=c.latent_channels * c.patch**2,
            num_layers=c.double,
            num_single_layers=c.single,
            attention_head_dim=c.head_dim,
            num_attention_heads=c.heads,
            joint_attention_dim=c.context_dim,
            pooled_projection_dim=c.pooled_dim,
            guidance_embeds=c.guided,
        )


@pytest.mark.parametrize("make, c", [(sd3, SD_3_MEDIUM), (flux, FLUX_1_DEV), (flux, FLUX_1_SCHNELL)])
def test_the_count_is_that_of_the_reference_at_any_size(make, c):
    small = c._replace(heads=3, double=2, single=min(c.single, 4), latent_channels=5, context_dim=11, pooled_dim=7)
    assert sum(parameters(small).values()) == count_parameters(make(small))


def test_parts_are_those_of_the_reference():
    c = FLUX_1_DEV._replace(heads=2, double=3, single=4)
    model, found = flux(c), parameters(c)
    blocks = [count_parameters(part) for part in (model.transformer_blocks, model.single_transformer_blocks)]
    assert found["patches"] == found["words"]
    assert sum(found.values()) - found["rest"] == sum(blocks)
    norms = [block.norm for block in model.single_transformer_blocks]
    norms += [norm for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    assert found["modulation"] == sum(map(count_parameters, norms))


def test_text_encoders_are_counted_as_transformers_builds_them():
    transformers = pytest.importorskip("transformers")
    wide = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20)
    deep = dict(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        towers = {
            "CLIP L": transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=768, intermediate_size=3072)),
            "CLIP bigG": transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**wide, projection_dim=1280)
            ),
        }
        if hasattr(transformers, "T5EncoderModel"):
            towers["T5 XXL"] = transformers.T5EncoderModel(transformers.T5Config(vocab_size=32128, d_kv=64, **deep))
    for name, tower in towers.items():
        numbers = {id(p): p.numel() for p in tower.parameters()}
        assert sum(numbers.values()) == successors.TEXT_ENCODERS[name], name


def test_tokens_of_a_picture():
    assert successors.tokens(SD_3_MEDIUM, 1024, 1024) == 4096
    assert successors.tokens(FLUX_1_DEV, 512, 768) == 32 * 48
    with pytest.raises(ValueError, match="multiples of 16, got 1000 and 1024"):
        successors.tokens(SD_3_MEDIUM, 1000, 1024)
