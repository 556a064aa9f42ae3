//! Mixtral: transformers' `MixtralForCausalLM`. llama.cpp's files of it say `llama`.

use crate::decoder::{DecoderSpec, Family, GgufNaming, Keys, Mixture, Naming};
use framework::{Choice, Dtype, ExpertSizes, Result, Scoring};
use serde::Deserialize;

/// The family (<https://arxiv.org/abs/2401.04088>): Mistral with experts in every layer.
pub struct Mixtral;

/// What transformers' `MixtralConfig` has of its own.
#[derive(Debug, Deserialize)]
pub struct MixtralKeys {
    sliding_window: Option<i32>,
    num_local_experts: i32,
    num_experts_per_tok: i32,
}

impl Family for Mixtral {
    const NAMES: &'static [&'static str] = &["mixtral", "MixtralForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("output_router_logits", "adds outputs for training; the logits are the same"),
        ("router_aux_loss_coef", "training only"),
        ("router_jitter_noise", "training only"),
    ];
    const NAMING: Naming = Naming { experts_in: "block_sparse_moe", expert: ["w1", "w3", "w2"], ..Naming::PLAIN };
    const GGUF: Option<GgufNaming> = None;
    const DEFAULTS: &'static str = r#"{
        "hidden_act": "silu", "rope_theta": 1e6, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2
    }"#;
    type Own = MixtralKeys;

    fn spec(keys: &Keys, own: &MixtralKeys) -> Result<DecoderSpec> {
        let spec = keys.spec(keys.alike(keys.rope()?, own.sliding_window)?)?;
        let mixture = Mixture {
            experts: ExpertSizes { count: own.num_local_experts, hidden: spec.hidden },
            choice: Choice { top_k: own.num_experts_per_tok, scoring: Scoring::Softmax, normalise: true, scale: 1.0 },
            accumulate: Some(Dtype::Float32),
            layers: vec![true; spec.layers.len()],
        };
        Ok(DecoderSpec { mixture: Some(mixture), ..spec })
    }
}
