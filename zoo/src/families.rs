//! The families by name, for whoever builds one without a checkpoint.

pub use crate::{
    autoencoder_kl::AutoencoderKl,
    clip::Clip,
    composed::Composed,
    flux::Flux,
    llama::Llama,
    qwen::{Qwen2, Qwen3},
    t5::T5,
};
