//! Products of a packed matrix and a vector on CUDA: what generating tokens spends its time on. MLX has a kernel too,
//! which adds numbers of 16 bits up in 16 bits and takes twice the time.

use crate::{Array, Dtype, Error, Result, math, memory};
use mlx_rs::Stream;
use mlx_sys::{mlx_fast_cuda_kernel, mlx_fast_cuda_kernel_config, mlx_vector_array, mlx_vector_string};
use std::{
    cell::{Cell, OnceCell},
    ffi::CStr,
};

/// The body of the kernel.
const SOURCE: &str = concat!(include_str!("matvec.cu"), "\0");

/// Warps of a block.
const WARPS: i32 = 4;

/// A packed matrix `[N, K]`, or a stack `[E, N, K]`, as its buffers have it.
pub(crate) struct Packed<'a> {
    /// Integers in words of 32 bits.
    pub words: &'a Array,
    /// For each group.
    pub scales: &'a Array,
    /// For each group.
    pub biases: &'a Array,
    pub group: i32,
    pub bits: i32,
}

thread_local! {
    static DIFFERENTIATED: Cell<bool> = const { Cell::new(false) };
    /// Never freed: MLX may end before the thread does.
    static KERNEL: OnceCell<mlx_fast_cuda_kernel> = const { OnceCell::new() };
}

/// Runs `f`, whose gradient will be taken: the kernel has none.
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

impl Packed<'_> {
    /// `x Wᵀ` for rows `[B, K]`, each with the matrix of its index `[B]`, or all with the one that there is → `[B, N]`.
    /// Nothing where the kernel does not do it: elsewhere than on CUDA, in other dtypes and widths, under a gradient.
    pub fn product(&self, x: &Array, index: Option<&Array>) -> Result<Option<Array>> {
        let [batch, columns] = math::shape(x)?;
        let ([rows, width] | [_, rows, width]) = *self.words.shape() else { return Ok(None) };
        let fits = width.checked_mul(32).is_some_and(|bits| bits == columns.saturating_mul(self.bits));
        if !fits || !self.is_taken(x, columns)? {
            return Ok(None);
        }
        let words = self.words.reshape(&[-1, rows, width])?;
        let each = if rows <= 4096 { 2 } else { 4 };
        let blocks = rows.saturating_add(each * WARPS - 1) / (each * WARPS);
        let config = Config::new()?;
        config.output(&[batch, rows], x.dtype())?;
        config.threads([blocks.saturating_mul(WARPS * 32), batch, 1], [WARPS * 32, 1, 1])?;
        let constants = [(c"BITS", self.bits), (c"GROUP", self.group), (c"ROWS", each)];
        config.constants(x.dtype(), &constants, index.is_some())?;
        Ok(Some(apply(&[x, &words, self.scales, self.biases, index.unwrap_or(x)], &config)?))
    }

    fn is_taken(&self, x: &Array, columns: i32) -> Result<bool> {
        let Self { scales, group, bits, .. } = self;
        let narrow = matches!(x.dtype(), Dtype::Bfloat16 | Dtype::Float16) && scales.dtype() == x.dtype();
        let known = [4, 8].contains(bits) && group % 32 == 0 && columns % group == 0;
        Ok(cfg!(target_os = "linux") && narrow && known && !DIFFERENTIATED.get() && !memory::is_on_cpu()?)
    }
}

/// MLX's description of one call.
struct Config(mlx_fast_cuda_kernel_config);

impl Config {
    fn new() -> Result<Self> {
        // The first call into mlx-rs installs its handler of errors; MLX's own ends the process.
        mlx_rs::Device::try_default()?;
        // SAFETY: it is freed once, by `drop`.
        Ok(Self(unsafe { mlx_sys::mlx_fast_cuda_kernel_config_new() }))
    }

    fn output(&self, shape: &[i32], dtype: Dtype) -> Result<()> {
        // SAFETY: the handle is live, and `shape` has as many lengths as it says.
        done(unsafe {
            mlx_sys::mlx_fast_cuda_kernel_config_add_output_arg(self.0, shape.as_ptr(), shape.len(), dtype as u32)
        })
    }

    /// How many threads there are along each axis, and in a block.
    fn threads(&self, [x, y, z]: [i32; 3], [bx, by, bz]: [i32; 3]) -> Result<()> {
        // SAFETY: the handle is live.
        unsafe {
            done(mlx_sys::mlx_fast_cuda_kernel_config_set_grid(self.0, x, y, z))?;
            done(mlx_sys::mlx_fast_cuda_kernel_config_set_thread_group(self.0, bx, by, bz))
        }
    }

    fn constants(&self, dtype: Dtype, ints: &[(&CStr, i32)], gather: bool) -> Result<()> {
        // SAFETY: the handle is live, and every name ends.
        unsafe {
            done(mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_dtype(self.0, c"T".as_ptr(), dtype as u32))?;
            for (name, value) in ints {
                done(mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_int(self.0, name.as_ptr(), *value))?;
            }
            done(mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_bool(self.0, c"GATHER".as_ptr(), gather))
        }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and no copy of it is left.
        unsafe { mlx_sys::mlx_fast_cuda_kernel_config_free(self.0) };
    }
}

fn apply(inputs: &[&Array], config: &Config) -> Result<Array> {
    let kernel = KERNEL.with(|kernel| *kernel.get_or_init(kernel_of_source));
    let stream = Stream::thread_local_or_gpu();
    // SAFETY: every handle is live until it is freed here; the kernel writes every element of its output, and reads what
    // the shapes that `product` has checked say is there.
    unsafe {
        let list = mlx_sys::mlx_vector_array_new();
        for input in inputs {
            mlx_sys::mlx_vector_array_append_value(list, input.as_ptr());
        }
        let mut outputs: mlx_vector_array = mlx_sys::mlx_vector_array_new();
        let status =
            mlx_sys::mlx_fast_cuda_kernel_apply(&raw mut outputs, kernel, list, config.0, stream.as_ref().as_ptr());
        let mut y = mlx_sys::mlx_array_new();
        let outcome = done(status).and_then(|()| done(mlx_sys::mlx_vector_array_get(&raw mut y, outputs, 0)));
        mlx_sys::mlx_vector_array_free(list);
        mlx_sys::mlx_vector_array_free(outputs);
        let y = Array::from_ptr(y);
        outcome.map(|()| y)
    }
}

/// The kernel; MLX compiles it when it first runs.
fn kernel_of_source() -> mlx_fast_cuda_kernel {
    // SAFETY: every string ends, and both lists live until the kernel has copied them.
    unsafe {
        let list = |names: &[&CStr]| -> mlx_vector_string {
            let list = mlx_sys::mlx_vector_string_new();
            for name in names {
                mlx_sys::mlx_vector_string_append_value(list, name.as_ptr());
            }
            list
        };
        let (inputs, outputs) = (list(&[c"x", c"w", c"scales", c"biases", c"index"]), list(&[c"y"]));
        let (name, source, header) = (c"matvec".as_ptr(), SOURCE.as_ptr().cast(), c"".as_ptr());
        let kernel = mlx_sys::mlx_fast_cuda_kernel_new(name, inputs, outputs, source, header, true, 0);
        mlx_sys::mlx_vector_string_free(inputs);
        mlx_sys::mlx_vector_string_free(outputs);
        kernel
    }
}

fn done(status: i32) -> Result<()> {
    let refused = || mlx_rs::error::Exception::custom("MLX refused a product of a matrix and a vector");
    if status == 0 { Ok(()) } else { Err(Error::from(refused())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Route, Weight, testing::difference};

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
