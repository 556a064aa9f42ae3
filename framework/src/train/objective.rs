//! What a diffusion or flow model learns.

use super::{
    Levels, Timesteps,
    weighting::{Weighting, radius, signal},
};
use crate::{
    Array, Dtype, Error, Result,
    sample::{Noising, Prediction},
};
use mlx_rs::random;
use serde::Deserialize;

/// The mean square error of a prediction, weighted by the noise level.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// How clean sample and noise mix.
    pub noising: Noising,
    /// What the model predicts of them.
    pub prediction: Prediction,
    /// What a level counts.
    #[serde(default)]
    pub weighting: Weighting,
}

/// A batch as the model sees it, and what it should answer.
#[derive(Clone, Debug)]
pub struct Noised {
    /// `[B, …]`, scaled as the model takes it, in the dtype of the clean sample.
    pub input: Array,
    /// `[B, …]`, f32.
    pub target: Array,
    /// The weight of every example, `[B]`, f32.
    pub weight: Array,
    /// The noise levels.
    pub levels: Levels,
}

impl Objective {
    /// Draws levels and noise for clean samples `[B, …]`.
    ///
    /// # Errors
    /// For a scalar, and those of [`Timesteps::draw`].
    pub fn noised(&self, clean: &Array, timesteps: &Timesteps, key: &Array) -> Result<Noised> {
        let (for_levels, for_noise) = random::split(key, 2)?;
        let batch = *clean.shape().first().ok_or_else(|| Error::argument("clean", "a scalar; a batch is expected"))?;
        let levels = timesteps.draw(batch, &for_levels)?;
        self.mixed(clean, &random::normal::<f32>(clean.shape(), None, None, &for_noise)?, levels)
    }

    /// Mixes clean samples and noise, both `[B, …]`, at given levels.
    pub fn mixed(&self, clean: &Array, noise: &Array, levels: Levels) -> Result<Noised> {
        let dtype = clean.dtype();
        let clean = clean.as_dtype(Dtype::Float32)?;
        let sigma = by_example(&levels.sigma, &clean)?;
        let signal = signal(self.noising, &sigma)?;
        let x = clean.multiply(&signal)?.add(noise.multiply(&sigma)?)?;
        let input = match self.noising {
            Noising::Additive => x.divide(radius(&signal, &sigma)?)?,
            Noising::Flow => x,
        };
        let target = match self.prediction {
            Prediction::Epsilon => noise.clone(),
            Prediction::Sample => clean,
            Prediction::Flow => noise.subtract(&clean)?,
            Prediction::V => {
                let rotated = noise.multiply(&signal)?.subtract(clean.multiply(&sigma)?)?;
                rotated.divide(radius(&signal, &sigma)?)?
            }
        };
        let weight = self.weighting.at(self.noising, self.prediction, &levels.sigma)?;
        Ok(Noised { input: input.as_dtype(dtype)?, target, weight, levels })
    }

    /// The loss of an output `[B, …]`: a scalar, computed in f32.
    pub fn loss(&self, output: &Array, noised: &Noised) -> Result<Array> {
        if output.shape() != noised.target.shape() {
            let problem = format!("the shape {:?} where {:?} is expected", output.shape(), noised.target.shape());
            return Err(Error::argument("output", problem));
        }
        let error = output.as_dtype(Dtype::Float32)?.subtract(&noised.target)?.square()?;
        Ok(error.multiply(by_example(&noised.weight, &error)?)?.mean(None)?)
    }
}

/// `[B]` as `[B, 1, …]`, to be multiplied with `like`.
fn by_example(values: &Array, like: &Array) -> Result<Array> {
    let axes = like.ndim().saturating_sub(1);
    Ok(values.reshape(&[values.shape(), &vec![1; axes]].concat())?)
}
