//! How well a model predicts a text.

use super::LanguageModel;
use crate::{Error, Result, error::go_on, task::CausalLm};
use framework::{Array, Dtype, Error as Inner, KvCache, math};
use mlx_rs::ops;
use std::ops::{ControlFlow, Range};

/// Tokens whose logits are held at once.
const CHUNK: usize = 256;

/// The windows in which a long text is read. Each begins `stride` tokens after the last and scores those that no window
/// before it has, so that a token has at least `context − stride` others before it, and the first window's tokens those
/// that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens in a window.
    pub context: usize,
    /// Tokens from one window to the next, at most `context`.
    pub stride: usize,
}

/// How well a model predicts a text. A text's first token has nothing before it and is not scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// The sum of `−ln p(token | those before it)`.
    pub nats: f64,
    /// How many tokens that is of.
    pub tokens: usize,
}

impl Perplexity {
    /// `exp` of the mean.
    pub fn value(&self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }
}

impl Windows {
    /// Checks what can be known without a model.
    ///
    /// # Errors
    /// When a window is shorter than two tokens, or the stride is 0 or more than the window.
    pub fn validate(self) -> Result<()> {
        let Self { context, stride } = self;
        if context < 2 {
            return Err(Error::argument("context", format!("{context} tokens predict nothing; give at least 2")));
        }
        if !(1..=context).contains(&stride) {
            return Err(Error::argument("stride", format!("{stride} is not from 1 to {context}, the context")));
        }
        Ok(())
    }

    /// The windows over `length` tokens, and how many of the last tokens of each are scored.
    fn over(self, length: usize) -> Vec<(Range<usize>, usize)> {
        let mut windows = Vec::new();
        let mut scored = 0;
        let mut start: usize = 0;
        while scored < length {
            let end = start.saturating_add(self.context).min(length);
            windows.push((start..end, end.saturating_sub(scored)));
            scored = end;
            start = start.saturating_add(self.stride);
        }
        windows
    }
}

impl LanguageModel {
    /// The perplexity of a sequence of tokens, over strided windows
    /// (<https://huggingface.co/docs/transformers/perplexity>). With `kv_bits`, 4 or 8, every token sees packed keys and values, its
    /// own too. `observer` is told how many tokens are scored.
    ///
    /// The guide weighs the mean of each window by one token fewer than it scores; here every token counts the same.
    ///
    /// # Errors
    /// When there are fewer than two tokens, a window is longer than the model's context or shorter than two, or the stride
    /// is 0 or more than the window; bits or heads that cannot be [packed](KvCache::packed); a token that the model does not
    /// have; logits that are not finite; [`Error::Cancelled`] when the observer breaks.
    pub fn perplexity(
        &self,
        tokens: &[u32],
        windows: Windows,
        kv_bits: Option<i32>,
        observer: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Perplexity> {
        let model = self.lm()?;
        self.check_windows(tokens, windows)?;
        let mut score = Perplexity { nats: 0.0, tokens: 0 };
        for (window, scored) in windows.over(tokens.len()) {
            let window = tokens.get(window).unwrap_or_default();
            // What is predicted: all but the first of the text, which is also the first of its window.
            let scored = scored.min(window.len().saturating_sub(1));
            let mut told = |done: usize| Ok(go_on(observer(score.tokens.saturating_add(done)))?);
            let mut state = super::empty_state(model, kv_bits)?;
            let nats = read_window(model, &mut state, window, scored, &mut told)?;
            score.nats += nats;
            score.tokens = score.tokens.saturating_add(scored);
        }
        if !score.nats.is_finite() {
            return Err(Inner::NotFinite { stage: "logits".into() }.into());
        }
        Ok(score)
    }

    fn check_windows(&self, tokens: &[u32], windows: Windows) -> Result<()> {
        windows.validate()?;
        let (count, most) = (tokens.len(), self.context()?);
        if count < 2 {
            return Err(Error::argument(
                "text",
                format!("it has {count} tokens; the first is not scored, so give at least 2"),
            ));
        }
        if windows.context > most {
            let problem = format!("{} tokens are more than the model's {most}", windows.context);
            return Err(Error::argument("context", problem));
        }
        super::check_ids(tokens, self.lm()?)
    }
}

/// Reads a window from its beginning → the sum of `−ln p` of its last `scored` tokens.
fn read_window(
    model: &dyn CausalLm,
    state: &mut [KvCache],
    window: &[u32],
    scored: usize,
    told: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<f64> {
    let predicted = window.get(1..).unwrap_or_default();
    // The last token of a window predicts nothing in it.
    let read = window.get(..predicted.len()).unwrap_or_default();
    let skipped = predicted.len().saturating_sub(scored);
    let (mut nats, mut done) = (0.0, 0_usize);
    for (ids, targets) in read.chunks(CHUNK).zip(predicted.chunks(CHUNK)) {
        let ids = math::array(ids, &[1, ids.len() as i32])?;
        let each = losses(&model.next_of_each(&ids, state)?, targets)?;
        nats += each.iter().skip(skipped.saturating_sub(done)).map(|&loss| f64::from(loss)).sum::<f64>();
        done = done.saturating_add(targets.len());
        told(done.saturating_sub(skipped))?;
    }
    Ok(nats)
}

/// `−ln softmax(logits)` at the targets; logits `[1, L, vocabulary]`.
fn losses(logits: &Array, targets: &[u32]) -> Result<Vec<f32>> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let targets = math::array(targets, &[1, targets.len() as i32, 1])?;
    let chosen = logits.take_along_axis(&targets, -1)?;
    let losses = math::subtract(&ops::logsumexp_axis(&logits, -1, true)?, &chosen)?;
    Ok(math::read::<f32>(&losses)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_scored_once_with_enough_before_it() {
        for (context, stride, length) in [(8, 3, 20), (8, 8, 20), (8, 1, 9), (8, 4, 8), (8, 4, 2), (5, 5, 21)] {
            let windows = Windows { context, stride }.over(length);
            let mut next = 0;
            for (window, scored) in &windows {
                assert_eq!(window.end - scored, next, "{windows:?}");
                assert!(window.len() <= context && window.end <= length);
                assert!(next == 0 || next - window.start >= context - stride, "{windows:?}");
                next = window.end;
            }
            assert_eq!(next, length);
        }
    }
}
