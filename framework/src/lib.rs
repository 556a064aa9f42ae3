//! Generic blocks for generative models on [MLX](https://github.com/ml-explore/mlx): composed, exact, small.
//!
//! A model is a tree of [`Module`]s. The name of a field is the path of its parameters, of its adapters, of its taps
//! and of its errors; everything generic (loading, saving, counting, quantising, observing) is a walk over that tree.
//! Nothing here knows a model's name.

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

mod angle_table;
mod attention;
mod block;
mod cache;
mod closure;
mod conv;
mod cross;
mod cuda;
mod draft;
mod embedding;
mod error;
mod ffn;
mod fused;
mod host;
mod joint;
mod linear;
mod mask;
pub mod math;
pub mod memory;
mod modulation;
mod module;
mod moe;
mod norm;
mod pace;
mod param;
mod position;
mod relative;
mod resnet;
pub mod sample;
mod sandwich;
mod spatial;
mod stacked;
mod storage;
pub mod tap;
#[cfg(test)]
mod testing;
mod tiling;
mod timestep;
pub mod train;
pub mod vae;
pub mod weights;

pub use angle_table::AngleTable;
pub use attention::{At, Attention, Context, Heads, Qkv, Score, attend};
pub use block::Block;
pub use cache::KvCache;
pub use conv::{Conv, Fill, Pad, Window};
pub use cross::Cross;
pub use draft::Draft;
pub use embedding::{Embedding, PlacedEmbedding, Tied};
pub use error::{Error, Result};
pub use ffn::{Activation, AnyFfn, Ffn, Glu, Mlp};
pub use joint::{Joined, Joint, Single, Stream};
pub use linear::{Adapter, Linear, on_linears};
pub use mask::{Lowered, Mask};
pub use mlx_rs::{Array, Dtype};
pub use modulation::{
    AdaLnContinuous, AdaLnZero, AnyModulation, Cond, Mod, Modulation, Shared, Table, TanhGated, chunks,
};
pub use module::{Leaf, LeafMut, Module, params, walk, walk_mut};
pub use moe::{Choice, ExpertSizes, Experts, Moe, Router, Routing, Scoring, SharedExpert};
pub use norm::{AcrossHeads, AnyNorm, GroupNorm, LayerNorm, Norm, RmsNorm};
pub use pace::Pace;
pub use param::{Init, Param};
pub use position::{Angle, Angles, AnyPosition, Axes, Layout, Position, Positions, Rope, Scaling};
pub use relative::RelativeBias;
pub use resnet::{Down, Downsample, Layers, ResnetBlock, Spatial, Style, Up, Upsample};
pub use sandwich::Sandwich;
pub use spatial::SpatialTransformer;
pub use stacked::{Route, Stacked};
pub use storage::{Affine, Weight};
pub use tiling::{Ratio, Tiling};
pub use timestep::{TimestepEmbedding, sinusoid};
