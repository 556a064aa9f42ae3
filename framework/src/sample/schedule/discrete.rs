//! Levels of models trained with discrete timesteps.

use super::{Clock, Curve, Schedule, check, check_steps, linspace};
use crate::{Error, Result};
use num_traits::Float;
use serde::Deserialize;
use std::f64::consts::FRAC_PI_2;

/// The variances that a model was trained with, one a timestep.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Betas {
    /// How they grow.
    pub kind: BetaKind,
    /// The first; not read by [`BetaKind::SquaredCosine`].
    pub start: f64,
    /// The last; not read by [`BetaKind::SquaredCosine`].
    pub end: f64,
    /// How many timesteps.
    pub timesteps: usize,
}

/// How variances grow. The names are those of diffusers' `beta_schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum BetaKind {
    /// Evenly.
    #[serde(rename = "linear")]
    Linear,
    /// Their square roots evenly: Stable Diffusion.
    #[serde(rename = "scaled_linear")]
    ScaledLinear,
    /// So that the signal falls as a squared cosine (<https://arxiv.org/abs/2102.09672>); at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

impl Betas {
    /// Stable Diffusion's and SDXL's.
    pub const STABLE_DIFFUSION: Self =
        Self { kind: BetaKind::ScaledLinear, start: 0.00085, end: 0.012, timesteps: 1000 };

    /// σ of every timestep, lowest first: `√((1 − ᾱ)/ᾱ)` with `ᾱ` the running product of `1 − β`.
    pub(crate) fn table(&self) -> Result<Vec<f64>> {
        if !(2..=100_000).contains(&self.timesteps) {
            return Err(Error::argument("timesteps", format!("{} is not from 2 to 100000", self.timesteps)));
        }
        let fits = |name, beta: f64| check(name, beta, "above 0 and below 1", beta > 0.0 && beta < 1.0);
        let betas = match self.kind {
            BetaKind::SquaredCosine => self.squared_cosine(),
            BetaKind::Linear | BetaKind::ScaledLinear => {
                fits("beta_start", self.start)?;
                fits("beta_end", self.end)?;
                if self.kind == BetaKind::Linear {
                    linspace(self.start, self.end, self.timesteps)
                } else {
                    let roots = linspace(self.start.sqrt(), self.end.sqrt(), self.timesteps);
                    roots.into_iter().map(|root| root * root).collect()
                }
            }
        };
        let products = betas.iter().scan(1.0, |product: &mut f64, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        });
        Ok(products.map(|product| ((1.0 - product) / product).sqrt()).collect())
    }

    fn squared_cosine(&self) -> Vec<f64> {
        let signal = |time: f64| ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        let count = self.timesteps as f64;
        let time = |step: usize| signal(step as f64 / count);
        (0..self.timesteps).map(|step| (1.0 - time(step + 1) / time(step)).min(0.999)).collect()
    }
}

/// Which timesteps are visited. Of a table of T and n steps:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// `offset + k ⌊T/n⌋`, k from n − 1 to 0: it starts below the highest level, and a single step at the lowest.
    Leading {
        /// What is added to each; 1 for Stable Diffusion.
        offset: usize,
    },
    /// Evenly from T − 1 to 0, between timesteps too: "normal". Of a single step, 0, as NumPy has it.
    Linspace,
    /// `T − k T/n − 1`, rounded, k from 0 to n − 1: what distilled models want.
    Trailing,
    /// Every (T/n)-th entry from the highest, cut to whole ones: ComfyUI's "simple".
    Simple,
    /// Evenly from T − 1 to 0 without the last, levels interpolated in ln σ: ComfyUI's "sgm_uniform".
    SgmUniform,
}

/// Diffusion with discrete timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Discrete {
    /// What the model was trained with.
    pub betas: Betas,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// Replaces what is between the highest and the lowest level.
    #[serde(default)]
    pub curve: Option<Curve>,
    /// As diffusers' `DPMSolverMultistep` and `UniPC`, rather than as its `Euler`, `Heun`, `DPMSolverSDE` and `DDIM`.
    ///
    /// Leading and linspace are spaced for one step more, whose lowest timestep is left out, and rounded; a curve
    /// spans the whole table, not the visited levels, and its timesteps are rounded (Karras) or cut to integers.
    #[serde(default)]
    pub multistep: bool,
}

impl Discrete {
    /// The schedule of so many steps.
    ///
    /// # Errors
    /// When an option is out of its range, or there are too many steps for levels that differ.
    pub fn schedule<F: Float>(&self, steps: usize) -> Result<Schedule<F>> {
        check_steps(steps)?;
        let table = self.betas.table()?;
        let clock = Clock::Table(table.iter().map(|sigma| sigma.ln()).collect());
        let timesteps = self.timesteps(steps);
        let levels: Vec<f64> = match self.spacing {
            Spacing::SgmUniform => {
                let logs: Vec<f64> = table.iter().map(|sigma| sigma.ln()).collect();
                timesteps.iter().map(|&timestep| interpolated(&logs, timestep).exp()).collect()
            }
            _ => timesteps.iter().map(|&timestep| interpolated(&table, timestep)).collect(),
        };
        let Some(curve) = self.curve else {
            return Schedule::with_timesteps(&levels, &timesteps, clock);
        };
        let ends = if self.multistep { (table.last(), table.first()) } else { (levels.first(), levels.last()) };
        let (Some(&highest), Some(&lowest)) = ends else {
            return Schedule::new(&[], clock);
        };
        let levels = curve.between(highest, lowest, steps)?;
        let whole = |timestep: f64| match curve {
            _ if !self.multistep => timestep,
            Curve::Karras { .. } => timestep.round_ties_even(),
            Curve::Exponential | Curve::Beta { .. } => timestep.trunc(),
        };
        let timesteps: Vec<f64> = levels.iter().map(|&sigma| whole(clock.timestep(sigma))).collect();
        Schedule::with_timesteps(&levels, &timesteps, clock)
    }

    /// The visited timesteps, highest first.
    fn timesteps(&self, steps: usize) -> Vec<f64> {
        let trained = self.betas.timesteps;
        let highest = trained.saturating_sub(1) as f64;
        let spaced = if self.multistep { steps + 1 } else { steps };
        let mut timesteps: Vec<f64> = match self.spacing {
            Spacing::Leading { offset } => {
                let ratio = trained / spaced;
                (0..spaced).rev().map(|place| (place * ratio + offset) as f64).collect()
            }
            Spacing::Linspace => {
                let rising = linspace(0.0, highest, spaced).into_iter().rev();
                rising.map(|timestep| if self.multistep { timestep.round_ties_even() } else { timestep }).collect()
            }
            Spacing::Trailing => {
                // NumPy's `arange` steps by the difference of its first two values: it decides about halves.
                let first = trained as f64;
                let step = (first - first / steps as f64) - first;
                (0..steps).map(|place| (first + place as f64 * step).round_ties_even() - 1.0).collect()
            }
            Spacing::Simple => {
                let ratio = trained as f64 / steps as f64;
                (0..steps).map(|step| highest - (step as f64 * ratio).trunc()).collect()
            }
            Spacing::SgmUniform => linspace(highest, 0.0, steps + 1),
        };
        timesteps.truncate(steps);
        timesteps
    }
}

/// The value of a list at a fractional place; that of the nearer end outside.
fn interpolated(list: &[f64], place: f64) -> f64 {
    let place = place.clamp(0.0, list.len().saturating_sub(1) as f64);
    let low = place as usize;
    let share = place - low as f64;
    match (list.get(low), list.get(low + 1)) {
        (Some(&from), Some(&to)) => (to - from) * share + from,
        (from, _) => from.copied().unwrap_or(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable(spacing: Spacing) -> Discrete {
        Discrete { betas: Betas::STABLE_DIFFUSION, spacing, curve: None, multistep: false }
    }

    #[test]
    fn spacings_visit_what_they_say() {
        for (spacing, timesteps) in [
            (Spacing::Leading { offset: 1 }, [751.0, 501.0, 251.0, 1.0]),
            (Spacing::Linspace, [999.0, 666.0, 333.0, 0.0]),
            (Spacing::Trailing, [999.0, 749.0, 499.0, 249.0]),
            (Spacing::Simple, [999.0, 749.0, 499.0, 249.0]),
            (Spacing::SgmUniform, [999.0, 749.25, 499.5, 249.75]),
        ] {
            assert_eq!(stable(spacing).schedule::<f64>(4).unwrap().timesteps(), timesteps);
        }
    }

    #[test]
    fn the_table_is_stable_diffusions() {
        let schedule = stable(Spacing::Linspace).schedule::<f64>(1000).unwrap();
        assert!((schedule.sigmas()[0] - 14.6146).abs() < 1e-4);
        assert!((schedule.sigmas()[999] - 0.029167).abs() < 1e-5);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let usual = stable(Spacing::Trailing);
        let betas = Betas::STABLE_DIFFUSION;
        for (discrete, steps, name) in [
            (usual, 0, "steps"),
            (usual, 1001, "sigmas"),
            (stable(Spacing::Leading { offset: 0 }), 1001, "sigmas"),
            (stable(Spacing::Leading { offset: 5000 }), 4, "sigmas"),
            (Discrete { betas: Betas { start: 0.0, ..betas }, ..usual }, 4, "beta_start"),
            (Discrete { betas: Betas { end: f64::NAN, ..betas }, ..usual }, 4, "beta_end"),
            (Discrete { betas: Betas { timesteps: 1, ..betas }, ..usual }, 4, "timesteps"),
        ] {
            let error = discrete.schedule::<f32>(steps).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
        }
    }
}
