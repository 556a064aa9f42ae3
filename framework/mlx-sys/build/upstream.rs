//! Finds mlx-c's source: it travels inside the `mlx-sys` package on crates.io, which cargo fetches and verifies.

use crate::{
    cache::Cache,
    fail::{Result, run},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A manifest outside the workspace, so that the workspace's patch of `mlx-sys` does not apply to it.
const MANIFEST: &str = r#"[package]
name = "upstream"
version = "0.0.0"
edition = "2021"

[dependencies]
mlx-sys = { version = "=0.7.0", default-features = false }

[workspace]
"#;

/// The folder that holds `mlx/c/*.{h,cpp}`.
pub fn mlx_c(cache: &Cache) -> Result<PathBuf> {
    let manifest = cache
        .folder("upstream", MANIFEST, |draft| {
            let write = |file: &str, text: &str| fs::write(draft.join(file), text).map_err(|error| error.to_string());
            fs::create_dir(draft.join("src")).map_err(|error| error.to_string())?;
            write("src/lib.rs", "")?;
            write("Cargo.toml", MANIFEST)
        })?
        .join("Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = run(
        Command::new(cargo).args(["metadata", "--format-version", "1", "--manifest-path"]).arg(&manifest),
        "cargo could not fetch the package mlx-sys 0.7.0, which carries mlx-c's source; is the network up?",
    )?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mlx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list mlx-sys")?;
    let root = Path::new(package).with_file_name("src").join("mlx-c");
    if root.join("mlx/c").is_dir() { Ok(root) } else { Err(format!("{} does not hold mlx-c's source", root.display())) }
}

/// The files of `mlx/c` with one extension, in a fixed order.
pub fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let folder = root.join("mlx/c");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .map_err(|error| format!("cannot list {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    Ok(files)
}
