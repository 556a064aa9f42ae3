"""A published language model at its real size with random weights: ours beside mlx-lm.

    python3 -m venv .venv && .venv/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    .venv/bin/python benches/peers/language.py smollm2-135m-instruct --bits 32

writes `benches/results/language-ID-BITS.json` and prints the table. Nothing is downloaded: both build the model from the
config in `fixtures/headers/`. Every measurement is a process of its own, and they take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import ROOT, commit, machine
from tables import table

GROUP = 64
WARM_UP = 2


def mlx_lm(options: argparse.Namespace) -> dict:
    """What `zoo bench` does, in mlx-lm's words."""
    import importlib.metadata

    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import _get_classes

    begin = time.perf_counter()
    on_cpu = mx.default_device() == mx.cpu
    wide = options.bits == 32 or (options.bits < 16 and on_cpu)
    mx.random.seed(0)
    config = json.loads((ROOT / f"fixtures/headers/{options.id}.json").read_text())["config"]
    model_class, arguments_class = _get_classes(config)
    model = model_class(arguments_class.from_dict(config))
    model.set_dtype(mx.float32 if wide else mx.bfloat16)
    if options.bits < 16:
        nn.quantize(model, GROUP, options.bits)
    mx.eval(model.parameters())
    load = time.perf_counter() - begin
    prompt = mx.array([place * 2654435761 % 2**32 % config["vocab_size"] for place in range(options.prompt_tokens)])

    def run(tokens: int) -> tuple[float, float]:
        begin = time.perf_counter()
        # The first token belongs to the prompt.
        answer = generate_step(prompt, model, max_tokens=tokens + 1)
        next(answer)
        first = time.perf_counter()
        for _ in answer:
            pass
        return first - begin, time.perf_counter() - first

    run(min(WARM_UP, options.tokens))
    times = [run(options.tokens) for _ in range(options.repeats)]
    return {
        "versions": {"mlx-lm": importlib.metadata.version("mlx-lm"), "mlx": mx.__version__},
        "dtype": "f32" if wide else "bf16",
        "load": load,
        "prefill": [prefill for prefill, _ in times],
        "decode": [decode for _, decode in times],
        "peak": mx.get_peak_memory(),
    }


def arguments(options: argparse.Namespace) -> list[str]:
    counts = {"prompt-tokens": options.prompt_tokens, "tokens": options.tokens, "repeats": options.repeats}
    return [options.id, "--bits", str(options.bits), *(word for key, value in counts.items() for word in (f"--{key}", str(value)))]


def output(command: list) -> dict:
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(f"{command[0]}: {ended.stderr or ended.stdout}")
    return json.loads(ended.stdout.splitlines()[-1])


def ours(options: argparse.Namespace) -> dict:
    measured = output([options.zoo.resolve(), "--json-events", "bench", *arguments(options)])
    return {
        "versions": {"mlx": measured["mlx"]},
        "dtype": measured["dtype"],
        "load": measured["load_seconds"],
        "prefill": measured["prefill"]["seconds"],
        "decode": measured["decode"]["seconds"],
        "peak": measured["peak"],
    }


def theirs(options: argparse.Namespace) -> dict:
    return output([sys.executable, __file__, *arguments(options), "--peer"])


def joined(name: str, rounds: list[dict]) -> dict:
    every = lambda key: [time for measured in rounds for time in measured[key]]
    return {
        "name": name,
        "versions": rounds[0]["versions"],
        "dtype": rounds[0]["dtype"],
        "load": statistics.median(measured["load"] for measured in rounds),
        "prefill": every("prefill"),
        "decode": every("decode"),
        "peak": max(measured["peak"] for measured in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("id", help="the id of a language model, as `zoo models` prints it")
    parser.add_argument("--bits", type=int, choices=[32, 16, 8, 4], required=True)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="whose name the report carries")
    parser.add_argument("--zoo", type=Path, default=ROOT / "target/release/zoo")
    parser.add_argument("--out", type=Path, help="by default benches/results/language-ID-BITS.json")
    parser.add_argument("--peer", action="store_true", help="measure only mlx-lm, in this process")
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(mlx_lm(options)))
        return
    runs: dict[str, list[dict]] = {"zoo": [], "mlx-lm": []}
    for _ in range(options.rounds):
        runs["zoo"].append(ours(options))
        runs["mlx-lm"].append(theirs(options))
    report = {
        "kind": "language",
        **machine(options.device),
        "commit": commit(),
        "model": options.id,
        "bits": options.bits,
        "prompt_tokens": options.prompt_tokens,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "runs": [joined(name, rounds) for name, rounds in runs.items()],
    }
    out = options.out or ROOT / f"benches/results/language-{options.id}-{options.bits}.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
