//! What this workspace demands of its sources beyond the compiler and clippy.
//!
//! `cargo test -p lints` checks every rule; `cargo run -p lints` prints what was measured. Panicking calls and operators
//! on arrays are clippy's business (`clippy.toml`); [`strictness`] sees to it that nobody turns that off.

pub mod blocks;
pub mod clones;
pub mod comparators;
pub mod cost;
pub mod paths;
pub mod sizes;
pub mod source;
pub mod strictness;

use std::fmt;

/// What went wrong while reading the workspace.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result of reading the workspace.
pub type Result<T> = std::result::Result<T, Error>;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the workspace's root.
    pub file: String,
    /// Counted from 1; 0 means the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Finding {
    /// A finding at a line.
    pub fn new(file: &str, line: usize, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, problem: problem.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

/// What a rule found: a line of measurement for the reader, and the places that break it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What was measured.
    pub measured: Vec<String>,
    /// What breaks the rule.
    pub findings: Vec<Finding>,
}

/// A rule over the whole workspace.
pub type Rule = fn(&source::Workspace) -> Result<Verdict>;

/// Every rule with its name.
pub const RULES: &[(&str, Rule)] = &[
    ("blocks: one definition each, in framework", blocks::check),
    ("comparators: one definition each, in parity", comparators::check),
    ("strictness: panics and operators on arrays stay denied", strictness::check),
    ("clones: near-duplicate functions", clones::check),
    ("cost: hand-written lines of a family", cost::check),
    ("sizes: fixtures and the tree", sizes::check),
    ("paths: nothing of somebody's machine", paths::check),
];
