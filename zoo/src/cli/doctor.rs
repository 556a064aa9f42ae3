//! `zoo doctor`.

use super::show::Show;
use crate::{Result, doctor};

/// Shows what this machine computes with, and how fast.
pub fn run(show: &Show) -> Result<()> {
    let report = doctor::report()?;
    show.event("doctor", serde_json::to_value(&report).unwrap_or_default())?;
    show.text(&report.to_string())
}
