"""The decoder block of a published Llama: ours beside transformers' on PyTorch, eager, both in f32 on the CPU.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0
    cargo build --release -p benches --bin decoder_block
    .venv/bin/python benches/peers/block.py

writes `benches/results/block.json` and prints the table. Everybody has the same weights, a checkpoint of one layer that is
written for the occasion, and reads the same tokens; the outputs for the last one are compared. They take turns, sample
by sample, with a pause between them, since threads that wait spin for a while.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import ROOT, commit, machine
from tables import table

PAUSE = 0.2
WARM_UP = 3


def write_checkpoint(folder: Path, config: dict) -> dict[str, torch.Tensor]:
    """One layer whose every number is random; returns its tensors."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(parsed(config), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
        else:
            parameter.data.normal_(std=1.0 if "embed" in name else parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return model.state_dict()


def parsed(config: dict) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(**config)


def theirs(config: dict, weights: dict[str, torch.Tensor], attention: str, tokens: int) -> Callable[[], torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_config(
        parsed(config), attn_implementation=attention, dtype=torch.float32
    )
    model.load_state_dict(weights)
    x = model.model.embed_tokens(torch.arange(tokens)[None])
    positions = model.model.rotary_emb(x, torch.arange(tokens)[None])
    # What is causal needs no mask where PyTorch's fused attention is used, as in transformers' own forward.
    hidden = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)[None, None]
    mask = hidden if attention == "eager" else None

    def run() -> torch.Tensor:
        y = model.model.layers[0](x, attention_mask=mask, position_embeddings=positions)
        return y if isinstance(y, torch.Tensor) else y[0]

    return run


class Ours:
    """Our binary, which answers every line with the time of one run."""

    def __init__(self, binary: Path, checkpoint: Path, tokens: int):
        command = [binary.resolve(), "--checkpoint", checkpoint, "--tokens", tokens]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.told = self.read()

    def read(self) -> dict | float:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"decoder_block ended with {self.process.wait()}")
        return json.loads(line)

    def sample(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def timed(run: Callable[[], torch.Tensor]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def operations(config: dict, tokens: int) -> int:
    """Multiplications and additions of the block's products; scores over every key, seen or not."""
    width, hidden, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    queries, pairs = heads * head, 2 * config["num_key_value_heads"] * head
    return tokens * (2 * width * (2 * queries + pairs + 3 * hidden) + 4 * tokens * queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.2-1b", help="the id of a Llama")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--ours", type=Path, default=ROOT / "target/release/decoder_block")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/block.json")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    config = json.loads((ROOT / f"fixtures/headers/{options.model}.json").read_text())["config"]
    # Every token of the input is another, and there are no more.
    config |= {"num_hidden_layers": 1, "vocab_size": options.tokens, "tie_word_embeddings": True}
    with tempfile.TemporaryDirectory() as folder:
        weights = write_checkpoint(Path(folder), config)
        ours = Ours(options.ours, Path(folder), options.tokens)
    peers = {f"PyTorch, {kind} attention": theirs(config, weights, kind, options.tokens) for kind in ["sdpa", "eager"]}
    turns = {"zoo": ours.sample} | {name: lambda run=run: timed(run) for name, run in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(WARM_UP + options.samples):
        for name, sample in turns.items():
            time.sleep(PAUSE)
            took = sample()
            if turn >= WARM_UP:
                times[name].append(took)
    ours.close()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    expected = ours.told["last"]
    runs = [{"name": "zoo", "versions": ours.told["versions"], "milliseconds": times["zoo"], "difference": None}]
    for name, run in peers.items():
        found = run()[0, -1].tolist()
        difference = math.dist(found, expected) / math.hypot(*found)
        runs.append({"name": name, "versions": versions, "milliseconds": times[name], "difference": difference})
    report = {
        "kind": "block",
        **machine("cpu"),
        "commit": commit(),
        "model": options.model,
        "tokens": options.tokens,
        "operations": operations(config, options.tokens),
        "runs": runs,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
