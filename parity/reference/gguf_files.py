"""Writes `fixtures/gguf/`: tiny decoders as llama.cpp's converter stores them, and what transformers makes of the same weights.

Tensors are named by the package `gguf`, which llama.cpp's converter uses; metadata, the order of rows of queries and keys, and
the weights of Gemma's norms are as that converter (`convert_hf_to_gguf.py`) writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from case import randomise, save_json

IDS = [5, 17, 3, 26, 9, 9, 1, 22, 12, 7, 28]
"""More than a window."""

TINY: dict[str, Any] = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 12, "tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "num_hidden_layers": 6,
            "sliding_window": 5,
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "smollm3": ("SmolLM3ForCausalLM", {"num_hidden_layers": 4}),
    "glm4": ("Glm4ForCausalLM", {"head_dim": 8}),
}
INTERLEAVED = ("llama", "smollm3")
"""Whose queries and keys llama.cpp rotates neighbour with neighbour."""


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """The halves of each head, one row of either after the other."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)


def write(folder: Path, architecture: str, seed: int) -> None:
    """Writes one file and what is expected of it."""
    name, own = FILES[architecture]
    model_class = getattr(transformers, name)
    config = model_class.config_class(**TINY | own)
    model = model_class._from_config(config, dtype=torch.float32).eval()
    randomise(model, seed)
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0, -1]

    writer = gguf.GGUFWriter(folder / f"{architecture}.gguf", architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if "head_dim" in own:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture in INTERLEAVED:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if architecture == "glm4":
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if config.tie_word_embeddings and key == "lm_head.weight":
            continue
        values = tensor.numpy()
        if architecture in INTERLEAVED and ".q_proj." in key:
            values = interleaved(values, config.num_attention_heads)
        if architecture in INTERLEAVED and ".k_proj." in key:
            values = interleaved(values, config.num_key_value_heads)
        if architecture == "gemma3" and key.endswith("norm.weight"):
            values = values + 1
        module = key.removesuffix(".weight").removesuffix(".bias")
        writer.add_tensor(f"{names.get_name(module)}.{key.rsplit('.', 1)[1]}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = {"reference": name, "ids": IDS, "logits": [float(x) for x in logits]}
    save_json(folder / f"{architecture}.json", expected)


def write_gguf_files(out: Path) -> None:
    """Writes every file."""
    folder = out / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, architecture in enumerate(FILES, start=201):
        write(folder, architecture, seed)
