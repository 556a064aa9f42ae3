//! A sequence that a model continues token by token.

use super::{Memory, structure::Follower};
use crate::{Error, Request, Result, task::CausalLm};
use framework::{
    Array, Dtype, KvCache, math,
    sample::{History, TokenGenerator, TokenSampler},
};
use mlx_rs::{ops::indexing::argmax_axis, transforms};

/// Tokens that are computed at once: bounds the memory of scores, and how long a cancel waits.
pub const CHUNK: usize = 512;

/// The tokens so far, what the model remembers of them, and what chooses the next one.
pub struct Sequence<'a> {
    model: &'a dyn CausalLm,
    state: Vec<KvCache>,
    prompt: &'a [u32],
    /// What followed the prompt.
    pub generated: Vec<u32>,
    sampler: &'a TokenSampler,
    generator: TokenGenerator,
    /// What narrows the choice to a structure.
    pub follower: Option<Follower>,
}

impl<'a> Sequence<'a> {
    pub fn new(
        model: &'a dyn CausalLm,
        request: &'a Request,
        prompt: &'a [u32],
        state: Vec<KvCache>,
        follower: Option<Follower>,
    ) -> Self {
        let generator = request.sampler.generator(request.seed);
        Self { model, state, prompt, generated: Vec::new(), sampler: &request.sampler, generator, follower }
    }

    /// Reads the prompt in chunks, but for the `done` tokens that its state holds; returns the token after it.
    pub fn prefill(&mut self, mut done: usize, progress: &mut dyn FnMut(usize) -> Result<()>) -> Result<u32> {
        let mut last = None;
        for chunk in self.prompt.get(done..).unwrap_or_default().chunks(CHUNK) {
            let logits = self.feed(chunk)?;
            transforms::eval(self.state.iter().flat_map(KvCache::arrays))?;
            done += chunk.len();
            last = Some(logits);
            if done == self.prompt.len() {
                break;
            }
            progress(done)?;
        }
        let logits = last.ok_or_else(|| Error::argument("prompt", "it is empty"))?;
        let next = self.choose(&logits)?;
        progress(done)?;
        Ok(next)
    }

    /// Reads a token; returns the one after it.
    pub fn step(&mut self, token: u32) -> Result<u32> {
        let logits = self.feed(&[token])?;
        self.choose(&logits)
    }

    /// What is remembered of it, and what followed the prompt.
    pub fn end(self, kv_bits: Option<i32>) -> (Memory, Vec<u32>) {
        // The last token may have been chosen without being read.
        let read = self.state.first().map_or(0, KvCache::seen) as usize;
        let mut tokens = [self.prompt, &self.generated].concat();
        tokens.truncate(read);
        (Memory::of(tokens, self.state, kv_bits), self.generated)
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Array> {
        let ids = math::array(tokens, &[1, tokens.len() as i32])?;
        Ok(self.model.next(&ids, &mut self.state)?)
    }

    /// The next token from logits `[1, vocabulary]`.
    fn choose(&mut self, logits: &Array) -> Result<u32> {
        let logits = logits.as_dtype(Dtype::Float32)?;
        if self.sampler.is_argmax() && self.follower.is_none() {
            let best = argmax_axis(&logits, -1, false)?;
            let finite = logits.is_finite().and_then(|finite| finite.all(None))?;
            transforms::eval([&best, &finite])?;
            if math::read::<bool>(&finite)? == [true] {
                let best = math::read::<u32>(&best)?;
                return best.first().copied().ok_or_else(|| Error::argument("logits", "there are none"));
            }
            return Err(framework::Error::NotFinite { stage: "logits".into() }.into());
        }
        let mut logits = math::read::<f32>(&logits)?;
        if let Some(follower) = &mut self.follower {
            follower.narrow(&mut logits)?;
        }
        let history = History { prompt: self.prompt, generated: &self.generated };
        Ok(self.generator.choose(&logits, history)?)
    }
}
