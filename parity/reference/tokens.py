"""Writes the goldens of choosing tokens: `python tokens.py [--out ../../fixtures/sampling]`.

Every case gives one row of logits, a prompt and what was generated, and lists the probabilities (`probabilities`) that
transformers' processors and warpers leave, in the order in which `generate` applies them; 0 is a token that cannot be
chosen. transformers has no frequency and no presence penalty: these are a torch twin of OpenAI's definition, which vLLM
computes after the repetition penalty and over generated tokens alone.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sampling import folder, write

VOCABULARY = 37
SOURCE = random.Random(5)
LOGITS = [round(SOURCE.gauss(0, 2.5), 4) for _ in range(VOCABULARY)]
PROMPT = [3, 3, 11, 20, 36, 5]
GENERATED = [11, 8, 8, 8, 0, 20, 36, 8]


class OccurrencePenalties(transformers.LogitsProcessor):
    """`logit - frequency * count - presence * (count > 0)` over what follows the prompt."""

    def __init__(self, frequency: float, presence: float) -> None:
        self.frequency, self.presence = frequency, presence

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(input_ids[0, len(PROMPT) :], minlength=VOCABULARY)
        return scores - self.frequency * counts - self.presence * (counts > 0)


def processors(sampler: dict[str, Any]) -> LogitsProcessorList:
    """What a case asks for, in order."""
    chain = LogitsProcessorList()
    if bias := sampler.get("logit_bias"):
        chain.append(SequenceBiasLogitsProcessor({(int(token),): value for token, value in bias.items()}))
    if penalty := sampler.get("repetition_penalty"):
        chain.append(RepetitionPenaltyLogitsProcessor(penalty))
    chain.append(OccurrencePenalties(sampler.get("frequency_penalty", 0.0), sampler.get("presence_penalty", 0.0)))
    if temperature := sampler.get("temperature"):
        chain.append(TemperatureLogitsWarper(temperature))
    if top_k := sampler.get("top_k"):
        chain.append(TopKLogitsWarper(top_k))
    if top_p := sampler.get("top_p"):
        chain.append(TopPLogitsWarper(top_p))
    if min_p := sampler.get("min_p"):
        chain.append(MinPLogitsWarper(min_p))
    return chain


BIAS = {"8": 4.5, "0": -3.25, "30": 6.0, "36": -100.0}
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.85, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "repetition_penalty": 0.8},
    {"temperature": 1.0, "frequency_penalty": 0.75},
    {"temperature": 1.0, "frequency_penalty": -1.5},
    {"temperature": 1.0, "presence_penalty": 1.25},
    {"temperature": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.6, "repetition_penalty": 1.2},
    {"temperature": 1.0, "logit_bias": BIAS},
    {"temperature": 0.9, "logit_bias": BIAS, "repetition_penalty": 1.4, "frequency_penalty": 2.0, "top_k": 12},
    {
        "temperature": 1.5,
        "logit_bias": BIAS,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.9,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.02,
    },
]


def case(sampler: dict[str, Any], generated: list[int]) -> dict[str, Any]:
    """The probabilities of every token after one sampler's processors."""
    scores = processors(sampler)(torch.tensor([PROMPT + generated]), torch.tensor([LOGITS]))
    probabilities = scores[0].softmax(-1).tolist()
    return {"sampler": sampler, "generated": generated, "probabilities": [float(f"{p:.8g}") for p in probabilities]}


def main() -> None:
    reference = {"package": "transformers", "version": transformers.__version__}
    cases = [case(sampler, generated) for sampler in SAMPLERS for generated in ([], GENERATED)]
    write(folder(__doc__), "tokens", {"reference": reference, "logits": LOGITS, "prompt": PROMPT, "cases": cases})


if __name__ == "__main__":
    main()
