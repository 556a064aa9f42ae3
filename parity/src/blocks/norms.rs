//! Norms.

use framework::{Array, GroupNorm, Init, LayerNorm, Norm, RmsNorm};
use serde::Deserialize;
use zoo::{Arguments, Result};

use super::Twin;

#[derive(Clone, Deserialize)]
pub struct Rms {
    dim: i32,
    eps: f32,
    #[serde(default)]
    offset: f32,
}

impl Twin for RmsNorm {
    const NAMES: &'static [&'static str] = &["framework.RmsNorm"];
    type Config = Rms;

    fn build(config: &Rms, init: &mut Init) -> framework::Result<Self> {
        Ok(Self { offset: config.offset, ..Self::new(config.dim, config.eps, init)? })
    }

    fn forward(&self, _: &Rms, inputs: &mut Arguments) -> Result<Array> {
        Ok(Norm::forward(self, &inputs.take("x")?)?)
    }
}

#[derive(Clone, Deserialize)]
pub struct Layer {
    dim: i32,
    eps: f32,
    affine: bool,
    bias: bool,
}

impl Twin for LayerNorm {
    const NAMES: &'static [&'static str] = &["framework.LayerNorm"];
    type Config = Layer;

    fn build(config: &Layer, init: &mut Init) -> framework::Result<Self> {
        let norm = Self::new(config.dim, config.eps, init)?;
        let Self { weight, bias, eps } = norm;
        Ok(Self { weight: weight.filter(|_| config.affine), bias: bias.filter(|_| config.bias), eps })
    }

    fn forward(&self, _: &Layer, inputs: &mut Arguments) -> Result<Array> {
        Ok(Norm::forward(self, &inputs.take("x")?)?)
    }
}

#[derive(Clone, Deserialize)]
pub struct Group {
    groups: i32,
    channels: i32,
    eps: f32,
}

impl Twin for GroupNorm {
    const NAMES: &'static [&'static str] = &["framework.GroupNorm"];
    type Config = Group;

    fn build(config: &Group, init: &mut Init) -> framework::Result<Self> {
        Self::new(config.groups, config.channels, config.eps, init)
    }

    fn forward(&self, _: &Group, inputs: &mut Arguments) -> Result<Array> {
        Ok(Norm::forward(self, &inputs.take("x")?)?)
    }
}
