//! How much a noise level counts.

use crate::{
    Array, Result, math,
    sample::{Noising, Prediction},
};
use mlx_rs::ops;
use serde::Deserialize;
use std::f64::consts::FRAC_2_PI;

/// The weight of an example's loss by its noise level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// 1.
    #[default]
    Uniform,
    /// `1/σ²` (<https://arxiv.org/abs/2403.03206>).
    SigmaSqrt,
    /// `2/(π (1 − 2σ + 2σ²))` (<https://arxiv.org/abs/2403.03206>).
    Cosmap,
    /// The weight of an error of the clean sample is the signal-to-noise ratio, but at most γ
    /// (<https://arxiv.org/abs/2303.09556>).
    MinSnr {
        /// γ; 5 is usual.
        gamma: f64,
    },
}

impl Weighting {
    /// The weights at levels of any shape, f32.
    pub fn at(self, noising: Noising, prediction: Prediction, sigma: &Array) -> Result<Array> {
        match self {
            Self::Uniform => Ok(ops::ones_like(sigma)?),
            Self::SigmaSqrt => Ok(sigma.square()?.reciprocal()?),
            Self::Cosmap => {
                let product = math::scaled(&sigma.multiply(math::offset(sigma, -1.0)?)?, 2.0)?;
                math::scaled(&math::offset(&product, 1.0)?.reciprocal()?, FRAC_2_PI)
            }
            Self::MinSnr { gamma } => {
                let signal = signal(noising, sigma)?;
                // An error of the output is one of the clean sample times `error`; `ratio` is √snr times that, written
                // so that it is finite at both ends.
                let (ratio, error) = match prediction {
                    Prediction::Epsilon => (ops::ones_like(sigma)?, sigma.divide(&signal)?),
                    Prediction::Sample => (signal.divide(sigma)?, ops::ones_like(sigma)?),
                    Prediction::V => {
                        let radius = radius(&signal, sigma)?;
                        (signal.divide(&radius)?, sigma.divide(&radius)?)
                    }
                    Prediction::Flow => {
                        let sum = signal.add(sigma)?;
                        (signal.divide(&sum)?, sigma.divide(&sum)?)
                    }
                };
                Ok(ops::minimum(&ratio.square()?, &math::scaled(&error.square()?, gamma)?)?)
            }
        }
    }
}

/// The factor of the clean sample at levels.
pub(super) fn signal(noising: Noising, sigma: &Array) -> Result<Array> {
    match noising {
        Noising::Additive => Ok(ops::ones_like(sigma)?),
        Noising::Flow => math::offset(&sigma.negative()?, 1.0),
    }
}

/// `√(signal² + σ²)`.
pub(super) fn radius(signal: &Array, sigma: &Array) -> Result<Array> {
    Ok(signal.square()?.add(sigma.square()?)?.sqrt()?)
}
