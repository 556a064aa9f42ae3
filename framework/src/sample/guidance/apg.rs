//! Adaptive projected guidance.

use super::rescale::{dot, norm, ratio};
use crate::{Array, Result, math};
use mlx_rs::ops;
use serde::Deserialize;

/// Where the update of [`Apg`] begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// `away + scale · update`: what diffusers does unless told otherwise.
    #[default]
    Away,
    /// `towards + (scale − 1) · update`: the paper's, and diffusers' original formulation.
    Towards,
}

/// Adaptive projected guidance: the part of the difference that is parallel to `towards` saturates colours, and counts
/// η times (<https://arxiv.org/abs/2410.02416>).
///
/// `δ = towards − away + momentum · δ'` with the δ' of the evaluation before, then shortened to the threshold; the
/// update is `δ⊥ + η δ∥`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apg {
    /// How far along the update; 1 is off.
    pub scale: f64,
    /// What remains of earlier differences, between −1 and 1; 0 is none, and the paper's are below 0.
    pub momentum: f64,
    /// The longest that δ may be; nothing leaves it as it is.
    pub threshold: Option<f64>,
    /// The share of the parallel part, from 0, the paper's, to 1, which leaves the difference as it is.
    pub eta: f64,
    /// Where the update begins.
    pub anchor: Anchor,
}

impl Default for Apg {
    /// Projects, and nothing else, at a scale of 1.
    fn default() -> Self {
        Self { scale: 1.0, momentum: 0.0, threshold: None, eta: 0.0, anchor: Anchor::Away }
    }
}

impl Apg {
    /// Predictions `[B, N]` → `[B, N]`; `earlier` is δ', and δ afterwards.
    pub(super) fn guided(self, towards: &Array, away: &Array, earlier: &mut Option<Array>) -> Result<Array> {
        let mut difference = math::subtract(towards, away)?;
        if self.momentum != 0.0 {
            if let Some(earlier) = earlier {
                difference = math::add(&difference, &math::scaled(earlier, self.momentum)?)?;
            }
            *earlier = Some(difference.clone());
        }
        if let Some(threshold) = self.threshold {
            let scalar = |value| math::scalar(value, difference.dtype());
            let factor = ops::minimum(scalar(1.0)?, ratio(&scalar(threshold)?, &norm(&difference)?)?)?;
            difference = math::multiply(&difference, &factor)?;
        }
        let unit = ratio(towards, &norm(towards)?)?;
        let parallel = math::multiply(&unit, &dot(&difference, &unit)?)?;
        let update = math::subtract(&difference, &math::scaled(&parallel, 1.0 - self.eta)?)?;
        match self.anchor {
            Anchor::Away => math::add(away, &math::scaled(&update, self.scale)?),
            Anchor::Towards => math::add(towards, &math::scaled(&update, self.scale - 1.0)?),
        }
    }
}
