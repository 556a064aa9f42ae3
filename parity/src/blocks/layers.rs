//! Layers and feed-forward networks.

use framework::{Activation, Array, Embedding, Ffn, Glu, Init, Linear, Mlp, Weight};
use serde::Deserialize;
use zoo::{Arguments, Result};

use super::Twin;

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Quantisation {
    Affine { bits: i32, group: i32 },
}

impl Quantisation {
    /// Gives a weight the form that the case says its tensors have.
    fn apply(&self, weight: &mut Weight) -> framework::Result<()> {
        match self {
            Self::Affine { bits, group } => weight.quantise(*group, *bits),
        }
    }
}

#[derive(Clone, Deserialize)]
pub struct Matrix {
    input: i32,
    output: i32,
    bias: bool,
    quantisation: Option<Quantisation>,
}

impl Twin for Linear {
    const NAMES: &'static [&'static str] = &["framework.Linear"];
    type Config = Matrix;

    fn build(config: &Matrix, init: &mut Init) -> framework::Result<Self> {
        let mut linear = Self::new(config.input, config.output, config.bias, init)?;
        config.quantisation.iter().try_for_each(|quantisation| quantisation.apply(&mut linear.weight))?;
        Ok(linear)
    }

    fn forward(&self, _: &Matrix, inputs: &mut Arguments) -> Result<Array> {
        Ok(Self::forward(self, &inputs.take("x")?)?)
    }
}

#[derive(Clone, Deserialize)]
pub struct Table {
    count: i32,
    dim: i32,
    quantisation: Option<Quantisation>,
}

impl Twin for Embedding {
    const NAMES: &'static [&'static str] = &["framework.Embedding"];
    type Config = Table;

    fn build(config: &Table, init: &mut Init) -> framework::Result<Self> {
        let mut table = Self::new(config.count, config.dim, init)?;
        config.quantisation.iter().try_for_each(|quantisation| quantisation.apply(&mut table.weight))?;
        Ok(table)
    }

    fn forward(&self, _: &Table, inputs: &mut Arguments) -> Result<Array> {
        Ok(Self::forward(self, &inputs.take("ids")?)?)
    }
}

#[derive(Clone, Deserialize)]
pub struct Network {
    dim: i32,
    hidden: i32,
    activation: Activation,
    bias: bool,
}

impl Twin for Mlp {
    const NAMES: &'static [&'static str] = &["framework.Mlp"];
    type Config = Network;

    fn build(config: &Network, init: &mut Init) -> framework::Result<Self> {
        Self::new(config.dim, config.hidden, config.activation, config.bias, init)
    }

    fn forward(&self, _: &Network, inputs: &mut Arguments) -> Result<Array> {
        Ok(Ffn::forward(self, &inputs.take("x")?)?)
    }
}

impl Twin for Glu {
    const NAMES: &'static [&'static str] = &["framework.Glu"];
    type Config = Network;

    fn build(config: &Network, init: &mut Init) -> framework::Result<Self> {
        Self::new(config.dim, config.hidden, config.activation, config.bias, init)
    }

    fn forward(&self, _: &Network, inputs: &mut Arguments) -> Result<Array> {
        Ok(Ffn::forward(self, &inputs.take("x")?)?)
    }
}
