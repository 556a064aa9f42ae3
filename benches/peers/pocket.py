"""Steps of Pocket's training: ours beside PyTorch's, eager and compiled, from the same recipe, in one run.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0
    cargo build --release
    .venv/bin/python benches/peers/pocket.py --out . \\
        --ours "target/release/zoo --json-events train pocket/transformer.toml --out {folder} --steps 40"

writes `pocket.json` and `pocket.md`. Every measurement is a process of its own, and they take turns. Ours is whatever prints
a line `{"event": "step", "seconds": …}` a step; `{folder}` becomes an empty folder, so that each run begins anew. The first
steps of all are not counted: programs are compiled in them, and caches fill. Ours reads its pictures and captions, so the
tokenizer and the autoencoder of the recipe are trained before; PyTorch is given random latents and tokens that are on the
device already, and computes in bf16 by autocast with f32 parameters, a fused AdamW and `torch.compile`'s defaults.

Memory is what the device holds more than before, sampled from nvidia-smi: both engines keep what they no longer use. Beside
it stands the peak of what PyTorch itself needed, as its allocator knows it.

On a CPU, `--check` holds the PyTorch model to the twin of docs/composed.md in parity/reference, and to what
`zoo inspect` counts; `--device cpu --batch 2 --steps 3` shows that everything runs.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

from machine import ROOT, commit, machine, printed

OURS = "zoo"
PEERS = {"torch, eager": None, "torch, compiled": {"fullgraph": True}}
COLUMNS = ["", "batch", "step, median", "least to most", "n", "pictures/s", "memory of the device", "allocated, peak"]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's steps, in this process."""
    import torch
    from pocket_torch import Trainer

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    on_gpu = options.device == "gpu"
    trainer = Trainer(options.recipe, "cuda" if on_gpu else "cpu", options.batch, PEERS[options.peer])
    batches = [trainer.examples() for _ in range(4)]
    seconds, loss = [], 0.0
    for step in range(options.warm_up + options.steps):
        begin = time.perf_counter()
        loss = trainer.step(*batches[step % len(batches)])
        seconds.append(time.perf_counter() - begin)
    return {
        "version": f"{options.peer} {torch.__version__}",
        "seconds": seconds[options.warm_up :],
        "loss": loss,
        "batch": trainer.batch,
        "allocated": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


class Memory:
    """Samples how much more memory the device holds than when this began; none where there is no nvidia-smi."""

    def __init__(self) -> None:
        self.before = self.held()
        self.most = self.before
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def held(self) -> int | None:
        text = printed(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"])
        return int(text) << 20 if text.isdigit() else None

    def watch(self) -> None:
        while self.most is not None and not self.ended.wait(0.2):
            self.most = max(self.most, self.held() or 0)

    def __enter__(self) -> "Memory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def more(self) -> int | None:
        return None if self.most is None or self.before is None else self.most - self.before


def steps_of(output: str, options: argparse.Namespace) -> dict[str, Any]:
    """What our command printed."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    steps = [event for event in events if event.get("event") == "step"][options.warm_up :]
    if not steps:
        return {"problem": f"printed no step after the first {options.warm_up}"}
    seconds = [step["seconds"] for step in steps]
    loss, batch = steps[-1].get("loss"), tomllib.loads(options.recipe.read_text())["training"]["batch"]
    return {"version": OURS, "seconds": seconds, "loss": loss, "batch": batch, "allocated": None}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A measurement in a process of its own, or the problem that it met."""
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        if name == OURS:
            command = [part.replace("{folder}", str(Path(folder, "ours"))) for part in shlex.split(options.ours)]
        else:
            command = [sys.executable, __file__, "--peer", name, "--device", options.device, "--recipe", options.recipe]
            command += ["--steps", options.steps, "--warm-up", options.warm_up]
            command += ["--batch", options.batch] if options.batch else []
        try:
            ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=options.limit)
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            return {"problem": str(error)}
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines()
        return {"problem": lines[-1] if lines else f"ended with {ended.returncode}"}
    measured = steps_of(ended.stdout, options) if name == OURS else json.loads(ended.stdout.splitlines()[-1])
    return measured | {"memory": memory.more()}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    for measured in runs:
        if "problem" in measured:
            return {"problem": measured["problem"]}
    seconds = [time for measured in runs for time in measured["seconds"]]
    most = lambda key: max((measured[key] for measured in runs if measured[key] is not None), default=None)
    return {
        "version": runs[0]["version"],
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "n": len(seconds),
        "memory": most("memory"),
        "allocated": most("allocated"),
        "batch": runs[0]["batch"],
    }


def row(name: str, found: dict[str, Any]) -> list[str]:
    if "problem" in found:
        return [name, found["problem"], *[""] * (len(COLUMNS) - 2)]
    memory = lambda key: "n/a" if found[key] is None else f"{found[key] / 1e9:.1f} GB"
    return [
        found["version"],
        str(found["batch"]),
        f"{1e3 * found['median']:.1f} ms",
        f"{1e3 * found['least']:.1f} to {1e3 * found['most']:.1f} ms",
        str(found["n"]),
        f"{found['batch'] / found['median']:.0f}",
        memory("memory"),
        memory("allocated"),
    ]


def table(report: dict[str, Any]) -> str:
    driver = f" (driver {report['driver']})" if report["driver"] else ""
    heading = (
        f"Training steps, bf16 with f32 parameters, on {report['device']}{driver}, commit "
        f"{report['commit']}; {report['rounds']} processes of each, in turn, {report['warm_up']} steps before those that count."
    )
    rows = [row(name, found) for name, found in report["summary"].items()]
    rows = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join([heading, "", *(f"| {' | '.join(cells)} |" for cells in rows)])


def compare(options: argparse.Namespace) -> None:
    report: dict[str, Any] = machine(options.device) | {"commit": options.commit or commit()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in [*([OURS] if options.ours else []), *PEERS]}
    options.out.mkdir(parents=True, exist_ok=True)
    for done in range(1, options.rounds + 1):
        for name, measured in runs.items():
            if not any("problem" in earlier for earlier in measured):
                measured.append(run(name, options))
        # After every round, so that a run that is cut short leaves what it has.
        report |= {"rounds": done, "warm_up": options.warm_up, "runs": runs}
        report["summary"] = {name: summary(of) for name, of in runs.items()}
        (options.out / "pocket.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "pocket.md").write_text(table(report) + "\n")
    print(table(report))


def check(options: argparse.Namespace) -> None:
    """The same weights give what the twin gives, and there are as many as the zoo counts."""
    import torch
    from pocket_torch import Learned  # Before the twin, whose folder it makes known.

    from composed import ComposedTransformer

    torch.manual_seed(0)
    recipe, folder = tomllib.loads(options.recipe.read_text()), options.recipe.parent
    model = Learned(recipe, folder).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    twins = {}
    for part in ["text_encoder", "transformer"]:
        path = folder / recipe["model"][part]
        twins[part] = ComposedTransformer(json.loads(path.read_text())).eval()
        twins[part].load_state_dict(getattr(model, part).state_dict())
        count = sum(parameter.numel() for parameter in twins[part].parameters())
        inspected = json.loads(printed([options.zoo, "--json-events", "inspect", path]) or "{}")
        print(f"{part}: {count} parameters, the zoo counts {inspected.get('bytes', 0) // 4}")
        if 4 * count != inspected.get("bytes"):
            sys.exit("they differ")
    batch, length = 3, model.tokens
    clean, noise = torch.randn(2, batch, model.patches, model.channels)
    sigma, ids = torch.rand(batch), torch.randint(model.vocabulary, (batch, length))
    mask = torch.arange(length) < torch.tensor([[3], [length], [7]])
    image = torch.cartesian_prod(torch.zeros(1), *[torch.arange(model.patches**0.5)] * 2)
    with torch.no_grad():
        states = twins["text_encoder"](input_ids=ids, attention_mask=mask)["last_hidden_state"]
        at = sigma[:, None, None]
        expected = twins["transformer"](
            hidden_states=(1 - at) * clean + at * noise, encoder_hidden_states=states, timestep=sigma,
            attention_mask=mask, txt_ids=torch.zeros(length, 3), img_ids=image,
        )["sample"]  # fmt: skip
        found = model((1 - at) * clean + at * noise, sigma, ids, mask)
        loss = model.loss(clean, noise, sigma, ids, mask)
    apart = ((found - expected).norm() / expected.norm()).item()
    losses = abs(loss.item() - (expected - (noise - clean)).square().mean().item())
    print(f"velocity: relative L2 {apart:.1e} from the twin's; loss {loss.item():.6f}, {losses:.1e} apart")
    if apart > 1e-5 or losses > 1e-5 * loss.item():
        sys.exit("they differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "pocket/transformer.toml")
    parser.add_argument("--ours", help="the command that trains ours; without it, PyTorch alone")
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder of pocket.json and pocket.md")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--batch", type=int, help="PyTorch's, in place of the recipe's")
    parser.add_argument("--steps", type=int, default=30, help="counted in each process of PyTorch's")
    parser.add_argument("--warm-up", type=int, default=10, help="steps of each process that are not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600, help="seconds that a process may take")
    parser.add_argument("--commit", help="where the tree is not a git repository")
    parser.add_argument("--check", action="store_true", help="hold the PyTorch model to the zoo's")
    parser.add_argument("--zoo", type=Path, default=ROOT / "target/release/zoo", help="for --check")
    parser.add_argument("--peer", choices=PEERS, help="measure only this one, in this process, and print JSON")
    options = parser.parse_args()
    if options.check:
        check(options)
    elif options.peer:
        print(json.dumps(measure(options)))
    else:
        compare(options)


if __name__ == "__main__":
    main()
