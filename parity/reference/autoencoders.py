"""Headers of FLUX.1's autoencoder: diffusers' snapshot, and Black Forest Labs' `ae.safetensors`."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

Shapes = dict[str, tuple[int, ...]]

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
"""The published config.json, field for field."""

RENAMED = [
    (r"up_blocks\.(\d+)\.", lambda found: f"up.{len(CONFIG['up_block_types']) - 1 - int(found[1])}."),
    (r"down_blocks\.(\d+)\.", r"down.\1."),
    (r"mid_block\.resnets\.(\d+)\.", lambda found: f"mid.block_{int(found[1]) + 1}."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\.resnets\.", ".block."),
    (r"samplers\.0\.", "sample."),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out|group_norm", lambda found: "norm_out" if found[0] == "conv_norm_out" else "norm"),
    (r"to_out\.0\.", "proj_out."),
    (r"to_([qkv])\.", r"\1."),
]
"""What diffusers renamed, and what it was before."""


def diffusers_shapes() -> Shapes:
    """The class's state dict at the published config."""
    with torch.device("meta"):
        model = AutoencoderKL(**{key: value for key, value in CONFIG.items() if not key.startswith("_")})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_shapes() -> Shapes:
    """The names of the original code, whose attention projects by convolutions; held against diffusers' converter."""
    found: Shapes = {}
    for name, shape in diffusers_shapes().items():
        for pattern, before in RENAMED:
            name = re.sub(pattern, before, name)
        convolves = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) is not None
        found[name] = (*shape, 1, 1) if convolves else shape
    file = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    converted = {name: tuple(tensor.shape) for name, tensor in convert_ldm_vae_checkpoint(file, CONFIG).items()}
    if converted != diffusers_shapes():
        raise ValueError("diffusers' converter does not know these names")
    return found
