//! Learning rates.

use crate::{Error, Result};
use serde::Deserialize;
use std::f64::consts::PI;

/// The learning rate of every step. All begin with a linear rise from 0 over `warm_up` steps, as transformers' schedules.
///
/// ```
/// use framework::train::Rate;
/// let rate: Rate = serde_json::from_str(r#"{"kind": "cosine", "rate": 1e-3, "warm_up": 2, "steps": 6}"#)?;
/// assert_eq!((rate.at(1), rate.at(2)), (0.5e-3, 1e-3));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rate {
    /// The same from then on.
    Constant {
        /// The rate after the warm-up.
        rate: f64,
        /// Steps.
        #[serde(default)]
        warm_up: u64,
    },
    /// Falls evenly.
    Linear {
        /// The rate after the warm-up.
        rate: f64,
        /// Steps.
        #[serde(default)]
        warm_up: u64,
        /// Steps until it has fallen, the warm-up among them.
        steps: u64,
        /// Where it falls to and stays.
        #[serde(default)]
        last: f64,
    },
    /// Falls as half a period of a cosine (<https://arxiv.org/abs/1608.03983>).
    Cosine {
        /// The rate after the warm-up.
        rate: f64,
        /// Steps.
        #[serde(default)]
        warm_up: u64,
        /// Steps until it has fallen, the warm-up among them.
        steps: u64,
        /// Where it falls to and stays.
        #[serde(default)]
        last: f64,
    },
}

impl Rate {
    /// The rate of the step before which `done` steps were made.
    pub fn at(&self, done: u64) -> f64 {
        let (rate, warm_up) = match *self {
            Self::Constant { rate, warm_up }
            | Self::Linear { rate, warm_up, .. }
            | Self::Cosine { rate, warm_up, .. } => (rate, warm_up),
        };
        if done < warm_up {
            return rate * done as f64 / warm_up as f64;
        }
        let passed = |steps: u64| {
            let falling = steps.saturating_sub(warm_up).max(1) as f64;
            (done.saturating_sub(warm_up) as f64 / falling).min(1.0)
        };
        match *self {
            Self::Constant { .. } => rate,
            Self::Linear { steps, last, .. } => last + (rate - last) * (1.0 - passed(steps)),
            Self::Cosine { steps, last, .. } => last + (rate - last) * 0.5 * (1.0 + (PI * passed(steps)).cos()),
        }
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// For rates that are negative or not finite, and a warm-up that leaves no steps.
    pub fn check(&self) -> Result<()> {
        let (rate, last, left) = match *self {
            Self::Constant { rate, .. } => (rate, 0.0, true),
            Self::Linear { rate, warm_up, steps, last } | Self::Cosine { rate, warm_up, steps, last } => {
                (rate, last, warm_up < steps)
            }
        };
        for (name, value) in [("rate", rate), ("last", last)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::argument(name, format!("{value} is no learning rate; it must be 0 or above")));
            }
        }
        if left { Ok(()) } else { Err(Error::argument("warm_up", "it is as long as the training or longer")) }
    }
}
