//! `zoo completions`.

use super::{Cli, show::Show};
use crate::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

/// Prints the script that completes `zoo` in a shell.
pub fn run(shell: Shell, show: &Show) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "zoo", &mut script);
    let script = String::from_utf8_lossy(&script);
    show.event("completions", json!({"shell": shell.to_string(), "script": script}))?;
    show.text(&script)
}
