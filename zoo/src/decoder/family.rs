//! What a family of decoders says of itself; everything else follows.

use super::{
    Biases, Decoder, DecoderSpec, LayerKind, Mixture, Naming, Wiring,
    names::{self, ExpertFiles},
};
use crate::{
    Arguments, Checkpoint, Outputs,
    gguf::Gguf,
    registry::{self, Layout, parse_config, refuse_unread},
    rope::{RopeKeys, gguf_parameters},
    sizes::{grouped_heads, positive},
};
use framework::{
    Activation, Choice, Dtype, Error, ExpertSizes, Heads, Init, Result, Rope, Score, Scoring,
    weights::{Config, WeightMap},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A family whose model is a [`Decoder`]: what its configs say, and what its tensors are called.
pub trait Family: 'static {
    /// Upstream's names for it: `model_type`, class, GGUF architecture.
    const NAMES: &'static [&'static str];
    /// Keys of upstream's config that change nothing here, with the reason.
    const IGNORED: &'static [(&'static str, &'static str)];
    /// What its tensors are called in transformers' files.
    const NAMING: Naming = Naming::PLAIN;
    /// llama.cpp's files of it.
    const GGUF: Option<GgufNaming>;
    /// What transformers takes for keys that a config leaves out, as JSON.
    const DEFAULTS: &'static str;
    /// The larger model of whose checkpoints it may be a part.
    const INSIDE: Option<Inside> = None;
    /// The keys of its config beside [`Keys`].
    type Own: DeserializeOwned;

    /// What a config amounts to.
    fn spec(keys: &Keys, own: &Self::Own) -> Result<DecoderSpec>;
}

/// A model that reads more than text, of which a decoder is the language model. Its config has the decoder's as `text_config`.
#[derive(Clone, Copy)]
pub struct Inside {
    /// Its `model_type`.
    pub model_type: &'static str,
    /// Keys of its config that change nothing in the language model, with the reason.
    pub ignored: &'static [(&'static str, &'static str)],
}

/// The keys that the configs of all decoders have.
#[derive(Debug, Deserialize)]
pub struct Keys {
    vocab_size: i32,
    /// Features of a token.
    pub hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: usize,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    #[serde(alias = "hidden_activation")]
    hidden_act: Activation,
    max_position_embeddings: i32,
    rms_norm_eps: f32,
    #[serde(default)]
    tie_word_embeddings: bool,
    /// The base of the rope, in the spelling before transformers 5.
    pub rope_theta: Option<f64>,
    /// Its scaling, in that spelling.
    pub rope_scaling: Option<Map<String, Value>>,
    /// Both, in transformers 5's.
    pub rope_parameters: Option<Map<String, Value>>,
}

/// Whether the attention of a layer sees all tokens before it, as configs say it layer by layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// All.
    FullAttention,
    /// Those of a window.
    SlidingAttention,
}

impl Keys {
    /// More layers than any model has: a config that asks for more is not tried.
    const MOST_LAYERS: usize = 1 << 17;

    /// The rope of a model that has one.
    pub fn rope(&self) -> Result<Rope> {
        let keys = RopeKeys {
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            share: None,
        };
        self.rope_of(keys)
    }

    /// The rope that these keys describe.
    pub fn rope_of(&self, keys: RopeKeys<'_>) -> Result<Rope> {
        keys.rope(self.heads()?.head_dim, self.max_position_embeddings)
    }

    fn heads(&self) -> Result<Heads> {
        positive(&[("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)])?;
        grouped_heads(self.num_attention_heads, self.num_key_value_heads, self.head_dim, self.hidden_size)
    }

    /// The layers by number.
    ///
    /// # Errors
    /// When there are too many to be a model's.
    pub fn layers(&self) -> Result<std::ops::Range<usize>> {
        if self.num_hidden_layers > Self::MOST_LAYERS {
            let problem = format!("{} layers are more than {}", self.num_hidden_layers, Self::MOST_LAYERS);
            return Err(Error::config("num_hidden_layers", problem));
        }
        Ok(0..self.num_hidden_layers)
    }

    /// Layers that are all of one kind.
    pub fn alike(&self, rope: Rope, window: Option<i32>) -> Result<Vec<LayerKind>> {
        let kind = LayerKind { rope: Some(rope), window };
        Ok(self.layers()?.map(|_| kind.clone()).collect())
    }

    /// The window of each layer: as `layer_types` says, and without it where a layer `slides`.
    ///
    /// # Errors
    /// When there are more types than layers or less, and when a layer slides over a window of no size.
    pub fn windows(
        &self,
        types: Option<&[LayerType]>,
        window: Option<i32>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<i32>>> {
        let layers = self.layers()?;
        if let Some(types) = types.filter(|types| types.len() != layers.len()) {
            let problem = format!("{} types where there are {} layers", types.len(), layers.len());
            return Err(Error::config("layer_types", problem));
        }
        let none = || Error::config("sliding_window", "is missing, and there are layers with a sliding window");
        let window_of = |layer: usize| {
            let said = types.and_then(|types| types.get(layer)).map(|&of| of == LayerType::SlidingAttention);
            said.unwrap_or_else(|| slides(layer)).then(|| window.ok_or_else(none)).transpose()
        };
        layers.map(window_of).collect()
    }

    /// A Llama with these layers, without biases; families change what differs.
    pub fn spec(&self, layers: Vec<LayerKind>) -> Result<DecoderSpec> {
        let sizes = self.heads()?;
        Ok(DecoderSpec {
            vocabulary: self.vocab_size,
            context: self.max_position_embeddings,
            dim: self.hidden_size,
            hidden: self.intermediate_size,
            mixture: None,
            sizes,
            layers,
            wiring: Wiring::PreNorm,
            eps: self.rms_norm_eps,
            norm_offset: 0.0,
            qk_norm: false,
            score: Score::of(sizes.head_dim),
            activation: self.hidden_act,
            biases: Biases::default(),
            embedding_scale: None,
            logit_cap: None,
            tied: self.tie_word_embeddings,
        })
    }
}

impl<D: Family> registry::Family for D {
    const NAMES: &'static [&'static str] = D::NAMES;
    const IGNORED: &'static [(&'static str, &'static str)] = D::IGNORED;
    type Config = DecoderSpec;
    type Model = Decoder;

    fn build(config: &DecoderSpec, init: &mut Init) -> Result<Decoder> {
        config.build(init)
    }

    fn layouts() -> &'static [Layout<DecoderSpec>] {
        const {
            &[
                Layout {
                    name: "transformers",
                    config: |checkpoint| json_spec::<D>(checkpoint, ExpertFiles::Single),
                    map: |spec| names::transformers(spec, D::NAMING, ExpertFiles::Single),
                },
                Layout {
                    name: "transformers, experts fused",
                    config: |checkpoint| json_spec::<D>(checkpoint, ExpertFiles::Fused),
                    map: |spec| names::transformers(spec, D::NAMING, ExpertFiles::Fused),
                },
                Layout {
                    name: "mlx-lm",
                    config: |checkpoint| json_spec::<D>(checkpoint, ExpertFiles::Stacked),
                    map: |spec| names::transformers(spec, D::NAMING, ExpertFiles::Stacked),
                },
                Layout { name: "multimodal", config: inside_spec::<D>, map: |spec| names::inside(spec, D::NAMING) },
                Layout { name: "multimodal-5", config: inside_spec::<D>, map: |spec| names::inside_5(spec, D::NAMING) },
                Layout { name: "gguf", config: gguf_spec::<D>, map: gguf_map::<D> },
            ]
        }
    }

    fn call(model: &Decoder, method: &str, arguments: &mut Arguments) -> crate::Result<Outputs> {
        model.call_by_name(method, arguments)
    }
}

/// The config of files that hold experts in that way.
fn json_spec<D: Family>(checkpoint: &Checkpoint<'_>, files: ExpertFiles) -> crate::Result<Option<DecoderSpec>> {
    match &checkpoint.config {
        Config::Json(json) if inside::<D>(json).is_none() && ExpertFiles::of(checkpoint.header) == files => {
            read::<D>(json.clone()).map(Some)
        }
        _ => Ok(None),
    }
}

/// The larger model that a config is of.
fn inside<D: Family>(json: &Value) -> Option<Inside> {
    D::INSIDE.filter(|inside| json.get("model_type").and_then(Value::as_str) == Some(inside.model_type))
}

/// The config of a language model inside a larger model.
fn inside_spec<D: Family>(checkpoint: &Checkpoint<'_>) -> crate::Result<Option<DecoderSpec>> {
    #[derive(Deserialize)]
    struct Whole {
        text_config: Value,
    }
    let Config::Json(json) = &checkpoint.config else {
        return Ok(None);
    };
    let Some(inside) = inside::<D>(json) else {
        return Ok(None);
    };
    let (Whole { text_config }, unread) = parse_config(json)?;
    refuse_unread(unread, inside.ignored)?;
    read::<D>(text_config).map(Some)
}

/// Reads a config twice, for what all decoders have and for what this family has; a key that neither reads is refused.
fn read<D: Family>(json: Value) -> crate::Result<DecoderSpec> {
    let json = with_defaults::<D>(json)?;
    let (keys, mut unread) = parse_config::<Keys>(&json)?;
    let (own, also) = parse_config::<D::Own>(&json)?;
    unread.retain(|key| also.contains(key));
    refuse_unread(unread, D::IGNORED)?;
    Ok(D::spec(&keys, &own)?)
}

fn with_defaults<D: Family>(mut json: Value) -> crate::Result<Value> {
    let defaults: Map<String, Value> =
        serde_json::from_str(D::DEFAULTS).map_err(|error| Error::config("defaults", error.to_string()))?;
    if let Value::Object(given) = &mut json {
        for (key, value) in defaults {
            given.entry(key).or_insert(value);
        }
    }
    Ok(json)
}

/// llama.cpp's files of a family.
#[derive(Clone, Copy)]
pub struct GgufNaming {
    /// `general.architecture`, with which the keys begin.
    pub architecture: &'static str,
    /// Whether rows of queries and keys are stored for a rotation of neighbours that transformers does by halves.
    pub interleaved: bool,
    /// Adds the family's own keys, in transformers' spelling.
    pub own: fn(&Gguf<'_>, &mut Map<String, Value>) -> crate::Result<()>,
}

impl GgufNaming {
    /// An architecture without peculiarities.
    pub const fn plain(architecture: &'static str) -> Self {
        Self { architecture, interleaved: false, own: |_, _| Ok(()) }
    }
}

/// The config that a GGUF file's metadata and tensors amount to: its keys in transformers' spelling.
fn gguf_spec<D: Family>(checkpoint: &Checkpoint<'_>) -> crate::Result<Option<DecoderSpec>> {
    let Some((naming, gguf)) = D::GGUF.and_then(|naming| Some((naming, Gguf::of(checkpoint, naming.architecture)?)))
    else {
        return Ok(None);
    };
    let mut json = Map::new();
    for (theirs, ours) in [
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("block_count", "num_hidden_layers"),
        ("attention.head_count", "num_attention_heads"),
        ("context_length", "max_position_embeddings"),
    ] {
        json.insert(ours.into(), gguf.number(theirs)?.into());
    }
    for (theirs, ours) in [
        ("vocab_size", "vocab_size"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.sliding_window", "sliding_window"),
    ] {
        if let Some(number) = gguf.optional(theirs)? {
            json.insert(ours.into(), number.into());
        }
    }
    json.entry("vocab_size").or_insert_with(|| gguf.rows("token_embd.weight").into());
    json.insert("rms_norm_eps".into(), gguf.float("attention.layer_norm_rms_epsilon")?.into());
    json.insert("tie_word_embeddings".into(), (!gguf.has_tensor("output.weight")).into());
    json.insert("attention_bias".into(), gguf.has_tensor("blk.0.attn_q.bias").into());
    json.insert("mlp_bias".into(), gguf.has_tensor("blk.0.ffn_up.bias").into());
    let rope = gguf_parameters(checkpoint, gguf.metadata, naming.architecture)?;
    json.insert("rope_parameters".into(), rope.into());
    (naming.own)(&gguf, &mut json)?;
    let json = with_defaults::<D>(json.into())?;
    let (keys, _) = parse_config::<Keys>(&json)?;
    let (own, _) = parse_config::<D::Own>(&json)?;
    let mut spec = D::spec(&keys, &own)?;
    // What a norm adds to its weights is in the file already.
    spec.norm_offset = 0.0;
    if let Some(count) = gguf.optional("expert_count")?.filter(|&count| count > 0) {
        spec.mixture = Some(gguf_mixture(&gguf, count, &spec)?);
    }
    Ok(Some(spec))
}

/// The experts of a GGUF file, which llama.cpp weighs in f32 by a softmax over all, and makes the weights sum to 1.
fn gguf_mixture(gguf: &Gguf<'_>, count: i32, spec: &DecoderSpec) -> crate::Result<Mixture> {
    let hidden = gguf.optional("expert_feed_forward_length")?.unwrap_or(spec.hidden);
    let top_k = gguf.number("expert_used_count")?;
    let has_experts = |layer| gguf.has_tensor(&format!("blk.{layer}.ffn_gate_inp.weight"));
    Ok(Mixture {
        experts: ExpertSizes { count, hidden },
        choice: Choice { top_k, scoring: Scoring::Softmax, normalise: true, scale: 1.0 },
        accumulate: Some(Dtype::Float32),
        layers: (0..spec.layers.len()).map(has_experts).collect(),
    })
}

fn gguf_map<D: Family>(spec: &DecoderSpec) -> WeightMap {
    names::gguf(spec, D::NAMING, D::GGUF.is_some_and(|naming| naming.interleaved))
}
