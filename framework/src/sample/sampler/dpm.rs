//! DPM-Solver++: exponential integrators of the clean sample in λ, half the logarithm of the signal-to-noise ratio.

use super::{Denoise, Sampler};
use crate::{
    Array, Result,
    sample::{
        Noising, Rng,
        real::{blend, real},
    },
};
use num_traits::Float;

/// 2M: `x' = σ'/σ x − signal' (e^−h − 1) D` with `h = λ' − λ` and `D` extrapolated from this evaluation and the last.
pub struct Multistep<F> {
    noising: Noising,
    last: Option<(F, Array)>,
}

impl<F> Multistep<F> {
    pub fn new(noising: Noising) -> Self {
        Self { noising, last: None }
    }
}

impl<F: Float> Sampler<F> for Multistep<F> {
    fn step(
        &mut self,
        denoise: &mut Denoise<'_, F>,
        x: &Array,
        sigma: F,
        next: F,
        _rng: &mut dyn Rng,
    ) -> Result<Array> {
        let denoised = denoise(x, sigma)?;
        let lambda = self.noising.lambda(sigma);
        let h = self.noising.lambda(next) - lambda;
        let of_denoised = -self.noising.signal(next) * (-h).exp_m1();
        let moved = match &self.last {
            Some((before, earlier)) if !next.is_zero() => {
                let lean = of_denoised * h / (lambda - *before) * real(0.5);
                blend((next / sigma, x), &[(of_denoised + lean, &denoised), (-lean, earlier)])?
            }
            _ => blend((next / sigma, x), &[(of_denoised, &denoised)])?,
        };
        self.last = Some((lambda, denoised));
        Ok(moved)
    }

    fn evaluations(&self, _next: F) -> usize {
        1
    }
}

/// SDE: an ancestral step to the geometric mean of the levels, and one over the whole way with what is seen there.
pub struct Stochastic {
    noising: Noising,
    eta: f64,
}

impl Stochastic {
    pub fn new(noising: Noising, eta: f64) -> Self {
        Self { noising, eta }
    }

    /// From `x` at `sigma` to noise over signal `to`.
    fn ancestral<F: Float>(&self, x: &Array, denoised: &Array, noise: &Array, sigma: F, to: F) -> Result<Array> {
        let from = self.noising.ratio(sigma);
        let passed = to / from;
        let up = (real::<F>(self.eta) * to * (F::one() - passed * passed).sqrt()).min(to);
        let down = (to * to - up * up).sqrt();
        let signal = self.noising.signal(self.noising.at_ratio(to));
        let of_denoised = signal * (F::one() - down / from);
        blend((signal * down / sigma, x), &[(of_denoised, denoised), (signal * up, noise)])
    }
}

impl<F: Float> Sampler<F> for Stochastic {
    fn step(&mut self, denoise: &mut Denoise<'_, F>, x: &Array, sigma: F, next: F, rng: &mut dyn Rng) -> Result<Array> {
        let denoised = denoise(x, sigma)?;
        if next.is_zero() {
            return Ok(denoised.as_dtype(x.dtype())?);
        }
        let (from, to) = (self.noising.ratio(sigma), self.noising.ratio(next));
        let middle = (from * to).sqrt();
        let first = rng.normal(x.shape(), x.dtype())?;
        let reached = self.ancestral(x, &denoised, &first, sigma, middle)?;
        let denoised = denoise(&reached, self.noising.at_ratio(middle))?;
        // The path runs on: its increment over the whole step is the sum of those over the halves.
        let share = (from - middle) / (from - to);
        let second = rng.normal(x.shape(), x.dtype())?;
        let whole = blend((share.sqrt(), &first), &[((F::one() - share).sqrt(), &second)])?;
        self.ancestral(x, &denoised, &whole, sigma, to)
    }

    fn evaluations(&self, next: F) -> usize {
        if next.is_zero() { 1 } else { 2 }
    }
}
