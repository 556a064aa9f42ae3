//! Several sequences that are continued together.

use super::{Answer, Completion, Event, Follower, LanguageModel, Request, Stopped, check_prompt, chunk, room};
use crate::Result;
use framework::{
    Dtype, KvCache, math,
    sample::{History, TokenGenerator},
};
use mlx_rs::transforms;
use std::{
    cell::RefCell,
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

/// A sequence among others.
struct Row<'a> {
    answer: Answer<'a>,
    generator: TokenGenerator,
    prompt: &'a [u32],
    made: Vec<u32>,
    last: u32,
    follower: Option<Follower>,
    stopped: Option<Stopped>,
}

impl Row<'_> {
    /// Some columns of the prompt, padded on the left to `longest`.
    fn columns(&self, longest: usize, columns: Range<usize>) -> Vec<u32> {
        let pads = longest - self.prompt.len();
        let token = |column: usize| self.prompt.get(column.saturating_sub(pads)).copied();
        columns.filter_map(token).collect()
    }

    /// The next token.
    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let mut logits = logits.to_vec();
        if let Some(follower) = &mut self.follower {
            follower.narrow(&mut logits)?;
        }
        Ok(self.generator.choose(&logits, History { prompt: self.prompt, generated: &self.made })?)
    }

    fn finish(self, prefill: Duration, decode: Duration) -> Result<Completion> {
        let Self { answer, prompt, made: tokens, stopped, .. } = self;
        let stopped = stopped.unwrap_or(Stopped::MaxTokens);
        let (text, prompt_tokens) = (answer.finish(&stopped)?, prompt.len());
        Ok(Completion { text, tokens, stopped, prompt_tokens, reused_tokens: 0, prefill, decode })
    }
}

impl LanguageModel {
    /// Continues several sequences of tokens together. Each becomes what it would be alone with the seed `request.seed` plus
    /// its number, but for the rounding of larger products; an event comes with that number. The shorter are padded on the
    /// left, and those that have ended wait for the others.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), for any of them.
    pub fn generate_batch(
        &self,
        prompts: &[Vec<u32>],
        request: &Request,
        observer: &mut dyn FnMut(usize, Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Completion>> {
        let model = self.lm()?;
        request.validate()?;
        request.check_bias(model)?;
        prompts.iter().try_for_each(|prompt| check_prompt(prompt, model))?;
        let shared = &RefCell::new(observer);
        let tell = |number: usize| move |event: Event<'_>| (shared.borrow_mut())(number, event);
        let mut observers: Vec<_> = (0..prompts.len()).map(tell).collect();
        let mut rows = Vec::new();
        for (number, (prompt, observer)) in prompts.iter().zip(&mut observers).enumerate() {
            rows.push(Row {
                answer: Answer::new(request, &self.tokenizer, observer)?,
                generator: request.sampler.generator(request.seed.wrapping_add(number as u64)),
                prompt,
                made: Vec::new(),
                last: 0,
                follower: request.follower(&self.tokenizer)?,
                stopped: None,
            });
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let pads: Vec<i32> = prompts.iter().map(|prompt| (longest - prompt.len()) as i32).collect();
        let mut state = super::empty_state(model, request.kv_bits)?;
        let mut feed = |columns: &[Vec<u32>]| {
            let width = columns.first().map_or(0, Vec::len);
            let ids = math::array(&columns.concat(), &[columns.len() as i32, width as i32])?;
            let logits = model.next_padded(&ids, &pads, &mut state)?.as_dtype(Dtype::Float32)?;
            transforms::eval(state.iter().flat_map(KvCache::arrays))?;
            Ok::<_, crate::Error>(logits)
        };
        let begin = Instant::now();
        let mut logits = None;
        let chunk = chunk()?;
        for start in (0..longest).step_by(chunk) {
            let end = longest.min(start + chunk);
            let columns: Vec<Vec<u32>> = rows.iter().map(|row| row.columns(longest, start..end)).collect();
            logits = Some(feed(&columns)?);
            for row in &mut rows {
                let (total, pads) = (row.prompt.len(), longest - row.prompt.len());
                row.answer.tell(Event::Prefill { done: end.saturating_sub(pads), total })?;
            }
        }
        let prefill = begin.elapsed();
        let begin = Instant::now();
        while let Some(next) = logits.take() {
            let next = math::read::<f32>(&next)?;
            for (row, logits) in rows.iter_mut().zip(next.chunks_exact(model.vocabulary().max(1) as usize)) {
                if row.stopped.is_none() {
                    row.last = row.choose(logits)?;
                    let room = room(row.prompt, model);
                    let Row { last, made, follower, answer, .. } = row;
                    row.stopped = self.take(*last, made, follower.as_mut(), answer, request, room)?;
                }
            }
            if rows.iter().any(|row| row.stopped.is_none()) {
                let last: Vec<Vec<u32>> = rows.iter().map(|row| vec![row.last]).collect();
                logits = Some(feed(&last)?);
            }
        }
        let decode = begin.elapsed();
        rows.into_iter().map(|row| row.finish(prefill, decode)).collect()
    }
}
