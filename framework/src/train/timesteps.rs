//! Which noise levels are trained.

use crate::{
    Array, Error, Result, math,
    sample::{Betas, Shift},
};
use mlx_rs::{Dtype, ops, random};
use serde::Deserialize;

/// How the noise level of every example is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Timesteps {
    /// Flow matching: σ evenly from 0 to 1, then shifted towards noise.
    Uniform {
        /// How far.
        #[serde(default)]
        shift: Shift,
    },
    /// Flow matching: `σ = sigmoid(mean + deviation z)` with z normal, which prefers the middle, then shifted
    /// (<https://arxiv.org/abs/2403.03206>).
    LogitNormal {
        /// The mean of the logits.
        mean: f64,
        /// Their standard deviation.
        deviation: f64,
        /// How far towards noise.
        #[serde(default)]
        shift: Shift,
    },
    /// Diffusion with discrete timesteps, each as often as any other.
    Discrete {
        /// What σ every timestep has.
        betas: Betas,
    },
}

/// The noise levels of a batch, f32.
#[derive(Clone, Debug)]
pub struct Levels {
    /// σ, `[B]`.
    pub sigma: Array,
    /// What the model is told, `[B]`: 1000 σ of flow matching, the number of a discrete timestep.
    pub timestep: Array,
}

impl Timesteps {
    /// Draws the levels of so many examples.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn draw(&self, count: i32, key: &Array) -> Result<Levels> {
        let (even, shift) = match *self {
            Self::Uniform { shift } => (random::uniform::<_, f32>(0.0, 1.0, &[count], key)?, shift),
            Self::LogitNormal { mean, deviation, shift } => {
                if !(mean.is_finite() && deviation.is_finite() && deviation > 0.0) {
                    let problem = format!("{deviation} about {mean}; it must be above 0, and both finite");
                    return Err(Error::argument("deviation", problem));
                }
                let normal = random::normal::<f32>(&[count], None, None, key)?;
                (ops::sigmoid(math::offset(&math::scaled(&normal, deviation)?, mean)?)?, shift)
            }
            Self::Discrete { betas } => return Self::discrete(&betas, count, key),
        };
        shift.validate()?;
        let odds = shift.odds();
        let sigma = math::divide(&math::scaled(&even, odds)?, &math::offset(&math::scaled(&even, odds - 1.0)?, 1.0)?)?;
        Ok(Levels { timestep: math::scaled(&sigma, 1000.0)?, sigma })
    }

    fn discrete(betas: &Betas, count: i32, key: &Array) -> Result<Levels> {
        let table: Vec<f32> = betas.table()?.into_iter().map(|sigma| sigma as f32).collect();
        let place = random::randint::<_, i32>(0, table.len() as i32, &[count], key)?;
        let sigma = math::array(&table, &[table.len() as i32])?.take_axis(&place, 0)?;
        Ok(Levels { sigma, timestep: place.as_dtype(Dtype::Float32)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 20_000;

    fn draw(timesteps: Timesteps, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let levels = timesteps.draw(COUNT as i32, &random::key(seed).unwrap()).unwrap();
        (math::read(&levels.sigma).unwrap(), math::read(&levels.timestep).unwrap())
    }

    /// The largest distance between the empirical distribution and the true one (Kolmogorov, Smirnov).
    fn distance(mut found: Vec<f32>, truth: impl Fn(f64) -> f64) -> f64 {
        found.sort_by(f32::total_cmp);
        let apart = |(place, value): (usize, &f32)| (truth(f64::from(*value)) - place as f64 / COUNT as f64).abs();
        found.iter().enumerate().map(apart).fold(0.0, f64::max)
    }

    /// What a distance is below, but for one seed in a hundred thousand.
    fn bound() -> f64 {
        2.5 / (COUNT as f64).sqrt()
    }

    fn normal(x: f64) -> f64 {
        0.5 * statrs::function::erf::erfc(-x / std::f64::consts::SQRT_2)
    }

    #[test]
    fn uniform_levels_are_uniform_and_follow_the_key() {
        let uniform = Timesteps::Uniform { shift: Shift::None };
        let (sigma, timestep) = draw(uniform, 1);
        assert!(timestep.iter().zip(&sigma).all(|(timestep, sigma)| (timestep - 1000.0 * sigma).abs() < 1e-3));
        assert_eq!(sigma, draw(uniform, 1).0);
        assert_ne!(sigma, draw(uniform, 2).0);
        assert!(distance(sigma, |sigma| sigma) < bound());
    }

    #[test]
    fn a_shift_moves_levels_towards_noise() {
        let (sigma, _) = draw(Timesteps::Uniform { shift: Shift::Algebraic { shift: 3.0 } }, 1);
        let before = |sigma: f64| sigma / (3.0 - 2.0 * sigma);
        assert!(distance(sigma.clone(), before) < bound());
        assert!(distance(sigma.clone(), |sigma| sigma) > 0.2);
        let (same, _) = draw(Timesteps::Uniform { shift: Shift::Exponential { mu: 3f64.ln() } }, 1);
        assert!(sigma.iter().zip(&same).all(|(one, other)| (one - other).abs() < 1e-6));
    }

    #[test]
    fn logits_are_normal() {
        let logit = |sigma: f64| (sigma / (1.0 - sigma)).ln();
        let (sigma, _) = draw(Timesteps::LogitNormal { mean: 0.3, deviation: 1.5, shift: Shift::None }, 4);
        assert!(distance(sigma, |sigma| normal((logit(sigma) - 0.3) / 1.5)) < bound());
        let shift = Shift::Algebraic { shift: 3.0 };
        let (sigma, _) = draw(Timesteps::LogitNormal { mean: 0.0, deviation: 1.0, shift }, 4);
        assert!(distance(sigma, |sigma| normal(logit(sigma / (3.0 - 2.0 * sigma)))) < bound());
    }

    #[test]
    fn every_discrete_timestep_is_as_likely() {
        let (sigma, timestep) = draw(Timesteps::Discrete { betas: Betas::STABLE_DIFFUSION }, 5);
        let table = Betas::STABLE_DIFFUSION.table().unwrap();
        assert!(timestep.iter().zip(&sigma).all(|(&place, &sigma)| table[place as usize] as f32 == sigma));
        assert!(timestep.contains(&0.0) && timestep.contains(&999.0));
        assert!(distance(timestep, |place| place / 1000.0) < bound());
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let key = random::key(0).unwrap();
        let shift = Shift::Algebraic { shift: 0.0 };
        for timesteps in [
            Timesteps::Uniform { shift },
            Timesteps::LogitNormal { mean: 0.0, deviation: 0.0, shift: Shift::None },
            Timesteps::LogitNormal { mean: f64::NAN, deviation: 1.0, shift: Shift::None },
        ] {
            assert!(timesteps.draw(2, &key).is_err());
        }
        assert!(
            serde_json::from_str::<Timesteps>(r#"{"kind": "uniform", "shift": {"algebraic": {"shift": 3.0}}}"#).is_ok()
        );
        assert!(serde_json::from_str::<Timesteps>(r#"{"kind": "uniform", "shft": "none"}"#).is_err());
    }
}
