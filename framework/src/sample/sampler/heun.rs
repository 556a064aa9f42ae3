//! Heun's method.

use super::{Denoise, Sampler};
use crate::{
    Array, Result,
    sample::{
        Rng, derivative,
        real::{blend, real},
    },
};
use num_traits::Float;

/// `x' = x + (σ' − σ) (d + d')/2`, with the slope `d'` at the end of an Euler step.
///
/// Samples of either noising move along straight lines in σ when their clean sample is known, so it need not be known.
pub struct Heun;

impl<F: Float> Sampler<F> for Heun {
    fn step(
        &mut self,
        denoise: &mut Denoise<'_, F>,
        x: &Array,
        sigma: F,
        next: F,
        _rng: &mut dyn Rng,
    ) -> Result<Array> {
        let denoised = denoise(x, sigma)?;
        if next.is_zero() {
            return Ok(denoised.as_dtype(x.dtype())?);
        }
        let slope = derivative(x, &denoised, sigma)?;
        let span = next - sigma;
        let reached = blend((F::one(), x), &[(span, &slope)])?;
        let ahead = derivative(&reached, &denoise(&reached, next)?, next)?;
        let half = span * real(0.5);
        blend((F::one(), x), &[(half, &slope), (half, &ahead)])
    }

    fn evaluations(&self, next: F) -> usize {
        if next.is_zero() { 1 } else { 2 }
    }
}
