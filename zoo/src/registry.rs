//! The table of families, and what a family is.

use crate::{
    Arguments, Error, Generator, Outputs, Result, error::near, nearest::nearest, quantization, task::CausalLm,
    text::read_json,
};
use framework::{
    Dtype, Init, Module,
    weights::{Config, Header, ModulePaths, Packed, Progress, Source, Tensors, WeightMap, fit, load},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    any::Any,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A model family: a config, how it is built from blocks, and what its weights are called where.
pub trait Family: 'static {
    /// Upstream's names for it: `model_type`, class, GGUF architecture.
    const NAMES: &'static [&'static str];
    /// Keys of upstream's config that change nothing here, with the reason.
    const IGNORED: &'static [(&'static str, &'static str)];
    /// Upstream's config, field for field, or what it amounts to.
    type Config;
    /// The tree of blocks.
    type Model: Module + Send + 'static;

    /// Builds the model, lazily. The only reader of the config.
    fn build(config: &Self::Config, init: &mut Init) -> framework::Result<Self::Model>;

    /// The layouts in which weights are published; the one whose map covers a file is the file's.
    fn layouts() -> &'static [Layout<Self::Config>];

    /// Calls a method by upstream's name with upstream's arguments: the door of parity and tracing only.
    fn call(model: &Self::Model, method: &str, arguments: &mut Arguments) -> Result<Outputs>;
}

/// One way in which a family's weights are published.
pub struct Layout<C> {
    /// What the layout is called in reports.
    pub name: &'static str,
    /// The config of a checkpoint in this layout, or nothing if the checkpoint is of another kind.
    pub config: fn(&Checkpoint<'_>) -> Result<Option<C>>,
    /// The names in that layout.
    pub map: fn(&C) -> WeightMap,
}

/// What is known of a checkpoint before its weights are read.
pub struct Checkpoint<'a> {
    /// Upstream's config, or the metadata of a GGUF file.
    pub config: Config<'a>,
    /// Names, shapes and dtypes.
    pub header: &'a Header,
    /// The tensors, unless only the header is at hand.
    pub tensors: Option<&'a dyn Tensors>,
}

impl<'a> Checkpoint<'a> {
    /// The checkpoint that a source holds.
    pub fn of(source: &'a Source) -> Result<Self> {
        Ok(Self { config: source.config()?, header: source.header(), tensors: Some(source) })
    }

    /// The name by which the checkpoint says what it is: `model_type`, `_class_name`, `general.architecture`.
    pub fn name(&self) -> Option<String> {
        match &self.config {
            Config::Json(json) => {
                ["model_type", "_class_name"].iter().find_map(|key| json.get(key)?.as_str()).map(str::to_owned)
            }
            Config::Gguf(metadata) => metadata.str("general.architecture").ok().map(str::to_owned),
            Config::None => None,
        }
    }
}

/// How to open a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// The dtype to compute in.
    pub dtype: Dtype,
    /// What becomes of packed weights.
    pub packed: Packed,
}

/// A model that was opened, without its type.
pub trait Opened: Send {
    /// The tree.
    fn module(&self) -> &dyn Module;
    /// The tree, mutably.
    fn module_mut(&mut self) -> &mut dyn Module;
    /// The layout that its weights came in.
    fn layout(&self) -> &'static str;
    /// The names in that layout.
    fn map(&self) -> &WeightMap;
    /// Upstream's module paths in terms of ours.
    fn paths(&self) -> &ModulePaths;
    /// Calls a method by upstream's name; see [`Family::call`].
    fn call(&self, method: &str, arguments: &mut Arguments) -> Result<Outputs>;
    /// The value behind the trait.
    fn as_any(&self) -> &dyn Any;
}

struct Loaded<F: Family> {
    model: F::Model,
    layout: &'static str,
    map: WeightMap,
    paths: ModulePaths,
}

impl<F: Family> Opened for Loaded<F> {
    fn module(&self) -> &dyn Module {
        &self.model
    }
    fn module_mut(&mut self) -> &mut dyn Module {
        &mut self.model
    }
    fn layout(&self) -> &'static str {
        self.layout
    }
    fn map(&self) -> &WeightMap {
        &self.map
    }
    fn paths(&self) -> &ModulePaths {
        &self.paths
    }
    fn call(&self, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        let outputs = F::call(&self.model, method, arguments)?;
        arguments.finish()?;
        Ok(outputs)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A row of the table of families.
pub struct Entry {
    /// Upstream's names for the family.
    pub names: &'static [&'static str],
    /// Keys of upstream's config that change nothing, with the reason.
    pub ignored: &'static [(&'static str, &'static str)],
    fit: fn(&Checkpoint<'_>, Dtype) -> Result<Box<dyn Opened>>,
    causal_lm: Option<AsCausalLm>,
}

/// A view of an opened model as a predictor of the next token.
type AsCausalLm = fn(&dyn Opened) -> Option<&dyn CausalLm>;

/// The row of a family that has no task of its own.
pub const fn entry<F: Family>() -> Entry {
    Entry { names: F::NAMES, ignored: F::IGNORED, fit: fit_family::<F>, causal_lm: None }
}

/// The row of a family that predicts the next token.
pub const fn causal_lm<F: Family<Model: CausalLm>>() -> Entry {
    Entry { causal_lm: Some(as_causal_lm::<F>), ..entry::<F>() }
}

fn as_causal_lm<F: Family<Model: CausalLm>>(opened: &dyn Opened) -> Option<&dyn CausalLm> {
    opened.as_any().downcast_ref::<Loaded<F>>().map(|loaded| &loaded.model as &dyn CausalLm)
}

/// Parameters that a config may ask for beyond what the tensors of a file can become: a file that lacks tensors is to be
/// reported in full, and a config with millions of layers not to be tried.
const SPARE: usize = 1 << 14;

fn fit_family<F: Family>(checkpoint: &Checkpoint<'_>, dtype: Dtype) -> Result<Box<dyn Opened>> {
    Ok(Box::new(fit_model::<F>(checkpoint, dtype)?))
}

/// Opens a snapshot or a file as a model of one family, for whoever knows which: the component of a pipeline.
///
/// # Errors
/// As [`Entry::open`].
pub fn open_model<F: Family>(path: &Path, options: OpenOptions, progress: &mut Progress<'_>) -> Result<F::Model> {
    let source = Source::open(path)?;
    let mut loaded = fit_model::<F>(&Checkpoint::of(&source)?, options.dtype)?;
    load(&mut loaded.model, &source, &loaded.map, options.packed, progress)?;
    Ok(loaded.model)
}

/// Builds the model of a checkpoint lazily, proves that the weights cover it, and reads none.
///
/// # Errors
/// As [`Entry::fit`].
pub fn fit_config<F: Family>(checkpoint: &Checkpoint<'_>, dtype: Dtype) -> Result<F::Model> {
    Ok(fit_model::<F>(checkpoint, dtype)?.model)
}

fn fit_model<F: Family>(checkpoint: &Checkpoint<'_>, dtype: Dtype) -> Result<Loaded<F>> {
    if let Config::Json(config) = &checkpoint.config {
        quantization::check(config, checkpoint.header)?;
    }
    // A checkpoint that brings a map is in one layout, whatever the family's are.
    let own = checkpoint.tensors.and_then(|tensors| tensors.map());
    let mut fitting = Vec::new();
    let mut reports = Vec::new();
    for layout in F::layouts() {
        if own.is_some() && !(fitting.is_empty() && reports.is_empty()) {
            break;
        }
        let Some(config) = (layout.config)(checkpoint)? else {
            continue;
        };
        let most = checkpoint.header.tensors.len().saturating_mul(16).saturating_add(SPARE);
        let mut model = F::build(&config, &mut Init::new(dtype, 0).at_most(most))?;
        let (name, map) = match own {
            Some(map) => ("weights.toml", map.clone()),
            None => (layout.name, (layout.map)(&config)),
        };
        match fit(&mut model, checkpoint.header, &map) {
            Ok(_) => fitting.push((name, model, map)),
            Err(error) => reports.push((name, error)),
        }
    }
    if fitting.len() > 1 {
        let names: Vec<&str> = fitting.iter().map(|(name, ..)| *name).collect();
        return Err(Error::argument("layout", format!("more than one covers the file: {}", names.join(", "))));
    }
    let Some((layout, model, map)) = fitting.pop() else {
        return Err(match reports.len() {
            0 => Error::argument("layout", "the family has none for files of this kind"),
            // One report is the error itself; of several the first two say enough.
            1 => reports.remove(0).1.into(),
            _ => {
                let both: Vec<String> =
                    reports.iter().take(2).map(|(name, error)| format!("as {name}: {error}")).collect();
                Error::argument("layout", both.join("\n"))
            }
        });
    };
    let mut modules = BTreeSet::new();
    framework::walk(&model, &mut |path, _| {
        modules.insert(path.to_owned());
    });
    let paths = map.paths(checkpoint.header, modules)?;
    Ok(Loaded { model, layout, map, paths })
}

impl Entry {
    /// Builds the model of a checkpoint lazily and proves that the weights cover it. Reads no weights.
    ///
    /// # Errors
    /// A config that cannot be built, or a report of everything that does not fit.
    pub fn fit(&self, checkpoint: &Checkpoint<'_>, dtype: Dtype) -> Result<Box<dyn Opened>> {
        (self.fit)(checkpoint, dtype)
    }

    /// Builds the model and loads it.
    pub fn open(
        &self,
        checkpoint: &Checkpoint<'_>,
        options: OpenOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Opened>> {
        let tensors = checkpoint.tensors.ok_or_else(|| Error::argument("checkpoint", "only its header is at hand"))?;
        let mut opened = self.fit(checkpoint, options.dtype)?;
        let map = opened.map().clone();
        load(opened.module_mut(), tensors, &map, options.packed, progress)?;
        Ok(opened)
    }

    /// The model as a predictor of the next token, if its family is one.
    pub fn causal_lm<'a>(&self, opened: &'a dyn Opened) -> Option<&'a dyn CausalLm> {
        self.causal_lm.and_then(|cast| cast(opened))
    }
}

/// All families. An explicit table: a row cannot be lost by a linker.
pub const MODELS: &[Entry] = &[
    causal_lm::<crate::llama::Llama>(),
    causal_lm::<crate::qwen::Qwen2>(),
    causal_lm::<crate::qwen::Qwen3>(),
    causal_lm::<crate::mistral::Mistral>(),
    causal_lm::<crate::gemma3::Gemma3>(),
    causal_lm::<crate::smollm3::SmolLm3>(),
    causal_lm::<crate::glm::Glm>(),
    causal_lm::<crate::glm::Glm4>(),
    causal_lm::<crate::mixtral::Mixtral>(),
    causal_lm::<crate::qwen3_moe::Qwen3Moe>(),
    entry::<crate::autoencoder_kl::AutoencoderKl>(),
    entry::<crate::flux::Flux>(),
    entry::<crate::clip::Clip>(),
    entry::<crate::t5::T5>(),
    entry::<crate::composed::Composed>(),
];

/// A row of the table of pipelines: what runs components together, from a prompt to a picture.
#[derive(Clone, Copy, Debug)]
pub struct Pipeline {
    /// Upstream's classes.
    pub names: &'static [&'static str],
    /// The component of a snapshot that most of the work is done in, whose files say what to compute in.
    pub main: fn(&Path) -> PathBuf,
    /// Opens the snapshot in a folder; the flag keeps components in memory between requests. Reads no weights.
    pub open: fn(&Path, OpenOptions, bool) -> Result<Box<dyn Generator>>,
    /// Parity's door: runs the components in a folder with the arguments of upstream's `__call__`, among them its noise: `latents`, and
    /// `noise.0`, `noise.1`, … as samplers draw it. Gives what was made on the way, in order, by the names of
    /// `fixtures/README.md`.
    pub run: fn(&Path, OpenOptions, &mut Arguments) -> Result<Outputs>,
}

impl Pipeline {
    /// Calls the pipeline by upstream's name, `__call__`, or by that which every module has, `forward`.
    ///
    /// # Errors
    /// An unknown method, an argument that is not taken, and those of the run.
    pub fn call(
        &self,
        components: &Path,
        options: OpenOptions,
        method: &str,
        arguments: &mut Arguments,
    ) -> Result<Outputs> {
        if !["__call__", "forward"].contains(&method) {
            return Err(Error::argument("method", format!("`{method}` is not one of a pipeline's: __call__")));
        }
        let outputs = (self.run)(components, options, arguments)?;
        arguments.finish()?;
        Ok(outputs)
    }
}

/// All pipelines.
pub const PIPELINES: &[Pipeline] =
    &[crate::flux::TEXT_TO_IMAGE, crate::flux::IMAGE_TO_IMAGE, crate::composed::TEXT_TO_IMAGE];

/// The pipeline of a snapshot: the one that its `model_index.json` names, or, without that file, the first whose main
/// component is there.
///
/// # Errors
/// When the folder is missing or none answers to the name.
pub fn pipeline_of<'a>(pipelines: &'a [Pipeline], snapshot: &Path) -> Result<&'a Pipeline> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class: String,
    }
    let unrecognised = |problem: String| Error::Unrecognised { file: snapshot.to_owned(), problem };
    if !snapshot.is_dir() {
        return Err(unrecognised("is no folder; name that of a whole snapshot".into()));
    }
    let Some(Index { class }) = read_json(&snapshot.join(INDEX))? else {
        // Without an index, the components tell.
        let found = by_components(pipelines, snapshot);
        return found.ok_or_else(|| unrecognised("is no snapshot of a model that makes images".into()));
    };
    pipelines.iter().find(|pipeline| pipeline.names.contains(&class.as_str())).ok_or_else(|| {
        let near = near(nearest(&class, pipelines.iter().flat_map(|pipeline| pipeline.names).copied()));
        unrecognised(format!("no pipeline here answers to `{class}`{near}; `zoo models` lists what runs"))
    })
}

/// The file of a snapshot that names its pipeline.
const INDEX: &str = "model_index.json";

fn by_components<'a>(pipelines: &'a [Pipeline], snapshot: &Path) -> Option<&'a Pipeline> {
    pipelines.iter().find(|pipeline| (pipeline.main)(snapshot).exists())
}

/// Whether a path is the snapshot of a pipeline, though maybe of one that is not among these.
pub fn is_pipeline(pipelines: &[Pipeline], path: &Path) -> bool {
    path.join(INDEX).exists() || by_components(pipelines, path).is_some()
}

/// The family that answers to an upstream name.
pub fn find<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.names.contains(&name))
}

/// The family of a checkpoint.
///
/// # Errors
/// When it does not say what it is, or no family answers to what it says.
pub fn of<'a>(entries: &'a [Entry], checkpoint: &Checkpoint<'_>, path: &Path) -> Result<&'a Entry> {
    let unrecognised = |problem: String| Error::Unrecognised { file: path.to_owned(), problem };
    if let Config::None = checkpoint.config {
        // A file without a config is of the family whose shapes it has.
        if let Some(entry) = entries.iter().find(|entry| entry.fit(checkpoint, Dtype::Float32).is_ok()) {
            return Ok(entry);
        }
    }
    let name = checkpoint.name().ok_or_else(|| {
        let key = match checkpoint.config {
            Config::Json(_) => "`model_type` or `_class_name` in its config.json",
            Config::Gguf(_) => "`general.architecture` in its metadata",
            Config::None => "config.json beside it",
        };
        unrecognised(format!("there is no {key}, so what it is cannot be told; get the file from its publisher again"))
    })?;
    find(entries, &name).ok_or_else(|| {
        let near = near(nearest(&name, entries.iter().flat_map(|entry| entry.names).copied()));
        unrecognised(format!("no family here answers to `{name}`{near}; `zoo models` lists what runs"))
    })
}

/// Parses upstream's config strictly: a key that is neither read nor ignored for a reason is collected in the result.
///
/// # Errors
/// When a value has the wrong type or is missing; names the key.
pub fn parse_config<C: DeserializeOwned>(json: &serde_json::Value) -> Result<(C, Vec<String>)> {
    let mut unread = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unread.push(path.to_string());
    let config = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(json, &mut note));
    config.map(|config| (config, unread)).map_err(|error| match error.path().iter().next() {
        Some(_) => framework::Error::config(error.path().to_string(), error.inner().to_string()).into(),
        None => Error::argument("config", error.inner().to_string()),
    })
}

/// The config of a checkpoint with a `config.json`.
///
/// Unknown keys are refused: a key that nobody reads is how a scaling gets lost.
pub fn json_config<F: Family<Config: DeserializeOwned>>(checkpoint: &Checkpoint<'_>) -> Result<Option<F::Config>> {
    let Config::Json(json) = &checkpoint.config else {
        return Ok(None);
    };
    let (config, unread) = parse_config(json)?;
    refuse_unread(unread, F::IGNORED)?;
    Ok(Some(config))
}

/// Refuses keys of a config that are neither read nor ignored for a reason.
pub(crate) fn refuse_unread(mut unread: Vec<String>, ignored: &[(&str, &str)]) -> Result<()> {
    unread.retain(|key| !crate::boilerplate::is_ignored(key, ignored));
    if unread.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "this family does not know the keys {}, and what they ask for would be lost; delete those that ask for nothing",
        unread.join(", ")
    );
    Err(Error::argument("config", problem))
}
