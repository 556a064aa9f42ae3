//! Llama 2, 3, 3.1, 3.2, 3.3 and SmolLM2: transformers' `LlamaForCausalLM`, llama.cpp's `llama`.

use crate::decoder::{Biases, DecoderSpec, Family, GgufNaming, Keys};
use framework::Result;
use serde::Deserialize;

/// The family.
pub struct Llama;

/// What transformers' `LlamaConfig` has of its own.
#[derive(Debug, Deserialize)]
pub struct LlamaKeys {
    attention_bias: bool,
    mlp_bias: bool,
}

impl Family for Llama {
    const NAMES: &'static [&'static str] = &["llama", "LlamaForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("pretraining_tp", "splits products among devices; the result is the same"),
        ("rope_interleaved", "SmolLM2's note on its training code; the file is half-split"),
        ("is_llama_config", "SmolLM2's note on its training code"),
    ];
    const GGUF: Option<GgufNaming> = Some(GgufNaming {
        architecture: "llama",
        interleaved: true,
        own: |gguf, keys| {
            if let Some(dims) = gguf.optional("rope.dimension_count")? {
                keys.entry("head_dim").or_insert(dims.into());
            }
            Ok(())
        },
    });
    const DEFAULTS: &'static str =
        r#"{"hidden_act": "silu", "rope_theta": 1e4, "attention_bias": false, "mlp_bias": false}"#;
    type Own = LlamaKeys;

    fn spec(keys: &Keys, own: &LlamaKeys) -> Result<DecoderSpec> {
        let &LlamaKeys { attention_bias, mlp_bias } = own;
        let biases = Biases { qkv: attention_bias, o: attention_bias, ffn: mlp_bias };
        Ok(DecoderSpec { biases, ..keys.spec(keys.alike(keys.rope()?, None)?)? })
    }
}
