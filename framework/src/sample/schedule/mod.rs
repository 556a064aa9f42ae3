//! Which noise levels are visited.

mod curve;
mod discrete;
mod flow;
mod logit_normal;

use super::real::{double, real};
use crate::{Error, Result};
use num_traits::Float;

pub use curve::Curve;
pub use discrete::{BetaKind, Betas, Discrete, Spacing};
pub use flow::{Flow, Resolution, Shift};
pub use logit_normal::LogitNormal;

/// The levels of a run, strictly falling to 0, and what the model is told at each.
///
/// Levels are computed in f64, as NumPy does for diffusers, and rounded to `F` at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule<F> {
    sigmas: Vec<F>,
    timesteps: Vec<F>,
    clock: Clock,
}

/// From a level to the timestep that conditions the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Clock {
    /// `factor · σ`: flow matching, with 1000.
    Scaled(f64),
    /// The place in a model's table of `ln σ`, lowest first, interpolated: discrete-time diffusion.
    Table(Vec<f64>),
    /// `ln(σ)/4`: EDM (<https://arxiv.org/abs/2206.00364>).
    QuarterLog,
}

impl Clock {
    /// The timestep at a level above 0.
    pub fn timestep(&self, sigma: f64) -> f64 {
        match self {
            Self::Scaled(factor) => factor * sigma,
            Self::QuarterLog => 0.25 * sigma.ln(),
            Self::Table(logs) => place(logs, sigma.max(1e-10).ln()),
        }
    }
}

/// The fractional place of a value in a rising list; that of the nearer end outside.
fn place(rising: &[f64], value: f64) -> f64 {
    let below = rising.partition_point(|&entry| entry <= value);
    let low = below.saturating_sub(1).min(rising.len().saturating_sub(2));
    match (rising.get(low), rising.get(low + 1)) {
        (Some(&from), Some(&to)) => {
            let share = ((from - value) / (from - to)).clamp(0.0, 1.0);
            (1.0 - share) * low as f64 + share * (low + 1) as f64
        }
        _ => 0.0,
    }
}

impl<F: Float> Schedule<F> {
    /// The given levels, then 0. The timesteps are the clock's.
    ///
    /// # Errors
    /// Without levels, or when they do not fall strictly to 0 in `F`.
    pub(crate) fn new(levels: &[f64], clock: Clock) -> Result<Self> {
        let timesteps: Vec<f64> = levels.iter().map(|&sigma| clock.timestep(sigma)).collect();
        Self::with_timesteps(levels, &timesteps, clock)
    }

    fn with_timesteps(levels: &[f64], timesteps: &[f64], clock: Clock) -> Result<Self> {
        if levels.is_empty() {
            return Err(Error::argument("steps", "0 steps; at least 1 is needed"));
        }
        let sigmas: Vec<F> = levels.iter().copied().chain([0.0]).map(real).collect();
        let falls = |(from, to): (&F, &F)| from.is_finite() && from > to;
        if let Some(step) = sigmas.iter().zip(sigmas.iter().skip(1)).position(|pair| !falls(pair)) {
            let levels: Vec<f64> = sigmas.iter().skip(step).take(2).map(|&sigma| double(sigma)).collect();
            let problem = format!(
                "noise levels must fall strictly to 0, but step {} goes from one to the other of {levels:?}; fewer \
                 steps, or other options, keep them apart",
                step + 1
            );
            return Err(Error::argument("sigmas", problem));
        }
        Ok(Self { sigmas, timesteps: timesteps.iter().copied().map(real).collect(), clock })
    }

    /// One more than steps; the last is 0.
    pub fn sigmas(&self) -> &[F] {
        &self.sigmas
    }

    /// One a step.
    pub fn timesteps(&self) -> &[F] {
        &self.timesteps
    }

    /// How many steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The level at which each step starts and the one at which it ends.
    pub fn spans(&self) -> impl Iterator<Item = (F, F)> {
        self.sigmas.iter().copied().zip(self.sigmas.iter().skip(1).copied())
    }

    /// The timestep at any level above 0: the listed one, or the clock's between the levels of the schedule.
    pub fn timestep(&self, sigma: F) -> F {
        let listed = self.sigmas.iter().position(|&listed| listed == sigma);
        match listed.and_then(|step| self.timesteps.get(step)) {
            Some(&timestep) => timestep,
            None => real(self.clock.timestep(double(sigma))),
        }
    }

    /// The last steps, about `strength` of them: where a given image is noised to and denoised from. 1 keeps all.
    ///
    /// # Errors
    /// When the strength is not above 0 and at most 1, or so small that no step is left.
    pub fn with_strength(mut self, strength: f64) -> Result<Self> {
        let steps = self.steps();
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Error::argument("strength", format!("{strength} is not above 0 and at most 1")));
        }
        // Diffusers' rounding, which cuts what is skipped.
        let skipped = (steps as f64 - (steps as f64 * strength).min(steps as f64)) as usize;
        if skipped >= steps {
            let problem = format!("{strength} of {steps} steps leaves none; use at least {}", 1.0 / steps as f64);
            return Err(Error::argument("strength", problem));
        }
        self.sigmas.drain(..skipped);
        self.timesteps.drain(..skipped);
        Ok(self)
    }
}

/// Given levels, such as those that a model was distilled for.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// Strictly falling, above 0; a last 0 may be left out.
    pub sigmas: Vec<f64>,
    /// What the model is told.
    pub clock: Clock,
}

impl Fixed {
    /// The schedule of these levels.
    ///
    /// # Errors
    /// Without levels, when they do not fall strictly to 0, or when `steps` is not their number.
    pub fn schedule<F: Float>(&self, steps: usize) -> Result<Schedule<F>> {
        let levels = match self.sigmas.split_last() {
            Some((0.0, levels)) => levels,
            _ => &self.sigmas,
        };
        check_steps(steps)?;
        if steps != levels.len() {
            let problem = format!("{steps} steps where {} levels above 0 are given", levels.len());
            return Err(Error::argument("steps", problem));
        }
        Schedule::new(levels, self.clock.clone())
    }
}

/// Any schedule, for those who choose at run time.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is documented as a type")]
pub enum AnySchedule {
    Flow(Flow),
    LogitNormal(LogitNormal),
    Discrete(Discrete),
    Fixed(Fixed),
}

impl AnySchedule {
    /// The schedule of so many steps.
    ///
    /// # Errors
    /// When an option is out of its range, or there are too many steps for levels that differ.
    pub fn schedule<F: Float>(&self, steps: usize) -> Result<Schedule<F>> {
        match self {
            Self::Flow(flow) => flow.schedule(steps),
            Self::LogitNormal(logit_normal) => logit_normal.schedule(steps),
            Self::Discrete(discrete) => discrete.schedule(steps),
            Self::Fixed(fixed) => fixed.schedule(steps),
        }
    }
}

/// NumPy's `linspace`: `count` values, evenly spaced, in its order of operations.
fn linspace(first: f64, last: f64, count: usize) -> Vec<f64> {
    let step = (last - first) / count.saturating_sub(1).max(1) as f64;
    let mut values: Vec<f64> = (0..count).map(|place| place as f64 * step + first).collect();
    if let Some(end) = values.last_mut().filter(|_| count > 1) {
        *end = last;
    }
    values
}

/// Refuses no steps, and more than anybody can mean.
fn check_steps(steps: usize) -> Result<()> {
    const MOST: usize = 10_000;
    match steps {
        1..=MOST => Ok(()),
        _ => Err(Error::argument("steps", format!("{steps} steps; there are 1 to {MOST}"))),
    }
}

/// Refuses a value that is not finite or does not fit.
fn check(name: &str, value: f64, range: &str, fits: bool) -> Result<()> {
    if value.is_finite() && fits {
        return Ok(());
    }
    Err(Error::argument(name, format!("{value} is not {range}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(sigmas: &[f64]) -> Result<Schedule<f32>> {
        let steps = sigmas.iter().filter(|&&sigma| sigma != 0.0).count();
        Fixed { sigmas: sigmas.to_vec(), clock: Clock::Scaled(1000.0) }.schedule(steps)
    }

    #[test]
    fn given_levels_end_at_zero() {
        let schedule = fixed(&[1.0, 0.75, 0.5]).unwrap();
        assert_eq!(schedule, fixed(&[1.0, 0.75, 0.5, 0.0]).unwrap());
        assert_eq!(schedule.sigmas(), [1.0, 0.75, 0.5, 0.0]);
        assert_eq!(schedule.timesteps(), [1000.0, 750.0, 500.0]);
        assert_eq!(schedule.spans().last(), Some((0.5, 0.0)));
        assert_eq!(schedule.timestep(0.6), 600.0);
    }

    #[test]
    fn levels_that_do_not_fall_are_refused() {
        for sigmas in [&[] as &[f64], &[0.5, 0.5], &[0.5, 0.6], &[f64::NAN], &[f64::INFINITY, 1.0], &[1.0, -0.5]] {
            assert!(fixed(sigmas).is_err(), "{sigmas:?}");
        }
        // Apart in f64, one in f32.
        assert!(fixed(&[0.5 + 1e-12, 0.5]).is_err());
    }

    #[test]
    fn strength_keeps_the_last_steps() {
        let schedule = fixed(&[1.0, 0.75, 0.5, 0.25]).unwrap();
        assert_eq!(schedule.clone().with_strength(1.0).unwrap(), schedule);
        assert_eq!(schedule.clone().with_strength(0.5).unwrap().sigmas(), [0.5, 0.25, 0.0]);
        assert_eq!(schedule.clone().with_strength(0.6).unwrap().timesteps(), [750.0, 500.0, 250.0]);
        assert_eq!(schedule.clone().with_strength(0.1).unwrap().steps(), 1);
        for strength in [0.0, 1.1, f64::NAN, -1.0] {
            assert!(schedule.clone().with_strength(strength).is_err());
        }
    }

    #[test]
    fn a_table_is_read_between_its_entries_and_not_beyond() {
        let clock = Clock::Table(vec![0.0, 1.0, 3.0]);
        for (log, timestep) in [(-1.0, 0.0), (0.0, 0.0), (0.5, 0.5), (2.0, 1.5), (3.0, 2.0), (9.0, 2.0)] {
            assert!((clock.timestep(f64::exp(log)) - timestep).abs() < 1e-12, "{log}");
        }
        assert_eq!(Clock::Table(vec![]).timestep(1.0), 0.0);
    }
}
