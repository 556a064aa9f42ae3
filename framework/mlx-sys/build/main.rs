//! Builds the bindings to MLX from nothing but cargo, a C++20 compiler and Python with pip: mlx-c's source comes with
//! the `mlx-sys` package on crates.io, MLX itself and libclang come as Python wheels with pinned checksums.

mod backend;
mod bindings;
mod cache;
mod compile;
mod fail;
mod from_source;
mod upstream;
mod wheel;

use backend::Backend;
use cache::Cache;
use fail::Result;
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

fn main() {
    for variable in ["MLX_BACKEND", "MLX_BUILD_FROM_SOURCE", "LIBCLANG_PATH", "PYTHON", "CXX"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    for place in ["build", "include", "src/host/primitive.cpp"] {
        println!("cargo:rerun-if-changed={place}");
    }
    if let Err(problem) = build() {
        println!("cargo::error={problem}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let from_source = env::var_os("MLX_BUILD_FROM_SOURCE").is_some_and(|v| v == "1");
    let backend = Backend::from_environment()?;
    let cache = Cache::open(if from_source { "source" } else { backend.name() })?;
    let source = upstream::mlx_c(&cache)?;
    bindings::generate(&source, &cache)?;
    if from_source {
        let installed = from_source::build(&source, &cache)?;
        link_host(&source, &installed.join("include"), &cache)?;
        return from_source::link(&installed);
    }
    let wheel = wheel::install(backend.wheel()?, &cache)?;
    let headers = wheel.join("mlx/include");
    link_host(&source, &headers, &cache)?;
    let archive = compile::mlx_c(&source, &headers, &cache)?;
    link(&archive, &wheel, &cache)
}

/// Primitives of our own stand before mlx-c and MLX on the linker's line, which they use.
fn link_host(source: &Path, headers: &Path, cache: &Cache) -> Result<()> {
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|target| target == "linux") {
        println!("cargo:rustc-link-search=native={}", compile::host(source, headers, cache)?.display());
        println!("cargo:rustc-link-lib=static=mlxhost");
    }
    Ok(())
}

/// Tells cargo what to link, and dependents (as `DEP_MLX_LIB` and `DEP_MLX_RPATH`) where `libmlx` is.
fn link(archive: &Path, wheel: &Path, cache: &Cache) -> Result<()> {
    let libraries = wheel.join("mlx/lib");
    // `cargo run` and `cargo test` put a folder on the loader's path if it lies below OUT_DIR, so show it there.
    let shown = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("wheel");
    if shown.read_link().is_ok() {
        fs::remove_file(&shown).map_err(|error| format!("cannot replace {}: {error}", shown.display()))?;
    }
    symlink(wheel, &shown).map_err(|error| format!("cannot link {}: {error}", shown.display()))?;
    println!("cargo:rustc-link-search=native={}", archive.display());
    println!("cargo:rustc-link-lib=static=mlxc");
    println!("cargo:rustc-link-search=native={}", shown.join("mlx/lib").display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    println!("cargo:lib={}", libraries.display());
    let standard_library = if cfg!(target_os = "macos") { "c++" } else { "stdc++" };
    println!("cargo:rustc-link-lib={standard_library}");
    println!("cargo:rpath={}", rpath(&libraries, cache));
    Ok(())
}

/// The linker's argument that lets a binary find `libmlx` by itself, beside the build or where it was built.
/// It is a RUNPATH: DT_RPATH would win over LD_LIBRARY_PATH, which chooses the CUDA build at run time.
fn rpath(libraries: &Path, cache: &Cache) -> String {
    let place = libraries.display();
    if cfg!(target_os = "macos") {
        return format!("-Wl,-rpath,{place}");
    }
    format!("-Wl,--enable-new-dtags,-rpath,$ORIGIN/../{}/wheel/mlx/lib:{place}", cache.name())
}
