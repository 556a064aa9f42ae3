//! Weights: where they come from, what they are called there, and how they get into a model, exactly.

mod apply;
mod coverage;
mod disk;
pub mod evaluate;
mod expr;
pub mod gguf;
mod header;
mod invert;
mod json;
mod load;
mod map;
#[cfg(test)]
mod mutate;
mod paths;
mod pattern;
mod resolve;
pub mod safetensors;
mod save;
mod source;
mod toml;

pub use coverage::Coverage;
pub use expr::{Expr, RowOrder};
pub use header::{Header, Info, Stored};
pub use load::{Packed, Progress, fit, load, wanted};
pub use map::{ActivationLayout, WeightMap};
pub use paths::{Lookup, ModulePaths, Tap};
pub use pattern::Pattern;
pub use resolve::{Class, Forward, Plan, Wanted};
pub use save::{header, save};
pub use source::{Config, Source, Tensors};
