//! Bounds of gradients.

use super::Named;
use crate::{Array, Dtype, Error, Result, math};
use mlx_rs::ops;

/// The Euclidean norm of all gradients as one vector, f32.
///
/// # Errors
/// Without gradients.
pub fn global_norm(gradients: &Named) -> Result<Array> {
    let square = |gradient: &Array| Ok(gradient.as_dtype(Dtype::Float32)?.square()?.sum(None)?);
    let squares = gradients.values().map(square).collect::<Result<Vec<_>>>()?;
    if squares.is_empty() {
        return Err(Error::argument("gradients", "there are none"));
    }
    Ok(ops::stack(&squares, 0)?.sum(None)?.sqrt()?)
}

/// Gradients scaled so that their norm, as [`global_norm`] gives it, is at most `most`; torch's `clip_grad_norm_`.
pub fn clipped(gradients: &Named, norm: &Array, most: f64) -> Result<Named> {
    let scale = math::divide(&math::scalar(most, Dtype::Float32)?, &math::offset(norm, 1e-6)?)?;
    let scale = ops::minimum(&scale, math::scalar(1.0, Dtype::Float32)?)?;
    let clip = |(path, gradient): (&String, &Array)| Ok((path.clone(), math::multiply(gradient, &scale)?));
    gradients.iter().map(clip).collect()
}
