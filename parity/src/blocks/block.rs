//! Blocks: what they are made of, and the two of self-attention and a feed-forward network.

use framework::{
    Activation, AdaLnZero, AnyFfn, AnyModulation, AnyNorm, Array, Attention, Block, Glu, Init, LayerNorm, Mlp, RmsNorm,
    Sandwich, Shared, Table, TanhGated,
};
use serde::Deserialize;
use zoo::{Arguments, Result};

use super::Twin;
use super::attention::Attending;

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnyNormFields {
    Rms { eps: f32 },
    Layer { eps: f32, affine: bool },
}

impl AnyNormFields {
    pub fn build(&self, dim: i32, init: &mut Init) -> framework::Result<AnyNorm> {
        Ok(match *self {
            Self::Rms { eps } => AnyNorm::Rms(RmsNorm::new(dim, eps, init)?),
            Self::Layer { eps, affine: true } => AnyNorm::Layer(LayerNorm::new(dim, eps, init)?),
            Self::Layer { eps, affine: false } => AnyNorm::Layer(LayerNorm::plain(eps)),
        })
    }
}

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnyFfnFields {
    Glu { hidden: i32, activation: Activation, bias: bool },
    Mlp { hidden: i32, activation: Activation, bias: bool },
}

impl AnyFfnFields {
    pub fn build(&self, dim: i32, init: &mut Init) -> framework::Result<AnyFfn> {
        Ok(match *self {
            Self::Glu { hidden, activation, bias } => AnyFfn::Glu(Glu::new(dim, hidden, activation, bias, init)?),
            Self::Mlp { hidden, activation, bias } => AnyFfn::Mlp(Mlp::new(dim, hidden, activation, bias, init)?),
        })
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnyModulationFields {
    AdaLnZero { cond: i32 },
    Shared {},
    Table {},
    TanhGated { cond: i32 },
}

impl AnyModulationFields {
    /// Of two sublayers.
    pub fn build(fields: Option<Self>, dim: i32, init: &mut Init) -> framework::Result<AnyModulation> {
        Ok(match fields {
            Some(Self::AdaLnZero { cond }) => AnyModulation::AdaLnZero(AdaLnZero::new(cond, dim, 2, init)?),
            Some(Self::Shared {}) => AnyModulation::Shared(Shared),
            Some(Self::Table {}) => AnyModulation::Table(Table::new(dim, 2, init)?),
            Some(Self::TanhGated { cond }) => AnyModulation::TanhGated(TanhGated::new(cond, dim, 2, init)?),
            None => AnyModulation::None,
        })
    }
}

#[derive(Clone, Deserialize)]
pub struct SelfAttending {
    dim: i32,
    norm: AnyNormFields,
    attention: Attending,
    ffn: AnyFfnFields,
    modulation: Option<AnyModulationFields>,
}

impl Twin for Block {
    const NAMES: &'static [&'static str] = &["framework.Block"];
    type Config = SelfAttending;

    fn build(config: &SelfAttending, init: &mut Init) -> framework::Result<Self> {
        Ok(Self {
            norm1: config.norm.build(config.dim, init)?,
            attn: Attention::build(&config.attention, init)?,
            norm2: config.norm.build(config.dim, init)?,
            ffn: config.ffn.build(config.dim, init)?,
            modulation: AnyModulationFields::build(config.modulation, config.dim, init)?,
        })
    }

    fn forward(&self, config: &SelfAttending, inputs: &mut Arguments) -> Result<Array> {
        let modulated = config.modulation.is_some();
        config.attention.lend(&self.attn, inputs, modulated, |x, at| Self::forward(self, x, at, None))
    }
}

impl Twin for Sandwich {
    const NAMES: &'static [&'static str] = &["framework.Sandwich"];
    type Config = SelfAttending;

    fn build(config: &SelfAttending, init: &mut Init) -> framework::Result<Self> {
        let Block { norm1, attn, norm2, ffn, modulation } = Block::build(config, init)?;
        let [ffn_norm1, ffn_norm2] = [config.norm.build(config.dim, init)?, config.norm.build(config.dim, init)?];
        Ok(Self { norm1, attn, norm2, ffn_norm1, ffn, ffn_norm2, modulation })
    }

    fn forward(&self, config: &SelfAttending, inputs: &mut Arguments) -> Result<Array> {
        let modulated = config.modulation.is_some();
        config.attention.lend(&self.attn, inputs, modulated, |x, at| Self::forward(self, x, at, None))
    }
}
