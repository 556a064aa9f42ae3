"""Cases of diffusers' FluxTransformer2DModel."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from case import Call, ModelCase

OBSERVE = [
    "x_embedder",
    "context_embedder",
    "time_text_embed",
    "time_text_embed.*_embedder",
    "transformer_blocks.*",
    "transformer_blocks.*.attn",
    "transformer_blocks.0.attn.*",
    "transformer_blocks.0.norm2",
    "transformer_blocks.0.norm2_context",
    "transformer_blocks.0.ff",
    "transformer_blocks.0.ff_context",
    "transformer_blocks.0.ff.net.*",
    "single_transformer_blocks.*",
    "single_transformer_blocks.*.attn",
    "single_transformer_blocks.0.proj_mlp",
    "single_transformer_blocks.0.proj_out",
    "single_transformer_blocks.0.attn.*",
    "norm_out",
]
TINY: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": [2, 2, 4],
}

SHORT = {"num_layers": 1, "num_single_layers": 1}


def grid(height: int, width: int) -> torch.Tensor:
    """Position ids of packed latents, as FluxPipeline makes them."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)[None, :]
    return ids.reshape(-1, 3)


def call(seed: int, batch: int, size: tuple[int, int], text: int, guidance: bool, dtype: torch.dtype) -> Call:
    """One evaluation on random inputs; each row has a time of its own."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
    inputs = {
        "hidden_states": normal(batch, size[0] * size[1], 8),
        "encoder_hidden_states": normal(batch, text, 12),
        "pooled_projections": normal(batch, 10),
        "timestep": torch.linspace(0.87, 0.13, batch).to(dtype),
        "img_ids": grid(*size),
        "txt_ids": torch.zeros(text, 3),
    }
    if guidance:
        # No higher: angles are 1000 times as much, and f32 frequencies that far out differ from machine to machine.
        inputs["guidance"] = torch.linspace(1.75, 1.0, batch)
    return Call(inputs)


def case(name: str, seed: int, calls: list[Call], dtype: torch.dtype = torch.float32, **changes: Any) -> ModelCase:
    """One entry: the tiny config with changes."""
    config = TINY | changes

    def build(dtype: torch.dtype) -> FluxTransformer2DModel:
        return FluxTransformer2DModel(**config).to(dtype)

    return ModelCase(
        name=f"flux/{name}",
        package="diffusers",
        reference_class="FluxTransformer2DModel",
        seed=seed,
        build=build,
        calls=calls,
        observe=OBSERVE,
        dtype=dtype,
    )


def cases() -> list[ModelCase]:
    """All cases of the family."""
    single, half = torch.float32, torch.bfloat16
    return [
        case("guidance", 601, [call(1, 2, (2, 4), 5, True, single)]),
        case("no-guidance", 602, [call(2, 1, (4, 2), 5, False, single)], guidance_embeds=False, **SHORT),
        case("out-channels", 603, [call(3, 2, (2, 3), 4, True, single)], out_channels=6, patch_size=2, **SHORT),
        case("bf16", 604, [call(4, 2, (3, 5), 7, True, half)], dtype=half),
    ]
