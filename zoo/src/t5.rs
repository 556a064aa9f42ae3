//! The encoders of T5, T5 1.1 and UMT5: transformers' `T5EncoderModel` and `UMT5EncoderModel`.

use crate::{
    Arguments, Outputs, Result,
    arguments::forward_only,
    registry::{Family, Layout, json_config},
    sizes::{heads, positive},
};
use framework::{
    AnyFfn, AnyModulation, AnyNorm, Array, At, Attention, Block, Embedding, Error, Glu, Heads, Init, Lowered, Mask,
    Mlp, Norm, RelativeBias, RmsNorm, Score, call, math, module, weights::WeightMap,
};
use serde::Deserialize;

/// The family.
pub struct T5;

/// transformers' `T5Config` and `UMT5Config`.
#[derive(Debug, Deserialize)]
pub struct T5Config {
    model_type: Kind,
    vocab_size: i32,
    d_model: i32,
    d_kv: i32,
    d_ff: i32,
    num_layers: i32,
    num_heads: i32,
    relative_attention_num_buckets: Option<i32>,
    relative_attention_max_distance: Option<i32>,
    layer_norm_epsilon: Option<f32>,
    feed_forward_proj: Option<String>,
}

/// Which of the two it is: they differ in what the layers know of distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// One table serves all layers.
    T5,
    /// Each layer has its own.
    Umt5,
}

/// A bidirectional transformer over tokens that knows positions by their distance only
/// (<https://arxiv.org/abs/1910.10683>).
pub struct T5Encoder {
    /// `[vocabulary, D]`.
    pub embed_tokens: Embedding,
    /// What layers add to their scores: a layer without a table of its own has the last one before it.
    pub distances: Vec<RelativeBias>,
    /// The blocks.
    pub layers: Vec<Block>,
    /// After the last block.
    pub norm: RmsNorm,
}
module! { impl[] T5Encoder { embed_tokens, distances, layers, norm } }

impl T5Encoder {
    /// Token ids `[B, L]` → hidden states after the last norm `[B, L, D]`. A token sees all that `padding` `[B, L]` does
    /// not hide: its zeros are pads.
    pub fn forward(&self, ids: &Array, padding: Option<&Array>) -> framework::Result<Array> {
        let mut x = call!(self.embed_tokens.forward(ids))?;
        let [_, length, _] = math::shape(&x)?;
        let mask = padding.map_or(Mask::none(), |padding| Mask::none().keys(padding.clone()));
        let mut lowered = Lowered::None;
        for i in 0..self.layers.len() {
            if i < self.distances.len() {
                let bias = call!(self.distances[i].forward(length, length))?;
                lowered = mask.clone().bias(bias).lower(length, length, x.dtype())?;
            }
            let at = At { angles: None, mask: &lowered, cond: None };
            x = call!(self.layers[i].forward(&x, &at, None))?;
        }
        call!(self.norm.forward(&x))
    }
}

impl T5Config {
    fn norm(&self, init: &mut Init) -> framework::Result<RmsNorm> {
        RmsNorm::new(self.d_model, self.layer_norm_epsilon.unwrap_or(1e-6), init)
    }

    /// `relu` is a plain network, `gated-silu` one with a gate.
    fn feed_forward(&self) -> &str {
        let default = if self.model_type == Kind::T5 { "relu" } else { "gated-gelu" };
        self.feed_forward_proj.as_deref().unwrap_or(default)
    }

    fn ffn(&self, init: &mut Init) -> framework::Result<AnyFfn> {
        let (gated, name) = match self.feed_forward().strip_prefix("gated-") {
            // It has always meant the approximation by tanh.
            Some("gelu") => (true, "gelu_new"),
            Some(activation) => (true, activation),
            None => (false, self.feed_forward()),
        };
        let activation = serde_json::from_value(name.into())
            .map_err(|error: serde_json::Error| Error::config("feed_forward_proj", error.to_string()))?;
        Ok(if gated {
            AnyFfn::Glu(Glu::new(self.d_model, self.d_ff, activation, false, init)?)
        } else {
            AnyFfn::Mlp(Mlp::new(self.d_model, self.d_ff, activation, false, init)?)
        })
    }

    fn block(&self, sizes: Heads, init: &mut Init) -> framework::Result<Block> {
        Ok(Block {
            norm1: AnyNorm::Rms(self.norm(init)?),
            attn: Attention {
                score: Score { scale: 1.0, softcap: None },
                ..Attention::plain(sizes, self.d_model, false, init)?
            },
            norm2: AnyNorm::Rms(self.norm(init)?),
            ffn: self.ffn(init)?,
            modulation: AnyModulation::None,
        })
    }
}

impl Family for T5 {
    const NAMES: &'static [&'static str] = &["t5", "T5EncoderModel", "umt5", "UMT5EncoderModel"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("dropout_rate", "training only"),
        ("classifier_dropout", "training only"),
        ("initializer_factor", "training only"),
        ("dense_act_fn", "follows from feed_forward_proj"),
        ("is_gated_act", "follows from feed_forward_proj"),
        ("is_decoder", "the encoder is what is built"),
        ("num_decoder_layers", "the encoder is what is built"),
        ("decoder_start_token_id", "the encoder is what is built"),
        ("scale_decoder_outputs", "the encoder is what is built"),
        ("tie_word_embeddings", "speaks of the decoder's output layer; the encoder's table is always the shared one"),
        ("n_positions", "the length of training texts; distances have no limit"),
        ("output_past", "a note on an old interface"),
        ("scalable_attention", "UMT5's note on its training code"),
        ("task_specific_params", "prompts and settings of the whole model"),
        ("tokenizer_class", "the tokenizer says itself what it is"),
    ];
    type Config = T5Config;
    type Model = T5Encoder;

    fn build(config: &T5Config, init: &mut Init) -> framework::Result<T5Encoder> {
        let (vocabulary, dim, layers) = (config.vocab_size, config.d_model, config.num_layers);
        positive(&[("vocab_size", vocabulary), ("d_model", dim), ("d_ff", config.d_ff), ("num_layers", layers)])?;
        let sizes = heads("num_heads", config.num_heads, config.d_kv)?;
        let tables = if config.model_type == Kind::T5 { 1 } else { layers };
        let buckets = config.relative_attention_num_buckets.unwrap_or(32);
        let furthest = config.relative_attention_max_distance.unwrap_or(128);
        let distances = (0..tables)
            .map(|_| RelativeBias::new(buckets, sizes.heads, furthest, init))
            .collect::<framework::Result<_>>()?;
        Ok(T5Encoder {
            embed_tokens: Embedding::new(vocabulary, dim, init)?,
            distances,
            layers: (0..layers).map(|_| config.block(sizes, init)).collect::<framework::Result<_>>()?,
            norm: config.norm(init)?,
        })
    }

    fn layouts() -> &'static [Layout<T5Config>] {
        &[Layout { name: "transformers", config: json_config::<T5>, map: transformers }]
    }

    /// `forward`: `input_ids`, `attention_mask` `[B, L]` (1 is seen) → `last_hidden_state`.
    fn call(model: &T5Encoder, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let ids = arguments.take("input_ids")?;
        let padding = arguments.padding(&ids)?;
        Ok(vec![("last_hidden_state".into(), model.forward(&ids, padding.as_ref())?)])
    }
}

/// Upstream's layer 0 is attention with its norm and residual, layer 1 the feed-forward network with its own.
fn transformers(config: &T5Config) -> WeightMap {
    let map = WeightMap::default()
        .rename("shared.{p:*}", "embed_tokens.{p:*}")
        .tied("encoder.embed_tokens.weight", "shared.weight")
        .rename("encoder.block.{i}.layer.0.SelfAttention.q.{p:*}", "layers.{i}.attn.q.{p:*}")
        .rename("encoder.block.{i}.layer.0.SelfAttention.k.{p:*}", "layers.{i}.attn.k.{p:*}")
        .rename("encoder.block.{i}.layer.0.SelfAttention.v.{p:*}", "layers.{i}.attn.v.{p:*}")
        .rename("encoder.block.{i}.layer.0.SelfAttention.o.{p:*}", "layers.{i}.attn.o.{p:*}")
        .rename("encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.{p:*}", "distances.{i}.{p:*}")
        .rename("encoder.block.{i}.layer.0.layer_norm.{p:*}", "layers.{i}.norm1.{p:*}")
        .rename("encoder.block.{i}.layer.1.layer_norm.{p:*}", "layers.{i}.norm2.{p:*}")
        .rename("encoder.block.{i}.layer.1.DenseReluDense.wo.{p:*}", "layers.{i}.ffn.down.{p:*}")
        .rename("encoder.final_layer_norm.{p:*}", "norm.{p:*}")
        .drop("decoder.**", "the encoder is what is built")
        .optional()
        .drop("lm_head.weight", "the encoder is what is built")
        .optional()
        // With one table for all layers, upstream hands it on as a second output.
        .alias("encoder.block.{i}.layer.0.SelfAttention", ["layers.{i}.attn", "distances.0"])
        .alias("encoder.block.{i}", ["layers.{i}", "distances.0"])
        .alias("encoder.block.{i}.layer.1", ["layers.{i}"])
        .alias("encoder.embed_tokens", ["embed_tokens"])
        .alias("encoder", ["norm"])
        .unobserved("encoder.block.{i}.layer.0", "a sum inside the block here")
        .unobserved("**.relative_attention_bias", "looked up by distance here, by pair there")
        .unobserved("**.dropout", "dropout")
        .unobserved("**.act", "a function here");
    if config.feed_forward().starts_with("gated-") {
        map.rename("encoder.block.{i}.layer.1.DenseReluDense.wi_0.{p:*}", "layers.{i}.ffn.gate.{p:*}")
            .rename("encoder.block.{i}.layer.1.DenseReluDense.wi_1.{p:*}", "layers.{i}.ffn.up.{p:*}")
    } else {
        map.rename("encoder.block.{i}.layer.1.DenseReluDense.wi.{p:*}", "layers.{i}.ffn.up.{p:*}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, MODELS, registry};
    use framework::{
        Dtype,
        weights::{Config, Header, Source, Tensors},
    };
    use serde_json::{Value, json};
    use std::path::Path;

    /// The config and the header of a case.
    fn case(name: &str) -> (Value, Header) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let source = Source::open(&folder.join("weights.safetensors")).unwrap();
        (case["config"].clone(), source.header().clone())
    }

    fn fit(config: &Value, header: &Header) -> Result<()> {
        let checkpoint = Checkpoint { config: Config::Json(config.clone()), header, tensors: None };
        registry::of(MODELS, &checkpoint, Path::new("case"))?.fit(&checkpoint, Dtype::Float32).map(|_| ())
    }

    #[test]
    fn the_file_of_a_whole_model_holds_the_encoder() {
        let (config, mut header) = case("t5/gated-gelu");
        let table = header.tensors.remove("shared.weight").unwrap();
        for name in ["encoder.embed_tokens.weight", "decoder.block.0.layer.1.layer_norm.weight", "lm_head.weight"] {
            header.tensors.insert(name.into(), table.clone());
        }
        fit(&config, &header).unwrap();
        header.tensors.insert("shared.weight".into(), table);
        fit(&config, &header).unwrap();
    }

    #[test]
    fn old_configs_say_less() {
        for (name, left_out) in [("t5/relu", "feed_forward_proj"), ("umt5/gated-gelu", "feed_forward_proj")] {
            let (mut config, header) = case(name);
            config.as_object_mut().unwrap().remove(left_out);
            fit(&config, &header).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_its_key() {
        let (config, header) = case("umt5/gated-gelu");
        for (key, value) in [
            ("feed_forward_proj", json!("gated-magic")),
            ("num_layers", json!(0)),
            ("num_heads", json!(i32::MAX)),
            ("relative_attention_num_buckets", json!(2)),
            ("model_type", json!("t6")),
        ] {
            let mut config = config.clone();
            config[key] = value;
            let error = fit(&config, &header).unwrap_err().to_string();
            let named = if key.starts_with("relative") { "buckets" } else { key };
            assert!(error.contains(named) || error.contains("t6"), "{key}: {error}");
        }
    }
}
