"""Writes the goldens of schedules and samplers: `python sampling.py [--out ../../fixtures/sampling]`.

Every case is run twice with diffusers' schedulers: as published, and in f64 with the `float32` of the scheduler's module
rebound to `float64`. The model is a formula, so that nothing but the schedule, the conversion of the model's output and
the integrator is compared:

    u      what the model is given: x for flow matching, x / sqrt(1 + sigma^2) for diffusion
    tau    sigma / (1 + sigma)
    output 0.1 u + (0.6 u + tau - 0.4) / (1 + 0.5 u^2)

Latents are those of diffusers: of the variance-preserving schedulers (DDIM, DPM-Solver++, UniPC) x / sqrt(1 + sigma^2).
Noise comes from a list (`noise.json`), one row a draw. Where a package is missing, it is replaced as said below:
scipy's `beta.ppf` by mpmath's root of the regularised incomplete beta function, torchsde's Brownian interval by the path
whose increments between the visited levels are the rows of the list. Schedules that diffusers does not have (simple,
sgm_uniform: ComfyUI's) are NumPy twins, written here from their definitions; their cases say so.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import types
from pathlib import Path
from typing import Any, Callable

import diffusers
import mpmath
import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import _logit_normal_sigmas, _resolution_aware_mu

STEPS = (1, 2, 7, 50)
SHAPE = (1, 2, 3)
START = [0.31, -1.24, 0.87, 1.65, -0.42, -0.09]
"""The initial noise, before it is scaled to the first level."""


class BrownianInterval:
    """Stands in for torchsde's: a path through given levels with given increments."""

    path: dict[float, torch.Tensor] = {}

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        def at(level: torch.Tensor) -> torch.Tensor:
            return self.path[min(self.path, key=lambda known: abs(math.log(known / float(level))))]

        return at(high) - at(low)


# After diffusers, which asks whether the package is installed.
sys.modules.setdefault("torchsde", types.SimpleNamespace(BrownianInterval=BrownianInterval))
from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler  # noqa: E402

if diffusers.__version__ != "0.42.1":
    raise SystemExit(f"diffusers {diffusers.__version__}, not 0.42.1")
REFERENCE = {"package": "diffusers", "version": diffusers.__version__}


def quantile(p: float, alpha: float, beta: float) -> float:
    """The quantile of a beta distribution, to the last place of f64."""
    if p in (0.0, 1.0):
        return p
    with mpmath.workdps(40):
        a, b, p = mpmath.mpf(alpha), mpmath.mpf(beta), mpmath.mpf(p)
        low, high = mpmath.mpf(0), mpmath.mpf(1)
        for _ in range(100):
            middle = (low + high) / 2
            below = mpmath.betainc(a, b, 0, middle, regularized=True) < p
            low, high = (middle, high) if below else (low, middle)
        return float(low)


class Rebound:
    """A module whose `float32` is `float64`."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def scheduler(kind: str, config: dict[str, Any], wide: bool) -> Any:
    """A scheduler in one of the precisions, with the stand-ins in its module."""
    cls = DPMSolverSDEScheduler if kind == "DPMSolverSDEScheduler" else getattr(diffusers, kind)
    module = sys.modules[cls.__module__]
    module.torch = Rebound(torch) if wide else torch
    module.np = Rebound(np) if wide else np
    module.is_scipy_available = lambda: True
    module.scipy = types.SimpleNamespace(stats=types.SimpleNamespace(beta=types.SimpleNamespace(ppf=quantile)))
    torch.set_default_dtype(torch.float64 if wide else torch.float32)
    return cls(**config)


def noise_rows(count: int) -> list[list[float]]:
    """Standard normal numbers, short enough to read."""
    source = random.Random(20)
    return [[round(source.gauss(0, 1), 3) for _ in range(6)] for _ in range(count)]


NOISE = noise_rows(100)


def model(u: torch.Tensor, sigma: float) -> torch.Tensor:
    """The formula, in the dtype of `u`."""
    tau = sigma / (1 + sigma)
    return 0.1 * u + (0.6 * u + (tau - 0.4)) / (1 + 0.5 * u * u)


def run(kind: str, config: dict[str, Any], steps: int, setup: dict[str, Any], wide: bool) -> dict[str, Any]:
    """Sigmas, timesteps and the latents after each step."""
    dtype = torch.float64 if wide else torch.float32
    run = scheduler(kind, config, wide)
    arguments = {key: value(steps) if callable(value) else value for key, value in setup.get("timesteps", {}).items()}
    if "sigmas" not in arguments or kind == "FlowMatchEulerDiscreteScheduler":
        arguments["num_inference_steps"] = steps
    run.set_timesteps(**arguments)
    draws = iter(NOISE)
    draw = lambda *_, **__: torch.tensor(next(draws), dtype=dtype).reshape(SHAPE)  # noqa: E731
    sys.modules[type(run).__module__].randn_tensor = draw

    if kind == "DDIMScheduler":
        alphas = [run.alphas_cumprod[t] for t in run.timesteps]
        sigmas = [float(((1 - alpha) / alpha) ** 0.5) for alpha in alphas] + [0.0]
        timesteps = run.timesteps.tolist()
    else:
        sigmas, timesteps = run.sigmas.tolist(), run.timesteps.tolist()
    if kind == "LTXEulerAncestralRFScheduler":
        timesteps = timesteps[: len(sigmas) - 1]
    levels = [sigma for place, sigma in enumerate(sigmas) if place == 0 or sigma != sigmas[place - 1]]
    if kind == "DPMSolverSDEScheduler":
        BrownianInterval.path = path(levels, draw)
    flow = setup.get("noising") == "flow"
    scaled = kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverSDEScheduler")

    x = torch.tensor(START, dtype=dtype).reshape(SHAPE)
    x = x * (1.0 if flow else levels[0] if scaled else levels[0] / math.sqrt(1 + levels[0] ** 2))
    initial, latents = x.flatten().tolist(), []
    for place, timestep in enumerate(run.timesteps[: len(timesteps)]):
        sigma = sigmas[place]
        if getattr(run, "mid_point_sigma", None) is not None:
            sigma = float(run.mid_point_sigma)
        u = run.scale_model_input(x, timestep) if scaled else x
        output = model(u, sigma)
        if kind == "DDIMScheduler":
            timestep = int(timestep)
        x = run.step(output, timestep, x, **setup.get("step", {}), return_dict=False)[0]
        # Heun's last evaluation is a step, and the first half of one that never comes.
        if getattr(run, "state_in_first_order", True) or place == len(timesteps) - 1:
            latents.append(x.flatten().tolist())
    one_each = [t for place, t in enumerate(timesteps) if place == 0 or place % 2 == 0 or len(timesteps) == len(levels) - 1]
    if x.dtype != dtype:
        raise SystemExit(f"{kind}: latents are {x.dtype}")
    if not (len(one_each) == len(latents) == len(levels) - 1 == steps):
        raise SystemExit(f"{kind}: {len(one_each)} timesteps, {len(latents)} latents, {len(levels)} levels")
    return {"sigmas": levels, "timesteps": one_each, "initial": initial, "latents": latents}


def path(levels: list[float], draw: Callable[[], torch.Tensor]) -> dict[float, torch.Tensor]:
    """A Brownian path through the levels and the geometric means between them, two increments a step."""
    at = torch.zeros(SHAPE)
    path = {levels[0]: at}
    for sigma, following in zip(levels, levels[1:]):
        if following == 0:
            break
        middle = math.sqrt(sigma * following)
        for high, low in ((sigma, middle), (middle, following)):
            at = at + math.sqrt(high - low) * draw()
            path[low] = at
    return path


def rounded(value: Any, wide: bool) -> Any:
    """Numbers with as many digits as their precision has; null for what is not a number."""
    if isinstance(value, list):
        return [rounded(entry, wide) for entry in value]
    if isinstance(value, dict):
        return {key: rounded(entry, wide) for key, entry in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if wide else float(f"{value:.9g}")
    return value


def even(steps: int) -> list[float]:
    """What FLUX's pipeline gives its scheduler."""
    return np.linspace(1.0, 1 / steps, steps).tolist()


def mu(tokens: int) -> float:
    """What FLUX's pipeline derives from the size of the image."""
    return calculate_shift(tokens, 256, 4096, 0.5, 1.15)


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CASES: dict[str, list[dict[str, Any]]] = {
    "euler": [
        {"name": "flux", "kind": "FlowMatchEulerDiscreteScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {"use_dynamic_shifting": True}, "timesteps": {"sigmas": even, "mu": mu(1024)}},
        {"name": "schnell", "kind": "FlowMatchEulerDiscreteScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {}, "timesteps": {"sigmas": even}},
        {"name": "shift-3", "kind": "FlowMatchEulerDiscreteScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {"shift": 3.0}},
        {"name": "leading", "kind": "EulerDiscreteScheduler", "prediction": "epsilon",
         "config": {**SD, "timestep_spacing": "leading", "steps_offset": 1}},
        {"name": "v-trailing", "kind": "EulerDiscreteScheduler", "prediction": "v_prediction",
         "config": {**SD, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}},
        {"name": "sample-linspace", "kind": "EulerDiscreteScheduler", "prediction": "sample",
         "config": {"beta_schedule": "linear", "prediction_type": "sample"}},
    ],
    "euler_ancestral": [
        {"name": "trailing", "kind": "EulerAncestralDiscreteScheduler", "prediction": "epsilon",
         "config": {**SD, "timestep_spacing": "trailing"}},
        {"name": "flow", "kind": "LTXEulerAncestralRFScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {"eta": 1.0, "s_noise": 1.0}, "timesteps": {"sigmas": lambda steps: even(steps) + [0.0]}},
        {"name": "flow-half", "kind": "LTXEulerAncestralRFScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {"eta": 0.5, "s_noise": 1.0}, "timesteps": {"sigmas": lambda steps: even(steps) + [0.0]}, "eta": 0.5},
    ],
    "heun": [
        {"name": "trailing", "kind": "HeunDiscreteScheduler", "prediction": "epsilon",
         "config": {**SD, "timestep_spacing": "trailing"}},
        {"name": "karras", "kind": "HeunDiscreteScheduler", "prediction": "v_prediction",
         "config": {**SD, "timestep_spacing": "linspace", "use_karras_sigmas": True, "prediction_type": "v_prediction"}},
        {"name": "shift-3", "kind": "FlowMatchHeunDiscreteScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {"shift": 3.0}},
    ],
    "dpmpp_2m": [
        {"name": "karras", "kind": "DPMSolverMultistepScheduler", "prediction": "epsilon",
         "config": {**SD, "use_karras_sigmas": True}},
        {"name": "leading", "kind": "DPMSolverMultistepScheduler", "prediction": "v_prediction",
         "config": {**SD, "timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "v_prediction"}},
        {"name": "flow", "kind": "DPMSolverMultistepScheduler", "noising": "flow", "prediction": "flow_prediction",
         "config": {**FLOW, "flow_shift": 3.0}},
    ],
    "dpmpp_sde": [
        {"name": "trailing", "kind": "DPMSolverSDEScheduler", "prediction": "epsilon",
         "config": {**SD, "timestep_spacing": "trailing"}},
        {"name": "karras", "kind": "DPMSolverSDEScheduler", "prediction": "v_prediction",
         "config": {**SD, "use_karras_sigmas": True, "prediction_type": "v_prediction"}},
    ],
    "uni_pc": [
        {"name": f"{name}-{bh}-{order}", "kind": "UniPCMultistepScheduler", "order": order, "bh": bh, **case,
         "config": {**case["config"], "solver_order": order, "solver_type": bh}}
        for name, case in {
            "flow": {"noising": "flow", "prediction": "flow_prediction", "config": {**FLOW, "flow_shift": 5.0}},
            "epsilon": {"prediction": "epsilon", "config": SD},
        }.items()
        for bh in ("bh1", "bh2")
        for order in (2, 3)
    ],
    "ddim": [
        {"name": f"eta-{eta}", "kind": "DDIMScheduler", "prediction": prediction, "step": {"eta": eta}, "eta": eta,
         "config": {**SD, "clip_sample": False, "steps_offset": 1, "prediction_type": prediction}}
        for eta, prediction in ((0.0, "epsilon"), (0.5, "v_prediction"), (1.0, "epsilon"))
    ],
}  # fmt: skip

SCHEDULES: list[dict[str, Any]] = [
    {"name": f"flux-{tokens}", "kind": "FlowMatchEulerDiscreteScheduler", "config": {"use_dynamic_shifting": True},
     "timesteps": {"sigmas": even, "mu": mu(tokens)}} for tokens in (24, 4096, 8192)
] + [
    {"name": "terminal", "kind": "FlowMatchEulerDiscreteScheduler",
     "config": {"use_dynamic_shifting": True, "shift_terminal": 0.1}, "timesteps": {"sigmas": even, "mu": 2.05}},
    {"name": "flow-karras", "kind": "FlowMatchEulerDiscreteScheduler", "config": {"use_karras_sigmas": True}},
    {"name": "flow-exponential", "kind": "FlowMatchEulerDiscreteScheduler", "config": {"use_exponential_sigmas": True}},
    {"name": "flow-beta", "kind": "FlowMatchEulerDiscreteScheduler", "config": {"use_beta_sigmas": True}},
    {"name": "unipc-flow", "kind": "UniPCMultistepScheduler", "config": {**FLOW, "flow_shift": 12.0}},
    {"name": "dpm-flow", "kind": "DPMSolverMultistepScheduler", "config": {**FLOW, "flow_shift": 5.0}},
] + [
    {"name": f"{spacing}-{betas}", "kind": "EulerDiscreteScheduler",
     "config": {"beta_schedule": betas, "timestep_spacing": spacing}}
    for spacing in ("leading", "linspace", "trailing") for betas in ("linear", "scaled_linear", "squaredcos_cap_v2")
] + [
    {"name": f"{curve}-{family}", "kind": kind,
     "config": {**SD, "timestep_spacing": "trailing", f"use_{curve}_sigmas": True}}
    for curve in ("karras", "exponential", "beta")
    for family, kind in (("euler", "EulerDiscreteScheduler"), ("unipc", "UniPCMultistepScheduler"))
] + [
    {"name": f"{spacing}-multistep", "kind": "UniPCMultistepScheduler",
     "config": {**SD, "timestep_spacing": spacing, "steps_offset": 1}} for spacing in ("leading", "linspace", "trailing")
]  # fmt: skip


def listed(case: dict[str, Any], steps: int, wide: bool) -> dict[str, Any]:
    """Sigmas and timesteps of a scheduler."""
    run = scheduler(case["kind"], case["config"], wide)
    arguments = {key: value(steps) if callable(value) else value for key, value in case.get("timesteps", {}).items()}
    run.set_timesteps(num_inference_steps=steps, **arguments)
    return {"sigmas": run.sigmas.tolist(), "timesteps": run.timesteps.tolist()}


def logit_normal(height: int, width: int, mean: float, std: float, steps: int) -> dict[str, Any]:
    """Ideogram 4's, of diffusers' pipeline: f64 inside, f32 at the end."""
    torch.set_default_dtype(torch.float32)
    sigmas = _logit_normal_sigmas(steps, _resolution_aware_mu(height, width, mean), std=std)
    return {"sigmas": sigmas.tolist() + [0.0], "timesteps": (sigmas * 1000).tolist()}


def table() -> np.ndarray:
    """Stable Diffusion's levels in f64, lowest first."""
    betas = np.linspace(SD["beta_start"] ** 0.5, SD["beta_end"] ** 0.5, 1000) ** 2
    products = np.cumprod(1 - betas)
    return ((1 - products) / products) ** 0.5


def simple(steps: int) -> dict[str, Any]:
    """ComfyUI's: every (1000/steps)-th entry of the table, from the highest. A NumPy twin."""
    places = [999 - int(step * (1000 / steps)) for step in range(steps)]
    return {"sigmas": [float(table()[place]) for place in places] + [0.0], "timesteps": [float(p) for p in places]}


def sgm_uniform(steps: int) -> dict[str, Any]:
    """ComfyUI's: evenly from 999 to 0 without the last, interpolated in ln sigma. A NumPy twin."""
    timesteps = np.linspace(999, 0, steps + 1)[:-1]
    sigmas = np.exp(np.interp(timesteps, np.arange(1000), np.log(table())))
    return {"sigmas": sigmas.tolist() + [0.0], "timesteps": timesteps.tolist()}


def both(make: Callable[[bool], Any]) -> dict[str, Any]:
    """The two precisions."""
    return {name: rounded(make(wide), wide) for name, wide in (("f32", False), ("f64", True))}


def write(out: Path, name: str, content: Any) -> None:
    """JSON with a line a case."""
    if isinstance(content, dict) and "cases" in content:
        lines = ",\n".join(json.dumps(case, allow_nan=False, separators=(",", ":")) for case in content["cases"])
        head = json.dumps({key: value for key, value in content.items() if key != "cases"})[:-1]
        text = f'{head}, "cases": [\n{lines}\n]}}\n'
    else:
        text = json.dumps(content) + "\n"
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"{name:20} {len(text) / 1024:7.1f} KiB", flush=True)


def folder(description: str) -> Path:
    """Where the command line says to write, by default among the fixtures."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    fixtures = Path(__file__).resolve().parents[2] / "fixtures" / "sampling"
    parser.add_argument("--out", type=Path, default=fixtures)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    return out


def main() -> None:
    out = folder(__doc__)
    torch.set_num_threads(1)
    write(out, "noise", NOISE)
    for name, cases in CASES.items():
        written = []
        for case in cases:
            for steps in STEPS:
                known = {key: case[key] for key in ("name", "kind", "prediction", "order", "bh", "eta", "config") if key in case}
                known["noising"] = case.get("noising", "additive")
                runs = both(lambda wide: run(case["kind"], case["config"], steps, case, wide))
                written.append({**known, "steps": steps, **runs})
        write(out, name, {"reference": REFERENCE, "cases": written})
    written = [
        {key: case[key] for key in ("name", "kind", "config")}
        | {"steps": steps}
        | both(lambda wide: listed(case, steps, wide))
        for case in SCHEDULES
        for steps in STEPS
    ]
    for steps in STEPS:
        for name, size in (("logit-normal-512", (512, 512, 0.0, 1.5)), ("logit-normal-2048", (2048, 1024, 0.3, 1.2))):
            levels = rounded(logit_normal(*size, steps), False)
            written.append({"name": name, "kind": "Ideogram4Pipeline", "steps": steps, "f32": levels})
        for name, twin in (("simple", simple), ("sgm_uniform", sgm_uniform)):
            written.append({"name": name, "kind": "NumPy twin", "steps": steps, "f64": rounded(twin(steps), True)})
    write(out, "schedules", {"reference": REFERENCE, "cases": written})


if __name__ == "__main__":
    main()
