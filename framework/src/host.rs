//! What a Linux CPU computes with kernels of ours, in f32: MLX's own run on one thread there, and take a number at a time
//! through what has exponentials. All else is left to MLX, and so are derivatives.

#[cfg(target_os = "linux")]
mod activation;
#[cfg(target_os = "linux")]
mod attention;
#[cfg(all(test, target_os = "linux"))]
mod derivatives;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod primitive;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{activate, attend};
#[cfg(target_os = "linux")]
pub(crate) use {activation::activate, attention::attend};
