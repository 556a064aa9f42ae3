//! UniPC.

use super::{Bh, Denoise, Sampler};
use crate::{
    Array, Result, math,
    sample::{
        Noising, Rng,
        real::{blend, double, real},
    },
};
use num_traits::Float;
use std::collections::VecDeque;

/// `x' = σ'/σ x − signal' (φ m + B Σ ρₖ Dₖ)` with `φ = e^−h − 1` and differences `Dₖ = (mₖ − m)/rₖ` of the clean
/// samples at λ distances `rₖ h`; the corrector repeats the last step with the sample that it led to, `r = 1`.
pub struct UniPc<F> {
    noising: Noising,
    order: usize,
    bh: Bh,
    /// How many steps are left, this one included.
    left: usize,
    /// λ and clean samples, latest first.
    history: VecDeque<(F, Array)>,
    last: Option<Last<F>>,
}

/// Where the last step started, after correction, and its order.
struct Last<F> {
    x: Array,
    sigma: F,
    order: usize,
}

impl<F: Float> UniPc<F> {
    pub fn new(noising: Noising, order: usize, bh: Bh, steps: usize) -> Self {
        Self { noising, order, bh, left: steps, history: VecDeque::new(), last: None }
    }

    /// A step from `x` at `sigma` to `next`, by the history and, when correcting, by what was found at `next`.
    fn update(&self, x: &Array, sigma: F, next: F, order: usize, found: Option<&Array>) -> Result<Array> {
        let Some((here, newest)) = self.history.front() else {
            return Ok(x.clone());
        };
        let signal = self.noising.signal(next);
        let h = self.noising.lambda(next) - *here;
        let phi = (-h).exp_m1();
        let mut nodes = Vec::with_capacity(order);
        let mut differences = Vec::with_capacity(order);
        for (lambda, earlier) in self.history.iter().skip(1).take(order.saturating_sub(1)) {
            let node = (*lambda - *here) / h;
            nodes.push(node);
            differences.push(math::scaled(&math::subtract(earlier, newest)?, double(node.recip()))?);
        }
        if let Some(found) = found {
            nodes.push(F::one());
            differences.push(math::subtract(found, newest)?);
        }
        let weights = match nodes.len() {
            1 => vec![real(0.5)],
            count => weights(&nodes, &moments(-h, self.scale(h), count)),
        };
        let mut terms = vec![(-signal * phi, newest)];
        for (weight, difference) in weights.iter().zip(&differences) {
            terms.push((-signal * self.scale(h) * *weight, difference));
        }
        blend((next / sigma, x), &terms)
    }

    /// `B(−h)`.
    fn scale(&self, h: F) -> F {
        match self.bh {
            Bh::Bh1 => -h,
            Bh::Bh2 => (-h).exp_m1(),
        }
    }
}

/// `k! φₖ₊₁(z) z / B` for k = 1, 2, …, where `φ₁(z) = (e^z − 1)/z` and `φₖ₊₁(z) = (φₖ(z) − 1/k!)/z`.
fn moments<F: Float>(z: F, scale: F, count: usize) -> Vec<F> {
    let mut phi = z.exp_m1() / z - F::one();
    let (mut factorial, mut k) = (F::one(), F::one());
    let mut moments = Vec::with_capacity(count);
    for _ in 0..count {
        moments.push(phi * factorial / scale);
        k = k + F::one();
        factorial = factorial * k;
        phi = phi / z - factorial.recip();
    }
    moments
}

/// The solution ρ of `Σ ρₖ rₖⁱ = momentᵢ`: the moments of the Lagrange polynomials on the nodes.
fn weights<F: Float>(nodes: &[F], moments: &[F]) -> Vec<F> {
    let weight = |(k, &node): (usize, &F)| {
        let mut polynomial = vec![F::one()];
        for (_, &other) in nodes.iter().enumerate().filter(|&(j, _)| j != k) {
            // Times (r − other) / (node − other), coefficients from the lowest.
            let raised = std::iter::once(F::zero()).chain(polynomial.iter().copied());
            let kept = polynomial.iter().copied().chain(std::iter::once(F::zero()));
            polynomial = raised.zip(kept).map(|(up, same)| (up - other * same) / (node - other)).collect();
        }
        polynomial.iter().zip(moments).fold(F::zero(), |sum, (&factor, &moment)| sum + factor * moment)
    };
    nodes.iter().enumerate().map(weight).collect()
}

impl<F: Float> Sampler<F> for UniPc<F> {
    fn step(
        &mut self,
        denoise: &mut Denoise<'_, F>,
        x: &Array,
        sigma: F,
        next: F,
        _rng: &mut dyn Rng,
    ) -> Result<Array> {
        let denoised = denoise(x, sigma)?;
        let x = match &self.last {
            Some(last) => self.update(&last.x, last.sigma, sigma, last.order, Some(&denoised))?,
            None => x.clone(),
        };
        self.history.push_front((self.noising.lambda(sigma), denoised));
        self.history.truncate(self.order);
        let order = self.order.min(self.left).min(self.history.len()).max(1);
        // Nothing but x₀ is left at 0, whatever the history.
        let order = if next.is_zero() { 1 } else { order };
        let moved = self.update(&x, sigma, next, order, None)?;
        self.left = self.left.saturating_sub(1);
        self.last = Some(Last { x, sigma, order });
        Ok(moved)
    }

    fn evaluations(&self, _next: F) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_reproduce_the_moments() {
        let (nodes, moments) = ([-1.3f64, -0.4, 1.0], [0.5, 0.4, 0.3]);
        let weights = weights(&nodes, &moments);
        for (power, moment) in moments.iter().enumerate() {
            let sum: f64 = nodes.iter().zip(&weights).map(|(node, weight)| weight * node.powi(power as i32)).sum();
            assert!((sum - moment).abs() < 1e-12);
        }
    }

    #[test]
    fn moments_are_those_of_the_exponential() {
        // ∫₀¹ e^(z(1−r)) rᵏ dr · z / B, by the midpoint rule.
        let z = -0.7f64;
        let integral = |k: i32| {
            let inner = |i: i32| (f64::from(i) + 0.5) / 20_000.0;
            (0..20_000).map(|i| (z * (1.0 - inner(i))).exp() * inner(i).powi(k)).sum::<f64>() / 20_000.0
        };
        for (found, k) in moments(z, 1.0, 3).iter().zip(1..) {
            assert!((found - integral(k) * z).abs() < 1e-6, "{k}: {found}");
        }
    }
}
