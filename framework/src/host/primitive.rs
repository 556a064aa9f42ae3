//! A kernel as an array that is not computed yet.

use crate::{
    Array, Dtype, Error, Result,
    closure::{Closure, Vector},
    memory,
};
use mlx_rs::Stream;
use mlx_sys::host::Kernel;
use std::sync::Arc;

/// Whether kernels take these arrays: f32, with elements, computed on the CPU.
pub(super) fn takes(inputs: &[&Array]) -> Result<bool> {
    Ok(inputs.iter().all(|x| x.dtype() == Dtype::Float32 && x.size() > 0) && memory::is_on_cpu()?)
}

/// The array of this shape that `kernel` computes from inputs that it [takes]. Its derivatives are those of `plain`, which
/// computes the same in MLX's own operations.
pub(super) fn apply<K: Kernel>(
    kernel: K,
    inputs: &[&Array],
    shape: &[i32],
    plain: impl Fn(&[Array]) -> Result<Array> + 'static,
) -> Result<Array> {
    let plain = Closure::new(Arc::default(), move |inputs| Ok(vec![plain(inputs)?]))?;
    let inputs = Vector::of(inputs.iter().copied());
    let stream = Stream::cpu();
    // SAFETY: every handle is live, and MLX copies what it keeps; the inputs have the dtype and, by the caller, the shapes
    // that the kernel takes.
    unsafe {
        let mut array = mlx_sys::mlx_array_new();
        let status =
            mlx_sys::host::apply(&raw mut array, kernel, plain.handle(), inputs.handle(), shape, stream.as_ptr());
        let array = Array::from_ptr(array);
        if status == 0 { Ok(array) } else { Err(Error::argument("kernel", "MLX refused it")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math;
    use mlx_sys::host::Operand;

    /// The sum of a row, and a panic where there is no row.
    struct Sums;

    impl Kernel for Sums {
        fn run(&self, inputs: &[Operand<'_>], output: &mut [f32]) {
            for (row, sum) in output.iter_mut().enumerate() {
                *sum = inputs[1].row(&[row], &mut Vec::new()).iter().sum();
            }
        }
    }

    fn sums(inputs: &[&Array]) -> Array {
        apply(Sums, inputs, &[2], |inputs| Ok(inputs[1].sum_axis(1, false)?)).unwrap()
    }

    #[test]
    fn a_kernel_that_panics_is_an_error_of_evaluation() {
        let x = math::array(&[1f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        assert_eq!(math::read::<f32>(&sums(&[&x, &x])).unwrap(), [3.0, 7.0]);
        assert!(math::read::<f32>(&sums(&[&x])).is_err());
        assert_eq!(math::read::<f32>(&sums(&[&x, &x.transpose().unwrap()])).unwrap(), [4.0, 6.0]);
    }

    /// Results go into new memory, and what a kernel reads lives until it has run.
    #[test]
    fn inputs_outlive_their_handles() {
        let ones = |length| Array::ones::<f32>(&[2, length]).unwrap();
        let mut all = vec![];
        for length in 1..200 {
            let x = math::scaled(&ones(length), 3.0).unwrap();
            all.push(sums(&[&x, &math::offset(&x, -1.0).unwrap()]));
        }
        for (place, sums) in all.iter().enumerate() {
            assert_eq!(math::read::<f32>(sums).unwrap(), [2.0 * (place as f32 + 1.0); 2]);
        }
    }
}
