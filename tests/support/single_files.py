"""Checkpoints as people share them: one safetensors file in the layout of the original training code.

Tiny pipelines of the real classes are written so, by the rules that diffusers' conversion reads backwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2", ".fc1.": ".mlp_fc.",
    "final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding", ".self_attn.": ".attn.",
    "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def unet_keys(unet: Any) -> Weights:
    """Returns the weights of a UNet as ``input_blocks``, ``middle_block`` and ``output_blocks``."""
    return {f"model.diffusion_model.{_unet_key(unet, key)}": value for key, value in unet.state_dict().items()}


def _unet_key(unet: Any, key: str) -> str:
    layers = unet.config.layers_per_block
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    found = re.match(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.*)", key)
    assert found is not None, key
    side, block, kind, number, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        part = next(name for name in _RESNET if rest.startswith(name))
        rest = rest.replace(part, _RESNET[part], 1)
    if side is None:
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{rest}"
    at = block * (layers + 1) + number
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{at + 1}.{0 if kind == 'resnets' else 1}.{rest}"
    if kind == "upsamplers":
        attends = hasattr(unet.up_blocks[block], "attentions")
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}.{rest}"
    return f"output_blocks.{at}.{0 if kind == 'resnets' else 1}.{rest}"


def vae_keys(vae: Any, prefix: str = "first_stage_model.") -> Weights:
    """Returns the weights of an ``AutoencoderKL`` as ``encoder.down``, ``decoder.up`` and ``mid.block_1``."""
    ups = len(vae.config.up_block_types)
    found = {}
    for key, value in vae.state_dict().items():
        attention = "attentions" in key
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{ups - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{ups - 1 - int(m[1])}.upsample", name)
        if attention:
            for ours, theirs in _VAE_ATTENTION.items():
                name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
            if value.ndim == 2:
                value = value[:, :, None, None]
        found[prefix + name] = value
    return found


def clip_keys(encoder: Any, prefix: str) -> Weights:
    """Returns the weights of a CLIP text encoder as transformers published them, behind a prefix."""
    return {
        prefix + (key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}"): value
        for key, value in encoder.state_dict().items()
    }


def open_clip_keys(encoder: Any, prefix: str) -> Weights:
    """Returns the weights of a CLIP text encoder as OpenCLIP has them: Q, K and V in one."""
    found: Weights = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in encoder.state_dict().items():
        name = key.removeprefix("text_model.")
        if name == "text_projection.weight":
            found[f"{prefix}text_projection"] = value.T
            continue
        for ours, theirs in _OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        name = name.replace(".mlp.mlp_fc.", ".mlp.c_fc.").replace(".mlp.fc2.", ".mlp.c_proj.")
        if (joined := re.fullmatch(r"(.*\.attn\.)(q|k|v)_proj\.(weight|bias)", name)) is not None:
            parts.setdefault(f"{joined[1]}in_proj_{joined[3]}", {})[joined[2]] = value
        else:
            found[prefix + name] = value
    return found | {prefix + name: torch.cat([three[part] for part in "qkv"]) for name, three in parts.items()}


def sd3_keys(transformer: Any) -> Weights:
    """Returns the weights of Stable Diffusion 3's transformer as ``joint_blocks``."""
    last = transformer.config.num_layers - 1
    weights = transformer.state_dict()
    found = dict(_sd3_ends(weights))
    for i in range(last + 1):
        ours, theirs = f"transformer_blocks.{i}.", f"joint_blocks.{i}."
        for part, name in (("q", "ln_q"), ("k", "ln_k")):
            if f"{ours}attn.norm_{part}.weight" in weights:
                found[f"{theirs}x_block.attn.{name}.weight"] = weights[f"{ours}attn.norm_{part}.weight"]
                found[f"{theirs}context_block.attn.{name}.weight"] = weights[f"{ours}attn.norm_added_{part}.weight"]
        for end in ("weight", "bias"):
            for attention in ("attn", "attn2"):
                if f"{ours}{attention}.to_q.{end}" in weights:
                    own = [weights[f"{ours}{attention}.to_{part}.{end}"] for part in "qkv"]
                    found[f"{theirs}x_block.{attention}.qkv.{end}"] = torch.cat(own)
                    found[f"{theirs}x_block.{attention}.proj.{end}"] = weights[f"{ours}{attention}.to_out.0.{end}"]
            text = [weights[f"{ours}attn.add_{part}_proj.{end}"] for part in "qkv"]
            found[f"{theirs}context_block.attn.qkv.{end}"] = torch.cat(text)
            for own, their in (("norm1.linear", "adaLN_modulation.1"), *_MLP.items()):
                found[f"{theirs}x_block.{their}.{end}"] = weights[f"{ours}{own}.{end}"]
            modulation = weights[f"{ours}norm1_context.linear.{end}"]
            if i == last:
                found[f"{theirs}context_block.adaLN_modulation.1.{end}"] = _swapped(modulation)
                continue
            found[f"{theirs}context_block.adaLN_modulation.1.{end}"] = modulation
            found[f"{theirs}context_block.attn.proj.{end}"] = weights[f"{ours}attn.to_add_out.{end}"]
            for own, their in _MLP.items():
                found[f"{theirs}context_block.{their}.{end}"] = weights[
                    f"{ours}{own.replace('ff', 'ff_context')}.{end}"
                ]
    return {f"model.diffusion_model.{key}": value for key, value in found.items()}


_MLP = {"ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}
_SD3_ENDS = {
    "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
}  # fmt: skip


def _sd3_ends(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    yield "pos_embed", weights["pos_embed.pos_embed"]
    for end in ("weight", "bias"):
        for ours, theirs in _SD3_ENDS.items():
            yield f"{theirs}.{end}", weights[f"{ours}.{end}"]
        yield f"final_layer.adaLN_modulation.1.{end}", _swapped(weights[f"norm_out.linear.{end}"])


def _swapped(value: torch.Tensor) -> torch.Tensor:
    first, second = value.chunk(2)
    return torch.cat([second, first])


def checkpoint(pipeline: Any) -> Weights:
    """Returns what is in the single file of a pipeline: all that was trained, as its original code names it."""
    name = type(pipeline).__name__
    if name == "StableDiffusionPipeline":
        encoder = clip_keys(pipeline.text_encoder, "cond_stage_model.transformer.")
        return {**unet_keys(pipeline.unet), **vae_keys(pipeline.vae), **encoder}
    if name == "StableDiffusionXLPipeline":
        first = clip_keys(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        second = open_clip_keys(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
        return {**unet_keys(pipeline.unet), **vae_keys(pipeline.vae), **first, **second}
    assert name == "StableDiffusion3Pipeline"
    return {**sd3_keys(pipeline.transformer), **vae_keys(pipeline.vae)}


def write(weights: Mapping[str, torch.Tensor], file: Path) -> Path:
    """Writes weights into a safetensors file, and returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().clone().contiguous() for key, value in weights.items()}, file, {"format": "pt"})
    return file


_FLUX_ENDS = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
}  # fmt: skip
_FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
}  # fmt: skip


def flux_keys(transformer: Any) -> Weights:
    """Returns the weights of FLUX.1's transformer as ``double_blocks`` and ``single_blocks``, without a beginning."""
    weights = transformer.state_dict()
    found: Weights = {}
    for end in ("weight", "bias"):
        found |= {f"{theirs}.{end}": weights[f"{ours}.{end}"] for ours, theirs in _FLUX_ENDS.items()}
        found[f"final_layer.adaLN_modulation.1.{end}"] = _swapped(weights[f"norm_out.linear.{end}"])
    for i in range(transformer.config.num_layers):
        ours, theirs = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        for end in ("weight", "bias"):
            found |= {f"{theirs}{their}.{end}": weights[f"{ours}{own}.{end}"] for own, their in _FLUX_DOUBLE.items()}
            image = [weights[f"{ours}attn.to_{part}.{end}"] for part in "qkv"]
            text = [weights[f"{ours}attn.add_{part}_proj.{end}"] for part in "qkv"]
            found |= {f"{theirs}img_attn.qkv.{end}": torch.cat(image), f"{theirs}txt_attn.qkv.{end}": torch.cat(text)}
        for part, name in (("q", "query"), ("k", "key")):
            found[f"{theirs}img_attn.norm.{name}_norm.scale"] = weights[f"{ours}attn.norm_{part}.weight"]
            found[f"{theirs}txt_attn.norm.{name}_norm.scale"] = weights[f"{ours}attn.norm_added_{part}.weight"]
    for i in range(transformer.config.num_single_layers):
        ours, theirs = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        for end in ("weight", "bias"):
            joined = [weights[f"{ours}{own}.{end}"] for own in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
            found[f"{theirs}linear1.{end}"] = torch.cat(joined)
            found[f"{theirs}linear2.{end}"] = weights[f"{ours}proj_out.{end}"]
            found[f"{theirs}modulation.lin.{end}"] = weights[f"{ours}norm.linear.{end}"]
        for part, name in (("q", "query"), ("k", "key")):
            found[f"{theirs}norm.{name}_norm.scale"] = weights[f"{ours}attn.norm_{part}.weight"]
    return found


def outline(weights: Mapping[str, torch.Tensor], file: Path) -> Path:
    """Writes a safetensors file of tensors of the meta device: names and shapes, and a hole in place of numbers."""
    entries, at = {}, 0
    for key, value in weights.items():
        size = 2 * value.numel()
        entries[key] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        stream.truncate(8 + len(head) + at)
    return file
