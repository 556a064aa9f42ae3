"""Cases of the decoders of transformers that are Llama's relatives (attention implementation: the package's default, `sdpa`)."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers

from case import Call, ModelCase
from cases.llama import SMALL_TOKEN, padding, positions, tokens

VOCABULARY = 43
WINDOW = 5
"""Of the layers that slide: shorter than every prompt."""

TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 20,
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
PARTS = [
    "model.layers.*",
    "model.layers.0.*",
    "model.layers.0.self_attn.*",
    "model.layers.0.mlp.*_proj",
    "lm_head",
]
PADDED = ["model.embed_tokens", "model.layers.**", "model.norm"]
"""What a row of padding goes through; which keys it sees is nobody's business."""


def whole(seed: int, length: int = 11) -> Call:
    """One uncached call on one row, which gives all hidden states."""
    ids = tokens(seed, 1, length, VOCABULARY)
    return Call({"input_ids": ids}, {"use_cache": False, "output_hidden_states": True})


def padded_decode(seed: int, prefill: int = 6, steps: int = 2, pads: int = 3) -> list[Call]:
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


def decode(seed: int, prefill: int = 4, steps: int = 2, rows: int = 3) -> list[Call]:
    """A prefill shorter than the window, then single tokens beyond it; of several rows, since the rounding of one token's
    few numbers says little."""
    ids = tokens(seed, rows, prefill + steps, VOCABULARY)
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

    epsilon = model_class.config_class(**config).get_text_config().rms_norm_eps
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
            observe=PARTS,
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
        "hidden_size": 16,
        "initializer_range": 0.02,
        "intermediate_size": 20,
        "max_position_embeddings": 64,
        "max_window_layers": 1,
        "model_type": "qwen2",
        "num_attention_heads": 2,
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


def mistral() -> list[ModelCase]:
    """Both layers slide; heads are wider than the model over their number."""
    return family("mistral", 121, "MistralForCausalLM", TINY | {"head_dim": 10, "sliding_window": WINDOW})


def gemma3() -> list[ModelCase]:
    """The first layer slides. The published spelling has seven layers, of which the sixth sees everything."""
    config = TINY | {
        "head_dim": 8,
        "query_pre_attn_scalar": 20,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "final_logit_softcapping": 3.0,
        "attention_bias": True,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    }
    published = {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "head_dim": 8,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 16,
        "initializer_range": 0.02,
        "intermediate_size": 12,
        "max_position_embeddings": 64,
        "model_type": "gemma3_text",
        "num_attention_heads": 2,
        "num_hidden_layers": 7,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 6,
        "torch_dtype": "float32",
        "transformers_version": "4.50.0.dev0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    vision = {
        "hidden_size": 8,
        "image_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "patch_size": 4,
    }
    inside = "model.language_model"
    text = TINY | {"hidden_size": 16, "intermediate_size": 12, "head_dim": 4, "sliding_window": WINDOW}
    return [
        case(
            "gemma3/multimodal",
            137,
            "Gemma3ForConditionalGeneration",
            {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4},
            [whole(137)],
            observe=[f"{inside}.embed_tokens", f"{inside}.layers.*", f"{inside}.norm", "lm_head"],
            note="The language model alone: there is no picture.",
        ),
        *family("gemma3", 131, "Gemma3ForCausalLM", config),
        case(
            "gemma3/published",
            135,
            "Gemma3ForCausalLM",
            published,
            [whole(135)],
            published=True,
            observe=["model.layers.*", "model.norm"],
            note="config.json in the spelling before transformers 5.",
        ),
    ]


def smollm3() -> list[ModelCase]:
    """The second layer does not know positions, and slides."""
    config = TINY | {
        "hidden_size": 24,
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "attention_bias": True,
        "mlp_bias": True,
        "pad_token_id": None,
    }
    return family("smollm3", 141, "SmolLM3ForCausalLM", config)


def glm() -> list[ModelCase]:
    """Half of each head turns. The older class differs in its norms only."""
    config = TINY | {"head_dim": 8, "pad_token_id": None}
    older = case("glm/base", 151, "GlmForCausalLM", config, [whole(151), *decode(152)], observe=PARTS)
    return [older, *family("glm4", 161, "Glm4ForCausalLM", config)]


def cases() -> list[ModelCase]:
    """All of them."""
    return [*qwen2(), *qwen3(), *mistral(), *gemma3(), *smollm3(), *glm()]
