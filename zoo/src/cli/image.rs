//! The request of pictures on a command line, and in the pictures themselves.

use super::{ComputeArguments, as_option, gigabytes};
use crate::{
    Error, Generator, ImageRequest, InitImage, Result, cache,
    image::Capabilities,
    picture::{self, LONGEST_SIDE, Picture},
};
use clap::{Args, ValueEnum};
use framework::{
    math,
    sample::{Apg, Guidance, Method, Rescale, Rule},
};
use serde::{Deserialize, Serialize};
use std::{iter::repeat_n, path::PathBuf, slice, str::FromStr};

/// The option for the guidance away from the negative prompt, whatever the model.
const TRUE_GUIDANCE: &str = "--true-guidance";

/// What a picture is made from and what that takes. What is left out comes from the picture of `--from`, or else from the
/// model.
#[derive(Debug, Args)]
pub struct RequestArguments {
    /// A model's id, or the folder of a snapshot; by default that of the picture of --from, or else `pocket`.
    #[arg(short, long)]
    model: Option<String>,
    /// Take the request from a picture that was made here.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Pixels that the model makes; FLUX takes multiples of 16.
    #[arg(long, allow_negative_numbers = true)]
    width: Option<i32>,
    /// Pixels that the model makes; FLUX takes multiples of 16.
    #[arg(long, allow_negative_numbers = true)]
    height: Option<i32>,
    /// How many noise levels there are.
    #[arg(long)]
    steps: Option<usize>,
    /// How the picture moves from one noise level to the next: euler (the default), euler_ancestral, heun, dpmpp_2m,
    /// dpmpp_sde, uni_pc, uni_pc_bh2 or ddim.
    #[arg(long)]
    sampler: Option<String>,
    /// How closely pictures follow the prompt: the guidance that the model was distilled with; of other models what
    /// --true-guidance is.
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Guidance by a negative prompt, at twice the time; 1 is off. By default what the model recommends.
    #[arg(long, allow_negative_numbers = true)]
    true_guidance: Option<f64>,
    /// How --true-guidance combines the two predictions.
    #[arg(long, value_enum)]
    guidance_rule: Option<GuidanceRule>,
    /// How much of the unguided contrast --true-guidance keeps, from 0 to 1.
    #[arg(long, allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,
    /// Tokens of the prompt; of FLUX those of the long text encoder.
    #[arg(long)]
    text_tokens: Option<usize>,
    /// How many pictures, of several prompts of each; by default 1.
    #[arg(long)]
    count: Option<u16>,
    /// How many pictures are made at once, which takes memory; by default all.
    #[arg(long)]
    batch: Option<usize>,
    /// Begin from this picture, PNG, JPEG or WebP, resized to the width and height.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Encode and decode pictures in tiles of so many pixels, a multiple of 64: less memory, more time, the same picture but
    /// for rounding.
    #[arg(long, allow_negative_numbers = true)]
    tile: Option<i32>,
    /// Refuse what is predicted to need more than so many GB; by default what is free.
    #[arg(long, value_name = "GB", allow_negative_numbers = true)]
    memory: Option<f64>,
    #[command(flatten)]
    pub(super) compute: ComputeArguments,
}

/// What is asked of pictures and changes nothing of the memory that they take.
#[derive(Debug, Default, Args)]
pub struct SubjectArguments {
    /// What the picture does not show, of a model that is guided: see --true-guidance.
    #[arg(long)]
    negative: Option<String>,
    /// The seed of the first picture; the next ones follow.
    #[arg(long)]
    seed: Option<u64>,
    /// How much of the picture to begin from is changed, above 0 and up to 1; by default 0.6.
    #[arg(long, requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
}

/// What only the making of a picture reads.
#[derive(Debug)]
pub struct Wishes<'a> {
    /// Without any, that of the picture of `--from`.
    pub prompts: &'a [String],
    pub subject: &'a SubjectArguments,
    pub size: Option<Size>,
    pub previews: bool,
}

/// How large pictures are written: both sides, or the longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Longer(u32),
    Sides([u32; 2]),
}

impl Size {
    /// The sides of what was made with the given ones.
    fn of(self, made: [i32; 2]) -> [u32; 2] {
        match self {
            Self::Sides(sides) => sides,
            Self::Longer(longer) => {
                let most = f64::from(made[0].max(made[1]).max(1));
                made.map(|side| (f64::from(side) * f64::from(longer) / most).round().max(1.0) as u32)
            }
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| match text.parse() {
            Ok(side) if (1..=LONGEST_SIDE).contains(&side) => Ok(side),
            _ => Err(format!("`{text}` is no number of pixels from 1 to {LONGEST_SIDE}; say 512, or 512x384")),
        };
        match text.split_once(['x', '×']) {
            Some((width, height)) => Ok(Self::Sides([side(width)?, side(height)?])),
            None => Ok(Self::Longer(side(text)?)),
        }
    }
}

/// A rule by which two predictions become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum GuidanceRule {
    /// Classifier-free guidance.
    #[default]
    ClassifierFree,
    /// Adaptive projected guidance: less saturation at high scales.
    Apg,
    /// CFG-Zero*: a fitted scale of the negative prediction, and no first step.
    ClassifierFreeZero,
}

impl GuidanceRule {
    fn rule(self, scale: f64) -> Rule {
        match self {
            Self::ClassifierFree => Rule::ClassifierFree { scale },
            Self::Apg => Rule::Apg(Apg { scale, ..Apg::default() }),
            Self::ClassifierFreeZero => Rule::ClassifierFreeZero { scale, zero_init_steps: 1 },
        }
    }
}

/// What a picture remembers of how it was made.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Remembered {
    pub prompt: Option<String>,
    pub negative_prompt: Option<String>,
    pub width: Option<i32>,
    pub height: Option<i32>,
    pub steps: Option<usize>,
    pub sampler: Option<String>,
    pub guidance: Option<f32>,
    pub true_guidance: Option<f64>,
    pub guidance_rule: Option<GuidanceRule>,
    pub guidance_rescale: Option<f64>,
    pub seed: Option<u64>,
    pub text_tokens: Option<usize>,
    pub tile: Option<i32>,
    pub size: Option<[u32; 2]>,
    pub strength: Option<f64>,
    pub model: Option<String>,
    pub compute: ComputeArguments,
}

/// A model and what is asked of it.
pub(super) struct Asked {
    pub generator: Box<dyn Generator>,
    pub request: ImageRequest,
    /// What its pictures will remember, but for their seeds.
    pub remembered: Remembered,
}

impl RequestArguments {
    /// Opens the model and puts the request together.
    ///
    /// # Errors
    /// When a file is missing or unusable, or a value is out of its range.
    pub(super) fn ask(&self, wishes: &Wishes<'_>) -> Result<Asked> {
        if self.count == Some(0) {
            return Err(Error::argument("--count", "0 pictures are nothing to make"));
        }
        let known = match &self.from {
            Some(path) => serde_json::from_value(picture::parameters(path)?)
                .map_err(|error| Error::file(path, format!("its request is not one of zoo's: {error}")))?,
            None => Remembered::default(),
        };
        if known.strength.is_some() && self.init.is_none() {
            return Err(Error::argument("--init", "that picture began from another one; name it"));
        }
        let model = self.model().or(known.model.clone());
        let model = model.unwrap_or_else(|| "pocket".into());
        let compute = self.compute.or(known.compute);
        let generator = compute.open().generator_at(&cache::locate(&model)?, false)?;
        let said = Remembered { compute, ..self.said(wishes, known, model, generator.capabilities())? };
        let request = self.request(&said, generator.as_ref(), wishes)?;
        generator.capabilities().validate(&request).map_err(|error| self.as_given(error, generator.capabilities()))?;
        let size = said.size.or(wishes.size.map(|size| size.of([request.width, request.height])));
        let said = Remembered { size: size.map(|size| fitting(size, &request)).transpose()?, ..said };
        Ok(Asked { generator, remembered: said.completed(&request), request })
    }

    /// The model that is named.
    pub(super) fn model(&self) -> Option<String> {
        self.model.clone()
    }

    /// Whether the model and all else are those of a picture.
    pub(super) fn is_from_picture(&self) -> bool {
        self.from.is_some()
    }

    /// An option that was given, and that only models that make images read.
    pub(super) fn of_pictures(&self, subject: &SubjectArguments) -> Option<&'static str> {
        let given = [
            ("--width", self.width.is_some()),
            ("--height", self.height.is_some()),
            ("--steps", self.steps.is_some()),
            ("--sampler", self.sampler.is_some()),
            ("--guidance", self.guidance.is_some()),
            (TRUE_GUIDANCE, self.true_guidance.is_some()),
            ("--guidance-rule", self.guidance_rule.is_some()),
            ("--guidance-rescale", self.guidance_rescale.is_some()),
            ("--text-tokens", self.text_tokens.is_some()),
            ("--count", self.count.is_some()),
            ("--batch", self.batch.is_some()),
            ("--init", self.init.is_some()),
            ("--tile", self.tile.is_some()),
            ("--memory", self.memory.is_some()),
            ("--negative", subject.negative.is_some()),
            ("--seed", subject.seed.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }

    /// The option that says how far a picture is led away from the negative prompt.
    fn scale_option(&self, offers: &Capabilities) -> &'static str {
        if offers.guidance.is_none() && self.guidance.is_some() { "--guidance" } else { TRUE_GUIDANCE }
    }

    /// An error about a value of the request, with the option that gave it.
    fn as_given(&self, error: Error, offers: &Capabilities) -> Error {
        match as_option(error) {
            Error::Argument { name, problem } if name == TRUE_GUIDANCE => {
                Error::argument(self.scale_option(offers), problem)
            }
            other => other,
        }
    }

    /// What was said, or else what the picture of `--from` remembers as far as it is read.
    fn said(&self, wishes: &Wishes<'_>, known: Remembered, model: String, offers: &Capabilities) -> Result<Remembered> {
        let (guidance, scale) = match (offers.guidance, self.guidance, self.true_guidance) {
            (Some(_), distilled, scale) => (distilled.map(|guidance| guidance as f32).or(known.guidance), scale),
            (None, Some(_), Some(_)) => {
                let problem = "of this model it is what --true-guidance is; leave one of them out";
                return Err(Error::argument("--guidance", problem));
            }
            (None, scale, other) => (None, scale.or(other)),
        };
        let scale = scale.or(known.true_guidance).or(offers.true_guidance).unwrap_or(1.0);
        let known = match scale {
            1.0 => Remembered { negative_prompt: None, guidance_rule: None, guidance_rescale: None, ..known },
            _ => known,
        };
        Ok(Remembered {
            prompt: wishes.prompts.first().cloned().or(known.prompt),
            negative_prompt: wishes.subject.negative.clone().or(known.negative_prompt),
            width: self.width.or(known.width),
            height: self.height.or(known.height),
            steps: self.steps.or(known.steps),
            sampler: self.sampler.clone().or(known.sampler),
            guidance,
            true_guidance: Some(scale),
            guidance_rule: self.guidance_rule.or(known.guidance_rule),
            guidance_rescale: self.guidance_rescale.or(known.guidance_rescale),
            seed: wishes.subject.seed.or(known.seed),
            text_tokens: self.text_tokens.or(known.text_tokens),
            tile: self.tile.or(known.tile),
            size: known.size.filter(|_| wishes.size.is_none()),
            strength: self.init.as_ref().map(|_| wishes.subject.strength.or(known.strength).unwrap_or(0.6)),
            model: Some(model),
            compute: known.compute,
        })
    }

    fn request(&self, said: &Remembered, generator: &dyn Generator, wishes: &Wishes<'_>) -> Result<ImageRequest> {
        let usual = generator.capabilities().request();
        let prompt = said.prompt.clone();
        let prompt = prompt.ok_or_else(|| Error::argument("prompt", "there is none: say what the picture shows"))?;
        let prompts = if wishes.prompts.is_empty() { slice::from_ref(&prompt) } else { wishes.prompts };
        let count = usize::from(self.count.unwrap_or(1));
        let [width, height] = [said.width.unwrap_or(usual.width), said.height.unwrap_or(usual.height)];
        let sampler =
            said.sampler.as_deref().map(Method::named).transpose().map_err(|error| as_option(error.into()))?;
        let mut request = ImageRequest {
            prompts: prompts.iter().flat_map(|prompt| repeat_n(prompt.clone(), count)).collect(),
            negative_prompts: said.negative_prompt.iter().cloned().collect(),
            width,
            height,
            steps: said.steps.unwrap_or(usual.steps),
            sampler: sampler.unwrap_or(usual.sampler),
            guidance: said.guidance.or(usual.guidance),
            true_guidance: said.true_guidance(self.scale_option(generator.capabilities()))?,
            text_tokens: said.text_tokens.unwrap_or(usual.text_tokens),
            seed: said.seed.unwrap_or(0),
            batch: self.batch,
            init: None,
            tile: said.tile,
            previews: wishes.previews,
            memory: self.memory.map(gigabytes).transpose()?,
        };
        // The size is checked before a picture is resized to it.
        generator.capabilities().validate(&request).map_err(|error| self.as_given(error, generator.capabilities()))?;
        if let (Some(path), Some(strength)) = (&self.init, said.strength) {
            let picture = Picture::read(path)?.resized(width as u32, height as u32);
            let pixels = math::array(&picture.pixels, &[1, height, width, 3])?;
            request.init = Some(InitImage { pixels, strength, posterior_noise: None });
        }
        Ok(request)
    }
}

impl Remembered {
    /// With what the model recommended where nothing was said.
    fn completed(self, request: &ImageRequest) -> Self {
        Self {
            width: Some(request.width),
            height: Some(request.height),
            steps: Some(request.steps),
            sampler: Some(request.sampler.name().to_owned()),
            guidance: request.guidance,
            seed: Some(request.seed),
            text_tokens: Some(request.text_tokens),
            ..self
        }
    }

    /// The guidance away from the negative prompt, whose scale is that of the option `by`.
    fn true_guidance(&self, by: &str) -> Result<Guidance> {
        let scale = self.true_guidance.unwrap_or(1.0);
        for (name, set) in [
            ("--negative", self.negative_prompt.is_some()),
            ("--guidance-rule", self.guidance_rule.is_some()),
            ("--guidance-rescale", self.guidance_rescale.is_some()),
        ] {
            if set && scale == 1.0 {
                return Err(Error::argument(name, format!("it is read only where {by} is not 1")));
            }
        }
        let rescale = self.guidance_rescale.map(|share| Rescale::Deviation { share });
        Ok(Guidance { rule: self.guidance_rule.unwrap_or_default().rule(scale), rescale, ..Guidance::default() })
    }
}

/// A size at which all pictures of a request can be written.
fn fitting(size: [u32; 2], request: &ImageRequest) -> Result<[u32; 2]> {
    let [width, height] = size;
    let bytes = u64::from(width).saturating_mul(height.into()).saturating_mul(3);
    if width.max(height) <= LONGEST_SIDE && bytes.saturating_mul(request.prompts.len() as u64) <= i32::MAX as u64 {
        return Ok(size);
    }
    let count = request.prompts.len();
    Err(Error::argument("--size", format!("{width} x {height} pixels are too many for {count} pictures; name fewer")))
}
