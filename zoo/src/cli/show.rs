//! How things are shown: text and bars for a person, JSON lines for a program.

use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::{
    cell::{Cell, RefCell},
    io::{IsTerminal, Write, stderr, stdout},
    ops::ControlFlow,
    time::Duration,
};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown with a prefix.
    Bytes,
    /// Whatever this names.
    Things(&'static str),
}

/// Where output goes.
pub struct Show {
    json: bool,
    bar: RefCell<Option<(&'static str, ProgressBar)>>,
    /// The stage and the whole percents that were told last.
    told: Cell<Option<(&'static str, u64)>>,
}

impl Show {
    /// JSON lines, or text.
    pub fn new(json: bool) -> Self {
        Self { json, bar: RefCell::new(None), told: Cell::new(None) }
    }

    /// One JSON object, for programs only; `fields` is an object, and the kind comes first.
    pub fn event(&self, kind: &str, fields: Value) -> Result<()> {
        if self.json {
            let mut event = Map::from_iter([("event".to_owned(), Value::from(kind))]);
            if let Value::Object(fields) = fields {
                event.extend(fields);
            }
            writeln!(stdout(), "{}", Value::Object(event))?;
        }
        Ok(())
    }

    /// Text, for people only; appears at once.
    pub fn text(&self, text: &str) -> Result<()> {
        if !self.json {
            let mut out = stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    /// A remark beside the output, for people only.
    pub fn note(&self, text: &str) -> Result<()> {
        if !self.json {
            writeln!(stderr(), "{text}")?;
        }
        Ok(())
    }

    /// A stage is `done` of `total` units: a bar on a terminal, an event for a program.
    pub fn progress(&self, stage: &'static str, unit: Unit, done: u64, total: u64) -> Result<()> {
        self.paced(stage, unit, done, total, None)
    }

    /// As [`progress`](Self::progress), with the time that the rest of the stage will take.
    pub fn paced(
        &self,
        stage: &'static str,
        unit: Unit,
        done: u64,
        total: u64,
        remaining: Option<Duration>,
    ) -> Result<()> {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        if self.told.replace(Some((stage, percent))) != Some((stage, percent)) {
            let mut fields = json!({"stage": stage, "done": done, "total": total});
            if let (Some(remaining), Some(fields)) = (remaining, fields.as_object_mut()) {
                fields.insert("remaining_seconds".into(), json!(remaining.as_secs_f64()));
            }
            self.event("progress", fields)?;
        }
        if self.json || !stderr().is_terminal() {
            return Ok(());
        }
        let mut bar = self.bar.borrow_mut();
        if bar.as_ref().is_none_or(|(shown, _)| *shown != stage) {
            *bar = Some((stage, new_bar(stage, unit, total)));
        }
        if let Some((_, bar)) = &*bar {
            bar.set_length(total);
            bar.set_position(done);
            if done >= total {
                bar.finish_and_clear();
            }
        }
        if done >= total {
            *bar = None;
        }
        Ok(())
    }

    /// An error: a sentence, or an event.
    pub fn error(&self, error: &Error) {
        if let Some((_, bar)) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
        // Nothing can be done about an error while an error is shown.
        if self.json {
            let _ = self.event("error", json!({"message": error.to_string()}));
        } else {
            let _ = writeln!(stderr(), "error: {error}");
        }
    }
}

/// Turns a failure to show something into a stop, and keeps it.
pub fn note_failure(shown: Result<()>, failure: &mut Option<Error>) -> ControlFlow<()> {
    match shown {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failure = Some(error);
            ControlFlow::Break(())
        }
    }
}

fn new_bar(stage: &'static str, unit: Unit, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let counts = match unit {
        Unit::Bytes => "{bytes}/{total_bytes}".to_owned(),
        Unit::Things(name) => format!("{{pos}}/{{len}} {name}"),
    };
    let template = format!("{{msg:>8}} [{{bar:32}}] {counts} {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(stage);
    bar
}
