"""The config.json of published checkpoints, field for field."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    renamed: dict[str, str] = field(default_factory=dict)
    """How names of that version begin, and how they begin in the files."""


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

QWEN_2: Config = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

QWEN_2_5: Config = QWEN_2 | {"max_window_layers": 70, "sliding_window": 131072, "transformers_version": "4.43.1"}

QWEN_3: Config = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

MISTRAL: Config = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

GEMMA_3_1B: Config = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}

SMOLLM3: Config = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 128256,
}

GLM_4: Config = {
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.0.dev0",
    "use_cache": True,
    "vocab_size": 151552,
}

SMOLLM2_135M = SMALL_SMOLLM2 | sized(576, 1536, 30, 9, 3, initializer_range=0.041666666666666664)

WIDE: Config = {"vocab_size": 152064}
"""Of Qwen's larger models, whose tables are padded further."""
TIED: Config = {"tie_word_embeddings": True}


def qwen(name: str, repository: str, config: Config) -> Checkpoint:
    """A checkpoint of Qwen's, under the class that its config names."""
    return Checkpoint(name, f"Qwen/{repository}", config, reference_class=config["architectures"][0])


QWEN = [
    *(
        qwen(f"qwen2-{size}-instruct", f"Qwen2-{size.upper()}-Instruct", QWEN_2 | config)
        for size, config in {
            "0.5b": sized(896, 4864, 24, 14, 2, max_window_layers=24) | TIED,
            "1.5b": sized(1536, 8960, 28, 12, 2, max_window_layers=28) | TIED,
            "7b": sized(3584, 18944, 28, 28, 4, max_window_layers=28) | WIDE,
            "72b": sized(8192, 29568, 80, 64, 8, max_window_layers=80) | WIDE,
        }.items()
    ),
    *(
        qwen(f"qwen2.5-{size}-instruct", f"Qwen2.5-{size.upper()}-Instruct", QWEN_2_5 | config)
        for size, config in {
            "0.5b": sized(896, 4864, 24, 14, 2, max_window_layers=21, sliding_window=32768) | TIED,
            "1.5b": sized(1536, 8960, 28, 12, 2, max_window_layers=21, sliding_window=32768) | TIED,
            "3b": sized(2048, 11008, 36, 16, 2, sliding_window=32768) | TIED,
            "7b": sized(3584, 18944, 28, 28, 4, max_window_layers=28) | WIDE,
            "14b": sized(5120, 13824, 48, 40, 8) | WIDE,
            "32b": sized(5120, 27648, 64, 40, 8) | WIDE,
            "72b": sized(8192, 29568, 80, 64, 8) | WIDE,
        }.items()
    ),
    *(
        qwen(f"qwen3-{size}", f"Qwen3-{size.upper()}", QWEN_3 | config)
        for size, config in {
            "0.6b": sized(1024, 3072, 28, 16, 8, max_window_layers=28) | TIED,
            "1.7b": sized(2048, 6144, 28, 16, 8, max_window_layers=28) | TIED,
            "4b": sized(2560, 9728, 36, 32, 8, max_window_layers=36) | TIED,
            "8b": sized(4096, 12288, 36, 32, 8, max_window_layers=36),
            "14b": sized(5120, 17408, 40, 40, 8, max_window_layers=40),
            "32b": sized(5120, 25600, 64, 64, 8, max_window_layers=64),
        }.items()
    ),
]


def mistral(name: str, repository: str, **others: Any) -> Checkpoint:
    """A checkpoint of Mistral 7B."""
    config = MISTRAL | sized(4096, 14336, 32, 32, 8, **others)
    return Checkpoint(name, f"mistralai/{repository}", config, reference_class="MistralForCausalLM")


def gemma_3(size: str, **text: Any) -> Checkpoint:
    """A checkpoint of Gemma 3 that reads pictures; what its text_config leaves out has the class's default."""
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        }
        | text,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
    return Checkpoint(
        f"gemma-3-{size}-it",
        f"google/gemma-3-{size}-it",
        config,
        reference_class="Gemma3ForConditionalGeneration",
        renamed={
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.vision_model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
        },
    )


CHECKPOINTS = [
    gemma_3("4b", hidden_size=2560, intermediate_size=10240, num_hidden_layers=34),
    gemma_3("12b", **sized(3840, 15360, 48, 16, 8)),
    gemma_3("27b", **sized(5376, 21504, 62, 32, 16, head_dim=128, query_pre_attn_scalar=168)),
    *QWEN,
    mistral(
        "mistral-7b-v0.1",
        "Mistral-7B-v0.1",
        rope_theta=10000.0,
        sliding_window=4096,
        transformers_version="4.34.0.dev0",
        vocab_size=32000,
    ),
    mistral(
        "mistral-7b-instruct-v0.2",
        "Mistral-7B-Instruct-v0.2",
        attention_dropout=0.0,
        rope_theta=1000000.0,
        sliding_window=None,
        transformers_version="4.36.0",
        vocab_size=32000,
    ),
    mistral(
        "mistral-7b-instruct-v0.3",
        "Mistral-7B-Instruct-v0.3",
        attention_dropout=0.0,
        rope_theta=1000000.0,
        sliding_window=None,
        transformers_version="4.42.0.dev0",
        vocab_size=32768,
    ),
    Checkpoint(
        "gemma-3-1b-it",
        "google/gemma-3-1b-it",
        GEMMA_3_1B | sized(1152, 6912, 26, 4, 1),
        reference_class="Gemma3ForCausalLM",
    ),
    Checkpoint(
        "smollm3-3b",
        "HuggingFaceTB/SmolLM3-3B",
        SMOLLM3 | sized(2048, 11008, 36, 16, 4),
        reference_class="SmolLM3ForCausalLM",
    ),
    Checkpoint(
        "glm-4-9b-chat",
        "zai-org/glm-4-9b-chat-hf",
        GLM_4
        | sized(4096, 13696, 40, 32, 2)
        | {
            "architectures": ["GlmForCausalLM"],
            "max_position_embeddings": 131072,
            "model_type": "glm",
            "rms_norm_eps": 1.5625e-07,
            "transformers_version": "4.46.0.dev0",
        },
        reference_class="GlmForCausalLM",
    ),
    Checkpoint(
        "glm-4-9b-0414",
        "zai-org/GLM-4-9B-0414",
        GLM_4 | sized(4096, 13696, 40, 32, 2),
        reference_class="Glm4ForCausalLM",
    ),
    Checkpoint(
        "glm-4-32b-0414",
        "zai-org/GLM-4-32B-0414",
        GLM_4 | sized(6144, 23040, 61, 48, 2, attention_bias=False),
        reference_class="Glm4ForCausalLM",
    ),
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
