//! Checkpoints of the weights alone.

use super::{Restart, header, publish, read, remove};
use crate::{
    Array, Dtype, Error, Result,
    train::{Named, State},
    weights::{Source, Tensors, evaluate::to_bytes, safetensors},
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The file that names the parts, as Hugging Face does.
const INDEX: &str = "model.safetensors.index.json";

#[derive(Serialize, Deserialize)]
struct Index {
    metadata: BTreeMap<String, serde_json::Value>,
    /// The part of every tensor.
    weight_map: BTreeMap<String, String>,
}

/// Saves the running average, or the parameters without one, in bf16, in files of at most `part` bytes; the slim
/// checkpoint that the folder had is removed when the new one is whole.
///
/// # Errors
/// When a tensor alone is larger than a part; when the folder cannot be written. What was there stays.
pub fn save_slim(folder: &Path, state: &State, part: u64) -> Result<()> {
    let before: BTreeSet<String> = names(folder);
    let narrow = |(path, value): (&String, &Array)| Ok((path.clone(), value.as_dtype(Dtype::Bfloat16)?));
    let weights = state.weights().iter().map(narrow).collect::<Result<Named>>()?;
    let parts = parts(&weights, part)?;
    let name = |place: usize| {
        format!("model-step{}-{:05}-of-{:05}.safetensors", state.step, place.saturating_add(1), parts.len())
    };
    let mut weight_map = BTreeMap::new();
    for (place, part) in parts.iter().enumerate() {
        let missing = |path: &str| Error::argument(path, "is not in this part");
        let header = header(part.iter().map(|(path, value)| (*path, *value)), state.step)?;
        safetensors::stream(&folder.join(name(place)), &header, |path| {
            let path = path.to_owned();
            Ok(Cow::Owned(to_bytes(part.get(&path).ok_or_else(|| missing(&path))?)?.1))
        })?;
        weight_map.extend(part.keys().map(|path| ((*path).clone(), name(place))));
    }
    let bytes: usize = weights.values().map(Array::nbytes).sum();
    let metadata = BTreeMap::from([("total_size".into(), bytes.into()), ("step".into(), state.step.into())]);
    let now: BTreeSet<String> = weight_map.values().cloned().collect();
    publish(&folder.join(INDEX), &Index { metadata, weight_map })?;
    remove(folder, before.difference(&now));
    Ok(())
}

/// The files of the slim checkpoint that a folder has.
fn names(folder: &Path) -> BTreeSet<String> {
    let index = fs::read(folder.join(INDEX)).ok().and_then(|text| serde_json::from_slice::<Index>(&text).ok());
    let names = index.into_iter().flat_map(|index| index.weight_map.into_values());
    names.filter(|name| name.starts_with("model-step") && !name.contains(['/', '\\'])).collect()
}

/// The arrays in order, in groups whose files are no longer than `most` bytes.
fn parts(weights: &Named, most: u64) -> Result<Vec<BTreeMap<&String, &Array>>> {
    /// More than what a header takes beside its tensors.
    const HEADER: u64 = 128;
    /// More than what a tensor takes in a header beside its name.
    const ENTRY: u64 = 192;
    let mut parts: Vec<BTreeMap<&String, &Array>> = Vec::new();
    let mut left = 0;
    for (path, value) in weights {
        let bytes = (value.nbytes() as u64).saturating_add(path.len() as u64 * 2).saturating_add(ENTRY);
        let alone = bytes.saturating_add(HEADER);
        if alone > most {
            let problem = format!("parts of {most} bytes have no room for `{path}`, which takes {alone}; allow more");
            return Err(Error::argument("part", problem));
        }
        match parts.last_mut() {
            Some(last) if bytes <= left => {
                last.insert(path, value);
            }
            _ => {
                parts.push(BTreeMap::from([(path, value)]));
                left = most.saturating_sub(HEADER);
            }
        }
        left = left.saturating_sub(bytes);
    }
    Ok(parts)
}

pub(super) fn load(folder: &Path, begun: &State) -> Result<(State, Restart)> {
    let source = Source::open(folder)?;
    let step = source.header().metadata.get("step").and_then(|step| step.parse().ok());
    let step = step.ok_or_else(|| Error::file(folder, "holds weights, but no checkpoint of a training"))?;
    let params = read(&source, &begun.params)?;
    let average = if begun.average.is_empty() { Named::new() } else { params.clone() };
    let state = State { params, average, ..begun.clone() };
    state.settle()?;
    Ok((state, Restart::Warm { step }))
}
