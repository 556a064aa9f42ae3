"""Headers of FLUX.1's transformers: diffusers' snapshots, and Black Forest Labs' `flux1-*.safetensors`."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

Shapes = dict[str, tuple[int, ...]]
Config = dict[str, Any]

CLASS: Config = {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0.dev0"}

SCHNELL: Config = CLASS | {
    "attention_head_dim": 128,
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
"""The published config.json, field for field: older than `axes_dims_rope` and `out_channels`, so without them."""

DEV: Config = CLASS | {"_name_or_path": "../checkpoints/flux-dev/transformer"} | SCHNELL | {"guidance_embeds": True}
"""The published config.json, field for field."""

CONFIGS = {"dev": DEV, "schnell": SCHNELL}
SINUSOID = 256
"""Features of the sinusoid of a time step, which no config names."""


def diffusers_shapes(config: Config) -> Shapes:
    """The class's state dict at a published config."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(**{key: value for key, value in config.items() if not key.startswith("_")})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_shapes(config: Config) -> Shapes:
    """The names of the original code, which joins what reads the same input; held against diffusers' converter."""
    head = config["attention_head_dim"]
    dim = config["num_attention_heads"] * head
    found: Shapes = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        found.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def head_norms(name: str) -> None:
        found.update({f"{name}.{part}_norm.scale": (head,) for part in ["query", "key"]})

    linear("img_in", config["in_channels"], dim)
    linear("txt_in", config["joint_attention_dim"], dim)
    embedders = {"time_in": SINUSOID, "vector_in": config["pooled_projection_dim"]}
    if config["guidance_embeds"]:
        embedders["guidance_in"] = SINUSOID
    for name, inputs in embedders.items():
        linear(f"{name}.in_layer", inputs, dim)
        linear(f"{name}.out_layer", dim, dim)
    for layer in range(config["num_layers"]):
        for stream in ["img", "txt"]:
            block = f"double_blocks.{layer}.{stream}"
            linear(f"{block}_mod.lin", dim, 6 * dim)
            linear(f"{block}_attn.qkv", dim, 3 * dim)
            head_norms(f"{block}_attn.norm")
            linear(f"{block}_attn.proj", dim, dim)
            linear(f"{block}_mlp.0", dim, 4 * dim)
            linear(f"{block}_mlp.2", 4 * dim, dim)
    for layer in range(config["num_single_layers"]):
        block = f"single_blocks.{layer}"
        linear(f"{block}.modulation.lin", dim, 3 * dim)
        linear(f"{block}.linear1", dim, 7 * dim)
        head_norms(f"{block}.norm")
        linear(f"{block}.linear2", 5 * dim, dim)
    linear("final_layer.adaLN_modulation.1", dim, 2 * dim)
    linear("final_layer.linear", dim, config["in_channels"])

    file = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    converted = convert_flux_transformer_checkpoint_to_diffusers(file)
    # The converter takes out what it knows, so nothing may be left.
    if file or {name: tuple(tensor.shape) for name, tensor in converted.items()} != diffusers_shapes(config):
        raise ValueError("diffusers' converter does not know these names")
    return found
