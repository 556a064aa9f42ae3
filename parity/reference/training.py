"""Writes the goldens of training: `python training.py [--out ../../fixtures/training]`.

Optimisers, clipping and learning rates are torch's and transformers', the running average, signal-to-noise ratios and
weights diffusers'. Everything random comes from one seed; inputs are f32 and written as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_loss_weighting_for_sd3, compute_snr

STEPS = 20
SHAPES = {"layers.0.weight": (3, 2), "layers.0.bias": (3,), "norm.weight": (2,)}


def numbers(x: torch.Tensor) -> list[float]:
    return [float(f"{value:.9g}") for value in x.detach().double().flatten().tolist()]


def values(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: numbers(tensor) for name, tensor in tensors.items()}


def draw(scale: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def optimisers() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(20)
    begin = draw(1.0, generator)
    # Of very different sizes, so that epsilon and the corrections matter; some are exactly zero.
    gradients = [draw(10.0 ** (step % 5 - 4), generator) for step in range(STEPS)]
    for gradient in gradients[3:6]:
        gradient["norm.weight"].zero_()
    rates = [3e-2 * (0.5 + (step % 4) / 4) for step in range(STEPS)]
    settings = {
        "adam": ("Adam", {}),
        "adam_l2": ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
        "adamw": ("AdamW", {"weight_decay": 0.01}),
        "adamw_large": ("AdamW", {"betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.5}),
    }
    cases = {}
    for name, (kind, options) in settings.items():
        parameters = {path: torch.nn.Parameter(value.clone()) for path, value in begin.items()}
        # Biases and norms do not decay.
        decayed = [p for p in parameters.values() if p.ndim > 1]
        others = [p for p in parameters.values() if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimiser = getattr(torch.optim, kind)(groups, **options)
        after = []
        for gradient, rate in zip(gradients, rates):
            for path, parameter in parameters.items():
                parameter.grad = gradient[path].clone()
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            after.append(values(parameters))
        betas = options.get("betas", (0.9, 0.999))
        cases[name] = {
            "decoupled": kind == "AdamW",
            "betas": betas,
            "eps": options.get("eps", 1e-8),
            "decay": options.get("weight_decay", 0.0),
            "after": [after[step] for step in (0, 1, 4, 9, 19)],
        }
    return {
        "shapes": SHAPES,
        "begin": values(begin),
        "gradients": [values(gradient) for gradient in gradients],
        "rates": rates,
        "shown": [0, 1, 4, 9, 19],
        "cases": cases,
    }


def clipping() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(21)
    cases = []
    for scale, most in [(1.0, 1.0), (1e-3, 1.0), (50.0, 0.1), (0.0, 1.0)]:
        gradients = draw(scale, generator)
        parameters = {path: torch.nn.Parameter(torch.zeros_like(value)) for path, value in gradients.items()}
        for path, parameter in parameters.items():
            parameter.grad = gradients[path].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), most)
        clipped = {path: parameter.grad for path, parameter in parameters.items()}
        cases.append({"gradients": values(gradients), "most": most, "norm": float(norm), "clipped": values(clipped)})
    return cases


def rates() -> list[dict[str, Any]]:
    cases = []
    for kind, name in [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]:
        for warm_up, steps in [(0, 12), (4, 12), (1, 2)]:
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
            schedule = get_scheduler(name, optimiser, num_warmup_steps=warm_up, num_training_steps=steps)
            found = []
            # A cosine of diffusers rises again after its end.
            for _ in range(steps + 1):
                found.append(schedule.get_last_lr()[0])
                optimiser.step()
                schedule.step()
            rate = {"kind": kind, "rate": 0.3, "warm_up": warm_up} | ({} if kind == "constant" else {"steps": steps})
            cases.append({"rate": rate, "found": found})
    return cases


def averages() -> list[dict[str, Any]]:
    cases = []
    for average, options in [
        ({"decay": 0.9, "warm_up": {"kind": "ratio"}}, {"decay": 0.9}),
        (
            {"decay": 0.6, "warm_up": {"kind": "power", "scale": 2.0, "power": 0.75}},
            {"decay": 0.6, "use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.75},
        ),
        ({"decay": 0.7, "warm_up": {"kind": "none"}}, {"decay": 0.7, "min_decay": 0.7}),
    ]:
        generator = torch.Generator().manual_seed(22)
        parameter = torch.nn.Parameter(torch.randn(3, generator=generator))
        ema = EMAModel([parameter], **options)
        if "min_decay" in options:
            ema.get_decay = lambda _step, decay=options["decay"]: decay
        begin, path, found = numbers(parameter), [], []
        for _ in range(15):
            parameter.data = parameter.data + torch.randn(3, generator=generator)
            ema.step([parameter])
            path.append(numbers(parameter))
            found.append(numbers(ema.shadow_params[0]))
        cases.append({"average": average, "begin": begin, "parameters": path, "found": found})
    return cases


def objectives() -> list[dict[str, Any]]:
    """Inputs, targets and weighted losses as diffusers' training scripts compute them."""
    generator = torch.Generator().manual_seed(23)
    clean, noise, output = (torch.randn(4, 3, generator=generator) for _ in range(3))
    shared = {"clean": numbers(clean), "noise": numbers(noise), "output": numbers(output)}
    cases = []
    betas = {"kind": "scaled_linear", "start": 0.00085, "end": 0.012, "timesteps": 1000}
    timesteps = torch.tensor([0, 130, 500, 999])
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
        )
        noisy = scheduler.add_noise(clean, noise, timesteps)
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        target = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction]
        snr = compute_snr(scheduler, timesteps)
        for gamma in (None, 5.0):
            if gamma is None:
                weight = torch.ones(4)
            else:
                weight = torch.minimum(snr, torch.full((4,), gamma))
                weight = weight / {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(4)}[prediction]
            loss = ((output - target) ** 2).mean(1) * weight
            weighting = {"kind": "uniform"} if gamma is None else {"kind": "min_snr", "gamma": gamma}
            cases.append(
                shared
                | {
                    "noising": "additive",
                    "prediction": prediction,
                    "weighting": weighting,
                    "betas": betas,
                    "timesteps": timesteps.tolist(),
                    "input": numbers(noisy),
                    "target": numbers(target),
                    "weight": numbers(weight),
                    "loss": float(loss.mean()),
                }
            )
    sigmas = torch.tensor([0.02, 0.35, 0.7, 0.98])
    for kind, name in [("uniform", "none"), ("sigma_sqrt", "sigma_sqrt"), ("cosmap", "cosmap")]:
        column = sigmas[:, None]
        weight = compute_loss_weighting_for_sd3(name, sigmas)
        target = noise - clean
        loss = (weight[:, None] * (output - target) ** 2).mean(1)
        cases.append(
            shared
            | {
                "noising": "flow",
                "prediction": "flow_prediction",
                "weighting": {"kind": kind},
                "sigmas": numbers(sigmas),
                "input": numbers((1.0 - column) * clean + column * noise),
                "target": numbers(target),
                "weight": numbers(weight),
                "loss": float(loss.mean()),
            }
        )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "fixtures" / "training")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    writers = {
        "optimisers": optimisers,
        "clipping": clipping,
        "rates": rates,
        "averages": averages,
        "objectives": objectives,
    }
    for name, writer in writers.items():
        (out / f"{name}.json").write_text(json.dumps(writer(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
