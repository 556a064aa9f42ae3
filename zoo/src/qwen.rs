//! Qwen2, Qwen2.5 and Qwen3: transformers' `Qwen2ForCausalLM` and `Qwen3ForCausalLM`, llama.cpp's `qwen2` and `qwen3`.

use crate::decoder::{Biases, DecoderSpec, Family, GgufNaming, Keys, LayerKind, LayerType};
use framework::Result;
use serde::Deserialize;

/// The second generation: queries, keys and values have biases.
pub struct Qwen2;

/// The third generation: each head's queries and keys are normalised.
pub struct Qwen3;

/// What transformers' `Qwen2Config` and `Qwen3Config` have of their own.
#[derive(Debug, Deserialize)]
pub struct QwenKeys {
    attention_bias: bool,
    use_sliding_window: bool,
    sliding_window: Option<i32>,
    max_window_layers: usize,
    layer_types: Option<Vec<LayerType>>,
}

impl QwenKeys {
    /// The layers: from `max_window_layers` on they slide, where windows are used at all.
    fn layers(&self, keys: &Keys) -> Result<Vec<LayerKind>> {
        let rope = keys.rope()?;
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        let slides = |layer| window.is_some() && layer >= self.max_window_layers;
        let windows = keys.windows(self.layer_types.as_deref(), window, slides)?;
        Ok(windows.into_iter().map(|window| LayerKind { rope: Some(rope.clone()), window }).collect())
    }
}

impl Family for Qwen2 {
    const NAMES: &'static [&'static str] = &["qwen2", "Qwen2ForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] =
        &[("attention_dropout", "training only"), ("initializer_range", "training only"), USE_MROPE];
    const GGUF: Option<GgufNaming> = Some(GgufNaming::plain("qwen2"));
    const DEFAULTS: &'static str = r#"{
        "hidden_act": "silu", "rope_theta": 1e4, "attention_bias": true,
        "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28
    }"#;
    type Own = QwenKeys;

    fn spec(keys: &Keys, own: &QwenKeys) -> Result<DecoderSpec> {
        let biases = Biases { qkv: own.attention_bias, ..Biases::default() };
        Ok(DecoderSpec { biases, ..keys.spec(own.layers(keys)?)? })
    }
}

impl Family for Qwen3 {
    const NAMES: &'static [&'static str] = &["qwen3", "Qwen3ForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] =
        &[("attention_dropout", "training only"), ("initializer_range", "training only")];
    const GGUF: Option<GgufNaming> = Some(GgufNaming::plain("qwen3"));
    const DEFAULTS: &'static str = r#"{
        "hidden_act": "silu", "rope_theta": 1e4, "attention_bias": false, "head_dim": 128,
        "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28
    }"#;
    type Own = QwenKeys;

    fn spec(keys: &Keys, own: &QwenKeys) -> Result<DecoderSpec> {
        let biases = Biases { qkv: own.attention_bias, o: own.attention_bias, ffn: false };
        Ok(DecoderSpec { biases, qk_norm: true, ..keys.spec(own.layers(keys)?)? })
    }
}

/// Of some configs of Qwen2.5.
const USE_MROPE: (&str, &str) = ("use_mrope", "false in every text model: positions of text have one axis");
