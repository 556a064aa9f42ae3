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

/// `out = weights v`, or `out += weights v`.
///
/// # Safety
/// There are as many values as a row of `weights` is long.
pub unsafe fn add(weights: &[f32], v: Strided<f32>, out: &mut Rows, anew: bool) {
    let keys = weights.len() / out.count;
    if out.count <= FEW && v.column == 1 {
        return Arch::new().dispatch(Weighted { weights, v, out, anew });
    }
    let product = Product {
        m: out.count,
        n: out.width,
        k: keys,
        alpha: 1.0,
        a: Strided { data: weights.as_ptr(), row: keys as isize, column: 1 },
        b: v,
        beta: if anew { 0.0 } else { 1.0 },
        c: out.data,
        leading: out.step as isize,
    };
    // SAFETY: the caller's; the rows of `out` are there.
    unsafe { product.run(Parallelism::None) };
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

/// [`add`] of few queries.
struct Weighted<'a> {
    weights: &'a [f32],
    v: Strided<f32>,
    out: &'a mut Rows,
    anew: bool,
}

impl WithSimd for Weighted<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { weights, v, out, anew } = self;
        let keys = weights.len() / out.count;
        for query in 0..out.count {
            if anew {
                out.row(query).fill(0.0);
            }
        }
        for key in 0..keys {
            // SAFETY: by the promise of `add`.
            let values = unsafe { row(v, key, out.width) };
            for query in 0..out.count {
                let weight = weights[query * keys + key];
                for (sum, value) in out.row(query).iter_mut().zip(values) {
                    *sum += weight * value;
                }
            }
        }
    }
}
