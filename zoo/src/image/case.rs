//! A pipeline with the arguments of diffusers' classes, and everything that it makes on the way to a picture.

use super::{Capabilities, Diffusion, Generator, ImageEvent, ImageRequest, InitImage, Tokens};
use crate::{Arguments, Error, Outputs, Result};
use framework::{
    Array, Dtype, math,
    sample::{Guidance, Replay, Rng},
};
use serde::Deserialize;
use std::{iter::repeat_n, ops::ControlFlow};

/// What is asked for, as diffusers has it. What is not said, the model recommends.
pub(crate) struct Call {
    pub prompts: Vec<String>,
    /// A prompt for each picture.
    pub pictures: Vec<String>,
    pub negative: Option<Vec<String>>,
    pub true_scale: Option<f64>,
    pub size: [Option<i32>; 2],
    pub steps: Option<usize>,
    pub guidance: Option<f32>,
    pub text_tokens: Option<usize>,
    output_type: OutputType,
}

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

impl Call {
    /// Takes all but noise and pictures.
    ///
    /// # Errors
    /// Names what does not fit.
    pub fn take(arguments: &mut Arguments) -> Result<Self> {
        // How the reference hands over what it returns and what its observer sees changes no number.
        arguments.flag("return_dict", true)?;
        arguments.optional::<Vec<String>>("callback_on_step_end_tensor_inputs")?;
        let prompts = arguments.optional("prompt")?.ok_or_else(|| Error::argument("prompt", "is needed"))?;
        let prompts = Texts::list(prompts);
        let images = arguments.optional("num_images_per_prompt")?.unwrap_or(1);
        Ok(Self {
            pictures: prompts.iter().flat_map(|text| repeat_n(text.clone(), images)).collect(),
            negative: arguments.optional("negative_prompt")?.map(Texts::list),
            true_scale: arguments.optional("true_cfg_scale")?,
            size: [arguments.optional("width")?, arguments.optional("height")?],
            steps: arguments.optional("num_inference_steps")?,
            guidance: arguments.optional("guidance_scale")?,
            text_tokens: arguments.optional("max_sequence_length")?,
            output_type: arguments.optional("output_type")?.unwrap_or_default(),
            prompts,
        })
    }

    /// The request of a model that can be asked for so much.
    pub fn request(&self, capabilities: &Capabilities, init: Option<InitImage>) -> ImageRequest {
        let usual = capabilities.request();
        let images = self.pictures.len() / self.prompts.len().max(1);
        let negative = match self.negative.as_deref() {
            None => Vec::new(),
            Some([one]) => vec![one.clone()],
            Some(several) => several.iter().flat_map(|text| repeat_n(text.clone(), images)).collect(),
        };
        ImageRequest {
            prompts: self.pictures.clone(),
            negative_prompts: negative,
            width: self.size[0].unwrap_or(usual.width),
            height: self.size[1].unwrap_or(usual.height),
            steps: self.steps.unwrap_or(usual.steps),
            // diffusers takes a guidance for every model, and those without ignore it.
            guidance: usual.guidance.map(|usual| self.guidance.unwrap_or(usual)),
            true_guidance: self.true_scale.map_or(usual.true_guidance, Guidance::classifier_free),
            text_tokens: self.text_tokens.unwrap_or(usual.text_tokens),
            init,
            ..usual
        }
    }

    /// Makes the pictures: tokens, levels, the latents after each step and the pictures, in this order. `read` gives the
    /// tokens of texts, for each encoder.
    ///
    /// # Errors
    /// Those of the pipeline.
    pub fn run<D: Diffusion, const N: usize>(
        &self,
        pipeline: &D,
        init: Option<InitImage>,
        read: impl Fn(&[String], usize) -> Result<[Tokens; N]>,
        arguments: &mut Arguments,
    ) -> Result<Outputs> {
        let request = self.request(&pipeline.core().capabilities, init);
        let mut outputs = Outputs::new();
        for (prefix, texts) in [("", Some(&self.prompts)), ("negative_", self.negative.as_ref())] {
            if let Some(texts) = texts {
                outputs.extend(named(prefix, read(texts, request.text_tokens)?));
            }
        }
        let latents = arguments.take("latents")?;
        let mut schedule = pipeline.core().schedule(&request)?;
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
            outputs.push((format!("latents.{step}"), latents.as_dtype(pipeline.core().dtype)?));
        }
        let pictures = match self.output_type {
            OutputType::Pt => pictures.transpose_axes(&[0, 3, 1, 2])?,
            OutputType::Pil | OutputType::Np => pictures,
        };
        outputs.push(("image".into(), pictures));
        Ok(outputs)
    }
}

/// `tokens`, `tokens_2`, …, then which of them are the texts': `mask`, `mask_2`, …, each `[B, length]`.
fn named<const N: usize>(prefix: &str, encoders: [Tokens; N]) -> Outputs {
    let of = |name: &str, index: usize| match index {
        0 => format!("{prefix}{name}"),
        _ => format!("{prefix}{name}_{}", index + 1),
    };
    let (ids, masks): (Vec<Array>, Vec<Array>) = encoders.into_iter().map(|read| (read.ids, read.mask)).unzip();
    let ids = ids.into_iter().enumerate().map(|(index, ids)| (of("tokens", index), ids));
    ids.chain(masks.into_iter().enumerate().map(|(index, mask)| (of("mask", index), mask))).collect()
}

/// A picture as bytes `[B, H, W, 3]`: from such, or from floats of 0 to 1, whose channels may come before the rows; the
/// first axis may be left out.
pub(crate) fn pixels(image: Array) -> Result<Array> {
    let image = if image.ndim() == 3 { image.expand_dims(0)? } else { image };
    if !matches!(image.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64) {
        return Ok(image.as_dtype(Dtype::Uint8)?);
    }
    let [_, first, _, last] = math::shape(&image)?;
    let image = if first == 3 && last != 3 { image.transpose_axes(&[0, 2, 3, 1])? } else { image };
    Ok(math::scaled(&image.as_dtype(Dtype::Float32)?, 255.0)?.round(None)?.as_dtype(Dtype::Uint8)?)
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
