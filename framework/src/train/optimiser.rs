//! The role of an optimiser.

use crate::{Array, Result};

/// Moves a parameter against its gradient.
///
/// Coefficients that change from step to step are computed on the host and handed in as arrays: a compiled step would
/// take a number for a constant.
pub trait Optimiser {
    /// The names of the arrays that are kept for every parameter: f32, of its shape, zero at first.
    fn slots(&self) -> &[&str];

    /// The coefficients of a step at a learning rate; the first step is 1. As many at every step.
    fn coefficients(&self, step: u64, rate: f64) -> Vec<f64>;

    /// The parameter after the step and its arrays, in the order of [`slots`](Self::slots). All are f32, the
    /// coefficients scalars.
    fn update(
        &self,
        path: &str,
        parameter: &Array,
        gradient: &Array,
        slots: &[Array],
        coefficients: &[Array],
    ) -> Result<(Array, Vec<Array>)>;
}
