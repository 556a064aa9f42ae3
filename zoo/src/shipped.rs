//! Models whose files are in the program itself: they run with no download.

use crate::{Result, cache::unusable};
use framework::Draft;
use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

/// Files by their places in the model's folder.
type Files = &'static [(&'static str, &'static [u8])];

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../", $folder, "/", $name)))),*]
    };
}

const POCKET: Files = files!("pocket/weights":
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
);

/// Writes the files of the shipped model into a folder, those that are not there as they should be, and returns the folder.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn unpack(folder: PathBuf) -> Result<PathBuf> {
    for (name, bytes) in POCKET {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|found| found == *bytes) {
            continue;
        }
        write(&path, bytes).map_err(|error| unusable(&path, &error))?;
    }
    Ok(folder)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    let mut draft = Draft::of(path)?;
    draft.file().write_all(bytes)?;
    draft.publish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_written_again_and_the_others_stay() {
        let place = tempfile::tempdir().unwrap();
        let folder = unpack(place.path().join("pocket")).unwrap();
        let damaged = folder.join("tokenizer/tokenizer.json");
        let whole = folder.join("vae/config.json");
        fs::write(&damaged, "half").unwrap();
        let before = fs::metadata(&whole).unwrap().modified().unwrap();
        unpack(folder).unwrap();
        assert!(fs::read(damaged).unwrap().len() > 1000);
        assert_eq!(fs::metadata(whole).unwrap().modified().unwrap(), before);
    }
}
