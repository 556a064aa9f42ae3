//! Mistral 7B and its relatives: transformers' `MistralForCausalLM`. llama.cpp's files of it say `llama`.

use crate::decoder::{DecoderSpec, Family, GgufNaming, Keys};
use framework::Result;
use serde::Deserialize;

/// The family (<https://arxiv.org/abs/2310.06825>).
pub struct Mistral;

/// What transformers' `MistralConfig` has of its own.
#[derive(Debug, Deserialize)]
pub struct MistralKeys {
    sliding_window: Option<i32>,
}

impl Family for Mistral {
    const NAMES: &'static [&'static str] = &["mistral", "MistralForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] =
        &[("attention_dropout", "training only"), ("initializer_range", "training only")];
    const GGUF: Option<GgufNaming> = None;
    const DEFAULTS: &'static str =
        r#"{"hidden_act": "silu", "rope_theta": 1e4, "sliding_window": 4096, "num_key_value_heads": 8}"#;
    type Own = MistralKeys;

    fn spec(keys: &Keys, own: &MistralKeys) -> Result<DecoderSpec> {
        keys.spec(keys.alike(keys.rope()?, own.sliding_window)?)
    }
}
