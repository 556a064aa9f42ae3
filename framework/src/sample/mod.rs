//! From a model's output to a decision.

mod token;

pub use token::{TokenGenerator, TokenSampler};
