//! FLUX.1's pipelines with the arguments of diffusers' classes, and everything that they make on the way to a picture.

use super::{FluxPipeline, pipeline::transformer_of};
use crate::{
    Arguments, Error, Generator, ImageEvent, ImageRequest, InitImage, OpenOptions, Outputs, Result,
    image::{Capabilities, Diffusion},
    registry::Pipeline,
    text::{Tokenizer, padded},
};
use framework::{
    Array, Dtype, math,
    sample::{Guidance, Replay, Rng},
};
use serde::Deserialize;
use serde_json::Value;
use std::{iter::repeat_n, ops::ControlFlow, path::Path};

/// From noise to pictures.
pub const TEXT_TO_IMAGE: Pipeline =
    Pipeline { names: &["FluxPipeline"], main: transformer_of, open, run: text_to_image };
/// From a picture to pictures.
pub const IMAGE_TO_IMAGE: Pipeline = Pipeline { names: &["FluxImg2ImgPipeline"], run: image_to_image, ..TEXT_TO_IMAGE };

/// diffusers' arguments for what is not done here. Not to ask for it is to give none.
const ABSENT: [&str; 14] = [
    "prompt_2",
    "negative_prompt_2",
    "sigmas",
    "generator",
    "prompt_embeds",
    "pooled_prompt_embeds",
    "negative_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "ip_adapter_image",
    "ip_adapter_image_embeds",
    "negative_ip_adapter_image",
    "negative_ip_adapter_image_embeds",
    "joint_attention_kwargs",
    "callback_on_step_end",
];

/// One text, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Each(Vec<String>),
}

/// How the pictures are returned.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutputType {
    #[default]
    Pil,
    Np,
    /// Channels first.
    Pt,
}

/// What is asked for, as diffusers has it. What is not said, the model recommends.
struct Call {
    prompts: Vec<String>,
    pictures: Vec<String>,
    negative: Vec<String>,
    true_scale: f64,
    size: [Option<i32>; 2],
    steps: usize,
    guidance: f32,
    text_tokens: usize,
    output_type: OutputType,
}

fn open(snapshot: &Path, options: OpenOptions, keep: bool) -> Result<Box<dyn Generator>> {
    Ok(Box::new(FluxPipeline::open(snapshot, options, keep)?))
}

fn text_to_image(components: &Path, options: OpenOptions, arguments: &mut Arguments) -> Result<Outputs> {
    run(components, options, &Call::take(arguments, 3.5)?, None, arguments)
}

fn image_to_image(components: &Path, options: OpenOptions, arguments: &mut Arguments) -> Result<Outputs> {
    let noise = arguments.take_optional("posterior_noise").map(|noise| noise.transpose_axes(&[0, 2, 3, 1]));
    let init = InitImage {
        pixels: pixels(arguments.take("image")?)?,
        strength: arguments.optional("strength")?.unwrap_or(0.6),
        posterior_noise: noise.transpose()?,
    };
    run(components, options, &Call::take(arguments, 7.0)?, Some(init), arguments)
}

/// Tokens, levels, the latents after each step and the pictures, in this order.
fn run(
    components: &Path,
    options: OpenOptions,
    call: &Call,
    init: Option<InitImage>,
    arguments: &mut Arguments,
) -> Result<Outputs> {
    let pipeline = FluxPipeline::open(components, options, false)?;
    let request = call.request(pipeline.capabilities(), init);
    let mut outputs = Outputs::new();
    for (prefix, texts) in [("", &call.prompts), ("negative_", &call.negative)] {
        if !texts.is_empty() {
            outputs.extend(read(&pipeline, components, prefix, texts, request.text_tokens)?);
        }
    }
    let latents = arguments.take("latents")?;
    let mut schedule = pipeline.schedule(&request)?;
    if let Some(init) = &request.init {
        schedule = schedule.with_strength(init.strength)?;
    }
    for (name, values) in [("sigmas", schedule.sigmas()), ("timesteps", schedule.timesteps())] {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        outputs.push((name.into(), math::array(&values, &[values.len() as i32])?));
    }
    let mut steps = Vec::new();
    let mut noise = Noise { latents: Some(latents), drawn: 0, arguments };
    let pictures = pipeline.generate_from(&request, &mut noise, &mut |event| {
        if let ImageEvent::Latents { latents, .. } = event {
            steps.push(latents.clone());
        }
        ControlFlow::Continue(())
    })?;
    for (step, latents) in steps.iter().enumerate() {
        outputs.push((format!("latents.{step}"), latents.as_dtype(options.dtype)?));
    }
    let pictures = match call.output_type {
        OutputType::Pt => pictures.transpose_axes(&[0, 3, 1, 2])?,
        OutputType::Pil | OutputType::Np => pictures,
    };
    outputs.push(("image".into(), pictures));
    Ok(outputs)
}

/// The tokens of both encoders and which of them are the texts': `tokens`, `tokens_2`, `mask`, `mask_2`, each
/// `[B, length]`.
fn read(
    pipeline: &FluxPipeline,
    components: &Path,
    prefix: &str,
    texts: &[String],
    text_tokens: usize,
) -> Result<Outputs> {
    let [short, long] = pipeline.tokens(texts, text_tokens)?;
    let masked = |tokenizer: &str, ids| mask(&components.join(tokenizer), texts, ids);
    let (first, second) = (masked("tokenizer", &short)?, masked("tokenizer_2", &long)?);
    let named = [("tokens", short), ("tokens_2", long), ("mask", first), ("mask_2", second)];
    Ok(named.map(|(name, value)| (format!("{prefix}{name}"), value)).into())
}

/// What the encoders could be told of padding, though FLUX.1's are told nothing.
fn mask(tokenizer: &Path, texts: &[String], ids: &Array) -> Result<Array> {
    let tokenizer = Tokenizer::from_snapshot(tokenizer)?;
    let [_, length] = math::shape(ids)?;
    let mut seen = Vec::new();
    for text in texts {
        seen.extend(padded(&tokenizer.encode(text, true)?, length as usize, 0).1);
    }
    Ok(math::array(&seen, ids.shape())?)
}

/// A picture as bytes `[B, H, W, 3]`: from such, or from floats of 0 to 1, whose channels may come before the rows; the
/// first axis may be left out.
fn pixels(image: Array) -> Result<Array> {
    let image = if image.ndim() == 3 { image.expand_dims(0)? } else { image };
    if !matches!(image.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64) {
        return Ok(image.as_dtype(Dtype::Uint8)?);
    }
    let [_, first, _, last] = math::shape(&image)?;
    let image = if first == 3 && last != 3 { image.transpose_axes(&[0, 2, 3, 1])? } else { image };
    Ok(math::scaled(&image.as_dtype(Dtype::Float32)?, 255.0)?.round(None)?.as_dtype(Dtype::Uint8)?)
}

impl Call {
    /// Takes all but noise and pictures. `guidance` is what the class assumes.
    fn take(arguments: &mut Arguments, guidance: f32) -> Result<Self> {
        for name in ABSENT {
            if let Some(value) = arguments.optional::<Value>(name)? {
                return Err(Error::argument(name, format!("{value} asks for what is not done here; leave it out")));
            }
        }
        // How the reference hands over what it returns and what its observer sees changes no number.
        arguments.flag("return_dict", true)?;
        arguments.optional::<Vec<String>>("callback_on_step_end_tensor_inputs")?;
        let prompts = arguments.optional("prompt")?.ok_or_else(|| Error::argument("prompt", "is needed"))?;
        let prompts = Texts::list(prompts);
        let images = arguments.optional("num_images_per_prompt")?.unwrap_or(1);
        let each = |texts: &[String]| texts.iter().flat_map(|text| repeat_n(text.clone(), images)).collect();
        let true_scale = arguments.optional("true_cfg_scale")?.unwrap_or(1.0);
        // diffusers guides only where a negative prompt is given.
        let negative = arguments.optional("negative_prompt")?.map(Texts::list).filter(|_| true_scale > 1.0);
        Ok(Self {
            pictures: each(&prompts),
            true_scale: if negative.is_some() { true_scale } else { 1.0 },
            negative: negative.unwrap_or_default(),
            size: [arguments.optional("width")?, arguments.optional("height")?],
            steps: arguments.optional("num_inference_steps")?.unwrap_or(28),
            guidance: arguments.optional("guidance_scale")?.unwrap_or(guidance),
            text_tokens: arguments.optional("max_sequence_length")?.unwrap_or(512),
            output_type: arguments.optional("output_type")?.unwrap_or_default(),
            prompts,
        })
    }

    fn request(&self, capabilities: &Capabilities, init: Option<InitImage>) -> ImageRequest {
        let usual = capabilities.request();
        let images = self.pictures.len() / self.prompts.len().max(1);
        let negative = match &self.negative[..] {
            [_] => self.negative.clone(),
            several => several.iter().flat_map(|text| repeat_n(text.clone(), images)).collect(),
        };
        ImageRequest {
            prompts: self.pictures.clone(),
            negative_prompts: negative,
            width: self.size[0].unwrap_or(usual.width),
            height: self.size[1].unwrap_or(usual.height),
            steps: self.steps,
            // diffusers takes a guidance for every model, and those without ignore it.
            guidance: usual.guidance.map(|_| self.guidance),
            true_guidance: Guidance::classifier_free(self.true_scale),
            text_tokens: self.text_tokens,
            init,
            ..usual
        }
    }
}

impl Texts {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Each(texts) => texts,
        }
    }
}

/// The noise among the arguments: `latents`, then what a sampler draws, `noise.0`, `noise.1`, …
struct Noise<'a> {
    latents: Option<Array>,
    drawn: usize,
    arguments: &'a mut Arguments,
}

impl Rng for Noise<'_> {
    fn normal(&mut self, shape: &[i32], dtype: Dtype) -> framework::Result<Array> {
        let given = self.latents.take().or_else(|| {
            let name = format!("noise.{}", self.drawn);
            self.drawn += 1;
            self.arguments.take_optional(&name)
        });
        Replay::new(given).normal(shape, dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(values: Value) -> Result<Call> {
        let mut arguments = Arguments::default();
        for (name, value) in values.as_object().unwrap() {
            arguments.value(name, value.clone());
        }
        let call = Call::take(&mut arguments, 3.5)?;
        arguments.finish()?;
        Ok(call)
    }

    fn request(call: &Call) -> ImageRequest {
        let row = crate::published::find("flux.1-dev").unwrap();
        call.request(row.image.as_ref().unwrap(), None)
    }

    #[test]
    fn what_is_not_given_is_as_diffusers_has_it() {
        let call = taken(json!({"prompt": "a", "generator": null, "guidance_scale": null})).unwrap();
        let request = request(&call);
        assert_eq!((request.width, request.height, request.steps, request.text_tokens), (1024, 1024, 28, 512));
        assert_eq!((request.guidance, request.is_guided(), request.prompts.len()), (Some(3.5), false, 1));
    }

    #[test]
    fn a_prompt_may_have_several_pictures() {
        let several = json!({"prompt": ["a", "b"], "num_images_per_prompt": 2, "true_cfg_scale": 2.0, "negative_prompt": ["c", "d"]});
        let call = taken(several).unwrap();
        assert_eq!(request(&call).prompts, ["a", "a", "b", "b"]);
        assert_eq!(request(&call).negative_prompts, ["c", "c", "d", "d"]);
        assert_eq!(call.prompts, ["a", "b"]);
    }

    #[test]
    fn only_a_negative_prompt_and_a_scale_guide_together() {
        let guided = |scale: f64, negative: Value| {
            let call = taken(json!({"prompt": "a", "true_cfg_scale": scale, "negative_prompt": negative})).unwrap();
            (request(&call).is_guided(), request(&call).negative_prompts)
        };
        let off = (false, Vec::new());
        assert_eq!(guided(2.0, Value::Null), off);
        assert_eq!(guided(1.0, "b".into()), off);
        assert_eq!(guided(0.0, "b".into()), off);
        assert_eq!(guided(2.0, "".into()), (true, vec![String::new()]));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (name, value) in [
            ("prompt", Value::Null),
            ("prompt", json!(3)),
            ("prompt_2", "b".into()),
            ("sigmas", json!([1.0])),
            ("output_type", "latent".into()),
            ("height", "tall".into()),
            ("seed", json!(1)),
        ] {
            let mut arguments = json!({"prompt": "a"});
            arguments[name] = value;
            let error = taken(arguments).map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
        }
    }

    #[test]
    fn pictures_of_every_kind_are_the_same_bytes() {
        let bytes: Vec<u8> = (0..24).map(|i| i * 10).collect();
        let expected = math::array(&bytes, &[1, 4, 2, 3]).unwrap();
        let units: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let units = math::array(&units, &[1, 4, 2, 3]).unwrap();
        let first = units.transpose_axes(&[0, 3, 1, 2]).unwrap();
        for image in [expected.clone(), math::array(&bytes, &[4, 2, 3]).unwrap(), units, first] {
            assert!(pixels(image).unwrap().eq_exact(&expected).unwrap());
        }
    }

    #[test]
    fn noise_that_nobody_draws_is_left() {
        let mut arguments = Arguments::default();
        let one = math::array(&[1f32], &[1]).unwrap();
        arguments.array("noise.0", one.clone());
        arguments.array("noise.1", one.clone());
        let mut noise = Noise { latents: Some(one), drawn: 0, arguments: &mut arguments };
        for _ in 0..2 {
            noise.normal(&[1], Dtype::Float32).unwrap();
        }
        assert!(arguments.finish().unwrap_err().to_string().contains("`noise.1`"));
    }
}
