//! Recipes: what is trained, on what, and how.

use crate::{Error, Result};
use framework::{
    Dtype,
    sample::Shift,
    train::{Adam, Average, Decay, Rate, Timesteps, Weighting},
    weights::Pattern,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A training as a TOML file describes it. Every key is read, and paths are relative to the file.
///
/// ```
/// let recipe = zoo::train::Recipe::parse(
///     r#"
///     kind = "tokenizer"
///     out = "tokenizer"
///     data = { folder = "pictures" }
///     vocabulary = 1024
///     "#,
/// )?;
/// assert!(matches!(recipe, zoo::train::Recipe::Tokenizer(_)));
/// # Ok::<(), zoo::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum Recipe {
    /// A byte-level BPE, from the captions.
    Tokenizer(TokenizerRecipe),
    /// An image autoencoder.
    Autoencoder(Box<AutoencoderRecipe>),
    /// A transformer that makes pictures from texts, in an autoencoder's latents.
    TextToImage(Box<TextToImageRecipe>),
}

/// What a recipe of a tokenizer says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    #[serde(rename = "kind")]
    _kind: Kind,
    /// The folder to write into.
    pub out: PathBuf,
    /// Pictures with captions.
    pub data: Captioned,
    /// Tokens, the special ones among them.
    pub vocabulary: usize,
}

/// Where captions are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captioned {
    /// The folder with `metadata.jsonl`.
    pub folder: PathBuf,
}

/// What a recipe of an autoencoder says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderRecipe {
    #[serde(rename = "kind")]
    _kind: Kind,
    /// The folder to write into.
    pub out: PathBuf,
    /// Every draw follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Pictures.
    pub data: Pictures,
    /// diffusers' `config.json` of an `AutoencoderKL`.
    pub config: PathBuf,
    /// What is minimised.
    #[serde(default)]
    pub loss: Reconstruction,
    /// How.
    pub training: Training,
    /// When what is learned is written.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// How many pictures the sheets of reconstructions show.
    #[serde(default = "eight")]
    pub samples: usize,
}

/// What a recipe of a text-to-image model says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextToImageRecipe {
    #[serde(rename = "kind")]
    _kind: Kind,
    /// The folder to write into.
    pub out: PathBuf,
    /// Every draw follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Pictures with captions.
    pub data: Pictures,
    /// The parts of the model.
    pub model: Parts,
    /// What is minimised.
    #[serde(default)]
    pub loss: Denoising,
    /// How.
    pub training: Training,
    /// When what is learned is written.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// What the model's users are recommended.
    pub recommended: Recommended,
    /// The prompts of the sample sheets.
    pub samples: Vec<String>,
}

/// The examples, and how they are varied.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictures {
    /// The folder with `metadata.jsonl`.
    pub folder: PathBuf,
    /// Width and height that every picture is brought to.
    pub side: u32,
    /// How often a picture is mirrored; 0 is never, and fits whatever shows writing.
    #[serde(default)]
    pub flip: f64,
    /// How often a caption is left out, so that the model can be guided away from nothing.
    #[serde(default)]
    pub drop: f64,
}

/// The parts of a text-to-image model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The config of a composed transformer, which is trained.
    pub transformer: PathBuf,
    /// The config of a composed text encoder, which is trained with it; or the folder of a trained one, which stays as
    /// it is. Without one the transformer reads token ids.
    pub text_encoder: Option<PathBuf>,
    /// The folder of a tokenizer.
    pub tokenizer: PathBuf,
    /// The folder of a trained `AutoencoderKL`.
    pub vae: PathBuf,
    /// Tokens that every caption is padded or cut to.
    pub text_tokens: usize,
    /// How far the sampler's noise levels are shifted towards noise; 1 is not at all.
    #[serde(default = "one")]
    pub shift: f64,
}

/// How a model is best used: a request's defaults.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommended {
    /// Steps of the sampler.
    pub steps: usize,
    /// The scale of classifier-free guidance; 1 is none.
    pub guidance: f64,
}

/// What an autoencoder minimises: the sum of these, each times its weight.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reconstruction {
    /// The mean distance of pixels in −1..1.
    pub l1: f64,
    /// The mean distance of the differences between neighbouring pixels, which keeps edges sharp.
    pub gradient: f64,
    /// The mean divergence of a latent's distribution from a standard normal one.
    pub kl: f64,
}

impl Default for Reconstruction {
    fn default() -> Self {
        Self { l1: 1.0, gradient: 1.0, kl: 1e-4 }
    }
}

/// What a text-to-image model minimises: the weighted square error of the velocity, by flow matching.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denoising {
    /// Which noise levels are trained.
    #[serde(default = "logit_normal")]
    pub timesteps: Timesteps,
    /// How much a level counts.
    #[serde(default)]
    pub weighting: Weighting,
}

impl Default for Denoising {
    fn default() -> Self {
        Self { timesteps: logit_normal(), weighting: Weighting::default() }
    }
}

/// How parameters are moved.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// After how many steps the training is over.
    pub steps: u64,
    /// Examples a step.
    pub batch: usize,
    /// In how many parts a batch is computed, one after the other: less memory, the same step.
    #[serde(default = "once")]
    pub accumulate: usize,
    /// The learning rate.
    pub rate: Rate,
    /// What moves them.
    #[serde(default)]
    pub optimiser: OptimiserSettings,
    /// The largest norm of the gradient.
    pub clip: Option<f64>,
    /// The running average, which is what is shown and saved.
    pub average: Option<Average>,
    /// What is computed in; parameters are kept in f32 beside that.
    #[serde(default)]
    pub precision: Precision,
    /// Whether a step is traced once and fused.
    #[serde(default)]
    pub compiled: bool,
    /// Which parameters are trained, by patterns of their paths; others stay as they began.
    pub only: Option<Vec<String>>,
    /// Parameters that begin otherwise than their layers do.
    #[serde(default)]
    pub initial: Vec<Initial>,
}

/// What a step computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    #[default]
    Float32,
    /// bf16, with f32 parameters, gradients and optimiser.
    Bfloat16,
}

impl Precision {
    /// As a dtype.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// An optimiser.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimiserSettings {
    /// Adam: decay is added to the gradient.
    Adam {
        /// How much of the means stays.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Beside the root of the mean square.
        #[serde(default = "eps")]
        eps: f64,
        /// How strongly matrices are drawn to zero.
        #[serde(default)]
        decay: f64,
    },
    /// AdamW: decay is apart from the gradient.
    Adamw {
        /// How much of the means stays.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Beside the root of the mean square.
        #[serde(default = "eps")]
        eps: f64,
        /// How strongly matrices are drawn to zero.
        #[serde(default = "hundredth")]
        decay: f64,
    },
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        Self::Adamw { betas: betas(), eps: eps(), decay: hundredth() }
    }
}

impl OptimiserSettings {
    /// The optimiser.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn build(self) -> Result<Adam> {
        let (betas, eps, strength, decay) = match self {
            Self::Adam { betas, eps, decay } => (betas, eps, decay, Decay::Coupled(decay)),
            Self::Adamw { betas, eps, decay } => (betas, eps, decay, Decay::Decoupled(decay)),
        };
        for (name, value, most) in [("betas", betas.0, 1.0), ("betas", betas.1, 1.0)] {
            if !(0.0..most).contains(&value) {
                return Err(Error::argument(name, format!("{value} is not at least 0 and below {most}")));
            }
        }
        for (name, value) in [("eps", eps), ("decay", strength)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::argument(name, format!("{value} is not a number of 0 or above")));
            }
        }
        Ok(Adam { betas, eps, decay, ..Adam::default() })
    }
}

/// How the parameters of some paths begin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initial {
    /// A pattern of paths: `*` stands for one name, `**` for any number.
    pub paths: String,
    /// Normal with this standard deviation; 0 makes them zero.
    pub deviation: f32,
}

/// When what is learned is written.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps from one checkpoint, with its snapshot and samples, to the next.
    pub every: u64,
    /// The most bytes of a file of the slim checkpoint, in units of 10⁶.
    pub part_megabytes: u64,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 1000, part_megabytes: 16 }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Tokenizer,
    Autoencoder,
    TextToImage,
}

fn one() -> f64 {
    1.0
}

fn once() -> usize {
    1
}

fn eight() -> usize {
    8
}

fn betas() -> (f64, f64) {
    (0.9, 0.999)
}

fn eps() -> f64 {
    1e-8
}

fn hundredth() -> f64 {
    0.01
}

fn logit_normal() -> Timesteps {
    Timesteps::LogitNormal { mean: 0.0, deviation: 1.0, shift: Shift::None }
}

impl Recipe {
    /// Reads a recipe; its paths become relative to the current folder.
    ///
    /// # Errors
    /// When the file cannot be read, and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::file(path, error.to_string()))?;
        let mut recipe = Self::parse(&text).map_err(|error| error.about(path))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for place in recipe.places() {
            *place = folder.join(&place);
        }
        Ok(recipe)
    }

    /// Parses a recipe, and checks every number.
    ///
    /// # Errors
    /// Names the line of an unknown key or a value of another type, and the key of a value out of its range.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            kind: Kind,
        }
        let recipe = match toml_of::<Head>(text)?.kind {
            Kind::Tokenizer => Self::Tokenizer(toml_of(text)?),
            Kind::Autoencoder => Self::Autoencoder(toml_of(text)?),
            Kind::TextToImage => Self::TextToImage(toml_of(text)?),
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// The folder that is written into.
    pub fn out(&self) -> &Path {
        match self {
            Self::Tokenizer(recipe) => &recipe.out,
            Self::Autoencoder(recipe) => &recipe.out,
            Self::TextToImage(recipe) => &recipe.out,
        }
    }

    /// Puts another folder of pictures in the place of the recipe's.
    pub fn set_data(&mut self, folder: &Path) {
        self.places().into_iter().skip(1).take(1).for_each(|place| *place = folder.to_owned());
    }

    /// Puts another folder to write into in the place of the recipe's.
    pub fn set_out(&mut self, folder: &Path) {
        self.places().into_iter().take(1).for_each(|place| *place = folder.to_owned());
    }

    /// What is written into, the pictures, and then all that a kind has of its own.
    fn places(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Tokenizer(recipe) => vec![&mut recipe.out, &mut recipe.data.folder],
            Self::Autoencoder(recipe) => vec![&mut recipe.out, &mut recipe.data.folder, &mut recipe.config],
            Self::TextToImage(recipe) => {
                let Parts { transformer, text_encoder, tokenizer, vae, .. } = &mut recipe.model;
                let always = [&mut recipe.out, &mut recipe.data.folder, transformer, tokenizer, vae];
                always.into_iter().chain(text_encoder).collect()
            }
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            // Every byte is a token, and texts are padded and ended by one of their own.
            Self::Tokenizer(recipe) => within("vocabulary", recipe.vocabulary as f64, 258.0, 1e6),
            Self::Autoencoder(recipe) => {
                let Reconstruction { l1, gradient, kl } = recipe.loss;
                for (name, weight) in [("loss.l1", l1), ("loss.gradient", gradient), ("loss.kl", kl)] {
                    within(name, weight, 0.0, 1e6)?;
                }
                within("samples", recipe.samples as f64, 1.0, 256.0)?;
                recipe.data.check()?;
                recipe.training.check()?;
                recipe.checkpoints.check()
            }
            Self::TextToImage(recipe) => {
                within("samples", recipe.samples.len() as f64, 1.0, 256.0)?;
                within("model.text_tokens", recipe.model.text_tokens as f64, 1.0, 4096.0)?;
                within("model.shift", recipe.model.shift, 1e-3, 1e3)?;
                within("recommended.steps", recipe.recommended.steps as f64, 1.0, 10_000.0)?;
                within("recommended.guidance", recipe.recommended.guidance, 0.0, 1e3)?;
                recipe.data.check()?;
                recipe.training.check()?;
                recipe.checkpoints.check()
            }
        }
    }
}

impl Pictures {
    fn check(&self) -> Result<()> {
        within("data.side", self.side.into(), 8.0, 4096.0)?;
        within("data.flip", self.flip, 0.0, 1.0)?;
        within("data.drop", self.drop, 0.0, 1.0)
    }
}

impl Training {
    fn check(&self) -> Result<()> {
        within("training.steps", self.steps as f64, 1.0, 1e9)?;
        within("training.batch", self.batch as f64, 1.0, 1e5)?;
        within("training.accumulate", self.accumulate as f64, 1.0, self.batch as f64)?;
        if self.batch.checked_rem(self.accumulate) != Some(0) {
            let problem = format!("a batch of {} has no {} equal parts", self.batch, self.accumulate);
            return Err(Error::argument("training.accumulate", problem));
        }
        for initial in &self.initial {
            within("training.initial.deviation", initial.deviation.into(), 0.0, 1e3)?;
            initial.pattern()?;
        }
        self.patterns()?;
        self.optimiser.build()?;
        Ok(self.rate.check()?)
    }

    /// The patterns of the paths that are trained, if not all are.
    pub(super) fn patterns(&self) -> Result<Option<Vec<Pattern>>> {
        self.only.as_ref().map(|only| only.iter().map(|text| pattern("training.only", text)).collect()).transpose()
    }
}

impl Initial {
    pub(super) fn pattern(&self) -> Result<Pattern> {
        pattern("training.initial.paths", &self.paths)
    }
}

impl Checkpoints {
    fn check(&self) -> Result<()> {
        within("checkpoints.every", self.every as f64, 1.0, 1e9)?;
        within("checkpoints.part_megabytes", self.part_megabytes as f64, 1.0, 1e6)
    }
}

fn pattern(name: &str, text: &str) -> Result<Pattern> {
    Pattern::parse(text).map_err(|error| match error {
        framework::Error::Rule { problem, .. } => Error::argument(name, problem),
        other => other.into(),
    })
}

fn within(name: &str, value: f64, least: f64, most: f64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::argument(name, format!("{value} is not within {least} and {most}")))
}

fn toml_of<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| Error::argument("recipe", error.to_string().trim_end().to_owned()))
}
