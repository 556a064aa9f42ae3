//! Weights: where they come from, what they are called there, and how they get into a model, exactly.

mod apply;
pub mod coverage;
mod disk;
pub mod evaluate;
mod expr;
pub mod gguf;
mod header;
mod invert;
mod json;
mod load;
pub mod map;
#[cfg(test)]
mod mutate;
pub mod paths;
pub mod pattern;
mod resolve;
pub mod safetensors;
mod save;
mod source;
pub mod toml;

pub use coverage::Coverage;
pub use expr::{BatchNorm, Expr, Fold, RowOrder};
pub use header::{Header, Info, Stored};
pub use load::{Packed, Progress, fit, load, wanted};
pub use map::{ActivationLayout, WeightMap};
pub use paths::{Lookup, ModulePaths, Tap};
pub use pattern::{Captures, Pattern};
pub use resolve::{Class, Forward, PackedWeight, Plan, Produced, Wanted};
pub use save::{header, save};
pub use source::{Config, Source, Tensors};
