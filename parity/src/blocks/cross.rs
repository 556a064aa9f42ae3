//! Blocks that attend to a context.

use framework::{AnyNorm, Array, Attention, Context, Cross, GroupNorm, Init, Linear, SpatialTransformer};
use serde::Deserialize;
use zoo::{Arguments, Result};

use super::Twin;
use super::attention::Attending;
use super::block::{AnyFfnFields, AnyModulationFields, AnyNormFields};

#[derive(Clone, Deserialize)]
pub struct Crossing {
    dim: i32,
    norm1: AnyNormFields,
    attn1: Attending,
    norm2: Option<AnyNormFields>,
    attn2: Attending,
    norm3: AnyNormFields,
    ffn: AnyFfnFields,
    modulation: Option<AnyModulationFields>,
}

impl Twin for Cross {
    const NAMES: &'static [&'static str] = &["framework.Cross"];
    type Config = Crossing;

    fn build(config: &Crossing, init: &mut Init) -> framework::Result<Self> {
        let dim = config.dim;
        let norm2 = config.norm2.as_ref().map(|norm| norm.build(dim, init)).transpose()?;
        Ok(Self {
            norm1: config.norm1.build(dim, init)?,
            attn1: Attention::build(&config.attn1, init)?,
            norm2: norm2.unwrap_or(AnyNorm::None),
            attn2: Attention::build(&config.attn2, init)?,
            norm3: config.norm3.build(dim, init)?,
            ffn: config.ffn.build(dim, init)?,
            modulation: AnyModulationFields::build(config.modulation, dim, init)?,
            accumulate: None,
        })
    }

    fn forward(&self, config: &Crossing, inputs: &mut Arguments) -> Result<Array> {
        let (tokens, mask) = config.attn2.context(inputs)?;
        let context = Context { tokens: &tokens, mask: &mask };
        let modulated = config.modulation.is_some();
        config.attn1.lend(&self.attn1, inputs, modulated, |x, at| Self::forward(self, x, &context, at))
    }
}

#[derive(Clone, Deserialize)]
pub struct Spatial {
    channels: i32,
    groups: i32,
    eps: f32,
    layers: usize,
    block: Crossing,
}

impl Twin for SpatialTransformer {
    const NAMES: &'static [&'static str] = &["framework.SpatialTransformer"];
    type Config = Spatial;

    fn build(config: &Spatial, init: &mut Init) -> framework::Result<Self> {
        let (channels, dim) = (config.channels, config.block.dim);
        Ok(Self {
            norm: AnyNorm::Group(GroupNorm::new(config.groups, channels, config.eps, init)?),
            proj_in: Linear::new(channels, dim, true, init)?,
            transformer_blocks: (0..config.layers)
                .map(|_| Cross::build(&config.block, init))
                .collect::<framework::Result<_>>()?,
            proj_out: Linear::new(dim, channels, true, init)?,
        })
    }

    fn forward(&self, config: &Spatial, inputs: &mut Arguments) -> Result<Array> {
        let (tokens, mask) = config.block.attn2.context(inputs)?;
        Ok(Self::forward(self, &inputs.take("x")?, &Context { tokens: &tokens, mask: &mask })?)
    }
}
