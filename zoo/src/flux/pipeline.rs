//! From a prompt to pictures with FLUX.1: what it brings of its own.

use super::{Flux, FluxInput, FluxTransformer};
use crate::{
    Error, OpenOptions, Result,
    autoencoder_kl::AutoencoderKl,
    clip::{Clip, ClipText},
    component::Component,
    image::{
        Capabilities, Core, Diffusion, Evaluation, ImageRequest, Plan, Planned, Prompts, Reading, Tokens, Velocity,
        Watch, patches,
    },
    published::published,
    t5::{T5, T5Encoder},
};
use framework::{Angles, Array, Dtype, Positions, math, memory, sample::Condition, tap};
use mlx_rs::ops;
use std::{
    ops::Range,
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
    core: Core,
    transformer: Component<Flux>,
    text_encoder: Component<Clip>,
    text_encoder_2: Component<T5>,
    tokenizer: Prompts,
    tokenizer_2: Prompts,
    /// Tokens of the short text encoder.
    short: usize,
}

/// Latents on a side of a packed one.
const PATCH: i32 = 2;

/// Texts as the transformer reads them, each once.
pub struct Texts {
    /// `[N, L, D]`.
    hidden: Array,
    /// `[N, P]`.
    pooled: Array,
    read: Reading,
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
        let multiple = autoencoder.factor().saturating_mul(PATCH);
        let capabilities = Capabilities { multiple, ..capabilities(built.is_guided())?.clone() };
        Ok(Self {
            transformer,
            text_encoder,
            text_encoder_2,
            tokenizer,
            tokenizer_2: Prompts::open(path.join("tokenizer_2"), t5.embed_tokens.rows())?,
            short,
            core: Core::open(path, capabilities, (vae, &autoencoder), PATCH, options, keep)?,
        })
    }

    /// The prompts for the short and for the long text encoder.
    ///
    /// # Errors
    /// When a token is not the encoder's.
    pub fn tokens(&self, prompts: &[String], text_tokens: usize) -> Result<[Tokens; 2]> {
        Ok([self.tokenizer.read(prompts, self.short)?, self.tokenizer_2.read(prompts, text_tokens)?])
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
    type Denoiser = Flux;

    fn core(&self) -> &Core {
        &self.core
    }

    fn text_parts(&self, request: &ImageRequest) -> Result<Vec<Planned>> {
        let texts: Vec<String> = Reading::of(request).texts.into_iter().take(request.at_once() as usize).collect();
        let [Tokens { ids: short, .. }, Tokens { ids: long, .. }] = self.tokens(&texts, request.text_tokens)?;
        Ok(vec![
            self.text_encoder.plan("encode", |model| memory::working(model, || model.forward(&short, None)))?,
            self.text_encoder_2.plan("encode", |model| memory::working(model, || model.forward(&long, None)))?,
        ])
    }

    fn denoiser_part(&self, request: &ImageRequest) -> Result<Planned> {
        let pictures = request.at_once();
        let x = ops::zeros_dtype(&self.core.noise(request, pictures), Dtype::Float32)?;
        self.transformer.plan("denoise", |model| {
            let [hidden, pooled] = model.text_widths();
            let read = Reading::of(request);
            let count = read.count();
            let zeros = |shape: &[i32]| ops::zeros_dtype(shape, self.core.dtype);
            let hidden = zeros(&[count, request.text_tokens as i32, hidden])?;
            let texts = Texts { hidden, pooled: zeros(&[count, pooled])?, read };
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
    ) -> Result<Texts> {
        let read = Reading::of(request);
        let [short, long] = self.tokens(&read.texts, request.text_tokens)?;
        let short = tap::named("tokenizer", short).ids;
        let long = tap::named("tokenizer_2", long).ids;
        let some = |ids: &Array, rows: Range<i32>| math::slice(ids, 0, rows.start, rows.end);
        let mut each = |encode: &dyn Fn(Range<i32>) -> framework::Result<Array>| {
            read.encode(request.at_once(), self.core.dtype, encode, encoded)
        };
        let pooled = |model: &ClipText| each(&|rows| Ok(model.forward(&some(&short, rows)?, None)?.pooled));
        let pooled = self.text_encoder.with(plan, watch, pooled)?;
        let hidden = |model: &T5Encoder| each(&|rows| model.forward(&some(&long, rows)?, None));
        let hidden = self.text_encoder_2.with(plan, watch, hidden)?;
        Ok(Texts { hidden, pooled, read })
    }

    fn encodings(&self, request: &ImageRequest) -> u64 {
        2 * Reading::of(request).parts(request.at_once()).len() as u64
    }

    fn kept(&self) -> u64 {
        self.transformer.kept() + self.text_encoder.kept() + self.text_encoder_2.kept() + self.core.vae.kept()
    }

    fn denoiser(&self) -> &Component<Flux> {
        &self.transformer
    }

    fn scene<'a>(
        &'a self,
        transformer: &'a FluxTransformer,
        request: &ImageRequest,
        texts: &'a Texts,
    ) -> framework::Result<Box<dyn Velocity + 'a>> {
        let grid @ [rows, columns] = self.core.grid(request);
        let (text, image) = (request.text_tokens, (rows * columns) as usize);
        Ok(Box::new(Scene {
            transformer,
            texts,
            guidance: request.guidance,
            text_angles: transformer.angles(&Positions::new(vec![0.0; 3 * text], 3, 1, text)?)?,
            image_angles: transformer.angles(&Positions::new(patches::places(3, grid), 3, 1, image)?)?,
            dtype: self.core.dtype,
        }))
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

impl Velocity for Scene<'_> {
    fn velocity(&self, evaluation: &Evaluation<'_>) -> framework::Result<Array> {
        let &Evaluation { x, sigma, ref rows, .. } = evaluation;
        let Texts { hidden, pooled, read } = self.texts;
        let places = read.places(evaluation)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Generator};
    use framework::Init;
    use serde_json::json;
    use std::ops::ControlFlow;

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
            "joint_attention_dim": 12, "pooled_projection_dim": 4, "guidance_embeds": true,
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
            let request = ImageRequest {
                width: 32,
                height: 32,
                text_tokens: 20,
                steps: 2,
                ..pipeline.core().capabilities.request()
            };
            let request = ImageRequest { prompts: vec!["a".into()], ..request };
            pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let expected = picture();
        std::fs::remove_dir_all(&transformer).unwrap();
        written("bfl", &folder.path().join("flux1-dev.safetensors"));
        assert!(picture().eq_exact(&expected).unwrap());
    }
}
