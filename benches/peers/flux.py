"""One denoising step of FLUX.1-dev: ours beside mflux on the same MLX and diffusers' eager, on the same random weights.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0 accelerate==1.15.0 mlx-cpu==0.32.2
    .venv/bin/pip install --no-deps -r benches/peers/flux.txt
    cargo build --release -p benches --bin flux_step
    .venv/bin/python benches/peers/flux.py --checkpoint flux-random --out .

writes `flux.json` and `flux.md`. Every measurement is a process of its own, which opens the checkpoint, does a first
step, two more to warm up, and then those that are timed; the peers take turns. A run that does not count comes first: it
writes the checkpoint with random bf16 weights (24 GB) if there is none, and leaves it in the system's memory, where all
then find it. All are given the same tensors, and the first token of their velocities is compared.

On a CPU, in a minute:

    .venv/bin/python benches/peers/flux.py --device cpu --tiny --size 128 --text-tokens 32 --checkpoint flux-tiny --out .

A machine without network, with Python 3.12, PyTorch, transformers and accelerate, needs the wheels (17 MB) that this
downloads elsewhere, and there `pip install --no-deps --no-index wheels/*.whl`:

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_35_x86_64 --platform manylinux_2_28_x86_64 --dest wheels -r benches/peers/flux.txt

MLX's Python wheel holds no engine: like our binary it takes the `libmlx.so` that the loader finds first, so README's
`LD_LIBRARY_PATH` for CUDA serves both. mflux asks for more packages than these; its transformer does not.
"""

import argparse
import importlib.metadata
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from machine import ROOT, commit, machine

OURS = "zoo"
COLUMNS = ["", "median", "least to most", "n", "weights", "peak memory", "load to first step", "difference"]


@dataclass
class Peer:
    device: str
    versions: dict[str, str]
    """Opens the checkpoint and returns what does a step."""
    load: Callable[[], Callable[[], Any]]
    """Waits until a step is done."""
    finish: Callable[[Any], None]
    """The first token of a velocity."""
    token: Callable[[Any], list[float]]
    reset_peak: Callable[[], None] = lambda: None
    active: Callable[[], int | None] = lambda: None
    peak: Callable[[], int | None] = lambda: None


def tensors(config: dict, options: argparse.Namespace) -> dict:
    """What `benches::flux` gives our model: the place of an element, hashed to a number from -1 to 1."""
    import numpy

    def numbers(*shape: int) -> numpy.ndarray:
        places = numpy.arange(math.prod(shape), dtype=numpy.uint64)
        return (places * 2654435761 % 2**32 / 2**31 - 1).astype(numpy.float32).reshape(shape)

    return {
        "latents": numbers(1, (options.size // 16) ** 2, config["in_channels"]),
        "text": numbers(1, options.text_tokens, config["joint_attention_dim"]),
        "pooled": numbers(1, config["pooled_projection_dim"]),
    }


def mflux(config: dict, options: argparse.Namespace) -> Peer:
    import mlx.core as mx
    from mflux.models.common.config import Config, ModelConfig
    from mflux.models.common.weights.loading.weight_applier import WeightApplier
    from mflux.models.common.weights.loading.weight_loader import WeightLoader
    from mflux.models.flux.model.flux_transformer.transformer import Transformer
    from mflux.models.flux.weights.flux_weight_definition import FluxWeightDefinition

    given = {name: mx.array(value).astype(mx.bfloat16) for name, value in tensors(config, options).items()}
    mx.eval(given)
    # Of a schedule of one step, the first noise level is 1.
    request = Config(ModelConfig.dev(), num_inference_steps=1, height=options.size, width=options.size, guidance=3.5)

    def load() -> Callable[[], mx.array]:
        model = Transformer(ModelConfig.dev(), config["num_layers"], config["num_single_layers"])
        narrow(model, config)
        parts = {part.name: part for part in FluxWeightDefinition.get_components()}
        part = replace(parts["transformer"], hf_subdir="")
        weights = WeightLoader.load_single_local(part, options.checkpoint)
        WeightApplier.apply_and_quantize_single(weights, model, part, quantize_arg=None)
        return lambda: model(0, request, given["latents"], given["text"], given["pooled"])

    return Peer(
        device="gpu" if mx.default_device() == mx.gpu else "cpu",
        versions={"mflux": importlib.metadata.version("mflux"), "mlx": mx.__version__},
        load=load,
        finish=mx.eval,
        token=lambda velocity: velocity[0, 0].astype(mx.float32).tolist(),
        reset_peak=mx.reset_peak_memory,
        active=mx.get_active_memory,
        peak=mx.get_peak_memory,
    )


def narrow(model: Any, config: dict) -> None:
    """mflux's width is that of FLUX.1, and stands in its code; here it becomes another, for `--tiny`."""
    import mlx.core as mx
    from mflux.models.flux.model.flux_transformer.ada_layer_norm_zero import AdaLayerNormZero
    from mlx import nn

    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    if width == model.norm_out.embedding_dim:
        return

    def modulated(self, hidden_states: mx.array, text_embeddings: mx.array) -> tuple[mx.array, ...]:
        shift, scale, *rest = mx.split(self.linear(nn.silu(text_embeddings)), 6, axis=-1)
        return self.norm(hidden_states) * (1 + scale[:, None]) + shift[:, None], *rest

    AdaLayerNormZero.__call__ = modulated
    model.norm_out.embedding_dim = width
    for block in model.transformer_blocks + model.single_transformer_blocks:
        block.attn.num_heads = heads
    for block in model.single_transformer_blocks:
        block.norm.dim = width


def diffusers(config: dict, options: argparse.Namespace) -> Peer:
    import torch
    from diffusers import FluxTransformer2DModel

    torch.set_grad_enabled(False)
    device = "cuda" if options.device == "gpu" else "cpu"
    put = lambda value: torch.as_tensor(value).to(device, torch.bfloat16)
    given = {name: put(value) for name, value in tensors(config, options).items()}
    side = options.size // 16
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")

    def load() -> Callable[[], torch.Tensor]:
        model = FluxTransformer2DModel.from_pretrained(
            options.checkpoint, torch_dtype=torch.bfloat16, device_map=device
        )
        arguments = {
            "hidden_states": given["latents"],
            "encoder_hidden_states": given["text"],
            "pooled_projections": given["pooled"],
            "timestep": put([1.0]),
            "guidance": put([3.5]),
            "img_ids": put(torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)),
            "txt_ids": put(torch.zeros(options.text_tokens, 3)),
        }
        return lambda: model(**arguments).sample

    peer = Peer(
        device=options.device,
        versions={"diffusers": importlib.metadata.version("diffusers"), "torch": torch.__version__},
        load=load,
        finish=lambda _: None,
        token=lambda velocity: velocity[0, 0].float().tolist(),
    )
    if device == "cpu":
        return peer
    return replace(
        peer,
        finish=lambda _: torch.cuda.synchronize(),
        reset_peak=torch.cuda.reset_peak_memory_stats,
        active=torch.cuda.memory_allocated,
        peak=torch.cuda.max_memory_allocated,
    )


PEERS = {"mflux": mflux, "diffusers": diffusers}


def measure(peer: Peer, steps: int) -> dict:
    """As `flux_step` does it."""
    begin = time.perf_counter()
    step = peer.load()
    velocity = step()
    peer.finish(velocity)
    loaded = time.perf_counter() - begin
    token = peer.token(velocity)
    del velocity
    active = peer.active()
    for _ in range(2):
        peer.finish(step())
    peer.reset_peak()
    milliseconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        peer.finish(step())
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    return {
        "device": peer.device,
        "versions": peer.versions,
        "milliseconds": milliseconds,
        "load_to_first_step": loaded,
        "active": active,
        "peak": peer.peak(),
        "velocity": token,
    }


def measure_peer(options: argparse.Namespace) -> dict:
    config = json.loads((options.checkpoint / "config.json").read_text())
    try:
        peer = PEERS[options.peer](config, options)
    except ImportError as error:
        return {"problem": f"not installed: {str(error).splitlines()[0]}"}
    return measure(peer, options.steps)


def run(name: str, options: argparse.Namespace, steps: int) -> dict:
    """A measurement in a process of its own, or the problem that it met."""
    command = [options.ours.resolve()] if name == OURS else [sys.executable, __file__, "--peer", name, "--device", options.device]
    command += ["--size", options.size, "--text-tokens", options.text_tokens, "--steps", steps]
    command += ["--checkpoint", options.checkpoint] + ["--tiny"] * (options.tiny and name == OURS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.json"
        ended = subprocess.run([*map(str, command), "--json", path], capture_output=True, text=True)
        if ended.returncode != 0:
            lines = ended.stderr.strip().splitlines()
            return {"problem": lines[-1] if lines else f"ended with {ended.returncode}"}
        measured = json.loads(path.read_text())
    device = measured.get("device", options.device).split()[0]
    if device != options.device:
        return {"problem": f"computes on the {device}; which `libmlx.so` is found decides"}
    return measured


def summary(runs: list[dict], ours: list[dict]) -> dict:
    for measured in runs:
        if "problem" in measured:
            return {"problem": measured["problem"]}
    times = [time for measured in runs for time in measured["milliseconds"]]
    loads = [measured["load_to_first_step"] for measured in runs]
    memory = lambda key: max((measured[key] for measured in runs if measured[key] is not None), default=None)
    theirs, expected = runs[0]["velocity"], ours[0]["velocity"]
    return {
        "versions": runs[0]["versions"],
        "median": statistics.median(times),
        "least": min(times),
        "most": max(times),
        "n": len(times),
        "active": memory("active"),
        "peak": memory("peak"),
        "load": statistics.median(loads),
        "load_least": min(loads),
        "load_most": max(loads),
        "difference": math.dist(theirs, expected) / math.hypot(*expected),
    }


def row(name: str, measured: dict) -> list[str]:
    if "problem" in measured:
        return [name, measured["problem"], *[""] * (len(COLUMNS) - 2)]
    versions = ", ".join(f"{package} {version}" for package, version in measured["versions"].items())
    memory = lambda key: "n/a" if measured[key] is None else f"{measured[key] / 1e9:.3g} GB"
    load = f"{measured['load']:.1f} s ({measured['load_least']:.1f} to {measured['load_most']:.1f})"
    return [
        versions if name in measured["versions"] else f"{name}, {versions}",
        f"{measured['median']:.0f} ms",
        f"{measured['least']:.0f} to {measured['most']:.0f} ms",
        str(measured["n"]),
        memory("active"),
        memory("peak"),
        load,
        "" if name == OURS else f"{measured['difference']:.1e}",
    ]


def table(report: dict) -> str:
    driver = f" (driver {report['driver']})" if report["driver"] else ""
    blocks = f"{report['config']['num_layers']} + {report['config']['num_single_layers']}"
    size = f"{report['size']} × {report['size']}"
    heading = (
        f"{size} pixels, {report['text_tokens']} text tokens, batch 1, random bf16 weights, {blocks} blocks, on "
        f"{report['device']}{driver}, commit {report['commit']}; {report['rounds']} processes of each, in turn. Of loading: "
        f"median, least and most. Difference: relative L2 of the first token's velocity to ours."
    )
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, measured) for name, measured in report["summary"].items())]
    return "\n".join([heading, "", *(f"| {' | '.join(cells)} |" for cells in rows)])


def compare(options: argparse.Namespace) -> None:
    prepared = run(OURS, options, 1)
    if "problem" in prepared:
        sys.exit(f"{OURS}: {prepared['problem']}")
    report = {
        **machine(options.device),
        "commit": options.commit or commit(),
        "size": options.size,
        "text_tokens": options.text_tokens,
        "config": json.loads((options.checkpoint / "config.json").read_text()),
    }
    runs: dict[str, list[dict]] = {name: [] for name in [OURS, *PEERS]}
    options.out.mkdir(parents=True, exist_ok=True)
    for done in range(1, options.rounds + 1):
        for name, measured in runs.items():
            if not any("problem" in earlier for earlier in measured):
                measured.append(run(name, options, options.steps))
        # After every round, so that a run that is cut short leaves what it has.
        report |= {"rounds": done, "summary": {name: summary(of, runs[OURS]) for name, of in runs.items()}, "runs": runs}
        (options.out / "flux.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "flux.md").write_text(table(report) + "\n")
    print(table(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder; written if it is missing")
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder of flux.json and flux.md")
    parser.add_argument("--ours", type=Path, default=ROOT / "target/release/flux_step")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--size", type=int, default=1024, help="pixels of the picture's side")
    parser.add_argument("--text-tokens", type=int, default=512)
    parser.add_argument("--tiny", action="store_true", help="if the checkpoint is written, 2 + 2 blocks of width 256")
    parser.add_argument("--steps", type=int, default=10, help="timed in each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commit", help="where the tree is not a git repository")
    parser.add_argument("--peer", choices=PEERS, help="measure only this one, in this process")
    parser.add_argument("--json", type=Path, help="where --peer writes")
    options = parser.parse_args()
    if options.peer:
        options.json.write_text(json.dumps(measure_peer(options)))
    else:
        compare(options)


if __name__ == "__main__":
    main()
