//! SmolLM3: transformers' `SmolLM3ForCausalLM`, llama.cpp's `smollm3`.

use crate::decoder::{Biases, DecoderSpec, Family, GgufNaming, Keys, LayerKind, LayerType};
use framework::{Error, Result};
use serde::Deserialize;

/// The family: every fourth layer does not know where tokens stand (<https://arxiv.org/abs/2501.18795>).
pub struct SmolLm3;

/// What transformers' `SmolLM3Config` has of its own.
#[derive(Debug, Deserialize)]
pub struct SmolLm3Keys {
    attention_bias: bool,
    mlp_bias: bool,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: usize,
    use_sliding_window: bool,
    sliding_window: Option<i32>,
    layer_types: Option<Vec<LayerType>>,
}

impl Family for SmolLm3 {
    const NAMES: &'static [&'static str] = &["smollm3", "SmolLM3ForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("max_window_layers", "a note that transformers does not read; no_rope_layers says which layers slide"),
        ("pretraining_tp", "splits products among devices; the result is the same"),
    ];
    const GGUF: Option<GgufNaming> = Some(GgufNaming { interleaved: true, ..GgufNaming::plain("smollm3") });
    const DEFAULTS: &'static str = r#"{
        "hidden_act": "silu", "rope_theta": 2e6, "attention_bias": false, "mlp_bias": false,
        "tie_word_embeddings": true, "no_rope_layer_interval": 4, "use_sliding_window": false
    }"#;
    type Own = SmolLm3Keys;

    fn spec(keys: &Keys, own: &SmolLm3Keys) -> Result<DecoderSpec> {
        let layers = keys.layers()?;
        let interval = own.no_rope_layer_interval.max(1);
        let by_interval = || layers.clone().map(|layer| u8::from(!(layer + 1).is_multiple_of(interval))).collect();
        let ropes: Vec<u8> = own.no_rope_layers.clone().unwrap_or_else(by_interval);
        if ropes.len() < layers.len() {
            let problem = format!("{} entries where there are {} layers", ropes.len(), layers.len());
            return Err(Error::config("no_rope_layers", problem));
        }
        let used = own.use_sliding_window && own.sliding_window.is_some();
        let slides = |layer: usize| used && ropes.get(layer) == Some(&0);
        let windows = keys.windows(own.layer_types.as_deref(), own.sliding_window, slides)?;
        let rope = keys.rope()?;
        let kind =
            |(window, &turns): (Option<i32>, &u8)| LayerKind { rope: (turns != 0).then(|| rope.clone()), window };
        let biases = Biases { qkv: own.attention_bias, o: own.attention_bias, ffn: own.mlp_bias };
        Ok(DecoderSpec { biases, ..keys.spec(windows.into_iter().zip(&ropes).map(kind).collect())? })
    }
}
