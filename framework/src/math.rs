//! Arithmetic that keeps its dtype and cannot panic.
//!
//! MLX promotes `bf16 × f32` to f32, also for scalars, and the operators of `Array` panic. Here the first operand's
//! dtype is the result's, and every function returns a `Result`.

use crate::{Error, Result};
use mlx_rs::{
    Array, ArrayElement, Dtype,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};

/// `a + b`, in the dtype of `a`.
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    Ok(a.add(b.as_dtype(a.dtype())?)?)
}

/// `a − b`, in the dtype of `a`.
pub fn subtract(a: &Array, b: &Array) -> Result<Array> {
    Ok(a.subtract(b.as_dtype(a.dtype())?)?)
}

/// `a × b`, in the dtype of `a`.
pub fn multiply(a: &Array, b: &Array) -> Result<Array> {
    Ok(a.multiply(b.as_dtype(a.dtype())?)?)
}

/// `a ÷ b`, in the dtype of `a`.
pub fn divide(a: &Array, b: &Array) -> Result<Array> {
    Ok(a.divide(b.as_dtype(a.dtype())?)?)
}

/// `x × factor`, in the dtype of `x`.
pub fn scaled(x: &Array, factor: f64) -> Result<Array> {
    Ok(x.multiply(scalar(factor, x.dtype())?)?)
}

/// `x + term`, in the dtype of `x`.
pub fn offset(x: &Array, term: f64) -> Result<Array> {
    Ok(x.add(scalar(term, x.dtype())?)?)
}

/// A scalar of the given dtype.
pub fn scalar(value: f64, dtype: Dtype) -> Result<Array> {
    let wide = dtype == Dtype::Float64;
    let value = if wide { Array::from_f64(value) } else { Array::from_f32(value as f32) };
    Ok(value.as_dtype(dtype)?)
}

/// The lengths of all axes of an array that has N of them.
///
/// # Errors
/// When it has another number of axes.
pub fn shape<const N: usize>(x: &Array) -> Result<[i32; N]> {
    let shape = x.shape();
    shape.try_into().map_err(|_| Error::argument("shape", format!("{shape:?} where {N} axes are expected")))
}

/// The length of the last axis.
///
/// # Errors
/// For a scalar.
pub fn last(x: &Array) -> Result<i32> {
    x.shape().last().copied().ok_or_else(|| Error::argument("shape", "a scalar where features are expected"))
}

/// Whether it is one row: `[…, D]` with nothing but ones before the last axis.
pub(crate) fn is_row(x: &Array) -> Result<bool> {
    Ok(x.size() == last(x)? as usize)
}

/// The elements `start..end` along an axis (negative axes count from the end).
pub fn slice(x: &Array, axis: i32, start: i32, end: i32) -> Result<Array> {
    let place = positive(axis, x.ndim())?;
    let length = x.shape().get(place).copied().unwrap_or(0);
    if start < 0 || end < start || end > length {
        return Err(Error::argument("range", format!("{start}..{end} does not lie in axis {axis} of length {length}")));
    }
    let range = start..end;
    Ok(match place {
        _ if place + 1 == x.ndim() => x.try_index((Ellipsis, range))?,
        0 => x.try_index(range)?,
        1 => x.try_index((.., range))?,
        2 => x.try_index((.., .., range))?,
        3 => x.try_index((.., .., .., range))?,
        _ => return Err(Error::argument("axis", format!("axis {axis} of {} dimensions", x.ndim()))),
    })
}

/// The axis counted from the front.
fn positive(axis: i32, dimensions: usize) -> Result<usize> {
    let counted = if axis < 0 { axis + dimensions as i32 } else { axis };
    usize::try_from(counted)
        .ok()
        .filter(|&axis| axis < dimensions)
        .ok_or_else(|| Error::argument("axis", format!("axis {axis} of an array with {dimensions} dimensions")))
}

/// Cuts the last axis into two halves.
pub fn halves(x: &Array) -> Result<(Array, Array)> {
    let mut parts = x.split_equal(2, -1)?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(Error::argument("x", "the last axis does not split into two halves")),
    }
}

/// `x σ(x)`: SiLU, also called swish (<https://arxiv.org/abs/1702.03118>).
pub fn silu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(x)?)?)
}

/// `x Φ(x)` with the error function: GELU (<https://arxiv.org/abs/1606.08415>).
pub fn gelu(x: &Array) -> Result<Array> {
    let phi = offset(&ops::erf(&scaled(x, std::f64::consts::FRAC_1_SQRT_2)?)?, 1.0)?;
    scaled(&x.multiply(phi)?, 0.5)
}

/// `bound tanh(x / bound)`: bounded to ±`bound` (<https://arxiv.org/abs/2408.00118>).
pub fn bounded(x: &Array, bound: f64) -> Result<Array> {
    scaled(&ops::tanh(&scaled(x, 1.0 / bound)?)?, bound)
}

/// GELU by its tanh approximation: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: &Array) -> Result<Array> {
    let cubic = x.add(scaled(&x.multiply(x.multiply(x)?)?, 0.044_715)?)?;
    let tanh = ops::tanh(&scaled(&cubic, (2.0 / std::f64::consts::PI).sqrt())?)?;
    scaled(&x.multiply(offset(&tanh, 1.0)?)?, 0.5)
}

/// GELU by a sigmoid: `x σ(1.702 x)`.
pub fn quick_gelu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(scaled(x, 1.702)?)?)?)
}

/// `max(x, 0)`.
pub fn relu(x: &Array) -> Result<Array> {
    Ok(ops::maximum(x, scalar(0.0, x.dtype())?)?)
}

/// `max(x, 0)²` (<https://arxiv.org/abs/2109.08668>).
pub fn relu2(x: &Array) -> Result<Array> {
    Ok(relu(x)?.square()?)
}

/// An array from host data; the length must be the product of the shape.
pub fn array<T: ArrayElement>(data: &[T], shape: &[i32]) -> Result<Array> {
    let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    if wanted != Some(data.len()) {
        return Err(Error::argument("data", format!("{} elements for the shape {shape:?}", data.len())));
    }
    // SAFETY: the data holds as many elements of this type as the shape says; MLX copies them.
    Ok(unsafe { Array::from_raw_data(data.as_ptr().cast(), shape, T::DTYPE) })
}

/// The data of an array on the host, row-major: evaluates, checks and copies.
///
/// The only way from the device to the host: after a failed evaluation an array's memory is not initialised.
///
/// # Errors
/// When the evaluation fails, or the dtype of `x` is not `T`'s.
#[allow(clippy::disallowed_methods, reason = "this is the one way to the host")]
pub fn read<T: ArrayElement + Clone>(x: &Array) -> Result<Vec<T>> {
    if x.dtype() != T::DTYPE {
        return Err(Error::argument("x", format!("dtype {:?} where {:?} is read", x.dtype(), T::DTYPE)));
    }
    x.eval()?;
    if x.size() == 0 {
        return Ok(Vec::new());
    }
    // To make an array contiguous that is so already would wait for all that the device was told since.
    if let Ok(data) = x.try_as_slice::<T>() {
        return Ok(data.to_vec());
    }
    match x.contiguous()?.try_as_slice::<T>() {
        Ok(data) => Ok(data.to_vec()),
        Err(error) => Err(Error::argument("x", error.to_string())),
    }
}

/// Whether every element is finite.
pub fn is_finite(x: &Array) -> Result<bool> {
    let all = x.is_finite()?.all(None)?;
    Ok(read::<bool>(&all)?.first().copied().unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_operand_gives_the_dtype() {
        let narrow = scalar(1.5, Dtype::Bfloat16).unwrap();
        let wide = Array::from_f32(2.0);
        for result in [
            add(&narrow, &wide),
            subtract(&narrow, &wide),
            multiply(&narrow, &wide),
            divide(&narrow, &wide),
            scaled(&narrow, 3.0),
            offset(&narrow, 3.0),
            silu(&narrow),
            gelu(&narrow),
            gelu_tanh(&narrow),
            quick_gelu(&narrow),
            relu2(&narrow),
        ] {
            assert_eq!(result.unwrap().dtype(), Dtype::Bfloat16);
        }
    }

    #[test]
    fn slices_along_any_axis() {
        let x = array(&(0..24).collect::<Vec<i32>>(), &[2, 3, 4]).unwrap();
        assert_eq!(read::<i32>(&slice(&x, 0, 1, 2).unwrap()).unwrap()[0], 12);
        assert_eq!(slice(&x, 1, 1, 3).unwrap().shape(), [2, 2, 4]);
        assert_eq!(read::<i32>(&slice(&x, -1, 3, 4).unwrap()).unwrap(), [3, 7, 11, 15, 19, 23]);
        assert!(slice(&x, 1, 2, 5).is_err());
        assert!(slice(&x, 3, 0, 1).is_err());
    }

    #[test]
    fn reading_checks_the_dtype_and_copies_views() {
        let x = array(&[1f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        assert_eq!(read::<f32>(&x.transpose().unwrap()).unwrap(), [1.0, 3.0, 2.0, 4.0]);
        assert!(read::<i32>(&x).is_err());
        assert!(read::<f32>(&Array::zeros::<f32>(&[0, 3]).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn host_data_must_fill_the_shape() {
        assert!(array(&[1f32, 2.0], &[3]).is_err());
        assert!(array(&[1f32, 2.0], &[-2]).is_err());
    }
}
