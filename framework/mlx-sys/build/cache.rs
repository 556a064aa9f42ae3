//! The folder that keeps wheels, objects and bindings between profiles, under cargo's target directory.

use crate::fail::Result;
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

pub const MLX_VERSION: &str = "0.32.2";

pub struct Cache {
    root: PathBuf,
    name: String,
    /// Held while the build script runs: a debug and a release build may run at the same time.
    _lock: File,
}

impl Cache {
    pub fn open(backend: &str) -> Result<Self> {
        let name = format!("mlx-{MLX_VERSION}-{backend}");
        let root = target_directory()?.join(&name);
        let problem = |error| format!("cannot use the build cache {}: {error}", root.display());
        fs::create_dir_all(&root).map_err(problem)?;
        let lock = File::create(root.join(".lock")).map_err(problem)?;
        lock.lock().map_err(problem)?;
        Ok(Self { root, name, _lock: lock })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self, entry: &str) -> PathBuf {
        self.root.join(entry)
    }

    /// Returns the folder `entry`, made by `make` unless an earlier build made it from the same `key`.
    /// The folder is filled beside its place and renamed, so that an interrupted build leaves nothing half-made.
    pub fn folder(&self, entry: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.path(entry);
        let stamp = self.path(&format!("{entry}.key"));
        if place.is_dir() && fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == key) {
            return Ok(place);
        }
        let draft = self.path(&format!("{entry}.partial"));
        let problem = |error: std::io::Error| format!("cannot write {}: {error}", place.display());
        for old in [&draft, &place] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(problem)?;
            }
        }
        fs::create_dir_all(&draft).map_err(problem)?;
        make(&draft)?;
        fs::rename(&draft, &place).map_err(problem)?;
        fs::write(&stamp, key).map_err(problem)?;
        Ok(place)
    }
}

/// Cargo marks the root of its target directory with `CACHEDIR.TAG`.
fn target_directory() -> Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let tagged = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    Ok(tagged.or(out.ancestors().nth(4)).unwrap_or(&out).to_path_buf())
}

/// A key for [`Cache::folder`] that changes with the content of every file.
pub fn fingerprint(files: &[PathBuf]) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let content = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        for byte in content {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
