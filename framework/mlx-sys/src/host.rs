//! Work of our own on a CPU, as primitives of MLX's: a kernel on host memory, with the derivatives of a function of
//! arrays that computes the same.

mod activation;
mod attention;
mod exp;
mod operand;

pub use activation::{Activate, Nonlinearity};
pub use attention::Attend;
pub use operand::Operand;

use crate::{mlx_array, mlx_closure, mlx_stream, mlx_vector_array};
use operand::Raw;
use std::{
    ffi::{c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Elements below which starting threads costs more than it saves.
const PARALLEL_FROM: usize = 1 << 14;

/// A function of f32 arrays.
pub trait Kernel: Send + Sync + 'static {
    /// Computes every element of a row-major output.
    fn run(&self, inputs: &[Operand<'_>], output: &mut [f32]);
}

type Function = unsafe extern "C" fn(*const Raw, usize, *const Raw, *const c_void) -> c_int;

unsafe extern "C" {
    fn mlx_host_apply(
        result: *mut mlx_array,
        function: Function,
        kernel: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
        fallback: mlx_closure,
        inputs: mlx_vector_array,
        shape: *const c_int,
        axes: usize,
        stream: mlx_stream,
    ) -> c_int;
}

/// An array of this shape that the kernel computes from `inputs` when it is evaluated. Derivatives are those of
/// `fallback`, from the same inputs to that one output. Answers anything but 0 when it failed.
///
/// # Safety
/// All handles are live, all inputs f32, the stream is a CPU's, and the kernel takes inputs of these shapes.
pub unsafe fn apply<K: Kernel>(
    result: *mut mlx_array,
    kernel: K,
    fallback: mlx_closure,
    inputs: mlx_vector_array,
    shape: &[c_int],
    stream: mlx_stream,
) -> c_int {
    let kernel = Box::into_raw(Box::new(kernel)).cast();
    mlx_host_apply(result, run::<K>, kernel, release::<K>, fallback, inputs, shape.as_ptr(), shape.len(), stream)
}

unsafe extern "C" fn run<K: Kernel>(
    inputs: *const Raw,
    count: usize,
    output: *const Raw,
    kernel: *const c_void,
) -> c_int {
    let run = || {
        // SAFETY: `apply` made the kernel; MLX describes arrays whose buffers live while this runs, and the output's
        // is new.
        let (kernel, inputs, output) = unsafe {
            let inputs = std::slice::from_raw_parts(inputs, count);
            (&*kernel.cast::<K>(), inputs.iter().map(|raw| raw.operand()).collect::<Vec<_>>(), (*output).elements())
        };
        if !output.is_empty() {
            kernel.run(&inputs, output);
        }
    };
    c_int::from(catch_unwind(AssertUnwindSafe(run)).is_err())
}

unsafe extern "C" fn release<K>(kernel: *mut c_void) {
    // SAFETY: `apply` made the kernel, and its last owner releases it.
    drop(unsafe { Box::from_raw(kernel.cast::<K>()) });
}
