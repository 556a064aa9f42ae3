"""Cases of diffusers' AutoencoderKL."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL

from case import Call, ModelCase

OBSERVE = [
    "encoder",
    "encoder.conv_in",
    "encoder.down_blocks.*",
    "encoder.down_blocks.*.resnets.*",
    "encoder.down_blocks.1.resnets.0.*",
    "encoder.down_blocks.*.downsamplers.0",
    "encoder.mid_block",
    "encoder.mid_block.resnets.*",
    "encoder.conv_norm_out",
    "encoder.conv_out",
    "decoder",
    "decoder.conv_in",
    "decoder.mid_block",
    "decoder.mid_block.resnets.*",
    "decoder.up_blocks.*",
    "decoder.up_blocks.*.resnets.*",
    "decoder.up_blocks.*.upsamplers.0",
    "decoder.conv_norm_out",
    "decoder.conv_out",
]
ATTENTION = [
    "**.attentions.*",
    "**.attentions.*.group_norm",
    "**.attentions.*.to_q",
    "**.attentions.*.to_k",
    "**.attentions.*.to_v",
    "**.attentions.*.to_out.0",
]
QUANT = ["quant_conv", "post_quant_conv"]
TINY: dict[str, Any] = {
    "block_out_channels": [4, 6],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": 32,
}
FLUX: dict[str, Any] = TINY | {
    "block_out_channels": [4, 4, 6],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
OLD: dict[str, Any] = TINY | {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
}
"""The keys that a config.json of 2022 had."""


def calls(
    seed: int,
    config: dict[str, Any],
    image: tuple[int, ...],
    latent: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> list[Call]:
    """Encodes images and decodes latents; sizes are batch, height, width."""
    generator = torch.Generator().manual_seed(seed)

    def normal(size: tuple[int, ...], channels: int) -> torch.Tensor:
        return torch.randn(size[0], channels, *size[1:], generator=generator).to(dtype)

    return [
        Call({"x": normal(image, config.get("in_channels", 3))}, method="encode"),
        Call({"z": normal(latent, config["latent_channels"])}, method="decode"),
    ]


def case(
    name: str,
    seed: int,
    config: dict[str, Any],
    made: list[Call],
    observe: list[str] = OBSERVE + ATTENTION,
    published: bool = False,
    **options: Any,
) -> ModelCase:
    """One entry; `published` writes the config as spelt here instead of the package's serialisation of it."""

    def build(dtype: torch.dtype) -> AutoencoderKL:
        own = {key: value for key, value in config.items() if not key.startswith("_")}
        return AutoencoderKL(**own).to(dtype)

    return ModelCase(
        name=f"autoencoder-kl/{name}",
        package="diffusers",
        reference_class="AutoencoderKL",
        seed=seed,
        build=build,
        calls=made,
        observe=observe,
        config=config if published else None,
        **options,
    )


def cases() -> list[ModelCase]:
    """All cases of the family."""
    wide = TINY | {"block_out_channels": [2, 6], "norm_num_groups": 2}
    attention = TINY | {
        "down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "latents_mean": [0.5, -0.25, 0.125, 1.0],
        "latents_std": [1.5, 0.5, 2.0, 0.75],
    }
    grey = TINY | {"in_channels": 1, "out_channels": 2, "mid_block_add_attention": False, "use_post_quant_conv": False}
    whole = torch.randn(1, 3, 6, 10, generator=torch.Generator().manual_seed(706))
    half = torch.bfloat16
    return [
        case("quant-convs", 701, wide, calls(701, wide, (1, 10, 6), (1, 4, 3)), OBSERVE + ATTENTION + QUANT),
        case("flux", 702, FLUX, calls(702, FLUX, (2, 12, 8), (2, 2, 3))),
        case("bf16", 703, FLUX, calls(713, FLUX, (2, 12, 8), (2, 2, 3), half), dtype=half),
        case(
            "no-attention",
            704,
            grey,
            calls(704, grey, (2, 11, 9), (1, 5, 3)),
            OBSERVE + ["quant_conv"],
            note="Odd sizes: the padding at the ends is seen, and the last row and column are dropped.",
        ),
        case("attention-in-stages", 705, attention, calls(705, attention, (2, 6, 8), (2, 4, 3))),
        case("forward", 706, OLD, [Call({"sample": whole})], OBSERVE + ATTENTION + QUANT, published=True),
        case(
            "small-activations",
            707,
            TINY,
            calls(707, TINY, (1, 8, 6), (1, 5, 3)),
            scale={"**.conv*": 1e-3, "**.downsamplers.*": 1e-3, "**.upsamplers.*": 1e-3, "**.to_out.*": 1e-3},
            note="Every norm sees activations of a standard deviation near the root of its epsilon.",
        ),
    ]
