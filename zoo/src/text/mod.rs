//! Text in and out of a language model: tokenizers, chat templates, streamed detokenisation, stop strings.
//!
//! A [`Tokenizer`] comes from a Hugging Face snapshot ([`Tokenizer::from_snapshot`]) or from the metadata of a GGUF file
//! ([`GgufTokenizer`]). It carries the model's [`ChatTemplate`] and end-of-text ids. Generated ids go through a
//! [`Stream`], which never shows half a character, and a [`Stop`], which never shows a stop string.

mod believable;
mod bytes;
mod clip;
#[cfg(test)]
mod fixture;
mod gguf;
mod json;
mod limits;
mod metadata;
mod metered;
mod padded;
mod snapshot;
mod split;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod tool_call;

pub use gguf::GgufTokenizer;
pub use padded::padded;
pub(crate) use snapshot::{read as read_json, required as required_json};
pub use stop::Stop;
pub use stream::Stream;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
pub(crate) use tokenizer::guard;
pub use tool_call::{ToolCall, tool_calls};
