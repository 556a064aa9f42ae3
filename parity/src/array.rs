//! Host tensors as MLX has them, and back.

use framework::{Array, Dtype as Mlx, math};

use crate::tensor::{Data, Dtype, Tensor};
use crate::{Error, Result};

/// MLX's name for an element type.
pub fn mlx(dtype: Dtype) -> Mlx {
    match dtype {
        Dtype::Bool => Mlx::Bool,
        Dtype::Int8 => Mlx::Int8,
        Dtype::Int16 => Mlx::Int16,
        Dtype::Int32 => Mlx::Int32,
        Dtype::Int64 => Mlx::Int64,
        Dtype::Uint8 => Mlx::Uint8,
        Dtype::Uint16 => Mlx::Uint16,
        Dtype::Uint32 => Mlx::Uint32,
        Dtype::Uint64 => Mlx::Uint64,
        Dtype::Float16 => Mlx::Float16,
        Dtype::Bfloat16 => Mlx::Bfloat16,
        Dtype::Float32 => Mlx::Float32,
        Dtype::Float64 => Mlx::Float64,
    }
}

/// A tensor as an array of its own element type; lazy where that is not the type in which its elements are held.
///
/// # Errors
/// When an axis is longer than MLX's.
pub fn array(tensor: &Tensor) -> Result<Array> {
    let shape: Option<Vec<i32>> = tensor.shape.iter().map(|&length| length.try_into().ok()).collect();
    let shape = shape.ok_or_else(|| Error::Tensor(format!("shape {:?} is beyond MLX's", tensor.shape)))?;
    let wide = match &tensor.data {
        Data::F32(v) => math::array(v, &shape),
        Data::F64(v) => math::array(v, &shape),
        Data::I64(v) => math::array(v, &shape),
        Data::U64(v) => math::array(v, &shape),
        Data::Bool(v) => math::array(v, &shape),
    };
    wide.and_then(|wide| Ok(wide.as_dtype(mlx(tensor.dtype))?)).map_err(Error::subject)
}

/// An array's elements on the host; evaluates it.
///
/// # Errors
/// When the evaluation fails, or the elements are complex.
pub fn tensor(array: &Array) -> Result<Tensor> {
    let (dtype, wide) = match array.dtype() {
        Mlx::Bool => (Dtype::Bool, Mlx::Bool),
        Mlx::Int8 => (Dtype::Int8, Mlx::Int64),
        Mlx::Int16 => (Dtype::Int16, Mlx::Int64),
        Mlx::Int32 => (Dtype::Int32, Mlx::Int64),
        Mlx::Int64 => (Dtype::Int64, Mlx::Int64),
        Mlx::Uint8 => (Dtype::Uint8, Mlx::Uint64),
        Mlx::Uint16 => (Dtype::Uint16, Mlx::Uint64),
        Mlx::Uint32 => (Dtype::Uint32, Mlx::Uint64),
        Mlx::Uint64 => (Dtype::Uint64, Mlx::Uint64),
        Mlx::Float16 => (Dtype::Float16, Mlx::Float32),
        Mlx::Bfloat16 => (Dtype::Bfloat16, Mlx::Float32),
        Mlx::Float32 => (Dtype::Float32, Mlx::Float32),
        Mlx::Float64 => (Dtype::Float64, Mlx::Float64),
        Mlx::Complex64 => return Err(Error::Tensor("complex numbers are not compared".into())),
    };
    let read = || -> framework::Result<Data> {
        let array = array.as_dtype(wide)?;
        Ok(match wide {
            Mlx::Bool => Data::Bool(math::read(&array)?),
            Mlx::Int64 => Data::I64(math::read(&array)?),
            Mlx::Uint64 => Data::U64(math::read(&array)?),
            Mlx::Float64 => Data::F64(math::read(&array)?),
            _ => Data::F32(math::read(&array)?),
        })
    };
    let shape = array.shape().iter().map(|&length| length as usize).collect();
    Tensor::new(shape, dtype, read().map_err(Error::subject)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_survives_the_journey() {
        use Dtype::*;
        let cases = [
            (vec![Bool], Data::Bool(vec![true, false])),
            (vec![Int8, Int16, Int32, Int64], Data::I64(vec![-128, 127])),
            (vec![Uint8, Uint16, Uint32, Uint64], Data::U64(vec![0, 255])),
            (vec![Float16, Bfloat16, Float32], Data::F32(vec![-1.5, 0.25])),
            (vec![Float64], Data::F64(vec![1.0 + f64::EPSILON, f64::NEG_INFINITY])),
        ];
        for (dtypes, data) in cases {
            for dtype in dtypes {
                let one = Tensor::new(vec![1, 2], dtype, data.clone()).unwrap();
                assert_eq!(tensor(&array(&one).unwrap()).unwrap(), one);
            }
        }
    }

    #[test]
    fn great_integers_and_empty_tensors_are_exact() {
        for data in [Data::I64(vec![i64::MIN, i64::MAX]), Data::I64(vec![])] {
            let one = Tensor::new(vec![data.len()], Dtype::Int64, data).unwrap();
            assert_eq!(tensor(&array(&one).unwrap()).unwrap(), one);
        }
    }
}
