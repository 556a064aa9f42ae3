//! What can go wrong between a person's wish and a model's answer.

use crate::doctor::Bytes;
use framework::{Array, math};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one error type of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model itself, its weights or its files.
    #[error(transparent)]
    Framework(framework::Error),
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
    /// A malformed or unusable file.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A value that is out of its range, and what would be right.
    #[error("`{name}`: {problem}")]
    Argument {
        /// The option's or field's name.
        name: String,
        /// What is wrong with the value, and what would be right.
        problem: String,
    },
    /// A chat template that cannot be rendered.
    #[error("chat template: {0}")]
    Template(String),
    /// Text that cannot be tokenised, or a tokenizer that cannot be built.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// An id that no model has.
    #[error(
        "no model is called `{id}`{}; `zoo models` lists them{}",
        near(nearest.as_deref()),
        if *takes_paths { ", and a path to a snapshot or a .gguf file works too" } else { "" }
    )]
    UnknownModel {
        /// What was asked for.
        id: String,
        /// The most similar id.
        nearest: Option<String>,
        /// Whether a path would have done as well.
        takes_paths: bool,
    },
    /// A model whose files are not here. Generating never downloads.
    #[error("`{id}` is not on this machine; fetch it with `zoo fetch {id}` ({megabytes} MB, {licence})")]
    NotFetched {
        /// The model.
        id: String,
        /// The size of the download.
        megabytes: u64,
        /// Its licence.
        licence: String,
    },
    /// A repository of the Hugging Face Hub that is not here, or that does not come.
    #[error("{name}: {problem}")]
    Hub {
        /// What was asked for.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file that no family, or more than one, understands.
    #[error("{}: {problem}", file.display())]
    Unrecognised {
        /// The file or snapshot.
        file: PathBuf,
        /// What was tried and why it did not fit.
        problem: String,
    },
    /// What is wrong with a file or a snapshot, by an error that does not name it.
    #[error("{}: {source}", file.display())]
    About {
        /// The file or snapshot.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// What would need more memory than there is; found before any weight is read.
    #[error("`{component}` needs about {needed} to {task}, and {available} may be used; {advice}")]
    Memory {
        /// The component whose part needs most.
        component: &'static str,
        /// What it does.
        task: &'static str,
        /// Bytes at once.
        needed: Bytes,
        /// Bytes that may be used.
        available: Bytes,
        /// What to change.
        advice: &'static str,
    },
    /// A program that this one needs failed.
    #[error("{program}: {problem}")]
    Program {
        /// What was run.
        program: String,
        /// What it said.
        problem: String,
    },
    /// Output that could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// Whoever watched asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A question after a name that nobody knows.
pub(crate) fn near(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

impl From<framework::Error> for Error {
    fn from(error: framework::Error) -> Self {
        match error {
            framework::Error::Cancelled => Self::Cancelled,
            other => Self::Framework(other),
        }
    }
}

/// Checks the end of a stage.
///
/// # Errors
/// When there is a NaN or an infinity.
pub(crate) fn finite(x: &Array, stage: &str) -> Result<()> {
    if math::is_finite(x)? { Ok(()) } else { Err(framework::Error::NotFinite { stage: stage.into() }.into()) }
}

/// What an observer's answer means for the work that it watches.
pub(crate) fn go_on(flow: ControlFlow<()>) -> framework::Result<()> {
    if flow.is_break() { Err(framework::Error::Cancelled) } else { Ok(()) }
}

impl Error {
    /// A malformed or unusable file.
    pub fn file(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into() }
    }

    /// That a path would have done as well, where a model's name is not known.
    #[must_use]
    pub(crate) fn or_a_path(self) -> Self {
        match self {
            Self::UnknownModel { id, nearest, .. } => Self::UnknownModel { id, nearest, takes_paths: true },
            other => other,
        }
    }

    /// Names the file that an error is about, unless it does so itself.
    #[must_use]
    pub fn about(self, file: &Path) -> Self {
        use framework::Error as Inner;
        match self {
            Self::Framework(Inner::File { .. } | Inner::Io { .. })
            | Self::File { .. }
            | Self::About { .. }
            | Self::Unrecognised { .. }
            | Self::Cancelled => self,
            other => Self::About { file: file.to_owned(), source: Box::new(other) },
        }
    }

    /// A value out of its range.
    pub fn argument(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), problem: problem.into() }
    }

    /// A chat template that cannot be rendered.
    pub fn template(problem: impl Into<String>) -> Self {
        Self::Template(problem.into())
    }

    /// A tokenizer that cannot be built or used.
    pub fn tokenizer(problem: impl Into<String>) -> Self {
        Self::Tokenizer(problem.into())
    }
}
