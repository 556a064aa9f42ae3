//! Running averages of parameters.

use crate::{Array, Result, math};
use serde::Deserialize;

/// An exponential moving average (EMA) of the parameters, `a ← a + (1 − decay)(w − a)`, which generates better than the
/// last parameters do. As diffusers' `EMAModel`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// How much stays at a step.
    pub decay: f64,
    /// How it begins.
    #[serde(default)]
    pub warm_up: WarmUp,
}

/// How a decay begins, so that the first parameters, which are worth little, are forgotten soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WarmUp {
    /// At once.
    None,
    /// At most `(1 + n)/(10 + n)` after n steps.
    #[default]
    Ratio,
    /// At most `1 − (1 + n/scale)^−power`.
    Power {
        /// Steps until it has effect.
        scale: f64,
        /// 2/3 for trainings of a million steps, 3/4 for shorter ones.
        power: f64,
    },
}

impl Average {
    /// The decay of a step; the first step is 1, and after it the average is the parameters themselves unless
    /// there is no warm-up.
    pub fn at(&self, step: u64) -> f64 {
        let before = step.saturating_sub(1) as f64;
        let bound = match self.warm_up {
            WarmUp::None => return self.decay,
            WarmUp::Ratio | WarmUp::Power { .. } if before == 0.0 => 0.0,
            WarmUp::Ratio => (1.0 + before) / (10.0 + before),
            WarmUp::Power { scale, power } => 1.0 - (1.0 + before / scale).powf(-power),
        };
        bound.min(self.decay)
    }

    /// The average after a step, of which `fresh`, a scalar, is `1 − decay`.
    pub(super) fn update(average: &Array, parameter: &Array, fresh: &Array) -> Result<Array> {
        math::add(average, &math::multiply(&math::subtract(parameter, average)?, fresh)?)
    }
}
