//! Guided predictions grow; this is what shrinks them.

use crate::{Array, Result, math};
use mlx_rs::ops;
use serde::Deserialize;

/// What diffusers' `normalize` keeps divisors above.
const LEAST: f64 = 1e-12;

/// Gives a guided prediction a measure that the prediction under [`Condition::Towards`](super::Condition::Towards) has.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rescale {
    /// Its standard deviation over all axes but the batch (<https://arxiv.org/abs/2305.08891>, 3.4).
    Deviation {
        /// How much of the result is rescaled, from 0 to 1; the paper's is 0.7.
        share: f64,
    },
    /// The norm of every token, over the last axis: Qwen-Image's and Lumina 2's.
    TokenNorm,
}

impl Rescale {
    /// Both arrays are `[B, …, C]`, floats of one dtype and shape.
    pub(super) fn apply(self, guided: &Array, towards: &Array) -> Result<Array> {
        match self {
            Self::Deviation { share } => {
                let deviation = |x: &Array| -> Result<Array> { Ok(ops::std_axis(rows(x)?, -1, true, None)?) };
                let ratio = ratio(&deviation(towards)?, &deviation(guided)?)?;
                let factor = math::offset(&math::scaled(&ratio, share)?, 1.0 - share)?;
                Ok(math::multiply(&rows(guided)?, &factor)?.reshape(guided.shape())?)
            }
            Self::TokenNorm => math::multiply(guided, &ratio(&norm(towards)?, &norm(guided)?)?),
        }
    }
}

/// `a ÷ b`, and finite where `b` is 0.
pub(super) fn ratio(a: &Array, b: &Array) -> Result<Array> {
    math::divide(a, &ops::maximum(b, math::scalar(LEAST, b.dtype())?)?)
}

/// The product over the last axis, which stays with the length 1.
pub(super) fn dot(a: &Array, b: &Array) -> Result<Array> {
    Ok(math::multiply(a, b)?.sum_axis(-1, true)?)
}

/// The Euclidean norm over the last axis, which stays with the length 1.
pub(super) fn norm(x: &Array) -> Result<Array> {
    Ok(dot(x, x)?.sqrt()?)
}

/// `[B, …]` → `[B, N]`.
pub(super) fn rows(x: &Array) -> Result<Array> {
    let batch = x.shape().first().copied().unwrap_or(1);
    Ok(x.reshape(&[batch, -1])?)
}
