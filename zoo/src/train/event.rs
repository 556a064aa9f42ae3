//! What a training tells whoever watches.

use crate::data::Skipped;
use framework::train::checkpoint::Restart;
use std::{ops::ControlFlow, path::Path, time::Duration};

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// A line of the data's `metadata.jsonl` that gave no picture.
    Skipped(&'a Skipped),
    /// Something that is computed before the first step.
    Preparing {
        /// What.
        stage: &'static str,
        /// How many are done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Something worth a line.
    Note(&'a str),
    /// It goes on from a checkpoint.
    Restarted(Restart),
    /// A step was made.
    Step(&'a Entry),
    /// A file or folder was written.
    Wrote {
        /// What it is: checkpoint, snapshot, samples, curve.
        what: &'static str,
        /// Where.
        path: &'a Path,
    },
}

/// A line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Its number; the first is 1.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// The norm of the gradient before it was clipped.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// How long it took.
    pub seconds: f64,
    /// The parts of the loss, by name.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub parts: serde_json::Map<String, serde_json::Value>,
}

/// Watches a training; to break is to stop after a checkpoint.
pub type TrainObserver<'a> = dyn FnMut(&TrainEvent<'_>) -> ControlFlow<()> + 'a;

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// All steps of the recipe were made.
    Whole {
        /// How many.
        steps: u64,
    },
    /// The time was up, or whoever watches broke off; the same call goes on.
    Early {
        /// Steps made.
        steps: u64,
        /// Of so many.
        of: u64,
    },
}

/// How long a training may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Time from the call to its return, the last checkpoint included; none is no limit.
    pub time: Option<Duration>,
    /// The number of steps to stop after, if that is before the recipe's.
    pub steps: Option<u64>,
}
