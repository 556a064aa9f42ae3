//! `zoo fetch`.

use super::show::{Show, Unit, note_failure};
use crate::{
    Result,
    fetch::{Event, Stage, fetch},
};
use serde_json::json;

/// Fetches a model, its licence first.
pub fn run(id: &str, show: &Show) -> Result<()> {
    let mut failure = None;
    let outcome = fetch(id, &mut |event| {
        let shown = match event {
            Event::Licence { title, licence, url } => show
                .event("licence", json!({"title": title, "licence": licence, "url": url}))
                .and_then(|()| show.note(&format!("{title} is under the licence {licence}: {url}"))),
            Event::Bytes { stage, done, total } => show.progress(name(stage), Unit::Bytes, done, total),
            Event::Already { .. } => show.note("It is here already, whole and with the right checksum."),
        };
        note_failure(shown, &mut failure)
    });
    let path = match failure {
        Some(error) => return Err(error),
        None => outcome?,
    };
    show.event("done", json!({"path": path}))?;
    show.text(&format!("{}\n", path.display()))
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Verify => "verify",
        Stage::Download => "download",
        Stage::Unpack => "unpack",
    }
}
