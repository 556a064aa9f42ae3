"""SmolLM2 from one GGUF file: zoo beside mlx-lm, on the same packed integers, the same prompt, in one run.

    python3 -m venv .venv && .venv/bin/pip install -r benches/peers/requirements.txt
    cargo build --release && ./target/release/zoo fetch smollm2-135m-instruct
    .venv/bin/python benches/peers/smollm2.py
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.models import llama

from machine import ROOT, commit

GOLDEN = json.loads((ROOT / "fixtures/llama/smollm2-135m-instruct.Q4_1/golden.json").read_text())
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def half_split(rows: mx.array, heads: int) -> mx.array:
    """Rows of each head from llama.cpp's interleaved order back to Hugging Face's."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def upstream(name: str) -> str:
    """A GGUF tensor's name as mlx-lm's."""
    *layer, stem, kind = name.split(".")
    prefix = f"model.layers.{layer[1]}." if layer else ""
    return f"{prefix}{NAMES[stem]}.{kind}"


def mlx_lm_model(path: Path) -> nn.Module:
    tensors, metadata = mx.load(str(path), return_metadata=True)
    number = lambda key: metadata[f"llama.{key}"].item()
    heads, kv_heads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=int(number("embedding_length")),
            num_hidden_layers=int(number("block_count")),
            intermediate_size=int(number("feed_forward_length")),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
            rope_theta=number("rope.freq_base"),
            vocab_size=tensors["token_embd.weight"].shape[0],
            tie_word_embeddings=True,
        )
    )
    weights = {}
    for name, tensor in tensors.items():
        if ".attn_q." in name:
            tensor = half_split(tensor, heads)
        elif ".attn_k." in name:
            tensor = half_split(tensor, kv_heads)
        weights[upstream(name)] = tensor

    def packing(path: str, module: nn.Module) -> dict | bool:
        if f"{path}.scales" not in weights:
            return False
        columns = weights[f"{path}.scales"].shape[-1] * 32
        return {"group_size": 32, "bits": weights[f"{path}.weight"].shape[-1] * 32 // columns}

    nn.quantize(model, class_predicate=packing)
    model.load_weights(list(weights.items()))
    mx.eval(model.parameters())
    return model


def run_mlx_lm(model: nn.Module, prompt: list[int], tokens: int) -> tuple[list[int], float, float]:
    begin = time.perf_counter()
    answer, prefill, after_first = [], 0.0, 0.0
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=tokens):
        answer.append(int(token))
        if len(answer) == 1:
            prefill, after_first = time.perf_counter() - begin, time.perf_counter()
    decode = time.perf_counter() - after_first
    return answer, len(prompt) / prefill, (tokens - 1) / decode


def run_zoo(binary: Path, path: Path, tokens: int) -> tuple[list[int], float, float]:
    command = [binary, "--json-events", "chat", "--model", path, "--temperature", "0", "--max-tokens", str(tokens)]
    output = subprocess.run([*map(str, command), GOLDEN["question"]], capture_output=True, text=True, check=True).stdout
    done = json.loads(output.splitlines()[-1])
    assert done["prompt_tokens"] == len(GOLDEN["prompt"])
    return done["tokens"], done["prefill_tokens_per_second"], done["decode_tokens_per_second"]


def default_model() -> Path:
    output = subprocess.run(
        [ROOT / "target/release/zoo", "fetch", "smollm2-135m-instruct"], capture_output=True, text=True, check=True
    )
    return Path(output.stdout.strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the GGUF file; by default the fetched one")
    parser.add_argument("--zoo", type=Path, default=ROOT / "target/release/zoo")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    path = arguments.model or default_model()
    reference = mlx_lm_model(path)
    runs: dict[str, list[tuple[list[int], float, float]]] = {"mlx-lm, packed": [], "zoo, --weights auto": []}
    for _ in range(arguments.rounds):
        runs["mlx-lm, packed"].append(run_mlx_lm(reference, GOLDEN["prompt"], arguments.tokens))
        runs["zoo, --weights auto"].append(run_zoo(arguments.zoo, path, arguments.tokens))
    print(f"{len(GOLDEN['prompt'])} prompt tokens, {arguments.tokens} generated, median of {arguments.rounds} rounds")
    print(f"taken in turn, commit {commit()}, MLX {mx.__version__} beside mlx-lm\n")
    print("| | prefill, tokens/s | decode, tokens/s | decode, lowest to highest |\n|---|---|---|---|")
    medians = []
    for name, results in runs.items():
        prefill, decode = ([result[index] for result in results] for index in (1, 2))
        medians.append((statistics.median(prefill), statistics.median(decode)))
        print(f"| {name} | {medians[-1][0]:.1f} | {medians[-1][1]:.1f} | {min(decode):.1f} to {max(decode):.1f} |")
    ratios = [ours / theirs for theirs, ours in zip(*medians)]
    print(f"| ratio | {ratios[0]:.1f} | {ratios[1]:.1f} | |")
    equal = runs["mlx-lm, packed"][0][0] == runs["zoo, --weights auto"][0][0]
    print(f"\nThe same {arguments.tokens} tokens: {'yes' if equal else 'no'}")


if __name__ == "__main__":
    main()
