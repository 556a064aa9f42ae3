//! How fast matrices multiply here.

use crate::Result;
use mlx_rs::{Array, Dtype, ops, random, transforms::eval};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A measured rate of multiplication of two square matrices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The dtype of the matrices.
    pub dtype: &'static str,
    /// Rows and columns.
    pub size: i32,
    /// Billions of multiplications and additions a second, in the fastest of several runs.
    pub gflops: f64,
}

/// The largest matrix: a gigabyte for operands and result in f32, a few milliseconds for a fast GPU.
const LARGEST: i32 = 8192;
/// What one product may take; with the smaller ones before it and the repetitions, a dtype takes at most ten of these.
const AT_MOST: Duration = Duration::from_millis(120);
const REPETITIONS: usize = 4;

/// Doubles the matrices until the next product would take too long, then measures.
pub(super) fn measure(dtype: Dtype, name: &'static str) -> Result<Rate> {
    let mut size = 128;
    loop {
        let product = Product::new(size, dtype)?;
        // The first run of a size may compile a kernel, or touch new memory.
        product.time()?;
        let took = product.time()?;
        if size < LARGEST && took * 8 < AT_MOST {
            size *= 2;
            continue;
        }
        let mut best = took;
        for _ in 0..REPETITIONS {
            best = best.min(product.time()?);
        }
        let operations = 2.0 * f64::from(size).powi(3);
        return Ok(Rate { dtype: name, size, gflops: operations / best.as_secs_f64().max(1e-9) / 1e9 });
    }
}

struct Product(Array, Array);

impl Product {
    fn new(size: i32, dtype: Dtype) -> Result<Self> {
        let make = || -> mlx_rs::error::Result<Self> {
            let key = random::key(0)?;
            let a = random::uniform::<_, f32>(-1.0f32, 1.0f32, &[size, size], &key)?.as_dtype(dtype)?;
            eval([&a])?;
            Ok(Self(a.clone(), a))
        };
        Ok(make().map_err(framework::Error::from)?)
    }

    fn time(&self) -> Result<Duration> {
        let run = || -> mlx_rs::error::Result<Duration> {
            let start = Instant::now();
            let product = ops::matmul(&self.0, &self.1)?;
            eval([&product])?;
            Ok(start.elapsed())
        };
        Ok(run().map_err(framework::Error::from)?)
    }
}

/// Which BLAS multiplies f32 matrices on the CPU: found out by multiplying two.
pub(super) fn blas() -> Result<&'static str> {
    #[cfg(target_os = "linux")]
    {
        let before = mlx_sys::blas::calls();
        mlx_rs::with_device(mlx_rs::Device::cpu(), || Product::new(32, Dtype::Float32)?.time())?;
        Ok(if mlx_sys::blas::calls() > before {
            "the gemm crate, built in"
        } else {
            "the one that came with MLX (slow)"
        })
    }
    #[cfg(not(target_os = "linux"))]
    Ok("Accelerate")
}
