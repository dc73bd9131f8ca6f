"""Attentions of real classes: what is seen is what is computed, and what is returned is computed instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel, ZImageTransformer2DModel
from torch.nn.functional import scaled_dot_product_attention as attend

from loco_core.diffusion.attention_calls import AttentionCall, attention_calls

LAYERS = ("layers.0.attention", "layers.1.attention")


@pytest.fixture(scope="module")
def transformer() -> ZImageTransformer2DModel:
    """Norms and rotary embeddings stand between the projections of its attentions and what they compute with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ZImageTransformer2DModel(
            dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 6, 6],
            axes_lens=[128, 32, 32],
        ).eval()  # fmt: skip


@torch.no_grad()
def run(transformer: ZImageTransformer2DModel) -> torch.Tensor:
    texts = [torch.linspace(-1, 1, tokens * 16).reshape(tokens, 16) for tokens in (20, 40)]
    images = [torch.linspace(1, -1, 16 * 16 * 16).reshape(16, 1, 16, 16)] * 2
    return torch.stack(transformer(images, torch.tensor([0.5, 0.5]), texts, return_dict=False)[0])


def test_what_is_seen_is_what_the_attention_computes_with(transformer: ZImageTransformer2DModel) -> None:
    seen: dict[str, AttentionCall] = {}
    wrote: dict[str, torch.Tensor] = {}
    handles = [
        transformer.get_submodule(f"{path}.to_out.0").register_forward_pre_hook(
            lambda _, given, path=path: wrote.__setitem__(path, given[0])
        )
        for path in LAYERS
    ]
    plain = run(transformer)
    with attention_calls(transformer, LAYERS, lambda path, call: seen.setdefault(path, call)):
        assert torch.equal(run(transformer), plain)
    assert tuple(seen) == LAYERS
    for path, call in seen.items():
        # Two heads of 16; 64 tokens of the image, and 64 of the longer text.
        assert call.query.shape == call.key.shape == call.value.shape == (2, 2, 128, 16)
        made = attend(call.query, call.key, call.value, call.attn_mask)
        torch.testing.assert_close(made.transpose(1, 2).flatten(2), wrote[path])
    for handle in handles:
        handle.remove()


def test_what_is_returned_is_computed_and_only_at_the_attentions_asked_for(
    transformer: ZImageTransformer2DModel,
) -> None:
    plain = run(transformer)
    with attention_calls(transformer, LAYERS[:1], lambda _, call: replace(call, value=torch.zeros_like(call.value))):
        one = run(transformer)
    with attention_calls(transformer, LAYERS, lambda _, call: replace(call, value=torch.zeros_like(call.value))):
        both = run(transformer)
    assert not torch.equal(one, plain)
    assert not torch.equal(both, one)
    assert torch.equal(run(transformer), plain)
    assert all("forward" not in vars(module) for module in transformer.modules())


def test_an_inner_block_sees_what_an_outer_one_returned(transformer: ZImageTransformer2DModel) -> None:
    seen: list[AttentionCall] = []

    def keep(_: str, call: AttentionCall) -> AttentionCall:
        seen.append(call)
        return call

    with (
        attention_calls(transformer, LAYERS[:1], lambda _, call: replace(call, scale=0.25)),
        attention_calls(transformer, LAYERS[:1], keep),
    ):
        run(transformer)
    assert [call.scale for call in seen] == [0.25]


def test_attentions_of_text_beside_image_are_seen_whole() -> None:
    flux = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        axes_dims_rope=(4, 6, 6), joint_attention_dim=8, pooled_projection_dim=8,
    )  # fmt: skip
    paths, tokens = ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn"), dict[str, int]()

    def keep(path: str, call: AttentionCall) -> AttentionCall:
        tokens[path] = call.key.shape[2]
        return call

    with torch.no_grad(), attention_calls(flux, paths, keep):
        flux(
            torch.zeros(1, 9, 4), torch.zeros(1, 5, 8), torch.zeros(1, 8), torch.ones(1),
            img_ids=torch.zeros(9, 3), txt_ids=torch.zeros(5, 3),
        )  # fmt: skip
    assert tokens == dict.fromkeys(paths, 5 + 9)
