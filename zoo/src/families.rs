//! The families by name, for whoever builds one without a checkpoint.

pub use crate::{
    autoencoder_kl::AutoencoderKl,
    clip::Clip,
    composed::Composed,
    flux::Flux,
    gemma3::Gemma3,
    glm::{Glm, Glm4},
    llama::Llama,
    mistral::Mistral,
    mixtral::Mixtral,
    qwen::{Qwen2, Qwen3},
    qwen3_moe::Qwen3Moe,
    smollm3::SmolLm3,
    t5::T5,
};
