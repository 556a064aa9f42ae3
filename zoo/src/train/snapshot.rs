//! Folders of models that were trained here.

use crate::{Error, Result, text::read_json};
use framework::{
    Module,
    weights::{self, WeightMap},
};
use serde_json::Value;
use std::{fs, io, path::Path};

/// The file of a component's weights.
const WEIGHTS: &str = "model.safetensors";

/// Writes a component: its config as it is in a file, and its weights by the model's own paths.
pub(super) fn component(folder: &Path, config: &Path, model: &dyn Module) -> Result<()> {
    made(folder)?;
    copied(config, &folder.join("config.json"))?;
    let own = WeightMap::default().rename("{p:*}", "{p:*}");
    Ok(weights::save(model, &own, None, &folder.join(WEIGHTS))?)
}

/// Copies the files of a component.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    made(to)?;
    let refused = |error: io::Error| Error::file(from, error.to_string());
    for entry in fs::read_dir(from).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            copied(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Reads the config of a model that is to be trained.
pub(super) fn config(path: &Path) -> Result<Value> {
    let found = read_json(path)?;
    found.ok_or_else(|| Error::file(path, "no such file; the recipe names it, and its paths begin at the recipe"))
}

/// Writes JSON.
pub(super) fn json(path: &Path, value: &Value) -> Result<()> {
    made(path.parent().unwrap_or(Path::new("")))?;
    fs::write(path, format!("{value:#}\n")).map_err(|error| Error::file(path, error.to_string()))
}

/// Makes a folder.
pub(super) fn made(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Error::file(folder, error.to_string()))
}

fn copied(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(|_| ()).map_err(|error| Error::file(from, error.to_string()))
}
