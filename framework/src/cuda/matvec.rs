//! Products of a packed matrix and a vector on CUDA: what generating tokens spends its time on. MLX has a kernel too,
//! which adds numbers of 16 bits up in 16 bits and takes twice the time.

use super::{Call, Constant, Kernel, is_usable, source};
use crate::{Array, Dtype, Result, Weight, math, storage::Affine};
use std::ffi::CStr;

const MATVEC: Kernel = Kernel {
    name: c"matvec",
    inputs: &[c"x", c"w", c"scales", c"biases", c"index"],
    outputs: &[c"y"],
    header: source!("warp.cuh", "packed.cuh"),
    body: source!("matvec.cu"),
};

/// Warps of a block.
const WARPS: i32 = 4;
/// Threads of a block.
pub(crate) const THREADS: i32 = WARPS * 32;

/// One row times three matrices.
const THREE: Kernel = Kernel {
    name: c"three",
    inputs: &[c"x", c"a", c"a_scales", c"a_biases", c"b", c"b_scales", c"b_biases", c"c", c"c_scales", c"c_biases"],
    outputs: &[c"a_y", c"b_y", c"c_y"],
    header: source!("warp.cuh", "packed.cuh"),
    body: source!("three.cu"),
};

/// A packed matrix `[N, K]`, or a stack `[E, N, K]`, that the kernels take.
pub(crate) struct Packed {
    /// Integers in words of 32 bits, `[…, N, K · bits / 32]`.
    pub words: Array,
    /// For each group.
    pub scales: Array,
    /// For each group.
    pub biases: Array,
    /// N, how many numbers a product has.
    pub rows: i32,
    /// K.
    columns: i32,
    group: i32,
    bits: i32,
}

impl Packed {
    /// A matrix for products with rows `[…, K]`. Nothing where there is no kernel for it: elsewhere than on CUDA, in other
    /// dtypes and widths, under a gradient.
    pub fn of(weight: &Weight, x: &Array) -> Result<Option<Self>> {
        let Weight::Affine(Affine { weight: words, scales, biases, group, bits }) = weight else { return Ok(None) };
        if !is_usable()? {
            return Ok(None);
        }
        let (words, scales, biases) = (words.get(), scales.get(), biases.get());
        let ([rows, width] | [_, rows, width]) = *words.shape() else { return Ok(None) };
        let columns = math::last(x)?;
        let fits = width.checked_mul(32).is_some_and(|all| all == columns.saturating_mul(*bits))
            && columns % group == 0
            && columns > 0;
        let narrow = matches!(x.dtype(), Dtype::Bfloat16 | Dtype::Float16) && scales.dtype() == x.dtype();
        if !fits || !narrow || ![4, 8].contains(bits) || group % 32 != 0 {
            return Ok(None);
        }
        Ok(Some(Self { words, scales, biases, rows, columns, group: *group, bits: *bits }))
    }

    /// Whether one kernel does for both, but for how many rows they have.
    pub fn is_like(&self, other: &Self) -> bool {
        let known = |all: &Self| (all.words.ndim(), all.columns, all.group, all.bits);
        known(self) == known(other)
    }

    /// `x Wᵀ` for rows `[…, K]`, each with the matrix of its index `[…]`, or all with the one that there is → `[…, N]`.
    pub fn product(&self, x: &Array, index: Option<&Array>) -> Result<Array> {
        let each = if self.rows <= 4096 { 2 } else { 4 };
        let constants =
            [&self.constants(x.dtype(), each)[..], &[(c"GATHER", Constant::Bool(index.is_some()))]].concat();
        let [y] = MATVEC.run(&Call {
            inputs: &[x, &self.words, &self.scales, &self.biases, index.unwrap_or(x)],
            outputs: [(&self.shape_of(x), x.dtype())],
            blocks: [self.blocks(each), x.size() as i32 / self.columns],
            threads: THREADS,
            constants: &constants,
        })?;
        Ok(y)
    }

    /// `x Wᵀ` for one row `[…, K]` and three matrices that are alike.
    pub fn products(x: &Array, [a, b, c]: [&Self; 3]) -> Result<[Array; 3]> {
        let each = 2;
        let shapes = [a, b, c].map(|matrix| matrix.shape_of(x));
        THREE.run(&Call {
            inputs: &[
                x, &a.words, &a.scales, &a.biases, &b.words, &b.scales, &b.biases, &c.words, &c.scales, &c.biases,
            ],
            outputs: shapes.each_ref().map(|shape| (&shape[..], x.dtype())),
            blocks: [a.blocks(each) + b.blocks(each) + c.blocks(each), 1],
            threads: THREADS,
            constants: &a.constants(x.dtype(), each),
        })
    }

    /// Of the products with the rows of `x`.
    pub fn shape_of(&self, x: &Array) -> Vec<i32> {
        let leading = x.shape().split_last().map_or(&[][..], |(_, leading)| leading);
        [leading, &[self.rows]].concat()
    }

    /// What the kernels know of it and of numbers of a dtype, where a warp makes so many rows.
    pub fn constants(&self, dtype: Dtype, rows: i32) -> [(&'static CStr, Constant); 5] {
        let int = Constant::Int;
        [
            (c"T", Constant::Type(dtype)),
            (c"BITS", int(self.bits)),
            (c"GROUP", int(self.group)),
            (c"AXES", int(self.words.ndim() as i32)),
            (c"ROWS", int(rows)),
        ]
    }

    /// How many blocks make all rows, where a warp makes so many.
    pub fn blocks(&self, rows: i32) -> i32 {
        self.rows.saturating_add(rows * WARPS - 1) / (rows * WARPS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Heads, Init, Qkv, Route, attention::Projected, memory, on_linears, testing::difference};

    /// What the kernel takes, where there is one: on a CPU, MLX adds packed products of 16 bits up in 16 bits.
    fn dtype() -> Dtype {
        if memory::is_on_cpu().unwrap() { Dtype::Float32 } else { Dtype::Bfloat16 }
    }

    /// The largest difference, as a share of the largest number.
    fn apart(y: &Array, expected: &Array) -> f32 {
        let y = y.as_dtype(Dtype::Float32).unwrap();
        let most = expected.abs().unwrap().max(None).unwrap();
        difference(&y, expected) / math::read::<f32>(&most).unwrap()[0]
    }

    /// Whatever computes it here.
    #[test]
    fn a_row_is_multiplied_as_by_the_unpacked_matrix() {
        let mut init = Init::new(dtype(), 5);
        for (rows, columns) in [(1, 64), (37, 192), (64, 1024), (130, 2560)] {
            for packing in [None, Some((64, 4)), Some((64, 8)), Some((32, 4))] {
                let x = init.normal(&[2, 5, columns], 1.0).unwrap().get();
                let last = math::slice(&math::slice(&x, 0, 1, 2).unwrap(), 1, 4, 5).unwrap();
                let mut weight = Weight::Dense(init.normal(&[rows, columns], 1.0).unwrap());
                packing.map_or(Ok(()), |(group, bits)| weight.quantise(group, bits)).unwrap();
                let y = weight.matmul(&last, None).unwrap();
                assert_eq!((y.shape(), y.dtype()), (&[1, 1, rows][..], dtype()));
                weight.dequantise(Dtype::Float32).unwrap();
                let wide = match weight {
                    Weight::Dense(weight) => weight.get().as_dtype(Dtype::Float32).unwrap(),
                    Weight::Affine(_) => panic!("it is unpacked"),
                };
                let expected = last.as_dtype(Dtype::Float32).unwrap().matmul(wide.transpose().unwrap()).unwrap();
                assert!(apart(&y, &expected) < 0.01, "{rows} {columns} {packing:?}");
            }
        }
    }

    #[test]
    fn one_token_attends_by_packed_projections_as_by_the_unpacked() {
        let mut init = Init::new(dtype(), 8);
        for bits in [4, 8] {
            // Of numbers of rows that end within a block.
            let sizes = Heads { heads: 6, kv_heads: 2, head_dim: 17 };
            let mut qkv = Qkv::separate(&sizes, 128, false, &mut init).unwrap();
            on_linears(&mut qkv, |_, linear| linear.weight.quantise(64, bits)).unwrap();
            let x = init.normal(&[1, 1, 128], 3.0).unwrap().get();
            let project = |qkv: &Qkv, x: &Array| {
                let Projected { q, kv } = qkv.project(x, x, &sizes).unwrap();
                let (k, v) = kv.unwrap();
                [q, k, v]
            };
            let narrow = project(&qkv, &x);
            on_linears(&mut qkv, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
            let wide = project(&qkv, &x.as_dtype(Dtype::Float32).unwrap());
            for (narrow, wide) in narrow.iter().zip(&wide) {
                assert_eq!((narrow.shape(), narrow.dtype()), (wide.shape(), dtype()));
                assert!(apart(narrow, wide) < 0.01, "{bits}");
            }
        }
    }

    #[test]
    fn rows_go_through_the_matrices_of_their_indices() {
        let mut init = Init::new(dtype(), 6);
        let indices = [4_u32, 0, 0, 2];
        for packing in [None, Some((64, 4)), Some((64, 8))] {
            let x = init.normal(&[4, 128], 1.0).unwrap().get();
            let mut stack = Weight::Dense(init.normal(&[5, 48, 128], 1.0).unwrap());
            packing.map_or(Ok(()), |(group, bits)| stack.quantise(group, bits)).unwrap();
            let route = Route { indices: math::array(&indices, &[4]).unwrap(), sorted: false };
            let y = stack.gather(&x, &route).unwrap();
            stack.dequantise(Dtype::Float32).unwrap();
            let expected = stack.gather(&x.as_dtype(Dtype::Float32).unwrap(), &route).unwrap();
            assert!(apart(&y, &expected.as_dtype(Dtype::Float32).unwrap()) < 0.01, "{packing:?}");
        }
    }
}
