//! Every way the build can fail ends in one sentence that says what is missing and how to get it.

use std::process::{Command, Output};

pub type Result<T> = std::result::Result<T, String>;

/// Runs a command and returns its output, or `advice` followed by the last lines of what it printed.
pub fn run(command: &mut Command, advice: &str) -> Result<Output> {
    let output = command.output().map_err(|error| format!("{advice} ({:?}: {error})", command.get_program()))?;
    if output.status.success() {
        return Ok(output);
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(4)..].join(" / ");
    Err(format!("{advice} ({tail})"))
}
