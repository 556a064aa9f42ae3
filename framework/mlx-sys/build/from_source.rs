//! `MLX_BUILD_FROM_SOURCE=1`: mlx-c's own CMake project fetches and builds MLX, as upstream's build script does.

use crate::{
    cache::Cache,
    fail::{Result, run},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Returns the folder of the installation.
pub fn build(source: &Path, cache: &Cache) -> Result<PathBuf> {
    let metal = if cfg!(target_os = "macos") { "ON" } else { "OFF" };
    cache.folder("built", "cmake", |draft| {
        let work = cache.path("cmake");
        run(
            Command::new("cmake")
                .arg("-S")
                .arg(source)
                .arg("-B")
                .arg(&work)
                .args(["-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Release", "-DMLX_C_BUILD_EXAMPLES=OFF"])
                .arg(format!("-DMLX_BUILD_METAL={metal}"))
                .arg(format!("-DCMAKE_INSTALL_PREFIX={}", cache.path("built").display())),
            "cmake could not configure mlx-c; it needs cmake 3.24, Xcode's tools on a Mac, and the network",
        )?;
        run(Command::new("cmake").arg("--build").arg(&work).arg("--parallel"), "MLX did not build from source")?;
        run(
            Command::new("cmake").arg("--install").arg(&work).arg("--prefix").arg(draft),
            "MLX was built but could not be installed into the cache",
        )
        .map(drop)
    })
}

/// Tells cargo what to link.
pub fn link(installed: &Path) -> Result<()> {
    let libraries = installed.join("lib");
    println!("cargo:rustc-link-search=native={}", libraries.display());
    println!("cargo:rustc-link-lib=dylib=mlxc");
    println!("cargo:rustc-link-lib=dylib=mlx");
    println!("cargo:lib={}", libraries.display());
    println!("cargo:rpath=-Wl,-rpath,{}", libraries.display());
    Ok(())
}
