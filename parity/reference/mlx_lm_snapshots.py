"""Tiny Llamas as mlx-lm saves them, dense and packed, with the tokens that mlx-lm answers.

    python parity/reference/mlx_lm_snapshots.py fixtures/mlx-lm        writes the snapshots
    python parity/reference/mlx_lm_snapshots.py --check DIR...         prints what mlx-lm answers with a snapshot

needs mlx-lm 0.32.2 and mlx[cpu] 0.32.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

PROMPT = [1, 17, 4, 96, 33, 8, 50]
TOKENS = 12

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def mixed(path, module):
    """Widths and groups that differ by path; embeddings as they are."""
    if "embed_tokens" in path:
        return False
    if path.endswith("q_proj"):
        return {"group_size": 32, "bits": 8, "mode": "affine"}
    if path == "model.layers.1.mlp.down_proj":
        return {"group_size": 64, "bits": 3}
    return True


def widened(path, module):
    """The embedding, which is the head too, in more bits than the rest."""
    return {"group_size": 64, "bits": 6} if "embed_tokens" in path else True


def dense(tied):
    """Every parameter random, norms too, so that none is invisible."""
    config = CONFIG | {"tie_word_embeddings": tied}
    model = Model(ModelArgs.from_dict(config))
    mx.random.seed(20)

    def draw(value):
        around = 1.0 if value.ndim == 1 else 0.0
        scale = 0.2 if value.ndim == 1 else 3.0 / value.shape[-1] ** 0.5
        return (around + scale * mx.random.normal(value.shape)).astype(mx.bfloat16)

    model.update(tree_map(draw, model.parameters()))
    return model, config


def answer(model):
    """What follows the prompt, greedily, and the logits after it, both in f32."""
    model.set_dtype(mx.float32)
    tokens, first = list(PROMPT), None
    for _ in range(TOKENS):
        logits = model(mx.array([tokens]))[0, -1]
        first = logits if first is None else first
        tokens.append(int(mx.argmax(logits)))
    return {"prompt": PROMPT, "tokens": tokens[len(PROMPT):], "logits": [round(x, 6) for x in first.tolist()]}


def write(folder, model, config):
    save_model(folder, model)
    save_config(dict(config), folder / "config.json")
    (folder / "README.md").unlink(missing_ok=True)
    again, _ = load_model(folder)
    golden = json.dumps(answer(again))
    (folder / "golden.json").write_text(golden + "\n")
    print(folder.name, golden[:100])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        for folder in arguments.folders:
            print(folder.name, json.dumps(answer(load_model(folder)[0])["tokens"]))
        return
    [out] = arguments.folders
    mx.set_default_device(mx.cpu)
    write(out / "dense", *dense(tied=False))
    for name, tied, predicate in [("uniform", False, None), ("mixed", False, mixed), ("tied", True, widened)]:
        write(out / name, *quantize_model(*dense(tied), 32, 4, quant_predicate=predicate))


if __name__ == "__main__":
    main()
