//! What can go wrong, named so that the message says what, where and what to do.

use std::{fmt::Display, path::PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one error type of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MLX refused an operation: shapes that do not broadcast, a dtype that an operation does not take, …
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
    /// An error inside the module at `path`.
    #[error("{path}: {source}")]
    At {
        /// Module path from the root of the model, as in [`crate::walk`].
        path: String,
        /// What happened there.
        source: Box<Error>,
    },
    /// A configuration that cannot be built.
    #[error("config key `{key}`: {problem}")]
    Config {
        /// The key, dotted where it is nested.
        key: String,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },
    /// A malformed or unusable file.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong, where in the file, and what to do.
        problem: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A value that a function does not take.
    #[error("argument `{name}`: {problem}")]
    Argument {
        /// The parameter's name.
        name: String,
        /// What is wrong with the value, and what would be right.
        problem: String,
    },
    /// A rule of a weight map that cannot work on any file.
    #[error("weight map: rule `{rule}`: {problem}")]
    Rule {
        /// The rule as it is written.
        rule: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file and a model that do not cover each other; lists everything at once.
    #[error("the weights do not fit the model\n{0}")]
    Coverage(Box<crate::weights::Coverage>),
    /// Whoever watched asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// NaN or infinity where a stage ended.
    #[error("{stage}: the output holds NaN or infinity; try a wider dtype, or check the weights")]
    NotFinite {
        /// The stage that produced it.
        stage: String,
    },
}

impl Error {
    /// A configuration that cannot be built.
    pub fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into() }
    }

    /// A malformed or unusable file.
    pub fn file(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into() }
    }

    /// A refusal of the operating system.
    pub fn io(file: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { file: file.into(), source }
    }

    /// A value that a function does not take.
    pub fn argument(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), problem: problem.into() }
    }

    /// A rule of a weight map that cannot work on any file.
    pub fn rule(rule: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Rule { rule: rule.into(), problem: problem.into() }
    }

    /// Prepends path segments; [`crate::call!`] does so on the way out, and the message ends up with the full path.
    #[must_use]
    pub fn under(self, segments: &[&dyn Display]) -> Self {
        let prefix: Vec<String> = segments.iter().map(ToString::to_string).collect();
        let prefix = prefix.join(".");
        match self {
            Self::At { path, source } => Self::At { path: format!("{prefix}.{path}"), source },
            // Stopping has no place.
            Self::Cancelled => self,
            other => Self::At { path: prefix, source: Box::new(other) },
        }
    }
}
