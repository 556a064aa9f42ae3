"""Writes the goldens of guidance: `python guidance.py [--out ../../fixtures/sampling]`.

Every case runs one of diffusers' guiders, or the lines of a pipeline that has none, over the same predictions
(`predictions`, a row a step: towards, between, away), as published and in f64. A case lists how many conditions each step
evaluates (`evaluations`) and what comes of them (`guided`); null is NaN, which diffusers gets where it rescales zeros.

Diffusers reduces the products of CFG-Zero* in f32 whatever the dtype; in f64 `Tensor.float` is rebound to `Tensor.double`.
"""

from __future__ import annotations

import inspect
import random
import textwrap
import types
from typing import Any, Callable
from unittest import mock

import torch
from diffusers import guiders
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)

from sampling import REFERENCE, both, folder, write

STEPS = 7
SHAPE = (2, 3, 2, 2)
CONDITIONS = ("towards", "between", "away")


def predictions() -> list[dict[str, list[float]]]:
    """Three for every step, correlated as a model's are; the second row of the batch has the smaller differences."""
    source = random.Random(21)
    normal = lambda: source.gauss(0, 1)  # noqa: E731
    rows = []
    for _ in range(STEPS):
        common = [normal() + 0.3 for _ in range(24)]
        far = [1.0 if place < 12 else 0.4 for place in range(24)]
        rows.append({name: [round(c + f * normal(), 3) for c, f in zip(common, far)] for name in CONDITIONS})
    return rows


PREDICTIONS = predictions()


def lines(function: Callable[..., Any], first: str, last: str) -> str:
    """The source of a function from the line that begins with `first` to the next that begins with `last`."""
    source = inspect.getsource(function).splitlines()
    begin = next(place for place, line in enumerate(source) if line.strip().startswith(first))
    end = next(place for place in range(begin, len(source)) if source[place].strip().startswith(last))
    return textwrap.dedent("\n".join(source[begin : end + 1]))


def qwen(config: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """What Qwen-Image's pipeline does with its predictions."""
    code = lines(QwenImagePipeline.__call__, "comb_pred = ", "noise_pred = comb_pred")

    def guided(towards: torch.Tensor, between: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        names = {"torch": torch, "noise_pred": towards, "neg_noise_pred": away, **config}
        exec(code, names)
        return names["noise_pred"]

    return guided


def pix2pix(config: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """What InstructPix2Pix's pipeline does with its predictions."""
    code = lines(StableDiffusionInstructPix2PixPipeline.__call__, "noise_pred_text, noise_pred_image", ")")

    def guided(towards: torch.Tensor, between: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        names = {"noise_pred": torch.cat([towards, between, away]), "self": types.SimpleNamespace(**config)}
        exec(code, names)
        return names["noise_pred"]

    return guided


def run(kind: str, config: dict[str, Any], wide: bool) -> dict[str, Any]:
    """What comes of the predictions, step by step."""
    dtype = torch.float64 if wide else torch.float32
    pipelines = {"QwenImagePipeline": (qwen, 2), "StableDiffusionInstructPix2PixPipeline": (pix2pix, 3)}
    evaluations, guided = [], []
    guider = None if kind in pipelines else getattr(guiders, kind)(**config)
    for step, row in enumerate(PREDICTIONS):
        given = {name: torch.tensor(row[name], dtype=dtype).reshape(SHAPE) for name in CONDITIONS}
        if guider is None:
            make, count = pipelines[kind]
            result = make(config)(**given)
        else:
            guider.set_state(step, STEPS, torch.tensor(0))
            batches = guider.prepare_inputs({"latents": given["towards"]})
            for batch, name in zip(batches, ("towards", "away")):
                batch.noise_pred = given[name]
            count, result = len(batches), guider(batches).pred
        if result.dtype != dtype or result.shape != SHAPE:
            raise SystemExit(f"{kind}: {result.dtype} {result.shape}")
        evaluations.append(count)
        guided.append(result.flatten().tolist())
    return {"evaluations": evaluations, "guided": guided}


def rebound(kind: str, config: dict[str, Any], wide: bool) -> dict[str, Any]:
    """`run`, with `Tensor.float` rebound where it is wide."""
    if not wide:
        return run(kind, config, wide)
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        return run(kind, config, wide)


CFG, APG, ZERO = "ClassifierFreeGuidance", "AdaptiveProjectedGuidance", "ClassifierFreeZeroStarGuidance"
FREE = {"adaptive_projected_guidance_rescale": 0.0}
CASES: list[dict[str, Any]] = [
    {"name": "plain", "kind": CFG, "config": {"guidance_scale": 5.0}},
    {"name": "below-1", "kind": CFG, "config": {"guidance_scale": 0.25}},
    {"name": "off", "kind": CFG, "config": {"guidance_scale": 1.0, "guidance_rescale": 0.7}},
    {"name": "original-rescaled", "kind": CFG,
     "config": {"guidance_scale": 4.0, "use_original_formulation": True, "guidance_rescale": 0.7}},
    {"name": "some-steps", "kind": CFG, "config": {"guidance_scale": 7.5, "start": 0.3, "stop": 0.8}},
    {"name": "projected", "kind": APG, "config": {"guidance_scale": 6.0, "eta": 0.0, **FREE}},
    {"name": "momentum", "kind": APG,
     "config": {"guidance_scale": 6.0, "eta": 0.4, "adaptive_projected_guidance_momentum": -0.5, **FREE}},
    {"name": "threshold", "kind": APG,
     "config": {"guidance_scale": 6.0, "eta": 0.2, "adaptive_projected_guidance_rescale": 3.0}},
    {"name": "everything", "kind": APG,
     "config": {"guidance_scale": 6.0, "eta": 0.3, "adaptive_projected_guidance_momentum": -0.75,
                "adaptive_projected_guidance_rescale": 2.5, "guidance_rescale": 0.7, "start": 0.15}},
    {"name": "original", "kind": APG,
     "config": {"guidance_scale": 5.0, "eta": 0.3, "adaptive_projected_guidance_momentum": 0.25,
                "adaptive_projected_guidance_rescale": 2.5, "use_original_formulation": True}},
    {"name": "first-step", "kind": ZERO, "config": {"guidance_scale": 5.0}},
    {"name": "two-steps-rescaled", "kind": ZERO,
     "config": {"guidance_scale": 5.0, "zero_init_steps": 2, "guidance_rescale": 0.7, "stop": 0.9}},
    {"name": "no-zero-original", "kind": ZERO,
     "config": {"guidance_scale": 5.0, "zero_init_steps": 0, "use_original_formulation": True}},
    {"name": "off-but-zero", "kind": ZERO, "config": {"guidance_scale": 1.0, "zero_init_steps": 1}},
    {"name": "token-norm", "kind": "QwenImagePipeline", "config": {"true_cfg_scale": 4.0}},
    {"name": "dual", "kind": "StableDiffusionInstructPix2PixPipeline",
     "config": {"guidance_scale": 7.5, "image_guidance_scale": 1.5}},
]  # fmt: skip


def main() -> None:
    out = folder(__doc__)
    torch.set_num_threads(1)
    cases = [{**case, **both(lambda wide: rebound(case["kind"], case["config"], wide))} for case in CASES]
    write(out, "guidance", {"reference": REFERENCE, "shape": SHAPE, "predictions": PREDICTIONS, "cases": cases})


if __name__ == "__main__":
    main()
