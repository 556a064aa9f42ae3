"""Parts of the torch twins of composed transformers: parity/reference/composed.py, and the one that benches/peers times.

They need torch alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Config = dict[str, Any]
ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def choice(value: Any) -> tuple[str, Any]:
    """A choice's name and what it states: `"none"` states nothing."""
    return (value, {}) if isinstance(value, str) else next(iter(value.items()))


class Ffn(nn.Module):
    """Plain or gated."""

    def __init__(self, value: Any, dim: int) -> None:
        super().__init__()
        kind, fields = choice(value)
        hidden, bias = fields["hidden"], fields.get("bias", False)
        self.gate = nn.Linear(dim, hidden, bias) if kind == "glu" else None
        self.up, self.down = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)
        self.act = ACTIVATIONS[fields["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.act(self.up(x)))
        return self.down(self.act(self.gate(x)) * self.up(x))


class Two(nn.Module):
    """Two layers to one width."""

    def __init__(self, given: int, dim: int, activation: str = "silu", bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(given, dim, bias), nn.Linear(dim, dim, bias)
        self.act = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def frequencies(count: int) -> Tensor:
    """From 1 down to 1/10000, which is not reached."""
    return torch.exp(-math.log(10_000) * torch.arange(count) / count)


def sinusoid(t: Tensor, frequencies: Tensor) -> Tensor:
    """[cos, sin] of `t` [N] at each frequency."""
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def angles(rope: Config, dims: int, ids: Tensor) -> Tensor:
    """By which pairs of `dims` features turn at the positions `ids` [L, axes]: f64 [L, dims/2]."""
    found = []
    for axis, part in enumerate(rope["axes"]["each"] if "axes" in rope else [dims]):
        frequency = rope["theta"] ** (-2 * torch.arange(part // 2).double() / part)
        found.append(ids[:, axis if ids.shape[1] > 1 else 0, None].double() * frequency)
    return torch.cat(found, -1)


def turned(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """Pairs of features of `x` [B, L, H, D] turned; computed in f32."""
    wide = x.float()
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1) if layout == "interleaved" else wide.chunk(2, -1)
    pair = [a * cos - b * sin, b * cos + a * sin]
    return (torch.stack(pair, -1).flatten(-2) if layout == "interleaved" else torch.cat(pair, -1)).to(x.dtype)


class AdaLnContinuous(nn.Module):
    """norm(x) · (1 + scale) + shift, of the condition."""

    def __init__(self, inner: nn.Module, cond: int, dim: int) -> None:
        super().__init__()
        self.norm, self.linear = inner, nn.Linear(cond, 2 * dim)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.linear(vector)[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift
