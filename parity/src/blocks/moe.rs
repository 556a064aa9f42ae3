//! Mixtures of experts.

use framework::{Activation, Array, Choice, ExpertSizes, Ffn, Glu, Init, Linear, Moe, Scoring, SharedExpert};
use serde::Deserialize;
use zoo::{Arguments, Result};

use super::Twin;

#[derive(Clone, Deserialize)]
pub struct Mixture {
    dim: i32,
    hidden: i32,
    experts: i32,
    top_k: i32,
    scoring: Scoring,
    normalise: bool,
    scale: f32,
    correction: bool,
    activation: Activation,
    shared: Option<Shared>,
}

#[derive(Clone, Deserialize)]
struct Shared {
    hidden: i32,
    gate: bool,
}

impl Twin for Moe {
    const NAMES: &'static [&'static str] = &["framework.Moe"];
    type Config = Mixture;

    fn build(config: &Mixture, init: &mut Init) -> framework::Result<Self> {
        let &Mixture { dim, hidden, experts, top_k, scoring, normalise, scale, correction, activation, .. } = config;
        let choice = Choice { top_k, scoring, normalise, scale };
        let mut moe = Self::new(dim, ExpertSizes { count: experts, hidden }, choice, activation, init)?;
        moe.router.correction = correction.then(|| init.constant(&[experts], 0.0)).transpose()?;
        if let Some(Shared { hidden, gate }) = config.shared {
            let ffn = Glu::new(dim, hidden, activation, false, init)?;
            let gate = gate.then(|| Linear::new(dim, 1, false, init)).transpose()?;
            moe.shared = Some(SharedExpert { ffn, gate });
        }
        Ok(moe)
    }

    fn forward(&self, _: &Mixture, inputs: &mut Arguments) -> Result<Array> {
        Ok(Ffn::forward(self, &inputs.take("x")?)?)
    }
}
