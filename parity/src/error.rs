//! What can go wrong outside the numbers: a file that cannot be read, a case that contradicts itself, a subject that refuses.

use std::fmt;
use std::path::PathBuf;

use crate::case::Inconsistency;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the harness. A number out of tolerance is never an error: it is a row of the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file exists but is malformed or unusable.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A `case.json` has keys that the format does not know.
    #[error("{}: unknown keys: {}", file.display(), keys.join(", "))]
    UnknownKeys {
        /// The `case.json`.
        file: PathBuf,
        /// Every unknown top-level key.
        keys: Vec<String>,
    },
    /// A case is written in another version of the format.
    #[error("{}: format {found}; this crate reads format {}", file.display(), crate::case::FORMAT)]
    Format {
        /// The `case.json`.
        file: PathBuf,
        /// The version it states.
        found: u64,
    },
    /// The files of a case and its `case.json` contradict each other; all contradictions at once.
    #[error("{}: the case contradicts itself{}", dir.display(), lines(problems))]
    Inconsistent {
        /// The directory of the case.
        dir: PathBuf,
        /// Every contradiction.
        problems: Vec<Inconsistency>,
    },
    /// Tensors whose shapes or element types do not go together.
    #[error("{0}")]
    Tensor(String),
    /// No case below a directory that was asked for.
    #[error("{}: no case.json here or below", .0.display())]
    NoCases(PathBuf),
    /// Two registered families claim the same reference class.
    #[error("{class} is claimed by {count} families; register one")]
    Ambiguous {
        /// The reference class.
        class: String,
        /// How many families answer to it.
        count: usize,
    },
    /// A fault that cannot be put into this case.
    #[error("fault `{fault}`: {problem}")]
    Fault {
        /// The fault's name.
        fault: String,
        /// Why it cannot be injected, or what the report said instead.
        problem: String,
    },
    /// The model under test refused to be built or to run.
    #[error(transparent)]
    Subject(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// A malformed or unusable file.
    pub fn file(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into() }
    }

    /// An error of the operating system on a file.
    pub fn io(file: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { file: file.into(), source }
    }

    /// An error of the model under test.
    pub fn subject(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Subject(error.into())
    }
}

fn lines(problems: &[impl fmt::Display]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
