//! `zoo eval`.

use super::{
    ModelArguments, as_option, chat,
    language::text_file,
    show::{Show, Unit, note_failure},
};
use crate::{Error, Result, Windows};
use clap::{Args, Subcommand};
use framework::KvCache;
use serde_json::json;
use std::path::PathBuf;

/// The longest window where nothing is said.
const CONTEXT: usize = 2048;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum Evaluation {
    /// The perplexity of a text: how many tokens the model wavers between, on average. Lower is better.
    Ppl(Perplexity),
}

#[derive(Debug, Args)]
pub struct Perplexity {
    /// The text.
    file: PathBuf,
    #[command(flatten)]
    model: ModelArguments,
    /// Tokens in a window. By default all that the model was made for, at most 2048.
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    context: Option<usize>,
    /// Tokens from one window to the next: fewer is slower, and gives a token more before it. By default half a window.
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    stride: Option<usize>,
    /// Keep keys and values in so many bits, 4 or 8, to see what that costs.
    #[arg(long, value_name = "BITS", allow_negative_numbers = true)]
    kv_bits: Option<i32>,
}

/// Measures.
pub fn run(evaluation: &Evaluation, show: &Show) -> Result<()> {
    let Evaluation::Ppl(arguments) = evaluation;
    arguments.run(show)
}

impl Perplexity {
    fn run(&self, show: &Show) -> Result<()> {
        let text = text_file(&self.file)?;
        self.windows(self.context.unwrap_or(CONTEXT)).validate().map_err(as_option)?;
        if let Some(bits) = self.kv_bits {
            KvCache::growing().packed(bits).map_err(|error| as_option(error.into()))?;
        }
        let model = chat::open(&self.model, show)?;
        let tokens = model.tokenizer().encode(&text, true)?;
        let windows = self.windows(self.context.unwrap_or(model.context()?.min(CONTEXT)));
        let total = tokens.len().saturating_sub(1) as u64;
        let mut failure = None;
        let scored = model.perplexity(&tokens, windows, self.kv_bits, &mut |done| {
            note_failure(show.progress("score", Unit::Things("tokens"), done as u64, total), &mut failure)
        });
        let scored = failure.map_or(scored, Err).map_err(|error| match error {
            Error::Argument { name, problem } if name == "text" => Error::file(&self.file, problem),
            other => as_option(other),
        })?;
        let Windows { context, stride } = windows;
        let nats = scored.nats / scored.tokens as f64;
        let fields = json!({
            "perplexity": scored.value(),
            "nats_per_token": nats,
            "tokens": scored.tokens,
            "context": context,
            "stride": stride,
            "kv_bits": self.kv_bits,
        });
        show.event("perplexity", fields)?;
        show.text(&format!(
            "perplexity {:.4} ({nats:.4} nats a token, {} tokens scored; context {context}, stride {stride})\n",
            scored.value(),
            scored.tokens
        ))
    }

    fn windows(&self, context: usize) -> Windows {
        Windows { context, stride: self.stride.unwrap_or((context / 2).max(1)) }
    }
}
