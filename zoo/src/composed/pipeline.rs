//! From a prompt to pictures with a transformer that its config describes.

use super::{
    Composed, ComposedTransformer, Encoder, Inputs,
    feed::{ENCODED, Feed, TOKENS, Texts},
};
use crate::{
    Arguments, Error, Generator, OpenOptions, Outputs, Result,
    autoencoder_kl::AutoencoderKl,
    component::Component,
    image::{
        Capabilities, Conditioning, Core, Diffusion, Evaluation, ImageRequest, Plan, Planned, Prompts, Reading,
        TextTokens, Tokens, Velocity, Watch, case::Call,
    },
    registry::Pipeline,
    text::required_json,
};
use framework::{
    Array, Dtype, Result as Outcome, math, memory,
    sample::{Condition, Method},
    tap,
};
use mlx_rs::ops;
use serde::Deserialize;
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// From noise to pictures.
pub const TEXT_TO_IMAGE: Pipeline = Pipeline { names: &["ComposedPipeline"], main: transformer_of, open, run };

fn transformer_of(snapshot: &Path) -> PathBuf {
    snapshot.join("transformer")
}

fn open(snapshot: &Path, options: OpenOptions, keep: bool) -> Result<Box<dyn Generator>> {
    Ok(Box::new(ComposedPipeline::open(snapshot, options, keep)?))
}

fn run(components: &Path, options: OpenOptions, arguments: &mut Arguments) -> Result<Outputs> {
    let mut call = Call::take(arguments)?;
    let pipeline = ComposedPipeline::open(components, options, false)?;
    // What a guided request without a negative prompt is led away from.
    let guided = call.request(&pipeline.core.capabilities, None).is_guided();
    call.negative = call.negative.or(Some(vec![String::new()])).filter(|_| guided);
    let read = |texts: &[String], length| Ok([pipeline.tokenizer.read(texts, length)?]);
    call.run(&pipeline, None, read, arguments)
}

/// A flow-matching transformer described by its config with an autoencoder and, unless the transformer reads tokens
/// itself, a text encoder described in the same way; a [`Generator`].
///
/// `docs/composed.md` says what stands in the folder. A component is in memory while its part runs; kept, it stays for the
/// next request.
pub struct ComposedPipeline {
    core: Core,
    transformer: Component<Composed>,
    text_encoder: Option<TextEncoder>,
    tokenizer: Prompts,
    feed: Feed,
    /// Features of the text encoder's states.
    encoded: Option<i32>,
}

/// What of `model_index.json` is read here.
#[derive(Deserialize)]
struct Index {
    recommended: Option<Recommended>,
}

/// What its makers recommend.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recommended {
    /// Width and height in pixels.
    size: [i32; 2],
    steps: usize,
    /// The scale of classifier-free guidance; 1 is off.
    guidance: f64,
    text_tokens: usize,
}

/// The text encoder and what of it the rest has to know.
struct TextEncoder {
    component: Component<Composed>,
    described: Encoder,
}

impl TextEncoder {
    fn open(path: PathBuf, options: OpenOptions, keep: bool) -> Result<Self> {
        let (component, model) = Component::<Composed>::new(path.clone(), "text_encoder", options, keep)?;
        let described = Encoder::of(&model).map_err(|error| Error::from(error).about(&path))?;
        Ok(Self { component, described })
    }

    /// Some rows of tokens `[N, T]` → states `[B, T, D]`.
    fn states(&self, model: &ComposedTransformer, tokens: &Tokens, rows: Range<i32>) -> Outcome<Array> {
        let some = |x: &Array| math::slice(x, 0, rows.start, rows.end);
        self.described.states(model, &some(&tokens.ids)?, &some(&tokens.mask)?)
    }
}

/// Texts that nobody wrote, `[B, T]`.
fn blank(shape: &[i32]) -> Outcome<Tokens> {
    Ok(Tokens { ids: Array::zeros::<i32>(shape)?, mask: Array::ones::<bool>(shape)? })
}

impl ComposedPipeline {
    /// Opens a snapshot: the folder that holds `model_index.json`, `transformer` and so on. Reads no weights.
    ///
    /// # Errors
    /// When a component is missing, or does not fit.
    pub fn open(path: &Path, options: OpenOptions, keep: bool) -> Result<Self> {
        let index = path.join("model_index.json");
        let Index { recommended } = required_json(&index)?;
        let none =
            || Error::file(&index, "has no `recommended`; it says `size`, `steps`, `guidance` and `text_tokens`");
        let recommended = recommended.ok_or_else(none)?;
        let (vae, autoencoder) = Component::<AutoencoderKl>::new(path.join("vae"), "vae", options, keep)?;
        let encoder = Some(path.join("text_encoder")).filter(|folder| folder.exists());
        let encoder = encoder.map(|folder| TextEncoder::open(folder, options, keep)).transpose()?;
        let (transformer, built) = Component::<Composed>::new(transformer_of(path), "transformer", options, keep)?;
        let misfit = |error: framework::Error| Error::from(error).about(&transformer_of(path));
        let described = encoder.as_ref().map(|encoder| encoder.described);
        let feed = Feed::new(&built, autoencoder.channels(), described).map_err(misfit)?;
        if encoder.is_some() && !feed.is_encoded() {
            let problem = format!("the transformer reads no `{ENCODED}`; delete this folder, or name that input");
            return Err(Error::file(path.join("text_encoder"), problem));
        }
        let tokenizer = Prompts::open(path.join("tokenizer"), feed.vocabulary)?;
        let own = encoder.as_ref().and_then(|encoder| encoder.described.longest);
        let places = [own, built.longest(TOKENS), built.longest(ENCODED)];
        let longest = places.into_iter().flatten().map(|longest| longest as usize).chain(tokenizer.longest()?).min();
        let capabilities = Capabilities {
            size: recommended.size,
            multiple: autoencoder.factor().saturating_mul(feed.patch),
            steps: recommended.steps,
            guidance: None,
            true_guidance: Some(recommended.guidance),
            text_tokens: TextTokens {
                recommended: recommended.text_tokens,
                most: longest.unwrap_or(recommended.text_tokens),
            },
            samplers: Method::NAMES.iter().map(ToString::to_string).collect(),
            conditioning: vec![Conditioning::InitImage],
            adapters: Vec::new(),
            quantisations: Vec::new(),
        };
        let request = ImageRequest { prompts: vec![String::new()], ..capabilities.request() };
        capabilities.validate(&request).map_err(|error| error.about(&index))?;
        let pipeline = Self {
            core: Core::open(path, capabilities, (vae, &autoencoder), feed.patch, options, keep)?,
            transformer,
            text_encoder: encoder,
            tokenizer,
            feed,
            encoded: described.map(|encoder| encoder.features),
        };
        pipeline.check(&built, &request).map_err(misfit)?;
        Ok(pipeline)
    }

    /// Refuses a transformer whose output is no velocity of its patches. Computes nothing.
    fn check(&self, model: &ComposedTransformer, request: &ImageRequest) -> Outcome<()> {
        let texts = self.no_texts(request)?;
        let shape = self.core.noise(request, 1);
        let x = ops::zeros_dtype(&shape, Dtype::Float32)?;
        let evaluation = Evaluation { x: &x, sigma: 1.0, condition: Condition::Towards, rows: 0..1 };
        let velocity = self.scene(model, request, &texts)?.velocity(&evaluation)?;
        if velocity.shape() != shape {
            let problem = format!("shape {:?} where the velocity of {shape:?} is needed", velocity.shape());
            return Err(framework::Error::argument(model.output(), problem));
        }
        Ok(())
    }

    /// Texts of zeros, as many as a request has.
    fn no_texts(&self, request: &ImageRequest) -> Outcome<Encoded> {
        let read = Reading::of(request);
        let shape = [read.count(), request.text_tokens as i32];
        let states = |features| ops::zeros_dtype(&[shape[0], shape[1], features], self.core.dtype);
        Ok(Encoded { tokens: blank(&shape)?, hidden: self.encoded.map(states).transpose()?, read })
    }
}

/// Texts as the transformer reads them, each once.
pub struct Encoded {
    /// `[N, T]`.
    tokens: Tokens,
    /// `[N, T, D]`, of the text encoder if there is one.
    hidden: Option<Array>,
    read: Reading,
}

impl Diffusion for ComposedPipeline {
    type Texts = Encoded;
    type Denoiser = Composed;

    fn core(&self) -> &Core {
        &self.core
    }

    fn text_parts(&self, request: &ImageRequest) -> Result<Vec<Planned>> {
        let Some(encoder) = &self.text_encoder else { return Ok(Vec::new()) };
        let texts = Reading::of(request).count().min(request.at_once());
        let tokens = blank(&[texts, request.text_tokens as i32])?;
        let working = |model: &ComposedTransformer| memory::working(model, || encoder.states(model, &tokens, 0..texts));
        Ok(vec![encoder.component.plan("encode", working)?])
    }

    fn denoiser_part(&self, request: &ImageRequest) -> Result<Planned> {
        let pictures = request.at_once();
        let x = ops::zeros_dtype(&self.core.noise(request, pictures), Dtype::Float32)?;
        let texts = self.no_texts(request)?;
        self.transformer.plan("denoise", |model| {
            let scene = self.scene(model, request, &texts)?;
            let evaluation = Evaluation { x: &x, sigma: 1.0, condition: Condition::Towards, rows: 0..pictures };
            memory::working(model, || scene.velocity(&evaluation))
        })
    }

    fn encode(
        &self,
        request: &ImageRequest,
        plan: &Plan,
        watch: &Watch<'_>,
        encoded: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Encoded> {
        let read = Reading::of(request);
        let tokens = tap::named("tokenizer", self.tokenizer.read(&read.texts, request.text_tokens)?);
        let hidden = self.text_encoder.as_ref().map(|encoder| {
            encoder.component.with(plan, watch, |model| {
                let encode = |rows| encoder.states(model, &tokens, rows);
                read.encode(request.at_once(), self.core.dtype, &encode, encoded)
            })
        });
        Ok(Encoded { hidden: hidden.transpose()?, tokens, read })
    }

    fn encodings(&self, request: &ImageRequest) -> u64 {
        self.text_encoder.as_ref().map_or(0, |_| Reading::of(request).parts(request.at_once()).len() as u64)
    }

    fn kept(&self) -> u64 {
        let encoder = self.text_encoder.as_ref().map_or(0, |encoder| encoder.component.kept());
        self.transformer.kept() + encoder + self.core.vae.kept()
    }

    fn denoiser(&self) -> &Component<Composed> {
        &self.transformer
    }

    fn scene<'a>(
        &'a self,
        transformer: &'a ComposedTransformer,
        request: &ImageRequest,
        texts: &'a Encoded,
    ) -> Outcome<Box<dyn Velocity + 'a>> {
        let places = self.feed.places(self.core.grid(request), request.text_tokens)?;
        Ok(Box::new(Scene { transformer, pipeline: self, texts, places }))
    }
}

/// What stays the same from step to step.
struct Scene<'a> {
    transformer: &'a ComposedTransformer,
    pipeline: &'a ComposedPipeline,
    texts: &'a Encoded,
    places: Inputs,
}

impl Velocity for Scene<'_> {
    fn velocity(&self, evaluation: &Evaluation<'_>) -> Outcome<Array> {
        let Encoded { tokens: Tokens { ids, mask }, hidden, read } = self.texts;
        let places = read.places(evaluation)?;
        let of = |x: &Array| x.take_axis(&places, 0);
        let texts = Texts { ids: of(ids)?, mask: of(mask)?, hidden: hidden.as_ref().map(of).transpose()? };
        let rows = evaluation.rows.len();
        let sigma = math::array(&vec![evaluation.sigma as f32; rows], &[rows as i32])?;
        let x = evaluation.x.as_dtype(self.pipeline.core.dtype)?;
        let inputs = self.pipeline.feed.inputs(x, sigma, texts, &self.places);
        Ok(self.transformer.forward(&inputs)?.as_dtype(Dtype::Float32)?)
    }
}
