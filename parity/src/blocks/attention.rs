//! Attention.

use framework::{
    AcrossHeads, AnyNorm, AnyPosition, Array, At, Attention, Cond, Heads, Init, Linear, Lowered, Mask, Param, Qkv,
    RmsNorm, Score, attend, math, module,
};
use serde::Deserialize;
use zoo::{Arguments, Error, Result};

use super::Twin;
use super::rope::{Rotary, positions};

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Visible {
    None {},
    Causal {},
    Sliding { window: i32 },
    Blocks {},
    Keys {},
    Boolean {},
    Additive {},
}

impl Visible {
    /// The mask, with what it takes of the inputs.
    fn mask(&self, inputs: &mut Arguments) -> Result<Mask> {
        Ok(match self {
            Self::None {} => Mask::none(),
            Self::Causal {} => Mask::causal(),
            Self::Sliding { window } => Mask::sliding(*window),
            Self::Blocks {} => {
                let segments = inputs.take("segments")?;
                Mask::none().blocks(segments.clone(), segments)
            }
            Self::Keys {} => Mask::none().keys(inputs.take("mask")?),
            Self::Boolean {} => Mask::none().visible(inputs.take("mask")?),
            Self::Additive {} => Mask::none().bias(inputs.take("mask")?),
        })
    }
}

/// The function `attend` with its one parameter.
pub struct Attend {
    sinks: Option<Param>,
}
module! { impl[] Attend { sinks } }

#[derive(Clone, Deserialize)]
pub struct Scores {
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    mask: Visible,
    sinks: bool,
    scale: Option<f32>,
    softcap: Option<f32>,
}

impl Twin for Attend {
    const NAMES: &'static [&'static str] = &["framework.Attend"];
    type Config = Scores;

    fn build(config: &Scores, init: &mut Init) -> framework::Result<Self> {
        Ok(Self { sinks: config.sinks.then(|| init.constant(&[config.heads], 0.0)).transpose()? })
    }

    fn forward(&self, config: &Scores, inputs: &mut Arguments) -> Result<Array> {
        let [q, k, v] = [inputs.take("q")?, inputs.take("k")?, inputs.take("v")?];
        let &Scores { heads, kv_heads, head_dim, scale, softcap, .. } = config;
        if q.shape().get(2..) != Some(&[heads, head_dim]) || k.shape().get(2..) != Some(&[kv_heads, head_dim]) {
            let problem = format!("shapes {:?} and {:?} are not those of the heads", q.shape(), k.shape());
            return Err(Error::argument("q", problem));
        }
        let score = Score { scale: scale.unwrap_or(Score::of(head_dim).scale), softcap };
        let ([_, queries, ..], [_, keys, ..]) = (math::shape::<4>(&q)?, math::shape::<4>(&k)?);
        let mask = config.mask.mask(inputs)?.lower(queries, keys, q.dtype())?;
        Ok(attend(&q, &k, &v, &mask, &score, self.sinks.as_ref().map(Param::get).as_ref())?)
    }
}

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadNorm {
    Rms { eps: f32 },
    RmsAcrossHeads { eps: f32 },
}

impl HeadNorm {
    fn build(&self, heads: i32, head_dim: i32, init: &mut Init) -> framework::Result<AnyNorm> {
        Ok(match *self {
            Self::Rms { eps } => AnyNorm::Rms(RmsNorm::new(head_dim, eps, init)?),
            Self::RmsAcrossHeads { eps } => {
                AnyNorm::AcrossHeads(AcrossHeads(RmsNorm::new(heads * head_dim, eps, init)?))
            }
        })
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projections {
    Separate,
    Fused,
    KeyValue,
    KeyIsValue,
}

#[derive(Clone, Deserialize)]
pub struct Attending {
    dim: i32,
    context: Option<i32>,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    bias: bool,
    out_bias: Option<bool>,
    qk_norm: Option<HeadNorm>,
    rope: Option<Rotary>,
    qkv: Projections,
    mask: Visible,
}

impl Attending {
    fn qkv(&self, sizes: &Heads, init: &mut Init) -> framework::Result<Qkv> {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let (own, context) = (self.dim, self.context.unwrap_or(self.dim));
        let mut linear = |input, output| Linear::new(input, output, self.bias, init);
        Ok(match self.qkv {
            Projections::Separate => {
                Qkv::Separate { q: linear(own, queries)?, k: linear(context, keys)?, v: linear(context, keys)? }
            }
            Projections::Fused => Qkv::Fused { qkv: linear(own, queries + 2 * keys)? },
            Projections::KeyValue => Qkv::KeyValue { q: linear(own, queries)?, kv: linear(context, 2 * keys)? },
            Projections::KeyIsValue => Qkv::KeyIsValue { q: linear(own, queries)?, k: linear(context, keys)? },
        })
    }

    /// Calls `forward` with where the tokens of `x` stand, what they see and, in a modulated block, the condition.
    pub fn lend(
        &self,
        attention: &Attention,
        inputs: &mut Arguments,
        modulated: bool,
        forward: impl FnOnce(&Array, &At) -> framework::Result<Array>,
    ) -> Result<Array> {
        let x = inputs.take("x")?;
        let angles = match &attention.position {
            AnyPosition::Rope(rope) => Some(rope.angles(&positions(&rope.axes, &inputs.take("positions")?)?)?),
            _ => None,
        };
        let mut given = |name| modulated.then(|| inputs.take_optional(name)).flatten();
        let (vector, chunks) = (given("cond"), given("chunks"));
        let cond = vector.as_ref().map(Cond::Vector).or(chunks.as_ref().map(Cond::Chunks));
        let [_, length, _] = math::shape(&x)?;
        let mask = self.mask.mask(inputs)?.lower(length, length, x.dtype())?;
        Ok(forward(&x, &At { angles: angles.as_ref(), mask: &mask, cond })?)
    }

    /// The context of cross-attention, and what of it is seen.
    pub fn context(&self, inputs: &mut Arguments) -> Result<(Array, Lowered)> {
        let tokens = inputs.take("context")?;
        let [_, length, _] = math::shape(&tokens)?;
        let mask = self.mask.mask(inputs)?.lower(1, length, tokens.dtype())?;
        Ok((tokens, mask))
    }
}

impl Twin for Attention {
    const NAMES: &'static [&'static str] = &["framework.Attention"];
    type Config = Attending;

    fn build(config: &Attending, init: &mut Init) -> framework::Result<Self> {
        let &Attending { dim, heads, kv_heads, head_dim, bias, .. } = config;
        let sizes = Heads { heads, kv_heads, head_dim };
        let norm = |heads: i32, init: &mut Init| match &config.qk_norm {
            Some(norm) => norm.build(heads, head_dim, init),
            None => Ok(AnyNorm::None),
        };
        let rope = config.rope.as_ref().map(Rotary::rope).transpose()?;
        Ok(Self {
            qkv: config.qkv(&sizes, init)?,
            o: Linear::new(heads * head_dim, dim, config.out_bias.unwrap_or(bias), init)?,
            q_norm: norm(heads, init)?,
            k_norm: norm(kv_heads, init)?,
            position: rope.map_or(AnyPosition::None, AnyPosition::Rope),
            sinks: None,
            sizes,
            score: Score::of(head_dim),
        })
    }

    fn forward(&self, config: &Attending, inputs: &mut Arguments) -> Result<Array> {
        config.lend(self, inputs, false, |x, at| Self::forward(self, x, at, None))
    }
}
