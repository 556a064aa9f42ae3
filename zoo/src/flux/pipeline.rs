//! From a prompt to pictures with FLUX.1: what it brings of its own.

use super::{Flux, FluxInput, FluxTransformer, scheduler::Scheduler};
use crate::{
    Error, OpenOptions, Result,
    autoencoder_kl::AutoencoderKl,
    clip::{Clip, ClipText},
    component::Component,
    error::finite,
    image::{Capabilities, Diffusion, Evaluation, ImageRequest, Plan, Planned, Velocity, Watch},
    published::published,
    t5::{T5, T5Encoder},
    text::{Tokenizer, padded, read_json},
};
use framework::{
    Angles, Array, Dtype, Positions, math, memory,
    sample::{Condition, Schedule},
};
use mlx_rs::ops;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// FLUX.1 with its text encoders and its autoencoder; a [`Generator`](crate::Generator).
///
/// ```no_run
/// use std::{ops::ControlFlow, path::Path};
/// use zoo::{FluxPipeline, Generator, ImageRequest, Open};
/// let folder = Path::new("FLUX.1-schnell");
/// let options = Open::default().resolve(&folder.join("transformer"))?;
/// let pipeline = FluxPipeline::open(folder, options, false)?;
/// let request = ImageRequest { prompts: vec!["a red heart".into()], ..pipeline.capabilities().request() };
/// let pictures = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(pictures.shape(), [1, 1024, 1024, 3]);
/// # Ok::<(), zoo::Error>(())
/// ```
///
/// A component is in memory while its part runs; kept, it stays for the next request.
pub struct FluxPipeline {
    capabilities: Capabilities,
    transformer: Component<Flux>,
    text_encoder: Component<Clip>,
    text_encoder_2: Component<T5>,
    vae: Component<AutoencoderKl>,
    tokenizer: Prompts,
    tokenizer_2: Prompts,
    /// Tokens of the short text encoder.
    short: usize,
    scheduler: Scheduler,
    /// Features of a packed latent.
    channels: i32,
    dtype: Dtype,
    keep: bool,
}

/// A tokenizer that pads every text to one length, for an encoder of so many tokens.
struct Prompts {
    tokenizer: Tokenizer,
    folder: PathBuf,
    pad: u32,
    vocabulary: u32,
}

/// Texts as the transformer reads them, each once.
pub struct Texts {
    /// `[N, L, D]`.
    hidden: Array,
    /// `[N, P]`.
    pooled: Array,
    read: Reading,
}

/// Which text each picture is led towards, and which one away from.
struct Reading {
    texts: Vec<String>,
    towards: Vec<i32>,
    away: Option<Vec<i32>>,
}

impl Reading {
    fn of(request: &ImageRequest) -> Self {
        let mut texts: Vec<String> = Vec::new();
        let mut known = HashMap::new();
        let mut places = |wanted: &[String]| -> Vec<i32> {
            let place = |text: &String| {
                *known.entry(text.clone()).or_insert_with(|| {
                    texts.push(text.clone());
                    texts.len() as i32 - 1
                })
            };
            wanted.iter().map(place).collect()
        };
        let towards = places(&request.prompts);
        let away = request.is_guided().then(|| places(&request.negatives()));
        Self { texts, towards, away }
    }
}

impl FluxPipeline {
    /// Opens a snapshot: the folder that holds `transformer`, `text_encoder` and so on, or Black Forest Labs' own file in
    /// place of `transformer` and of `vae`. Reads no weights.
    ///
    /// # Errors
    /// When a component is missing, or does not fit.
    pub fn open(path: &Path, options: OpenOptions, keep: bool) -> Result<Self> {
        let (transformer, built) = Component::<Flux>::new(transformer_of(path), "transformer", options, keep)?;
        let vae = component_of(path, "vae", &["ae.safetensors"]);
        let (vae, autoencoder) = Component::<AutoencoderKl>::new(vae, "vae", options, keep)?;
        // A packed latent stands for 2 × 2 of the autoencoder's.
        let multiple = autoencoder.factor().saturating_mul(2);
        let (text_encoder, clip) = Component::<Clip>::new(path.join("text_encoder"), "text_encoder", options, keep)?;
        let (text_encoder_2, t5) = Component::<T5>::new(path.join("text_encoder_2"), "text_encoder_2", options, keep)?;
        let [hidden, pooled] = built.text_widths();
        for (component, name, found, needed) in [
            ("text_encoder_2", "features", t5.embed_tokens.features(), hidden),
            ("text_encoder", "features", clip.embeddings.tokens.features(), pooled),
            ("vae", "channels of four latents", autoencoder.channels().saturating_mul(4), built.channels()),
        ] {
            if found != needed {
                let problem = format!("has {found} {name}, and the transformer needs {needed}: it is another model's");
                return Err(Error::file(path.join(component), problem));
            }
        }
        let tokenizer = Prompts::open(path.join("tokenizer"), clip.embeddings.tokens.rows())?;
        let short = tokenizer.longest()?.unwrap_or(usize::MAX).min(clip.embeddings.positions.rows() as usize);
        Ok(Self {
            capabilities: Capabilities { multiple, ..capabilities(built.is_guided())?.clone() },
            transformer,
            text_encoder,
            text_encoder_2,
            vae,
            tokenizer,
            tokenizer_2: Prompts::open(path.join("tokenizer_2"), t5.embed_tokens.rows())?,
            short,
            scheduler: Scheduler::open(&path.join("scheduler/scheduler_config.json"))?,
            channels: built.channels(),
            dtype: options.dtype,
            keep,
        })
    }

    /// Rows and columns of packed latents.
    fn grid(&self, request: &ImageRequest) -> [i32; 2] {
        [request.height, request.width].map(|pixels| pixels / self.capabilities.multiple.max(1))
    }

    /// Token ids of the prompts, for the short and for the long text encoder: `[B, tokens]` each.
    pub fn tokens(&self, prompts: &[String], text_tokens: usize) -> Result<[Array; 2]> {
        Ok([self.tokenizer.ids(prompts, self.short)?, self.tokenizer_2.ids(prompts, text_tokens)?])
    }
}

/// Where the transformer of a snapshot is.
pub(super) fn transformer_of(snapshot: &Path) -> PathBuf {
    component_of(snapshot, "transformer", &["flux1-dev.safetensors", "flux1-schnell.safetensors"])
}

/// The folder of a component, or Black Forest Labs' own file of it where there is only that.
fn component_of(snapshot: &Path, name: &str, files: &[&str]) -> PathBuf {
    let folder = snapshot.join(name);
    let file = files.iter().map(|file| snapshot.join(file)).find(|file| file.exists() && !folder.exists());
    file.unwrap_or(folder)
}

/// What may be asked of the published model that was, or was not, distilled with a guidance.
fn capabilities(guided: bool) -> Result<&'static Capabilities> {
    let of_flux = published()?.iter().filter(|row| row.family == "FluxPipeline");
    let fits = |capabilities: &&Capabilities| capabilities.guidance.is_some() == guided;
    let found = of_flux.filter_map(|row| row.image.as_ref()).find(fits);
    found.ok_or_else(|| Error::argument("guidance_embeds", "no published model is like this"))
}

impl Diffusion for FluxPipeline {
    type Texts = Texts;

    fn offers(&self) -> &Capabilities {
        &self.capabilities
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn keeps(&self) -> bool {
        self.keep
    }

    fn autoencoder(&self) -> &Component<AutoencoderKl> {
        &self.vae
    }

    fn noise(&self, request: &ImageRequest, pictures: i32) -> Vec<i32> {
        let [rows, columns] = self.grid(request);
        vec![pictures, rows * columns, self.channels]
    }

    fn schedule(&self, request: &ImageRequest) -> Result<Schedule<f64>> {
        let [rows, columns] = self.grid(request);
        self.scheduler.schedule((rows * columns) as usize, request.steps)
    }

    fn text_parts(&self, request: &ImageRequest) -> Result<Vec<Planned>> {
        let texts: Vec<String> = Reading::of(request).texts.into_iter().take(request.at_once() as usize).collect();
        let [short, long] = self.tokens(&texts, request.text_tokens)?;
        Ok(vec![
            self.text_encoder.plan("encode", |model| memory::working(model, || model.forward(&short, None)))?,
            self.text_encoder_2.plan("encode", |model| memory::working(model, || model.forward(&long, None)))?,
        ])
    }

    fn denoiser_part(&self, request: &ImageRequest) -> Result<Planned> {
        let pictures = request.at_once();
        let x = ops::zeros_dtype(&self.noise(request, pictures), Dtype::Float32)?;
        self.transformer.plan("denoise", |model| {
            let [hidden, pooled] = model.text_widths();
            let read = Reading::of(request);
            let count = read.texts.len() as i32;
            let zeros = |shape: &[i32]| ops::zeros_dtype(shape, self.dtype);
            let hidden = zeros(&[count, request.text_tokens as i32, hidden])?;
            let texts = Texts { hidden, pooled: zeros(&[count, pooled])?, read };
            let scene = Scene::new(model, self, request, &texts)?;
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
    ) -> Result<Texts> {
        let read = Reading::of(request);
        let [short, long] = self.tokens(&read.texts, request.text_tokens)?;
        let mut in_parts = |ids: &Array, encode: &dyn Fn(&Array) -> framework::Result<Array>| -> Result<Array> {
            let mut parts = Vec::new();
            for first in (0..read.texts.len() as i32).step_by(request.at_once() as usize) {
                let last = (read.texts.len() as i32).min(first + request.at_once());
                let x = encode(&math::slice(ids, 0, first, last)?)?.as_dtype(self.dtype)?;
                finite(&x, "encoding")?;
                encoded()?;
                parts.push(x);
            }
            Ok(ops::concatenate(&parts, 0)?)
        };
        let pooled = |model: &ClipText| in_parts(&short, &|ids| Ok(model.forward(ids, None)?.pooled));
        let pooled = self.text_encoder.with(plan, watch, pooled)?;
        let hidden = |model: &T5Encoder| in_parts(&long, &|ids| model.forward(ids, None));
        let hidden = self.text_encoder_2.with(plan, watch, hidden)?;
        Ok(Texts { hidden, pooled, read })
    }

    fn encodings(&self, request: &ImageRequest) -> u64 {
        2 * Reading::of(request).texts.len().div_ceil(request.at_once() as usize) as u64
    }

    fn kept(&self) -> u64 {
        self.transformer.kept() + self.text_encoder.kept() + self.text_encoder_2.kept() + self.vae.kept()
    }

    fn denoise(
        &self,
        request: &ImageRequest,
        texts: &Texts,
        plan: &Plan,
        watch: &Watch<'_>,
        paint: &mut dyn FnMut(&Velocity<'_>) -> Result<()>,
    ) -> Result<()> {
        self.transformer.with(plan, watch, |transformer| {
            let scene = Scene::new(transformer, self, request, texts)?;
            paint(&|evaluation| scene.velocity(evaluation))
        })
    }

    fn unpacked(&self, latents: &Array, request: &ImageRequest) -> framework::Result<Array> {
        unpacked(latents, self.grid(request))
    }

    fn packed(&self, latents: &Array) -> framework::Result<Array> {
        packed(latents)
    }
}

/// What stays the same from step to step.
struct Scene<'a> {
    transformer: &'a FluxTransformer,
    texts: &'a Texts,
    guidance: Option<f32>,
    text_angles: Angles,
    image_angles: Angles,
    dtype: Dtype,
}

impl<'a> Scene<'a> {
    fn new(
        transformer: &'a FluxTransformer,
        pipeline: &FluxPipeline,
        request: &ImageRequest,
        texts: &'a Texts,
    ) -> framework::Result<Self> {
        let [rows, columns] = pipeline.grid(request);
        let text = request.text_tokens;
        Ok(Self {
            transformer,
            texts,
            guidance: request.guidance,
            text_angles: transformer.angles(&Positions::new(vec![0.0; 3 * text], 3, 1, text)?)?,
            image_angles: transformer.angles(&image_positions(rows, columns)?)?,
            dtype: pipeline.dtype,
        })
    }

    fn velocity(&self, evaluation: &Evaluation<'_>) -> framework::Result<Array> {
        let &Evaluation { x, sigma, condition, ref rows } = evaluation;
        let Texts { hidden, pooled, read } = self.texts;
        let places = match (condition, &read.away) {
            (Condition::Away, Some(away)) => away,
            _ => &read.towards,
        };
        let places = places.get(rows.start as usize..rows.end as usize);
        let places = places.ok_or_else(|| framework::Error::argument("rows", format!("{rows:?} have no text")))?;
        let places = math::array(places, &[places.len() as i32])?;
        let each = |value: f32| math::array(&vec![value; rows.len()], &[rows.len() as i32]);
        let guidance = self.guidance.map(each).transpose()?;
        let velocity = self.transformer.forward(&FluxInput {
            hidden_states: &x.as_dtype(self.dtype)?,
            encoder_hidden_states: &hidden.take_axis(&places, 0)?,
            pooled_projections: &pooled.take_axis(&places, 0)?,
            timestep: &each(sigma as f32)?,
            guidance: guidance.as_ref(),
            text_angles: &self.text_angles,
            image_angles: &self.image_angles,
        })?;
        Ok(velocity.as_dtype(Dtype::Float32)?)
    }
}

impl Prompts {
    fn open(folder: PathBuf, vocabulary: u32) -> Result<Self> {
        let tokenizer = Tokenizer::from_snapshot(&folder)?;
        let none = || Error::file(&folder, "its `pad_token` is missing, or not among its tokens");
        let pad = tokenizer.pad().ok_or_else(none)?;
        let prompts = Self { tokenizer, folder, pad, vocabulary };
        prompts.known(&[pad])?;
        Ok(prompts)
    }

    /// The most tokens that the tokenizer says its model reads, if it says so.
    fn longest(&self) -> Result<Option<usize>> {
        #[derive(Deserialize)]
        struct Described {
            /// A float where there is no limit: 10³⁰.
            model_max_length: Option<f64>,
        }
        let path = self.folder.join("tokenizer_config.json");
        let Described { model_max_length } = required(&path)?;
        match model_max_length {
            Some(longest) if longest < 2.0 => {
                Err(Error::file(path, format!("`model_max_length`: {longest} tokens hold no text")))
            }
            longest => Ok(longest.map(|longest| longest as usize)),
        }
    }

    /// Refuses ids that the encoder has no row for: they would read foreign memory.
    fn known(&self, ids: &[u32]) -> Result<()> {
        let Some(id) = ids.iter().find(|&&id| id >= self.vocabulary) else { return Ok(()) };
        let problem = format!("token {id} is not among the {} of its encoder: it is another model's", self.vocabulary);
        Err(Error::file(&self.folder, problem))
    }

    /// `[B, length]`.
    fn ids(&self, prompts: &[String], length: usize) -> Result<Array> {
        let mut ids = Vec::new();
        for prompt in prompts {
            ids.extend(padded(&self.tokenizer.encode(prompt, true)?, length, self.pad).0);
        }
        self.known(&ids)?;
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
fn unpacked(latents: &Array, [rows, columns]: [i32; 2]) -> framework::Result<Array> {
    let [batch, _, features] = math::shape(latents)?;
    let channels = features / 4;
    let apart = latents.reshape(&[batch, rows, columns, channels, 2, 2])?.transpose_axes(&[0, 1, 4, 2, 5, 3])?;
    Ok(apart.reshape(&[batch, 2 * rows, 2 * columns, channels])?)
}

/// `[B, 2 · rows, 2 · columns, C]` → packed latents `[B, rows · columns, C · 2 · 2]`.
fn packed(latents: &Array) -> framework::Result<Array> {
    let [batch, height, width, channels] = math::shape(latents)?;
    let apart =
        latents.reshape(&[batch, height / 2, 2, width / 2, 2, channels])?.transpose_axes(&[0, 1, 3, 5, 2, 4])?;
    Ok(apart.reshape(&[batch, height / 2 * (width / 2), 4 * channels])?)
}

pub(super) fn required<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_json(path)?.ok_or_else(|| Error::file(path, "no such file; fetch the whole snapshot"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Generator};
    use framework::{Init, sample::Guidance};
    use serde_json::json;
    use std::ops::ControlFlow;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let latents = math::array(&(0..96).collect::<Vec<i32>>(), &[1, 4, 6, 4]).unwrap();
        let packed = packed(&latents).unwrap();
        assert_eq!(packed.shape(), [1, 6, 16]);
        assert!(unpacked(&packed, [2, 3]).unwrap().eq_exact(&latents).unwrap());
    }

    #[test]
    fn a_file_of_black_forest_labs_stands_for_the_transformer() {
        use framework::weights::{Packed, save};
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/flux-pipeline/dev/components");
        let folder = tempfile::tempdir().unwrap();
        for component in std::fs::read_dir(fixture).unwrap().map(|entry| entry.unwrap().path()) {
            let copy = folder.path().join(component.file_name().unwrap());
            std::fs::create_dir(&copy).unwrap();
            for file in std::fs::read_dir(&component).unwrap().map(|entry| entry.unwrap().path()) {
                std::fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
            }
        }
        let config = json!({
            "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 16, "out_channels": null,
            "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
            "joint_attention_dim": 24, "pooled_projection_dim": 20, "guidance_embeds": true,
            "axes_dims_rope": [4, 14, 14],
        });
        let parsed = serde_json::from_value(config.clone()).unwrap();
        let model = Flux::build(&parsed, &mut Init::default()).unwrap();
        let written = |layout: &str, path: &Path| {
            let layout = Flux::layouts().iter().find(|known| known.name == layout).unwrap();
            save(&model, &(layout.map)(&parsed), None, path).unwrap();
        };
        let transformer = folder.path().join("transformer");
        std::fs::write(transformer.join("config.json"), config.to_string()).unwrap();
        written("diffusers", &transformer.join("weights.safetensors"));
        let picture = || {
            let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
            let pipeline = FluxPipeline::open(folder.path(), options, false).unwrap();
            let request =
                ImageRequest { width: 32, height: 32, text_tokens: 20, steps: 2, ..pipeline.offers().request() };
            let request = ImageRequest { prompts: vec!["a".into()], ..request };
            pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let expected = picture();
        std::fs::remove_dir_all(&transformer).unwrap();
        written("bfl", &folder.path().join("flux1-dev.safetensors"));
        assert!(picture().eq_exact(&expected).unwrap());
    }

    #[test]
    fn every_text_is_read_once() {
        let prompts = ["a", "b", "a"].map(String::from).to_vec();
        let plain = ImageRequest { prompts, ..capabilities(true).unwrap().request() };
        let read = Reading::of(&plain);
        assert_eq!((read.texts, read.towards, read.away), (vec!["a".into(), "b".into()], vec![0, 1, 0], None));
        let guided = ImageRequest { true_guidance: Guidance::classifier_free(2.0), ..plain };
        let read = Reading::of(&ImageRequest { negative_prompts: vec!["b".into()], ..guided });
        assert_eq!((read.texts.len(), read.away), (2, Some(vec![1, 1, 1])));
    }

    #[test]
    fn positions_count_rows_then_columns() {
        let expected = [[0.0; 6], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]].concat();
        assert_eq!(image_positions(2, 3).unwrap(), Positions::new(expected, 3, 1, 6).unwrap());
    }
}
