//! Adam and AdamW.

use super::Optimiser;
use crate::{Array, Error, Result, math};

/// Steps along a running mean of the gradient, divided by the root of that of its square, both corrected for having begun
/// at zero (<https://arxiv.org/abs/1412.6980>): `m ← m + (1 − β₁)(g − m)`, `v ← β₂ v + (1 − β₂) g²`,
/// `w ← w − rate/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`. As torch's `Adam` and `AdamW`.
pub struct Adam {
    /// How much of the mean stays: β₁ of the gradient's, β₂ of its square's.
    pub betas: (f64, f64),
    /// ε.
    pub eps: f64,
    /// How parameters are drawn towards zero.
    pub decay: Decay,
    /// Which parameters are; by default those with more than one axis, so that biases and the gains of
    /// norms are not.
    pub decays: Box<Choice>,
}

/// Yes or no to a parameter, by path and value.
pub type Choice = dyn Fn(&str, &Array) -> bool;

/// How parameters are drawn towards zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// So much of the parameter is added to its gradient: torch's `Adam`. 0 is not at all.
    Coupled(f64),
    /// So much of the parameter, times the rate, is taken away before the step: AdamW
    /// (<https://arxiv.org/abs/1711.05101>).
    Decoupled(f64),
}

impl Default for Adam {
    /// Adam without decay.
    fn default() -> Self {
        let decays = |_: &str, parameter: &Array| parameter.ndim() > 1;
        Self { betas: (0.9, 0.999), eps: 1e-8, decay: Decay::Coupled(0.0), decays: Box::new(decays) }
    }
}

impl Adam {
    /// AdamW.
    pub fn decoupled(decay: f64) -> Self {
        Self { decay: Decay::Decoupled(decay), ..Self::default() }
    }
}

impl Optimiser for Adam {
    fn slots(&self) -> &[&str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn coefficients(&self, step: u64, rate: f64) -> Vec<f64> {
        let corrected = |beta: f64| 1.0 - beta.powf(step as f64);
        let kept = match self.decay {
            Decay::Coupled(_) => 1.0,
            Decay::Decoupled(decay) => 1.0 - rate * decay,
        };
        vec![rate / corrected(self.betas.0), corrected(self.betas.1).sqrt(), kept]
    }

    fn update(
        &self,
        path: &str,
        parameter: &Array,
        gradient: &Array,
        slots: &[Array],
        coefficients: &[Array],
    ) -> Result<(Array, Vec<Array>)> {
        let ([mean, square], [pace, correction, kept]) = (slots, coefficients) else {
            return Err(Error::argument("slots", "Adam has two arrays a parameter, and three coefficients"));
        };
        let (mut parameter, mut gradient) = (parameter.clone(), gradient.clone());
        match self.decay {
            Decay::Coupled(decay) if decay != 0.0 && (self.decays)(path, &parameter) => {
                gradient = math::add(&gradient, &math::scaled(&parameter, decay)?)?;
            }
            Decay::Decoupled(_) if (self.decays)(path, &parameter) => parameter = math::multiply(&parameter, kept)?,
            Decay::Coupled(_) | Decay::Decoupled(_) => {}
        }
        let mean = math::add(mean, &math::scaled(&math::subtract(&gradient, mean)?, 1.0 - self.betas.0)?)?;
        let fresh = math::scaled(&gradient.square()?, 1.0 - self.betas.1)?;
        let square = math::add(&math::scaled(square, self.betas.1)?, &fresh)?;
        let scale = math::offset(&math::divide(&square.sqrt()?, correction)?, self.eps)?;
        let change = math::multiply(&math::divide(&mean, &scale)?, pace)?;
        Ok((math::subtract(&parameter, &change)?, vec![mean, square]))
    }
}
