"""Cases of the zoo's composed transformers, against a torch twin that reads the same config."""

from __future__ import annotations

from typing import Any

import torch
from composed import ComposedTransformer

from case import Call, ModelCase

OBSERVE = ["stages.*.blocks.*", "stages.*.blocks.*.attn", "stages.*.blocks.*.ffn", "norm_out"]
PLAIN = {"layer": {"eps": 1e-6, "parameters": "none"}}
RMS = {"rms": {"eps": 1e-6}}
GRID = {"rope": {"theta": 100, "layout": "interleaved", "axes": {"each": [2, 2, 4]}, "angle": "double"}}


def features(name: str, given: str, dim: int, **more: Any) -> dict[str, Any]:
    """A stream of features, projected to 16."""
    projection = {"linear": {"dim": 16, "bias": True}}
    return {"name": name, "input": {"features": {"name": given, "dim": dim}}, "projection": projection, **more}


DIFFUSION: dict[str, Any] = {
    "model_type": "composed",
    "streams": [
        features("text", "prompt", 12, norm={"rms": {"eps": 1e-5}}, mask="prompt_mask"),
        features("image", "latents", 8, positions="image_ids"),
    ],
    "condition": {
        "dim": 16,
        "parts": [
            {"time": {"name": "timestep", "sinusoid": 20, "scale": 1000}},
            {"vector": {"name": "pooled", "dim": 6}},
        ],
        "activation": "silu",
        "projections": [{"name": "one", "dim": 16, "sublayers": 1}],
    },
    "stages": [
        {
            "on": ["text"],
            "count": 2,
            "block": {
                "pre_norm": {
                    "norm": RMS,
                    "attention": {"heads": 2, "kv_heads": 1},
                    "ffn": {"glu": {"hidden": 12, "activation": "silu"}},
                }
            },
        },
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "joint": {
                    "streams": [
                        {
                            "norm": PLAIN,
                            "attention": {
                                "heads": 2,
                                "projections": {"qkv": "fused", "bias": True},
                                "qk_norm": RMS,
                                "position": GRID,
                            },
                            "ffn": {"mlp": {"hidden": 20, "activation": "gelu_tanh", "bias": True}},
                            "modulation": "ada_ln_zero",
                        }
                    ]
                }
            },
        },
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "single": {
                    "norm": PLAIN,
                    "attention": {"heads": 2, "kv_heads": 1, "qk_norm": RMS, "position": GRID},
                    "hidden": 12,
                    "activation": "gelu_tanh",
                    "bias": True,
                    "modulation": {"shared": {"projection": "one"}},
                }
            },
        },
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "sandwich": {
                    "norm": {"rms": {"eps": 1e-5}},
                    "attention": {"heads": 2, "qk_norm": {"rms_across_heads": {"eps": 1e-6}}, "position": GRID},
                    "ffn": {"glu": {"hidden": 12, "activation": "silu"}},
                    "modulation": "tanh_gated",
                }
            },
        },
    ],
    "output": {
        "name": "sample",
        "stream": "image",
        "norm": PLAIN,
        "modulation": "ada_ln_continuous",
        "head": {"linear": {"dim": 8, "bias": True}},
    },
}
"""Text blocks, then joint ones, then single and sandwich blocks over both streams."""

CONTEXT: dict[str, Any] = {
    "model_type": "composed",
    "streams": [
        features("image", "latents", 6, place="sinusoidal"),
        {
            "name": "text",
            "input": {"features": {"name": "prompt", "dim": 10}},
            "projection": {"mlp": {"dim": 20, "activation": "gelu_tanh", "bias": True}},
            "mask": "prompt_mask",
        },
    ],
    "condition": {
        "dim": 16,
        "parts": [{"time": {"name": "timestep", "sinusoid": 20}}, {"class": {"name": "labels", "classes": 5}}],
        "activation": "silu",
        "projections": [{"name": "all", "dim": 16, "sublayers": 2}],
    },
    "stages": [
        {
            "on": ["image"],
            "count": 2,
            "block": {
                "cross": {
                    "context": "text",
                    "norm": PLAIN,
                    "attention": {"heads": 2, "projections": {"qkv": "key_value", "bias": True, "out_bias": False}},
                    "cross_norm": {"layer": {"eps": 1e-5}},
                    "cross_attention": {"heads": 2, "head_dim": 6, "softcap": 3},
                    "ffn": {"mlp": {"hidden": 20, "activation": "relu2"}},
                    "modulation": {"table": {"projection": "all"}},
                }
            },
        }
    ],
    "output": {"name": "sample", "stream": "image", "norm": {"layer": {"eps": 1e-5, "parameters": "weight"}}},
}
"""Cross-attention to a text of another width, under one projection and a table a block."""

LANGUAGE: dict[str, Any] = {
    "model_type": "composed",
    "streams": [
        {
            "name": "text",
            "input": {"tokens": {"name": "input_ids", "vocabulary": 31, "dim": 24, "scale": 4.9}},
            "place": {"learned": {"length": 9}},
            "mask": "attention_mask",
        }
    ],
    "stages": [
        {
            "on": ["text"],
            "count": 1,
            "block": {
                "pre_norm": {
                    "norm": {"rms": {"eps": 1e-6, "offset": 1}},
                    "attention": {
                        "heads": 4,
                        "kv_heads": 2,
                        "head_dim": 8,
                        "sinks": True,
                        "mask": {"sliding": {"window": 3}},
                        "position": {"rope": {"theta": 1000, "layout": "half_split", "dims": 6}},
                    },
                    "ffn": {"glu": {"hidden": 28, "activation": "gelu_tanh"}},
                }
            },
        },
        {
            "on": ["text"],
            "count": 2,
            "block": {
                "pre_norm": {
                    "norm": {"layer": {"eps": 1e-5}},
                    "attention": {
                        "heads": 3,
                        "scale": 1.0,
                        "projections": {"qkv": "key_is_value", "bias": True},
                        "qk_norm": {"layer": {"eps": 1e-5}},
                        "mask": "causal",
                        "position": {"relative_bias": {"buckets": 8, "max_distance": 6, "tables": "each"}},
                    },
                    "ffn": {"mlp": {"hidden": 28, "activation": "quick_gelu", "bias": True}},
                }
            },
        },
    ],
    "output": {"name": "logits", "stream": "text", "norm": {"rms": {"eps": 1e-6}}, "head": "tied"},
}
"""Two kinds of attention over tokens, and a tied head."""


def grid(height: int, width: int) -> torch.Tensor:
    """Positions of an image's tokens; the text's count on all axes."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)[None, :]
    return ids.reshape(-1, 3)


def case(name: str, seed: int, config: dict[str, Any], inputs: dict[str, torch.Tensor], **more: Any) -> ModelCase:
    """One entry."""
    observe = [pattern for pattern in OBSERVE if name != "composed/context" or not pattern.endswith(".attn")]
    if "diffusion" in name:
        observe = [*observe, "stages.1.blocks.*.streams.*.attn.o"]
    if config is CONTEXT:
        observe = [*observe, "stages.*.blocks.*.attn*"]
    return ModelCase(
        name=name,
        package="torch",
        reference_class="ComposedTransformer",
        seed=seed,
        build=lambda dtype: ComposedTransformer(config).to(dtype),
        calls=[Call(inputs)],
        observe=observe,
        config=config,
        **more,
    )


def cases() -> list[ModelCase]:
    """All cases of the family."""
    generator = torch.Generator().manual_seed(9)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    tokens = torch.randint(0, 31, (2, 7), generator=generator)
    hidden = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    diffusion = {
        "prompt": normal(2, 5, 12),
        "prompt_mask": hidden,
        "latents": normal(2, 6, 8),
        "image_ids": grid(2, 3),
        "timestep": torch.tensor([0.83, 0.21]),
        "pooled": normal(2, 6),
    }
    context = {
        "latents": normal(2, 7, 6),
        "prompt": normal(2, 5, 10),
        "prompt_mask": hidden,
        "timestep": torch.tensor([812.0, 33.0]),
        "labels": torch.tensor([4, 1]),
    }
    language = {"input_ids": tokens, "attention_mask": torch.tensor([[1] * 7, [1] * 6 + [0]])}
    narrow = {name: x.bfloat16() if x.is_floating_point() and "ids" not in name else x for name, x in diffusion.items()}
    return [
        case("composed/diffusion", 701, DIFFUSION, diffusion),
        case("composed/context", 702, CONTEXT, context),
        case("composed/language", 703, LANGUAGE, language),
        case("composed/bf16", 704, DIFFUSION, narrow, dtype=torch.bfloat16),
    ]
