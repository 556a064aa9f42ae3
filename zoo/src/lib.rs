//! Models composed from [`framework`]'s blocks, and what people do with them.
//!
//! [`open`] is the front door; [`MODELS`] is the table of families.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::disallowed_methods,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod arguments;
mod autoencoder_kl;
pub mod bench;
mod boilerplate;
pub mod cache;
mod checksum;
pub mod cli;
mod clip;
mod component;
pub mod composed;
pub mod data;
mod decoder;
pub mod doctor;
mod error;
pub mod families;
pub mod fetch;
mod flux;
mod gemma3;
mod gguf;
mod glm;
pub mod image;
mod language;
mod llama;
mod mistral;
mod mixtral;
mod nearest;
mod open;
pub mod picture;
mod positions;
pub mod published;
mod quantise;
mod quantization;
mod qwen;
mod qwen3_moe;
mod real_size;
pub mod registry;
mod rope;
mod shipped;
mod sizes;
mod smollm3;
mod t5;
pub mod task;
pub mod text;
pub mod train;

pub use arguments::{Arguments, Outputs, State};
pub use clip::{ClipEncoded, ClipText};
pub use composed::ComposedPipeline;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use flux::{FluxInput, FluxPipeline, FluxTransformer};
pub use image::{Generator, ImageEvent, ImageRequest, InitImage};
pub use language::{Chat, Completion, Event, LanguageModel, Perplexity, Request, Stopped, Structure, Windows};
pub use open::{Files, Open, Weights, language_model, open};
pub use quantise::{Quantise, Quantised};
pub use registry::{Checkpoint, Entry, Family, MODELS, OpenOptions, Opened, PIPELINES, Pipeline};
pub use t5::T5Encoder;

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
