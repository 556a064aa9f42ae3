"""Cases of transformers' LlamaForCausalLM (attention implementation: the package's default, `sdpa`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from case import Call, ModelCase
from published import SMOLLM2_135M

OBSERVE = [
    "model.embed_tokens",
    "model.layers.*",
    "model.layers.*.input_layernorm",
    "model.layers.*.self_attn",
    "model.layers.*.post_attention_layernorm",
    "model.layers.*.mlp",
    "model.layers.0.self_attn.*",
    "model.layers.0.mlp.*_proj",
    "model.norm",
    "lm_head",
]
SCALING = [
    "model.embed_tokens",
    "model.layers.*",
    "model.layers.*.self_attn",
    "model.layers.0.self_attn.*",
    "model.norm",
]
DECODING = ["model.layers.*", "model.layers.*.self_attn", "model.norm"]
PADDED = [
    "model.layers.0",
    "model.layers.0.self_attn",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.post_attention_layernorm",
    "model.layers.0.mlp",
    "model.layers.0.mlp.*",
    "model.layers.1",
    "model.layers.1.**",
    "model.norm",
    "lm_head",
]
SMALL_TOKEN = 3
"""The token whose embedding has a standard deviation near the root of epsilon; every prompt contains it."""

TINY: dict[str, Any] = {
    "vocab_size": 43,
    "hidden_size": 16,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
WIDE_HEADS = TINY | {"head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Eight rotary frequencies: enough for every branch of a scaling."""


def tokens(seed: int, batch: int, length: int, vocabulary: int) -> torch.Tensor:
    """Random token ids that contain the small token in every row."""
    ids = torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, length // 2] = SMALL_TOKEN
    return ids


def padding(length: int, pads: int) -> torch.Tensor:
    """The mask of two rows; the second begins with padding."""
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, :pads] = 0
    return mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids as `generate` computes them: padding has position 0."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)


def prompt(seed: int, length: int = 13, vocabulary: int = 43) -> list[Call]:
    """One uncached call on one row."""
    return [Call({"input_ids": tokens(seed, 1, length, vocabulary)}, {"use_cache": False})]


def left_padded(seed: int, with_positions: bool) -> list[Call]:
    """One call on two rows, the second left-padded by four."""
    mask = padding(11, 4)
    inputs = {"input_ids": tokens(seed, 2, 11, 43), "attention_mask": mask}
    if with_positions:
        inputs["position_ids"] = positions(mask)
    return [Call(inputs, {"use_cache": False})]


def decode(seed: int, prefill: int = 5) -> list[Call]:
    """A prefill, then eight single tokens."""
    ids = tokens(seed, 1, prefill + 8, 43)
    pieces = [ids[:, :prefill], *(ids[:, i : i + 1] for i in range(prefill, prefill + 8))]
    return [Call({"input_ids": piece}, {"use_cache": True}) for piece in pieces]


def padded_decode(seed: int) -> list[Call]:
    """The same on two rows, the second left-padded by two; mask and positions grow as in `generate`."""
    ids, mask = tokens(seed, 2, 13, 43), padding(13, 2)
    every = positions(mask)
    calls = []
    for start, end in [(0, 5), *((i, i + 1) for i in range(5, 13))]:
        inputs = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": every[:, start:end],
        }
        calls.append(Call(inputs, {"use_cache": True}))
    return calls


def case(
    name: str,
    seed: int,
    config: dict[str, Any],
    calls: list[Call],
    *,
    published: bool = False,
    **options: Any,
) -> ModelCase:
    """One entry; `published` writes the config as spelt here instead of the package's serialisation of it."""

    def build(dtype: torch.dtype) -> LlamaForCausalLM:
        model = LlamaForCausalLM._from_config(LlamaConfig(**config), dtype=dtype)
        rotary: LlamaRotaryEmbedding = model.model.rotary_emb
        assert rotary.inv_freq.dtype == torch.float32, "the package's loader keeps the frequencies in f32"
        return model

    settings: dict[str, Any] = {"observe": OBSERVE, "config": config if published else None} | options
    return ModelCase(
        name=f"llama/{name}",
        package="transformers",
        reference_class="LlamaForCausalLM",
        seed=seed,
        build=build,
        calls=calls,
        small_row=(SMALL_TOKEN, math.sqrt(config.get("rms_norm_eps", 1e-6))),
        **settings,
    )


def llama3_scaling() -> dict[str, Any]:
    """Llama 3.1's scaling at a length where frequencies are kept, blended and divided."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = WIDE_HEADS | {
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "rope_parameters": scaling | {"rope_theta": 500000.0},
    }
    wavelengths = [2 * math.pi * 500000.0 ** (i / 8) for i in range(8)]
    kept = sum(w < 64 / 4 for w in wavelengths)
    divided = sum(w > 64 / 1 for w in wavelengths)
    assert kept and divided and kept + divided < 8, "all three branches are active"
    return config


def rope(limit: int, **parameters: Any) -> dict[str, Any]:
    """A config with `limit` positions and a scaled rope."""
    return WIDE_HEADS | {
        "max_position_embeddings": limit,
        "rope_parameters": {"rope_theta": 10000.0} | parameters,
    }


def scaled(name: str, seed: int, config: dict[str, Any], note: str = "") -> ModelCase:
    """A case with a scaled rope and 21 tokens."""
    return case(name, seed, config, prompt(seed, length=21), observe=SCALING, note=note)


SMALL_SMOLLM2: dict[str, Any] = SMOLLM2_135M | {
    "hidden_size": 36,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 43,
}
"""The published config.json of SmolLM2-135M-Instruct with its sizes cut down; heads stay 9 to 3."""

OLD_STYLE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 28,
    "max_position_embeddings": 256,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "linear", "factor": 4.0},
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.31.0",
    "use_cache": True,
    "vocab_size": 43,
}
"""A config.json as written in 2023: `type`, no theta, no key-value heads, no head size."""


def cases() -> list[ModelCase]:
    """All Llama cases."""
    return [
        case("base", 11, TINY | {"num_hidden_layers": 3}, prompt(11)),
        case(
            "bf16",
            12,
            TINY | {"head_dim": 8},
            prompt(12),
            dtype=torch.bfloat16,
            note="`noise` is measured in a free run; the rope frequencies stay f32, cos and sin are rounded to bf16.",
        ),
        case("cached-decode", 13, TINY, decode(13), observe=DECODING, carry=["past_key_values"]),
        case("llama3-scaling", 14, llama3_scaling(), prompt(14, length=21), observe=SCALING),
        case(
            "uneven-gqa",
            15,
            TINY
            | {
                "hidden_size": 18,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "head_dim": 4,
                "attention_bias": True,
                "mlp_bias": True,
            },
            prompt(15),
        ),
        case("no-scaling-tied", 16, TINY | {"tie_word_embeddings": True}, prompt(16)),
        case(
            "linear-scaling",
            17,
            OLD_STYLE,
            prompt(17, length=21),
            observe=SCALING,
            published=True,
            note="config.json in the spelling of 2023: rope_scaling.type, defaults left out.",
        ),
        scaled(
            "dynamic-ntk",
            18,
            rope(16, rope_type="dynamic", factor=2.0),
            note="21 tokens against 16 positions: the base grows with the length.",
        ),
        case(
            "dynamic-ntk-decode",
            26,
            rope(16, rope_type="dynamic", factor=2.0),
            decode(26, prefill=12),
            observe=DECODING,
            carry=["past_key_values"],
            note="From the 17th token on each call has another base; cached keys keep the one they were made with.",
        ),
        scaled("yarn", 19, rope(2048, rope_type="yarn", factor=4.0, original_max_position_embeddings=512)),
        scaled("proportional", 20, rope(256, rope_type="proportional", partial_rotary_factor=0.5)),
        scaled(
            "longrope",
            21,
            rope(
                64,
                rope_type="longrope",
                factor=4.0,
                original_max_position_embeddings=16,
                short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                long_factor=[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0],
            ),
            note="21 tokens against 16 original positions: the long factors apply.",
        ),
        case("batch2-left-padding", 22, TINY, left_padded(22, True), padded=PADDED),
        case("batch2-left-padding-default-positions", 23, TINY, left_padded(23, False), padded=PADDED),
        case(
            "cached-decode-padded",
            24,
            TINY,
            padded_decode(24),
            observe=DECODING,
            carry=["past_key_values"],
            padded=PADDED,
        ),
        case("smollm2", 25, SMALL_SMOLLM2, prompt(25), observe=SCALING, published=True),
    ]
