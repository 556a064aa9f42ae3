"""A torch twin of the zoo's composed transformers, from the same config; module names are the zoo's paths.

It is written from the definitions in docs/composed.md and the papers, part by part, and shares no code with the zoo.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from composed_parts import ACTIVATIONS, AdaLnContinuous, Config, Ffn, Two, angles, choice, frequencies, sinusoid, turned


class RmsNorm(nn.Module):
    """x / rms(x) · (w + offset)."""

    def __init__(self, dim: int, eps: float, offset: float = 0, heads: bool = False) -> None:
        super().__init__()
        self.weight, self.eps, self.offset, self.heads = nn.Parameter(torch.ones(dim)), eps, offset, heads

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        wide = (x.flatten(-2) if self.heads else x).float()
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normal * (self.weight.float() + self.offset)).to(x.dtype).reshape(shape)


def norm(value: Any, dim: int) -> nn.Module:
    """Of `dim` features."""
    kind, fields = choice(value)
    if kind == "none":
        return nn.Identity()
    if kind == "rms":
        return RmsNorm(dim, fields["eps"], fields.get("offset", 0))
    parameters = fields.get("parameters", "weight_and_bias")
    affine = parameters != "none"
    return nn.LayerNorm(dim, fields["eps"], elementwise_affine=affine, bias=parameters == "weight_and_bias")


class Time(nn.Module):
    """Sinusoid, then two layers."""

    def __init__(self, dims: int, dim: int) -> None:
        super().__init__()
        self.mlp, self.dims = Two(dims, dim), dims

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t, frequencies(self.dims // 2)).to(self.mlp.up.weight.dtype))


def rotated(x: Tensor, rope: Config, ids: Tensor) -> Tensor:
    """Pairs of features of `x` [B, L, H, D] turned by their positions `ids` [L, axes]."""
    dims = rope.get("dims", x.shape[-1])
    angle = angles(rope, dims, ids)[None, :, None]
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([turned(x[..., :dims], cos, sin, rope["layout"]), x[..., dims:]], -1)


class Heads(nn.Module):
    """What attention and the parallel block share: sizes, norms of queries and keys, rope, scores."""

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.heads = config["heads"]
        self.kv_heads = config.get("kv_heads", self.heads)
        self.head_dim = config.get("head_dim", dim // self.heads)
        self.scale = config.get("scale", self.head_dim**-0.5)
        self.softcap = config.get("softcap")
        kind, fields = choice(config.get("position", "none"))
        self.rope = fields if kind == "rope" else None
        self.q_norm, self.k_norm = (self.head_norm(config, heads) for heads in [self.heads, self.kv_heads])

    def head_norm(self, config: Config, heads: int) -> nn.Module:
        kind, fields = choice(config.get("qk_norm", "none"))
        if kind == "rms_across_heads":
            return RmsNorm(heads * self.head_dim, fields["eps"], heads=True)
        return norm(config.get("qk_norm", "none"), self.head_dim)

    def ready(self, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in [q, k, v])
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q, k = rotated(q, self.rope, ids), rotated(k, self.rope, ids)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None = None) -> Tensor:
        """`mask` is added to the scores [B, H, L, S]."""
        q, k, v = (x.transpose(1, 2) for x in [q, k, v])
        k, v = (x.repeat_interleave(self.heads // self.kv_heads, 1) for x in [k, v])
        scores = (q @ k.transpose(2, 3)).float() * self.scale
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        scores = scores + mask
        if sinks is not None:
            column = sinks.float()[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column], -1)
        shares = scores.softmax(-1)[..., : k.shape[2]].to(v.dtype)
        return (shares @ v).transpose(1, 2).flatten(2)


class Attention(Heads):
    """Projections in and out."""

    def __init__(self, config: Config, dim: int, context: int) -> None:
        super().__init__(config, dim)
        projections = config.get("projections", {})
        self.kind, bias = projections.get("qkv", "separate"), projections.get("bias", False)
        self.widths = [self.heads * self.head_dim, self.kv_heads * self.head_dim]
        queries, keys = self.widths
        if self.kind == "fused":
            self.qkv = nn.Linear(dim, queries + 2 * keys, bias)
        else:
            self.q = nn.Linear(dim, queries, bias)
            if self.kind == "key_value":
                self.kv = nn.Linear(context, 2 * keys, bias)
            else:
                self.k = nn.Linear(context, keys, bias)
                if self.kind == "separate":
                    self.v = nn.Linear(context, keys, bias)
        self.o = nn.Linear(queries, dim, projections.get("out_bias", bias))
        self.sinks = nn.Parameter(torch.zeros(self.heads)) if config.get("sinks") else None

    def project(self, x: Tensor, context: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys = self.widths
        if self.kind == "fused":
            q, k, v = self.qkv(x).split([queries, keys, keys], -1)
        elif self.kind == "key_value":
            q, (k, v) = self.q(x), self.kv(context).chunk(2, -1)
        elif self.kind == "key_is_value":
            q, k = self.q(x), self.k(context)
            v = k
        else:
            q, k, v = self.q(x), self.k(context), self.v(context)
        return self.ready(q, k, v, ids)

    def forward(self, x: Tensor, mask: Tensor, ids: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x, x if context is None else context, ids)
        return self.o(self.attend(q, k, v, mask, self.sinks))


class Modulation(nn.Module):
    """(shift, scale, gate) a sublayer; what is absent is None."""

    def __init__(self, value: Any, dim: int, cond: int, sublayers: int) -> None:
        super().__init__()
        self.kind, fields = choice(value)
        self.projection, self.sublayers = fields.get("projection"), sublayers
        if self.kind in ["ada_ln_zero", "tanh_gated"]:
            self.linear = nn.Linear(cond, (3 if self.kind == "ada_ln_zero" else 2) * sublayers * dim)
        if self.kind == "table":
            self.scale_shift_table = nn.Parameter(torch.zeros(3 * sublayers, dim))

    def parts(self, lent: dict[str | None, Tensor]) -> list[tuple[Tensor | None, ...]]:
        if self.kind == "none":
            return [(None, None, None)] * self.sublayers
        if self.kind == "tanh_gated":
            cut = self.linear(lent[None])[:, None].chunk(2 * self.sublayers, -1)
            return [(None, cut[2 * i], cut[2 * i + 1].tanh()) for i in range(self.sublayers)]
        if self.kind == "ada_ln_zero":
            cut = self.linear(lent[None])[:, None].chunk(3 * self.sublayers, -1)
        else:
            chunks = lent[self.projection].unflatten(-1, (3 * self.sublayers, -1))
            chunks = chunks + self.scale_shift_table if self.kind == "table" else chunks
            cut = chunks[:, None].unbind(2)
        return [tuple(cut[3 * i : 3 * i + 3]) for i in range(self.sublayers)]


def before(x: Tensor, part: tuple[Tensor | None, ...]) -> Tensor:
    """x · (1 + scale) + shift."""
    shift, scale, _ = part
    x = x if scale is None else x * (1 + scale)
    return x if shift is None else x + shift


def after(x: Tensor, y: Tensor, part: tuple[Tensor | None, ...]) -> Tensor:
    """x + gate · y."""
    return x + (y if part[2] is None else y * part[2])


class Call:
    """What a stage lends to its blocks."""

    def __init__(self, mask: Tensor, ids: list[Tensor], lent: dict[str | None, Tensor]) -> None:
        self.mask, self.ids, self.lent = mask, ids, lent
        self.context: Tensor | None = None
        self.context_mask: Tensor | None = None


class PreNorm(nn.Module):
    """x + attn(norm1(x)), x + ffn(norm2(x))."""

    def __init__(self, config: Config, dim: int, cond: int, context: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(config["norm"], dim), norm(config["norm"], dim)
        self.attn = Attention(config["attention"], dim, dim)
        self.ffn = Ffn(config["ffn"], dim)
        self.modulation = Modulation(config.get("modulation", "none"), dim, cond, 2)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        first, second = self.modulation.parts(call.lent)
        x = after(x, self.attn(before(self.norm1(x), first), call.mask, call.ids[0]), first)
        return after(x, self.ffn(before(self.norm2(x), second)), second)


class Sandwich(PreNorm):
    """x + norm2(attn(norm1(x))), x + ffn_norm2(ffn(ffn_norm1(x)))."""

    def __init__(self, config: Config, dim: int, cond: int, context: int = 0) -> None:
        super().__init__(config, dim, cond)
        self.ffn_norm1, self.ffn_norm2 = norm(config["norm"], dim), norm(config["norm"], dim)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        first, second = self.modulation.parts(call.lent)
        y = self.attn(before(self.norm1(x), first), call.mask, call.ids[0])
        x = after(x, self.norm2(y), first)
        y = self.ffn(before(self.ffn_norm1(x), second))
        return after(x, self.ffn_norm2(y), second)


class Cross(nn.Module):
    """Self-attention, attention to a context, feed-forward network."""

    def __init__(self, config: Config, dim: int, cond: int, context: int) -> None:
        super().__init__()
        self.norm1, self.norm3 = norm(config["norm"], dim), norm(config["norm"], dim)
        self.norm2 = norm(config.get("cross_norm", "none"), dim)
        self.attn1 = Attention(config["attention"], dim, dim)
        self.attn2 = Attention(config["cross_attention"], dim, context)
        self.ffn = Ffn(config["ffn"], dim)
        self.modulation = Modulation(config.get("modulation", "none"), dim, cond, 2)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        first, second = self.modulation.parts(call.lent)
        x = after(x, self.attn1(before(self.norm1(x), first), call.mask, call.ids[0]), first)
        x = x + self.attn2(self.norm2(x), call.context_mask, call.ids[0], call.context)
        return after(x, self.ffn(before(self.norm3(x), second)), second)


class Single(Heads):
    """x + gate · proj_out [attention(h), act(hidden(h))] with h = norm(x), all projected by one matrix."""

    def __init__(self, config: Config, dim: int, cond: int, context: int = 0) -> None:
        super().__init__(config["attention"], dim)
        self.widths = [self.heads * self.head_dim, *[self.kv_heads * self.head_dim] * 2, config["hidden"]]
        bias = config.get("bias", False)
        self.norm = norm(config["norm"], dim)
        self.proj_in = nn.Linear(dim, sum(self.widths), bias)
        self.proj_out = nn.Linear(self.widths[0] + config["hidden"], dim, bias)
        self.modulation = Modulation(config.get("modulation", "none"), dim, cond, 1)
        self.act = ACTIVATIONS[config["activation"]]

    def forward(self, x: Tensor, call: Call) -> Tensor:
        (part,) = self.modulation.parts(call.lent)
        q, k, v, hidden = self.proj_in(before(self.norm(x), part)).split(self.widths, -1)
        attended = self.attend(*self.ready(q, k, v, call.ids[0]), call.mask)
        return after(x, self.proj_out(torch.cat([attended, self.act(hidden)], -1)), part)


class Joint(nn.Module):
    """Blocks, one a stream, with one attention."""

    def __init__(self, config: Config, dims: list[int], cond: int) -> None:
        super().__init__()
        layers = config["streams"] * (len(dims) if len(config["streams"]) == 1 else 1)
        self.streams = nn.ModuleList(PreNorm(layer, dim, cond) for layer, dim in zip(layers, dims, strict=True))

    def forward(self, xs: list[Tensor], call: Call) -> list[Tensor]:
        parts = [block.modulation.parts(call.lent) for block in self.streams]
        normal = [before(block.norm1(x), part[0]) for block, x, part in zip(self.streams, xs, parts)]
        each = [block.attn.project(h, h, ids) for block, h, ids in zip(self.streams, normal, call.ids)]
        q, k, v = (torch.cat(items, 1) for items in zip(*each))
        attended = self.streams[0].attn.attend(q, k, v, call.mask).split([x.shape[1] for x in xs], 1)
        outputs = []
        for block, x, y, (first, second) in zip(self.streams, xs, attended, parts):
            x = after(x, block.attn.o(y), first)
            outputs.append(after(x, block.ffn(before(block.norm2(x), second)), second))
        return outputs


KINDS = {"pre_norm": PreNorm, "sandwich": Sandwich, "cross": Cross, "single": Single}


class Distances(nn.Module):
    """T5's bias by distance: transformers' buckets, in both directions."""

    def __init__(self, buckets: int, heads: int, furthest: int) -> None:
        super().__init__()
        self.weight, self.furthest = nn.Parameter(torch.zeros(buckets, heads)), furthest

    def forward(self, length: int) -> Tensor:
        half = self.weight.shape[0] // 2
        distance = torch.arange(length)[None] - torch.arange(length)[:, None]
        bucket, distance = (distance > 0) * half, distance.abs()
        exact = half // 2
        shared = torch.log(distance.clamp(min=1) / exact) / math.log(self.furthest / exact) * (half - exact)
        shared = (exact + shared.long()).clamp(max=half - 1)
        bucket = bucket + torch.where(distance < exact, distance, shared)
        return self.weight[bucket].permute(2, 0, 1)[None]


class Stage(nn.Module):
    """Blocks that are alike."""

    def __init__(self, config: Config, dims: dict[str, int], cond: int) -> None:
        super().__init__()
        self.on, (self.kind, block) = config["on"], choice(config["block"])
        widths = [dims[name] for name in self.on]
        self.context = block.get("context")
        if self.kind == "joint":
            make = lambda: Joint(block, widths, cond)
            self.attention = block["streams"][0]["attention"]
        else:
            make = lambda: KINDS[self.kind](block, widths[0], cond, dims.get(self.context, 0))
            self.attention = block["attention"]
        self.blocks = nn.ModuleList(make() for _ in range(config["count"]))
        kind, fields = choice(self.attention.get("position", "none"))
        tables = [] if kind != "relative_bias" else range(1 if fields["tables"] == "shared" else config["count"])
        bias = lambda: Distances(fields["buckets"], self.attention["heads"], fields["max_distance"])
        self.distances = nn.ModuleList(bias() for _ in tables)

    def mask(self, keys: Tensor) -> Tensor:
        """What is added to the scores; `keys` [B, S] are those that are no padding."""
        length = keys.shape[1]
        kind, fields = choice(self.attention.get("mask", "none"))
        apart = torch.arange(length)[:, None] - torch.arange(length)[None]
        seen = torch.ones(length, length, dtype=torch.bool)
        if kind != "none":
            seen = (apart >= 0) & (apart < fields.get("window", length))
        return torch.zeros(1).masked_fill(~(seen & keys[:, None, None]), -1e38)

    def forward(self, streams: dict[str, Tensor], ids: Config, keys: Config, lent: Config) -> None:
        xs = [streams[name] for name in self.on]
        sizes = [x.shape[1] for x in xs]
        base = self.mask(torch.cat([keys[name] for name in self.on], 1))
        joined = self.kind != "joint"
        places = [ids[name] for name in self.on]
        if joined:
            wide = max(place.shape[1] for place in places)
            places = [torch.cat([place.expand(-1, wide) for place in places])]
            xs = torch.cat(xs, 1)
        call = Call(base, places, lent)
        if self.context is not None:
            call.context = streams[self.context]
            call.context_mask = torch.zeros(1).masked_fill(~keys[self.context][:, None, None], -1e38)
        for i, block in enumerate(self.blocks):
            if i < len(self.distances):
                call.mask = base + self.distances[i](sum(sizes))
            xs = block(xs, call)
        streams.update(zip(self.on, xs.split(sizes, 1) if joined else xs))


class Stream(nn.Module):
    """A stream's way in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, (kind, self.input) = config, choice(config["input"])
        given = self.input["dim"]
        self.embed = nn.Embedding(self.input["vocabulary"], given) if kind == "tokens" else None
        self.norm = norm(config.get("norm", "none"), given)
        kind, fields = choice(config.get("projection", "none"))
        self.dim = fields.get("dim", given)
        self.projection = {
            "none": lambda: None,
            "linear": lambda: nn.Linear(given, self.dim, fields["bias"]),
            "mlp": lambda: Two(given, self.dim, fields["activation"], fields["bias"]),
        }[kind]()
        self.place_kind, fields = choice(config.get("place", "none"))
        self.place = nn.Embedding(fields["length"], self.dim) if self.place_kind == "learned" else None

    def forward(self, inputs: Config) -> tuple[Tensor, Tensor, Tensor]:
        x = inputs[self.input["name"]]
        x = x if self.embed is None else self.embed(x)
        x = x * self.input.get("scale", 1)
        x = self.norm(x)
        x = x if self.projection is None else self.projection(x)
        counted = torch.arange(x.shape[1])
        if self.place is not None:
            x = x + self.place(counted)
        if self.place_kind == "sinusoidal":
            x = x + sinusoid(counted, frequencies(self.dim // 2)).to(x.dtype)
        ids = inputs[self.config["positions"]] if "positions" in self.config else counted[:, None]
        keys = inputs[self.config["mask"]].bool() if "mask" in self.config else torch.ones(x.shape[:2], dtype=torch.bool)
        return x, ids, keys


class Part(nn.Module):
    """A part of the condition."""

    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        self.kind, self.fields = choice(value)
        self.embed = {
            "time": lambda: Time(self.fields["sinusoid"], dim),
            "vector": lambda: Two(self.fields["dim"], dim),
            "class": lambda: nn.Embedding(self.fields["classes"], dim),
        }[self.kind]()

    def forward(self, inputs: Config, dtype: torch.dtype) -> Tensor:
        x = inputs[self.fields["name"]]
        return self.embed(x.to(dtype) * self.fields.get("scale", 1) if self.kind == "time" else x)


class Condition(nn.Module):
    """The sum of its parts, and projections of it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, dim = config, config["dim"]
        shared = config.get("projections", [])
        self.parts = nn.ModuleList(Part(part, dim) for part in config["parts"])
        self.projections = nn.ModuleList(nn.Linear(dim, 3 * item["sublayers"] * item["dim"]) for item in shared)

    def forward(self, inputs: Config, dtype: torch.dtype) -> dict[str | None, Tensor]:
        vector = sum(part(inputs, dtype) for part in self.parts)
        if "activation" in self.config:
            vector = ACTIVATIONS[self.config["activation"]](vector)
        names = [item["name"] for item in self.config.get("projections", [])]
        return {None: vector} | {name: linear(vector) for name, linear in zip(names, self.projections)}


class ComposedTransformer(nn.Module):
    """The whole."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.names = [stream["name"] for stream in config["streams"]]
        self.streams = nn.ModuleList(Stream(stream) for stream in config["streams"])
        dims = {name: stream.dim for name, stream in zip(self.names, self.streams)}
        condition = config.get("condition")
        self.condition = Condition(condition) if condition else None
        cond = condition["dim"] if condition else 0
        self.stages = nn.ModuleList(Stage(stage, dims, cond) for stage in config["stages"])
        self.output = config["output"]
        dim = dims[self.output["stream"]]
        plain = norm(self.output.get("norm", "none"), dim)
        self.modulated = "modulation" in self.output
        self.norm_out = AdaLnContinuous(plain, cond, dim) if self.modulated else plain
        self.head_kind, fields = choice(self.output.get("head", "none"))
        self.head = nn.Linear(dim, fields["dim"], fields["bias"]) if self.head_kind == "linear" else None

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        found = {name: stream(inputs) for name, stream in zip(self.names, self.streams)}
        streams, ids, keys = ({name: item[i] for name, item in found.items()} for i in range(3))
        dtype = streams[self.names[0]].dtype
        lent = {} if self.condition is None else self.condition(inputs, dtype)
        for stage in self.stages:
            stage(streams, ids, keys, lent)
        name = self.output["stream"]
        x = self.norm_out(streams[name], lent[None]) if self.modulated else self.norm_out(streams[name])
        if self.head is not None:
            x = self.head(x)
        if self.head_kind == "tied":
            x = x @ self.streams[self.names.index(name)].embed.weight.T
        return {self.output["name"]: x}
