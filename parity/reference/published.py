"""The config.json of published checkpoints, field for field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A published safetensors checkpoint."""

    name: str
    repository: str
    config: Config
    rotary_buffers: bool = False
    """Whether its files still hold each layer's f32 `rotary_emb.inv_freq`, as those of Llama 2 do."""
    reference_class: str = "LlamaForCausalLM"
    prefix: str = ""
    """What the files put before the names that the class has in the pinned version."""


LLAMA_2: Config = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 32000,
}

LLAMA_3: Config = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}

LLAMA_3_1: Config = LLAMA_3 | {
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "transformers_version": "4.43.0.dev0",
}

LLAMA_3_2: Config = LLAMA_3_1 | {
    "rope_scaling": LLAMA_3_1["rope_scaling"] | {"factor": 32.0},
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
}

SMOLLM2: Config = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}

SMALL_SMOLLM2: Config = SMOLLM2 | {
    "is_llama_config": True,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}


def sized(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **others: Any) -> Config:
    """The fields in which the members of a family differ."""
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }
    return sizes | others


def llama_2(name: str, repository: str, sizes: Config) -> Checkpoint:
    """A Llama 2 checkpoint; its config.json names its repository."""
    return Checkpoint(name, repository, {"_name_or_path": repository} | LLAMA_2 | sizes, rotary_buffers=True)


T5_XXL: Config = {
    "_name_or_path": "google/t5-v1_1-xxl",
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "use_cache": True,
    "vocab_size": 32128,
}

CLIP_L: Config = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "vocab_size": 49408,
}

SMOLLM2_135M = SMALL_SMOLLM2 | sized(576, 1536, 30, 9, 3, initializer_range=0.041666666666666664)

CHECKPOINTS = [
    llama_2(
        "llama-2-7b",
        "meta-llama/Llama-2-7b-hf",
        sized(4096, 11008, 32, 32, 32, transformers_version="4.31.0.dev0"),
    ),
    llama_2(
        "llama-2-13b",
        "meta-llama/Llama-2-13b-hf",
        sized(5120, 13824, 40, 40, 40, transformers_version="4.32.0.dev0"),
    ),
    llama_2(
        "llama-2-70b",
        "meta-llama/Llama-2-70b-hf",
        sized(8192, 28672, 80, 64, 8, transformers_version="4.32.0.dev0"),
    ),
    Checkpoint("llama-3-8b", "meta-llama/Meta-Llama-3-8B", LLAMA_3 | sized(4096, 14336, 32, 32, 8)),
    Checkpoint("llama-3-70b", "meta-llama/Meta-Llama-3-70B", LLAMA_3 | sized(8192, 28672, 80, 64, 8)),
    Checkpoint("llama-3.1-8b", "meta-llama/Llama-3.1-8B", LLAMA_3_1 | sized(4096, 14336, 32, 32, 8)),
    Checkpoint("llama-3.1-70b", "meta-llama/Llama-3.1-70B", LLAMA_3_1 | sized(8192, 28672, 80, 64, 8)),
    Checkpoint("llama-3.1-405b", "meta-llama/Llama-3.1-405B", LLAMA_3_1 | sized(16384, 53248, 126, 128, 8)),
    Checkpoint("llama-3.2-1b", "meta-llama/Llama-3.2-1B", LLAMA_3_2 | sized(2048, 8192, 16, 32, 8, head_dim=64)),
    Checkpoint("llama-3.2-3b", "meta-llama/Llama-3.2-3B", LLAMA_3_2 | sized(3072, 8192, 28, 24, 8, head_dim=128)),
    Checkpoint(
        "llama-3.3-70b-instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        LLAMA_3_1
        | sized(
            8192,
            28672,
            80,
            64,
            8,
            head_dim=128,
            eos_token_id=[128001, 128008, 128009],
            transformers_version="4.47.0.dev0",
        ),
    ),
    Checkpoint("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", SMOLLM2_135M),
    Checkpoint(
        "smollm2-360m-instruct",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        SMALL_SMOLLM2 | sized(960, 2560, 32, 15, 5),
    ),
    Checkpoint(
        "smollm2-1.7b-instruct",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        SMOLLM2
        | sized(2048, 8192, 24, 32, 32, rope_theta=130000)
        | {
            "transformers.js_config": {
                "dtype": "q4",
                "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"},
                "use_external_data_format": {"model.onnx": True, "model_fp16.onnx": True},
            },
        },
    ),
    *(
        checkpoint
        for name in ["dev", "schnell"]
        for checkpoint in [
            Checkpoint(
                f"flux.1-{name}.text_encoder",
                f"black-forest-labs/FLUX.1-{name}",
                CLIP_L,
                reference_class="CLIPTextModel",
                prefix="text_model.",
            ),
            Checkpoint(
                f"flux.1-{name}.text_encoder_2",
                f"black-forest-labs/FLUX.1-{name}",
                T5_XXL,
                reference_class="T5EncoderModel",
            ),
        ]
    ),
]
