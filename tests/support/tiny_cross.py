"""Tiny pipelines of further families whose text enters by cross-attention; see `tests.support.tiny_models`."""

from __future__ import annotations

import io
import string
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KolorsPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    VQModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from transformers import BertConfig, BertModel, BertTokenizer, CLIPTextModel, UMT5Config, UMT5EncoderModel

from loco_core.toyworld.training.transformer import METASPACE, make_word_tokenizer
from loco_core.toyworld.world import vocabulary
from tests.support.tiny_models import (
    CLIP_G,
    CLIP_L,
    GEMMA,
    LATENT_SIDE,
    PROJECTION_G,
    SEED,
    SIDE,
    T5,
    clip_encoder,
    clip_tokenizer,
    sana,
    save,
    sdxl_around,
    t5_pair,
    vae,
)

# Widths of the embeddings of ChatGLM and of BERT.
GLM, BERT = 28, 40
LETTERS = (*string.digits, *string.ascii_letters, *string.punctuation)
_PIXELS = MappingProxyType({"height": SIDE, "width": SIDE})
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lcm": {},
        "sana_sprint": {
            **_PIXELS, "use_resolution_binning": False, "clean_caption": False, "intermediate_timesteps": None
        },
        "sdxl_pruned": {},
        "kolors": {},
        "hunyuan_dit": {"use_resolution_binning": False, **_PIXELS},
        "wan": {"num_frames": 1, **_PIXELS},
        # Its pipeline takes eight by eight latents for the least, and that they are enlarged eightfold.
        "kandinsky3": {"height": 2 * SIDE, "width": 2 * SIDE},
    }
)  # fmt: skip


def seeded(make: Callable[[Path], None], folder: Path) -> None:
    """Calls what builds and saves a pipeline, with always the same weights, as `save` does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        make(folder)


def lcm() -> LatentConsistencyModelPipeline:
    """Builds a latent consistency model: a UNet that reads its guidance scale."""
    tokenizer = clip_tokenizer(16)
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=CLIP_L, time_cond_proj_dim=16,
    )  # fmt: skip
    return LatentConsistencyModelPipeline(
        vae=vae(4), unet=unet, scheduler=LCMScheduler(), tokenizer=tokenizer, safety_checker=None,
        text_encoder=clip_encoder(CLIPTextModel, tokenizer, CLIP_L, CLIP_L), feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def sana_sprint() -> SanaSprintPipeline:
    """Builds SANA-Sprint: SANA with norms of queries and keys, and a guidance scale that it reads."""
    parts = sana()
    transformer = SanaTransformer2DModel(
        sample_size=LATENT_SIDE, in_channels=8, out_channels=8, num_layers=4, num_attention_heads=2,
        attention_head_dim=16, num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32,
        caption_channels=GEMMA, guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    return SanaSprintPipeline(
        tokenizer=parts.tokenizer, text_encoder=parts.text_encoder, vae=parts.vae, transformer=transformer,
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
    )  # fmt: skip


def sdxl_pruned() -> StableDiffusionXLPipeline:
    """Builds Stable Diffusion XL with a depth of its own for every attention, and none in the middle, as SSD-1B is."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, in_channels=4, out_channels=4, block_out_channels=(8, 16, 24), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=((1, 1), (2, 2), (2, 3)),
        reverse_transformer_layers_per_block=((3, 2, 4), (2, 1, 1), (1, 1, 1)), attention_head_dim=(1, 2, 3),
        use_linear_projection=True, cross_attention_dim=CLIP_L + CLIP_G, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + PROJECTION_G, norm_num_groups=4,
    )  # fmt: skip
    return sdxl_around(unet)


def glm_tokenizer(folder: Path) -> ChatGLMTokenizer:
    """Builds ChatGLM's tokenizer, which pads in front, with every word of the toy world as one token."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([*vocabulary(), *LETTERS]), model_writer=trained, model_type="bpe", vocab_size=400,
        hard_vocab_limit=False, user_defined_symbols=[METASPACE + word for word in vocabulary()],
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    return ChatGLMTokenizer(str(folder / "tokenizer.model"), model_max_length=512)


def wide_vae() -> AutoencoderKL:
    """Builds an autoencoder that enlarges eightfold, as some pipelines take for granted."""
    return AutoencoderKL(
        latent_channels=4, sample_size=SIDE, block_out_channels=(8, 8, 16, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1,
    )  # fmt: skip


def bert_tokenizer() -> BertTokenizer:
    """Builds BERT's tokenizer, with every word of the toy world as one token."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = dict.fromkeys([*special, *vocabulary(), *LETTERS, *("##" + letter for letter in LETTERS)])
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=77)


def kolors(folder: Path) -> None:
    """Saves Kolors: the denoiser of SDXL behind a projection of ChatGLM's text."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, in_channels=4, out_channels=4, block_out_channels=(8, 16, 24), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(1, 2, 3), use_linear_projection=True,
        cross_attention_dim=20, encoder_hid_dim=GLM, encoder_hid_dim_type="text_proj",
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + GLM, norm_num_groups=4,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = glm_tokenizer(Path(place))
        encoder = ChatGLMModel(
            ChatGLMConfig(
                num_layers=3, padded_vocab_size=tokenizer.vocab_size, hidden_size=GLM, ffn_hidden_size=32,
                kv_channels=8, num_attention_heads=4, multi_query_attention=True, multi_query_group_num=2,
                seq_length=512, add_qkv_bias=True, original_rope=True,
            ),
            empty_init=False,
        ).eval()  # fmt: skip
        # Its norms begin as whatever lies in memory.
        for name, weight in encoder.named_parameters():
            if name.endswith("norm.weight"):
                torch.nn.init.ones_(weight)
        KolorsPipeline(
            vae=vae(4, scaling_factor=0.13025), unet=unet, tokenizer=tokenizer, text_encoder=encoder,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.014, beta_schedule="scaled_linear", timestep_spacing="leading",
                steps_offset=1, num_train_timesteps=1100,
            ),
        ).save_pretrained(folder)  # fmt: skip


def hunyuan_dit() -> HunyuanDiTPipeline:
    """Builds HunyuanDiT: texts of BERT and T5 behind each other, of two widths, padding a vector of its own."""
    tokenizer = bert_tokenizer()
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=BERT, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=80,
        )
    ).eval()  # fmt: skip
    transformer = HunyuanDiT2DModel(
        sample_size=LATENT_SIDE, num_layers=4, num_attention_heads=2, attention_head_dim=16, hidden_size=32,
        in_channels=4, patch_size=2, mlp_ratio=2.0, cross_attention_dim=BERT, cross_attention_dim_t5=T5,
        pooled_projection_dim=16, use_style_cond_and_image_meta_size=False,
    )  # fmt: skip
    return HunyuanDiTPipeline(
        vae=wide_vae(), text_encoder=encoder, tokenizer=tokenizer, transformer=transformer,
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear", prediction_type="v_prediction",
            steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, **t5_pair("_2"),
    )  # fmt: skip


def wan(**changes: Any) -> WanPipeline:
    """Builds Wan: a transformer for videos with norms over all heads, and texts of which padding is zeros.

    Args:
        changes: of the pipeline.
    """
    tokenizer = make_word_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=T5, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=16, out_channels=16, text_dim=T5, freq_dim=32,
        ffn_dim=64, num_layers=4, rope_max_seq_len=64,
    )  # fmt: skip
    with torch.no_grad():
        for block in transformer.blocks:
            # Nothing masks the hundreds of positions of padding.
            block.attn2.norm_k.weight.mul_(4.0)
            block.attn2.to_v.weight.mul_(8.0)
    return WanPipeline(
        tokenizer=tokenizer, text_encoder=encoder, transformer=transformer,
        vae=AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        **changes,
    )  # fmt: skip


def kandinsky3() -> Kandinsky3Pipeline:
    """Builds Kandinsky 3: a UNet of its own kind, whose norms read the time and the pooled text."""
    unet = Kandinsky3UNet(
        time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2, block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=20, encoder_hid_dim=T5,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            # Else nothing would read them, as before training.
            if "context_mlp" in name:
                weight.normal_(std=0.3)
        unet.add_time_condition.attention.to_out[0].weight.mul_(8.0)
        unet.encoder_hid_proj.projection_norm.bias.normal_(std=0.3)
    return Kandinsky3Pipeline(
        unet=unet, scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False), **t5_pair(),
        movq=VQModel(
            block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, num_vq_embeddings=12, vq_embed_dim=4,
            norm_type="spatial", mid_block_add_attention=False,
        ),
    )  # fmt: skip


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        **{make.__name__: partial(save, make) for make in (lcm, sana_sprint, sdxl_pruned, hunyuan_dit)},
        **{make.__name__: partial(save, make) for make in (wan, kandinsky3)},
        "kolors": partial(seeded, kolors),
    }
)


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    BUILDERS[name](folder)
    return folder
