//! From one noise level to the next.

mod dpm;
mod first_order;
mod heun;
mod unipc;

use super::{Noising, Rng};
use crate::{Array, Error, Result};
use num_traits::Float;
use serde::Deserialize;

/// The model behind its prediction: from a noisy sample and its level to the clean sample, of the same shape.
pub type Denoise<'a, F> = dyn FnMut(&Array, F) -> Result<Array> + 'a;

/// An integrator of the reverse process. It owns its history: a run has a sampler of its own.
pub trait Sampler<F> {
    /// The sample at `next`, from the sample `x` at `sigma`; keeps shape and dtype. Levels fall, and the last is 0.
    ///
    /// Keep `x` in f32 and cast what the model is given: a sampler computes in the dtype of `x`.
    ///
    /// # Errors
    /// Those of `denoise` and `rng`.
    fn step(&mut self, denoise: &mut Denoise<'_, F>, x: &Array, sigma: F, next: F, rng: &mut dyn Rng) -> Result<Array>;

    /// How often a step to `next` calls `denoise`.
    fn evaluations(&self, next: F) -> usize;
}

/// The form of `B(h)` in UniPC: `h`, or `e^h − 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bh {
    /// `B(h) = h`.
    Bh1,
    /// `B(h) = e^h − 1`.
    #[default]
    Bh2,
}

/// Which sampler.
///
/// Euler, DDIM and Euler ancestral are one update with more or less fresh noise, see [`Method::sampler`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Euler's method, `x' = x + (σ' − σ) dx/dσ`: DDIM without noise (<https://arxiv.org/abs/2206.00364>).
    Euler,
    /// A step below the next level, and fresh noise up to it.
    ///
    /// Of [`Noising::Additive`] it is DDIM with the same η. Of [`Noising::Flow`] it keeps ComfyUI's rule, diffusers'
    /// `LTXEulerAncestralRFScheduler`, with the 1e-12 that diffusers adds to divisors.
    EulerAncestral {
        /// The share of fresh noise; 0 is Euler, 1 is usual.
        eta: f64,
    },
    /// Heun's method: the mean of the slopes at both ends; a step to 0 is Euler's (<https://arxiv.org/abs/2206.00364>).
    Heun,
    /// DPM-Solver++ 2M: a second-order multistep in λ, midpoint form (<https://arxiv.org/abs/2211.01095>).
    ///
    /// The first step and the step to 0 are of first order, as in diffusers when `final_sigmas_type` is zero.
    Dpmpp2m,
    /// DPM-Solver++ SDE: two ancestral steps by way of the geometric mean of the levels (k-diffusion).
    ///
    /// Both noises of a step are increments of one Brownian path in σ (of Flow: in noise over signal), from two
    /// independent draws; a step to 0 is Euler's. Diffusers' path comes from torchsde's seeds, which nothing else
    /// reproduces.
    DpmppSde {
        /// The share of fresh noise; 1 is usual.
        eta: f64,
    },
    /// UniPC: a multistep predictor with a corrector that costs no evaluation (<https://arxiv.org/abs/2302.04867>).
    ///
    /// As in diffusers: order 2 predicts with the weight 1/2, and order 1 corrects with it, rather than with the
    /// solutions of their systems; the order falls to 1 in the last steps (`lower_order_final`) whatever their number;
    /// the last step is not corrected. Of bh1 diffusers' step to 0 is NaN (0 · ∞); here it is x₀, as of bh2.
    UniPc {
        /// 1 to 3; 2 is usual with guidance.
        order: usize,
        /// The form of `B(h)`.
        bh: Bh,
    },
    /// DDIM (<https://arxiv.org/abs/2010.02502>), to the next level of the schedule.
    ///
    /// Diffusers' DDIM steps by a fixed number of timesteps instead; the two differ where its timesteps are not evenly
    /// spaced (linspace; trailing when the steps do not divide 1000), and where `set_alpha_to_one` is false.
    Ddim {
        /// The share of fresh noise; 0 has none, 1 is DDPM's.
        eta: f64,
    },
}

impl Method {
    /// What [`Method::named`] knows.
    pub const NAMES: &'static [&'static str] =
        &["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "uni_pc_bh2", "ddim"];

    /// A method by its usual name, with its usual options. As elsewhere, `uni_pc` is of bh1 and order 3,
    /// `uni_pc_bh2` of order 2.
    ///
    /// # Errors
    /// Lists the known names.
    pub fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "euler" => Self::Euler,
            "euler_ancestral" => Self::EulerAncestral { eta: 1.0 },
            "heun" => Self::Heun,
            "dpmpp_2m" => Self::Dpmpp2m,
            "dpmpp_sde" => Self::DpmppSde { eta: 1.0 },
            "uni_pc" => Self::UniPc { order: 3, bh: Bh::Bh1 },
            "uni_pc_bh2" => Self::UniPc { order: 2, bh: Bh::Bh2 },
            "ddim" => Self::Ddim { eta: 0.0 },
            _ => {
                let problem = format!("no sampler is called `{name}`; there are {}", Self::NAMES.join(", "));
                return Err(Error::argument("sampler", problem));
            }
        })
    }

    /// The name of the method, whatever its options: one of [`Method::NAMES`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerAncestral { .. } => "euler_ancestral",
            Self::Heun => "heun",
            Self::Dpmpp2m => "dpmpp_2m",
            Self::DpmppSde { .. } => "dpmpp_sde",
            Self::UniPc { bh: Bh::Bh1, .. } => "uni_pc",
            Self::UniPc { bh: Bh::Bh2, .. } => "uni_pc_bh2",
            Self::Ddim { .. } => "ddim",
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::EulerAncestral { eta } | Self::DpmppSde { eta } | Self::Ddim { eta }
                if !(0.0..=1.0).contains(&eta) =>
            {
                Err(Error::argument("eta", format!("{eta} is not from 0 to 1")))
            }
            Self::UniPc { order, .. } if !(1..=3).contains(&order) => {
                Err(Error::argument("order", format!("UniPC has the orders 1, 2 and 3, not {order}")))
            }
            _ => Ok(()),
        }
    }

    /// A sampler for one run of so many steps.
    ///
    /// Euler, Euler ancestral and DDIM are `x' = signal' x₀ + kept ε + fresh z` with `ε = (x − signal x₀) / σ`, new
    /// noise `z`, and `kept² + fresh² = σ'²`.
    pub fn sampler<F: Float + 'static>(self, noising: Noising, steps: usize) -> Box<dyn Sampler<F>> {
        match self {
            Self::Euler => Box::new(first_order::FirstOrder::deterministic(noising)),
            Self::EulerAncestral { eta } => Box::new(first_order::FirstOrder::ancestral(noising, eta)),
            Self::Ddim { eta } => Box::new(first_order::FirstOrder::posterior(noising, eta)),
            Self::Heun => Box::new(heun::Heun),
            Self::Dpmpp2m => Box::new(dpm::Multistep::new(noising)),
            Self::DpmppSde { eta } => Box::new(dpm::Stochastic::new(noising, eta)),
            Self::UniPc { order, bh } => Box::new(unipc::UniPc::new(noising, order, bh, steps)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_valid() {
        for name in Method::NAMES {
            let method = Method::named(name).unwrap();
            method.validate().unwrap();
            assert_eq!(method.name(), *name);
        }
        assert!(Method::named("plms").unwrap_err().to_string().contains("uni_pc_bh2"));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (method, name) in [
            (Method::Ddim { eta: f64::NAN }, "eta"),
            (Method::EulerAncestral { eta: 1.5 }, "eta"),
            (Method::DpmppSde { eta: -0.1 }, "eta"),
            (Method::UniPc { order: 4, bh: Bh::Bh2 }, "order"),
        ] {
            assert!(method.validate().unwrap_err().to_string().contains(name));
        }
    }
}
