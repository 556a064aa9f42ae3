//! Which build of MLX to link.

use crate::{
    cache::MLX_VERSION,
    fail::Result,
    wheel::{self, Wheel},
};
use std::env;

#[derive(Clone, Copy)]
pub enum Backend {
    Cpu,
    Cuda12,
    Cuda13,
    Metal,
}

impl Backend {
    pub fn from_environment() -> Result<Self> {
        let target = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
        match (target.as_str(), env::var("MLX_BACKEND").as_deref()) {
            ("macos", Ok("metal") | Err(_)) => Ok(Self::Metal),
            ("linux", Ok("cpu") | Err(_)) => Ok(Self::Cpu),
            ("linux", Ok("cuda12")) => Ok(Self::Cuda12),
            ("linux", Ok("cuda13")) => Ok(Self::Cuda13),
            ("linux" | "macos", Ok(other)) => Err(format!(
                "MLX_BACKEND={other} is not known on {target}: use cpu, cuda12 or cuda13 on Linux, metal on a Mac"
            )),
            _ => Err(format!("MLX has no build for {target}: Linux and macOS are supported")),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda12 => "cuda12",
            Self::Cuda13 => "cuda13",
            Self::Metal => "metal",
        }
    }

    /// The wheel that carries MLX's library and headers for this backend.
    pub fn wheel(self) -> Result<Wheel> {
        let package = match self {
            Self::Cpu => "mlx-cpu",
            Self::Cuda12 => "mlx-cuda-12",
            Self::Cuda13 => "mlx-cuda-13",
            Self::Metal => "mlx-metal",
        };
        wheel::pinned("wheel", package, MLX_VERSION)
    }
}
