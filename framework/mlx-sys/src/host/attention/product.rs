//! Both products of attention: by `gemm` for many queries, and for a few, which are bound by reading keys and values once,
//! by themselves.

use super::Rows;
use crate::blas::{Dot, Product, Strided};
use gemm::Parallelism;
use pulp::{Arch, Simd, WithSimd};

/// Queries that are few.
const FEW: usize = 8;

/// `scores = scale q kᵀ`, of so many queries of so many features.
///
/// # Safety
/// The queries are there, and as many keys as a row of `scores` is long.
pub unsafe fn scores(scores: &mut [f32], [count, dim]: [usize; 2], scale: f32, q: Strided<f32>, k: Strided<f32>) {
    let keys = scores.len() / count;
    if count <= FEW && q.column == 1 && k.column == 1 {
        return Arch::new().dispatch(Scores { scores, count, dim, scale, q, k });
    }
    let product = Product {
        m: count,
        n: keys,
        k: dim,
        alpha: scale,
        a: q,
        b: k.transposed(),
        beta: 0.0,
        c: scores.as_mut_ptr(),
        leading: keys as isize,
    };
    // SAFETY: the caller's.
    unsafe { product.run(Parallelism::None) };
}

/// `out = share · weights v`, a share for each row.
///
/// # Safety
/// The rows are there and nobody else's, and as many values as a row of `weights` is long.
pub unsafe fn weighted(weights: &[f32], v: Strided<f32>, out: Rows, shares: &[f32]) {
    let keys = weights.len() / shares.len();
    if shares.len() <= FEW && v.column == 1 {
        return Arch::new().dispatch(Weighted { weights, keys, v, out, shares });
    }
    let product = Product {
        m: shares.len(),
        n: out.width,
        k: keys,
        alpha: 1.0,
        a: Strided { data: weights.as_ptr(), row: keys as isize, column: 1 },
        b: v,
        beta: 0.0,
        c: out.data,
        leading: out.step as isize,
    };
    // SAFETY: the caller's.
    unsafe { product.run(Parallelism::None) };
    for (row, &share) in shares.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { out.row(row) }.iter_mut().for_each(|x| *x *= share);
    }
}

/// # Safety
/// There is such a row of so many elements side by side.
unsafe fn row<'a>(x: Strided<f32>, row: usize, length: usize) -> &'a [f32] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(x.data.offset(row as isize * x.row), length) }
}

/// [`scores`] of few queries.
struct Scores<'a> {
    scores: &'a mut [f32],
    count: usize,
    dim: usize,
    scale: f32,
    q: Strided<f32>,
    k: Strided<f32>,
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scores, count, dim, scale, q, k } = self;
        let keys = scores.len() / count;
        for key in 0..keys {
            for query in 0..count {
                // SAFETY: by the promise of `scores`.
                let pair = unsafe { Dot(row(q, query, dim), row(k, key, dim)) };
                scores[query * keys + key] = scale * pair.with_simd(simd);
            }
        }
    }
}

/// [`weighted`] of few queries.
struct Weighted<'a> {
    weights: &'a [f32],
    keys: usize,
    v: Strided<f32>,
    out: Rows,
    shares: &'a [f32],
}

impl WithSimd for Weighted<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { weights, keys, v, out, shares } = self;
        for query in 0..shares.len() {
            // SAFETY: by the promise of `weighted`.
            unsafe { out.row(query) }.fill(0.0);
        }
        for key in 0..keys {
            for (query, share) in shares.iter().enumerate() {
                let weight = share * weights[query * keys + key];
                // SAFETY: by the promise of `weighted`.
                let (sums, values) = unsafe { (out.row(query), row(v, key, out.width)) };
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * value;
                }
            }
        }
    }
}
