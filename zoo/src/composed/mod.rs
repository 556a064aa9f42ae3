//! A transformer described wholly by its config: `"model_type": "composed"`.
//!
//! `docs/composed.md` shows every choice. Weights are named by the model's own paths, so the config is all that there is
//! to write.

mod blocks;
mod build;
mod config;
mod encoder;
mod family;
pub(crate) mod feed;
mod model;
mod parts;
mod pipeline;
mod stage;
mod stages;

pub use config::ComposedConfig;
pub(crate) use encoder::Encoder;
pub use family::{Composed, header};
pub(crate) use feed::{Feed, Texts};
pub use model::{ComposedTransformer, Condition, Inputs, Kind, LastNorm, Part, PartEmbedding, Projection, StreamInput};
pub use pipeline::{ComposedPipeline, TEXT_TO_IMAGE};
pub use stage::{AnyBlock, Stage};
