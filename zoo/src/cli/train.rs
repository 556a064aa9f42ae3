//! `zoo train`.

use super::show::{Show, Unit};
use crate::{
    Error, Result,
    data::Skipped,
    train::{Finished, Limits, Recipe, TrainEvent, train},
};
use clap::Args;
use serde_json::json;
use std::{
    ops::ControlFlow,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The status of a process that is told to end twice.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The recipe: what is trained, on what, and how; a TOML file.
    recipe: PathBuf,
    /// The folder of pictures and captions, in place of the recipe's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder to write into, in place of the recipe's; a training that began there goes on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop with a checkpoint before so many minutes have passed; the same command goes on.
    #[arg(long, allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// Stop with a checkpoint after this step; the same command goes on.
    #[arg(long, allow_negative_numbers = true)]
    steps: Option<u64>,
}

/// Trains until the recipe or the time is over; Ctrl-C stops with a checkpoint, and a second one without.
pub fn run(arguments: &TrainArguments, show: &Show) -> Result<()> {
    let mut recipe = Recipe::read(&arguments.recipe)?;
    if let Some(folder) = &arguments.data {
        recipe.set_data(folder);
    }
    if let Some(folder) = &arguments.out {
        recipe.set_out(folder);
    }
    let limits = Limits { time: arguments.minutes.map(minutes).transpose()?, steps: arguments.steps };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let watching = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            process::exit(INTERRUPTED);
        }
    });
    watching.map_err(|error| Error::argument("Ctrl-C", format!("cannot be watched for: {error}")))?;

    let (mut problem, mut skipped) = (None, 0u64);
    let finished = train(&recipe, limits, &mut |event| {
        skipped += u64::from(matches!(event, TrainEvent::Skipped(_)));
        if let Err(error) = told(event, show) {
            problem = Some(error);
        }
        let stop = problem.is_some() || interrupted.load(Ordering::Relaxed);
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(problem) = problem {
        return Err(problem);
    }
    let out = recipe.out().display();
    if matches!(finished, Err(Error::Cancelled)) {
        show.note(&format!("stopped; the same command goes on from the checkpoint in {out}, if it has one"))?;
    }
    let finished = finished?;
    if skipped > 0 {
        show.note(&format!("{skipped} examples were skipped"))?;
    }
    let (whole, steps, text) = match finished {
        Finished::Whole { steps } => (true, steps, format!("{out} is trained\n")),
        Finished::Early { steps, of } => {
            (false, steps, format!("{steps} of {of} steps in {out}; the same command goes on\n"))
        }
    };
    show.event("done", json!({"whole": whole, "steps": steps, "skipped": skipped, "folder": recipe.out()}))?;
    show.text(&text)
}

fn told(event: &TrainEvent<'_>, show: &Show) -> Result<()> {
    match event {
        TrainEvent::Skipped(skipped) => {
            let Skipped { line, file, reason } = skipped;
            show.event("skipped", json!({"line": line, "file": file, "reason": reason}))?;
            show.note(&format!("skipped: {skipped}"))
        }
        TrainEvent::Preparing { stage, done, total } => show.progress(stage, Unit::Things(stage), *done, *total),
        TrainEvent::Note(text) => {
            show.event("note", json!({"text": text}))?;
            show.note(text)
        }
        TrainEvent::Restarted(restart) => {
            show.event("restarted", json!({"text": restart.to_string()}))?;
            show.note(&restart.to_string())
        }
        TrainEvent::Step(entry) => {
            show.event("step", json!(entry))?;
            if entry.step == 1 || entry.step.is_multiple_of(10) {
                let (step, loss, rate, seconds) = (entry.step, entry.loss, entry.rate, entry.seconds);
                show.note(&format!("step {step}: loss {loss:.4}, rate {rate:.2e}, {seconds:.3} s"))?;
            }
            Ok(())
        }
        TrainEvent::Wrote { what, path } => {
            show.event("wrote", json!({"what": what, "path": path}))?;
            show.note(&format!("{what}: {}", path.display()))
        }
    }
}

fn minutes(minutes: f64) -> Result<Duration> {
    if minutes > 0.0
        && let Ok(time) = Duration::try_from_secs_f64(minutes * 60.0)
    {
        return Ok(time);
    }
    Err(Error::argument("--minutes", format!("{minutes} is not a number of minutes above 0")))
}
