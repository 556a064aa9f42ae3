//! Levels whose logits are normally distributed.

use super::{Clock, Schedule, check, check_steps};
use crate::Result;
use num_traits::Float;
use serde::Deserialize;
use statrs::function::erf::erfc_inv;
use std::f64::consts::SQRT_2;

/// Quantiles of a logit-normal distribution (<https://arxiv.org/abs/2403.03206>): `σ = sigmoid(mean + deviation z)`
/// with `z` the normal quantiles of `1, (n − 1)/n, …, 1/n` (Ideogram 4).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogitNormal {
    /// The mean of the logits, see [`LogitNormal::at`].
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// The logarithm of the least signal-to-noise ratio: σ is at most `sigmoid(−least/2)`.
    pub least: f64,
    /// That of the greatest: σ is at least `sigmoid(−greatest/2)`.
    pub greatest: f64,
}

impl Default for LogitNormal {
    /// Ideogram 4's at 512².
    fn default() -> Self {
        Self { mean: 0.0, deviation: 1.5, least: -18.0, greatest: 15.0 }
    }
}

impl LogitNormal {
    /// With the mean moved by half the logarithm of the pixels over those of 512².
    #[must_use]
    pub fn at(self, height: usize, width: usize) -> Self {
        let pixels = height as f64 * width as f64;
        Self { mean: self.mean + 0.5 * (pixels / (512.0 * 512.0)).ln(), ..self }
    }

    /// The schedule of so many steps; timesteps are 1000 σ.
    ///
    /// # Errors
    /// When an option is out of its range, or levels do not fall strictly.
    pub fn schedule<F: Float>(&self, steps: usize) -> Result<Schedule<F>> {
        check_steps(steps)?;
        check("mean", self.mean, "finite", true)?;
        check("deviation", self.deviation, "above 0", self.deviation > 0.0)?;
        check("least", self.least, "finite", true)?;
        check("greatest", self.greatest, "above the least", self.greatest > self.least)?;
        let (lowest, highest) = (sigmoid(-0.5 * self.greatest), sigmoid(-0.5 * self.least));
        let level = |place: usize| {
            let quantile = -SQRT_2 * erfc_inv(2.0 * place as f64 / steps as f64);
            sigmoid(self.mean + self.deviation * quantile).clamp(lowest, highest)
        };
        let levels: Vec<f64> = (1..=steps).rev().map(level).collect();
        Schedule::new(&levels, Clock::Scaled(1000.0))
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_images_have_more_noise() {
        let small = LogitNormal::default().schedule::<f64>(4).unwrap();
        let large = LogitNormal::default().at(1024, 1024).schedule::<f64>(4).unwrap();
        assert!((small.sigmas()[2] - 0.5).abs() < 1e-12);
        assert!(large.sigmas()[2] > 0.6);
        assert_eq!(LogitNormal::default().at(512, 512), LogitNormal::default());
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let usual = LogitNormal::default();
        for (schedule, name) in [
            (LogitNormal { mean: f64::NAN, ..usual }, "mean"),
            (LogitNormal { deviation: 0.0, ..usual }, "deviation"),
            (LogitNormal { greatest: -20.0, ..usual }, "greatest"),
            (usual.at(0, 512), "mean"),
            (LogitNormal { mean: -90.0, ..usual }, "sigmas"),
        ] {
            assert!(schedule.schedule::<f32>(4).unwrap_err().to_string().contains(name));
        }
    }
}
