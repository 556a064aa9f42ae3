"""Cases of the framework's own blocks: float64 twins, each held against the package that has the same operation."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models import Transformer2DModel
from diffusers.models import attention as attention_module
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.models.transformers import (
    transformer_ernie_image,
    transformer_flux2,
    transformer_wan,
    transformer_z_image,
)
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_vl import configuration_qwen2_vl, modeling_qwen2_vl
from transformers.models.qwen3_vl import configuration_qwen3_vl, modeling_qwen3_vl

import twins
from case import BlockCase

Array = np.ndarray
Config = dict[str, Any]
Weights = dict[str, Array]


class Draw:
    """Seeded float32 arrays; the twins compute on them in float64."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return (self.generator.standard_normal(shape) * scale).astype(np.float32)

    def matrix(self, out: int, into: int) -> Array:
        return self.normal(out, into, scale=into**-0.5)

    def gain(self, dim: int) -> Array:
        return 1 + self.normal(dim, scale=0.2)

    def linear(self, name: str, into: int, out: int, bias: bool) -> Weights:
        weights = {f"{name}.weight": self.matrix(out, into)}
        return weights | ({f"{name}.bias": self.normal(out, scale=0.3)} if bias else {})

    def integers(self, high: int, *shape: int) -> Array:
        return self.generator.integers(0, high, shape, dtype=np.int64)


def wide(weights: Weights) -> Weights:
    """The same weights in float64."""
    return {name: value.astype(np.float64) for name, value in weights.items()}


def tensor(value: Array) -> torch.Tensor:
    """A float64 tensor of an array, integers and booleans unchanged."""
    return torch.from_numpy(value.astype(np.float64) if value.dtype.kind == "f" else value)


def agree(name: str, ours: Array, theirs: torch.Tensor, bound: float = 1e-12) -> None:
    """Fails unless a twin equals the package's result (bound 1e-12 in float64, 2e-6 where the package forces f32)."""
    expected = theirs.detach().double().numpy()
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    if ours.shape != expected.shape or not error < bound:
        raise AssertionError(f"{name}: the twin and the package differ by {error:.3g}")


FLOAT32 = 2e-6


# Norms


def rms_norm(name: str, seed: int, eps: float, offset: float = 0.0) -> BlockCase:
    draw, dim = Draw(seed), 24
    x, weight = draw.normal(2, 5, dim), draw.gain(dim) - np.float32(offset)
    x[1, 2] *= np.float32(eps**0.5)
    output = twins.rms_norm(x.astype(np.float64), weight.astype(np.float64), eps, offset)
    agree(name, output, F.rms_norm(tensor(x), (dim,), tensor(weight) + offset, eps))
    config: Config = {"dim": dim, "eps": eps} | ({"offset": offset} if offset else {})
    return BlockCase(name, "RmsNorm", seed, config, {"x": x}, output, {"weight": weight})


def layer_norm(name: str, seed: int, eps: float, affine: bool, bias: bool) -> BlockCase:
    draw, dim = Draw(seed), 24
    x = draw.normal(2, 5, dim) + np.float32(0.5)
    x[0, 3] *= np.float32(eps**0.5)
    weights: Weights = {"weight": draw.gain(dim)} if affine else {}
    weights |= {"bias": draw.normal(dim, scale=0.3)} if bias else {}
    full = wide(weights)
    output = twins.layer_norm(x.astype(np.float64), full.get("weight"), full.get("bias"), eps)
    theirs = {key: tensor(value) for key, value in weights.items()}
    agree(name, output, F.layer_norm(tensor(x), (dim,), theirs.get("weight"), theirs.get("bias"), eps))
    config = {"dim": dim, "eps": eps, "affine": affine, "bias": bias}
    return BlockCase(name, "LayerNorm", seed, config, {"x": x}, output, weights)


def group_norm(name: str, seed: int, groups: int, channels: int, eps: float) -> BlockCase:
    draw = Draw(seed)
    x = draw.normal(2, 5, 3, channels) + np.float32(0.3)
    x[1, ..., : channels // groups] *= np.float32(eps**0.5)
    weights = {"weight": draw.gain(channels), "bias": draw.normal(channels, scale=0.3)}
    full = wide(weights)
    output = twins.group_norm(x.astype(np.float64), full["weight"], full["bias"], groups, eps)
    first = tensor(x).permute(0, 3, 1, 2)
    theirs = F.group_norm(first, groups, tensor(weights["weight"]), tensor(weights["bias"]), eps)
    agree(name, output, theirs.permute(0, 2, 3, 1))
    config = {"groups": groups, "channels": channels, "eps": eps}
    return BlockCase(name, "GroupNorm", seed, config, {"x": x}, output, weights)


# Rotary positions


def rope(name: str, seed: int, config: Config, positions: Array, *, head_dim: int | None = None) -> BlockCase:
    """A rope case; `theirs_*` below gives the package's result for the layout at hand."""
    draw = Draw(seed)
    batch = positions.shape[-2] if config.get("sections") or positions.ndim == 2 and "axes" not in config else 2
    length = positions.shape[-2] if "axes" in config else positions.shape[-1]
    x = draw.normal(batch, length, 3, head_dim or config["dims"])
    output = twins.rope(x.astype(np.float64), positions, config)
    if "axes" in config:
        theirs = theirs_axes(x, positions, config)
    elif "sections" in config:
        theirs = theirs_sections(x, positions, config)
    else:
        theirs = theirs_llama(x, positions, config)
    agree(name, output, theirs, FLOAT32)
    return BlockCase(name, "Rope", seed, config, {"x": x, "positions": positions}, output)


def theirs_llama(x: Array, positions: Array, config: Config) -> torch.Tensor:
    """transformers' Llama rope with every scaling; interleaved pairs are brought apart and back."""
    dims = config["dims"]
    scaling = config.get("scaling") or {"rope_type": "default"}
    llama = LlamaConfig(
        hidden_size=dims,
        num_attention_heads=1,
        head_dim=dims,
        max_position_embeddings=config.get("max_position_embeddings", 2048),
        rope_parameters={"rope_theta": config["theta"]} | scaling,
    )
    rotary = modeling_llama.LlamaRotaryEmbedding(llama)
    cos, sin = rotary(torch.zeros(1), torch.from_numpy(np.atleast_2d(positions)))
    turned = torch.from_numpy(x[..., :dims])
    if config["layout"] == "interleaved":
        turned = torch.cat([turned[..., 0::2], turned[..., 1::2]], -1)
    turned, _ = modeling_llama.apply_rotary_pos_emb(turned, turned, cos, sin, unsqueeze_dim=2)
    if config["layout"] == "interleaved":
        turned = torch.stack(turned.chunk(2, -1), -1).flatten(-2)
    return torch.cat([turned, torch.from_numpy(x[..., dims:])], -1)


def theirs_axes(x: Array, positions: Array, config: Config) -> torch.Tensor:
    """diffusers' FLUX rope for interleaved pairs; Qwen2-VL's vision rope for halves."""
    if config["layout"] == "interleaved":
        tables = [
            get_1d_rotary_pos_embed(
                dim,
                torch.from_numpy(positions[:, axis].astype(np.float64)),
                theta=config["theta"],
                use_real=True,
                repeat_interleave_real=True,
                freqs_dtype=torch.float64,
            )
            for axis, dim in enumerate(config["axes"])
        ]
        cos, sin = (torch.cat(table, -1) for table in zip(*tables, strict=True))
        return apply_rotary_emb(torch.from_numpy(x), (cos, sin), sequence_dim=1)
    rotary = modeling_qwen2_vl.Qwen2VLVisionRotaryEmbedding
    vision = configuration_qwen2_vl.Qwen2VLVisionConfig(embed_dim=config["dims"], num_heads=1)
    vision.rope_parameters = {"rope_theta": config["theta"], "rope_type": "axial"}
    cos, sin = rotary(vision)(torch.zeros(1), torch.from_numpy(positions))
    rows = [modeling_qwen2_vl.apply_rotary_pos_emb_vision(row, row, cos, sin)[0] for row in torch.from_numpy(x)]
    return torch.stack(rows)


def theirs_sections(x: Array, positions: Array, config: Config) -> torch.Tensor:
    """Qwen2-VL's contiguous and Qwen3-VL's interleaved M-RoPE."""
    parameters = {"rope_theta": config["theta"], "rope_type": "default", "mrope_section": config["sections"]}
    sizes = {"hidden_size": config["dims"], "num_attention_heads": 1, "rope_parameters": parameters}
    if config["sections_interleaved"]:
        text = configuration_qwen3_vl.Qwen3VLTextConfig(head_dim=config["dims"], **sizes)
        rotary, package = modeling_qwen3_vl.Qwen3VLTextRotaryEmbedding(text), modeling_qwen3_vl
    else:
        text = configuration_qwen2_vl.Qwen2VLTextConfig(**sizes)
        rotary, package = modeling_qwen2_vl.Qwen2VLRotaryEmbedding(text), modeling_qwen2_vl
    cos, sin = rotary(torch.zeros(1), torch.from_numpy(positions))
    value = torch.from_numpy(x)
    return package.apply_rotary_pos_emb(value, value, cos, sin, unsqueeze_dim=2)[0]


def ropes() -> Iterator[BlockCase]:
    """Every layout and every scaling."""
    line = np.arange(13, dtype=np.int64)
    far = np.array([0, 1, 2, 3, 5, 8, 13, 21, 29, 36], dtype=np.int64)
    half: Config = {"dims": 16, "layout": "half_split", "theta": 10000.0}
    pairs: Config = half | {"layout": "interleaved"}

    def scaled(**scaling: Any) -> Config:
        return half | {"scaling": scaling}

    yield rope("framework/rope-half-split", 201, half, line)
    yield rope("framework/rope-interleaved", 202, pairs, line)
    yield rope("framework/rope-half-split-partial", 203, half | {"dims": 6}, line, head_dim=16)
    yield rope("framework/rope-interleaved-partial", 204, pairs | {"dims": 10}, line, head_dim=16)
    rows = np.stack([np.maximum(line - 4, 0), line + 7])
    yield rope("framework/rope-half-split-row-positions", 205, half, rows)
    yield rope("framework/rope-interleaved-row-positions", 206, pairs, rows)
    yield rope("framework/rope-linear", 207, scaled(rope_type="linear", factor=4.0), far)
    dynamic = scaled(rope_type="dynamic", factor=2.0)
    yield rope("framework/rope-dynamic-short", 208, dynamic | {"max_position_embeddings": 64}, far)
    yield rope("framework/rope-dynamic-long", 209, dynamic | {"max_position_embeddings": 16}, far)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    yield rope("framework/rope-yarn", 210, half | {"scaling": yarn}, far)
    detailed = yarn | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "mscale": 1.0, "mscale_all_dim": 0.5}
    yield rope("framework/rope-interleaved-yarn-mscale", 211, pairs | {"scaling": detailed}, far)
    llama3 = scaled(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    yield rope("framework/rope-llama3", 212, llama3 | {"theta": 500000.0}, far)
    proportional = scaled(rope_type="proportional", partial_rotary_factor=0.5, factor=2.0)
    yield rope("framework/rope-proportional", 213, proportional, far)

    grid = np.stack([np.zeros(15), np.arange(15) // 5, np.arange(15) % 5], -1).astype(np.int64)
    axes: Config = {"dims": 16, "layout": "interleaved", "theta": 10000.0, "axes": [4, 6, 6]}
    yield rope("framework/rope-axes-interleaved", 214, axes, grid)
    centred = grid + np.array([2, -1, -2])
    yield rope("framework/rope-axes-interleaved-centred", 215, axes | {"theta": 256.0}, centred)
    yield rope("framework/rope-axes-half-split", 216, half | {"axes": [8, 8]}, grid[:, 1:])

    text, image = np.arange(4), np.arange(6)
    time = np.concatenate([text, np.full(6, 4), text + 8])
    height = np.concatenate([text, 4 + image // 3, text + 8])
    width = np.concatenate([text, 4 + image % 3, text + 8])
    first = np.stack([time, height, width])
    spatial = np.stack([first, first + 3], 1).astype(np.int64)
    sections = half | {"sections": [2, 3, 3]}
    yield rope("framework/rope-sections-contiguous", 217, sections | {"sections_interleaved": False}, spatial)
    interleaved = half | {"sections": [4, 2, 2], "sections_interleaved": True}
    yield rope("framework/rope-sections-interleaved", 218, interleaved, spatial)


# Linear maps, embeddings, feed-forward


def linear(name: str, seed: int, bias: bool) -> BlockCase:
    draw = Draw(seed)
    x, weights = draw.normal(2, 5, 24), {"weight": draw.matrix(17, 24)}
    weights |= {"bias": draw.normal(17, scale=0.3)} if bias else {}
    full = wide(weights)
    output = twins.linear(x.astype(np.float64), full["weight"], full.get("bias"))
    agree(name, output, F.linear(tensor(x), tensor(weights["weight"]), tensor(weights["bias"]) if bias else None))
    config = {"input": 24, "output": 17, "bias": bias}
    return BlockCase(name, "Linear", seed, config, {"x": x}, output, weights)


def affine(matrix: Array, bits: int, group: int) -> tuple[Weights, Array]:
    """MLX's affine triplet of a matrix and, in float64, the matrix that it stands for."""
    parts = [np.array(part) for part in mx.quantize(mx.array(matrix), group_size=group, bits=bits)]
    exact = twins.dequantise(*parts, bits, group)
    theirs = mx.dequantize(*map(mx.array, parts), group_size=group, bits=bits)
    agree("affine", exact, torch.from_numpy(np.array(theirs)), FLOAT32)
    return dict(zip(["weight", "scales", "biases"], parts, strict=True)), exact


def affine_linear(name: str, seed: int, bits: int, group: int, bias: bool) -> BlockCase:
    draw = Draw(seed)
    x, (weights, exact) = draw.normal(2, 5, 128), affine(draw.matrix(24, 128), bits, group)
    weights |= {"bias": draw.normal(24, scale=0.3)} if bias else {}
    output = twins.linear(x.astype(np.float64), exact, wide(weights).get("bias"))
    quantised = {"kind": "affine", "bits": bits, "group": group}
    config = {"input": 128, "output": 24, "bias": bias, "quantisation": quantised}
    return BlockCase(name, "Linear", seed, config, {"x": x}, output, weights)


def embedding(name: str, seed: int, quantised: tuple[int, int] | None = None) -> BlockCase:
    draw, count, dim = Draw(seed), 19, 64
    table, ids = draw.normal(count, dim, scale=0.5), draw.integers(count, 2, 7)
    ids[0, 0], ids[1, 6] = 0, count - 1
    config: Config = {"count": count, "dim": dim}
    weights: Weights = {"weight": table}
    exact = table.astype(np.float64)
    if quantised:
        bits, group = quantised
        weights, exact = affine(table, bits, group)
        config |= {"quantisation": {"kind": "affine", "bits": bits, "group": group}}
    return BlockCase(name, "Embedding", seed, config, {"ids": ids}, exact[ids], weights)


TORCH_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu2": "relu2",
    "silu": "silu",
    "relu": "relu",
}


def feed_forward(name: str, seed: int, gated: bool, activation: str, bias: bool) -> BlockCase:
    draw, dim, hidden = Draw(seed), 24, 40
    x = draw.normal(2, 5, dim, scale=2.0)
    weights: Weights = {}
    for part in ["gate", "up"] if gated else ["up"]:
        weights |= draw.linear(part, dim, hidden, bias)
    weights |= draw.linear("down", hidden, dim, bias)
    twin = twins.glu if gated else twins.mlp
    output = twin(x.astype(np.float64), wide(weights), activation)

    def project(value: torch.Tensor, part: str) -> torch.Tensor:
        return F.linear(value, tensor(weights[f"{part}.weight"]), tensor(weights[f"{part}.bias"]) if bias else None)

    act = ACT2FN[TORCH_ACTIVATIONS[activation]]
    if gated:
        inner = act(project(tensor(x), "gate")) * project(tensor(x), "up")
    else:
        inner = act(project(tensor(x), "up"))
    agree(name, output, project(inner, "down"))
    config = {"dim": dim, "hidden": hidden, "activation": activation, "bias": bias}
    return BlockCase(name, "Glu" if gated else "Mlp", seed, config, {"x": x}, output, weights)


def feed_forwards() -> Iterator[BlockCase]:
    """Every activation, plain and gated, with and without biases."""
    for index, activation in enumerate(["gelu", "gelu_tanh", "quick_gelu", "relu2", "silu", "relu"]):
        name = activation.replace("_", "-")
        yield feed_forward(f"framework/mlp-{name}", 310 + index, False, activation, bias=index % 2 == 0)
    for index, activation in enumerate(["silu", "gelu", "gelu_tanh"]):
        name = activation.replace("_", "-")
        yield feed_forward(f"framework/glu-{name}", 320 + index, True, activation, bias=index != 0)


# Attention


def attend(
    name: str,
    seed: int,
    mask: Config,
    *,
    length: int = 5,
    keys: int = 9,
    heads: int = 6,
    kv_heads: int = 2,
    sinks: bool = False,
    given: Array | None = None,
    segments: Array | None = None,
    note: str = "",
    **fields: Any,
) -> BlockCase:
    draw, batch, dims = Draw(seed), 2, 8
    q = draw.normal(batch, length, heads, dims, scale=1.5)
    k, v = draw.normal(batch, keys, kv_heads, dims, scale=1.5), draw.normal(batch, keys, kv_heads, dims)
    config: Config = {"heads": heads, "kv_heads": kv_heads, "head_dim": dims, **fields, "mask": mask, "sinks": sinks}
    inputs = {"q": q, "k": k, "v": v}
    inputs |= {"mask": given} if given is not None else {}
    inputs |= {"segments": segments} if segments is not None else {}
    weights: Weights = {"sinks": draw.normal(heads)} if sinks else {}
    full, sink = wide({"q": q, "k": k, "v": v}), wide(weights).get("sinks")
    output = twins.attend(**full, config=config, mask=given, segments=segments, sinks=sink)
    agree(name, output, theirs_attend(inputs, weights, config), FLOAT32)
    return BlockCase(name, "Attend", seed, config, inputs, output, weights, note=note)


def theirs_attend(inputs: dict[str, Array], weights: Weights, config: Config) -> torch.Tensor:
    """transformers' eager attention: gpt-oss's with sinks, else Gemma 2's, which is Llama's with a soft cap."""
    q, k, v = (tensor(inputs[key]).transpose(1, 2) for key in "qkv")
    lowest = torch.finfo(torch.float32).min
    mask = inputs.get("mask")
    if config["mask"]["kind"] == "additive":
        bias = tensor(mask).clamp(min=lowest)
    else:
        shown = twins.visible(config, q.shape[2], k.shape[2], mask, inputs.get("segments"))
        bias = torch.where(torch.from_numpy(shown), 0.0, lowest).double()
    module = SimpleNamespace(num_key_value_groups=config["heads"] // config["kv_heads"], training=False)
    scale = config.get("scale") or config["head_dim"] ** -0.5
    if config["sinks"]:
        module.sinks = tensor(weights["sinks"])
        value, _ = modeling_gpt_oss.eager_attention_forward(module, q, k, v, bias, scale)
    else:
        cap = config.get("softcap")
        value, _ = modeling_gemma2.eager_attention_forward(module, q, k, v, bias, scaling=scale, softcap=cap)
    return value.flatten(2)


def attends() -> Iterator[BlockCase]:
    """Every mask kind, a soft cap, sinks, an explicit scale; query heads 6, key-value heads 2."""
    causal = {"kind": "causal"}
    yield attend("framework/attend-none", 401, {"kind": "none"})
    yield attend("framework/attend-causal", 402, causal, length=9)
    yield attend("framework/attend-causal-cached", 403, causal)
    yield attend("framework/attend-causal-one-query", 404, causal, length=1)
    yield attend("framework/attend-sliding", 405, {"kind": "sliding", "window": 4}, length=11, keys=11)
    yield attend("framework/attend-sliding-cached", 406, {"kind": "sliding", "window": 3})
    segments = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 7, 7, 7, 7, 5, 9, 9]], dtype=np.int64)
    yield attend("framework/attend-blocks", 407, {"kind": "blocks"}, length=9, segments=segments)
    draw = Draw(499)
    shown = draw.normal(2, 1, 5, 9) > -0.3
    shown[1, 0, 2] = False
    hidden_row = "row 2 of batch 1 is masked everywhere: every score is the f32 minimum, so it is the mean of v."
    yield attend("framework/attend-boolean", 408, {"kind": "boolean"}, given=shown, note=hidden_row)
    shared = np.eye(5, 9, 4, dtype=bool) | (Draw(498).normal(5, 9) > 0)
    yield attend("framework/attend-boolean-shared", 409, {"kind": "boolean"}, given=shared)
    bias = draw.normal(2, 1, 5, 9)
    bias[draw.normal(2, 1, 5, 9) > 0.8] = -np.inf
    bias[1, 0, 2] = -np.inf
    yield attend("framework/attend-additive", 410, {"kind": "additive"}, given=bias, note=hidden_row)
    yield attend("framework/attend-softcap", 411, causal, length=9, softcap=2.0)
    yield attend("framework/attend-scale", 412, causal, scale=0.2)
    yield attend("framework/attend-sinks", 413, causal, length=9, sinks=True)
    yield attend("framework/attend-sinks-sliding", 414, {"kind": "sliding", "window": 3}, sinks=True)
    yield attend("framework/attend-every-head", 415, causal, heads=3, kv_heads=3)


HALF_ROPE: Config = {"dims": 8, "layout": "half_split", "theta": 10000.0}


def attention_weights(draw: Draw, config: Config) -> Weights:
    """Parameters of an attention under the framework's names."""
    dim, bias = config["dim"], config["bias"]
    queries, keys = config["heads"] * config["head_dim"], config["kv_heads"] * config["head_dim"]
    parts = {
        "separate": {"q": queries, "k": keys, "v": keys},
        "fused": {"qkv": queries + 2 * keys},
        "key_value": {"q": queries, "kv": 2 * keys},
        "key_is_value": {"q": queries, "k": keys},
    }[config["qkv"]]
    weights: Weights = {}
    for part, out in parts.items():
        weights |= draw.linear(part, dim if "q" in part else config.get("context", dim), out, bias)
    weights |= draw.linear("o", queries, dim, config.get("out_bias", bias))
    if norm := config["qk_norm"]:
        width = queries if norm["kind"] == "rms_across_heads" else config["head_dim"]
        weights |= {f"{part}_norm.weight": draw.gain(width) for part in "qk"}
    return weights


def attention_config(qkv: str, **fields: Any) -> Config:
    """A small attention: model width 24, heads 6, key-value heads 2 of 8."""
    config: Config = {"dim": 24, "heads": 6, "kv_heads": 2, "head_dim": 8, "bias": False, "qk_norm": None}
    return config | {"rope": HALF_ROPE, "qkv": qkv, "mask": {"kind": "causal"}} | fields


def attention(name: str, seed: int, qkv: str, **fields: Any) -> BlockCase:
    draw, config = Draw(seed), attention_config(qkv, **fields)
    x, positions = draw.normal(2, 7, config["dim"]), np.arange(7, dtype=np.int64)
    weights = attention_weights(draw, config)
    output = twins.attention(x.astype(np.float64), positions, wide(weights), config)
    agree(name, output, theirs_attention(x, positions, weights, config), FLOAT32)
    inputs = {"x": x} | ({"positions": positions} if config["rope"] else {})
    return BlockCase(name, "Attention", seed, config, inputs, output, weights)


def theirs_attention(x: Array, positions: Array, weights: Weights, config: Config) -> torch.Tensor:
    """torch's projections and norm, transformers' rope, torch's fused attention."""
    heads, kv_heads, dims = config["heads"], config["kv_heads"], config["head_dim"]
    size = {"q": heads * dims, "k": kv_heads * dims, "v": kv_heads * dims}
    parts = [part for part in ["q", "qkv", "k", "kv", "v"] if f"{part}.weight" in weights]
    columns = {}
    for part in parts:
        bias = tensor(weights[f"{part}.bias"]) if config["bias"] else None
        value = F.linear(tensor(x), tensor(weights[f"{part}.weight"]), bias)
        columns |= dict(zip(part, value.split([size[letter] for letter in part], -1), strict=True))
    columns.setdefault("v", columns["k"])
    q, k, v = (columns[key].unflatten(-1, (-1, dims)) for key in "qkv")
    if norm := config["qk_norm"]:
        q = F.rms_norm(q, (dims,), tensor(weights["q_norm.weight"]), norm["eps"])
        k = F.rms_norm(k, (dims,), tensor(weights["k_norm.weight"]), norm["eps"])
    if config["rope"]:
        q, k = (theirs_llama(value.float().numpy(), positions, config["rope"]).double() for value in (q, k))
    q, k, v = (value.transpose(1, 2) for value in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
    return F.linear(out, tensor(weights["o.weight"]), tensor(weights["o.bias"]) if config["bias"] else None)


def attentions() -> Iterator[BlockCase]:
    """Every way to project, with and without biases, query-key norms and rope."""
    norm = {"kind": "rms", "eps": 1e-6}
    yield attention("framework/attention-separate", 501, "separate")
    yield attention("framework/attention-fused", 502, "fused", bias=True)
    yield attention("framework/attention-key-value", 503, "key_value", qk_norm=norm)
    yield attention("framework/attention-key-is-value", 504, "key_is_value", qk_norm=norm)
    pairs = HALF_ROPE | {"layout": "interleaved", "dims": 6}
    yield attention("framework/attention-partial-rope", 505, "separate", bias=True, qk_norm=norm, rope=pairs)
    yield attention("framework/attention-no-rope", 506, "separate", rope=None, kv_heads=6)


def norm_weights(draw: Draw, name: str, dim: int, config: Config | None) -> Weights:
    """Parameters of a norm by its kind."""
    match config:
        case {"kind": "rms"}:
            return {f"{name}.weight": draw.gain(dim)}
        case {"kind": "layer", "affine": True}:
            return {f"{name}.weight": draw.gain(dim), f"{name}.bias": draw.normal(dim, scale=0.3)}
        case _:
            return {}


def ffn_weights(draw: Draw, dim: int, config: Config) -> Weights:
    """Parameters of a feed-forward network under the name `ffn`."""
    weights: Weights = {}
    for part in ["gate", "up"] if config["kind"] == "glu" else ["up"]:
        weights |= draw.linear(f"ffn.{part}", dim, config["hidden"], config["bias"])
    return weights | draw.linear("ffn.down", config["hidden"], dim, config["bias"])


def modulation_weights(draw: Draw, dim: int, config: Config | None) -> Weights:
    """Parameters of a modulation of two sublayers."""
    match config:
        case {"kind": "ada_ln_zero", "cond": cond}:
            return draw.linear("modulation.linear", cond, 6 * dim, bias=True)
        case {"kind": "tanh_gated", "cond": cond}:
            return draw.linear("modulation.linear", cond, 4 * dim, bias=True)
        case {"kind": "table"}:
            return {"modulation.scale_shift_table": draw.normal(6, dim, scale=0.5)}
        case _:
            return {}


def observed(activations: Weights, weights: Weights) -> Weights:
    """The inner values of modules that have parameters: a map covers no others."""
    return {path: value for path, value in activations.items() if twins.part(weights, path)}


def under(name: str, weights: Weights) -> Weights:
    """The same parameters below a name."""
    return {f"{name}.{key}": value for key, value in weights.items()}


def block_weights(draw: Draw, config: Config, norms: list[str]) -> Weights:
    """Parameters of a block with one attention and the named norms."""
    dim = config["dim"]
    weights: Weights = {}
    for name in norms:
        weights |= norm_weights(draw, name, dim, config["norm"])
    weights |= under("attn", attention_weights(draw, config["attention"]))
    return weights | ffn_weights(draw, dim, config["ffn"]) | modulation_weights(draw, dim, config.get("modulation"))


def block(name: str, seed: int, ffn: Config) -> BlockCase:
    draw, eps = Draw(seed), 1e-5
    inner = attention_config("separate", bias=True)
    config: Config = {"dim": 24, "norm": {"kind": "rms", "eps": eps}, "attention": inner, "ffn": ffn}
    x, positions = draw.normal(2, 7, 24), np.arange(7, dtype=np.int64)
    x[1, 3] *= np.float32(eps**0.5)
    weights = block_weights(draw, config, ["norm1", "norm2"])
    output, activations = twins.block(x.astype(np.float64), positions, wide(weights), config)
    inputs = {"x": x, "positions": positions}
    return BlockCase(name, "Block", seed, config, inputs, output, weights, observed(activations, weights))


# Modulated blocks, width 16 in 2 heads


def small_attention(**fields: Any) -> Config:
    """An attention of width 16 in 2 heads that sees everything and has no rope."""
    plain: Config = {"dim": 16, "heads": 2, "kv_heads": 2, "rope": None, "mask": {"kind": "none"}}
    return attention_config("separate", **(plain | fields))


DIFFUSERS: dict[str, str] = {
    ".q.": ".to_q.",
    ".k.": ".to_k.",
    ".v.": ".to_v.",
    ".o.": ".to_out.0.",
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
    "modulation.": "",
}
"""Parts of the framework's names and of diffusers'."""


def loaded(module: torch.nn.Module, weights: Weights, names: dict[str, str]) -> torch.nn.Module:
    """The module in float64 with exactly these parameters, renamed; a gated network's `up` and `gate` become one."""
    state: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        for ours, theirs in (DIFFUSERS | names).items():
            name = name.replace(ours, theirs)
        # diffusers' GEGLU gates with the second half of its projection.
        state[name] = torch.cat([state[name], tensor(value)]) if name in state else tensor(value)
    own = module.state_dict()
    module.load_state_dict({name: value.reshape(own[name].shape) for name, value in state.items()})
    return module.double().eval()


def block_ada_ln_zero(name: str, seed: int) -> BlockCase:
    """A condition by token; FLUX.1's cases hold the order of the chunks against diffusers."""
    draw, eps = Draw(seed), 1e-6
    config: Config = {
        "dim": 16,
        "norm": {"kind": "layer", "eps": eps, "affine": False},
        "attention": small_attention(rope=HALF_ROPE),
        "ffn": {"kind": "mlp", "hidden": 24, "activation": "gelu_tanh", "bias": True},
        "modulation": {"kind": "ada_ln_zero", "cond": 5},
    }
    inputs = {"x": draw.normal(2, 7, 16), "positions": np.arange(7, dtype=np.int64), "cond": draw.normal(2, 7, 5)}
    inputs["x"][1, 3] *= np.float32(eps**0.5)
    weights = block_weights(draw, config, ["norm1", "norm2"])
    full = wide(inputs)
    output, activations = twins.block(full["x"], inputs["positions"], wide(weights), config, full["cond"])
    return BlockCase(name, "Block", seed, config, inputs, output, weights, observed(activations, weights))


def block_shared(name: str, seed: int) -> BlockCase:
    draw, eps = Draw(seed), 1e-6
    config: Config = {
        "dim": 16,
        "norm": {"kind": "rms", "eps": eps},
        "attention": small_attention(qk_norm={"kind": "rms", "eps": eps}),
        "ffn": {"kind": "glu", "hidden": 24, "activation": "gelu", "bias": False},
        "modulation": {"kind": "shared"},
    }
    inputs = {"x": draw.normal(2, 7, 16), "chunks": draw.normal(2, 1, 6, 16)}
    inputs["x"][0, 2] *= np.float32(eps**0.5)
    weights = block_weights(draw, config, ["norm1", "norm2"])
    full = wide(inputs)
    output, activations = twins.block(full["x"], None, wide(weights), config, chunks=full["chunks"])
    names = {"norm1.": "adaLN_sa_ln.", "norm2.": "adaLN_mlp_ln.", "attn.": "self_attention."}
    names |= {"ffn.gate.": "mlp.gate_proj.", "ffn.up.": "mlp.up_proj.", "ffn.down.": "mlp.linear_fc2."}
    theirs = loaded(transformer_ernie_image.ErnieImageSharedAdaLNBlock(16, 2, 24, eps), weights, names)
    # diffusers has the tokens first here.
    chunks = [chunk.transpose(0, 1) for chunk in tensor(inputs["chunks"]).unbind(2)]
    agree(name, output, theirs(tensor(inputs["x"]).transpose(0, 1), None, chunks).transpose(0, 1), FLOAT32)
    flat = tensor(inputs["chunks"]).flatten(1)
    split = [chunk for trio in transformer_flux2.Flux2Modulation.split(flat, 2) for chunk in trio]
    agree(f"{name}: FLUX.2", inputs["chunks"], torch.stack(split, 2))
    return BlockCase(name, "Block", seed, config, inputs, output, weights, observed(activations, weights))


def sandwich(name: str, seed: int, modulated: bool) -> BlockCase:
    """Z-Image's block, whose condition differs between noisy and clean tokens."""
    draw, eps = Draw(seed), 1e-5
    rope: Config = {"dims": 8, "layout": "interleaved", "theta": 256.0}
    config: Config = {
        "dim": 16,
        "norm": {"kind": "rms", "eps": eps},
        "attention": small_attention(qk_norm={"kind": "rms", "eps": 1e-5}, rope=rope),
        "ffn": {"kind": "glu", "hidden": 42, "activation": "silu", "bias": False},
    }
    inputs = {"x": draw.normal(2, 7, 16), "positions": np.arange(7, dtype=np.int64)}
    inputs["x"][1, 3] *= np.float32(eps**0.5)
    noisy, clean, is_noisy = draw.normal(2, 16), draw.normal(2, 16), draw.integers(2, 2, 7)
    if modulated:
        config |= {"modulation": {"kind": "tanh_gated", "cond": 16}}
        inputs |= {"cond": np.where(is_noisy[..., None] == 1, noisy[:, None], clean[:, None])}
    weights = block_weights(draw, config, ["norm1", "norm2", "ffn_norm1", "ffn_norm2"])
    full = wide(inputs)
    output, activations = twins.sandwich(full["x"], inputs["positions"], wide(weights), config, full.get("cond"))

    names = {"attn.": "attention.", "ffn.gate.": "feed_forward.w1.", "ffn.up.": "feed_forward.w3."}
    names |= {"ffn.down.": "feed_forward.w2.", "linear.weight": "adaLN_modulation.0.weight"}
    names |= {"linear.bias": "adaLN_modulation.0.bias"}
    # `norm1` is also the end of `ffn_norm1`.
    own = {f"norm{i}.weight": f"attention_norm{i}.weight" for i in (1, 2)}
    renamed = {own.get(name, name): value for name, value in weights.items()}
    block = transformer_z_image.ZImageTransformerBlock(0, 16, 2, 2, eps, True, modulation=modulated)
    theirs = loaded(block, renamed, names)
    angles, _ = twins.rope_angles(rope, inputs["positions"])
    turns = torch.polar(torch.ones(1, *angles.shape), torch.from_numpy(angles).float()[None])
    given = dict(attn_mask=None, freqs_cis=turns)
    if modulated:
        given |= dict(noise_mask=tensor(is_noisy), adaln_noisy=tensor(noisy), adaln_clean=tensor(clean))
    agree(name, output, theirs(tensor(inputs["x"]), **given), FLOAT32)
    return BlockCase(name, "Sandwich", seed, config, inputs, output, weights, observed(activations, weights))


def cross_weights(draw: Draw, config: Config) -> Weights:
    """Parameters of a block with self- and cross-attention."""
    dim = config["dim"]
    weights: Weights = {}
    for name in ["norm1", "norm2", "norm3"]:
        weights |= norm_weights(draw, name, dim, config[name])
    for name in ["attn1", "attn2"]:
        weights |= under(name, attention_weights(draw, config[name]))
    return weights | ffn_weights(draw, dim, config["ffn"]) | modulation_weights(draw, dim, config.get("modulation"))


PADDED = np.array([[True, True, True, False, False], [True, False, True, True, True]])
"""A context of 5 tokens, some of which are padding."""


def cross_wan(name: str, seed: int, cross_norm: bool, by_token: bool) -> BlockCase:
    draw, eps = Draw(seed), 1e-6
    plain = {"kind": "layer", "eps": eps, "affine": False}
    attended: Config = {"bias": True, "qk_norm": {"kind": "rms_across_heads", "eps": eps}}
    rope: Config = {"dims": 8, "layout": "interleaved", "theta": 10000.0, "axes": [4, 2, 2]}
    config: Config = {
        "dim": 16,
        "norm1": plain,
        "attn1": small_attention(**attended, rope=rope),
        "norm2": plain | {"affine": True} if cross_norm else None,
        "attn2": small_attention(**attended),
        "norm3": plain,
        "ffn": {"kind": "mlp", "hidden": 24, "activation": "gelu_tanh", "bias": True},
        "modulation": {"kind": "table"},
    }
    frames, height, width = 3, 1, 3
    positions = np.stack(np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij"), -1).reshape(-1, 3)
    x, context = draw.normal(2, 9, 16), draw.normal(2, 5, 16)
    x[1, 3] *= np.float32(eps**0.5)
    chunks = draw.normal(2, 9 if by_token else 1, 6, 16, scale=0.7)
    weights = cross_weights(draw, config)
    inputs = {"x": x, "context": context, "positions": positions, "chunks": chunks}
    full = wide(inputs)
    output, activations = twins.cross(
        full["x"], full["context"], wide(weights), config, positions=positions, chunks=full["chunks"]
    )
    names = {"ffn.up.": "ffn.net.0.proj.", "ffn.down.": "ffn.net.2."}
    theirs = loaded(transformer_wan.WanTransformerBlock(16, 24, 2, cross_attn_norm=cross_norm, eps=eps), weights, names)
    tables = transformer_wan.WanRotaryPosEmbed(8, (1, 1, 1), 32)(torch.zeros(1, 1, frames, height, width))
    temb = tensor(chunks) if by_token else tensor(chunks)[:, 0]
    agree(name, output, theirs(tensor(x), tensor(context), temb, tables), FLOAT32)
    return BlockCase(name, "Cross", seed, config, inputs, output, weights, observed(activations, weights))


def cross_pixart(name: str, seed: int) -> BlockCase:
    draw, eps = Draw(seed), 1e-6
    plain = {"kind": "layer", "eps": eps, "affine": False}
    config: Config = {
        "dim": 16,
        "norm1": plain,
        "attn1": small_attention(bias=True),
        "norm2": None,
        "attn2": small_attention(bias=True, context=11, mask={"kind": "keys"}),
        "norm3": plain,
        "ffn": {"kind": "mlp", "hidden": 24, "activation": "gelu_tanh", "bias": True},
        "modulation": {"kind": "table"},
    }
    x, context, chunks = draw.normal(2, 7, 16), draw.normal(2, 5, 11), draw.normal(2, 1, 6, 16, scale=0.7)
    x[1, 3] *= np.float32(eps**0.5)
    weights = cross_weights(draw, config)
    inputs = {"x": x, "context": context, "mask": PADDED, "chunks": chunks}
    full = wide(inputs)
    output, activations = twins.cross(
        full["x"], full["context"], wide(weights), config, mask=PADDED, chunks=full["chunks"]
    )
    basic = attention_module.BasicTransformerBlock(
        16,
        2,
        8,
        cross_attention_dim=11,
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_elementwise_affine=False,
        norm_type="ada_norm_single",
        norm_eps=eps,
        ff_inner_dim=24,
    )
    theirs = loaded(basic, weights, {"ffn.up.": "ff.net.0.proj.", "ffn.down.": "ff.net.2."})
    value = theirs(
        tensor(x),
        encoder_hidden_states=tensor(context),
        encoder_attention_mask=hidden_keys(PADDED),
        timestep=tensor(chunks).flatten(1),
    )
    agree(name, output, value)
    return BlockCase(name, "Cross", seed, config, inputs, output, weights, observed(activations, weights))


def hidden_keys(mask: Array) -> torch.Tensor:
    """A padding mask [B, S] as diffusers' bias [B, 1, S]."""
    return torch.where(torch.from_numpy(mask), 0.0, -10000.0).double()[:, None]


def unet_block(dim: int, heads: int, context: int) -> Config:
    """The block of Stable Diffusion's UNets; only the projections out have biases."""
    norm = {"kind": "layer", "eps": 1e-5, "affine": True}
    sizes: Config = {"dim": dim, "heads": heads, "kv_heads": heads, "head_dim": dim // heads, "out_bias": True}
    return {
        "dim": dim,
        "norm1": norm,
        "attn1": small_attention(**sizes),
        "norm2": norm,
        "attn2": small_attention(**sizes, context=context, mask={"kind": "keys"}),
        "norm3": norm,
        "ffn": {"kind": "glu", "hidden": 4 * dim, "activation": "gelu", "bias": True},
    }


GEGLU = {"ffn.up.": "ff.net.0.proj.", "ffn.gate.": "ff.net.0.proj.", "ffn.down.": "ff.net.2."}


def up_first(weights: Weights) -> Weights:
    """The same parameters with every `up` before its `gate`, as diffusers joins them."""
    return dict(sorted(weights.items(), key=lambda item: "ffn.gate." in item[0]))


def cross_unet(name: str, seed: int) -> BlockCase:
    draw, config = Draw(seed), unet_block(16, 2, 11)
    x, context = draw.normal(2, 7, 16), draw.normal(2, 5, 11)
    x[1, 3] *= np.float32(1e-5**0.5)
    weights = cross_weights(draw, config)
    inputs = {"x": x, "context": context, "mask": PADDED}
    full = wide(inputs)
    output, activations = twins.cross(full["x"], full["context"], wide(weights), config, mask=PADDED)
    basic = attention_module.BasicTransformerBlock(16, 2, 8, cross_attention_dim=11)
    theirs = loaded(basic, up_first(weights), GEGLU)
    bias = hidden_keys(PADDED)
    value = theirs(tensor(x), encoder_hidden_states=tensor(context), encoder_attention_mask=bias)
    agree(name, output, value)
    return BlockCase(name, "Cross", seed, config, inputs, output, weights, observed(activations, weights))


def spatial_transformer(name: str, seed: int) -> BlockCase:
    draw, channels = Draw(seed), 6
    config: Config = {"channels": channels, "groups": 3, "eps": 1e-6, "layers": 2, "block": unet_block(8, 2, 11)}
    x, context = draw.normal(2, 3, 5, channels) + np.float32(0.3), draw.normal(2, 5, 11)
    x[1, ..., :2] *= np.float32(1e-3)
    weights: Weights = {"norm.weight": draw.gain(channels), "norm.bias": draw.normal(channels, scale=0.3)}
    weights |= draw.linear("proj_in", channels, 8, bias=True) | draw.linear("proj_out", 8, channels, bias=True)
    for index in range(2):
        weights |= under(f"transformer_blocks.{index}", cross_weights(draw, config["block"]))
    inputs = {"x": x, "context": context, "mask": PADDED}
    full = wide(inputs)
    output, activations = twins.spatial_transformer(full["x"], full["context"], wide(weights), config, PADDED)
    model = Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=channels,
        num_layers=2,
        norm_num_groups=3,
        cross_attention_dim=11,
        use_linear_projection=True,
    )
    theirs = loaded(model, up_first(weights), GEGLU)
    value = theirs(
        tensor(x).permute(0, 3, 1, 2), encoder_hidden_states=tensor(context), encoder_attention_mask=hidden_keys(PADDED)
    )
    agree(name, output, value.sample.permute(0, 2, 3, 1))
    return BlockCase(name, "SpatialTransformer", seed, config, inputs, output, weights, observed(activations, weights))


def cases() -> list[BlockCase]:
    """All framework cases."""
    return [
        rms_norm("framework/rms-norm", 101, 1e-5),
        rms_norm("framework/rms-norm-offset", 102, 1e-6, offset=1.0),
        layer_norm("framework/layer-norm", 103, 1e-5, affine=True, bias=True),
        layer_norm("framework/layer-norm-no-bias", 104, 1e-6, affine=True, bias=False),
        layer_norm("framework/layer-norm-plain", 105, 1e-6, affine=False, bias=False),
        group_norm("framework/group-norm", 106, 4, 24, 1e-5),
        group_norm("framework/group-norm-single", 107, 1, 6, 1e-6),
        *ropes(),
        linear("framework/linear", 301, bias=True),
        linear("framework/linear-no-bias", 302, bias=False),
        affine_linear("framework/linear-affine-4bit-group32", 303, 4, 32, bias=False),
        affine_linear("framework/linear-affine-8bit-group64", 304, 8, 64, bias=True),
        embedding("framework/embedding", 305),
        embedding("framework/embedding-affine-8bit-group32", 306, (8, 32)),
        *feed_forwards(),
        *attends(),
        *attentions(),
        block("framework/block-pre-norm-glu", 601, {"kind": "glu", "hidden": 40, "activation": "silu", "bias": False}),
        block("framework/block-pre-norm-mlp", 602, {"kind": "mlp", "hidden": 40, "activation": "gelu", "bias": True}),
        block_ada_ln_zero("framework/block-ada-ln-zero", 603),
        block_shared("framework/block-shared", 604),
        sandwich("framework/sandwich", 605, modulated=False),
        sandwich("framework/sandwich-tanh-gated", 606, modulated=True),
        cross_wan("framework/cross-wan", 701, cross_norm=True, by_token=False),
        cross_wan("framework/cross-wan-by-token", 702, cross_norm=False, by_token=True),
        cross_pixart("framework/cross-pixart", 703),
        cross_unet("framework/cross-unet", 704),
        spatial_transformer("framework/spatial-transformer", 705),
    ]
