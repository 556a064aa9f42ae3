//! Products of a matrix and a vector on CUDA: what generating tokens spends its time on. MLX's kernel for packed ones adds
//! numbers of 16 bits up in 16 bits and takes twice the time.

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
/// Columns that come together at least: 16 bytes of the narrowest numbers.
const ALIGNED: i32 = 32;
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

/// A matrix `[N, K]`, or a stack `[E, N, K]`, that the kernels take.
pub(crate) struct Matrix {
    /// Integers in words of 32 bits, `[…, N, K · bits / 32]`, or numbers of 16 bits, `[…, N, K]`.
    pub words: Array,
    /// For each group; of numbers, any array.
    pub scales: Array,
    /// For each group; of numbers, any array.
    pub biases: Array,
    /// N, how many numbers a product has.
    pub rows: i32,
    /// K.
    columns: i32,
    group: i32,
    bits: i32,
}

impl Matrix {
    /// A matrix for products with rows `[…, K]` of 16 bits. Nothing where there is no kernel for it: elsewhere than on CUDA, in
    /// other dtypes and widths, under a gradient.
    pub fn of(weight: &Weight, x: &Array) -> Result<Option<Self>> {
        let narrow = matches!(x.dtype(), Dtype::Bfloat16 | Dtype::Float16) && weight.dtype() == x.dtype();
        if !narrow || !is_usable()? {
            return Ok(None);
        }
        let columns = math::last(x)?;
        let (matrix, width) = match weight {
            Weight::Dense(numbers) => {
                let words = numbers.get();
                if !lies_row_by_row(&words) {
                    return Ok(None);
                }
                let (scales, biases) = (words.clone(), words.clone());
                (Self { words, scales, biases, rows: 0, columns, group: ALIGNED, bits: 16 }, columns)
            }
            &Weight::Affine(Affine { ref weight, ref scales, ref biases, group, bits }) if [4, 8].contains(&bits) => {
                let (words, scales, biases) = (weight.get(), scales.get(), biases.get());
                let width = columns.checked_mul(bits).map_or(-1, |all| all / 32);
                (Self { words, scales, biases, rows: 0, columns, group, bits }, width)
            }
            Weight::Affine(_) => return Ok(None),
        };
        let rows = match *matrix.words.shape() {
            [rows, found] | [_, rows, found] if found == width => rows,
            _ => return Ok(None),
        };
        let whole = columns > 0 && columns % matrix.group == 0 && matrix.group % ALIGNED == 0;
        Ok(whole.then_some(Self { rows, ..matrix }))
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

/// Whether a kernel need not copy it first.
fn lies_row_by_row(x: &Array) -> bool {
    let mut step = 1;
    x.shape().iter().zip(x.strides()).rev().all(|(&length, &stride)| {
        let lies = length == 1 || stride == step;
        step *= length.max(1) as usize;
        lies
    })
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
    fn one_token_is_projected_in_16_bits_or_fewer_as_in_32() {
        let mut init = Init::new(dtype(), 8);
        for bits in [None, Some(4), Some(8)] {
            // Of numbers of rows that end within a block.
            let sizes = Heads { heads: 6, kv_heads: 2, head_dim: 17 };
            let mut qkv = Qkv::separate(&sizes, 128, false, &mut init).unwrap();
            let pack = |bits| on_linears(&mut qkv, |_, linear| linear.weight.quantise(64, bits));
            bits.map_or(Ok(()), pack).unwrap();
            let x = init.normal(&[1, 1, 128], 3.0).unwrap().get();
            let project = |qkv: &Qkv, x: &Array| {
                let Projected { q, kv } = qkv.project(x, x, &sizes).unwrap();
                let (k, v) = kv.unwrap();
                [q, k, v]
            };
            let narrow = project(&qkv, &x);
            on_linears(&mut qkv, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
            crate::train::cast(&qkv, Dtype::Float32, |_| true).unwrap();
            let wide = project(&qkv, &x.as_dtype(Dtype::Float32).unwrap());
            for (narrow, wide) in narrow.iter().zip(&wide) {
                assert_eq!((narrow.shape(), narrow.dtype()), (wide.shape(), dtype()));
                assert!(apart(narrow, wide) < 0.01, "{bits:?}");
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
