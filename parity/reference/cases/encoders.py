"""Cases of transformers' text encoders: T5, UMT5 and CLIP (attention implementation: the package's default, `sdpa`)."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers

from case import Call, ModelCase

T5: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 10,
    "d_kv": 4,
    "d_ff": 14,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "feed_forward_proj": "gated-gelu",
}
"""Heads that do not fill the width, and distances beyond the last bucket."""
CLIP: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 12,
    "intermediate_size": 14,
    "projection_dim": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "pad_token_id": 1,
}
FIRST_END = {"eos_token_id": 47, "pad_token_id": 47}
"""The end of the text is a token, which pads too, and not the last in the vocabulary."""
HIGHEST = {"eos_token_id": 2}
"""Configs of OpenAI's own checkpoints: the end of the text is the token with the highest id."""
SMALL_TOKEN = 3
"""The token whose embedding has a standard deviation near the root of epsilon; every text contains it."""

T5_OBSERVE = [
    "encoder.embed_tokens",
    "encoder.block.*",
    "encoder.block.*.layer.0.layer_norm",
    "encoder.block.*.layer.0.SelfAttention",
    "encoder.block.0.layer.0.SelfAttention.q",
    "encoder.block.0.layer.0.SelfAttention.k",
    "encoder.block.0.layer.0.SelfAttention.v",
    "encoder.block.0.layer.0.SelfAttention.o",
    "encoder.block.*.layer.1.layer_norm",
    "encoder.block.*.layer.1.DenseReluDense",
    "encoder.block.0.layer.1.DenseReluDense.w*",
    "encoder.final_layer_norm",
]
CLIP_OBSERVE = [
    "embeddings",
    "embeddings.*",
    "encoder.layers.*",
    "encoder.layers.*.layer_norm1",
    "encoder.layers.*.self_attn",
    "encoder.layers.0.self_attn.*",
    "encoder.layers.*.layer_norm2",
    "encoder.layers.*.mlp",
    "encoder.layers.0.mlp.fc*",
    "final_layer_norm",
]


def rows(seed: int, lengths: list[int], begin: int | None, end: int, pad: int) -> dict[str, torch.Tensor]:
    """Random texts of these lengths, each with its begin and end, padded on the right to one more than the longest."""
    generator = torch.Generator().manual_seed(seed)
    length = max(lengths) + 1
    ids = torch.randint(5, 40, (len(lengths), length), generator=generator)
    mask = torch.zeros_like(ids)
    for row, taken in enumerate(lengths):
        ids[row, taken // 2] = SMALL_TOKEN
        if begin is not None:
            ids[row, 0] = begin
        ids[row, taken - 1] = end
        ids[row, taken:] = pad
        mask[row, :taken] = 1
    return {"input_ids": ids, "attention_mask": mask}


def case(
    name: str,
    seed: int,
    reference_class: str,
    config: dict[str, Any],
    inputs: dict[str, torch.Tensor],
    observe: list[str],
    arguments: dict[str, Any] | None = None,
    **options: Any,
) -> ModelCase:
    """One entry."""
    model_class = getattr(transformers, reference_class)

    def build(dtype: torch.dtype) -> torch.nn.Module:
        return model_class._from_config(model_class.config_class(**config), dtype=dtype)

    eps = config.get("layer_norm_epsilon", 1e-6) if "d_model" in config else config.get("layer_norm_eps", 1e-5)
    return ModelCase(
        name=name,
        package="transformers",
        reference_class=reference_class,
        seed=seed,
        build=build,
        calls=[Call(inputs, arguments or {})],
        observe=observe,
        small_row=(SMALL_TOKEN, math.sqrt(eps)),
        **options,
    )


def t5(name: str, seed: int, config: dict[str, Any], **options: Any) -> ModelCase:
    """Two texts of unlike length; pads are seen by none and see what the text sees."""
    inputs = rows(seed, [13, 7], None, 1, 0)
    return case(f"t5/{name}", seed, "T5EncoderModel", T5 | config, inputs, T5_OBSERVE, **options)


def umt5(name: str, seed: int, config: dict[str, Any], inputs: dict[str, torch.Tensor], **options: Any) -> ModelCase:
    """The same with a table of distances in each layer."""
    settings: dict[str, Any] = {"observe": T5_OBSERVE} | options
    return case(f"umt5/{name}", seed, "UMT5EncoderModel", T5 | config, inputs, **settings)


def clip(name: str, seed: int, config: dict[str, Any], inputs: dict[str, torch.Tensor], **options: Any) -> ModelCase:
    """The text model alone."""
    return case(f"clip/{name}", seed, "CLIPTextModel", CLIP | config, inputs, CLIP_OBSERVE, **options)


def clip_projected(name: str, seed: int, config: dict[str, Any], inputs: dict[str, torch.Tensor]) -> ModelCase:
    """The text model with its projection, and the states between layers, of which pipelines take the last but one."""
    observe = [*(f"text_model.{path}" for path in CLIP_OBSERVE), "text_projection"]
    arguments = {"output_hidden_states": True}
    return case(f"clip/{name}", seed, "CLIPTextModelWithProjection", CLIP | config, inputs, observe, arguments)


def cases() -> list[ModelCase]:
    """All cases of text encoders."""
    highest = rows(45, [10, 6], 58, 60, 1)
    first = rows(46, [9, 6], 58, 47, 47)
    unpadded = {"input_ids": rows(47, [11], 58, 47, 47)["input_ids"]}
    bf16 = {"dtype": torch.bfloat16, "note": "`noise` is measured in a free run."}
    return [
        t5("gated-gelu", 41, {}),
        t5("relu", 42, {"feed_forward_proj": "relu", "num_layers": 3}),
        t5("bf16", 43, {}, **bf16),
        umt5("gated-gelu", 51, {}, rows(51, [13, 7], None, 1, 0)),
        umt5("bf16", 52, {"feed_forward_proj": "gated-silu"}, rows(52, [13, 7], None, 1, 0), **bf16),
        umt5(
            "long",
            53,
            {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
            {"input_ids": rows(53, [162], None, 1, 0)["input_ids"]},
            observe=["encoder.block.*", "encoder.block.*.layer.0.SelfAttention", "encoder.final_layer_norm"],
            note="163 tokens reach every bucket of the published sizes.",
        ),
        clip("quick-gelu", 45, HIGHEST, highest),
        clip("gelu", 46, FIRST_END | {"hidden_act": "gelu"}, first, arguments={"output_hidden_states": True}),
        clip("unpadded", 47, FIRST_END, unpadded),
        clip("bf16", 48, HIGHEST, highest, **bf16),
        clip_projected("projection", 49, FIRST_END | {"hidden_act": "gelu"}, first),
        clip_projected("projection-highest", 50, HIGHEST | {"projection_dim": 12}, highest),
    ]
