//! From a prompt to pictures with FLUX.1: encode, denoise, decode.

use super::{Flux, FluxInput, FluxTransformer};
use crate::{
    Error, OpenOptions, Result,
    autoencoder_kl::AutoencoderKl,
    clip::{Clip, ClipText},
    stage::Stage,
    t5::{T5, T5Encoder},
    text::{Tokenizer, padded, read_json},
};
use framework::{
    Angles, Array, Dtype, Positions, math,
    sample::{Flow, Method, Noising, Prediction, Resolution, Rng, Schedule, Shift},
    vae::Gaussian,
};
use mlx_rs::ops;
use serde::{Deserialize, de::DeserializeOwned};
use std::{cell::RefCell, ops::ControlFlow, path::Path};

/// Pixels that a packed latent stands for, along each axis: the autoencoder's 8, times 2.
const PATCH: i32 = 16;

/// FLUX.1 with its text encoders and its autoencoder, ready to paint.
///
/// ```no_run
/// use framework::sample::Seeded;
/// use std::{ops::ControlFlow, path::Path};
/// use zoo::{FluxPipeline, ImageRequest, Open};
/// let folder = Path::new("FLUX.1-schnell");
/// let options = Open::default().resolve(&folder.join("transformer"))?;
/// let pipeline = FluxPipeline::open(folder, options, false)?;
/// let request = ImageRequest { prompts: vec!["a red heart".into()], ..pipeline.recommended() };
/// let mut rng = Seeded::rows(&[7])?;
/// let pictures = pipeline.generate(&request, &mut rng, None, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(pictures.shape(), [1, 1024, 1024, 3]);
/// # Ok::<(), zoo::Error>(())
/// ```
///
/// A component is in memory while its stage runs; kept, it stays for the next request.
pub struct FluxPipeline {
    transformer: Stage<Flux>,
    text_encoder: Stage<Clip>,
    text_encoder_2: Stage<T5>,
    vae: Stage<AutoencoderKl>,
    tokenizer: Prompts,
    tokenizer_2: Prompts,
    scheduler: Scheduler,
    guided: bool,
    channels: i32,
    dtype: Dtype,
}

/// A tokenizer that pads every text to one length.
struct Prompts {
    tokenizer: Tokenizer,
    pad: u32,
    longest: usize,
}

/// diffusers' `FlowMatchEulerDiscreteScheduler`, as far as FLUX.1's snapshots set it.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Scheduler {
    #[serde(default)]
    use_dynamic_shifting: bool,
    #[serde(default = "unshifted")]
    shift: f64,
    #[serde(flatten)]
    resolution: Resolution,
}

fn unshifted() -> f64 {
    1.0
}

/// What is asked of the pipeline: a picture for each prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRequest {
    /// One text a picture.
    pub prompts: Vec<String>,
    /// What pictures should not be, where `true_guidance` is above 1; nothing is the empty text.
    pub negative_prompt: Option<String>,
    /// Pixels, a multiple of 16.
    pub width: i32,
    /// Pixels, a multiple of 16.
    pub height: i32,
    /// How many noise levels there are.
    pub steps: usize,
    /// How the picture moves from one level to the next; some samplers evaluate the model more than once a step.
    pub sampler: Method,
    /// The guidance that dev models were distilled with; schnell models do not read it.
    pub guidance: f32,
    /// Classifier-free guidance, which evaluates the model twice a step (<https://arxiv.org/abs/2207.12598>); 1 is off.
    pub true_guidance: f64,
    /// Tokens of the long text encoder.
    pub text_tokens: usize,
    /// Pixels of a tile's side in decoding, a multiple of 64; nothing decodes the picture whole. Tiles bound the memory of
    /// large pictures.
    pub tile: Option<i32>,
}

impl Default for ImageRequest {
    /// dev's own settings, without a prompt.
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            negative_prompt: None,
            width: 1024,
            height: 1024,
            steps: 28,
            sampler: Method::Euler,
            guidance: 3.5,
            true_guidance: 1.0,
            text_tokens: 512,
            tile: None,
        }
    }
}

impl ImageRequest {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |fits: bool, name: &str, problem: String| {
            if fits { Ok(()) } else { Err(Error::argument(name, problem)) }
        };
        check(!self.prompts.is_empty(), "prompts", "there is none: one text a picture".into())?;
        for (name, pixels) in [("width", self.width), ("height", self.height)] {
            let fits = pixels > 0 && pixels % PATCH == 0;
            check(fits, name, format!("{pixels} is not a multiple of {PATCH} above 0"))?;
        }
        let bytes = i64::from(self.width) * i64::from(self.height) * 3;
        let problem =
            format!("{} x {} pixels are more than {} bytes, the most of a picture", self.width, self.height, i32::MAX);
        check(bytes <= i32::MAX.into(), "width", problem)?;
        check(self.steps > 0, "steps", "0 steps leave noise; ask for at least 1".into())?;
        self.sampler.validate()?;
        check(self.guidance.is_finite(), "guidance", format!("{} is not a number", self.guidance))?;
        let fits = self.true_guidance.is_finite() && self.true_guidance >= 1.0;
        check(fits, "true_guidance", format!("{} is not 1 or more", self.true_guidance))?;
        if let Some(tile) = self.tile {
            check(tile > 0 && tile % 64 == 0, "tile", format!("{tile} is not a multiple of 64 above 0"))?;
        }
        check(self.text_tokens > 0, "text_tokens", "0 tokens hold no text".into())
    }

    fn latents(&self) -> [i32; 2] {
        [self.height / PATCH, self.width / PATCH]
    }
}

/// A picture to begin from instead of noise alone.
#[derive(Clone, Debug)]
pub struct InitImage {
    /// `[B or 1, H, W, 3]`, bytes.
    pub pixels: Array,
    /// The share of the steps that is done: from above 0, which keeps the picture, to 1, which forgets it.
    pub strength: f64,
    /// Noise for the autoencoder's distribution, `[B or 1, H/8, W/8, C]`; without it the mean is taken.
    pub posterior_noise: Option<Array>,
}

impl InitImage {
    fn validate(&self, request: &ImageRequest) -> Result<()> {
        let [_, height, width, channels] = math::shape(&self.pixels)?;
        if [height, width, channels] == [request.height, request.width, 3] && self.pixels.dtype() == Dtype::Uint8 {
            return Ok(());
        }
        let found = format!("{:?} of {:?}", self.pixels.shape(), self.pixels.dtype());
        let problem = format!("{found} where bytes [B, {}, {}, 3] are needed", request.height, request.width);
        Err(Error::argument("pixels", problem))
    }
}

/// What happens while pictures are made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ImageEvent<'a> {
    /// A component is being loaded.
    Load {
        /// Its name in the snapshot.
        component: &'static str,
        /// Bytes loaded.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The prompts are encoded.
    Encoded,
    /// So many of so many steps are done; these are the packed latents `[B, L, C]`.
    Step {
        /// Steps done, from 1.
        done: usize,
        /// Steps in all.
        total: usize,
        /// Packed latents after the step.
        latents: &'a Array,
    },
    /// So many of so many tiles are decoded.
    Tile {
        /// Tiles done, from 1.
        done: usize,
        /// Tiles in all.
        total: usize,
    },
}

/// Prompts as the transformer reads them.
struct Encoded {
    hidden: Array,
    pooled: Array,
}

/// What pictures should be, and what they should not be.
struct Texts {
    towards: Encoded,
    away: Option<Encoded>,
}

impl FluxPipeline {
    /// Opens a diffusers snapshot: the folder that holds `transformer`, `text_encoder` and so on. Reads no weights.
    ///
    /// # Errors
    /// When a component is missing, or does not fit.
    pub fn open(path: &Path, options: OpenOptions, keep: bool) -> Result<Self> {
        let (transformer, built) = Stage::<Flux>::new(path, "transformer", options, keep)?;
        Ok(Self {
            transformer,
            text_encoder: Stage::new(path, "text_encoder", options, keep)?.0,
            text_encoder_2: Stage::new(path, "text_encoder_2", options, keep)?.0,
            vae: Stage::new(path, "vae", options, keep)?.0,
            tokenizer: Prompts::open(&path.join("tokenizer"))?,
            tokenizer_2: Prompts::open(&path.join("tokenizer_2"))?,
            scheduler: required(&path.join("scheduler/scheduler_config.json"))?,
            guided: built.is_guided(),
            channels: built.channels(),
            dtype: options.dtype,
        })
    }

    /// What the model's authors recommend for a prompt: many steps and a guidance for dev models, few steps for
    /// schnell models.
    pub fn recommended(&self) -> ImageRequest {
        match self.guided {
            true => ImageRequest::default(),
            false => ImageRequest { steps: 4, text_tokens: 256, ..ImageRequest::default() },
        }
    }

    /// Makes a picture for each prompt: `[B, H, W, 3]`, bytes. With a picture to begin from, noise is mixed into it
    /// (<https://arxiv.org/abs/2108.01073>).
    ///
    /// The first noise that is drawn is the packed latents `[B, (H/16)·(W/16), C]`; some samplers draw more. With
    /// [`Seeded::rows`](framework::sample::Seeded::rows) a picture does not depend on which others are made with it.
    ///
    /// # Errors
    /// When a value of the request is out of its range, `rng` has no such noise, a stage yields NaN or infinity;
    /// [`Error::Cancelled`] when the observer breaks.
    pub fn generate(
        &self,
        request: &ImageRequest,
        rng: &mut dyn Rng,
        init: Option<&InitImage>,
        observer: &mut dyn FnMut(ImageEvent<'_>) -> ControlFlow<()>,
    ) -> Result<Array> {
        request.validate()?;
        let [rows, columns] = request.latents();
        let (batch, tokens) = (request.prompts.len() as i32, rows * columns);
        let mut x = rng.normal(&[batch, tokens, self.channels], Dtype::Float32)?;
        let mut schedule = self.schedule(request.steps, tokens as usize)?;
        if let Some(init) = init {
            init.validate(request)?;
            schedule = schedule.with_strength(init.strength)?;
        }
        let tell = RefCell::new(observer);
        let texts = self.encode(request, &tell)?;
        told(&tell, ImageEvent::Encoded)?;
        if let Some(init) = init {
            let first = schedule.sigmas().first().copied().unwrap_or(1.0);
            x = Noising::Flow.noised(&self.begin(init, &tell)?, &x, first)?;
        }
        let x = self.transformer.with(&mut loading(&tell), |transformer| {
            let scene = Scene::new(transformer, request, &texts, self)?;
            let mut sampler = request.sampler.sampler::<f64>(Noising::Flow, schedule.steps());
            for (step, (sigma, next)) in schedule.spans().enumerate() {
                let mut denoise = |x: &Array, sigma: f64| {
                    let velocity = scene.velocity(x, sigma)?;
                    Prediction::Flow.denoised(Noising::Flow, &velocity, x, sigma)
                };
                x = sampler.step(&mut denoise, &x, sigma, next, rng)?;
                finite(&x, "denoising")?;
                told(&tell, ImageEvent::Step { done: step + 1, total: schedule.steps(), latents: &x })?;
            }
            Ok(x)
        })?;
        self.decode(&x, request, &tell)
    }

    /// The noise levels of so many steps over so many image tokens.
    pub fn schedule(&self, steps: usize, tokens: usize) -> Result<Schedule<f64>> {
        let shift = match self.scheduler {
            Scheduler { use_dynamic_shifting: true, resolution, .. } => {
                Shift::Exponential { mu: resolution.mu(tokens) }
            }
            Scheduler { shift, .. } => Shift::Algebraic { shift },
        };
        Ok(Flow::even(shift).schedule(steps)?)
    }

    /// Token ids of the prompts, for the short and for the long text encoder: `[B, tokens]` each.
    pub fn tokens(&self, prompts: &[String], text_tokens: usize) -> Result<[Array; 2]> {
        let long = text_tokens.min(self.tokenizer_2.longest);
        Ok([self.tokenizer.ids(prompts, self.tokenizer.longest)?, self.tokenizer_2.ids(prompts, long)?])
    }

    /// The prompts, and where they count the negative ones, in the pipeline's dtype.
    fn encode(&self, request: &ImageRequest, tell: &Tell<'_, '_>) -> Result<Texts> {
        let mut prompts = request.prompts.clone();
        let guided = request.true_guidance > 1.0;
        if guided {
            let negative = request.negative_prompt.clone().unwrap_or_default();
            prompts.resize(2 * prompts.len(), negative);
        }
        let [short, long] = self.tokens(&prompts, request.text_tokens)?;
        let settled = |x: Array| -> Result<Array> {
            let x = x.as_dtype(self.dtype)?;
            finite(&x, "encoding")?;
            Ok(x)
        };
        let pooled = |model: &ClipText| settled(model.forward(&short, None)?.pooled);
        let pooled = self.text_encoder.with(&mut loading(tell), pooled)?;
        let hidden = |model: &T5Encoder| settled(model.forward(&long, None)?);
        let hidden = self.text_encoder_2.with(&mut loading(tell), hidden)?;
        if !guided {
            return Ok(Texts { towards: Encoded { hidden, pooled }, away: None });
        }
        let batch = request.prompts.len() as i32;
        let part = |from: i32| -> Result<Encoded> {
            let cut = |x: &Array| math::slice(x, 0, from, from + batch);
            Ok(Encoded { hidden: cut(&hidden)?, pooled: cut(&pooled)? })
        };
        Ok(Texts { towards: part(0)?, away: Some(part(batch)?) })
    }

    /// A picture as packed latents, in f32.
    fn begin(&self, init: &InitImage, tell: &Tell<'_, '_>) -> Result<Array> {
        let unit = math::scaled(&init.pixels.as_dtype(Dtype::Float32)?, 2.0 / 255.0)?;
        let image = math::offset(&unit, -1.0)?.as_dtype(self.dtype)?;
        self.vae.with(&mut loading(tell), |vae| {
            let gaussian = Gaussian::new(&vae.encode(&image)?)?;
            let z = match &init.posterior_noise {
                Some(noise) => gaussian.sample(noise)?,
                None => gaussian.mode(),
            };
            let x = packed(&vae.latents.normalise(&z)?.as_dtype(Dtype::Float32)?)?;
            finite(&x, "encoding the picture")?;
            Ok(x)
        })
    }

    /// Packed latents `[B, L, 4·C]` → pictures `[B, H, W, 3]`, bytes.
    fn decode(&self, latents: &Array, request: &ImageRequest, tell: &Tell<'_, '_>) -> Result<Array> {
        let z = unpacked(latents, request.latents())?.as_dtype(self.dtype)?;
        self.vae.with(&mut loading(tell), |vae| {
            let z = vae.latents.denormalise(&z)?;
            let mut tile = |done, total| told(tell, ImageEvent::Tile { done, total });
            let image = match request.tile {
                Some(side) => vae.decode_tiled(&z, side, &mut tile)?,
                None => {
                    let image = vae.decode(&z)?;
                    image.eval()?;
                    tile(1, 1)?;
                    image
                }
            };
            let image = image.as_dtype(Dtype::Float32)?;
            finite(&image, "decoding")?;
            let unit = math::offset(&math::scaled(&image, 0.5)?, 0.5)?;
            let bytes = math::scaled(&ops::clip(&unit, (0.0, 1.0))?, 255.0)?.round(None)?.as_dtype(Dtype::Uint8)?;
            bytes.eval()?;
            Ok(bytes)
        })
    }
}

/// Whoever watches, shared by the stages of one request.
type Tell<'a, 'b> = RefCell<&'a mut (dyn FnMut(ImageEvent<'_>) -> ControlFlow<()> + 'b)>;

fn told(tell: &Tell<'_, '_>, event: ImageEvent<'_>) -> framework::Result<()> {
    if tell.borrow_mut()(event).is_break() { Err(framework::Error::Cancelled) } else { Ok(()) }
}

/// Tells of the loading of a component.
fn loading<'a>(tell: &'a Tell<'_, '_>) -> impl FnMut(&'static str, u64, u64) -> ControlFlow<()> + 'a {
    |component, done, total| tell.borrow_mut()(ImageEvent::Load { component, done, total })
}

/// What stays the same from step to step.
struct Scene<'a> {
    transformer: &'a FluxTransformer,
    texts: &'a Texts,
    guidance: Option<Array>,
    true_guidance: f64,
    text_angles: Angles,
    image_angles: Angles,
    batch: usize,
    dtype: Dtype,
}

impl<'a> Scene<'a> {
    fn new(
        transformer: &'a FluxTransformer,
        request: &ImageRequest,
        texts: &'a Texts,
        pipeline: &FluxPipeline,
    ) -> Result<Self> {
        let [rows, columns] = request.latents();
        let batch = request.prompts.len();
        let text = request.text_tokens.min(pipeline.tokenizer_2.longest);
        let guidance = transformer.is_guided().then(|| vec![request.guidance; batch]);
        Ok(Self {
            transformer,
            texts,
            guidance: guidance.map(|values| math::array(&values, &[batch as i32])).transpose()?,
            true_guidance: request.true_guidance,
            text_angles: transformer.angles(&Positions::new(vec![0.0; 3 * text], 3, 1, text)?)?,
            image_angles: transformer.angles(&image_positions(rows, columns)?)?,
            batch,
            dtype: pipeline.dtype,
        })
    }

    /// The model's velocity at `sigma`, guided.
    fn velocity(&self, x: &Array, sigma: f64) -> framework::Result<Array> {
        let towards = self.evaluate(x, sigma, &self.texts.towards)?;
        let Some(away) = &self.texts.away else {
            return Ok(towards);
        };
        let away = self.evaluate(x, sigma, away)?;
        math::add(&away, &math::scaled(&math::subtract(&towards, &away)?, self.true_guidance)?)
    }

    fn evaluate(&self, x: &Array, sigma: f64, text: &Encoded) -> framework::Result<Array> {
        let timestep = math::array(&vec![sigma as f32; self.batch], &[self.batch as i32])?;
        let velocity = self.transformer.forward(&FluxInput {
            hidden_states: &x.as_dtype(self.dtype)?,
            encoder_hidden_states: &text.hidden,
            pooled_projections: &text.pooled,
            timestep: &timestep,
            guidance: self.guidance.as_ref(),
            text_angles: &self.text_angles,
            image_angles: &self.image_angles,
        })?;
        Ok(velocity.as_dtype(Dtype::Float32)?)
    }
}

impl Prompts {
    fn open(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Described {
            model_max_length: usize,
        }
        let Described { model_max_length } = required(&folder.join("tokenizer_config.json"))?;
        let tokenizer = Tokenizer::from_snapshot(folder)?;
        let none = || Error::file(folder, "its `pad_token` is missing, or not among its tokens");
        let pad = tokenizer.pad().ok_or_else(none)?;
        Ok(Self { tokenizer, pad, longest: model_max_length })
    }

    /// `[B, length]`.
    fn ids(&self, prompts: &[String], length: usize) -> Result<Array> {
        let mut ids = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            ids.extend(padded(&self.tokenizer.encode(prompt, true)?, length, self.pad).0);
        }
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        Ok(math::array(&ids, &[prompts.len() as i32, length as i32])?)
    }
}

/// Where packed latents stand: 0, row, column.
fn image_positions(rows: i32, columns: i32) -> framework::Result<Positions> {
    let tokens = (rows * columns) as usize;
    let places = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let rows = places().map(|(row, _)| f64::from(row));
    let columns = places().map(|(_, column)| f64::from(column));
    Positions::new(vec![0.0; tokens].into_iter().chain(rows).chain(columns).collect(), 3, 1, tokens)
}

/// Packed latents `[B, rows · columns, C · 2 · 2]` → `[B, 2 · rows, 2 · columns, C]`.
fn unpacked(latents: &Array, [rows, columns]: [i32; 2]) -> Result<Array> {
    let [batch, _, features] = math::shape(latents)?;
    let channels = features / 4;
    let apart = latents.reshape(&[batch, rows, columns, channels, 2, 2])?.transpose_axes(&[0, 1, 4, 2, 5, 3])?;
    Ok(apart.reshape(&[batch, 2 * rows, 2 * columns, channels])?)
}

/// `[B, 2 · rows, 2 · columns, C]` → packed latents `[B, rows · columns, C · 2 · 2]`.
fn packed(latents: &Array) -> Result<Array> {
    let [batch, height, width, channels] = math::shape(latents)?;
    let apart =
        latents.reshape(&[batch, height / 2, 2, width / 2, 2, channels])?.transpose_axes(&[0, 1, 3, 5, 2, 4])?;
    Ok(apart.reshape(&[batch, height / 2 * (width / 2), 4 * channels])?)
}

fn finite(x: &Array, stage: &str) -> Result<()> {
    if math::is_finite(x)? {
        return Ok(());
    }
    Err(framework::Error::NotFinite { stage: stage.into() }.into())
}

fn required<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_json(path)?.ok_or_else(|| Error::file(path, "no such file; fetch the whole snapshot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let latents = math::array(&(0..96).collect::<Vec<i32>>(), &[1, 4, 6, 4]).unwrap();
        let packed = packed(&latents).unwrap();
        assert_eq!(packed.shape(), [1, 6, 16]);
        assert!(unpacked(&packed, [2, 3]).unwrap().eq_exact(&latents).unwrap());
    }

    #[test]
    fn positions_count_rows_then_columns() {
        let expected = [[0.0; 6], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]].concat();
        assert_eq!(image_positions(2, 3).unwrap(), Positions::new(expected, 3, 1, 6).unwrap());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let fine = || ImageRequest { prompts: vec!["a".into()], ..ImageRequest::default() };
        assert!(fine().validate().is_ok());
        for (request, name) in [
            (ImageRequest::default(), "prompts"),
            (ImageRequest { width: 1000, ..fine() }, "width"),
            (ImageRequest { width: 1 << 20, height: 1 << 20, ..fine() }, "width"),
            (ImageRequest { height: 0, ..fine() }, "height"),
            (ImageRequest { height: -16, ..fine() }, "height"),
            (ImageRequest { steps: 0, ..fine() }, "steps"),
            (ImageRequest { guidance: f32::NAN, ..fine() }, "guidance"),
            (ImageRequest { true_guidance: 0.5, ..fine() }, "true_guidance"),
            (ImageRequest { true_guidance: f64::INFINITY, ..fine() }, "true_guidance"),
            (ImageRequest { text_tokens: 0, ..fine() }, "text_tokens"),
        ] {
            assert!(request.validate().unwrap_err().to_string().contains(name), "{name}");
        }
    }
}
