//! The matrix products that MLX's CPU backend asks BLAS for, over the `gemm` crate.
//!
//! The wheel brings netlib's reference BLAS. An executable's own definition of a symbol wins over a library's, so
//! defining the three products here is enough for MLX to use them.

mod few_rows;
mod many_rows;

use gemm::{Parallelism, c32};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{
    ffi::c_int,
    sync::atomic::{AtomicU64, Ordering},
};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many products have run here since the program began: 0 after an f32 matmul means that another BLAS is in use.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;
/// Multiply-adds below which starting threads costs more than it saves.
const PARALLEL_FROM: usize = 1 << 19;

/// A matrix operand: element (i, j) lies at `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<T> {
    pub data: *const T,
    pub row: isize,
    pub column: isize,
}

impl<T> Strided<T> {
    fn operand(data: *const T, transposed: bool, leading: c_int) -> Self {
        let leading = leading as isize;
        let (row, column) = if transposed { (1, leading) } else { (leading, 1) };
        Self { data, row, column }
    }

    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }
}

/// C ← α A B + β C, with A `[m, k]`, B `[k, n]` and C `[m, n]`.
pub(crate) struct Product<T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    pub a: Strided<T>,
    pub b: Strided<T>,
    pub beta: T,
    pub c: *mut T,
    pub leading: isize,
}

impl<T: Copy + PartialEq + Default + 'static> Product<T> {
    /// Reads CBLAS's arguments; a column-major product is the row-major product of the transposes.
    #[allow(clippy::too_many_arguments)]
    fn new(
        layout: c_int,
        transpose: [c_int; 2],
        [m, n, k]: [c_int; 3],
        alpha: T,
        (a, lda): (*const T, c_int),
        (b, ldb): (*const T, c_int),
        beta: T,
        (c, ldc): (*mut T, c_int),
    ) -> Self {
        let row_major = layout == ROW_MAJOR;
        let [flip_a, flip_b] = transpose.map(|t| (t != NO_TRANSPOSE) == row_major);
        let a = Strided::operand(a, flip_a, lda);
        let b = Strided::operand(b, flip_b, ldb);
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let (m, n, a, b) = if row_major { (m, n, a, b) } else { (n, m, b.transposed(), a.transposed()) };
        CALLS.fetch_add(1, Ordering::Relaxed);
        Self { m, n, k, alpha, a, b, beta, c, leading: ldc as isize }
    }

    fn parallelism(&self) -> Parallelism {
        if self.m.saturating_mul(self.n).saturating_mul(self.k) < PARALLEL_FROM {
            Parallelism::None
        } else {
            Parallelism::Rayon(0)
        }
    }

    /// # Safety
    /// The pointers must cover the matrices that the strides describe, and C must not overlap A or B.
    pub unsafe fn run(&self, parallelism: Parallelism) {
        unsafe {
            gemm::gemm(
                self.m,
                self.n,
                self.k,
                self.c,
                1,
                self.leading,
                self.beta != T::default(),
                self.a.data,
                self.a.column,
                self.a.row,
                self.b.data,
                self.b.column,
                self.b.row,
                self.beta,
                self.alpha,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

impl Product<f32> {
    /// C ← A B, where B is the transpose of a row-major matrix.
    fn is_plain(&self) -> bool {
        self.alpha == 1.0 && self.beta == 0.0 && self.k > 0 && self.b.row == 1
    }

    /// So many columns of C, from the first on.
    ///
    /// # Safety
    /// C has them.
    unsafe fn columns(&self, first: usize, n: usize) -> Self {
        // SAFETY: the caller's; B has as many columns.
        unsafe {
            let b = Strided { data: self.b.data.offset(first as isize * self.b.column), ..self.b };
            Self { n, b, c: self.c.add(first), ..*self }
        }
    }
}

/// y ← W x for a row-major W `[n, k]`: what decoding one token asks for, bound by reading W once.
struct MatrixVector<'a> {
    matrix: &'a [f32],
    leading: usize,
    vector: &'a [f32],
    out: &'a mut [f32],
}

/// Rows that one task multiplies: enough work to pay for handing it out.
const ROWS: usize = 64;

impl MatrixVector<'_> {
    fn run(self) {
        let arch = Arch::new();
        let Self { matrix, leading, vector, out } = self;
        let task = |(chunk, out): (usize, &mut [f32])| {
            for (row, value) in out.iter_mut().enumerate() {
                let from = (chunk * ROWS + row) * leading;
                let row = &matrix[from..from + vector.len()];
                *value = arch.dispatch(Dot(row, vector));
            }
        };
        if vector.len() * out.len() < PARALLEL_FROM {
            out.chunks_mut(ROWS).enumerate().for_each(task);
        } else {
            out.par_chunks_mut(ROWS).enumerate().for_each(task);
        }
    }
}

/// Σ xᵢ yᵢ over four accumulators, so that the additions do not wait for each other.
pub(crate) struct Dot<'a>(pub &'a [f32], pub &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (x, x_tail) = S::as_simd_f32s(self.0);
        let (y, y_tail) = S::as_simd_f32s(self.1);
        let mut sums = [simd.splat_f32s(0.0); 4];
        let (x4, x_rest) = pulp::as_arrays::<4, _>(x);
        let (y4, y_rest) = pulp::as_arrays::<4, _>(y);
        for (x, y) in x4.iter().zip(y4) {
            for lane in 0..4 {
                sums[lane] = simd.mul_add_f32s(x[lane], y[lane], sums[lane]);
            }
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            sums[0] = simd.mul_add_f32s(*x, *y, sums[0]);
        }
        let [a, b, c, d] = sums;
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        let tail: f32 = x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum();
        simd.reduce_sum_f32s(sum) + tail
    }
}

/// The case that [`MatrixVector`] covers: one row of A, B the transpose of a row-major matrix, C overwritten.
///
/// # Safety
/// As [`Product::run`].
unsafe fn as_matrix_vector(p: &Product<f32>) -> Option<MatrixVector<'_>> {
    let plain = p.m == 1 && p.alpha == 1.0 && p.beta == 0.0 && p.k > 0 && p.n > 0;
    if !plain || p.a.column != 1 || p.b.row != 1 || p.b.column < p.k as isize {
        return None;
    }
    let leading = p.b.column as usize;
    unsafe {
        Some(MatrixVector {
            matrix: std::slice::from_raw_parts(p.b.data, (p.n - 1) * leading + p.k),
            leading,
            vector: std::slice::from_raw_parts(p.a.data, p.k),
            out: std::slice::from_raw_parts_mut(p.c, p.n),
        })
    }
}

/// CBLAS's single-precision product.
///
/// # Safety
/// As CBLAS: the pointers must cover the matrices that the sizes and leading dimensions describe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_sgemm(
    layout: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let product =
        Product::new(layout, [transpose_a, transpose_b], [m, n, k], alpha, (a, lda), (b, ldb), beta, (c, ldc));
    unsafe {
        match as_matrix_vector(&product) {
            Some(vector) => vector.run(),
            None if few_rows::fits(&product) => few_rows::run(&product),
            None if many_rows::fits(&product) => many_rows::run(&product),
            None => product.run(product.parallelism()),
        }
    }
}

/// CBLAS's double-precision product.
///
/// # Safety
/// As [`cblas_sgemm`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_dgemm(
    layout: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f64,
    a: *const f64,
    lda: c_int,
    b: *const f64,
    ldb: c_int,
    beta: f64,
    c: *mut f64,
    ldc: c_int,
) {
    let product =
        Product::new(layout, [transpose_a, transpose_b], [m, n, k], alpha, (a, lda), (b, ldb), beta, (c, ldc));
    unsafe { product.run(product.parallelism()) }
}

/// CBLAS's single-precision complex product; alpha and beta are passed by address.
///
/// # Safety
/// As [`cblas_sgemm`]. Conjugate transposes are not asked for by MLX and are refused by aborting.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_cgemm(
    layout: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c32,
    a: *const c32,
    lda: c_int,
    b: *const c32,
    ldb: c_int,
    beta: *const c32,
    c: *mut c32,
    ldc: c_int,
) {
    let (alpha, beta) = unsafe { (*alpha, *beta) };
    let product =
        Product::new(layout, [transpose_a, transpose_b], [m, n, k], alpha, (a, lda), (b, ldb), beta, (c, ldc));
    unsafe { product.run(product.parallelism()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, around 0.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * 1.618).fract() - 0.5).collect()
    }

    #[test]
    fn rows_times_a_transposed_matrix_are_their_dot_products() {
        let few = [[1, 5, 3], [2, 4, 1], [3, 700, 40], [17, 129, 33], [20, 30, 8]];
        let many = [[255, 600, 9], [256, 600, 9], [260, 1030, 40]];
        for [m, n, k] in few.into_iter().chain(many) {
            let (lda, ldb, ldc) = (k + 2, k + 1, n + 3);
            let [a, b, mut c] = [m * lda, n * ldb, m * ldc].map(numbers);
            let before = c.clone();
            let (a_data, b_data, c_data) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            let [mi, ni, ki, lda_i, ldb_i, ldc_i] = [m, n, k, lda, ldb, ldc].map(|length| length as c_int);
            // SAFETY: the matrices are as large as the lengths say.
            unsafe {
                cblas_sgemm(ROW_MAJOR, 111, 112, mi, ni, ki, 1.0, a_data, lda_i, b_data, ldb_i, 0.0, c_data, ldc_i);
            }
            for (row, (found, before)) in c.chunks(ldc).zip(before.chunks(ldc)).enumerate() {
                for (column, &found) in found[..n].iter().enumerate() {
                    let products = (0..k).map(|at| f64::from(a[row * lda + at]) * f64::from(b[column * ldb + at]));
                    let exact: f64 = products.sum();
                    assert!((f64::from(found) - exact).abs() < 1e-5, "{m} {n} {k}: {found}, not {exact}");
                }
                assert_eq!(found[n..], before[n..]);
            }
        }
    }
}
