//! Compiles C++ over MLX's headers into static libraries: mlx-c, its C interface, and what is ours beside it.

use crate::{
    cache::{Cache, fingerprint},
    fail::Result,
    upstream,
};
use std::path::{Path, PathBuf};

/// Returns the folder that holds `libmlxc.a`.
pub fn mlx_c(source: &Path, headers: &Path, cache: &Cache) -> Result<PathBuf> {
    library("mlxc", &upstream::files(source, "cpp")?, source, headers, cache)
}

/// Returns the folder that holds `libmlxhost.a`: primitives of our own, on Linux.
pub fn host(source: &Path, headers: &Path, cache: &Cache) -> Result<PathBuf> {
    let primitive = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/host/primitive.cpp");
    library("mlxhost", &[primitive], source, headers, cache)
}

fn library(name: &str, sources: &[PathBuf], source: &Path, headers: &Path, cache: &Cache) -> Result<PathBuf> {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let ours = [include.join("format.h"), include.join("half.h")];
    let key = fingerprint(&[sources, &ours].concat())?;
    cache.folder(name, &key, |draft| {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++20")
            .opt_level(2)
            .debug(false)
            .warnings(false)
            .cargo_metadata(false)
            .out_dir(draft)
            .include(source)
            .include(headers)
            .files(sources);
        let force = |build: &mut cc::Build, header: &Path| {
            build.flag("-include").flag(header);
        };
        force(&mut build, &ours[0]);
        if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            force(&mut build, &ours[1]);
        }
        build.try_compile(name).map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            format!("{name} did not compile; a C++20 compiler is needed (g++ 12 or clang 15, or newer; CXX names it): {first}")
        })
    })
}
