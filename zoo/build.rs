//! Lets the binary find `libmlx` by itself (see `framework/mlx-sys`), and embeds the configs and headers of the published
//! models that are one checkpoint.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(argument) = env::var("DEP_MLX_RPATH") {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    // At run time: a checkout may have moved since this was built.
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let headers = package.join("../fixtures/headers");
    let mut rows = Vec::new();
    for row in fs::read_dir(package.join("models"))? {
        let id = row?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let header = headers.join(format!("{id}.json"));
        if header.exists() {
            rows.push(format!("({id:?}, include_str!({header:?}))"));
        }
    }
    rows.sort();
    for folder in [package.join("models"), headers] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("headers.rs"), format!("&[{}]", rows.join(", ")))?;
    Ok(())
}
