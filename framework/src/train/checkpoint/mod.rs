//! Stopping and going on.
//!
//! A **full** checkpoint is a [`State`]: going on from it is the same, bit for bit, as not having stopped. A **slim** one
//! is the weights in bf16, of the running average where there is one, as a checkpoint that any reader of safetensors
//! loads; from it training begins anew with these weights.
//!
//! Both are files of arrays under names that no earlier checkpoint has, and one small JSON file that names them, which is
//! written last: whenever writing stops, the JSON names a checkpoint that is whole.

mod full;
mod slim;

pub use full::save;
pub use slim::save_slim;

use super::{Named, State};
use crate::{
    Draft, Error, Result,
    weights::{Header, Tensors, Wanted, WeightMap, evaluate},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, fs, io::Write, path::Path};

/// How training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// As if it had not stopped, after so many steps.
    Exact {
        /// Steps made.
        step: u64,
    },
    /// Anew, with the weights of a slim checkpoint.
    Warm {
        /// After how many steps these weights were saved.
        step: u64,
    },
}

impl fmt::Display for Restart {
    /// A line for the log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Exact { step } => write!(f, "goes on after step {step} as if it had not stopped"),
            Self::Warm { step } => write!(
                f,
                "warm restart: begins anew at step 0 from bf16 weights saved after step {step}; optimiser, random key and \
                 schedules were not saved with them"
            ),
        }
    }
}

/// Reads the checkpoint of a folder, the full one if it has both. `begun` is a state as [`State::begin`] gives it, which
/// says what is expected.
///
/// # Errors
/// [`Error::Coverage`] with everything that differs when it is of another architecture, another selection of parameters,
/// or another optimiser; those of its files.
pub fn load(folder: &Path, begun: &State) -> Result<(State, Restart)> {
    if folder.join(full::INDEX).exists() { full::load(folder, begun) } else { slim::load(folder, begun) }
}

/// The arrays of a file, which must be exactly these in name, shape and kind, in the dtypes of `like`.
fn read(tensors: &dyn Tensors, like: &Named) -> Result<Named> {
    let describe = |(name, array): (&String, _)| Ok((name.clone(), Wanted::from(evaluate::info(array)?)));
    let wanted = like.iter().map(describe).collect::<Result<BTreeMap<_, _>>>()?;
    WeightMap::identity().forward(tensors.header())?.against(&wanted).map_err(Error::Coverage)?;
    let one = |(name, like): (&String, &crate::Array)| {
        let (info, bytes) = tensors.read(name)?;
        Ok((name.clone(), evaluate::from_bytes(&info, &bytes)?.as_dtype(like.dtype())?))
    };
    like.iter().map(one).collect()
}

/// The header of a file of these arrays, saved after so many steps.
fn header<'n>(arrays: impl IntoIterator<Item = (&'n String, &'n crate::Array)>, step: u64) -> Result<Header> {
    let describe = |(name, array): (&String, _)| Ok((name.clone(), evaluate::info(array)?));
    let tensors = arrays.into_iter().map(describe).collect::<Result<_>>()?;
    Ok(Header {
        tensors,
        metadata: BTreeMap::from([("format".into(), "mlx".into()), ("step".into(), step.to_string())]),
    })
}

/// Puts a JSON file in its place, whole.
fn publish(path: &Path, index: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(index).map_err(|error| Error::file(path, error.to_string()))?;
    let write = || {
        let mut draft = Draft::of(path)?;
        draft.file().write_all(&text)?;
        draft.publish()
    };
    write().map_err(|error| Error::io(path, error))
}

/// Removes files of an earlier checkpoint.
fn remove<'n>(folder: &Path, names: impl IntoIterator<Item = &'n String>) {
    for name in names {
        // One that stays is no harm: nothing names it any more.
        let _ = fs::remove_file(folder.join(name));
    }
}
