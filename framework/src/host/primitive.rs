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
