//! `zoo trace`.

use super::{
    folder::{Folder, unwritten},
    generate,
    image::{RequestArguments, SubjectArguments, Wishes},
    show::{Show, note_failure},
};
use crate::{Error, ImageEvent, PIPELINES, Result, cache, registry};
use clap::Args;
use framework::{Array, Dtype, math, tap, weights::Pattern};
use npyz::WriterBuilder;
use serde_json::{Map, Value, json};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

/// What a model is given, and what of its activations is kept.
#[derive(Debug, Args)]
pub struct TraceArguments {
    /// The text that a language model reads, or what the picture shows.
    prompt: Option<String>,
    /// Which paths: `*` stands for one name, `**` for any number, e.g. `layers.*.attn`, or `transformer.**.rotated` of a
    /// model that makes images.
    #[arg(long = "match", default_value = "**", value_name = "PATTERN")]
    pattern: String,
    /// The folder to write into; it is made, and must not hold anything yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    subject: SubjectArguments,
    #[command(flatten)]
    request: RequestArguments,
}

/// The model of which no other is said.
const USUAL: &str = "smollm2-135m-instruct";

/// Writes the activations of reading a text or of making pictures as `.npy`, and `index.json` with their order, shapes and
/// dtypes.
pub fn run(arguments: &TraceArguments, show: &Show) -> Result<()> {
    let pattern = Pattern::parse(&arguments.pattern).map_err(|error| match error {
        framework::Error::Rule { problem, .. } => Error::argument("--match", problem),
        other => other.into(),
    })?;
    let out = &arguments.out;
    let folder = Folder::new(out)?;
    let recorder = RefCell::new(Recorder::new(pattern, folder.path()));
    let mut index = match arguments.makes_pictures()? {
        true => arguments.paint(&recorder, show)?,
        false => arguments.read(&recorder)?,
    };
    let activations = recorder.into_inner().finish()?;
    let count = activations.len();
    index.insert("activations".into(), activations.into());
    let path = out.join("index.json");
    let text = format!("{:#}\n", Value::Object(index));
    fs::write(&path, text).map_err(|error| unwritten(&path, &error))?;
    folder.keep();
    show.event("done", json!({"activations": count, "folder": out}))?;
    show.text(&format!("{count} activations in {}\n", out.display()))
}

impl TraceArguments {
    fn model(&self) -> String {
        self.request.model().unwrap_or_else(|| USUAL.into())
    }

    fn makes_pictures(&self) -> Result<bool> {
        Ok(self.request.is_from_picture() || registry::is_pipeline(PIPELINES, &cache::locate(self.model())?))
    }

    /// Reads a text; what the index says of it.
    fn read(&self, recorder: &RefCell<Recorder<'_>>) -> Result<Map<String, Value>> {
        if let Some(option) = self.request.of_pictures(&self.subject) {
            return Err(Error::argument(option, "this is a language model, which does not read it; leave it out"));
        }
        let prompt = self.prompt.as_deref();
        let prompt = prompt.ok_or_else(|| Error::argument("prompt", "there is none: say what the model reads"))?;
        let opened = self.request.compute.open().language_model(&self.model())?;
        let tokens = opened.tokenizer().encode(prompt, true)?;
        recorded(recorder, || opened.read(&tokens))?;
        Ok(Map::from_iter([("tokens".to_owned(), tokens.into())]))
    }

    /// Makes pictures; what the index says of them.
    fn paint(&self, recorder: &RefCell<Recorder<'_>>, show: &Show) -> Result<Map<String, Value>> {
        let prompts: Vec<String> = self.prompt.iter().cloned().collect();
        let wishes = Wishes { prompts: &prompts, subject: &self.subject, size: None, previews: false };
        let asked = self.request.ask(&wishes)?;
        let request = serde_json::to_value(&asked.remembered).unwrap_or_default();
        let guided = asked.request.is_guided();
        recorder.borrow_mut().moment = object(json!({"step": 0}));
        let mut failure = None;
        let outcome = recorded(recorder, || {
            asked.generator.generate(&asked.request, &mut |event| {
                let followed = recorder.borrow_mut().follow(&event, guided);
                note_failure(followed.and_then(|()| generate::progress(&event, show)), &mut failure)
            })
        });
        match failure {
            Some(failure) => Err(failure),
            None => outcome.map(|_| Map::from_iter([("request".to_owned(), request)])),
        }
    }
}

/// Runs something with a recorder of its activations.
fn recorded<T>(recorder: &RefCell<Recorder<'_>>, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut sink = |path: &str, x: &Array| {
        recorder.borrow_mut().record(path, x);
        None
    };
    tap::with(&mut sink, run)
}

/// Writes activations as they come, so that they need not fit into memory together.
struct Recorder<'a> {
    pattern: Pattern,
    folder: &'a Path,
    /// How often each path was seen.
    times: BTreeMap<String, usize>,
    /// When that is, of a model that makes images.
    moment: Map<String, Value>,
    index: Vec<Value>,
    failure: Option<Error>,
}

impl<'a> Recorder<'a> {
    fn new(pattern: Pattern, folder: &'a Path) -> Self {
        Self { pattern, folder, times: BTreeMap::new(), moment: Map::new(), index: Vec::new(), failure: None }
    }

    fn record(&mut self, path: &str, x: &Array) {
        let module = path.split('#').next().unwrap_or(path);
        if self.failure.is_some() || !self.pattern.matches(module) {
            return;
        }
        let nth = self.times.entry(path.to_owned()).or_insert(0);
        let file = if *nth == 0 { format!("{path}.npy") } else { format!("{path}@{nth}.npy") };
        *nth += 1;
        match write(&self.folder.join(&file), x) {
            Ok(()) => {
                let mut entry = object(
                    json!({"path": path, "file": file, "shape": x.shape(), "dtype": format!("{:?}", x.dtype())}),
                );
                entry.extend(self.moment.clone());
                self.index.push(entry.into());
            }
            Err(error) => self.failure = Some(error),
        }
    }

    /// Hears how far a request is.
    ///
    /// # Errors
    /// When an activation could not be written.
    fn follow(&mut self, event: &ImageEvent<'_>, guided: bool) -> Result<()> {
        match *event {
            ImageEvent::Evaluating { first, step, sigma, condition } => {
                self.moment = object(json!({"step": step, "sigma": sigma, "first": first}));
                if guided {
                    self.moment.insert("condition".into(), condition.name().into());
                }
            }
            ImageEvent::Latents { .. } => self.moment.clear(),
            _ => {}
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// The entries.
    ///
    /// # Errors
    /// When there are none, or an activation could not be written.
    fn finish(self) -> Result<Vec<Value>> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.index.is_empty() => Err(Error::argument(
                "--match",
                format!("no activation's path matches `{}`; `zoo inspect` shows them", self.pattern),
            )),
            None => Ok(self.index),
        }
    }
}

/// An object of JSON.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Floats as f32, which holds every half exactly; integers as i64.
fn write(path: &Path, x: &Array) -> Result<()> {
    let is_float = matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64);
    if is_float {
        write_as(path, &math::read::<f32>(&x.as_dtype(Dtype::Float32)?)?, x.shape())
    } else {
        write_as(path, &math::read::<i64>(&x.as_dtype(Dtype::Int64)?)?, x.shape())
    }
}

fn write_as<T: npyz::AutoSerialize + Copy>(path: &Path, data: &[T], shape: &[i32]) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&length| length as u64).collect();
    let write = || {
        let file = BufWriter::new(File::create(path)?);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(data.iter().copied())?;
        writer.finish()
    };
    write().map_err(|error| unwritten(path, &error))
}
