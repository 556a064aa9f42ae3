"""Cases of the decoders of transformers that are Llama's relatives (attention implementation: the package's default, `sdpa`)."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers

from case import Call, ModelCase
from cases.llama import SMALL_TOKEN, padding, positions, tokens

VOCABULARY = 61
WINDOW = 5
"""Of the layers that slide: shorter than every prompt."""

TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}

OBSERVE = [
    "model.embed_tokens",
    "model.layers.*",
    "model.layers.*.self_attn",
    "model.layers.*.mlp",
    "model.norm",
]
EVERYTHING = ["model.embed_tokens", "model.layers.*", "model.layers.0.**", "model.rotary_emb", "model.norm", "lm_head"]
PADDED = ["model.embed_tokens", "model.layers.**", "model.norm"]
"""What a row of padding goes through; which keys it sees is nobody's business."""


def whole(seed: int, length: int = 11) -> Call:
    """One uncached call on one row, which gives all hidden states."""
    ids = tokens(seed, 1, length, VOCABULARY)
    return Call({"input_ids": ids}, {"use_cache": False, "output_hidden_states": True})


def padded_decode(seed: int, prefill: int = 7, steps: int = 3, pads: int = 3) -> list[Call]:
    """Two rows, the second left-padded: all of it at once, then in a prefill and single tokens."""
    length = prefill + steps
    ids, mask = tokens(seed, 2, length, VOCABULARY), padding(length, pads)
    every = positions(mask)
    calls = [Call({"input_ids": ids, "attention_mask": mask, "position_ids": every}, {"use_cache": False})]
    for start, end in [(0, prefill), *((i, i + 1) for i in range(prefill, length))]:
        inputs = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": every[:, start:end],
        }
        calls.append(Call(inputs, {"use_cache": True}))
    return calls


def decode(seed: int, prefill: int = 4, steps: int = 2) -> list[Call]:
    """A prefill shorter than the window, then single tokens beyond it."""
    ids = tokens(seed, 1, prefill + steps, VOCABULARY)
    pieces = [ids[:, :prefill], *(ids[:, i : i + 1] for i in range(prefill, prefill + steps))]
    return [Call({"input_ids": piece}, {"use_cache": True}) for piece in pieces]


def case(
    name: str,
    seed: int,
    reference_class: str,
    config: dict[str, Any],
    calls: list[Call],
    *,
    published: bool = False,
    **options: Any,
) -> ModelCase:
    """One entry; `published` writes the config as spelt here instead of the package's serialisation of it."""
    model_class = getattr(transformers, reference_class)

    def build(dtype: torch.dtype) -> torch.nn.Module:
        return model_class._from_config(model_class.config_class(**config), dtype=dtype)

    epsilon = model_class.config_class(**config).rms_norm_eps
    settings: dict[str, Any] = {"observe": OBSERVE, "config": config if published else None} | options
    return ModelCase(
        name=name,
        package="transformers",
        reference_class=reference_class,
        seed=seed,
        build=build,
        calls=calls,
        small_row=(SMALL_TOKEN, math.sqrt(epsilon)),
        carry=["past_key_values"],
        **settings,
    )


def family(folder: str, seed: int, reference_class: str, config: dict[str, Any], **options: Any) -> list[ModelCase]:
    """A family's cases: f32, whole, padded and token by token, and bf16, whole and token by token."""
    return [
        case(
            f"{folder}/base",
            seed,
            reference_class,
            config,
            [whole(seed), *padded_decode(seed + 1)],
            padded=PADDED,
            **options,
        ),
        case(
            f"{folder}/bf16",
            seed + 2,
            reference_class,
            config,
            [whole(seed + 2, length=7), *decode(seed + 3)],
            dtype=torch.bfloat16,
            observe=EVERYTHING,
            note="`noise` is measured in a free run; the rope frequencies stay f32, cos and sin are rounded to bf16.",
            **options,
        ),
    ]


def qwen2() -> list[ModelCase]:
    """The second layer slides."""
    sliding = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    published = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 24,
        "initializer_range": 0.02,
        "intermediate_size": 20,
        "max_position_embeddings": 64,
        "max_window_layers": 1,
        "model_type": "qwen2",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 16, "type": "yarn"},
        "rope_theta": 1000000.0,
        "sliding_window": WINDOW,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.37.0",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
    }
    return [
        *family("qwen2", 101, "Qwen2ForCausalLM", TINY | sliding),
        case(
            "qwen2/published-yarn",
            105,
            "Qwen2ForCausalLM",
            published,
            [whole(105, length=21)],
            published=True,
            observe=["model.layers.*", "model.norm"],
            note="config.json in the spelling before transformers 5; the window that it names is not used.",
        ),
    ]


def qwen3() -> list[ModelCase]:
    """The second layer slides, as `layer_types` says; heads are wider than the model over their number."""
    sliding = {
        "head_dim": 12,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "attention_bias": True,
        "tie_word_embeddings": True,
    }
    return family("qwen3", 111, "Qwen3ForCausalLM", TINY | sliding)


def cases() -> list[ModelCase]:
    """All of them."""
    return [*qwen2(), *qwen3()]
