//! Packing the weights of a snapshot, and saving it as MLX's tools do.

use crate::{
    Checkpoint, Error, MODELS, OpenOptions, Result, open::own_dtype, quantization::Packing, registry, text::read_json,
};
use framework::{
    Draft, Embedding, LeafMut, Linear, Weight,
    weights::{Config, Packed, Progress, Source, Tensors, save},
};
use serde_json::{Map, Value};
use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

/// What becomes of a snapshot's matrices: `bits` bits an element, and a scale and a bias for each `group` elements of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantise {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
    /// 32, 64 or 128.
    pub group: i32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantised {
    /// Matrices that are packed.
    pub packed: usize,
    /// Matrices whose rows are no multiple of the group, which stay dense.
    pub dense: Vec<String>,
    /// Bytes of the weights before.
    pub before: u64,
    /// Bytes of the weights now.
    pub after: u64,
}

/// The file that holds the weights.
const WEIGHTS: &str = "model.safetensors";

/// Endings of the small files that belong to a snapshot: tokenizers, templates, settings, maps of names.
const SMALL: [&str; 5] = ["json", "jinja", "txt", "model", "toml"];

impl Quantise {
    /// Checks both numbers.
    ///
    /// # Errors
    /// Names the one that MLX does not have.
    pub fn validate(self) -> Result<()> {
        let known = |name: &str, value: i32, all: &[i32]| match all.contains(&value) {
            true => Ok(()),
            false => Err(Error::argument(name, format!("{value} is none of {all:?}, which MLX has"))),
        };
        known("bits", self.bits, &[2, 3, 4, 5, 6, 8])?;
        known("group_size", self.group, &[32, 64, 128])
    }

    /// Packs every linear layer and embedding of the snapshot in a folder, and writes it into another, which exists and is
    /// empty: weights under upstream's names, a config that says how they are packed, and the small files beside them. Both
    /// `zoo` and mlx-lm read the result. The config comes last, so that what is not whole is not taken for a snapshot.
    ///
    /// # Errors
    /// When the snapshot cannot be opened, is packed already, or has nothing that can be; when the folder cannot be written;
    /// [`Error::Cancelled`] when `progress` breaks.
    pub fn snapshot(self, model: &Path, out: &Path, progress: &mut Progress<'_>) -> Result<Quantised> {
        self.validate()?;
        let source = Source::open(model)?;
        let config = json_of(&source)?;
        if source.header().tensors.keys().any(|name| name.ends_with(".scales")) {
            let problem = "is packed already, and packing twice would lose more; begin with the dense model";
            return Err(Error::file(model, problem));
        }
        let checkpoint = Checkpoint::of(&source)?;
        let entry = registry::of(MODELS, &checkpoint, source.path())?;
        let options = OpenOptions { dtype: own_dtype(source.header()), packed: Packed::Keep };
        let mut opened = entry.open(&checkpoint, options, progress).map_err(|error| error.about(source.path()))?;
        let mut result = Quantised { packed: 0, dense: Vec::new(), before: source.header().bytes(), after: 0 };
        let mut outcome = Ok(());
        framework::walk_mut(opened.module_mut(), &mut |path, leaf| {
            let (LeafMut::Linear(Linear { weight, .. }) | LeafMut::Embedding(Embedding { weight })) = leaf else {
                return;
            };
            if outcome.is_ok() {
                outcome = self.pack(path, weight, &mut result);
            }
        });
        outcome?;
        if result.packed == 0 {
            let problem = format!("has no matrix whose rows are a multiple of {}; choose smaller groups", self.group);
            return Err(Error::file(model, problem));
        }
        let weights = out.join(WEIGHTS);
        save(opened.module(), opened.map(), Some(source.header()), &weights)?;
        result.after = Source::open(&weights)?.header().bytes();
        for file in small_files(source.directory())? {
            copy(&source.directory().join(&file), &out.join(&file))?;
        }
        self.write_config(config, &out.join("config.json"))?;
        Ok(result)
    }

    fn pack(self, path: &str, weight: &mut Weight, result: &mut Quantised) -> Result<()> {
        let columns = weight.shape().last().copied().unwrap_or_default();
        if columns.checked_rem(self.group) != Some(0) {
            result.dense.push(path.to_owned());
            return Ok(());
        }
        weight.quantise(self.group, self.bits)?;
        if let Weight::Affine(packed) = weight {
            // Now, so that the dense matrix goes before the next one is packed.
            mlx_rs::transforms::eval([&packed.weight.get(), &packed.scales.get(), &packed.biases.get()])?;
        }
        result.packed = result.packed.saturating_add(1);
        Ok(())
    }

    fn write_config(self, mut config: Map<String, Value>, path: &Path) -> Result<()> {
        let number = |value: i32| u64::try_from(value).unwrap_or_default();
        Packing { bits: number(self.bits), group: number(self.group) }.write(&mut config);
        let text = serde_json::to_vec_pretty(&config).map_err(|error| Error::file(path, error.to_string()))?;
        publish(path, &text)
    }
}

/// The config of a snapshot.
fn json_of(source: &Source) -> Result<Map<String, Value>> {
    let none = "has no config.json beside its weights, so it cannot be saved as a snapshot; name a snapshot's folder";
    let Config::Json(_) = source.config()? else { return Err(Error::file(source.path(), none)) };
    let path = source.directory().join("config.json");
    read_json(&path)?.ok_or_else(|| Error::file(path, none))
}

/// What lies beside the weights, and in folders of templates, other than configs and indices of weights.
fn small_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["", "additional_chat_templates"] {
        let unread = |error: io::Error| Error::file(directory.join(folder), error.to_string());
        let entries = match fs::read_dir(directory.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(unread)?,
        };
        for entry in entries {
            let path = entry.map_err(unread)?.path();
            let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            let weights = name.ends_with(".safetensors.index.json");
            if path.is_file() && SMALL.contains(&ending) && name != "config.json" && !weights {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).map_err(|error| Error::file(from, error.to_string()))?;
    publish(to, &content)
}

fn publish(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut draft = Draft::of(path)?;
        draft.file().write_all(content)?;
        draft.publish()
    };
    write().map_err(|error| {
        Error::file(path, format!("cannot be written: {error}; free some space or name another place"))
    })
}
