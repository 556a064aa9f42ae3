//! `zoo quantize`.

use super::{
    as_option,
    folder::Folder,
    show::{Show, Unit, note_failure},
    table::bytes,
};
use crate::{Quantise, Result, cache};
use serde_json::json;
use std::path::Path;

/// Packs the weights of a snapshot and saves it in a folder.
pub fn run(model: &str, how: Quantise, out: &Path, show: &Show) -> Result<()> {
    how.validate().map_err(as_option)?;
    let model = cache::locate(model)?;
    let folder = Folder::new(out)?;
    let mut failure = None;
    let outcome = how.snapshot(&model, folder.path(), &mut |done, total| {
        note_failure(show.progress("load", Unit::Bytes, done, total), &mut failure)
    });
    let result = match failure {
        Some(error) => return Err(error),
        None => outcome?,
    };
    folder.keep();
    show.event(
        "done",
        json!({
            "path": out, "bits": how.bits, "group_size": how.group, "packed": result.packed, "dense": result.dense,
            "bytes_before": result.before, "bytes": result.after,
        }),
    )?;
    if !result.dense.is_empty() {
        show.note(&format!("Dense, as groups of {} do not fill them: {}", how.group, result.dense.join(", ")))?;
    }
    let (before, after) = (bytes(result.before), bytes(result.after));
    show.text(&format!("{}: {} matrices packed, {before} became {after}\n", out.display(), result.packed))
}
