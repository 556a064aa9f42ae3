//! A sequence that a model continues token by token.

use super::{Memory, structure::Follower};
use crate::{Error, Request, Result, task::CausalLm};
use framework::{
    Array, Dtype, KvCache, math, memory,
    sample::{History, TokenGenerator, TokenSampler},
};
use mlx_rs::{ops::indexing::argmax_axis, transforms};

/// Tokens that are computed at once: bounds the memory of scores, and how long a cancel waits.
///
/// # Errors
/// When there is no device.
pub fn chunk() -> Result<usize> {
    Ok(if memory::is_on_cpu()? { 512 } else { 2048 })
}

/// The tokens so far, what the model remembers of them, and what chooses the next one.
///
/// Where a GPU computes and the likeliest token is taken, the token after the next one is under way while the next one is
/// read: the GPU need not wait until the processor has told it what to do.
pub struct Sequence<'a> {
    model: &'a dyn CausalLm,
    state: Vec<KvCache>,
    prompt: &'a [u32],
    /// What followed the prompt.
    pub generated: Vec<u32>,
    /// What the state holds.
    read: Vec<u32>,
    sampler: &'a TokenSampler,
    generator: TokenGenerator,
    /// What narrows the choice to a structure.
    pub follower: Option<Follower>,
    looks_ahead: bool,
    /// What follows the last token that was returned.
    ahead: Option<Likeliest>,
}

/// The likeliest token, which may still be under way.
struct Likeliest {
    /// `[1]`.
    token: Array,
    /// Whether every logit is a finite number.
    finite: Array,
}

impl Likeliest {
    /// From logits `[1, vocabulary]`; begins to compute it.
    fn begin(logits: &Array) -> Result<Self> {
        let logits = logits.as_dtype(Dtype::Float32)?;
        let token = argmax_axis(&logits, -1, false)?;
        let finite = logits.is_finite().and_then(|finite| finite.all(None))?;
        transforms::async_eval([&token, &finite])?;
        Ok(Self { token, finite })
    }

    /// Waits for it.
    fn get(&self) -> Result<u32> {
        if math::read::<bool>(&self.finite)? != [true] {
            return Err(framework::Error::NotFinite { stage: "logits".into() }.into());
        }
        let token = math::read::<u32>(&self.token)?;
        token.first().copied().ok_or_else(|| Error::argument("logits", "there are none"))
    }
}

impl<'a> Sequence<'a> {
    pub fn new(
        model: &'a dyn CausalLm,
        request: &'a Request,
        prompt: &'a [u32],
        state: Vec<KvCache>,
        follower: Option<Follower>,
    ) -> Result<Self> {
        let looks_ahead = request.sampler.is_argmax() && follower.is_none() && !memory::is_on_cpu()?;
        Ok(Self {
            model,
            state,
            prompt,
            generated: Vec::new(),
            read: Vec::new(),
            sampler: &request.sampler,
            generator: request.sampler.generator(request.seed),
            follower,
            looks_ahead,
            ahead: None,
        })
    }

    /// Reads the prompt in chunks, but for the `done` tokens that its state holds; returns the token after it.
    pub fn prefill(&mut self, mut done: usize, progress: &mut dyn FnMut(usize) -> Result<()>) -> Result<u32> {
        let (known, rest) = self.prompt.split_at(done.min(self.prompt.len()));
        self.read = known.to_vec();
        let mut last = None;
        for chunk in rest.chunks(chunk()?) {
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

    /// Reads the token that was returned last, unless that is under way; returns the one after it.
    pub fn step(&mut self, token: u32) -> Result<u32> {
        match self.ahead.take() {
            Some(next) => self.look_past(next),
            None => {
                let logits = self.feed(&[token])?;
                self.choose(&logits)
            }
        }
    }

    /// What is remembered of it, and what followed the prompt.
    pub fn end(self, kv_bits: Option<i32>) -> (Memory, Vec<u32>) {
        (Memory::of(self.read, self.state, kv_bits), self.generated)
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Array> {
        let ids = math::array(tokens, &[1, tokens.len() as i32])?;
        let logits = self.model.next(&ids, &mut self.state)?;
        self.read.extend(tokens);
        Ok(logits)
    }

    /// The next token from logits `[1, vocabulary]`.
    fn choose(&mut self, logits: &Array) -> Result<u32> {
        if self.sampler.is_argmax() && self.follower.is_none() {
            let next = Likeliest::begin(logits)?;
            return if self.looks_ahead { self.look_past(next) } else { next.get() };
        }
        let mut logits = math::read::<f32>(&logits.as_dtype(Dtype::Float32)?)?;
        if let Some(follower) = &mut self.follower {
            follower.narrow(&mut logits)?;
        }
        let history = History { prompt: self.prompt, generated: &self.generated };
        Ok(self.generator.choose(&logits, history)?)
    }

    /// Begins what follows a token; returns the token.
    fn look_past(&mut self, next: Likeliest) -> Result<u32> {
        let logits = self.model.next(&next.token.reshape(&[1, 1])?, &mut self.state)?;
        self.ahead = Some(Likeliest::begin(&logits)?);
        let token = next.get()?;
        self.read.push(token);
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: i32 = 23;

    /// A model of one cache: its next token depends on all before it.
    struct Sums;

    impl CausalLm for Sums {
        fn state(&self) -> Vec<KvCache> {
            vec![KvCache::growing()]
        }

        fn next_padded(&self, ids: &Array, _: &[i32], state: &mut [KvCache]) -> framework::Result<Array> {
            let [_, length] = math::shape(ids)?;
            let ids = ids.as_dtype(Dtype::Float32)?.reshape(&[1, length, 1, 1])?;
            let (seen, _) = state[0].update(ids.clone(), ids)?;
            let places =
                math::array(&(1..=VOCABULARY).map(|place| place as f32).collect::<Vec<_>>(), &[1, VOCABULARY])?;
            let sum = math::offset(&seen.square()?.sum(None)?, 1.0)?;
            Ok(places.multiply(sum)?.cos()?)
        }

        fn next_of_each(&self, ids: &Array, state: &mut [KvCache]) -> framework::Result<Array> {
            self.next(ids, state)
        }

        fn vocabulary(&self) -> i32 {
            VOCABULARY
        }

        fn context(&self) -> i32 {
            100
        }
    }

    #[test]
    fn looking_ahead_changes_no_token_and_nothing_that_is_remembered() {
        let run = |looks_ahead: bool, count: usize| {
            let request = Request::default();
            let mut sequence = Sequence::new(&Sums, &request, &[3, 1, 4], Sums.state(), None).unwrap();
            sequence.looks_ahead = looks_ahead;
            let mut tokens = vec![sequence.prefill(0, &mut |_| Ok(())).unwrap()];
            for _ in 0..count {
                tokens.push(sequence.step(tokens[tokens.len() - 1]).unwrap());
            }
            assert_eq!(sequence.state[0].seen() as usize, sequence.read.len());
            (tokens, sequence.read)
        };
        for count in [0, 1, 9] {
            let ((plain, read), (ahead, read_ahead)) = (run(false, count), run(true, count));
            assert_eq!(ahead, plain);
            assert_eq!([&[3, 1, 4], &ahead[..]].concat(), read_ahead);
            assert_eq!(read, read_ahead[..read.len()]);
        }
        assert!(run(false, 9).0.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn logits_that_are_no_numbers_are_reported_ahead_too() {
        let nan = Array::from_f32(f32::NAN).reshape(&[1, 1]).unwrap();
        assert!(Likeliest::begin(&nan).unwrap().get().unwrap_err().to_string().contains("logits"));
    }
}
