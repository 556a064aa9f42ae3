//! The model that a config describes.

use super::stage::{Lent, Stage, Tables, Tokens};
use framework::{
    Activation, AdaLnContinuous, AnyNorm, Array, At, Axes, Cond, Dtype, Embedding, Error, Ffn, Linear, Lowered, Mlp,
    Norm, Result, TimestepEmbedding, call, chunks, math, module, sinusoid, within,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The tensors of a call by the names that the config gives them.
pub type Inputs = BTreeMap<String, Array>;

/// What an input of a call is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// Ids `[B, L]` of so many tokens.
    Tokens(u32),
    /// So many features, `[B, L, dim]`.
    Features(i32),
    /// `[B, L]`, whose zeros are padding.
    Mask,
    /// Where the tokens stand, for a rope with such axes.
    Positions(&'a Axes),
    /// A scalar `[B]`.
    Time,
    /// A vector `[B, dim]`.
    Vector,
    /// A class `[B]`.
    Class,
}

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens(_) => "tokens",
            Self::Features(_) => "features",
            Self::Mask => "a mask",
            Self::Positions(_) => "positions",
            Self::Time => "a time",
            Self::Vector => "a vector",
            Self::Class => "a class",
        })
    }
}

/// A transformer of streams, an optional condition, stages of blocks and a head; the config says which.
pub struct ComposedTransformer {
    /// Each stream's way in.
    pub streams: Vec<StreamInput>,
    /// What acts on modulated blocks.
    pub condition: Option<Condition>,
    /// Blocks, in order.
    pub stages: Vec<Stage>,
    /// After the last block.
    pub norm_out: LastNorm,
    /// After that.
    pub head: Option<Linear>,
    pub(super) output: Output,
}
module! { impl[] ComposedTransformer { streams, condition, stages, norm_out, head } }

/// What comes out, of which stream, and whether its embedding is the head.
pub(super) struct Output {
    pub name: String,
    pub stream: usize,
    pub tied: bool,
}

/// From what a stream is given as to tokens `[B, L, D]`.
pub struct StreamInput {
    /// Of token ids; features have none.
    pub embed: Option<Embedding>,
    /// On what goes into the projection.
    pub norm: AnyNorm,
    /// To the width of the blocks.
    pub projection: Option<Projection>,
    /// `[places, D]`, added.
    pub place: Option<Embedding>,
    pub(super) names: StreamNames,
    /// Features of what it is given as.
    pub(super) given: i32,
    pub(super) scale: Option<f64>,
    pub(super) sinusoidal: bool,
}
module! { impl[] StreamInput { embed, norm, projection, place } }

/// The inputs of a stream.
pub(super) struct StreamNames {
    pub input: String,
    pub positions: Option<String>,
    pub mask: Option<String>,
}

/// From a width to another.
pub enum Projection {
    /// One matrix.
    Linear(Linear),
    /// Two.
    Mlp(Mlp),
}
module! { enum[] Projection { Projection::Linear, Projection::Mlp } }

/// The sum of what acts on the whole, and its projections that many blocks share.
pub struct Condition {
    /// What is added up.
    pub parts: Vec<Part>,
    /// `[3·sublayers·D, C]` each.
    pub projections: Vec<Linear>,
    /// Of the blocks that each projection is for.
    pub(super) sublayers: Vec<usize>,
    pub(super) activation: Option<Activation>,
}
module! { impl[] Condition { parts, projections } }

/// A part of the condition.
pub struct Part {
    /// From an input to a vector.
    pub embed: PartEmbedding,
    pub(super) name: String,
    pub(super) scale: Option<f64>,
}
module! { impl[] Part { embed } }

/// From an input to a vector `[B, C]`.
pub enum PartEmbedding {
    /// Of a scalar `[B]`.
    Time(TimestepEmbedding),
    /// Of a vector `[B, P]`.
    Vector(Mlp),
    /// Of a class `[B]`.
    Class(Embedding),
}
module! { enum[] PartEmbedding { PartEmbedding::Time, PartEmbedding::Vector, PartEmbedding::Class } }

/// The norm after the last block.
pub enum LastNorm {
    /// The same for all.
    Plain(AnyNorm),
    /// Scaled and shifted by the condition.
    Modulated(AdaLnContinuous),
}
module! { enum[] LastNorm { LastNorm::Plain, LastNorm::Modulated } }

/// An input that the config names.
fn given<'a>(inputs: &'a Inputs, name: &str) -> Result<&'a Array> {
    inputs.get(name).ok_or_else(|| Error::argument(name, "is needed, and was not given"))
}

impl Projection {
    fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Mlp(mlp) => mlp.forward(x),
        }
    }
}

impl StreamInput {
    fn forward(&self, inputs: &Inputs) -> Result<Tokens> {
        let mut x = given(inputs, &self.names.input)?.clone();
        if let Some(embed) = &self.embed {
            x = call!(embed.forward(&x))?;
        }
        if let Some(scale) = self.scale {
            x = math::scaled(&x, scale)?;
        }
        let [batch, length, _] = math::shape(&x)?;
        x = call!(self.norm.forward(&x))?;
        if let Some(projection) = &self.projection {
            x = call!(projection.forward(&x))?;
        }
        if let Some(place) = &self.place {
            x = math::add(&x, &call!(place.places(length))?)?;
        }
        if self.sinusoidal {
            let places = Array::arange::<_, i32>(0, length, None)?;
            x = math::add(&x, &sinusoid(&places, math::last(&x)?)?)?;
        }
        let optional = |name: &Option<String>| name.as_ref().map(|name| given(inputs, name).cloned()).transpose();
        let keys = optional(&self.names.mask)?;
        if let (Some(name), Some(keys)) = (&self.names.mask, &keys)
            && keys.shape() != [batch, length]
        {
            let problem = format!("shape {:?} where the tokens are {:?}", keys.shape(), [batch, length]);
            return Err(Error::argument(name, problem));
        }
        Ok(Tokens { x, keys, positions: optional(&self.names.positions)? })
    }
}

impl Part {
    fn forward(&self, inputs: &Inputs, dtype: Dtype) -> Result<Array> {
        let x = given(inputs, &self.name)?;
        match &self.embed {
            PartEmbedding::Time(embed) => {
                let time = math::scaled(&x.as_dtype(dtype)?, self.scale.unwrap_or(1.0))?;
                call!(embed.forward(&time, dtype))
            }
            PartEmbedding::Vector(embed) => call!(embed.forward(x)),
            PartEmbedding::Class(embed) => call!(embed.forward(x)),
        }
    }
}

impl Condition {
    fn forward(&self, inputs: &Inputs, dtype: Dtype) -> Result<Lent> {
        let mut sum: Option<Array> = None;
        for i in 0..self.parts.len() {
            let part = call!(self.parts[i].forward(inputs, dtype))?;
            sum = Some(match sum {
                Some(sum) => math::add(&sum, &part)?,
                None => part,
            });
        }
        let sum = sum.ok_or_else(|| Error::argument("condition", "it has no parts"))?;
        let vector = self.activation.map_or(Ok(sum.clone()), |activation| activation.forward(&sum))?;
        let mut all = Vec::new();
        for (i, sublayers) in self.sublayers.iter().enumerate() {
            all.push(chunks(&call!(self.projections[i].forward(&vector))?, sublayers.saturating_mul(3))?);
        }
        Ok(Lent { vector, chunks: all })
    }
}

impl LastNorm {
    fn forward(&self, x: &Array, lent: Option<&Lent>) -> Result<Array> {
        match self {
            Self::Plain(norm) => norm.forward(x),
            Self::Modulated(norm) => {
                let cond = lent.map(|lent| Cond::Vector(&lent.vector));
                norm.forward(x, &At { angles: None, mask: &Lowered::None, cond })
            }
        }
    }
}

impl ComposedTransformer {
    /// The inputs that a call needs.
    pub fn inputs(&self) -> BTreeSet<&str> {
        self.kinds().into_iter().map(|(name, _)| name).collect()
    }

    /// What each input is, once for everything that reads it.
    pub fn kinds(&self) -> Vec<(&str, Kind<'_>)> {
        let mut kinds = Vec::new();
        for (index, stream) in self.streams.iter().enumerate() {
            let StreamNames { input, positions, mask } = &stream.names;
            let tokens = stream.embed.as_ref().map(|embed| Kind::Tokens(embed.rows()));
            kinds.push((input, tokens.unwrap_or(Kind::Features(stream.given))));
            kinds.extend(mask.iter().map(|mask| (mask, Kind::Mask)));
            let lanes = self.stages.iter().flat_map(|stage| &stage.lanes);
            let ropes = lanes.filter(|lane| lane.streams.contains(&index)).filter_map(|lane| lane.rope.as_ref());
            let axes = ropes.flat_map(|rope| positions.iter().map(|name| (name, Kind::Positions(&rope.axes))));
            kinds.extend(axes);
        }
        for part in self.condition.iter().flat_map(|condition| &condition.parts) {
            kinds.push((
                &part.name,
                match part.embed {
                    PartEmbedding::Time(_) => Kind::Time,
                    PartEmbedding::Vector(_) => Kind::Vector,
                    PartEmbedding::Class(_) => Kind::Class,
                },
            ));
        }
        kinds.into_iter().map(|(name, kind)| (name.as_str(), kind)).collect()
    }

    /// The most tokens that an input may have, where a stream that is given as it has learned places.
    pub fn longest(&self, input: &str) -> Option<u32> {
        let streams = self.streams.iter().filter(|stream| stream.names.input == input);
        streams.filter_map(|stream| stream.place.as_ref()).map(Embedding::rows).min()
    }

    /// What the output is called.
    pub fn output(&self) -> &str {
        &self.output.name
    }

    /// Streams, masks, positions and conditions → `[B, L, out]`.
    ///
    /// # Errors
    /// When an input is missing, or one is given that the config does not name.
    pub fn forward(&self, inputs: &Inputs) -> Result<Array> {
        let names = self.inputs();
        if let Some(unknown) = inputs.keys().find(|name| !names.contains(name.as_str())) {
            let known: Vec<&str> = names.into_iter().collect();
            return Err(Error::argument(unknown, format!("the config names no such input; {}", known.join(", "))));
        }
        let mut tokens = Vec::new();
        for (i, stream) in self.streams.iter().enumerate() {
            tokens.push(within!(self.streams[i] => stream.forward(inputs))?);
        }
        let dtype = tokens.first().map_or(Dtype::Float32, |tokens| tokens.x.dtype());
        let lent = match &self.condition {
            Some(condition) => Some(within!(self.condition => condition.forward(inputs, dtype))?),
            None => None,
        };
        let mut tables = Tables::default();
        for (i, stage) in self.stages.iter().enumerate() {
            within!(self.stages[i] => stage.forward(&mut tokens, lent.as_ref(), &mut tables))?;
        }
        let Output { stream, tied, .. } = self.output;
        let last = tokens.get(stream).ok_or_else(|| Error::argument("output", "there is no such stream"))?;
        let x = call!(self.norm_out.forward(&last.x, lent.as_ref()))?;
        let table = self.streams.get(stream).and_then(|stream| stream.embed.as_ref()).filter(|_| tied);
        match (&self.head, table) {
            (Some(head), _) => call!(head.forward(&x)),
            (None, Some(table)) => {
                let head = table.tied();
                call!(head.forward(&x))
            }
            (None, None) => Ok(x),
        }
    }
}
