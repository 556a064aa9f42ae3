//! How images are made, once for all families: check, plan, encode, denoise, decode.

use super::{
    Capabilities, Core, ImageEvent, ImageRequest, InitImage, Observer, Plan, Planned, Projection, Stage, Watch,
    preview::{self, bytes},
};
use crate::{Error, Family, Result, component::Component, doctor, error::finite};
use framework::{
    Array, Dtype, math, memory,
    sample::{Condition, Guide, Noising, Prediction, Rng, Seeded},
    vae::{Gaussian, KlVae, Told},
};
use mlx_rs::ops;
use std::ops::Range;

/// A model that makes images, whatever its family.
pub trait Generator: Send {
    /// What may be asked of it.
    fn capabilities(&self) -> &Capabilities;

    /// What a request takes, part by part. Reads no weights.
    ///
    /// # Errors
    /// When a value of the request is out of its range.
    fn plan(&self, request: &ImageRequest) -> Result<Plan>;

    /// Makes a picture for each prompt: `[B, H, W, 3]`, bytes. A picture depends on its own seed, not on those beside it.
    ///
    /// # Errors
    /// When a value of the request is out of its range or it needs more memory than there is, before any weight is read;
    /// when a stage yields NaN or infinity; [`Error::Cancelled`] when the observer breaks.
    fn generate(&self, request: &ImageRequest, observer: &mut Observer<'_>) -> Result<Array>;

    /// As [`generate`](Self::generate), with all pictures at once and noise from `rng` instead of the seeds: first that of
    /// the latents, then what the sampler draws.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and when `rng` has no such noise.
    fn generate_from(&self, request: &ImageRequest, rng: &mut dyn Rng, observer: &mut Observer<'_>) -> Result<Array>;
}

/// What a family of latent diffusion models brings of its own.
pub trait Diffusion: Send {
    /// Prompts as the model reads them.
    type Texts;
    /// The family of the denoiser.
    type Denoiser: Family;

    /// What it has beside its texts and its denoiser.
    fn core(&self) -> &Core;
    /// What encoding as many texts as there are pictures at once takes.
    fn text_parts(&self, request: &ImageRequest) -> Result<Vec<Planned>>;
    /// What denoising as many pictures takes.
    fn denoiser_part(&self, request: &ImageRequest) -> Result<Planned>;
    /// Encodes every text, as many at once as there are pictures at once. `encoded` hears of each time.
    fn encode(
        &self,
        request: &ImageRequest,
        plan: &Plan,
        watch: &Watch<'_>,
        encoded: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self::Texts>;
    /// How many times [`encode`](Self::encode) calls `encoded`.
    fn encodings(&self, request: &ImageRequest) -> u64;
    /// Bytes of weights that are in memory between requests.
    fn kept(&self) -> u64;
    /// What predicts velocities.
    fn denoiser(&self) -> &Component<Self::Denoiser>;
    /// The denoiser with what stays the same from step to step of one request.
    fn scene<'a>(
        &'a self,
        denoiser: &'a <Self::Denoiser as Family>::Model,
        request: &ImageRequest,
        texts: &'a Self::Texts,
    ) -> framework::Result<Box<dyn Velocity + 'a>>;
}

/// One evaluation of the denoiser.
pub struct Evaluation<'a> {
    /// The noisy latents of the pictures in `rows`, f32.
    pub x: &'a Array,
    /// Their noise level.
    pub sigma: f64,
    /// Which text.
    pub condition: Condition,
    /// Which of the request's pictures.
    pub rows: Range<i32>,
}

/// A denoiser that is ready for one request.
pub trait Velocity {
    /// The velocity that it predicts, in f32.
    fn velocity(&self, evaluation: &Evaluation<'_>) -> framework::Result<Array>;
}

impl<D: Diffusion> Generator for D {
    fn capabilities(&self) -> &Capabilities {
        &self.core().capabilities
    }

    fn plan(&self, request: &ImageRequest) -> Result<Plan> {
        let core = self.core();
        core.capabilities.validate(request)?;
        let schedule = core.schedule(request)?;
        if let Some(init) = &request.init {
            schedule.with_strength(init.strength)?;
        }
        let (pictures, dtype, vae) = (request.at_once(), core.dtype, &core.vae);
        let z = core.unpacked(&zeros(&core.noise(request, pictures), dtype)?, request)?;
        let mut parts = Vec::new();
        if request.previews {
            parts.push(vae.plan("preview", |vae| {
                let z = zeros(&[1, preview::SIDE, preview::SIDE, vae.channels()], dtype)?;
                memory::working(vae, || vae.decode(&z))
            })?);
        }
        parts.extend(self.text_parts(request)?);
        if let Some(init) = &request.init {
            init.validate_noise(&z, request)?;
            let [rows, ..] = math::shape::<4>(&init.pixels)?;
            let image = zeros(&[rows.min(pictures), request.height, request.width, 3], dtype)?;
            parts.push(vae.plan("encode", |vae| match request.tile {
                Some(tile) => vae.encode_working(&image, tile),
                None => memory::working(vae, || vae.encode(&image)),
            })?);
        }
        parts.push(self.denoiser_part(request)?);
        let mut decode = vae.plan("decode", |vae| match request.tile {
            Some(tile) => vae.decode_working(&z, tile),
            None => memory::working(vae, || vae.decode(&z)),
        })?;
        // All finished pictures, as colours and as bytes.
        let pixels = request.prompts.len() as u64 * request.width as u64 * request.height as u64 * 3;
        decode.working = decode.working.saturating_add(pixels * (4 + 1));
        parts.push(decode);
        Ok(Plan { parts, kept: core.keep })
    }

    fn generate(&self, request: &ImageRequest, observer: &mut Observer<'_>) -> Result<Array> {
        let seeds: Vec<u64> = (0..request.prompts.len()).map(|index| request.seed_of(index)).collect();
        let batches = seeds.chunks(request.at_once().max(1) as usize);
        let mut rngs =
            batches.map(|seeds| Ok((seeds.len() as i32, Seeded::rows(seeds)?))).collect::<Result<Vec<_>>>()?;
        let noise = rngs.iter_mut().map(|(pictures, rng)| (*pictures, rng as &mut dyn Rng)).collect();
        run(self, request, noise, observer)
    }

    fn generate_from(&self, request: &ImageRequest, rng: &mut dyn Rng, observer: &mut Observer<'_>) -> Result<Array> {
        let request = ImageRequest { batch: None, ..request.clone() };
        run(self, &request, vec![(request.prompts.len() as i32, rng)], observer)
    }
}

/// Makes pictures, so many at once each with their noise.
fn run<D: Diffusion>(
    model: &D,
    request: &ImageRequest,
    noise: Vec<(i32, &mut dyn Rng)>,
    observer: &mut Observer<'_>,
) -> Result<Array> {
    let plan = model.plan(request)?;
    // What is kept from the last request is in the plan again.
    let free = || Some(doctor::available_memory()?.saturating_add(model.kept()));
    if let Some(available) = request.memory.or_else(free) {
        plan.check(available, request)?;
    }
    let run = Run { model, request, plan: &plan, watch: &Watch::new(observer) };
    let projection = request.previews.then(|| run.projection()).transpose()?;
    let (mut encoded, encodings) = (0, model.encodings(request));
    let mut tell = || {
        encoded += 1;
        Ok(run.watch.progress(Stage::Encode, encoded, encodings)?)
    };
    let texts = model.encode(request, &plan, run.watch, &mut tell)?;
    let begin = request.init.as_ref().map(|init| Ok::<_, Error>((run.begin(init)?, init.strength))).transpose()?;
    let latents = run.denoise(&texts, begin.as_ref(), noise, projection.as_ref())?;
    run.decode(&latents)
}

/// One request on its way.
struct Run<'a, D> {
    model: &'a D,
    request: &'a ImageRequest,
    plan: &'a Plan,
    watch: &'a Watch<'a>,
}

impl<D: Diffusion> Run<'_, D> {
    fn with_vae<T>(&self, run: impl FnOnce(&KlVae) -> Result<T>) -> Result<T> {
        self.model.core().vae.with(self.plan, self.watch, run)
    }

    fn projection(&self) -> Result<Projection> {
        self.with_vae(|vae| Projection::of(vae, self.model.core().dtype))
    }

    /// The pictures to begin from as the model's latents, in f32.
    fn begin(&self, init: &InitImage) -> Result<Array> {
        let [count, ..] = math::shape::<4>(&init.pixels)?;
        let at_once = self.request.at_once();
        let firsts: Vec<i32> = (0..count).step_by(at_once as usize).collect();
        self.with_vae(|vae| {
            let mut begun = Vec::with_capacity(firsts.len());
            for &first in &firsts {
                let rows = first..count.min(first + at_once);
                let image = signed(&of_rows(&init.pixels, &rows)?)?.as_dtype(self.model.core().dtype)?;
                let mut tell = self.telling(Stage::Begin, begun.len(), firsts.len());
                let parameters = match self.request.tile {
                    Some(tile) => vae.encode_tiled(&image, tile, &mut tell)?,
                    None => evaluated(vae.encode(&image)?, &mut tell)?,
                };
                let gaussian = Gaussian::new(&parameters)?;
                let z = match &init.posterior_noise {
                    Some(noise) => gaussian.sample(&of_rows(noise, &rows)?)?,
                    None => gaussian.mode(),
                };
                let x = self.model.core().packed(&vae.latents.normalise(&z)?.as_dtype(Dtype::Float32)?)?;
                finite(&x, "encoding the picture")?;
                begun.push(x);
            }
            Ok(ops::concatenate(&begun, 0)?)
        })
    }

    /// Tells of the tiles of one batch among several.
    fn telling(
        &self,
        stage: Stage,
        before: usize,
        batches: usize,
    ) -> impl FnMut(usize, usize) -> framework::Result<()> {
        move |done, total| self.watch.progress(stage, (before * total + done) as u64, (batches * total) as u64)
    }

    /// Latents of all pictures, batch by batch.
    fn denoise(
        &self,
        texts: &D::Texts,
        begin: Option<&(Array, f64)>,
        noise: Vec<(i32, &mut dyn Rng)>,
        projection: Option<&Projection>,
    ) -> Result<Vec<Array>> {
        let &Self { model, request, plan, watch } = self;
        let mut schedule = model.core().schedule(request)?;
        if let Some((_, strength)) = begin {
            schedule = schedule.with_strength(*strength)?;
        }
        let steps = schedule.steps();
        let total = (steps * noise.len()) as u64;
        let (mut noise, mut finished) = (noise, Vec::new());
        model.denoiser().with(plan, watch, |denoiser| {
            let scene = model.scene(denoiser, request, texts)?;
            let mut first = 0;
            for (pictures, rng) in &mut noise {
                let rows = first..first + *pictures;
                first = rows.end;
                let first = rows.start as usize;
                let mut x = rng.normal(&model.core().noise(request, *pictures), Dtype::Float32)?;
                if let Some((latents, _)) = begin {
                    let level = schedule.sigmas().first().copied().unwrap_or(1.0);
                    x = Noising::Flow.noised(&of_rows(latents, &rows)?, &x, level)?;
                }
                let mut sampler = request.sampler.sampler::<f64>(Noising::Flow, steps);
                let mut guide = Guide::new(request.true_guidance, steps);
                for (step, (sigma, next)) in schedule.spans().enumerate() {
                    let mut clean = None;
                    let mut denoise = |x: &Array, sigma: f64| {
                        let mut evaluate = |condition| {
                            watch.tell(ImageEvent::Evaluating { first, step: step + 1, sigma, condition })?;
                            let velocity = scene.velocity(&Evaluation { x, sigma, condition, rows: rows.clone() })?;
                            // One condition after the other needs the memory of one.
                            if request.is_guided() {
                                velocity.eval()?;
                            }
                            Ok(velocity)
                        };
                        let velocity = guide.predict(step, x, &mut evaluate)?;
                        let denoised = Prediction::Flow.denoised(Noising::Flow, &velocity, x, sigma)?;
                        clean = Some(denoised.clone());
                        Ok(denoised)
                    };
                    x = sampler.step(&mut denoise, &x, sigma, next, *rng)?;
                    finite(&x, "denoising")?;
                    watch.tell(ImageEvent::Latents { first, step: step + 1, latents: &x })?;
                    if let (Some(projection), Some(clean)) = (projection, clean) {
                        let preview = projection.apply(&model.core().unpacked(&clean, request)?)?;
                        watch.tell(ImageEvent::Preview { first, pixels: &preview })?;
                    }
                    watch.progress(Stage::Denoise, (finished.len() * steps + step + 1) as u64, total)?;
                }
                finished.push(x);
            }
            Ok(())
        })?;
        Ok(finished)
    }

    /// The model's latents → pictures `[B, H, W, 3]`, bytes.
    fn decode(&self, latents: &[Array]) -> Result<Array> {
        let batches = latents.len();
        self.with_vae(|vae| {
            let mut images = Vec::with_capacity(batches);
            for latents in latents {
                let latents = self.model.core().unpacked(latents, self.request)?.as_dtype(self.model.core().dtype)?;
                let z = vae.latents.denormalise(&latents)?;
                let mut tell = self.telling(Stage::Decode, images.len(), batches);
                let image = match self.request.tile {
                    Some(tile) => vae.decode_tiled(&z, tile, &mut tell)?,
                    None => evaluated(vae.decode(&z)?, &mut tell)?,
                };
                let image = image.as_dtype(Dtype::Float32)?;
                finite(&image, "decoding")?;
                images.push(bytes(&image)?);
            }
            let all = ops::concatenate(&images, 0)?;
            all.eval()?;
            Ok(all)
        })
    }
}

/// What was computed whole, as the only tile.
fn evaluated(x: Array, told: &mut Told<'_>) -> framework::Result<Array> {
    x.eval()?;
    told(1, 1)?;
    Ok(x)
}

/// Zeros that are not computed yet.
fn zeros(shape: &[i32], dtype: Dtype) -> framework::Result<Array> {
    Ok(ops::zeros_dtype(shape, dtype)?)
}

/// Pixels from 0 to 255 as an autoencoder has them, from −1 to 1.
fn signed(pixels: &Array) -> framework::Result<Array> {
    math::offset(&math::scaled(&pixels.as_dtype(Dtype::Float32)?, 2.0 / 255.0)?, -1.0)
}

/// Some rows of `[B, …]`, or the only one for all.
fn of_rows(x: &Array, rows: &Range<i32>) -> framework::Result<Array> {
    match x.shape() {
        [1, ..] => Ok(x.clone()),
        _ => math::slice(x, 0, rows.start, rows.end),
    }
}
