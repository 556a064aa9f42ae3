"""Cases of decoders whose feed-forward networks are mixtures of experts (experts implementation: the package's default)."""

from __future__ import annotations

import dataclasses
from typing import Any

from case import Call, ModelCase
from cases.decoders import TINY, VOCABULARY, WINDOW, case, family, padded_decode, whole
from cases.llama import tokens

EXPERTS = ["model.layers.*.mlp.gate", "model.layers.*.mlp.experts"]
"""What routes and what computes in a mixture of experts. Both take tokens as rows `[B * L, D]`, which no mask fits."""


def mixtral() -> list[ModelCase]:
    """All layers slide."""
    sizes = {"intermediate_size": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}
    return [*mixture("mixtral", 151, "MixtralForCausalLM", TINY | sizes), long_mixture()]


def long_mixture() -> ModelCase:
    """So many tokens that they are sorted by expert, in the published spelling of a config."""
    published = {
        "architectures": ["MixtralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 24,
        "initializer_range": 0.02,
        "intermediate_size": 8,
        "max_position_embeddings": 64,
        "model_type": "mixtral",
        "num_attention_heads": 3,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.36.0.dev0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    return case(
        "mixtral/published-long",
        155,
        "MixtralForCausalLM",
        published,
        [whole(155, length=33)],
        published=True,
        observe=["model.layers.*", *EXPERTS],
    )


def qwen3_moe() -> list[ModelCase]:
    """Of two layers one is without experts: the second by its name, or the first because of the step."""
    sizes = TINY | {"head_dim": 6, "intermediate_size": 8, "moe_intermediate_size": 8}
    named = {
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
        "tie_word_embeddings": True,
    }
    stepped = {"num_experts": 4, "num_experts_per_tok": 1, "decoder_sparse_step": 2, "tie_word_embeddings": True}
    return [
        *mixture("qwen3-moe", 161, "Qwen3MoeForCausalLM", sizes | named),
        case(
            "qwen3-moe/unnormalised",
            165,
            "Qwen3MoeForCausalLM",
            sizes | stepped,
            [whole(165, length=5)],
            observe=["model.layers.*", *EXPERTS],
        ),
    ]


def mixture(folder: str, seed: int, reference_class: str, config: dict[str, Any]) -> list[ModelCase]:
    """A family's cases, made smaller; that in bf16 observes everything around the experts of a layer."""
    base, narrow = family(folder, seed, reference_class, config)
    calls = [whole(seed, length=7), *padded_decode(seed + 1, prefill=6, steps=2)]
    observe = ["model.layers.*", "model.layers.*.mlp", "model.norm"]
    base = dataclasses.replace(base, calls=calls, observe=observe)
    narrow = dataclasses.replace(narrow, calls=[whole(seed + 2, length=7), *chunks(seed + 3)])
    around = ["model.layers.0.post_attention_layernorm", "model.layers.0.mlp.**", "lm_head"]
    return [base, dataclasses.replace(narrow, observe=[*observe, *around])]


def chunks(seed: int) -> list[Call]:
    """Nine tokens in two cached pieces: of one token a router has too few logits to measure noise on."""
    ids = tokens(seed, 1, 9, VOCABULARY)
    return [Call({"input_ids": piece}, {"use_cache": True}) for piece in [ids[:, :5], ids[:, 5:]]]


def cases() -> list[ModelCase]:
    """All of them."""
    return [*mixtral(), *qwen3_moe()]
