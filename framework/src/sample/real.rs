//! Between the scalars of a caller and those of the host.

use crate::{Array, Result, math};
use num_traits::Float;

/// The nearest `F`.
pub fn real<F: Float>(value: f64) -> F {
    F::from(value).unwrap_or_else(F::nan)
}

/// The same number as f64.
pub fn double<F: Float>(value: F) -> f64 {
    value.to_f64().unwrap_or(f64::NAN)
}

/// `c₀ x₀ + c₁ x₁ + …` in the dtype of `x₀`, to which the others are cast before they are scaled.
pub fn blend<F: Float>(first: (F, &Array), others: &[(F, &Array)]) -> Result<Array> {
    let dtype = first.1.dtype();
    let mut sum = math::scaled(first.1, double(first.0))?;
    for (factor, x) in others {
        sum = math::add(&sum, &math::scaled(&x.as_dtype(dtype)?, double(*factor))?)?;
    }
    Ok(sum)
}
