//! The loop: steps, checkpoints, samples, until the recipe or the time is over.

use super::{
    Entry, Finished, Limits, TrainEvent, TrainObserver, curve, initial,
    lesson::Lesson,
    log::Log,
    recipe::{Checkpoints, Precision, Training},
    snapshot::made,
};
use crate::{Error, Result, picture::Picture};
use framework::{
    Array, Dtype, math,
    train::{Settings, State, Step, Trainable, cast, checkpoint},
};
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Trains from the checkpoint of `out`, or from nothing where there is none.
pub(super) fn run(
    lesson: &dyn Lesson,
    training: &Training,
    checkpoints: &Checkpoints,
    (out, seed): (&Path, u64),
    clock: &Clock,
    observer: &mut TrainObserver<'_>,
) -> Result<Finished> {
    let module = lesson.module();
    initial::begin(module, &training.initial, seed)?;
    let only = training.patterns()?;
    let chosen = |path: &str| only.as_ref().is_none_or(|only| only.iter().any(|pattern| pattern.matches(path)));
    let Training { rate, clip, average, compiled, .. } = *training;
    let settings = Settings { rate, clip, average, compiled };
    let trainable = Trainable::new(module, chosen).map_err(|error| match error {
        framework::Error::Argument { name, problem } if name == "select" => Error::argument("training.only", problem),
        other => other.into(),
    })?;
    let mut step =
        Step::new(trainable, training.optimiser.build()?, settings, |_, batch, key| lesson.loss(batch, key))?;

    let begun = State::begin(&step, seed)?;
    let folder = out.join("checkpoint");
    let mut state = begun.clone();
    if folder.exists() {
        let (loaded, restart) = checkpoint::load(&folder, &begun).map_err(|error| Error::from(error).about(&folder))?;
        state = loaded;
        tell(observer, &TrainEvent::Restarted(restart))?;
    }
    drop(begun);
    if training.precision != Precision::Float32 {
        cast(module, training.precision.dtype(), |_| true)?;
    }

    made(out)?;
    let mut desk = Desk {
        lesson,
        out,
        checkpoints,
        log: Log::open(out, state.step)?,
        saving: clock.limits.time.unwrap_or_default() / 20,
    };
    let total = clock.limits.steps.map_or(training.steps, |steps| steps.min(training.steps));
    let mut longest = Duration::ZERO;
    let mut saved = state.step;
    let mut stopped = false;
    while state.step < total && !stopped {
        if clock.is_over(longest.saturating_add(desk.saving)) {
            break;
        }
        let started = Instant::now();
        let batches = lesson.batches(state.step, training.accumulate)?;
        let report = step.run(&mut state, &batches)?;
        // The first steps are slow: they are traced, and caches fill.
        longest = started.elapsed().max(longest.mul_f64(0.9));
        let entry = Entry {
            step: report.step,
            loss: report.loss,
            norm: report.norm,
            rate: report.rate,
            seconds: started.elapsed().as_secs_f64(),
            parts: parts(lesson.parts(), &report.aux)?,
        };
        desk.log.add(&entry)?;
        stopped = observer(&TrainEvent::Step(&entry)).is_break();
        if state.step.checked_rem(checkpoints.every) == Some(0) {
            stopped |= desk.save(&step, &state, observer)?.is_break();
            saved = state.step;
        }
    }
    if saved != state.step {
        stopped |= desk.save(&step, &state, observer)?.is_break();
    }
    if stopped && state.step < training.steps {
        return Err(Error::Cancelled);
    }
    step.trainable().assign(state.weights())?;
    Ok(match state.step {
        steps if steps >= training.steps => Finished::Whole { steps },
        steps => Finished::Early { steps, of: training.steps },
    })
}

/// How much time has passed since the call.
pub(super) struct Clock {
    pub started: Instant,
    pub limits: Limits,
}

impl Clock {
    /// Whether there is no time for something that takes so long.
    fn is_over(&self, needed: Duration) -> bool {
        self.limits.time.is_some_and(|time| self.started.elapsed().saturating_add(needed) > time)
    }
}

/// Tells, where to break is to end at once.
pub(super) fn tell(observer: &mut TrainObserver<'_>, event: &TrainEvent<'_>) -> Result<()> {
    match observer(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// The mean over the batches of everything that is reported beside the loss.
fn parts(names: &[&str], aux: &[Vec<Array>]) -> Result<Map<String, Value>> {
    let mut parts = Map::new();
    for (place, name) in names.iter().enumerate() {
        let mut sum = 0.0;
        for batch in aux {
            let value =
                batch.get(place).map(|value| math::read::<f32>(&value.as_dtype(Dtype::Float32)?)).transpose()?;
            sum += f64::from(value.and_then(|value| value.first().copied()).unwrap_or(f32::NAN));
        }
        parts.insert((*name).to_owned(), Value::from(sum / aux.len().max(1) as f64));
    }
    Ok(parts)
}

/// Where a training writes.
struct Desk<'a> {
    lesson: &'a dyn Lesson,
    out: &'a Path,
    checkpoints: &'a Checkpoints,
    log: Log,
    /// How long writing took last, or a guess before.
    saving: Duration,
}

impl Desk<'_> {
    /// Writes both checkpoints, the curve, the snapshot and its samples. Whoever breaks meanwhile, everything is written.
    fn save(&mut self, step: &Step<'_>, state: &State, observer: &mut TrainObserver<'_>) -> Result<ControlFlow<()>> {
        let started = Instant::now();
        let mut flow = ControlFlow::Continue(());
        let mut wrote = |what, path: &Path| {
            if observer(&TrainEvent::Wrote { what, path }).is_break() {
                flow = ControlFlow::Break(());
            }
        };
        let folder = self.out.join("checkpoint");
        made(&folder)?;
        checkpoint::save(&folder, state)?;
        checkpoint::save_slim(&folder, state, self.checkpoints.part_megabytes.saturating_mul(1_000_000))?;
        wrote("checkpoint", &folder);

        let curve = self.out.join("loss.png");
        curve::draw(&self.log.entries()?, &curve)?;
        wrote("curve", &curve);

        let problem = RefCell::new(None);
        let exported = step.trainable().with(state.weights(), || {
            self.export().map_err(|error| {
                problem.replace(Some(error));
                framework::Error::argument("snapshot", "was not written")
            })
        });
        let (snapshot, samples) = match (exported, problem.into_inner()) {
            (_, Some(error)) => return Err(error),
            (exported, None) => exported?,
        };
        wrote("snapshot", &snapshot);
        let path = self.out.join("samples").join(format!("step-{:06}.png", state.step));
        samples.write(&path, &Value::Null)?;
        wrote("samples", &path);
        self.saving = started.elapsed();
        Ok(flow)
    }

    /// The snapshot of the module as it is now, and what it makes.
    fn export(&self) -> Result<(PathBuf, Picture)> {
        let new = self.out.join("snapshot.new");
        let place = self.out.join("snapshot");
        gone(&new)?;
        made(&new)?;
        self.lesson.export(&new)?;
        gone(&place)?;
        fs::rename(&new, &place).map_err(|error| Error::file(&place, error.to_string()))?;
        let samples = self.out.join("samples");
        made(&samples)?;
        let picture = self.lesson.samples(&place)?;
        Ok((place, picture))
    }
}

/// Removes a folder that this training wrote before, if it is there.
fn gone(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(path, error.to_string())),
        _ => Ok(()),
    }
}
