//! Products of few rows with the transpose of a row-major matrix: a short prompt and a layer's weights.
//!
//! `gemm` rearranges the operand that makes the rows of its result when that is column-major, and the other one when it is
//! row-major: all the weights, which for few rows takes longer than to multiply. So the transpose is computed, and turned.

use super::{PARALLEL_FROM, Product};
use rayon::prelude::*;

/// Rows from which on rearranging the matrix is cheap beside multiplying with it.
const MOST: usize = 256;
/// Elements that are held before they are turned, unless one row has more.
const HELD: usize = 1 << 20;
/// Columns of the result that a task turns.
const COLUMNS: usize = 64;
/// Rows of the result that are turned together: a line of the cache.
const ROWS: usize = 16;

/// Whether [`run`] computes it: C is overwritten, B the transpose of a row-major matrix of more rows than A.
pub fn fits(p: &Product<f32>) -> bool {
    p.is_plain() && (2..MOST).contains(&p.m) && p.n >= 2 * p.m
}

/// # Safety
/// As [`Product::run`].
pub unsafe fn run(p: &Product<f32>) {
    let columns = HELD / p.m;
    let mut held = Vec::with_capacity(p.m * columns.min(p.n));
    for first in (0..p.n).step_by(columns) {
        let columns = columns.min(p.n - first);
        // SAFETY: C has these columns; `held` has room for them, and the product writes them all.
        unsafe {
            let part = p.columns(first, columns);
            let transposed = Product {
                m: columns,
                n: p.m,
                a: part.b.transposed(),
                b: p.a.transposed(),
                c: held.as_mut_ptr(),
                leading: p.m as isize,
                ..part
            };
            transposed.run(transposed.parallelism());
            held.set_len(p.m * columns);
            turn(&held, p.m, &Rows { data: part.c, step: p.leading as usize });
        }
    }
}

/// Rows in memory, so far apart.
struct Rows {
    data: *mut f32,
    step: usize,
}
// SAFETY: no two tasks write to the same element.
unsafe impl Sync for Rows {}

/// Writes the transpose of rows of so many elements.
///
/// # Safety
/// The transpose has room there.
unsafe fn turn(rows: &[f32], length: usize, out: &Rows) {
    let task = |(task, rows): (usize, &[f32])| {
        for first in (0..length).step_by(ROWS) {
            for (place, row) in rows.chunks_exact(length).enumerate() {
                let elements = row[first..].iter().take(ROWS).enumerate();
                for (at, &element) in elements {
                    // SAFETY: the caller's; every element has a place of its own.
                    unsafe { *out.data.add((first + at) * out.step + task * COLUMNS + place) = element };
                }
            }
        }
    };
    if rows.len() < PARALLEL_FROM {
        rows.chunks(COLUMNS * length).enumerate().for_each(task);
    } else {
        rows.par_chunks(COLUMNS * length).enumerate().for_each(task);
    }
}
