//! One evaluation, one step: Euler, Euler ancestral, DDIM.

use super::{Denoise, Sampler};
use crate::{
    Array, Result,
    sample::{
        Noising, Rng,
        real::{blend, real},
    },
};
use num_traits::Float;

/// `x' = signal' x₀ + kept ε + fresh z`.
pub struct FirstOrder {
    noising: Noising,
    rule: Rule,
    eta: f64,
}

/// How much of the next level's noise is fresh.
enum Rule {
    /// η times what the process itself would have added on the way from `next` to `sigma`, given x₀.
    Posterior,
    /// What is missing after a step to `σ'(1 + (σ'/σ − 1) η)` and a rescaling to the signal of `σ'`.
    Rescaled,
}

impl FirstOrder {
    pub fn deterministic(noising: Noising) -> Self {
        Self::posterior(noising, 0.0)
    }

    pub fn posterior(noising: Noising, eta: f64) -> Self {
        Self { noising, rule: Rule::Posterior, eta }
    }

    pub fn ancestral(noising: Noising, eta: f64) -> Self {
        let rule = match noising {
            Noising::Additive => Rule::Posterior,
            Noising::Flow => Rule::Rescaled,
        };
        Self { noising, rule, eta }
    }

    /// The factors of kept and fresh noise.
    fn noise<F: Float>(&self, sigma: F, next: F) -> (F, F) {
        let (one, eta) = (F::one(), real::<F>(self.eta));
        if next.is_zero() || eta.is_zero() {
            return (next, F::zero());
        }
        let (from, to) = (self.noising.signal(sigma), self.noising.signal(next));
        match self.rule {
            Rule::Posterior => {
                let carried = from * next / (to * sigma);
                let fresh = (eta * next * (one - carried * carried).sqrt()).min(next);
                ((next * next - fresh * fresh).sqrt(), fresh)
            }
            Rule::Rescaled => {
                let tiny = real::<F>(1e-12);
                let down = next * (one + (next / sigma - one) * eta);
                let signal = self.noising.signal(down);
                let kept = down * to / (signal + tiny);
                let square = next * next - down * down * to * to / (signal * signal + tiny);
                (kept, square.max(F::zero()).sqrt())
            }
        }
    }
}

impl<F: Float> Sampler<F> for FirstOrder {
    fn step(&mut self, denoise: &mut Denoise<'_, F>, x: &Array, sigma: F, next: F, rng: &mut dyn Rng) -> Result<Array> {
        let denoised = denoise(x, sigma)?;
        let (kept, fresh) = self.noise(sigma, next);
        let of_x = kept / sigma;
        let of_denoised = self.noising.signal(next) - of_x * self.noising.signal(sigma);
        let moved = blend((of_x, x), &[(of_denoised, &denoised)])?;
        if fresh.is_zero() {
            return Ok(moved);
        }
        blend((F::one(), &moved), &[(fresh, &rng.normal(x.shape(), x.dtype())?)])
    }

    fn evaluations(&self, _next: F) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_and_fresh_noise_make_up_the_level() {
        for sampler in [
            FirstOrder::deterministic(Noising::Flow),
            FirstOrder::posterior(Noising::Flow, 0.5),
            FirstOrder::posterior(Noising::Additive, 1.0),
            FirstOrder::ancestral(Noising::Flow, 1.0),
        ] {
            for (sigma, next) in [(1.0f64, 0.9), (0.6, 0.5), (0.1, 0.02), (0.02, 0.0)] {
                let (kept, fresh) = sampler.noise(sigma, next);
                assert!((kept.hypot(fresh) - next).abs() < 1e-9, "{sigma} {next}: {kept} {fresh}");
                assert_eq!(fresh > 0.0, sampler.eta > 0.0 && next > 0.0);
            }
        }
    }
}
