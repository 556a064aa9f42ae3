//! Generates the Rust declarations of mlx-c's functions.

use crate::{
    cache::{Cache, fingerprint},
    fail::Result,
    upstream, wheel,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Writes `bindings.rs` into `OUT_DIR`.
pub fn generate(source: &Path, cache: &Cache) -> Result<()> {
    let headers = upstream::files(source, "h")?;
    let half = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/half.h");
    let key = fingerprint(&[&headers[..], std::slice::from_ref(&half)].concat())?;
    let made = cache.folder("bindings", &key, |draft| {
        if env::var_os("LIBCLANG_PATH").is_none() {
            let libclang = libclang(cache)?;
            // SAFETY: the build script runs this on its only thread.
            unsafe { env::set_var("LIBCLANG_PATH", libclang) };
        }
        let mut builder = bindgen::Builder::default()
            .clang_arg(format!("-I{}", source.display()))
            .clang_args(compiler_include().map(|folder| format!("-I{folder}")))
            .blocklist_function("malloc")
            .blocklist_function("realloc")
            .formatter(bindgen::Formatter::None);
        if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            builder = builder.clang_args(["-include".into(), half.display().to_string()]);
        }
        let bindings = headers
            .iter()
            .fold(builder, |builder, header| builder.header(header.to_string_lossy()))
            .generate()
            .map_err(|error| format!("bindgen could not read mlx-c's headers: {error}"))?;
        bindings.write_to_file(draft.join("bindings.rs")).map_err(|error| format!("cannot write the bindings: {error}"))
    })?;
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    fs::copy(made.join("bindings.rs"), &out)
        .map(drop)
        .map_err(|error| format!("cannot write {}: {error}", out.display()))
}

/// The folder of the libclang that the wheel carries; its place inside differs between platforms.
fn libclang(cache: &Cache) -> Result<PathBuf> {
    let wheel = wheel::install(wheel::pinned("libclang", "libclang", "18.1.1")?, cache)?;
    let direct = wheel.join("clang/native");
    let nested = fs::read_dir(&wheel)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("platlib/clang/native")));
    nested
        .chain([direct])
        .find(|folder| folder.is_dir())
        .ok_or_else(|| format!("the libclang wheel in {} holds no library; set LIBCLANG_PATH", wheel.display()))
}

/// libclang from a wheel has no headers of its own: `stddef.h` and its like are the system compiler's.
fn compiler_include() -> Option<String> {
    let output =
        Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into())).arg("-print-file-name=include").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
