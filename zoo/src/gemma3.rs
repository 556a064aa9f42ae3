//! The language models of Gemma 3: transformers' `Gemma3ForCausalLM`, also inside `Gemma3ForConditionalGeneration`, and
//! llama.cpp's `gemma3`.

use crate::{
    decoder::{Biases, DecoderSpec, Family, GgufNaming, Inside, Keys, LayerKind, LayerType, Naming, Wiring},
    rope::RopeKeys,
};
use framework::{Error, Result, Rope, Score};
use serde::Deserialize;
use serde_json::{Map, json};

/// The family (<https://arxiv.org/abs/2503.19786>): norms on both sides of each sublayer, five layers with a window and a
/// rope of their own to one that sees everything.
pub struct Gemma3;

/// What transformers' `Gemma3TextConfig` has of its own.
#[derive(Debug, Deserialize)]
pub struct Gemma3Keys {
    attention_bias: bool,
    query_pre_attn_scalar: f32,
    sliding_window: Option<i32>,
    layer_types: Option<Vec<LayerType>>,
    sliding_window_pattern: usize,
    rope_local_base_freq: f64,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<bool>,
}

impl Family for Gemma3 {
    const NAMES: &'static [&'static str] =
        &["gemma3_text", "Gemma3ForCausalLM", "gemma3", "Gemma3ForConditionalGeneration"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("attn_logit_softcapping", "null in every Gemma 3, and transformers does not apply it"),
        ("_sliding_window_pattern", "transformers' own note of sliding_window_pattern; layer_types is beside it"),
        ("cache_implementation", "how transformers keeps its cache"),
    ];
    const NAMING: Naming = Naming {
        norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ],
        heads_first: true,
        ..Naming::PLAIN
    };
    const GGUF: Option<GgufNaming> = Some(GgufNaming {
        own: |gguf, keys| {
            let (heads, width) = (gguf.number("attention.head_count")?, gguf.number("embedding_length")?);
            // llama.cpp tells the 27B model, whose scores are scaled otherwise, by its layers.
            if gguf.number("block_count")? == 62 {
                keys.insert("query_pre_attn_scalar".into(), (width / heads.max(1)).into());
            } else if let Some(head_dim) = gguf.optional("attention.key_length")? {
                keys.insert("query_pre_attn_scalar".into(), head_dim.into());
            }
            let rope = keys.remove("rope_parameters").unwrap_or_default();
            keys.insert("rope_parameters".into(), json!({"full_attention": rope}));
            Ok(())
        },
        ..GgufNaming::plain("gemma3")
    });
    const INSIDE: Option<Inside> = Some(Inside {
        model_type: "gemma3",
        ignored: &[
            ("vision_config", "of the model that reads pictures"),
            ("mm_tokens_per_image", "of pictures"),
            ("boi_token_index", "of pictures"),
            ("eoi_token_index", "of pictures"),
            ("image_token_index", "of pictures"),
            ("initializer_range", "training only"),
            ("tie_word_embeddings", "text_config says it of the language model"),
        ],
    });
    const DEFAULTS: &'static str = r#"{
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "tie_word_embeddings": true,
        "attention_bias": false, "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
        "rope_theta": 1e6, "rope_local_base_freq": 1e4
    }"#;
    type Own = Gemma3Keys;

    fn spec(keys: &Keys, own: &Gemma3Keys) -> Result<DecoderSpec> {
        if own.use_bidirectional_attention == Some(true) {
            let problem = "true makes an encoder of it; this model continues text, and needs false";
            return Err(Error::config("use_bidirectional_attention", problem));
        }
        let pattern = own.sliding_window_pattern.max(1);
        let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
        let windows = keys.windows(own.layer_types.as_deref(), own.sliding_window, slides)?;
        let [global, local] = own.ropes(keys)?;
        let kind = |window: Option<i32>| {
            let rope = if window.is_some() { &local } else { &global };
            LayerKind { rope: Some(rope.clone()), window }
        };
        Ok(DecoderSpec {
            wiring: Wiring::Sandwich,
            norm_offset: 1.0,
            qk_norm: true,
            score: Score { scale: own.query_pre_attn_scalar.sqrt().recip(), softcap: None },
            biases: Biases { qkv: own.attention_bias, o: own.attention_bias, ffn: false },
            embedding_scale: Some((keys.hidden_size as f32).sqrt()),
            logit_cap: own.final_logit_softcapping,
            ..keys.spec(windows.into_iter().map(kind).collect())?
        })
    }
}

impl Gemma3Keys {
    /// The ropes of the layers that see everything, and of those that slide: `rope_parameters` by type of layer, or the
    /// spelling before transformers 5, whose scaling is of the former.
    fn ropes(&self, keys: &Keys) -> Result<[Rope; 2]> {
        let named = |name: &str| keys.rope_parameters.as_ref().and_then(|all| all.get(name)?.as_object());
        let stranger = |name: &&String| !["full_attention", "sliding_attention"].contains(&name.as_str());
        if let Some(name) = keys.rope_parameters.iter().flat_map(Map::keys).find(stranger) {
            let problem = "is no type of layer: full_attention and sliding_attention are";
            return Err(Error::config(format!("rope_parameters.{name}"), problem));
        }
        let rope = |theta, scaling, parameters| keys.rope_of(RopeKeys { theta, scaling, parameters, share: None });
        Ok([
            rope(keys.rope_theta, keys.rope_scaling.as_ref(), named("full_attention"))?,
            rope(Some(self.rope_local_base_freq), None, named("sliding_attention"))?,
        ])
    }
}
