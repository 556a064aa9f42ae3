//! Bindings to mlx-c 0.7.0, and on Linux the few symbols that MLX or mlx-rs expect from the platform, and work of our
//! own on the CPU.
//!
//! Takes the place of the crate of the same name and version, whose build script knows macOS only.
#![allow(
    missing_docs,
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    unsafe_op_in_unsafe_fn,
    clippy::all
)]

#[cfg(target_os = "linux")]
pub mod blas;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
pub mod host;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
