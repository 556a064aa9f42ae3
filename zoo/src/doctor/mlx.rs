//! What MLX says about itself. `mlx-rs` has no words for these questions, so they go to the C interface.

use crate::Result;
use mlx_rs::{Device, DeviceType, memory};
use serde::Serialize;
use std::{
    ffi::{CStr, c_char, c_int},
    fs,
    path::PathBuf,
    ptr,
};

/// The engine, and the device that it computes on.
#[derive(Clone, Debug, Serialize)]
pub struct Mlx {
    /// MLX's version.
    pub version: String,
    /// The shared library that was loaded, where the system tells.
    pub library: Option<PathBuf>,
    /// What the default device is driven through.
    pub backend: Backend,
    /// The default device: `cpu 0`.
    pub device: String,
    /// What its maker calls it.
    pub device_name: Option<String>,
    /// Bytes in the device's own memory, if it has one.
    pub device_memory: Option<usize>,
}

/// What a device is driven through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The processor itself.
    Cpu,
    /// NVIDIA's CUDA.
    Cuda,
    /// Apple's Metal.
    Metal,
}

impl Backend {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::Metal => "Metal",
        }
    }
}

/// Bytes that MLX's allocator holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Allocator {
    /// In arrays.
    pub active: usize,
    /// The most that arrays ever held.
    pub peak: usize,
    /// Kept for reuse.
    pub cache: usize,
}

impl Allocator {
    pub(super) fn now() -> Result<Self> {
        let read = || -> mlx_rs::error::Result<Self> {
            Ok(Self { active: memory::active_memory()?, peak: memory::peak_memory()?, cache: memory::cache_memory()? })
        };
        Ok(read().map_err(framework::Error::from)?)
    }
}

impl Mlx {
    /// What MLX says now.
    ///
    /// # Errors
    /// When it has no default device.
    pub fn now() -> Result<Self> {
        // `mlx-rs` takes over MLX's errors in its first call; before that, MLX ends the process at an error.
        let ask = || -> mlx_rs::error::Result<(DeviceType, i32)> {
            let device = Device::try_default()?;
            Ok((device.get_type()?, device.get_index()?))
        };
        let (kind, index) = ask().map_err(framework::Error::from)?;
        let (backend, kind) = match kind {
            DeviceType::Cpu => (Backend::Cpu, "cpu"),
            DeviceType::Gpu if is(mlx_sys::mlx_metal_is_available) => (Backend::Metal, "gpu"),
            DeviceType::Gpu => (Backend::Cuda, "gpu"),
        };
        let (device_name, device_memory) = device_info();
        let device = format!("{kind} {index}");
        Ok(Self { version: version(), library: library(), backend, device, device_name, device_memory })
    }
}

fn is(ask: unsafe extern "C" fn(*mut bool) -> c_int) -> bool {
    let mut answer = false;
    let status = unsafe { ask(&mut answer) };
    status == 0 && answer
}

fn version() -> String {
    unsafe {
        let mut string = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&mut string);
        let version = if status == 0 { text(mlx_sys::mlx_string_data(string)) } else { None };
        mlx_sys::mlx_string_free(string);
        version.unwrap_or_else(|| "unknown".to_owned())
    }
}

/// # Safety
/// Null, or a string that ends with zero and lives for the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// The default device's name and the size of its memory.
fn device_info() -> (Option<String>, Option<usize>) {
    unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let mut info = mlx_sys::mlx_device_info_new();
        let status = match mlx_sys::mlx_get_default_device(&mut device) {
            0 => mlx_sys::mlx_device_info_get(&mut info, device),
            failure => failure,
        };
        let has = |key: &CStr| {
            let mut exists = false;
            status == 0 && mlx_sys::mlx_device_info_has_key(&mut exists, info, key.as_ptr()) == 0 && exists
        };
        let name = has(c"device_name").then(|| {
            let mut value = ptr::null();
            let status = mlx_sys::mlx_device_info_get_string(&mut value, info, c"device_name".as_ptr());
            if status == 0 { text(value) } else { None }
        });
        let size = |key: &CStr| {
            let mut value = 0;
            (has(key) && mlx_sys::mlx_device_info_get_size(&mut value, info, key.as_ptr()) == 0).then_some(value)
        };
        let memory = size(c"total_memory").or_else(|| size(c"memory_size"));
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        (name.flatten(), memory)
    }
}

/// On Linux the path of the `libmlx.so` that the loader chose.
fn library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find(|line| line.ends_with("/libmlx.so"))?;
    path.find('/').and_then(|start| path.get(start..)).map(PathBuf::from)
}
