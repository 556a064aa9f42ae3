//! Products of many rows with the transpose of a row-major matrix: a long prompt and a layer's weights.
//!
//! `gemm` gives every thread an equal share of each step along the inner axis and waits for all of them; here columns are
//! handed out as threads come free.

use super::Product;
use gemm::Parallelism;
use rayon::prelude::*;

/// Rows from which on this is worth it.
const LEAST: usize = 256;
/// Columns that a task computes at least and at most.
const COLUMNS: [usize; 2] = [128, 256];

/// Whether [`run`] computes it: there are at least two tasks for each thread.
pub fn fits(p: &Product<f32>) -> bool {
    p.is_plain() && p.m >= LEAST && p.n >= 2 * COLUMNS[0] * rayon::current_num_threads()
}

/// # Safety
/// As [`Product::run`].
pub unsafe fn run(p: &Product<f32>) {
    let [least, most] = COLUMNS;
    let columns = (p.n / (2 * rayon::current_num_threads())).clamp(least, most);
    let parts: Vec<Part> = (0..p.n)
        .step_by(columns)
        // SAFETY: C has these columns, and no two parts the same.
        .map(|first| Part(unsafe { p.columns(first, columns.min(p.n - first)) }))
        .collect();
    parts.par_iter().with_max_len(1).for_each(|part| part.run());
}

/// Some columns of the result, which are this part's alone.
struct Part(Product<f32>);
// SAFETY: all parts read what none of them writes.
unsafe impl Sync for Part {}

impl Part {
    fn run(&self) {
        // SAFETY: whoever made it has promised as much.
        unsafe { self.0.run(Parallelism::None) };
    }
}
