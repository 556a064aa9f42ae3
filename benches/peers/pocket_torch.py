"""Pocket's text encoder, transformer and training step in PyTorch, from the same configs and the same recipe.

It knows the choices of docs/composed.md that those configs make, and refuses others; names of modules are the zoo's paths.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from machine import ROOT

sys.path.insert(0, str(ROOT / "parity/reference"))
from composed_parts import AdaLnContinuous, Config, Ffn, Two, angles, frequencies, sinusoid, turned  # noqa: E402


def only(value: Config, **choices: Any) -> None:
    """Refuses what a config asks for beyond what is written here."""
    for key, known in choices.items():
        if value.get(key) != known:
            raise NotImplementedError(f"{key} is {value.get(key)}; here it is {known}")


class RmsNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def norm(value: Config, dim: int) -> nn.Module:
    if "rms" in value:
        return RmsNorm(dim, value["rms"]["eps"])
    only(value["layer"], parameters="none")
    return nn.LayerNorm(dim, value["layer"]["eps"], elementwise_affine=False)


class Time(nn.Module):
    """Cosines and sines of the scaled time, then two layers."""

    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        self.mlp, self.scale = Two(value["sinusoid"], dim), value["scale"]
        self.register_buffer("frequencies", frequencies(value["sinusoid"] // 2), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t * self.scale, self.frequencies))


class Part(nn.Module):
    """A part of the condition."""

    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        self.embed = Time(value["time"], dim)


def table(rope: Config, head_dim: int, places: Tensor) -> Tensor:
    """Cosines and sines `[2, L, 1, D/2]` of positions `[L, axes]`."""
    angle = angles(rope, head_dim, places)[:, None]
    return torch.stack([angle.cos(), angle.sin()]).float()


class Attention(nn.Module):
    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        only(value, kv_heads=None, scale=None, softcap=None, sinks=None, mask=None, projections=None)
        self.head_dim = value["head_dim"]
        inner = value["heads"] * self.head_dim
        self.layout = value["position"]["rope"]["layout"]
        self.q, self.k, self.v = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.q_norm, self.k_norm = (norm(value["qk_norm"], self.head_dim) for _ in range(2))
        self.o = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)) for linear in (self.q, self.k, self.v))
        q, k = (turned(one, *table, self.layout) for one in (self.q_norm(q), self.k_norm(k)))
        attended = F.scaled_dot_product_attention(*(one.transpose(1, 2) for one in (q, k, v)), attn_mask=seen)
        return self.o(attended.transpose(1, 2).flatten(2))


class Modulation(nn.Module):
    """Shift, scale and gate of both sublayers: the condition's and a table of the block's own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))

    def forward(self, lent: Tensor) -> tuple[Tensor, ...]:
        return (lent.unflatten(-1, (6, 1, -1)) + self.scale_shift_table[:, None]).unbind(1)


class Block(nn.Module):
    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        only(value, accumulate=None)
        self.norm1, self.norm2 = norm(value["norm"], dim), norm(value["norm"], dim)
        self.attn, self.ffn = Attention(value["attention"], dim), Ffn(value["ffn"], dim)
        self.modulation = Modulation(dim) if "modulation" in value else None

    def forward(self, x: Tensor, table: Tensor, seen: Tensor, lent: Tensor | None) -> Tensor:
        if self.modulation is None:
            x = x + self.attn(self.norm1(x), table, seen)
            return x + self.ffn(self.norm2(x))
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(lent)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift, table, seen)
        return x + ffn_gate * self.ffn(self.norm2(x) * (1 + ffn_scale) + ffn_shift)


class Stream(nn.Module):
    def __init__(self, value: Config) -> None:
        super().__init__()
        only(value, norm=None, place=None)
        given = value["input"].get("tokens", value["input"].get("features"))
        self.dim = value.get("projection", {"linear": given})["linear"]["dim"]
        self.embed = nn.Embedding(given["vocabulary"], given["dim"]) if "tokens" in value["input"] else None
        self.projection = nn.Linear(given["dim"], self.dim) if "projection" in value else None

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x) if self.embed is None else self.embed(x)


class Stage(nn.Module):
    def __init__(self, value: Config, dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(value["block"]["pre_norm"], dim) for _ in range(value["count"]))


class Condition(nn.Module):
    def __init__(self, value: Config) -> None:
        super().__init__()
        only(value, activation="silu")
        dim = value["dim"]
        self.parts = nn.ModuleList(Part(part, dim) for part in value["parts"])
        self.projections = nn.ModuleList(
            nn.Linear(dim, 3 * one["sublayers"] * one["dim"]) for one in value["projections"]
        )

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        vector = F.silu(self.parts[0].embed(t))
        return vector, self.projections[0](vector)


class Composed(nn.Module):
    """One stage of blocks over all streams as one sequence; `places` are the positions of each stream, `[L, axes]`."""

    def __init__(self, config: Config, places: list[Tensor]) -> None:
        super().__init__()
        (stage,), output = config["stages"], config["output"]
        self.streams = nn.ModuleList(Stream(stream) for stream in config["streams"])
        dim = self.streams[0].dim
        self.condition = Condition(config["condition"]) if "condition" in config else None
        self.stages = nn.ModuleList([Stage(stage, dim)])
        inner = norm(output["norm"], dim)
        self.norm_out = AdaLnContinuous(inner, config["condition"]["dim"], dim) if self.condition else inner
        self.head = nn.Linear(dim, output["head"]["linear"]["dim"]) if "head" in output else None
        attention = stage["block"]["pre_norm"]["attention"]
        rope = table(attention["position"]["rope"], attention["head_dim"], torch.cat(places))
        self.register_buffer("table", rope, persistent=False)

    def forward(self, inputs: list[Tensor], seen: Tensor, t: Tensor | None = None) -> Tensor:
        """`inputs` in the order of the streams; `seen` `[B, L of all]` is false where there is padding."""
        xs = [stream(x) for stream, x in zip(self.streams, inputs)]
        vector, lent = self.condition(t) if self.condition else (None, None)
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        for block in self.stages[0].blocks:
            x = block(x, self.table, seen[:, None, None], lent)
        x = x[:, -inputs[-1].shape[1] :]
        x = self.norm_out(x, vector) if self.condition else self.norm_out(x)
        return x if self.head is None else self.head(x)


class Learned(nn.Module):
    """What the recipe trains."""

    def __init__(self, recipe: Config, folder: Path) -> None:
        super().__init__()
        model = recipe["model"]
        transformer, text_encoder = (
            json.loads((folder / model[part]).read_text()) for part in ("transformer", "text_encoder")
        )
        self.channels = transformer["streams"][1]["input"]["features"]["dim"]
        self.vocabulary = text_encoder["streams"][0]["input"]["tokens"]["vocabulary"]
        # Latents of an eighth of the picture's side, in patches of 2 × 2.
        side = recipe["data"]["side"] // 16
        self.patches, self.tokens = side * side, model["text_tokens"]
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        image = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
        counted = torch.arange(self.tokens)[:, None]
        self.transformer = Composed(transformer, [torch.zeros(self.tokens, 3), image])
        self.text_encoder = Composed(text_encoder, [counted])

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The velocity `[B, patches, channels]` of noisy latents at times `[B]` in 0..1."""
        states = self.text_encoder([ids], mask)
        seen = torch.cat([mask, mask.new_ones(x.shape[:2])], 1)
        return self.transformer([states, x], seen, t)

    def loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Of flow matching."""
        at = sigma[:, None, None]
        velocity = self((1 - at) * clean + at * noise, sigma, ids, mask)
        return (velocity.float() - (noise - clean)).square().mean()


class Trainer:
    """The recipe's step: levels, loss, gradients, their bound, AdamW, average."""

    def __init__(self, path: Path, device: str, batch: int | None, compiled: dict[str, Any] | None) -> None:
        recipe = tomllib.loads(path.read_text())
        self.training, self.device = recipe["training"], torch.device(device)
        only(self.training["optimiser"], kind="adamw")
        only(self.training, precision="bfloat16", accumulate=None)
        only(recipe["loss"]["timesteps"], kind="logit_normal", shift=None)
        self.levels = recipe["loss"]["timesteps"]
        self.batch = batch or self.training["batch"]
        self.model = Learned(recipe, path.parent).to(self.device)
        self.parameters = list(self.model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        adamw = self.training["optimiser"]
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters if parameter.ndim < 2]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        betas = tuple(adamw["betas"])
        self.optimiser = torch.optim.AdamW(groups, 0.0, betas, weight_decay=adamw["decay"], fused=True)
        self.loss: Callable[..., Tensor] = self.model.loss
        if compiled is not None:
            self.loss = torch.compile(self.loss, **compiled)
        self.done = 0

    def examples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Random latents, tokens, and the mask of what is no padding."""
        shape = (self.batch, self.model.patches, self.model.channels)
        length = torch.randint(3, 13, (self.batch, 1), device=self.device).clamp(max=self.model.tokens)
        ids = torch.randint(self.model.vocabulary, (self.batch, self.model.tokens), device=self.device)
        mask = torch.arange(self.model.tokens, device=self.device) < length
        return torch.randn(shape, device=self.device), ids, mask

    def rate(self) -> float:
        rate = self.training["rate"]
        only(rate, kind="cosine", last=None)
        if self.done < rate["warm_up"]:
            return rate["rate"] * self.done / rate["warm_up"]
        passed = min((self.done - rate["warm_up"]) / (rate["steps"] - rate["warm_up"]), 1)
        return rate["rate"] * 0.5 * (1 + math.cos(math.pi * passed))

    def step(self, clean: Tensor, ids: Tensor, mask: Tensor) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        levels = torch.randn(len(clean), device=self.device) * self.levels["deviation"] + self.levels["mean"]
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.loss(clean, torch.randn_like(clean), levels.sigmoid(), ids, mask)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.training["clip"])
        self.optimiser.step()
        # As the first steps of a running average are worth little, the decay rises.
        decay = min(self.training["average"]["decay"], (1 + self.done) / (10 + self.done)) if self.done else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.done += 1
        return loss.item()
