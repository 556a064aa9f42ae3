"""Writes the goldens of perplexity: `python perplexity.py [--out ../../fixtures/text]`.

The loop of transformers' guide to perplexity over the tiny model of `fixtures/llama/base` in f64: strided windows, of whose
last tokens, those that no window before has scored, the losses are taken. The guide weighs the mean of a window by one token
fewer than it is of; here the losses are summed (`nats`) and the tokens counted.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from sampling import folder, write

BASE = Path(__file__).resolve().parents[2] / "fixtures" / "llama" / "base"
WINDOWS = [(16, 8), (16, 5), (16, 16), (61, 1), (7, 7), (7, 1), (61, 61), (200, 100), (2, 1)]


def perplexity(model: LlamaForCausalLM, ids: torch.Tensor, context: int, stride: int) -> dict[str, Any]:
    """The summed losses and their number."""
    nats, tokens, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        window = ids[:, begin:end]
        target = window.clone()
        target[:, : -(end - previous)] = -100
        logits = model(window).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits[0], target[0, 1:], reduction="none", ignore_index=-100)
        nats += float(losses.sum())
        tokens += int((target[0, 1:] != -100).sum())
        previous = end
        if end == ids.shape[1]:
            break
    return {"context": context, "stride": stride, "nats": nats, "tokens": tokens, "value": math.exp(nats / tokens)}


def main() -> None:
    out = folder(__doc__)
    config = json.loads((BASE / "case.json").read_text(encoding="utf-8"))["config"]
    model = LlamaForCausalLM(LlamaConfig(**config)).double().eval()
    model.load_state_dict({name: tensor.double() for name, tensor in load_file(BASE / "weights.safetensors").items()})
    source = random.Random(3)
    ids = [source.randrange(config["vocab_size"]) for _ in range(61)]
    with torch.no_grad():
        cases = [perplexity(model, torch.tensor([ids]), *window) for window in WINDOWS]
    reference = {"package": "transformers", "version": transformers.__version__}
    write(out, "perplexity", {"reference": reference, "tokens": ids, "cases": cases})


if __name__ == "__main__":
    main()
