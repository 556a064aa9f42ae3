//! CLIP's text model: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use crate::{
    Arguments, Checkpoint, Outputs, Result,
    arguments::forward_only,
    registry::{Family, Layout, json_config},
    sizes::{heads, positive},
};
use framework::{
    Activation, AnyFfn, AnyModulation, AnyNorm, Array, At, Attention, Block, Dtype, Error, Heads, Init, LayerNorm,
    Linear, Mask, Mlp, Norm, PlacedEmbedding, call, math, module, weights::WeightMap,
};
use mlx_rs::ops::indexing;
use serde::Deserialize;

/// The family.
pub struct Clip;

/// transformers' `CLIPTextConfig`.
#[derive(Debug, Deserialize)]
pub struct ClipTextConfig {
    vocab_size: i32,
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: i32,
    num_attention_heads: i32,
    max_position_embeddings: i32,
    projection_dim: Option<i32>,
    hidden_act: Activation,
    layer_norm_eps: f32,
    eos_token_id: Option<i32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    /// Whether there is a projection, which the class or the tensors say.
    #[serde(skip)]
    projected: bool,
    /// Whether the tensors' names begin with `text_model`.
    #[serde(skip)]
    nested: bool,
}

/// A causal transformer over tokens whose state at the end of a text stands for the text
/// (<https://arxiv.org/abs/2103.00020>).
pub struct ClipText {
    /// Tokens and where they stand.
    pub embeddings: PlacedEmbedding,
    /// The blocks.
    pub layers: Vec<Block>,
    /// After the last block.
    pub norm: LayerNorm,
    /// From the pooled state to the space that texts and images share, `[projection, D]`.
    pub projection: Option<Linear>,
    /// Which token ends a text.
    pub end: End,
}
module! { impl[] ClipText { embeddings, layers, norm, projection } }

/// The token at whose place a text is pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first with this id.
    First(i32),
    /// The first with the highest id of the text: the end is the vocabulary's last token.
    Highest,
}

/// What the model makes of a batch of texts.
#[derive(Debug)]
pub struct ClipEncoded {
    /// After the last norm, `[B, L, D]`.
    pub hidden: Array,
    /// What goes into each block and what comes out of the last, `[B, L, D]` each; pipelines take the last but one.
    pub states: Vec<Array>,
    /// `hidden` at the end of each text, `[B, D]`.
    pub pooled: Array,
    /// `pooled` projected, `[B, projection]`.
    pub projected: Option<Array>,
}

impl End {
    /// `hidden` `[B, L, D]` where the texts `ids` `[B, L]` end, `[B, D]`; at the first token where they do not.
    fn of(self, ids: &Array, hidden: &Array) -> framework::Result<Array> {
        let score = match self {
            Self::First(id) => ids.eq(Array::from_int(id))?.as_dtype(Dtype::Int32)?,
            Self::Highest => ids.clone(),
        };
        let place = indexing::argmax_axis(&score, -1, true)?.expand_dims(-1)?;
        Ok(hidden.take_along_axis(place, 1)?.squeeze_axes(&[1])?)
    }
}

impl ClipText {
    /// Token ids `[B, L]` → states. A token sees those up to itself that `padding` `[B, L]` does not hide: its zeros
    /// are pads.
    ///
    /// # Errors
    /// When the texts are longer than the model has places for.
    pub fn forward(&self, ids: &Array, padding: Option<&Array>) -> framework::Result<ClipEncoded> {
        let mut x = call!(self.embeddings.forward(ids))?;
        let [_, length, _] = math::shape(&x)?;
        let mask = padding.map_or(Mask::causal(), |padding| Mask::causal().keys(padding.clone()));
        let mask = mask.lower(length, length, x.dtype())?;
        let at = At { angles: None, mask: &mask, cond: None };
        let mut states = vec![x.clone()];
        for i in 0..self.layers.len() {
            x = call!(self.layers[i].forward(&x, &at, None))?;
            states.push(x.clone());
        }
        let hidden = call!(self.norm.forward(&x))?;
        let pooled = self.end.of(ids, &hidden)?;
        let projected = self.projection.as_ref();
        let projected = projected.map(|projection| call!(projection.forward(&pooled))).transpose()?;
        Ok(ClipEncoded { hidden, states, pooled, projected })
    }
}

impl ClipTextConfig {
    fn norm(&self, init: &mut Init) -> framework::Result<LayerNorm> {
        LayerNorm::new(self.hidden_size, self.layer_norm_eps, init)
    }

    fn block(&self, sizes: Heads, init: &mut Init) -> framework::Result<Block> {
        let dim = self.hidden_size;
        Ok(Block {
            norm1: AnyNorm::Layer(self.norm(init)?),
            attn: Attention::plain(sizes, dim, true, init)?,
            norm2: AnyNorm::Layer(self.norm(init)?),
            ffn: AnyFfn::Mlp(Mlp::new(dim, self.intermediate_size, self.hidden_act, true, init)?),
            modulation: AnyModulation::None,
        })
    }
}

impl Family for Clip {
    const NAMES: &'static [&'static str] = &["clip_text_model", "CLIPTextModel", "CLIPTextModelWithProjection"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("dropout", "training only"),
        ("initializer_factor", "training only"),
        ("initializer_range", "training only"),
    ];
    type Config = ClipTextConfig;
    type Model = ClipText;

    fn build(config: &ClipTextConfig, init: &mut Init) -> framework::Result<ClipText> {
        let (dim, count, longest) = (config.hidden_size, config.num_attention_heads, config.max_position_embeddings);
        let width = config.projection_dim.unwrap_or(512);
        positive(&[
            ("vocab_size", config.vocab_size),
            ("hidden_size", dim),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", count),
            ("max_position_embeddings", longest),
            ("projection_dim", width),
        ])?;
        if dim % count != 0 {
            return Err(Error::config("num_attention_heads", format!("{count} heads do not divide {dim} features")));
        }
        let sizes = heads("num_attention_heads", count, dim / count)?;
        let embeddings = PlacedEmbedding::new(config.vocab_size, longest, dim, init)?;
        let layers = (0..config.num_hidden_layers).map(|_| config.block(sizes, init));
        Ok(ClipText {
            embeddings,
            layers: layers.collect::<framework::Result<_>>()?,
            norm: config.norm(init)?,
            projection: config.projected.then(|| Linear::new(dim, width, false, init)).transpose()?,
            // The id in the configs of OpenAI's checkpoints is wrong, and known to be.
            end: match config.eos_token_id.unwrap_or(49_407) {
                2 => End::Highest,
                id => End::First(id),
            },
        })
    }

    fn layouts() -> &'static [Layout<ClipTextConfig>] {
        &[Layout { name: "transformers", config, map: transformers }]
    }

    /// `forward`: `input_ids`, `attention_mask` `[B, L]` (1 is seen), `output_hidden_states` → `last_hidden_state`,
    /// `hidden_states.0` to the last block's, and `pooler_output` or, with a projection, `text_embeds`.
    fn call(model: &ClipText, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let ids = arguments.take("input_ids")?;
        let padding = arguments.padding(&ids)?;
        let all = arguments.flag("output_hidden_states", false)?;
        let encoded = model.forward(&ids, padding.as_ref())?;
        let pooled = match encoded.projected {
            Some(projected) => ("text_embeds".into(), projected),
            None => ("pooler_output".into(), encoded.pooled),
        };
        let mut outputs = vec![("last_hidden_state".into(), encoded.hidden), pooled];
        if all {
            outputs.extend(encoded.states.into_iter().enumerate().map(|(i, x)| (format!("hidden_states.{i}"), x)));
        }
        Ok(outputs)
    }
}

/// What the tensors say beside the config: names are below `text_model` but for recent files without a projection.
fn config(checkpoint: &Checkpoint<'_>) -> Result<Option<ClipTextConfig>> {
    let tensors = &checkpoint.header.tensors;
    let config = json_config::<Clip>(checkpoint)?;
    Ok(config.map(|config| {
        let said = config.architectures.iter().flatten().any(|name| name == "CLIPTextModelWithProjection");
        let projected = said || tensors.contains_key("text_projection.weight");
        let nested = projected || tensors.keys().any(|name| name.starts_with("text_model."));
        ClipTextConfig { projected, nested, ..config }
    }))
}

fn transformers(config: &ClipTextConfig) -> WeightMap {
    let map = WeightMap::default()
        .rename("embeddings.token_embedding.{p:*}", "embeddings.tokens.{p:*}")
        .rename("embeddings.position_embedding.{p:*}", "embeddings.positions.{p:*}")
        .drop("embeddings.position_ids", "places count from 0")
        .optional()
        .rename("encoder.layers.{i}.layer_norm1.{p:*}", "layers.{i}.norm1.{p:*}")
        .rename("encoder.layers.{i}.self_attn.q_proj.{p:*}", "layers.{i}.attn.q.{p:*}")
        .rename("encoder.layers.{i}.self_attn.k_proj.{p:*}", "layers.{i}.attn.k.{p:*}")
        .rename("encoder.layers.{i}.self_attn.v_proj.{p:*}", "layers.{i}.attn.v.{p:*}")
        .rename("encoder.layers.{i}.self_attn.out_proj.{p:*}", "layers.{i}.attn.o.{p:*}")
        .rename("encoder.layers.{i}.layer_norm2.{p:*}", "layers.{i}.norm2.{p:*}")
        .rename("encoder.layers.{i}.mlp.fc1.{p:*}", "layers.{i}.ffn.up.{p:*}")
        .rename("encoder.layers.{i}.mlp.fc2.{p:*}", "layers.{i}.ffn.down.{p:*}")
        .rename("final_layer_norm.{p:*}", "norm.{p:*}")
        .unobserved("encoder", "returns what its last layer does")
        .unobserved("**.activation_fn", "a function here")
        .prefixed(if config.nested { "text_model" } else { "" }, "");
    if config.projected { map.rename("text_projection.{p:*}", "projection.{p:*}") } else { map }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::weights::{Config, Header, Info, Stored};

    fn json() -> serde_json::Value {
        serde_json::json!({"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 5, "projection_dim": 3, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5, "eos_token_id": 2})
    }

    fn model(projected: bool) -> ClipText {
        let config: ClipTextConfig = serde_json::from_value(json()).unwrap();
        Clip::build(&ClipTextConfig { projected, ..config }, &mut Init::default()).unwrap()
    }

    #[test]
    fn a_text_is_pooled_where_it_ends() {
        let ids = math::array(&[8i64, 4, 7, 7, 1, 7, 3, 4, 4, 0], &[2, 5]).unwrap();
        let hidden = math::array(&(0..10).map(|i| i as f32).collect::<Vec<_>>(), &[2, 5, 1]).unwrap();
        let places = |end: End| math::read::<f32>(&end.of(&ids, &hidden).unwrap()).unwrap();
        assert_eq!(places(End::First(7)), [2.0, 5.0]);
        assert_eq!(places(End::First(4)), [1.0, 7.0]);
        assert_eq!(places(End::First(6)), [0.0, 5.0]);
        assert_eq!(places(End::Highest), [0.0, 5.0]);
    }

    #[test]
    fn the_last_state_but_one_and_the_projection_are_there() {
        let ids = Array::zeros::<i32>(&[1, 5]).unwrap();
        let encoded = model(true).forward(&ids, None).unwrap();
        assert_eq!((encoded.states.len(), encoded.pooled.shape()), (2, &[1, 8][..]));
        assert_eq!(encoded.projected.unwrap().shape(), [1, 3]);
        assert!(model(false).forward(&ids, None).unwrap().projected.is_none());
    }

    #[test]
    fn class_and_tensors_say_what_the_config_does_not() {
        let seen = |class: &str, names: &[&str]| {
            let info = Info { dtype: Stored::F32, shape: vec![1] };
            let tensors = names.iter().map(|name| ((*name).to_owned(), info.clone())).collect();
            let header = Header { tensors, ..Default::default() };
            let mut json = json();
            json["architectures"] = serde_json::json!([class]);
            let checkpoint = Checkpoint { config: Config::Json(json), header: &header, tensors: None };
            let config = config(&checkpoint).unwrap().unwrap();
            (config.nested, config.projected)
        };
        assert_eq!(seen("CLIPTextModel", &["text_model.x"]), (true, false));
        assert_eq!(seen("CLIPTextModel", &["x"]), (false, false));
        assert_eq!(seen("CLIPTextModel", &["text_model.x", "text_projection.weight"]), (true, true));
        assert_eq!(seen("CLIPTextModelWithProjection", &["text_model.x"]), (true, true));
    }
}
