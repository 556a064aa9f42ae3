//! Attention and the block around it.

use framework::{
    Activation, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Array, At, Attention, Block, Glu, Heads, Init, Linear,
    Mask, Mlp, Param, Qkv, RmsNorm, Score, attend, math, module,
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
pub enum AnyNormFields {
    Rms { eps: f32 },
}

impl AnyNormFields {
    fn build(&self, dim: i32, init: &mut Init) -> framework::Result<AnyNorm> {
        match self {
            Self::Rms { eps } => Ok(AnyNorm::Rms(RmsNorm::new(dim, *eps, init)?)),
        }
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
pub struct SelfAttention {
    dim: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    bias: bool,
    qk_norm: Option<AnyNormFields>,
    rope: Option<Rotary>,
    qkv: Projections,
    mask: Visible,
}

impl SelfAttention {
    fn qkv(&self, sizes: &Heads, init: &mut Init) -> framework::Result<Qkv> {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let mut linear = |output| Linear::new(self.dim, output, self.bias, init);
        Ok(match self.qkv {
            Projections::Separate => Qkv::Separate { q: linear(queries)?, k: linear(keys)?, v: linear(keys)? },
            Projections::Fused => Qkv::Fused { qkv: linear(queries + 2 * keys)? },
            Projections::KeyValue => Qkv::KeyValue { q: linear(queries)?, kv: linear(2 * keys)? },
            Projections::KeyIsValue => Qkv::KeyIsValue { q: linear(queries)?, k: linear(keys)? },
        })
    }

    /// Calls `forward` with where the tokens of `x` stand and what they see.
    fn lend(
        &self,
        attention: &Attention,
        inputs: &mut Arguments,
        forward: impl FnOnce(&Array, &At) -> framework::Result<Array>,
    ) -> Result<Array> {
        let x = inputs.take("x")?;
        let angles = match &attention.position {
            AnyPosition::Rope(rope) => Some(rope.angles(&positions(&rope.axes, &inputs.take("positions")?)?)?),
            _ => None,
        };
        let [_, length, _] = math::shape(&x)?;
        let mask = self.mask.mask(inputs)?.lower(length, length, x.dtype())?;
        Ok(forward(&x, &At { angles: angles.as_ref(), mask: &mask, cond: None })?)
    }
}

impl Twin for Attention {
    const NAMES: &'static [&'static str] = &["framework.Attention"];
    type Config = SelfAttention;

    fn build(config: &SelfAttention, init: &mut Init) -> framework::Result<Self> {
        let &SelfAttention { dim, heads, kv_heads, head_dim, .. } = config;
        let sizes = Heads { heads, kv_heads, head_dim };
        let norm = |init: &mut Init| match &config.qk_norm {
            Some(norm) => norm.build(head_dim, init),
            None => Ok(AnyNorm::None),
        };
        let rope = config.rope.as_ref().map(Rotary::rope).transpose()?;
        Ok(Self {
            qkv: config.qkv(&sizes, init)?,
            o: Linear::new(heads * head_dim, dim, config.bias, init)?,
            q_norm: norm(init)?,
            k_norm: norm(init)?,
            position: rope.map_or(AnyPosition::None, AnyPosition::Rope),
            sinks: None,
            sizes,
            score: Score::of(head_dim),
        })
    }

    fn forward(&self, config: &SelfAttention, inputs: &mut Arguments) -> Result<Array> {
        config.lend(self, inputs, |x, at| Self::forward(self, x, at, None))
    }
}

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnyFfnFields {
    Glu { hidden: i32, activation: Activation, bias: bool },
    Mlp { hidden: i32, activation: Activation, bias: bool },
}

impl AnyFfnFields {
    fn build(&self, dim: i32, init: &mut Init) -> framework::Result<AnyFfn> {
        Ok(match *self {
            Self::Glu { hidden, activation, bias } => AnyFfn::Glu(Glu::new(dim, hidden, activation, bias, init)?),
            Self::Mlp { hidden, activation, bias } => AnyFfn::Mlp(Mlp::new(dim, hidden, activation, bias, init)?),
        })
    }
}

#[derive(Clone, Deserialize)]
pub struct PreNorm {
    dim: i32,
    norm: AnyNormFields,
    attention: SelfAttention,
    ffn: AnyFfnFields,
}

impl Twin for Block {
    const NAMES: &'static [&'static str] = &["framework.Block"];
    type Config = PreNorm;

    fn build(config: &PreNorm, init: &mut Init) -> framework::Result<Self> {
        Ok(Self {
            norm1: config.norm.build(config.dim, init)?,
            attn: Attention::build(&config.attention, init)?,
            norm2: config.norm.build(config.dim, init)?,
            ffn: config.ffn.build(config.dim, init)?,
            modulation: AnyModulation::None,
        })
    }

    fn forward(&self, config: &PreNorm, inputs: &mut Arguments) -> Result<Array> {
        config.attention.lend(&self.attn, inputs, |x, at| Self::forward(self, x, at, None))
    }
}
