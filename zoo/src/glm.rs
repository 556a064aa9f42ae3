//! GLM-4-9B and its successors of 0414: transformers' `GlmForCausalLM` and `Glm4ForCausalLM`, llama.cpp's `glm4`.

use crate::{
    decoder::{Biases, DecoderSpec, Family, GgufNaming, Keys, Naming, Wiring},
    rope::RopeKeys,
};
use framework::{Layout, Result, Rope};
use serde::Deserialize;

/// GLM-4-9B (<https://arxiv.org/abs/2406.12793>): a part of each head turns, neighbour with neighbour; gate and up are one
/// matrix.
pub struct Glm;

/// GLM-4-0414: the same with norms on both sides of each sublayer.
pub struct Glm4;

/// What transformers' `GlmConfig` and `Glm4Config` have of their own.
#[derive(Debug, Deserialize)]
pub struct GlmKeys {
    attention_bias: bool,
    partial_rotary_factor: f64,
}

impl GlmKeys {
    fn spec(&self, keys: &Keys) -> Result<DecoderSpec> {
        let rope = keys.rope_of(RopeKeys {
            theta: keys.rope_theta,
            scaling: keys.rope_scaling.as_ref(),
            parameters: keys.rope_parameters.as_ref(),
            share: Some(self.partial_rotary_factor),
        })?;
        let rope = Rope { layout: Layout::Interleaved, ..rope };
        let biases = Biases { qkv: self.attention_bias, ..Biases::default() };
        Ok(DecoderSpec { biases, ..keys.spec(keys.alike(rope, None)?)? })
    }
}

impl Family for Glm {
    const NAMES: &'static [&'static str] = &["glm", "GlmForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = IGNORED;
    const NAMING: Naming = Naming { gate_up: true, ..Naming::PLAIN };
    const GGUF: Option<GgufNaming> = None;
    const DEFAULTS: &'static str = DEFAULTS;
    type Own = GlmKeys;

    fn spec(keys: &Keys, own: &GlmKeys) -> Result<DecoderSpec> {
        own.spec(keys)
    }
}

impl Family for Glm4 {
    const NAMES: &'static [&'static str] = &["glm4", "Glm4ForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = IGNORED;
    const NAMING: Naming = Naming {
        norms: &["input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"],
        ..Glm::NAMING
    };
    const GGUF: Option<GgufNaming> = Some(GgufNaming {
        own: |gguf, keys| {
            let heads = gguf.number("attention.head_count")?.max(1);
            let head_dim = match gguf.optional("attention.key_length")? {
                Some(head_dim) => head_dim,
                None => gguf.number("embedding_length")? / heads,
            };
            keys.insert("head_dim".into(), head_dim.into());
            if let Some(dims) = gguf.optional("rope.dimension_count")? {
                keys.insert("partial_rotary_factor".into(), (f64::from(dims) / f64::from(head_dim.max(1))).into());
            }
            Ok(())
        },
        ..GgufNaming::plain("glm4")
    });
    const DEFAULTS: &'static str = DEFAULTS;
    type Own = GlmKeys;

    fn spec(keys: &Keys, own: &GlmKeys) -> Result<DecoderSpec> {
        Ok(DecoderSpec { wiring: Wiring::Sandwich, ..own.spec(keys)? })
    }
}

const IGNORED: &[(&str, &str)] = &[("attention_dropout", "training only"), ("initializer_range", "training only")];

const DEFAULTS: &str = r#"{
    "hidden_act": "silu", "rope_theta": 1e4, "head_dim": 128, "attention_bias": true, "partial_rotary_factor": 0.5
}"#;
