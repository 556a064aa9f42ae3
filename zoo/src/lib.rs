//! Models composed from [`framework`]'s blocks, and what people do with them.
//!
//! [`open`] is the front door; [`MODELS`] is the table of families.

mod arguments;
mod boilerplate;
pub mod cache;
pub mod cli;
mod decoder;
pub mod doctor;
mod error;
pub mod fetch;
mod language;
mod llama;
mod open;
pub mod published;
pub mod registry;
mod rope;
pub mod task;
pub mod text;

pub use arguments::{Arguments, Outputs, State};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use language::{Completion, Event, LanguageModel, Request, Stopped};
pub use open::{Open, Weights, open};
pub use registry::{Checkpoint, Entry, Family, MODELS, OpenOptions, Opened};
