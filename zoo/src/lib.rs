//! Models composed from [`framework`]'s blocks, and what people do with them.

mod arguments;
mod boilerplate;
mod decoder;
mod error;
mod language;
mod llama;
pub mod registry;
mod rope;
pub mod task;
pub mod text;

pub use arguments::{Arguments, Outputs, State};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use language::{Completion, Event, LanguageModel, Request, Stopped};
pub use registry::{Checkpoint, Entry, Family, MODELS, OpenOptions, Opened};
