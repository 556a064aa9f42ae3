//! The folder in which inputs are laid before readers, with the valid files that belong beside them.

use crate::seeds::{self, Family};
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A folder for each target; gone when this is dropped.
pub struct Bench {
    folder: TempDir,
    /// The families whose configs are tried, each with a folder that holds weights.
    pub(crate) families: Vec<Family>,
}

impl Bench {
    /// Lays everything out.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be written, or the fixtures cannot be read.
    pub fn new() -> io::Result<Self> {
        let bench = Self { folder: tempfile::tempdir()?, families: seeds::families()? };
        for family in &bench.families {
            bench.copy(&family.case.join("weights.safetensors"), &format!("{}/model.safetensors", family.class))?;
        }
        for name in ["tokenizer", "tokenizer-config"] {
            bench.put(&format!("{name}/tokenizer.json"), &seeds::tokenizer()?)?;
        }
        bench.copy_all(&seeds::fixture(seeds::CASE), Path::new("case"))?;
        for (name, bytes) in seeds::shards() {
            bench.put(&format!("index/{name}"), &bytes)?;
        }
        Ok(bench)
    }

    /// The place of that name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file. One that is there is overwritten in place: some file systems flush one that was emptied, every time.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path(name);
        let open = || fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = match (open(), path.parent()) {
            (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                open()?
            }
            (file, _) => file?,
        };
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        Ok(path)
    }

    fn copy(&self, from: &Path, to: &str) -> io::Result<()> {
        self.put(to, &fs::read(from)?).map(drop)
    }

    fn copy_all(&self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            let to = to.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                self.copy_all(&path, &to)?;
            } else {
                self.copy(&path, &to.to_string_lossy())?;
            }
        }
        Ok(())
    }
}
