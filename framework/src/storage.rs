//! How a matrix is stored. Linear layers and embeddings hold one, so that no model mentions quantisation.

use crate::{Error, Module, Param, Result, Route, cuda::Matrix, math, memory, tap};
use mlx_rs::{Array, Dtype, ops};

/// From how many rows on a product unpacks a packed matrix, where that pays.
const ROWS: usize = 32;
/// The same for each matrix of a stack, all of which are unpacked: packed ones cost as much a row.
const ROWS_OF_EACH: usize = 12;

/// A matrix `[rows, columns]`, dense or packed; or a stack of them, `[E, rows, columns]`.
#[derive(Debug)]
pub enum Weight {
    /// One number an element: `weight [rows, columns]`.
    Dense(Param),
    /// A few bits an element, with a scale and a bias for each group of a row.
    Affine(Affine),
}

/// Groups of a row share a scale and a bias: `value = q · scale + bias`, with q of `bits` bits.
#[derive(Debug)]
pub struct Affine {
    /// `[rows, columns · bits / 32]`, u32, least significant bits first.
    pub weight: Param,
    /// `[rows, columns / group]`.
    pub scales: Param,
    /// `[rows, columns / group]`.
    pub biases: Param,
    /// Elements that share a scale: 32, 64 or 128.
    pub group: i32,
    /// Bits an element: 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
}

crate::module! { impl[] Affine { weight, scales, biases } }

impl Affine {
    fn dequantise(&self, weight: &Array, scales: &Array, biases: &Array) -> Result<Array> {
        Ok(ops::dequantize(weight, scales, biases, self.group, self.bits)?)
    }

    /// All of it in the dtype of `x`, if a product with so many rows is faster from that: Metal has kernels for packed
    /// numbers, elsewhere dense products are so much faster that unpacking costs less than it spares.
    fn unpacked_for(&self, x: &Array) -> Result<Option<Array>> {
        let enough = match *self.weight.shape() {
            [count, _, _] => ROWS_OF_EACH.saturating_mul(count.max(1) as usize),
            _ => ROWS,
        };
        let rows = x.size() / math::last(x)?.max(1) as usize;
        if cfg!(target_vendor = "apple") || rows < enough {
            return Ok(None);
        }
        let all = self.dequantise(&self.weight.get(), &self.scales.get(), &self.biases.get())?;
        tap::ask("unpacked", &all);
        Ok(Some(all.as_dtype(x.dtype())?))
    }
}

impl Weight {
    /// `x Wᵀ`: `[…, columns]` → `[…, rows]`, plus the bias `[rows]` if there is one.
    pub fn matmul(&self, x: &Array, bias: Option<&Param>) -> Result<Array> {
        let y = match (self.for_row(x, bias)?, self) {
            (Some(matrix), _) => matrix.product(x, None)?,
            (None, Self::Dense(weight)) => return dense(x, &weight.get(), bias),
            (None, Self::Affine(packed)) => match packed.unpacked_for(x)? {
                Some(unpacked) => return dense(x, &unpacked, bias),
                None => {
                    let (weight, scales, biases) = (packed.weight.get(), packed.scales.get(), packed.biases.get());
                    ops::quantized_matmul(x, weight, scales, &biases, true, packed.group, packed.bits)?
                }
            },
        };
        bias.map_or(Ok(y.clone()), |bias| Ok(y.add(bias.get())?))
    }

    /// For a product with one row by a kernel of ours, if there is one; dense products with a bias round once by themselves.
    fn for_row(&self, x: &Array, bias: Option<&Param>) -> Result<Option<Matrix>> {
        let rounds_once = matches!(self, Self::Dense(_)) && bias.is_some();
        if rounds_once || !math::is_row(x)? { Ok(None) } else { Matrix::of(self, x) }
    }

    /// `x Wᵀ` with the matrix of a stack that each row of `x` is sent to: `[…, columns]` → `[…, rows]`. The axes of `x`
    /// before its last and those of the route's indices are the same, or broadcast.
    pub fn gather(&self, x: &Array, route: &Route) -> Result<Array> {
        if let ([rows, _], [of], false) = (x.shape(), route.indices.shape(), route.sorted)
            && rows == of
            && let Some(stack) = Matrix::of(self, x)?
        {
            return stack.product(x, Some(&route.indices));
        }
        // A new axis would have a step of one, which CUDA's kernel for sorted rows takes for the distance of rows.
        let (leading, columns) = x.shape().split_at(x.ndim().saturating_sub(1));
        let (x, indices) = (x.reshape(&[leading, &[1], columns].concat())?, &route.indices);
        let y = match self {
            Self::Dense(weight) => gather_dense(&x, &weight.get(), indices, route.sorted)?,
            Self::Affine(packed) => {
                let unpacked = if route.sorted { packed.unpacked_for(&x)? } else { None };
                match unpacked {
                    Some(unpacked) => gather_dense(&x, &unpacked, indices, true)?,
                    None => {
                        let (weight, scales, biases) = (packed.weight.get(), packed.scales.get(), packed.biases.get());
                        let Affine { group, bits, .. } = *packed;
                        ops::gather_qmm(&x, weight, scales, &biases, None, indices, true, group, bits, route.sorted)?
                    }
                }
            }
        };
        Ok(y.squeeze_axes(&[-2])?)
    }

    /// The rows at `indices` (any shape `[…]`, integers) → `[…, columns]`.
    pub fn rows(&self, indices: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) => Ok(weight.get().take_axis(indices, 0)?),
            Self::Affine(packed) => {
                let row = |param: &Param| param.get().take_axis(indices, 0);
                packed.dequantise(&row(&packed.weight)?, &row(&packed.scales)?, &row(&packed.biases)?)
            }
        }
    }

    /// `[rows, columns]` of the matrix that is stored, or `[E, rows, columns]` of the stack.
    pub fn shape(&self) -> Vec<i32> {
        match self {
            Self::Dense(weight) => weight.shape(),
            Self::Affine(packed) => {
                let mut shape = packed.weight.shape();
                if let Some(columns) = shape.last_mut() {
                    *columns = (*columns * 32).checked_div(packed.bits).unwrap_or(0);
                }
                shape
            }
        }
    }

    /// The dtype of what a multiplication yields.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Affine(packed) => packed.scales.dtype(),
        }
    }

    /// Packs a dense matrix; one that is packed already stays as it is.
    ///
    /// # Errors
    /// When the columns are no multiple of `group`, or MLX has no such group or width.
    pub fn quantise(&mut self, group: i32, bits: i32) -> Result<()> {
        if let Self::Dense(dense) = self {
            let (weight, scales, biases) = ops::quantize(dense.get(), group, bits)?;
            let [weight, scales, biases] = [weight, scales, biases].map(Param::new);
            *self = Self::Affine(Affine { weight, scales, biases, group, bits });
        }
        Ok(())
    }

    /// Unpacks into a dense matrix of the given dtype; the arithmetic is done in that dtype or f32, the wider one.
    pub fn dequantise(&mut self, dtype: Dtype) -> Result<()> {
        if let Self::Affine(packed) = self {
            let exact = |param: &Param| param.get().as_dtype(Dtype::Float32);
            let dense = packed.dequantise(&packed.weight.get(), &exact(&packed.scales)?, &exact(&packed.biases)?)?;
            *self = Self::Dense(Param::new(dense.as_dtype(dtype)?));
        }
        Ok(())
    }

    /// Takes the form of a packed matrix with the given shapes, ready to be loaded.
    ///
    /// # Errors
    /// When the shapes are not those of this matrix, packed.
    pub fn expect_packed(&mut self, words: &[usize], scales: &[usize]) -> Result<()> {
        let shape = self.shape();
        let dense: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
        let ([rows @ .., columns], [word_rows @ .., word_columns], [scale_rows @ .., groups]) =
            (&dense[..], words, scales)
        else {
            return Err(Error::argument("scales", format!("packed shapes {words:?} and {scales:?} for {shape:?}")));
        };
        let bits = (word_columns * 32).checked_div(*columns).unwrap_or(0);
        let group = columns.checked_div(*groups).unwrap_or(0);
        let exact = rows == word_rows
            && rows == scale_rows
            && bits * columns == word_columns * 32
            && group * groups == *columns
            && [2, 3, 4, 5, 6, 8].contains(&bits)
            && [32, 64, 128].contains(&group);
        if !exact {
            let problem = format!(
                "packed words {words:?} and scales {scales:?} are no quantisation of {shape:?} that MLX has (2, 3, 4, \
                 5, 6 or 8 bits, groups of 32, 64 or 128)"
            );
            return Err(Error::argument("scales", problem));
        }
        let dtype = self.dtype();
        let empty = |lengths: &[usize], dtype| -> Result<Param> {
            let shape: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
            Ok(Param::new(ops::zeros_dtype(&shape, dtype)?))
        };
        *self = Self::Affine(Affine {
            weight: empty(words, Dtype::Uint32)?,
            scales: empty(scales, dtype)?,
            biases: empty(scales, dtype)?,
            group: group as i32,
            bits: bits as i32,
        });
        Ok(())
    }

    /// The parameters with the names that every MLX checkpoint gives them.
    pub(crate) fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        match self {
            Self::Dense(weight) => f("weight", weight),
            Self::Affine(packed) => packed.each(f),
        }
    }

    /// As [`each`](Self::each), mutably.
    pub(crate) fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        match self {
            Self::Dense(weight) => f("weight", weight),
            Self::Affine(packed) => packed.each_mut(f),
        }
    }
}

/// `x Wᵀ` and a bias, in one rounding where a product and a sum would round twice.
fn dense(x: &Array, weight: &Array, bias: Option<&Param>) -> Result<Array> {
    Ok(match bias {
        None => ops::matmul(x, weight.transpose()?)?,
        Some(bias) => ops::addmm(bias.get(), x, weight.transpose()?, None, None)?,
    })
}

/// The product of rows `[…, 1, columns]` and their matrices of a stack. On a CPU MLX gathers f32 alone: narrower rows and
/// their matrices are widened, or the whole stack where it is smaller.
fn gather_dense(x: &Array, stack: &Array, indices: &Array, sorted: bool) -> Result<Array> {
    if x.dtype() == Dtype::Float32 || !memory::is_on_cpu()? {
        return Ok(ops::gather_mm(x, stack.swap_axes(-1, -2)?, None, indices, sorted)?);
    }
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let few = indices.size() < stack.shape().first().map_or(0, |&count| count as usize);
    let y = if few {
        ops::matmul(wide(x)?, wide(&stack.take_axis(indices, 0)?)?.swap_axes(-1, -2)?)?
    } else {
        ops::gather_mm(wide(x)?, wide(stack)?.swap_axes(-1, -2)?, None, indices, sorted)?
    };
    Ok(y.as_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, math};

    fn weight() -> Weight {
        Weight::Dense(Init::default().normal(&[6, 64], 1.0).unwrap())
    }

    #[test]
    fn packed_products_equal_products_of_the_unpacked() {
        let x = Init::default().normal(&[3, 64], 1.0).unwrap().get();
        for (group, bits) in [(32, 4), (64, 8), (32, 2), (32, 3), (64, 6)] {
            let mut weight = weight();
            weight.quantise(group, bits).unwrap();
            let packed = weight.matmul(&x, None).unwrap();
            weight.dequantise(Dtype::Float32).unwrap();
            let dense = weight.matmul(&x, None).unwrap();
            let difference = math::subtract(&packed, &dense).unwrap().abs().unwrap().max(None).unwrap();
            assert!(math::read::<f32>(&difference).unwrap()[0] < 1e-4, "{group} {bits}");
        }
    }

    #[test]
    fn packed_rows_equal_rows_of_the_unpacked() {
        let mut weight = weight();
        weight.quantise(32, 4).unwrap();
        let indices = math::array(&[5, 0], &[1, 2]).unwrap();
        let packed = weight.rows(&indices).unwrap();
        weight.dequantise(Dtype::Float32).unwrap();
        assert_eq!(math::read::<f32>(&packed).unwrap(), math::read::<f32>(&weight.rows(&indices).unwrap()).unwrap());
    }

    #[test]
    fn the_packed_form_is_read_off_the_shapes() {
        let mut packed = weight();
        packed.expect_packed(&[6, 8], &[6, 2]).unwrap();
        assert!(matches!(&packed, Weight::Affine(Affine { group: 32, bits: 4, .. })));
        assert_eq!(packed.shape(), [6, 64]);
        for (words, scales) in [(&[6, 9][..], &[6, 2][..]), (&[5, 8], &[6, 2]), (&[6, 8], &[6, 0]), (&[8], &[6, 2])] {
            assert!(weight().expect_packed(words, scales).is_err(), "{words:?} {scales:?}");
        }
    }
}
