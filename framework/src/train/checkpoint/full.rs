//! Checkpoints to go on from exactly.

use super::{Restart, header, publish, read, remove};
use crate::{
    Error, Result,
    train::State,
    weights::{evaluate::to_bytes, safetensors},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fs, path::Path};

/// The file that names the newest checkpoint.
pub(super) const INDEX: &str = "checkpoint.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    format: u32,
    /// How many steps were made.
    step: u64,
    /// The file of arrays beside it.
    state: String,
}

/// The version of the format.
const FORMAT: u32 = 1;

/// Saves everything that training changes; the full checkpoint that the folder had is removed when the new one is whole.
///
/// # Errors
/// When the folder cannot be written; what was there stays.
pub fn save(folder: &Path, state: &State) -> Result<()> {
    let before = index(folder).ok();
    let leaves = state.leaves();
    let name = format!("checkpoint-{:08}.safetensors", state.step);
    let missing = |leaf: &str| Error::argument(leaf, "is not in the state");
    safetensors::stream(&folder.join(&name), &header(&leaves, state.step)?, |leaf| {
        Ok(Cow::Owned(to_bytes(leaves.get(leaf).ok_or_else(|| missing(leaf))?)?.1))
    })?;
    publish(&folder.join(INDEX), &Index { format: FORMAT, step: state.step, state: name.clone() })?;
    remove(folder, before.map(|index| index.state).iter().filter(|state| **state != name));
    Ok(())
}

fn index(folder: &Path) -> Result<Index> {
    let path = folder.join(INDEX);
    let text = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| Error::file(&path, format!("is no checkpoint: {error}; restore it, or begin anew")))?;
    let plain = index.state.starts_with("checkpoint-") && !index.state.contains(['/', '\\']);
    if index.format != FORMAT || !plain {
        let problem = format!("has the format {} and names {:?}; format {FORMAT} is read", index.format, index.state);
        return Err(Error::file(path, problem));
    }
    Ok(index)
}

pub(super) fn load(folder: &Path, begun: &State) -> Result<(State, Restart)> {
    let Index { step, state, .. } = index(folder)?;
    let file = safetensors::File::open(&folder.join(state))?;
    let state = begun.with_leaves(read(&file, &begun.leaves())?, step)?;
    state.settle()?;
    Ok((state, Restart::Exact { step }))
}
