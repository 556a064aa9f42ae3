//! Kernels of ours on CUDA, which MLX compiles when they first run. They have no gradient.

mod hidden;
mod matvec;

pub(crate) use hidden::{Chosen, hidden};
pub(crate) use matvec::{Matrix, THREADS};

use crate::{Array, Dtype, Error, Result, memory};
use mlx_rs::Stream;
use mlx_sys::{mlx_fast_cuda_kernel, mlx_fast_cuda_kernel_config, mlx_vector_array, mlx_vector_string};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::CStr,
};

/// Files one after the other, as a [`Kernel`] has them.
macro_rules! source {
    ($($file:literal),+) => {
        concat!($(include_str!($file)),+, "\0")
    };
}
pub(crate) use source;

thread_local! {
    static DIFFERENTIATED: Cell<bool> = const { Cell::new(false) };
    /// Never freed: MLX may end before the thread does.
    static KERNELS: RefCell<HashMap<&'static CStr, mlx_fast_cuda_kernel>> = RefCell::default();
}

/// Runs `f`, whose gradient will be taken.
pub(crate) fn differentiated<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            DIFFERENTIATED.set(self.0);
        }
    }
    let _restore = Restore(DIFFERENTIATED.replace(true));
    f()
}

/// Whether kernels of ours can be used here and now.
pub(crate) fn is_usable() -> Result<bool> {
    Ok(cfg!(target_os = "linux") && !DIFFERENTIATED.get() && !memory::is_on_cpu()?)
}

/// A kernel. Where its body mentions `name_shape`, it gets the shape of that input.
pub(crate) struct Kernel {
    /// No other kernel has it.
    pub name: &'static CStr,
    pub inputs: &'static [&'static CStr],
    pub outputs: &'static [&'static CStr],
    /// What stands before it; ends with a zero, as does the body.
    pub header: &'static str,
    pub body: &'static str,
}

/// What is known when a kernel is compiled.
#[derive(Clone, Copy)]
pub(crate) enum Constant {
    Int(i32),
    Bool(bool),
    Type(Dtype),
}

/// One use of a kernel.
pub(crate) struct Call<'a, const N: usize> {
    /// In the kernel's order; what does not lie row by row is copied.
    pub inputs: &'a [&'a Array],
    /// Their shapes and dtypes.
    pub outputs: [(&'a [i32], Dtype); N],
    pub blocks: [i32; 2],
    /// Of a block.
    pub threads: i32,
    pub constants: &'a [(&'static CStr, Constant)],
}

impl Kernel {
    /// Computes the outputs.
    ///
    /// # Errors
    /// When MLX refuses; what is wrong in the source shows when the outputs are evaluated.
    pub fn run<const N: usize>(&self, call: &Call<N>) -> Result<[Array; N]> {
        let config = Config::of(call)?;
        let kernel = KERNELS.with_borrow_mut(|all| *all.entry(self.name).or_insert_with(|| self.register()));
        let stream = Stream::thread_local_or_gpu();
        // SAFETY: every handle is live until it is freed here, or is an array's.
        unsafe {
            let inputs = mlx_sys::mlx_vector_array_new();
            for input in call.inputs {
                mlx_sys::mlx_vector_array_append_value(inputs, input.as_ptr());
            }
            let mut list: mlx_vector_array = mlx_sys::mlx_vector_array_new();
            let status =
                mlx_sys::mlx_fast_cuda_kernel_apply(&raw mut list, kernel, inputs, config.0, stream.as_ref().as_ptr());
            let outputs = std::array::from_fn(|at| {
                let mut output = mlx_sys::mlx_array_new();
                if status == 0 {
                    mlx_sys::mlx_vector_array_get(&raw mut output, list, at);
                }
                Array::from_ptr(output)
            });
            mlx_sys::mlx_vector_array_free(inputs);
            mlx_sys::mlx_vector_array_free(list);
            done(status).map(|()| outputs)
        }
    }

    fn register(&self) -> mlx_fast_cuda_kernel {
        let list = |names: &[&CStr]| -> mlx_vector_string {
            // SAFETY: every name ends, and the list copies it.
            unsafe {
                let list = mlx_sys::mlx_vector_string_new();
                for name in names {
                    mlx_sys::mlx_vector_string_append_value(list, name.as_ptr());
                }
                list
            }
        };
        let (inputs, outputs) = (list(self.inputs), list(self.outputs));
        let (header, body) = (self.header.as_ptr().cast(), self.body.as_ptr().cast());
        // SAFETY: every string ends, and both lists live until the kernel has copied them.
        unsafe {
            let kernel = mlx_sys::mlx_fast_cuda_kernel_new(self.name.as_ptr(), inputs, outputs, body, header, true, 0);
            mlx_sys::mlx_vector_string_free(inputs);
            mlx_sys::mlx_vector_string_free(outputs);
            kernel
        }
    }
}

/// MLX's description of one call.
struct Config(mlx_fast_cuda_kernel_config);

impl Config {
    fn of<const N: usize>(call: &Call<N>) -> Result<Self> {
        // The first call into mlx-rs installs its handler of errors; MLX's own ends the process.
        mlx_rs::Device::try_default()?;
        let [x, y] = call.blocks;
        // SAFETY: the configuration is live until `drop` frees it; every shape has as many lengths as it says, and every
        // name ends.
        unsafe {
            let config = Self(mlx_sys::mlx_fast_cuda_kernel_config_new());
            for (shape, dtype) in call.outputs {
                let (lengths, dtype) = (shape.as_ptr(), dtype as u32);
                done(mlx_sys::mlx_fast_cuda_kernel_config_add_output_arg(config.0, lengths, shape.len(), dtype))?;
            }
            let threads = x.saturating_mul(call.threads);
            done(mlx_sys::mlx_fast_cuda_kernel_config_set_grid(config.0, threads, y, 1))?;
            done(mlx_sys::mlx_fast_cuda_kernel_config_set_thread_group(config.0, call.threads, 1, 1))?;
            for (name, constant) in call.constants {
                let name = name.as_ptr();
                done(match *constant {
                    Constant::Int(value) => {
                        mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_int(config.0, name, value)
                    }
                    Constant::Bool(value) => {
                        mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_bool(config.0, name, value)
                    }
                    Constant::Type(dtype) => {
                        mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_dtype(config.0, name, dtype as u32)
                    }
                })?;
            }
            Ok(config)
        }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and no copy of it is left.
        unsafe { mlx_sys::mlx_fast_cuda_kernel_config_free(self.0) };
    }
}

fn done(status: i32) -> Result<()> {
    let refused = || mlx_rs::error::Exception::custom("MLX refused a kernel");
    if status == 0 { Ok(()) } else { Err(Error::from(refused())) }
}
