"""Published checkpoints of mixtures of experts: their config.json, and their files, which hold each expert by itself."""

from __future__ import annotations

from published import Checkpoint, Config, sized

MIXTRAL: Config = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}

LARGE_MIXTRAL: Config = MIXTRAL | {
    "max_position_embeddings": 65536,
    "router_aux_loss_coef": 0.001,
    "transformers_version": "4.38.0",
}

QWEN_3_MOE: Config = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

EXPERTS = {
    "MixtralForCausalLM": ("block_sparse_moe", ["w1", "w3", "w2"]),
    "Qwen3MoeForCausalLM": ("mlp", ["gate_proj", "up_proj", "down_proj"]),
}
"""In published files, the module of a layer that holds its experts, and the gate, up and down matrix of each."""


def mixtral(name: str, repository: str, config: Config) -> Checkpoint:
    """A checkpoint of Mixtral."""
    return Checkpoint(name, repository, config, reference_class="MixtralForCausalLM")


def qwen(name: str, repository: str, config: Config) -> Checkpoint:
    """A checkpoint of Qwen3-MoE."""
    return Checkpoint(name, repository, QWEN_3_MOE | config, reference_class="Qwen3MoeForCausalLM")


SMALL = sized(4096, 14336, 32, 32, 8)
LARGE = sized(6144, 16384, 56, 48, 8)
CHECKPOINTS = [
    mixtral("mixtral-8x7b-v0.1", "mistralai/Mixtral-8x7B-v0.1", MIXTRAL | SMALL),
    mixtral("mixtral-8x7b-instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1", MIXTRAL | SMALL),
    mixtral("mixtral-8x22b-v0.1", "mistralai/Mixtral-8x22B-v0.1", LARGE_MIXTRAL | LARGE),
    mixtral(
        "mixtral-8x22b-instruct-v0.1",
        "mistralai/Mixtral-8x22B-Instruct-v0.1",
        LARGE_MIXTRAL | LARGE | {"vocab_size": 32768},
    ),
    qwen(
        "qwen3-30b-a3b",
        "Qwen/Qwen3-30B-A3B",
        sized(2048, 6144, 48, 32, 4, max_window_layers=48, moe_intermediate_size=768),
    ),
    qwen(
        "qwen3-235b-a22b",
        "Qwen/Qwen3-235B-A22B",
        sized(4096, 12288, 94, 64, 4, max_window_layers=94, moe_intermediate_size=1536),
    ),
]


def published_shapes(reference_class: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of published files, where the class fuses experts in memory."""
    if reference_class not in EXPERTS:
        return shapes
    block, [gate, up, down] = EXPERTS[reference_class]
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".mlp.")
        if part == "gate.weight":
            found[f"{layer}.{block}.gate.weight"] = shape
        elif part == "experts.gate_up_proj":
            for expert in range(shape[0]):
                for matrix in [gate, up]:
                    found[f"{layer}.{block}.experts.{expert}.{matrix}.weight"] = (shape[1] // 2, shape[2])
        elif part == "experts.down_proj":
            for expert in range(shape[0]):
                found[f"{layer}.{block}.experts.{expert}.{down}.weight"] = shape[1:]
        else:
            found[name] = shape
    return found
