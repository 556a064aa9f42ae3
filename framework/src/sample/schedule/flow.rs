//! Levels of flow matching, from 1 to 0.

use super::{Clock, Curve, Schedule, check, check_steps, linspace};
use crate::Result;
use num_traits::Float;
use serde::Deserialize;

/// Flow matching: an even ramp, moved towards noise by a shift.
///
/// Diffusers' schedulers and pipelines disagree about the ramp; there is a constructor for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Where the ramp starts.
    pub first: f64,
    /// Where it ends.
    pub last: f64,
    /// Whether `last` is the level of the last step, or the one after it.
    pub inclusive: bool,
    /// What is done to the ramp.
    pub shift: Shift,
    /// The lowest level above 0: the shifted ramp is stretched to reach it (LTX-Video).
    pub terminal: Option<f64>,
    /// Replaces what is between the highest and the lowest level.
    pub curve: Option<Curve>,
    /// As diffusers' multistep schedulers: a first level of 1 is lowered by 1e-6, and timesteps are cut to integers.
    pub multistep: bool,
}

/// How levels are moved towards noise, which large images need more of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// Not at all.
    #[default]
    None,
    /// `shift σ / (1 + (shift − 1) σ)`; 1 is not at all (<https://arxiv.org/abs/2403.03206>).
    Algebraic {
        /// The odds of noise are multiplied by it.
        shift: f64,
    },
    /// `e^μ / (e^μ + 1/σ − 1)`: the algebraic shift by `e^μ`.
    Exponential {
        /// Its logarithm, see [`Resolution::mu`].
        mu: f64,
    },
}

/// μ as a linear function of the number of image tokens; by default FLUX.1's.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resolution {
    /// μ at the smaller number of tokens.
    pub base_shift: f64,
    /// μ at the larger number.
    pub max_shift: f64,
    /// The smaller number.
    pub base_image_seq_len: f64,
    /// The larger number.
    pub max_image_seq_len: f64,
}

impl Default for Resolution {
    fn default() -> Self {
        Self { base_shift: 0.5, max_shift: 1.15, base_image_seq_len: 256.0, max_image_seq_len: 4096.0 }
    }
}

impl Resolution {
    /// μ for an image of so many tokens; the line goes on beyond both ends.
    pub fn mu(&self, tokens: usize) -> f64 {
        let slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len);
        tokens as f64 * slope + (self.base_shift - slope * self.base_image_seq_len)
    }
}

impl Shift {
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Algebraic { shift } => check("shift", shift, "above 0", shift > 0.0),
            // Beyond, e^μ or its inverse swallows every level.
            Self::Exponential { mu } => check("mu", mu, "between -20 and 20", mu.abs() <= 20.0),
        }
    }

    /// What the odds of noise are multiplied by.
    pub(crate) fn odds(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Algebraic { shift } => shift,
            Self::Exponential { mu } => mu.exp(),
        }
    }

    fn apply(self, sigma: f64) -> f64 {
        match self {
            Self::None => sigma,
            Self::Algebraic { shift } => shift * sigma / (1.0 + (shift - 1.0) * sigma),
            Self::Exponential { mu } => mu.exp() / (mu.exp() + (1.0 / sigma - 1.0)),
        }
    }
}

impl Flow {
    /// How many timesteps the models were trained with.
    const TRAINED: f64 = 1000.0;

    fn ramp(first: f64, last: f64, inclusive: bool, shift: Shift) -> Self {
        Self { first, last, inclusive, shift, terminal: None, curve: None, multistep: false }
    }

    /// `1, (n − 1)/n, …, 1/n`: what pipelines give (FLUX, Qwen-Image, Z-Image, …).
    pub fn even(shift: Shift) -> Self {
        Self::ramp(1.0, 0.0, false, shift)
    }

    /// From 1 to the lowest trained level: `FlowMatchEulerDiscreteScheduler` when it is only told the number of steps
    /// (Stable Diffusion 3, AuraFlow). Its lowest level is shifted already, and shifted again with the ramp.
    pub fn trained(shift: Shift) -> Self {
        let lowest = match shift {
            Shift::Algebraic { .. } => shift.apply(1.0 / Self::TRAINED),
            Shift::None | Shift::Exponential { .. } => 1.0 / Self::TRAINED,
        };
        Self::ramp(1.0, lowest, true, shift)
    }

    /// From 1 towards 1/1000: `UniPCMultistepScheduler` with flow sigmas (Wan).
    pub fn unipc(shift: Shift) -> Self {
        Self { multistep: true, ..Self::ramp(1.0, 1.0 / Self::TRAINED, false, shift) }
    }

    /// From 999/1000 towards 0: `DPMSolverMultistepScheduler` with flow sigmas.
    pub fn dpm(shift: Shift) -> Self {
        Self { multistep: true, ..Self::ramp(1.0 - 1.0 / Self::TRAINED, 0.0, false, shift) }
    }

    /// The schedule of so many steps; timesteps are 1000 σ.
    ///
    /// # Errors
    /// When an option is out of its range, or levels do not fall strictly.
    pub fn schedule<F: Float>(&self, steps: usize) -> Result<Schedule<F>> {
        check_steps(steps)?;
        self.shift.validate()?;
        check("first", self.first, "above 0 and at most 1", self.first > 0.0 && self.first <= 1.0)?;
        check("last", self.last, "from 0 to the first level", (0.0..=self.first).contains(&self.last))?;
        let mut levels = linspace(self.first, self.last, if self.inclusive { steps } else { steps + 1 });
        levels.truncate(steps);
        for sigma in &mut levels {
            *sigma = self.shift.apply(*sigma);
        }
        if let Some(terminal) = self.terminal {
            check("terminal", terminal, "above 0 and below 1", terminal > 0.0 && terminal < 1.0)?;
            stretch(&mut levels, terminal);
        }
        if let (Some(curve), Some(&highest), Some(&lowest)) = (self.curve, levels.first(), levels.last()) {
            levels = curve.between(highest, lowest, steps)?;
        }
        let clock = Clock::Scaled(Self::TRAINED);
        if !self.multistep {
            return Schedule::new(&levels, clock);
        }
        if let Some(first) = levels.first_mut().filter(|first| (**first - 1.0).abs() < 1e-6) {
            *first -= 1e-6;
        }
        let timesteps: Vec<f64> = levels.iter().map(|&sigma| clock.timestep(sigma).trunc()).collect();
        Schedule::with_timesteps(&levels, &timesteps, clock)
    }
}

/// Scales distances from 1 so that the last level is `terminal`. A single level of 1 has no distance, and stays
/// (diffusers divides 0 by 0).
fn stretch(levels: &mut [f64], terminal: f64) {
    let factor = levels.last().map_or(0.0, |last| 1.0 - last) / (1.0 - terminal);
    if factor > 0.0 {
        for sigma in levels {
            *sigma = 1.0 - (1.0 - *sigma) / factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_shift_is_the_algebraic_by_its_exponential() {
        let exponential = Flow::even(Shift::Exponential { mu: 1.15 }).schedule::<f64>(7).unwrap();
        let algebraic = Flow::even(Shift::Algebraic { shift: 1.15f64.exp() }).schedule::<f64>(7).unwrap();
        for (a, b) in exponential.sigmas().iter().zip(algebraic.sigmas()) {
            assert!((a - b).abs() < 1e-14);
        }
    }

    #[test]
    fn flux_moves_from_half_to_one_point_fifteen() {
        let resolution = Resolution::default();
        assert!((resolution.mu(256) - 0.5).abs() < 1e-12);
        assert!((resolution.mu(4096) - 1.15).abs() < 1e-12);
        assert!(resolution.mu(8192) > 1.15);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let even = || Flow::even(Shift::None);
        for (flow, steps, name) in [
            (even(), 0, "steps"),
            (even(), usize::MAX, "steps"),
            (Flow::even(Shift::Algebraic { shift: 0.0 }), 4, "shift"),
            (Flow::even(Shift::Algebraic { shift: f64::NAN }), 4, "shift"),
            (Flow::even(Shift::Exponential { mu: f64::INFINITY }), 4, "mu"),
            (Flow { terminal: Some(1.0), ..even() }, 4, "terminal"),
            (Flow { first: 2.0, ..even() }, 4, "first"),
            (Flow { last: 1.5, ..even() }, 4, "last"),
            (Flow { inclusive: true, ..even() }, 4, "sigmas"),
            (Flow { curve: Some(Curve::Karras { rho: -1.0 }), ..even() }, 4, "rho"),
        ] {
            let error = flow.schedule::<f32>(steps).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
        }
    }
}
