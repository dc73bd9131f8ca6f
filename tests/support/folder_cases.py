"""Folders of models and scorers as people have them: which are drawn as they are, and what is said of the others.

`python -m tests.support.folder_cases` counts them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from tests.support.folders import (
    Change,
    as_cached,
    change,
    cut,
    dangling,
    halved,
    in_two_files,
    lacking,
    linked,
    pickled,
    prefixed,
    renamed,
    reshaped,
    said,
    sharded,
    then,
    to_variant,
    with_more,
    without,
    written,
)
from tests.support.tiny_models import pixart_alpha, sd3, sdxl, stable_diffusion

DEEP = "[" * 100_000

CODE = "raise SystemExit('code of a model folder ran')\n"

AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}

SD = ("text_encoder", "unet", "vae")

FIRST = {"text_encoder": "layers.0.self_attn.q_proj.weight", "unet": "attn2.to_k.weight", "vae": "decoder.conv_in.bias"}

LINEAR = {"text_encoder": "q_proj.weight", "unet": "attn2.to_k.weight", "vae": "mid_block.attentions.0.to_q.weight"}

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class Case:
    """A folder.

    Attributes:
        change: of a whole folder.
        refused: what the line says; empty where the folder is drawn.
        options: of the plain library's call, without which it would not load the folder.
        same_hash: whether what was changed is no part of the model.
        planned: whether plan alone refuses it; else whoever loads it does too, as models from the hub are only loaded.
    """

    change: Change
    refused: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    same_hash: bool = False
    planned: bool = False


def drawn(change: Change, *, same_hash: bool = False, **options: Any) -> Case:
    return Case(change, options=options, same_hash=same_hash)


def at_plan(change: Change, refused: str) -> Case:
    return Case(change, refused, planned=True)


def weights_of(part: str, one: str, linear: str, layer: str) -> Iterator[tuple[str, Case]]:
    """Yields what happens to weights of a component, whatever it is."""
    base = linear.replace(".weight", ".base_layer.weight")
    yield "lacks a key", Case(lacking(part, one), "lack .*" + one.rpartition(".")[2])
    yield "lacks a layer", Case(lacking(part, layer), "lack .* and .* more")
    yield "has a LoRA that is not fused", Case(renamed(part, linear, base), "base_layer.*a LoRA that was not fused")
    yield "was saved compiled", Case(prefixed(part, "_orig_mod."), "_orig_mod.*saved while compiled")
    yield "was saved on several GPUs", Case(prefixed(part, "module."), "module.*wrapped for several GPUs")
    yield "has another shape", Case(reshaped(part), "shape")
    yield "is cut short", at_plan(cut(part), "not a whole safetensors file")
    yield "is a pickle", at_plan(pickled(part), "is a pickle, which is never read")
    yield "has keys of a LoRA besides", drawn(with_more(part, linear, linear.replace("weight", "lora_A.weight")))
    yield "is sharded", drawn(sharded(part))
    yield "is linked", drawn(linked(part), same_hash=True)
    yield "has a shard outside", at_plan(sharded(part, "../{name}"), 'names "../.*beside it')
    yield "has a shard at an absolute path", at_plan(sharded(part, "{folder}/{name}"), 'names "/.*beside it')
    yield "lacks a shard", at_plan(sharded(part, "gone.safetensors"), "gone.safetensors, which is missing")


def named(part: str, cases: Iterator[tuple[str, Case]]) -> dict[str, Case]:
    return {f"{part} {name}": case for name, case in cases}


UNET: dict[str, Case] = {
    "as it is": drawn(lambda _: None, same_hash=True),
    **{
        name: case
        for part, layer in (("text_encoder", "layers.2."), ("unet", "mid_block."), ("vae", "decoder.up_blocks.1."))
        for name, case in named(part, weights_of(part, FIRST[part], LINEAR[part], layer)).items()
    },
    "unet with fused projections": Case(renamed("unet", "attn2.to_k.", "attn2.to_kv."), "lack .*attn2.to_k"),
    "vae with the names of old": drawn(
        then(*(renamed("vae", f"attentions.0.{new}.", f"attentions.0.{old}.") for new, old in OLD_NAMES.items()))
    ),
    "text encoder with the positions of old": drawn(
        partial(
            change,
            "text_encoder",
            lambda weights: {**weights, "text_model.embeddings.position_ids": torch.arange(16)[None]},
        )
    ),
    "unet empty": at_plan(cut("unet", 0), "not a whole safetensors file"),
    "unet in half precision": drawn(halved("unet")),
    "unet with an index that is damaged": at_plan(
        then(sharded("unet"), written("unet/diffusion_pytorch_model.safetensors.index.json", "{")), "is damaged"
    ),
    "unet with an index of nothing": at_plan(sharded("unet", weight_map=[]), "expected a weight_map"),
    "fp16 only": drawn(to_variant("fp16", *SD), variant="fp16"),
    "fp16 only, sharded": drawn(then(sharded("unet"), to_variant("fp16", *SD)), variant="fp16"),
    "fp16 of one component": drawn(to_variant("fp16", "unet"), variant="fp16"),
    "fp16 beside plain": drawn(to_variant("fp16", *SD, keep=True), same_hash=True),
    "fp16 beside plain, and alone": drawn(
        then(to_variant("fp16", "unet", keep=True), to_variant("fp16", "vae")), variant="fp16"
    ),
    "a name without a dot beside fp16": at_plan(
        then(to_variant("fp16", *SD), written("unet/LICENSE", "mine")), "expected it elsewhere"
    ),
    "two variants": at_plan(
        then(to_variant("bf16", *SD, keep=True), to_variant("fp16", *SD)), "holds weights as .* only"
    ),
    "as the hub's cache has it": drawn(as_cached, same_hash=True),
    "a link to nowhere": at_plan(dangling("unet/diffusion_pytorch_model.safetensors"), "no safetensors weights"),
    "notes": drawn(written("NOTES.txt", "mine"), same_hash=True),
    "a cache of the hub's client": drawn(written(".cache/huggingface/x.json", "{}"), same_hash=True),
    "results inside": drawn(written("results/scores/x.json", "{}"), same_hash=True),
    "samples beside the weights": drawn(written("unet/samples.json", "{}"), same_hash=True),
    "weights that nobody names": drawn(
        lambda folder: shutil.copytree(folder / "unet", folder / "unet_ema") and None, same_hash=True
    ),
    "a single file beside": drawn(written("model.safetensors", "not weights"), same_hash=True),
    "index missing": at_plan(without("model_index.json"), "model_index.json is missing"),
    "index deep": at_plan(written("model_index.json", DEEP), "is damaged"),
    "index no object": at_plan(written("model_index.json", "[]"), "expected an object"),
    "index in another encoding": at_plan(
        lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe{") and None, "is damaged"
    ),
    "another class": at_plan(said("model_index.json", _class_name="NoPipeline"), "which no family supports"),
    "a class of its own": at_plan(said("model_index.json", _class_name=["mine", "Mine"]), "expected a class"),
    "a component of its own": at_plan(
        then(said("model_index.json", unet=["mine", "Mine"]), written("unet/mine.py", CODE)), "never run"
    ),
    "unet config missing": at_plan(without("unet/config.json"), "unet/config.json is missing"),
    "unet config deep": at_plan(written("unet/config.json", DEEP), "is damaged"),
    "vae config missing": at_plan(without("vae/config.json"), "no config.json"),
    "text encoder config damaged": at_plan(written("text_encoder/config.json", "{"), "is damaged"),
    "infinite sample_size": at_plan(said("unet/config.json", sample_size=float("inf")), "sample_size is inf"),
    "sample_size in words": at_plan(said("unet/config.json", sample_size="x"), "sample_size is 'x'"),
    "sample_size 0": at_plan(said("unet/config.json", sample_size=0), "above 0"),
    "sample_size of two sides": drawn(said("unet/config.json", sample_size=[8, 8])),
    "layers in words": at_plan(said("unet/config.json", layers_per_block="x"), "expected a whole number"),
    "a milliard layers": at_plan(said("unet/config.json", layers_per_block=10**9), "expected a whole number"),
    "a milliard layers of the text encoder": at_plan(
        said("text_encoder/config.json", num_hidden_layers=10**9), "num_hidden_layers is 1000000000; expected at most"
    ),
    "blocks that diffusers has not": Case(
        said("unet/config.json", down_block_types=["CrossAttnDownBlock9D", "DownBlock2D"]), "CrossAttnDownBlock9D"
    ),
    "safety checker absent": drawn(
        said(
            "model_index.json",
            safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
            feature_extractor=["transformers", "CLIPImageProcessor"],
            requires_safety_checker=True,
        ),
        feature_extractor=None,
    ),
    "image encoder absent": drawn(
        said("model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]), image_encoder=None
    ),
    "unet absent": at_plan(without("unet"), "unet/config.json is missing"),
    "text encoder absent": at_plan(without("text_encoder"), "holds no text_encoder, which model_index.json names"),
    "vae absent": at_plan(without("vae"), "holds no vae, which model_index.json names"),
    "scheduler absent": at_plan(without("scheduler"), "no scheduler"),
    "scheduler config damaged": at_plan(written("scheduler/scheduler_config.json", "{"), "is damaged"),
    "a scheduler that models are rarely published with": drawn(
        then(
            said("model_index.json", scheduler=["diffusers", "LCMScheduler"]),
            said("scheduler/scheduler_config.json", _class_name="LCMScheduler"),
        )
    ),
    "PNDM as published": drawn(
        then(
            said("model_index.json", scheduler=["diffusers", "PNDMScheduler"]),
            said("scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True),
        )
    ),
    "PNDM with too few steps": at_plan(
        then(
            said("model_index.json", scheduler=["diffusers", "PNDMScheduler"]),
            said("scheduler/scheduler_config.json", _class_name="PNDMScheduler"),
        ),
        "PNDMScheduler cannot take 2 steps",
    ),
    "a scheduler without its package": at_plan(
        said("model_index.json", scheduler=["diffusers", "DPMSolverSDEScheduler"]), "torchsde"
    ),
    "a scheduler that diffusers has not": at_plan(
        said("model_index.json", scheduler=["diffusers", "MyScheduler"]), 'no scheduler "MyScheduler"'
    ),
    "tokenizer absent": at_plan(without("tokenizer"), "no tokenizer"),
    "vocabulary absent": at_plan(without("tokenizer/tokenizer.json"), "no tokenizer"),
    "vocabulary empty": at_plan(
        then(
            without("tokenizer/tokenizer.json"),
            written("tokenizer/vocab.json", "{}"),
            written("tokenizer/merges.txt", "#version: 0.2\n"),
        ),
        "knows no words",
    ),
    "vocabulary in two files": drawn(in_two_files),
    "half a vocabulary": at_plan(then(in_two_files, without("tokenizer/merges.txt")), "merges.txt is missing"),
    "vocabulary damaged": at_plan(written("tokenizer/tokenizer.json", "{"), "cannot load the tokenizer"),
    "no length": at_plan(said("tokenizer/tokenizer_config.json", model_max_length=...), "says no model_max_length"),
    "length beyond the encoder": at_plan(
        said("tokenizer/tokenizer_config.json", model_max_length=77), "77 tokens, and its text encoder reads 16"
    ),
    "remote code in configs": drawn(
        then(
            said("unet/config.json", auto_map=AUTO_MAP),
            said("text_encoder/config.json", auto_map=AUTO_MAP),
            said("tokenizer/tokenizer_config.json", auto_map=AUTO_MAP),
            written("text_encoder/evil.py", CODE),
            written("tokenizer/evil.py", CODE),
            written("unet/evil.py", CODE),
        )
    ),
}

T5 = "SelfAttention.q.weight"

DIT: dict[str, Case] = {
    "as it is": drawn(lambda _: None, same_hash=True),
    **named("text_encoder", weights_of("text_encoder", "final_layer_norm.weight", T5, "block.1.")),
    **named("transformer", weights_of("transformer", "proj_out.weight", "attn2.to_k.weight", "transformer_blocks.3.")),
    "T5 without embeddings": Case(lacking("text_encoder", "shared"), "lack .*shared.weight"),
    "T5 with embeddings under their other name": drawn(
        renamed("text_encoder", "shared.weight", "encoder.embed_tokens.weight")
    ),
    "T5 of an encoder inside": Case(prefixed("text_encoder", "encoder."), "lack .* but hold encoder.encoder"),
    "fp16 only": drawn(to_variant("fp16", "text_encoder", "transformer", "vae"), variant="fp16"),
    "as the hub's cache has it": drawn(as_cached, same_hash=True),
    "spiece.model not fetched": at_plan(without("tokenizer/tokenizer.json"), "no tokenizer"),
    "a vocabulary without words": at_plan(
        then(without("tokenizer/tokenizer.json"), written("tokenizer/added_tokens.json", "{}")), "knows no words"
    ),
    "layers in words": at_plan(said("transformer/config.json", num_layers="x"), "expected a whole number"),
    "a milliard layers": at_plan(said("transformer/config.json", num_layers=10**9), "expected a whole number"),
    "fewer layers than weights": drawn(said("transformer/config.json", num_layers=3)),
    "sample_size of two sides": Case(said("transformer/config.json", sample_size=[8, 8]), "cannot load"),
    "remote code in configs": drawn(
        then(said("transformer/config.json", auto_map=AUTO_MAP), said("text_encoder/config.json", auto_map=AUTO_MAP))
    ),
}

XL: dict[str, Case] = {
    "as it is": drawn(lambda _: None, same_hash=True),
    "text_encoder_2 without its projection": Case(lacking("text_encoder_2", "text_projection"), "text_projection"),
    "text_encoder_2 with a LoRA": Case(
        renamed("text_encoder_2", "q_proj.weight", "q_proj.base_layer.weight"), "base_layer"
    ),
    "image encoder absent": drawn(
        said(
            "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"],
            feature_extractor=["transformers", "CLIPImageProcessor"],
        ),
        image_encoder=None, feature_extractor=None,
    ),
    "fp16 only": drawn(to_variant("fp16", "text_encoder", "text_encoder_2", "unet", "vae"), variant="fp16"),
    "second tokenizer absent": at_plan(without("tokenizer_2/tokenizer.json"), "no tokenizer"),
}  # fmt: skip

SD3: dict[str, Case] = {
    "as it is": drawn(lambda _: None, same_hash=True),
    "without positions, which are computed": drawn(lacking("transformer", "pos_embed.pos_embed")),
    "text_encoder_3 lacks a layer": Case(lacking("text_encoder_3", "block.1."), "lack .* of T5EncoderModel"),
    "saved without T5": drawn(
        said("model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None]),
        text_encoder_3=None, tokenizer_3=None,
    ),
}  # fmt: skip

Q = "text_model.encoder.layers.0.self_attn.q_proj.weight"

SCORER: dict[str, Case] = {
    "as it is": drawn(lambda _: None, same_hash=True),
    **named("scorer", weights_of(".", "visual_projection.weight", Q, "vision_model.encoder.layers.1.")),
    "without text_projection": Case(lacking(".", "text_projection"), "text_projection"),
    "of a model inside": Case(prefixed(".", "model."), "lack .* but hold model."),
    "tokenizer absent": Case(without("tokenizer.json"), "knows no words", planned=True),
    "length missing": drawn(said("tokenizer_config.json", model_max_length=16)),
    "a SigLIP": at_plan(said("config.json", model_type="siglip"), "holds a siglip model; expected a CLIP"),
    "config deep": at_plan(written("config.json", DEEP), "is damaged"),
    "config missing": at_plan(without("config.json"), "no config.json"),
    "processor config deep": at_plan(written("processor_config.json", DEEP), "is damaged"),
    "remote code": drawn(
        then(said("config.json", auto_map=AUTO_MAP), said("tokenizer_config.json", auto_map=AUTO_MAP),
             written("evil.py", CODE))
    ),
    "remote tokenizer": drawn(
        then(said("tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer"),
             written("evil.py", CODE))
    ),
    "notes": drawn(then(written("NOTES.txt", "mine"), written(".cache/x.json", "{}")), same_hash=True),
    "as the hub's cache has it": drawn(as_cached, same_hash=True),
    "positions as older versions saved them": drawn(
        partial(change, ".", lambda weights: {
            **weights, "text_model.embeddings.position_ids": torch.arange(16)[None]
        })
    ),
}  # fmt: skip

# A scorer is one component, at the top of its folder.
del SCORER["scorer is linked"]

FAMILIES = {
    "stable_diffusion": (stable_diffusion, UNET), "pixart": (pixart_alpha, DIT), "sdxl": (sdxl, XL), "sd3": (sd3, SD3),
}  # fmt: skip

CASES = [(family, name) for family, (_, cases) in FAMILIES.items() for name in cases]

NESTED: list[Any] = [
    ([[1, 1], [2, 2]], [[2, 2, 2], [1, 1, 1]]),
    ([[1, 2], [2, 1]], [[1, 2, 3], [2, 1, 1]]),
    ([2, 1], [[1, 1, 1], [2, 1, 2]]),
]  # fmt: skip


if __name__ == "__main__":
    every = [*(case for _, cases in FAMILIES.values() for case in cases.values()), *SCORER.values()]
    refused = [case for case in every if case.refused or case.planned]
    nested = 2 * len(NESTED)
    print(f"{len(every) + nested} folders: {len(every) + nested - len(refused)} drawn as by the plain library,")
    also = sum(not case.planned for case in refused)
    print(f"{len(refused)} refused in one line by plan, {also} of them by workers too")
