//! What a noise level means.

use super::real::{blend, real};
use crate::{Array, Result};
use num_traits::Float;
use serde::Deserialize;

/// How a clean sample `x₀` and noise `ε` mix at the level σ.
///
/// Samplers keep `x` in this frame. What diffusers' variance-preserving schedulers (DDIM, DPM-Solver++, UniPC) call
/// the sample is `x / √(1 + σ²)` of [`Noising::Additive`]; their x₀ is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noising {
    /// `x = x₀ + σ ε` with σ from 0 to about 15: diffusion (<https://arxiv.org/abs/2206.00364>).
    Additive,
    /// `x = (1 − σ) x₀ + σ ε` with σ from 0 to 1: flow matching (<https://arxiv.org/abs/2210.02747>).
    Flow,
}

impl Noising {
    /// The factor of `x₀` at σ; the factor of the noise is σ itself.
    pub fn signal<F: Float>(self, sigma: F) -> F {
        match self {
            Self::Additive => F::one(),
            Self::Flow => F::one() - sigma,
        }
    }

    /// What `x` is multiplied by before the model sees it: diffusion models take samples of unit variance,
    /// `1/√(1 + σ²)`; flow models take `x` itself.
    pub fn input_scale<F: Float>(self, sigma: F) -> F {
        match self {
            Self::Additive => (F::one() + sigma * sigma).sqrt().recip(),
            Self::Flow => F::one(),
        }
    }

    /// The noisy sample at σ. Both arrays have one shape; the result has the dtype of `clean`.
    pub fn noised<F: Float>(self, clean: &Array, noise: &Array, sigma: F) -> Result<Array> {
        blend((self.signal(sigma), clean), &[(sigma, noise)])
    }

    /// Noise over signal at σ, `σ / signal`. Finite: the signal counts as at least 1e-6, which is what diffusers
    /// reaches by lowering a first σ of 1 to 1 − 1e-6.
    pub(super) fn ratio<F: Float>(self, sigma: F) -> F {
        sigma / self.signal(sigma).max(real(1e-6))
    }

    /// The level at which noise over signal is `ratio`.
    pub(super) fn at_ratio<F: Float>(self, ratio: F) -> F {
        match self {
            Self::Additive => ratio,
            Self::Flow => ratio / (F::one() + ratio),
        }
    }

    /// λ, half the logarithm of the signal-to-noise ratio: infinite where there is no noise.
    pub(super) fn lambda<F: Float>(self, sigma: F) -> F {
        -self.ratio(sigma).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_finite_and_lead_back_to_their_level() {
        for noising in [Noising::Additive, Noising::Flow] {
            for sigma in [0.001, 0.3, 0.999] {
                assert!((noising.at_ratio(noising.ratio(sigma)) - sigma).abs() < 1e-12);
            }
            assert_eq!(noising.lambda(0.0), f64::INFINITY);
        }
        assert_eq!(Noising::Flow.ratio(1.0f64), 1e6);
    }
}
