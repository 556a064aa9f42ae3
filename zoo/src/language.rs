//! A language model with its tokenizer: text in, text out.

mod answer;
mod batch;
mod memory;
mod perplexity;
mod sequence;
mod structure;

pub use perplexity::{Perplexity, Windows};
pub(crate) use sequence::{Sequence, chunk};
pub use structure::Structure;

use crate::{
    Checkpoint, Error, MODELS, OpenOptions, Opened, Result, registry,
    task::CausalLm,
    text::{GgufTokenizer, Message, Stop, Tokenizer},
};
use answer::Answer;
use framework::{
    Array, KvCache, math,
    sample::TokenSampler,
    weights::{Progress, Source},
};
use memory::Memory;
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};
use structure::Follower;

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
    /// What the answer has to be; without, any text.
    pub structure: Option<Structure>,
    /// Bits of a number in the caches of keys and values, 4 or 8; without, the model's dtype.
    pub kv_bits: Option<i32>,
    /// Whether special tokens are shown: some models mark the calls of tools with them.
    pub special: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            sampler: TokenSampler::default(),
            seed: 0,
            stop: Vec::new(),
            structure: None,
            kv_bits: None,
            special: false,
        }
    }
}

/// What a conversation has beside its messages.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// The tools that the model may call: a list of JSON schemas, as transformers takes it.
    pub tools: Option<Value>,
    /// Whether the model thinks before it answers, where its template has a switch for it; without, as it is set.
    pub thinking: Option<bool>,
    /// Further variables of the template.
    pub extra: Map<String, Value>,
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
    /// The structure that was asked for is complete, and nothing can follow.
    Complete,
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
    /// Whether more would have followed: the end of an answer with a structure is missing then.
    pub fn is_truncated(&self) -> bool {
        matches!(self.stopped, Stopped::MaxTokens | Stopped::ContextFull)
    }

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
    /// When the model has no chat template, the template refuses the messages, or it knows no tools or no switch for
    /// thinking where these are asked for.
    pub fn chat_prompt(&self, messages: &[Message], chat: &Chat) -> Result<Vec<u32>> {
        let none = || Error::template("this model has none, so it cannot chat; use `complete`");
        let template = self.tokenizer.chat_template().ok_or_else(none)?;
        let mut extra = chat.extra.clone();
        if let Some(thinking) = chat.thinking {
            extra.insert(template.thinking_switch()?.to_owned(), thinking.into());
        }
        if chat.tools.is_some() && !template.reads("tools", true) {
            return Err(Error::template("it knows no tools"));
        }
        let text = template.render(messages, chat.tools.as_ref(), true, &extra)?;
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
        self.chat_with(messages, &Chat::default(), request, observer)
    }

    /// As [`chat`](Self::chat), with tools, or with thinking switched.
    ///
    /// # Errors
    /// As [`chat`](Self::chat).
    pub fn chat_with(
        &self,
        messages: &[Message],
        chat: &Chat,
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion> {
        self.generate(&self.chat_prompt(messages, chat)?, request, observer)
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
    /// When a value of the request is out of its range or not for this model, the prompt is empty, longer than the context
    /// or holds a token that the model does not have; when the logits are not finite; [`Error::Cancelled`] when the
    /// observer breaks.
    pub fn generate(
        &self,
        prompt: &[u32],
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion> {
        let model = self.lm()?;
        request.validate()?;
        request.check_bias(model)?;
        check_prompt(prompt, model)?;
        let room = room(prompt, model);
        let mut answer = Answer::new(request, &self.tokenizer, observer)?;
        let follower = request.follower(&self.tokenizer)?;
        let (state, reused_tokens) = match self.memory.take().recall(prompt, request.kv_bits) {
            Some(known) => known,
            None => (empty_state(model, request.kv_bits)?, 0),
        };
        let mut sequence = Sequence::new(model, request, prompt, state, follower)?;
        let begin = Instant::now();
        let mut tell = |done| answer.tell(Event::Prefill { done, total: prompt.len() });
        let mut next = sequence.prefill(reused_tokens, &mut tell)?;
        let prefill = begin.elapsed();
        let begin = Instant::now();
        let stopped = loop {
            let Sequence { generated, follower, .. } = &mut sequence;
            if let Some(stopped) = self.take(next, generated, follower.as_mut(), &mut answer, request, room)? {
                break stopped;
            }
            next = sequence.step(next)?;
        };
        let (memory, tokens) = sequence.end(request.kv_bits);
        self.memory.replace(memory);
        let decode = begin.elapsed();
        let text = answer.finish(&stopped)?;
        Ok(Completion { text, tokens, stopped, prompt_tokens: prompt.len(), reused_tokens, prefill, decode })
    }

    /// Takes a token into an answer; says why it ended, if it did.
    fn take(
        &self,
        token: u32,
        tokens: &mut Vec<u32>,
        follower: Option<&mut Follower>,
        answer: &mut Answer<'_>,
        request: &Request,
        room: usize,
    ) -> Result<Option<Stopped>> {
        if self.tokenizer.eos_ids().contains(&token) {
            return Ok(Some(Stopped::EndOfText));
        }
        tokens.push(token);
        let complete = follower.map_or(Ok(false), |follower| follower.push(token))?;
        if let Some(fired) = answer.push(token)? {
            return Ok(Some(Stopped::StopString(fired)));
        }
        if complete {
            return Ok(Some(Stopped::Complete));
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
        if self.structure.is_some() && !self.stop.is_empty() {
            return Err(Error::argument("stop", "it would cut an answer off that has to be whole JSON"));
        }
        if let Some(bits) = self.kv_bits {
            KvCache::growing().packed(bits)?;
        }
        Stop::new(self.stop.iter().cloned()).map(drop)
    }

    /// Refuses biases of tokens that the model does not have.
    fn check_bias(&self, model: &dyn CausalLm) -> Result<()> {
        let count = model.vocabulary();
        match self.sampler.logit_bias.keys().find(|&&id| i64::from(id) >= i64::from(count)) {
            Some(id) => {
                Err(Error::argument("logit_bias", format!("token {id} is not among the model's {count} tokens")))
            }
            None => Ok(()),
        }
    }

    /// What holds a sequence to the structure that is asked for.
    fn follower(&self, tokenizer: &Tokenizer) -> Result<Option<Follower>> {
        self.structure.as_ref().map(|structure| Follower::new(structure, tokenizer)).transpose()
    }
}

/// The state of an empty sequence, with keys and values in so many bits.
fn empty_state(model: &dyn CausalLm, kv_bits: Option<i32>) -> Result<Vec<KvCache>> {
    let packed = |cache: KvCache| match kv_bits {
        Some(bits) => Ok(cache.packed(bits)?),
        None => Ok(cache),
    };
    model.state().into_iter().map(packed).collect()
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
    check_ids(prompt, model)
}

/// Refuses tokens that the model does not have.
fn check_ids(tokens: &[u32], model: &dyn CausalLm) -> Result<()> {
    match tokens.iter().find(|&&id| id >= model.vocabulary() as u32) {
        Some(id) => {
            let (count, whose) = (model.vocabulary(), "the tokenizer is another model's");
            Err(Error::argument("prompt", format!("token {id} is not among the model's {count} tokens: {whose}")))
        }
        None => Ok(()),
    }
}
