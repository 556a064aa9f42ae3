//! A language model with its tokenizer: text in, text out.

mod batch;
mod memory;

use crate::{
    Checkpoint, Error, MODELS, OpenOptions, Opened, Result,
    error::go_on,
    registry,
    task::CausalLm,
    text::{GgufTokenizer, Message, Stop, Stream, Tokenizer},
};
use framework::{
    Array, Dtype, KvCache, math,
    sample::{TokenGenerator, TokenSampler},
    weights::{Progress, Source},
};
use memory::Memory;
use mlx_rs::{ops::indexing::argmax_axis, transforms};
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

/// Tokens of a prompt that are computed at once: bounds the memory of scores, and how long a cancel waits.
pub(crate) const CHUNK: usize = 512;

/// A language model that is ready to answer.
pub struct LanguageModel {
    opened: Box<dyn Opened>,
    entry: &'static registry::Entry,
    tokenizer: Tokenizer,
    memory: RefCell<Memory>,
}

/// What is asked of a language model.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many tokens at most are generated.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: TokenSampler,
    /// The seed of the choices.
    pub seed: u64,
    /// Texts at which the answer ends; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for Request {
    fn default() -> Self {
        Self { max_tokens: 512, sampler: TokenSampler::default(), seed: 0, stop: Vec::new() }
    }
}

/// What happens while a model answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// So many tokens of the prompt are read.
    Prefill {
        /// Tokens read.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token that shows no text yet.
    Token,
    /// A token, and more of the answer with it; whole characters only.
    Text(&'a str),
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The model ended it.
    EndOfText,
    /// A stop string occurred.
    StopString(String),
    /// `max_tokens` were generated.
    MaxTokens,
    /// The model's context is full.
    ContextFull,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// The generated tokens, without the one that ends the text.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stopped: Stopped,
    /// How many tokens the prompt had.
    pub prompt_tokens: usize,
    /// How many of them were not read again, because the last sequence began with them.
    pub reused_tokens: usize,
    /// How long the prompt took.
    pub prefill: Duration,
    /// How long the tokens after the first took.
    pub decode: Duration,
}

impl Completion {
    /// Tokens of the prompt a second, of those that were read.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens.saturating_sub(self.reused_tokens), self.prefill)
    }

    /// Generated tokens a second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.tokens.len().saturating_sub(1), self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

impl LanguageModel {
    /// Opens a snapshot or a `.gguf` file with its tokenizer.
    ///
    /// # Errors
    /// When no family answers to the file, it is not a language model's, or anything about it does not fit.
    pub fn open(path: &Path, options: OpenOptions, progress: &mut Progress<'_>) -> Result<Self> {
        Self::of(&Source::open(path)?, options, progress).map_err(|error| error.about(path))
    }

    fn of(source: &Source, options: OpenOptions, progress: &mut Progress<'_>) -> Result<Self> {
        let checkpoint = Checkpoint::of(source)?;
        let entry = registry::of(MODELS, &checkpoint, source.path())?;
        let tokenizer = match source.gguf() {
            Some(file) => GgufTokenizer::from_metadata(file.metadata())?.try_into()?,
            None => Tokenizer::from_snapshot(source.directory())?,
        };
        let opened = entry.open(&checkpoint, options, progress)?;
        let model = Self { opened, entry, tokenizer, memory: RefCell::default() };
        model.lm()?;
        Ok(model)
    }

    fn lm(&self) -> Result<&dyn CausalLm> {
        let none = || Error::argument("model", "it does not predict text");
        self.entry.causal_lm(&*self.opened).ok_or_else(none)
    }

    /// The model itself: its tree, its paths.
    pub fn opened(&self) -> &dyn Opened {
        &*self.opened
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The longest sequence that the model was made for, in tokens.
    pub fn context(&self) -> Result<usize> {
        Ok(self.lm()?.context().max(0) as usize)
    }

    /// The tokens of a conversation, as the model's chat template writes it, up to where the answer begins.
    ///
    /// # Errors
    /// When the model has no chat template, or the template refuses the messages.
    pub fn chat_prompt(&self, messages: &[Message], extra: &Map<String, Value>) -> Result<Vec<u32>> {
        let none = || Error::template("this model has none, so it cannot chat; use `complete`");
        let template = self.tokenizer.chat_template().ok_or_else(none)?;
        let text = template.render(messages, None, true, extra)?;
        self.tokenizer.encode(&text, false)
    }

    /// Answers the last message of a conversation. What it has in common with the one before is not read again.
    ///
    /// # Errors
    /// As [`chat_prompt`](Self::chat_prompt) and [`generate`](Self::generate).
    pub fn chat(
        &self,
        messages: &[Message],
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion> {
        self.generate(&self.chat_prompt(messages, &Map::new())?, request, observer)
    }

    /// Continues a text.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn complete(
        &self,
        text: &str,
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion> {
        self.generate(&self.tokenizer.encode(text, true)?, request, observer)
    }

    /// Reads a sequence of tokens once, without generating: what a [tap](framework::tap) around it sees is one forward
    /// pass.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn read(&self, tokens: &[u32]) -> Result<Array> {
        let model = self.lm()?;
        check_prompt(tokens, model)?;
        let ids = math::array(tokens, &[1, tokens.len() as i32])?;
        Ok(model.next(&ids, &mut model.state())?)
    }

    /// Frees what is remembered of the last sequence.
    pub fn forget(&self) {
        self.memory.take();
    }

    /// Continues a sequence of tokens.
    ///
    /// What it has in common with the beginning of the sequence before, prompt and answer, is not read again: the caches of
    /// that sequence are kept until the next one, or until they are to be [forgotten](Self::forget).
    ///
    /// # Errors
    /// When a value of the request is out of its range, the prompt is empty, longer than the context or holds a token
    /// that the model does not have; when the logits are not finite; [`Error::Cancelled`] when the observer breaks.
    pub fn generate(
        &self,
        prompt: &[u32],
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion> {
        let model = self.lm()?;
        request.validate()?;
        check_prompt(prompt, model)?;
        let room = room(prompt, model);
        let mut answer = Answer::new(&self.tokenizer, request, observer)?;
        let known = self.memory.take().recall(prompt);
        let (state, reused_tokens) = known.unwrap_or_else(|| (model.state(), 0));
        let mut sequence = Sequence::new(model, request, prompt, state);
        let begin = Instant::now();
        let mut tell = |done| answer.tell(Event::Prefill { done, total: prompt.len() });
        let mut next = sequence.prefill(reused_tokens, &mut tell)?;
        let prefill = begin.elapsed();
        let begin = Instant::now();
        let mut tokens = Vec::new();
        let stopped = loop {
            if let Some(stopped) = self.take(next, &mut tokens, &mut answer, request, room)? {
                break stopped;
            }
            next = sequence.step(next)?;
        };
        self.memory.replace(Memory::of(sequence.tokens, sequence.state));
        let decode = begin.elapsed();
        let text = answer.finish(&stopped)?;
        Ok(Completion { text, tokens, stopped, prompt_tokens: prompt.len(), reused_tokens, prefill, decode })
    }

    /// Takes a token into an answer; says why it ended, if it did.
    fn take(
        &self,
        token: u32,
        tokens: &mut Vec<u32>,
        answer: &mut Answer<'_>,
        request: &Request,
        room: usize,
    ) -> Result<Option<Stopped>> {
        if self.tokenizer.eos_ids().contains(&token) {
            return Ok(Some(Stopped::EndOfText));
        }
        tokens.push(token);
        if let Some(fired) = answer.push(token)? {
            return Ok(Some(Stopped::StopString(fired)));
        }
        let made = tokens.len();
        let full = (made >= room).then_some(Stopped::ContextFull);
        Ok((made >= request.max_tokens).then_some(Stopped::MaxTokens).or(full))
    }
}

/// How many tokens may follow a prompt.
fn room(prompt: &[u32], model: &dyn CausalLm) -> usize {
    (model.context() as usize).saturating_sub(prompt.len())
}

impl Request {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        self.sampler.validate()?;
        if self.max_tokens == 0 {
            return Err(Error::argument("max_tokens", "0 tokens are no answer; ask for at least 1"));
        }
        Stop::new(self.stop.iter().cloned()).map(drop)
    }
}

/// Refuses a prompt that the model cannot read; an id outside the table would read foreign memory.
fn check_prompt(prompt: &[u32], model: &dyn CausalLm) -> Result<()> {
    let (length, context) = (prompt.len(), model.context() as usize);
    if prompt.is_empty() {
        return Err(Error::argument("prompt", "it is empty: there is nothing to continue"));
    }
    if length >= context {
        let problem = format!(
            "it has {length} tokens, and the model's context of {context} must hold the answer too; shorten it"
        );
        return Err(Error::argument("prompt", problem));
    }
    match prompt.iter().find(|&&id| id >= model.vocabulary() as u32) {
        Some(id) => {
            let (count, whose) = (model.vocabulary(), "the tokenizer is another model's");
            Err(Error::argument("prompt", format!("token {id} is not among the model's {count} tokens: {whose}")))
        }
        None => Ok(()),
    }
}

/// The text of an answer as it grows.
struct Answer<'a> {
    stream: Stream,
    stop: Stop,
    text: String,
    observer: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
}

impl<'a> Answer<'a> {
    fn new(
        tokenizer: &Tokenizer,
        request: &Request,
        observer: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Self> {
        let stop = Stop::new(request.stop.iter().cloned())?;
        Ok(Self { stream: tokenizer.stream(true), stop, text: String::new(), observer })
    }

    fn tell(&mut self, event: Event<'_>) -> Result<()> {
        Ok(go_on((self.observer)(event))?)
    }

    fn show(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        if piece.is_empty() { self.tell(Event::Token) } else { self.tell(Event::Text(piece)) }
    }

    /// Takes a token; returns the stop string that it completed.
    fn push(&mut self, token: u32) -> Result<Option<String>> {
        let piece = self.stream.push(token)?.unwrap_or_default();
        let piece = self.stop.push(&piece);
        self.show(&piece)?;
        Ok(self.stop.fired().map(str::to_owned))
    }

    /// Shows what was held back, unless a stop string cut it off.
    fn finish(self, stopped: &Stopped) -> Result<String> {
        let Self { stream, mut stop, mut text, observer } = self;
        if !matches!(stopped, Stopped::StopString(_)) {
            let mut rest = stop.push(&stream.finish()?);
            rest.push_str(&stop.finish());
            if !rest.is_empty() {
                go_on(observer(Event::Text(&rest)))?;
            }
            text.push_str(&rest);
        }
        Ok(text)
    }
}

/// A sequence of tokens and what the model remembers of it.
pub(crate) struct Sequence<'a> {
    model: &'a dyn CausalLm,
    state: Vec<KvCache>,
    tokens: Vec<u32>,
    sampler: &'a TokenSampler,
    generator: TokenGenerator,
}

impl<'a> Sequence<'a> {
    pub(crate) fn new(model: &'a dyn CausalLm, request: &'a Request, prompt: &[u32], state: Vec<KvCache>) -> Self {
        Self {
            model,
            state,
            tokens: prompt.to_vec(),
            sampler: &request.sampler,
            generator: request.sampler.generator(request.seed),
        }
    }

    /// Reads the prompt in chunks, but for the `done` tokens that its state holds; returns the token after it.
    pub(crate) fn prefill(&mut self, mut done: usize, progress: &mut dyn FnMut(usize) -> Result<()>) -> Result<u32> {
        let prompt = self.tokens.clone();
        let mut last = None;
        for chunk in prompt.get(done..).unwrap_or_default().chunks(CHUNK) {
            let logits = self.feed(chunk)?;
            transforms::eval(self.state.iter().flat_map(KvCache::arrays))?;
            done += chunk.len();
            last = Some(logits);
            if done == prompt.len() {
                break;
            }
            progress(done)?;
        }
        let logits = last.ok_or_else(|| Error::argument("prompt", "it is empty"))?;
        let next = self.choose(&logits)?;
        progress(done)?;
        Ok(next)
    }

    /// Appends a token; returns the one after it.
    pub(crate) fn step(&mut self, token: u32) -> Result<u32> {
        self.tokens.push(token);
        let logits = self.feed(&[token])?;
        self.choose(&logits)
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Array> {
        let ids = math::array(tokens, &[1, tokens.len() as i32])?;
        Ok(self.model.next(&ids, &mut self.state)?)
    }

    /// The next token from logits `[1, vocabulary]`.
    fn choose(&mut self, logits: &Array) -> Result<u32> {
        let logits = logits.as_dtype(Dtype::Float32)?;
        if self.sampler.is_argmax() {
            let best = argmax_axis(&logits, -1, false)?;
            let finite = logits.is_finite().and_then(|finite| finite.all(None))?;
            transforms::eval([&best, &finite])?;
            if math::read::<bool>(&finite)? == [true] {
                let best = math::read::<u32>(&best)?;
                return best.first().copied().ok_or_else(|| Error::argument("logits", "there are none"));
            }
            return Err(framework::Error::NotFinite { stage: "logits".into() }.into());
        }
        Ok(self.generator.choose(&math::read::<f32>(&logits)?, &self.tokens)?)
    }
}
