"""NumPy float64 twins of the framework's blocks, written from the papers, one function a block.

Arrays are channels last. `config` dictionaries have the fields that fixtures/README.md lists for framework cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Config = dict[str, Any]
Weights = dict[str, Array]

MASKED = float(np.finfo(np.float32).min)
"""A masked score: finite, so that a row in which everything is masked is uniform and not NaN."""


# Norms


def rms_norm(x: Array, weight: Array, eps: float, offset: float = 0.0) -> Array:
    """x / sqrt(mean(x^2) + eps) * (weight + offset). Zhang and Sennrich 2019, arXiv:1910.07467; offset 1 is Gemma's."""
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * (weight + offset)


def layer_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias. Ba, Kiros and Hinton 2016, arXiv:1607.06450."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """Layer norm over space and the channels of a group, x [B, ..., C]. Wu and He 2018, arXiv:1803.08494."""
    batch, channels = x.shape[0], x.shape[-1]
    grouped = x.reshape(batch, -1, groups, channels // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    y = (grouped - mean) / np.sqrt(grouped.var((1, 3), keepdims=True) + eps)
    return y.reshape(x.shape) * weight + bias


# Rotary positions


def inverse_frequencies(dims: int, theta: float) -> Array:
    """theta^(-2i/dims) for i < dims/2. Su et al. 2021, arXiv:2104.09864, equation 15."""
    return theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)


def scaled_frequencies(config: Config, longest: int) -> tuple[Array, float]:
    """The inverse frequencies after scaling, and the factor on cos and sin; `longest` is the largest position + 1."""
    dims, theta = config["dims"], config["theta"]
    scaling = config.get("scaling") or {"rope_type": "default"}
    plain = inverse_frequencies(dims, theta)
    match scaling["rope_type"]:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / scaling["factor"], 1.0
        case "dynamic":
            return inverse_frequencies(dims, _ntk_theta(config, scaling["factor"], longest)), 1.0
        case "yarn":
            return _yarn(dims, theta, scaling)
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "proportional":
            return _proportional(dims, theta, scaling), 1.0
        case other:
            raise ValueError(f"unknown rope_type {other}")


def _ntk_theta(config: Config, factor: float, longest: int) -> float:
    """Dynamic NTK (emozilla 2023; arXiv:2309.00071, section 3.3): theta grows once the length passes the maximum."""
    limit, dims = config["max_position_embeddings"], config["dims"]
    growth = factor * max(longest, limit) / limit - (factor - 1)
    return float(config["theta"] * growth ** (dims / (dims - 2)))


def _yarn(dims: int, theta: float, scaling: Config) -> tuple[Array, float]:
    """YaRN, arXiv:2309.00071, sections 3.2 to 3.4: interpolate slow pairs, keep fast ones, ramp between."""
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]

    def pair_with_rotations(rotations: float) -> float:
        return dims * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = pair_with_rotations(scaling.get("beta_fast", 32))
    high = pair_with_rotations(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low if high != low else 0.001
    interpolated = np.clip((np.arange(dims // 2) - low) / width, 0, 1)
    plain = inverse_frequencies(dims, theta)

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    attention = scaling.get("attention_factor")
    if attention is None:
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            attention = temperature(scaling["mscale"]) / temperature(scaling["mscale_all_dim"])
        else:
            attention = temperature(1.0)
    return plain / factor * interpolated + plain * (1 - interpolated), attention


def _llama3(plain: Array, scaling: Config) -> Array:
    """Llama 3.1's reference code (meta-llama/llama-models, `apply_scaling`): blend by wavelength."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    rotations = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    return (1 - kept) * plain / scaling["factor"] + kept * plain


def _proportional(dims: int, theta: float, scaling: Config) -> Array:
    """Gemma's proportional rope: the first share of the pairs turns, with exponents over all dims; the rest stand."""
    plain = inverse_frequencies(dims, theta)
    turning = int(scaling.get("partial_rotary_factor", 1.0) * dims // 2)
    return np.where(np.arange(dims // 2) < turning, plain, 0.0) / scaling.get("factor", 1.0)


def rope_angles(config: Config, positions: Array) -> tuple[Array, float]:
    """Angles [L, dims/2] or [B, L, dims/2] and the factor on cos and sin."""
    positions = positions.astype(np.float64)
    if axes := config.get("axes"):
        # Several axes (FLUX, arXiv:2104.09864 for each): axis a turns its own dims by its own coordinate.
        parts = [positions[..., a, None] * inverse_frequencies(n, config["theta"]) for a, n in enumerate(axes)]
        return np.concatenate(parts, -1), 1.0
    frequencies, factor = scaled_frequencies(config, int(positions.max()) + 1)
    if sections := config.get("sections"):
        # M-RoPE (Qwen2-VL, arXiv:2409.12191): pair j follows the time, height or width coordinate.
        axis = section_axes(sections, config.get("sections_interleaved", False))
        return np.moveaxis(positions[axis], 0, -1) * frequencies, factor
    return positions[..., None] * frequencies, factor


def section_axes(sections: list[int], interleaved: bool) -> Array:
    """Which coordinate each pair follows: contiguous sections, or t h w t h w … with the rest t (Qwen3-VL)."""
    if not interleaved:
        return np.repeat(np.arange(len(sections)), sections)
    axes = np.zeros(sum(sections), dtype=np.int64)
    for axis in range(1, len(sections)):
        axes[axis : len(sections) * sections[axis] : len(sections)] = axis
    return axes


def rope(x: Array, positions: Array, config: Config) -> Array:
    """Turns the first `dims` of x [B, L, H, D] by position; pairs are neighbours, or lie dims/2 apart."""
    dims = config["dims"]
    angles, factor = rope_angles(config, positions)
    angles = np.broadcast_to(angles, (x.shape[0], *angles.shape[-2:]))[:, :, None]
    cos, sin = factor * np.cos(angles), factor * np.sin(angles)
    turned, rest = x[..., :dims], x[..., dims:]
    if config["layout"] == "interleaved":
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(turned.shape)
    else:
        a, b = turned[..., : dims // 2], turned[..., dims // 2 :]
        out = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return np.concatenate([out, rest], -1)


# Linear maps and feed-forward


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W^T + b."""
    y = x @ weight.T
    return y if bias is None else y + bias


def dequantise(weight: Array, scales: Array, biases: Array, bits: int, group: int) -> Array:
    """MLX's affine triplet: q * scale + bias a group, elements packed least significant first in u32."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    values = (weight[..., None] >> shifts) & np.uint32(2**bits - 1)
    rows = weight.shape[0]
    grouped = values.reshape(rows, -1, group).astype(np.float64)
    return (grouped * scales[..., None].astype(np.float64) + biases[..., None].astype(np.float64)).reshape(rows, -1)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def activation(name: str, x: Array) -> Array:
    """GELU and its tanh form: arXiv:1606.08415; quick GELU: CLIP; ReLU squared: arXiv:2109.08668; SiLU: 1702.03118."""
    match name:
        case "gelu":
            return x * 0.5 * (1 + _erf(x / math.sqrt(2)))
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "quick_gelu":
            return x * _sigmoid(1.702 * x)
        case "relu2":
            return np.maximum(x, 0) ** 2
        case "silu":
            return x * _sigmoid(x)
        case "relu":
            return np.maximum(x, 0)
        case other:
            raise ValueError(f"unknown activation {other}")


def mlp(x: Array, weights: Weights, kind: str) -> Array:
    """down(act(up(x))). Vaswani et al. 2017, arXiv:1706.03762, section 3.3."""
    hidden = activation(kind, _projection(x, weights, "up"))
    return _projection(hidden, weights, "down")


def glu(x: Array, weights: Weights, kind: str) -> Array:
    """down(act(gate(x)) * up(x)). Shazeer 2020, arXiv:2002.05202."""
    hidden = activation(kind, _projection(x, weights, "gate")) * _projection(x, weights, "up")
    return _projection(hidden, weights, "down")


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) over the last axis."""
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def moe(x: Array, weights: Weights, config: Config) -> Array:
    """The weighted sum of a token's experts, plus a shared one, x [B, L, D]. Shazeer et al. 2017, arXiv:1701.06538; a sigmoid
    with a correction of the choice is DeepSeek-V3's, arXiv:2412.19437."""
    tokens = x.reshape(-1, x.shape[-1])
    logits = linear(tokens, weights["router.linear.weight"], None)
    match config["scoring"]:
        case "softmax":
            scores = softmax(logits)
        case "softmax_of_chosen":
            scores = logits
        case "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
    chosen = np.argsort(-(scores + weights.get("router.correction", 0)), -1, kind="stable")[:, : config["top_k"]]
    gains = np.take_along_axis(scores, chosen, -1)
    if config["scoring"] == "softmax_of_chosen":
        gains = softmax(gains)
    if config["normalise"]:
        gains = gains / gains.sum(-1, keepdims=True)
    y = np.zeros_like(tokens)
    for token, (experts, scaled) in enumerate(zip(chosen, gains * config["scale"], strict=True)):
        for expert, gain in zip(experts, scaled, strict=True):
            own = {f"{part}.weight": weights[f"experts.{part}.weight"][expert] for part in ["gate", "up", "down"]}
            y[token] += gain * glu(tokens[token], own, config["activation"])
    if config.get("shared"):
        own = {f"{part}.weight": weights[f"shared.ffn.{part}.weight"] for part in ["gate", "up", "down"]}
        shared = glu(tokens, own, config["activation"])
        if config["shared"]["gate"]:
            shared = shared / (1 + np.exp(-linear(tokens, weights["shared.gate.weight"], None)))
        y += shared
    return y.reshape(x.shape)


def _projection(x: Array, weights: Weights, name: str) -> Array:
    return linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


# Attention


def visible(config: Config, queries: int, keys: int, mask: Array | None, segments: Array | None) -> Array:
    """The boolean mask of a kind, [L, S] or [B, 1, L, S]; queries are the last of the keys."""
    kind = config["mask"]["kind"]
    if kind == "boolean":
        return mask
    if kind == "blocks":
        return (segments[:, :, None] == segments[:, None, :])[:, None]
    position = np.arange(queries)[:, None] + keys - queries
    key = np.arange(keys)[None, :]
    if kind == "causal":
        return key <= position
    if kind == "sliding":
        return (key <= position) & (key > position - config["mask"]["window"])
    return np.ones((queries, keys), dtype=bool)


def attend(
    q: Array,
    k: Array,
    v: Array,
    config: Config,
    mask: Array | None = None,
    segments: Array | None = None,
    sinks: Array | None = None,
) -> Array:
    """softmax(scale q k^T) v, q [B, L, H, D], k and v [B, S, Hkv, D], out [B, L, H*D]. arXiv:1706.03762, eq. 1.

    Query head h reads key head h // (H/Hkv) (arXiv:2305.13245). Soft cap: cap tanh(score/cap) before the mask
    (Gemma 2, arXiv:2408.00118). A sink is a further score of its head with no value (gpt-oss, arXiv:2508.10925).
    """
    batch, queries, heads, dims = q.shape
    repeat = heads // k.shape[2]
    k, v = np.repeat(k, repeat, axis=2), np.repeat(v, repeat, axis=2)
    scores = np.einsum("blhd,bshd->bhls", q, k) * (config.get("scale") or dims**-0.5)
    if cap := config.get("softcap"):
        scores = cap * np.tanh(scores / cap)
    if config["mask"]["kind"] == "additive":
        scores = np.where(mask <= MASKED, MASKED, scores + mask)
    else:
        scores = np.where(visible(config, queries, k.shape[1], mask, segments), scores, MASKED)
    if sinks is not None:
        column = np.broadcast_to(sinks[None, :, None, None], (batch, heads, queries, 1))
        scores = np.concatenate([scores, column], -1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights = weights[..., : k.shape[1]]
    return np.einsum("bhls,bshd->blhd", weights, v).reshape(batch, queries, heads * dims)


def attention(
    x: Array,
    positions: Array | None,
    weights: Weights,
    config: Config,
    context: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Attention to x or to a context: project, norm queries and keys a head or whole, rotate, attend, project out.

    `mask` is [B, S] for the kind `keys`: what of the context is no padding.
    """
    heads, kv_heads, dims = config["heads"], config["kv_heads"], config["head_dim"]
    context = x if context is None else context
    q, k, v = _query_key_value(x, context, weights, config)
    norm = config.get("qk_norm") or {"kind": "none"}
    if norm["kind"] == "rms_across_heads":
        q, k = _query_key_norms(q, k, weights, norm)
    q = q.reshape(*x.shape[:2], heads, dims)
    k = k.reshape(*context.shape[:2], kv_heads, dims)
    v = v.reshape(*context.shape[:2], kv_heads, dims)
    if norm["kind"] == "rms":
        q, k = _query_key_norms(q, k, weights, norm)
    if config.get("rope"):
        q, k = rope(q, positions, config["rope"]), rope(k, positions, config["rope"])
    seen = config["mask"]
    if seen["kind"] == "keys":
        seen, mask = {"kind": "boolean"}, mask[:, None, None]
    return _projection(attend(q, k, v, {"mask": seen}, mask), weights, "o")


def _query_key_norms(q: Array, k: Array, weights: Weights, config: Config) -> tuple[Array, Array]:
    eps = config["eps"]
    return rms_norm(q, weights["q_norm.weight"], eps), rms_norm(k, weights["k_norm.weight"], eps)


def _query_key_value(x: Array, context: Array, weights: Weights, config: Config) -> tuple[Array, Array, Array]:
    queries = config["heads"] * config["head_dim"]
    keys = config["kv_heads"] * config["head_dim"]
    match config["qkv"]:
        case "separate":
            return _projection(x, weights, "q"), _projection(context, weights, "k"), _projection(context, weights, "v")
        case "fused":
            q, k, v = np.split(_projection(x, weights, "qkv"), [queries, queries + keys], -1)
            return q, k, v
        case "key_value":
            k, v = np.split(_projection(context, weights, "kv"), [keys], -1)
            return _projection(x, weights, "q"), k, v
        case "key_is_value":
            k = _projection(context, weights, "k")
            return _projection(x, weights, "q"), k, k
        case other:
            raise ValueError(f"unknown qkv {other}")


# Modulation


@dataclass(frozen=True)
class Mod:
    """What a condition does around a sublayer; the fields are 0, 0, 1 or [B, 1 or L, D]."""

    shift: Array | float = 0.0
    scale: Array | float = 0.0
    gate: Array | float = 1.0

    def before(self, x: Array) -> Array:
        return x * (1 + self.scale) + self.shift


def modulation(weights: Weights, config: Config, cond: Array | None, chunks: Array | None) -> tuple[Mod, Mod]:
    """Around the two modulated sublayers of a block.

    `ada_ln_zero` (arXiv:2212.09748) and `tanh_gated` (Lumina 2, arXiv:2503.21758) project `cond` [B, C] or [B, L, C];
    `shared` (FLUX.2) takes the model's `chunks` [B, 1 or L, 6, D], and `table` (arXiv:2310.00426) adds its own to them.
    """
    kind = (config.get("modulation") or {"kind": "none"})["kind"]
    if kind in ("ada_ln_zero", "tanh_gated"):
        projected = _projection(cond if cond.ndim == 3 else cond[:, None], weights, "modulation.linear")
        parts = np.split(projected, 6 if kind == "ada_ln_zero" else 4, -1)
    match kind:
        case "none":
            return Mod(), Mod()
        case "tanh_gated":
            return Mod(0.0, parts[0], np.tanh(parts[1])), Mod(0.0, parts[2], np.tanh(parts[3]))
        case "shared":
            parts = [chunks[:, :, i] for i in range(6)]
        case "table":
            parts = [chunks[:, :, i] + weights["modulation.scale_shift_table"][i] for i in range(6)]
    return Mod(*parts[:3]), Mod(*parts[3:])


# Blocks


def norm(x: Array, weights: Weights, config: Config | None) -> Array:
    """A norm by its kind; none is the identity."""
    match config:
        case None:
            return x
        case {"kind": "rms"}:
            return rms_norm(x, weights["weight"], config["eps"])
        case {"kind": "layer"}:
            return layer_norm(x, weights.get("weight"), weights.get("bias"), config["eps"])
        case other:
            raise ValueError(f"unknown norm {other}")


def feed_forward(x: Array, weights: Weights, config: Config) -> Array:
    """A feed-forward network by its kind."""
    forward = glu if config["kind"] == "glu" else mlp
    return forward(x, weights, config["activation"])


def part(weights: Weights, name: str) -> Weights:
    """The parameters below a name."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def block(
    x: Array,
    positions: Array | None,
    weights: Weights,
    config: Config,
    cond: Array | None = None,
    chunks: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Pre-norm block, x + attn(norm1(x)) then x + ffn(norm2(x)) (arXiv:2002.04745); and its inner values."""
    outer, inner = modulation(weights, config, cond, chunks)
    norm1 = norm(x, part(weights, "norm1"), config["norm"])
    attn = attention(outer.before(norm1), positions, part(weights, "attn"), config["attention"])
    x = x + outer.gate * attn
    norm2 = norm(x, part(weights, "norm2"), config["norm"])
    ffn = feed_forward(inner.before(norm2), part(weights, "ffn"), config["ffn"])
    return x + inner.gate * ffn, {"norm1": norm1, "attn": attn, "norm2": norm2, "ffn": ffn}


def sandwich(
    x: Array, positions: Array | None, weights: Weights, config: Config, cond: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Sandwich-norm block, x + norm2(attn(norm1(x))) and the same with ffn (arXiv:2105.13290); and its inner values."""
    outer, inner = modulation(weights, config, cond, None)
    norm1 = norm(x, part(weights, "norm1"), config["norm"])
    attn = attention(outer.before(norm1), positions, part(weights, "attn"), config["attention"])
    norm2 = norm(attn, part(weights, "norm2"), config["norm"])
    x = x + outer.gate * norm2
    ffn_norm1 = norm(x, part(weights, "ffn_norm1"), config["norm"])
    ffn = feed_forward(inner.before(ffn_norm1), part(weights, "ffn"), config["ffn"])
    ffn_norm2 = norm(ffn, part(weights, "ffn_norm2"), config["norm"])
    values = {"norm1": norm1, "attn": attn, "norm2": norm2, "ffn_norm1": ffn_norm1, "ffn": ffn, "ffn_norm2": ffn_norm2}
    return x + inner.gate * ffn_norm2, values


def cross(
    x: Array,
    context: Array,
    weights: Weights,
    config: Config,
    *,
    positions: Array | None = None,
    mask: Array | None = None,
    chunks: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """x + attn1(norm1(x)), x + attn2(norm2(x), context), x + ffn(norm3(x)); and its inner values.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.1, with the norms before; the first and the last are modulated.
    """
    outer, inner = modulation(weights, config, None, chunks)
    norm1 = norm(x, part(weights, "norm1"), config["norm1"])
    attn1 = attention(outer.before(norm1), positions, part(weights, "attn1"), config["attn1"])
    x = x + outer.gate * attn1
    norm2 = norm(x, part(weights, "norm2"), config["norm2"])
    attn2 = attention(norm2, None, part(weights, "attn2"), config["attn2"], context, mask)
    x = x + attn2
    norm3 = norm(x, part(weights, "norm3"), config["norm3"])
    ffn = feed_forward(inner.before(norm3), part(weights, "ffn"), config["ffn"])
    values = {"norm1": norm1, "attn1": attn1, "norm2": norm2, "attn2": attn2, "norm3": norm3, "ffn": ffn}
    return x + inner.gate * ffn, values


def spatial_transformer(
    x: Array, context: Array, weights: Weights, config: Config, mask: Array | None
) -> tuple[Array, dict[str, Array]]:
    """x [B, H, W, C] + proj_out(blocks(proj_in(norm(x)))), arXiv:2112.10752; and what its parts return."""
    normal = group_norm(x, weights["norm.weight"], weights["norm.bias"], config["groups"], config["eps"])
    h = _projection(normal.reshape(x.shape[0], -1, x.shape[-1]), weights, "proj_in")
    values = {"norm": normal, "proj_in": h}
    for index in range(config["layers"]):
        name = f"transformer_blocks.{index}"
        h, _ = cross(h, context, part(weights, name), config["block"], mask=mask)
        values[name] = h
    values["proj_out"] = _projection(h, weights, "proj_out")
    return x + values["proj_out"].reshape(x.shape), values
