//! What is asked of an image model.

use crate::{Error, Result};
use framework::{
    Array,
    sample::{Condition, Guidance, Method},
};

/// A picture for each prompt. [`Capabilities::request`](super::Capabilities::request) is the recommended one of a model.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// One text a picture.
    pub prompts: Vec<String>,
    /// What pictures should not be, where `true_guidance` is on: one text for all, or one a picture; none is the empty text.
    pub negative_prompts: Vec<String>,
    /// Pixels, a multiple of the model's.
    pub width: i32,
    /// Pixels, a multiple of the model's.
    pub height: i32,
    /// How many noise levels there are.
    pub steps: usize,
    /// How the picture moves from one level to the next; some samplers evaluate the model more than once a step.
    pub sampler: Method,
    /// The guidance that the model was distilled with; none where it was not.
    pub guidance: Option<f32>,
    /// Guidance by a second evaluation of the model, away from the negative prompt
    /// (<https://arxiv.org/abs/2207.12598>); a scale of 1 is off.
    pub true_guidance: Guidance,
    /// Tokens of a prompt; where there are two text encoders, of the long one.
    pub text_tokens: usize,
    /// The seed of the first picture; each next picture has the next seed.
    pub seed: u64,
    /// How many pictures are made at once, which takes memory; the others follow. By default all.
    pub batch: Option<usize>,
    /// A picture to begin from instead of noise alone.
    pub init: Option<InitImage>,
    /// Pixels of a tile's side in the autoencoder, a multiple of 64; nothing decodes a picture whole. Tiles need less memory
    /// and more time, and change a picture by rounding alone.
    pub tile: Option<i32>,
    /// Whether to show what the pictures will be, after every step.
    pub previews: bool,
    /// Bytes that may be used; by default those that are free. What is predicted to need more is refused.
    pub memory: Option<u64>,
}

/// A picture to begin from: noise is mixed into it (<https://arxiv.org/abs/2108.01073>).
#[derive(Clone, Debug)]
pub struct InitImage {
    /// `[B or 1, H, W, 3]`, bytes.
    pub pixels: Array,
    /// The share of the steps that is done: from above 0, which keeps the picture, to 1, which forgets it.
    pub strength: f64,
    /// Noise for the autoencoder's distribution, `[B or 1, h, w, C]`; without it the mean is taken.
    pub posterior_noise: Option<Array>,
}

impl InitImage {
    /// Checks the noise for the autoencoder against its latents `[B, h, w, C]`.
    pub(super) fn validate_noise(&self, latents: &Array, request: &ImageRequest) -> Result<()> {
        let (Some(noise), [_, shape @ ..]) = (&self.posterior_noise, latents.shape()) else { return Ok(()) };
        let count = request.prompts.len() as i32;
        match noise.shape() {
            [rows, found @ ..] if found == shape && (*rows == 1 || *rows == count) => Ok(()),
            found => {
                let problem = format!("{found:?} where 1 or {count} of {shape:?} are needed");
                Err(Error::argument("posterior_noise", problem))
            }
        }
    }
}

impl ImageRequest {
    /// What each picture should not be.
    pub fn negatives(&self) -> Vec<String> {
        match &self.negative_prompts[..] {
            [] => vec![String::new(); self.prompts.len()],
            [one] => vec![one.clone(); self.prompts.len()],
            each => each.to_vec(),
        }
    }

    /// Whether the model is evaluated for the negative prompt too.
    pub fn is_guided(&self) -> bool {
        self.true_guidance.conditions().contains(&Condition::Away)
    }

    /// How many pictures are made at once.
    pub fn at_once(&self) -> i32 {
        let all = self.prompts.len();
        self.batch.map_or(all, |batch| batch.min(all)) as i32
    }

    /// The seed of the picture of that index.
    pub fn seed_of(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }
}
