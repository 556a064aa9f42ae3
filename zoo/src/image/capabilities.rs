//! What a request may ask of an image model: data in the model's row, enforced by the one validator.

use super::{ImageRequest, InitImage};
use crate::{Error, Result};
use framework::{
    Dtype,
    sample::{Condition, Guidance, Method, Rule},
};
use serde::{Deserialize, Serialize};

/// What an image model can be asked for, and what its authors recommend. `zoo models ID` prints it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// The recommended width and height, in pixels.
    pub size: [i32; 2],
    /// What width and height are multiples of.
    pub multiple: i32,
    /// The recommended number of noise levels; 1 to 10000 are possible.
    pub steps: usize,
    /// Of models that were distilled with a guidance: the recommended one. Others do not read any.
    pub guidance: Option<f32>,
    /// Of models that can be guided by evaluating a second prompt beside the first: the recommended scale, 1 where they
    /// are made to be used without. Others do not evaluate any.
    pub true_guidance: Option<f64>,
    /// Tokens of a prompt; where there are two text encoders, of the long one.
    pub text_tokens: TextTokens,
    /// Samplers, by the names of [`Method::named`].
    pub samplers: Vec<String>,
    /// What besides a text can be given.
    pub conditioning: Vec<Conditioning>,
    /// The kinds of adapter that it takes.
    pub adapters: Vec<String>,
    /// What its weights can be quantised to as they are loaded.
    pub quantisations: Vec<String>,
}

/// How long a prompt may be, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TextTokens {
    /// What the authors recommend.
    pub recommended: usize,
    /// What the text encoder was made for.
    pub most: usize,
}

/// What besides a text an image can be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditioning {
    /// A picture to begin from.
    InitImage,
}

impl Capabilities {
    /// The recommended request, without a prompt.
    pub fn request(&self) -> ImageRequest {
        let [width, height] = self.size;
        ImageRequest {
            prompts: Vec::new(),
            negative_prompts: Vec::new(),
            width,
            height,
            steps: self.steps,
            sampler: Method::Euler,
            guidance: self.guidance,
            true_guidance: self.true_guidance.map_or_else(Guidance::default, Guidance::classifier_free),
            text_tokens: self.text_tokens.recommended,
            seed: 0,
            batch: None,
            init: None,
            tile: None,
            previews: false,
            memory: None,
        }
    }

    /// Checks every value of a request. Reads no weights.
    ///
    /// # Errors
    /// Names the first value that is out of its range, and what would be right.
    pub fn validate(&self, request: &ImageRequest) -> Result<()> {
        check(!request.prompts.is_empty(), "prompts", || "there is none: one text a picture".into())?;
        self.validate_size(request)?;
        check(request.steps > 0, "steps", || "0 steps leave noise; ask for at least 1".into())?;
        check(request.steps <= 10_000, "steps", || format!("{} are more than 10000", request.steps))?;
        request.sampler.validate()?;
        let sampler = request.sampler.name();
        check(self.samplers.iter().any(|name| name == sampler), "sampler", || {
            format!("this model is not sampled by {sampler}; there are {}", self.samplers.join(", "))
        })?;
        self.validate_guidance(request)?;
        let TextTokens { most, .. } = self.text_tokens;
        check((1..=most).contains(&request.text_tokens), "text_tokens", || {
            format!("{} is not within 1 and {most}, which the text encoder was made for", request.text_tokens)
        })?;
        check(request.batch != Some(0), "batch", || "0 pictures at once are none".into())?;
        if let Some(tile) = request.tile {
            check(tile > 0 && tile % 64 == 0, "tile", || format!("{tile} is not a multiple of 64 above 0"))?;
        }
        match &request.init {
            Some(init) => self.validate_init(init, request),
            None => Ok(()),
        }
    }

    fn validate_size(&self, request: &ImageRequest) -> Result<()> {
        let &ImageRequest { width, height, .. } = request;
        for (name, pixels) in [("width", width), ("height", height)] {
            check(pixels > 0 && pixels.checked_rem(self.multiple) == Some(0), name, || {
                format!("{pixels} is not a multiple of {} above 0", self.multiple)
            })?;
        }
        let bytes = i64::from(width).saturating_mul(height.into()).saturating_mul(3);
        check(bytes <= i32::MAX.into(), "width", || {
            format!("{width} x {height} pixels are more than {} bytes, the most of a picture", i32::MAX)
        })?;
        let all = bytes.saturating_mul(request.prompts.len() as i64);
        check(all <= i32::MAX.into(), "prompts", || {
            format!("{} pictures of {width} x {height} pixels are too many for one request", request.prompts.len())
        })
    }

    fn validate_guidance(&self, request: &ImageRequest) -> Result<()> {
        match (request.guidance, self.guidance) {
            (Some(_), None) => {
                let problem = "this model was not distilled with a guidance and reads none; leave it out, or use \
                               true_guidance";
                return Err(Error::argument("guidance", problem));
            }
            (None, Some(usual)) => {
                let problem = format!("this model was distilled with a guidance and needs one; {usual} is usual");
                return Err(Error::argument("guidance", problem));
            }
            (Some(guidance), Some(_)) => {
                check(guidance.is_finite(), "guidance", || format!("{guidance} is not a number"))?;
            }
            (None, None) => {}
        }
        request.true_guidance.validate().map_err(|error| match error {
            framework::Error::Argument { name, problem } => {
                Error::argument("true_guidance", format!("{name}: {problem}"))
            }
            other => other.into(),
        })?;
        if let Rule::ClassifierFreeZero { zero_init_steps, .. } = request.true_guidance.rule {
            check(zero_init_steps < request.steps, "true_guidance", || {
                format!("zero_init_steps: {zero_init_steps} of {} steps leave none to make a picture", request.steps)
            })?;
        }
        let guided = request.is_guided();
        let third = request.true_guidance.conditions().contains(&Condition::Between);
        check(!third, "true_guidance", || "dual guidance needs a third condition, which this model has not".into())?;
        check(self.true_guidance.is_some() || !guided, "true_guidance", || {
            "this model cannot be guided by a second prompt".into()
        })?;
        check(guided || request.negative_prompts.is_empty(), "negative_prompts", || {
            "they are read only where true_guidance is on: a scale other than 1".into()
        })?;
        let (negatives, prompts) = (request.negative_prompts.len(), request.prompts.len());
        check(negatives <= 1 || negatives == prompts, "negative_prompts", || {
            format!("{negatives} texts for {prompts} pictures; give one for all, or one each")
        })
    }

    fn validate_init(&self, init: &InitImage, request: &ImageRequest) -> Result<()> {
        check(self.conditioning.contains(&Conditioning::InitImage), "init", || {
            "this model cannot begin from a picture".into()
        })?;
        let count = request.prompts.len() as i32;
        let fits = match *init.pixels.shape() {
            [rows, height, width, 3] => {
                [height, width] == [request.height, request.width] && (rows == 1 || rows == count)
            }
            _ => false,
        };
        let fits = fits && init.pixels.dtype() == Dtype::Uint8;
        check(fits, "init", || {
            let found = format!("{:?} of {:?}", init.pixels.shape(), init.pixels.dtype());
            format!("{found} where bytes [1 or {count}, {}, {}, 3] are needed", request.height, request.width)
        })?;
        check(init.strength > 0.0 && init.strength <= 1.0, "strength", || {
            format!("{} is not above 0 and at most 1", init.strength)
        })
    }
}

fn check(fits: bool, name: &str, problem: impl FnOnce() -> String) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::argument(name, problem())) }
}
