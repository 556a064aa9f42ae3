//! The front door: from a name to a model that answers.

use crate::{
    Checkpoint, Error, Generator, LanguageModel, MODELS, OpenOptions, PIPELINES, Result, cache, doctor, published,
    registry,
};
use framework::{
    Dtype, Embedding, Leaf, Linear, Module, Weight, memory,
    weights::{Header, Packed, Progress, Source, Stored, Tensors},
};
use mlx_rs::{Device, DeviceType};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// What becomes of packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// Dense on a CPU where memory allows, because packed products are many times slower there; packed on a GPU.
    #[default]
    Auto,
    /// As the file has them.
    Packed,
    /// Unpacked at load.
    Dense,
}

/// How a model is opened. The default suits the machine.
///
/// ```no_run
/// use framework::Dtype;
/// use zoo::{Open, Weights};
/// let model = Open { weights: Weights::Packed, dtype: Some(Dtype::Float16) }.language_model("smollm2-135m-instruct")?;
/// # Ok::<(), zoo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// What becomes of packed weights.
    pub weights: Weights,
    /// The dtype to compute in; by default f32 on a CPU and the file's own on a GPU.
    pub dtype: Option<Dtype>,
}

/// Where the files of a model are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// Where `zoo fetch` puts them.
    #[default]
    Cache,
    /// A snapshot that was downloaded.
    At(PathBuf),
}

impl<P: AsRef<Path>> From<P> for Files {
    fn from(path: P) -> Self {
        Self::At(path.as_ref().to_owned())
    }
}

/// Opens a model that makes images, by its id (`zoo models` lists them) and the place of its files. Reads no weights: a
/// request is checked and its memory planned before.
///
/// Nothing is downloaded: a model that is not on this machine is an error that says how to fetch it.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use zoo::{ImageEvent, ImageRequest};
/// let model = zoo::open("flux.1-schnell", "FLUX.1-schnell")?;
/// let request = ImageRequest { prompts: vec!["a red heart".into()], ..model.capabilities().request() };
/// let pictures = model.generate(&request, &mut |event| {
///     if let ImageEvent::Progress { stage, done, total, .. } = event {
///         println!("{} {done} of {total}", stage.name());
///     }
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(pictures.shape(), [1, 1024, 1024, 3]);
/// # Ok::<(), zoo::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownModel`], [`Error::NotFetched`], and everything that can be wrong with a snapshot.
pub fn open(id: &str, files: impl Into<Files>) -> Result<Box<dyn Generator>> {
    Open::default().generator(id, &files.into())
}

/// Opens a language model by its id (`zoo models` lists them) or by the path of a snapshot or a `.gguf` file.
///
/// Nothing is downloaded: a model that is not on this machine is an error that says how to fetch it.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use zoo::{Event, Request, text::Message};
/// let model = zoo::language_model("smollm2-135m-instruct")?;
/// let question = [Message::user("What is the capital of France?")];
/// let answer = model.chat(&question, &Request::default(), &mut |event| {
///     if let Event::Text(text) = event {
///         print!("{text}");
///     }
///     ControlFlow::Continue(())
/// })?;
/// println!("\n{:.0} tokens/s", answer.decode_rate());
/// # Ok::<(), zoo::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownModel`], [`Error::NotFetched`], and everything that can be wrong with a file.
pub fn language_model(model: &str) -> Result<LanguageModel> {
    Open::default().language_model(model)
}

impl Open {
    /// Opens a model that makes images, as these options say; see [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn generator(self, id: &str, files: &Files) -> Result<Box<dyn Generator>> {
        let row = published::find(id)?;
        let Some(capabilities) = &row.image else {
            return Err(Error::argument("id", format!("`{id}` makes no images; open it as a language model")));
        };
        let path = match files {
            Files::Cache => cache::locate(id)?,
            Files::At(path) => path.clone(),
        };
        let generator = self.generator_at(&path, false)?;
        if generator.capabilities().guidance.is_some() != capabilities.guidance.is_some() {
            let problem = format!("the files are not those of `{id}`: one of the two was distilled with a guidance");
            return Err(Error::file(path, problem));
        }
        Ok(generator)
    }

    /// Opens the snapshot of a model that makes images, whichever it is; `keep` keeps components in memory from one
    /// request to the next.
    ///
    /// # Errors
    /// When it is of no family that makes images, or incomplete.
    pub fn generator_at(self, path: &Path, keep: bool) -> Result<Box<dyn Generator>> {
        let pipeline = registry::pipeline_of(PIPELINES, path)?;
        (pipeline.open)(path, self.resolve(&(pipeline.main)(path))?, keep)
    }

    /// Opens a language model as these options say; see [`language_model`].
    ///
    /// # Errors
    /// As [`language_model`].
    pub fn language_model(self, model: &str) -> Result<LanguageModel> {
        self.language_model_with(model, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`language_model`](Self::language_model), telling `progress` the bytes that are loaded.
    ///
    /// # Errors
    /// As [`language_model`]; [`Error::Cancelled`] when `progress` breaks.
    pub fn language_model_with(self, model: &str, progress: &mut Progress<'_>) -> Result<LanguageModel> {
        let path = cache::locate(model)?;
        LanguageModel::open(&path, self.resolve(&path)?, progress)
    }

    /// The options for a file on this machine.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn resolve(self, path: &Path) -> Result<OpenOptions> {
        let source = Source::open(path)?;
        let on_cpu = matches!(Device::try_default()?.get_type()?, DeviceType::Cpu);
        let dtype = self.dtype.unwrap_or(if on_cpu { Dtype::Float32 } else { own_dtype(source.header()) });
        let unpack = match self.weights {
            Weights::Packed => false,
            Weights::Dense => true,
            Weights::Auto => on_cpu && fits(dense_bytes(&source, dtype)?),
        };
        Ok(OpenOptions { dtype, packed: if unpack { Packed::Unpack } else { Packed::Keep } })
    }
}

/// The half precision that most of a file is in, or f32.
pub(crate) fn own_dtype(header: &Header) -> Dtype {
    let bytes = |stored| -> usize {
        let of_type = header.tensors.values().filter(|info| info.dtype == stored);
        of_type.filter_map(|info| info.bytes()).sum()
    };
    match (bytes(Stored::BF16), bytes(Stored::F16)) {
        (0, 0) => Dtype::Float32,
        (wide, narrow) if wide >= narrow => Dtype::Bfloat16,
        _ => Dtype::Float16,
    }
}

/// Whether so many bytes leave a fifth of the available memory free; where the system does not tell, they do not.
fn fits(bytes: u64) -> bool {
    doctor::memory().is_some_and(|(_, available)| bytes < available / 5 * 4)
}

/// Memory of the model with every weight unpacked.
fn dense_bytes(source: &Source, dtype: Dtype) -> Result<u64> {
    let checkpoint = Checkpoint::of(source)?;
    let opened = registry::of(MODELS, &checkpoint, source.path())?.fit(&checkpoint, dtype);
    let opened = opened.map_err(|error| error.about(source.path()))?;
    Ok(unpacked_bytes(opened.module(), dtype))
}

/// Memory of a model that is opened like this.
pub(crate) fn loaded_bytes(model: &dyn Module, options: OpenOptions) -> u64 {
    match options.packed {
        Packed::Keep => memory::weights(model),
        Packed::Unpack => unpacked_bytes(model, options.dtype),
    }
}

fn unpacked_bytes(model: &dyn Module, dtype: Dtype) -> u64 {
    let count = |shape: &[i32]| shape.iter().map(|&length| length as u64).product::<u64>();
    let mut elements = 0;
    let mut packed = String::new();
    framework::walk(model, &mut |path, leaf| match leaf {
        Leaf::Linear(Linear { weight: weight @ Weight::Affine(_), .. })
        | Leaf::Embedding(Embedding { weight: weight @ Weight::Affine(_) }) => {
            elements += count(&weight.shape());
            packed = path.to_owned();
        }
        Leaf::Param(param) => {
            let (holder, name) = path.rsplit_once('.').unwrap_or_default();
            if holder != packed || !["weight", "scales", "biases"].contains(&name) {
                elements += count(&param.shape());
            }
        }
        Leaf::Branch | Leaf::Linear(_) | Leaf::Embedding(_) => {}
    });
    elements * if dtype == Dtype::Float32 { 4 } else { 2 }
}
