//! The families by name, for whoever builds one without a checkpoint.

pub use crate::{autoencoder_kl::AutoencoderKl, clip::Clip, composed::Composed, flux::Flux, llama::Llama, t5::T5};
