//! How the files of a case and its `case.json` can contradict each other.

use std::fmt;

/// A contradiction between the files of a case and its `case.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inconsistency {
    /// A file that nothing refers to.
    Stray(String),
    /// An entry of `order` of which no tensor is stored.
    Unrecorded(String),
    /// The returns of a module are not numbered 0, 1, 2 … in `order`.
    Nth {
        /// The module.
        path: String,
        /// The number that should come next.
        expected: usize,
        /// The number that does.
        found: usize,
    },
    /// A stored tensor that the entry of `order` leaves no room for.
    Outputs {
        /// The tensor.
        label: String,
        /// How many tensors `order` says there are.
        outputs: usize,
    },
    /// Element types that do not match the outputs or the files: too many, too few, of something that does not exist, or of
    /// a kind that the file does not hold.
    Dtypes(String),
    /// A call whose return value is not stored.
    NoOutput(usize),
    /// A directory of inputs or outputs for a call that `case.json` does not make.
    NoCall(String),
    /// A tensor that has no place among the arguments.
    Argument {
        /// The input file.
        file: String,
        /// Why not.
        problem: String,
    },
    /// An `ignore` entry for something that does not exist, or by a mask that does not.
    Ignore(String),
    /// A `noise` entry for something that does not exist or that is not a finite, non-negative number; or a result without one
    /// in a case that states noise.
    Noise(String),
    /// A tolerance that is not a positive, finite number.
    Tolerance,
    /// A case that calls nothing.
    NoCalls,
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stray(file) => write!(f, "{file}: nothing refers to this file"),
            Self::Unrecorded(label) => {
                write!(f, "order has {label}, of which reference/ holds no file")
            }
            Self::Nth { path, expected, found } => {
                write!(f, "order numbers a return of {path} {found} where {expected} comes next")
            }
            Self::Outputs { label, outputs } => {
                write!(f, "reference/{label}.npy: order says that there are {outputs} outputs")
            }
            Self::Dtypes(label) => {
                write!(f, "dtypes of {label}: no such tensor, not one for each output, or not what the file can hold")
            }
            Self::NoOutput(call) => {
                write!(f, "output/{call}: no return value of call {call} is stored")
            }
            Self::NoCall(dir) => write!(f, "{dir}: case.json makes no such call"),
            Self::Argument { file, problem } => write!(f, "{file}: {problem}"),
            Self::Ignore(key) => write!(f, "ignore has {key}: no such tensor, or no such mask among the inputs"),
            Self::Noise(key) => {
                write!(f, "noise of {key}: missing, of no such tensor, or not a finite number from 0 up")
            }
            Self::Tolerance => write!(f, "tolerances are positive, finite numbers"),
            Self::NoCalls => write!(f, "calls is empty"),
        }
    }
}
