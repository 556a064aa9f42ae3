//! What a config says of the parts of a block: one enum a role.

use crate::sizes::Size;
use framework::{Activation, Angle, Axes, Layout, Scaling};
use serde::Deserialize;

/// A norm.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum NormConfig {
    /// The identity.
    #[default]
    None,
    /// RMSNorm.
    Rms {
        /// ε.
        eps: f32,
        /// Added to the weight: 1 where a checkpoint stores the difference from 1.
        #[serde(default)]
        offset: f32,
    },
    /// LayerNorm.
    Layer {
        /// ε.
        eps: f32,
        /// What it learns.
        #[serde(default)]
        parameters: AffineConfig,
    },
}

/// What a LayerNorm learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AffineConfig {
    /// Nothing.
    None,
    /// A gain.
    Weight,
    /// A gain and a bias.
    #[default]
    WeightAndBias,
}

/// Attention.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttentionConfig {
    /// Heads of queries.
    pub heads: Size,
    /// Heads of keys and values, which divide those of queries; by default as many.
    pub kv_heads: Option<Size>,
    /// Features a head; by default the width over the heads.
    pub head_dim: Option<Size>,
    /// How tokens become queries, keys and values, and back.
    pub projections: Option<ProjectionsConfig>,
    /// On queries and keys.
    #[serde(default)]
    pub qk_norm: QkNormConfig,
    /// How attention knows where tokens stand.
    #[serde(default)]
    pub position: PositionConfig,
    /// What a token sees.
    #[serde(default)]
    pub mask: MaskConfig,
    /// What scores are multiplied by; by default `1/√head_dim`.
    pub scale: Option<f32>,
    /// What scores are bounded to by a tanh.
    pub softcap: Option<f32>,
    /// Whether each head learns a score that no key has.
    #[serde(default)]
    pub sinks: bool,
}

/// The matrices of attention.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectionsConfig {
    /// Which of them are one.
    #[serde(default)]
    pub qkv: QkvConfig,
    /// Whether they have biases.
    #[serde(default)]
    pub bias: bool,
    /// Whether the one out has, where that differs.
    pub out_bias: Option<bool>,
}

/// Which of the projections to queries, keys and values are one matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum QkvConfig {
    /// None.
    #[default]
    Separate,
    /// All.
    Fused,
    /// Keys and values.
    KeyValue,
    /// Keys are values.
    KeyIsValue,
}

/// A norm of queries and keys.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum QkNormConfig {
    /// None.
    #[default]
    None,
    /// RMSNorm of each head.
    Rms {
        /// ε.
        eps: f32,
    },
    /// RMSNorm over all heads at once.
    RmsAcrossHeads {
        /// ε.
        eps: f32,
    },
    /// LayerNorm of each head.
    Layer {
        /// ε.
        eps: f32,
    },
}

/// How attention knows where tokens stand.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum PositionConfig {
    /// It does not.
    #[default]
    None,
    /// Queries and keys turn.
    Rope(RopeConfig),
    /// Scores get a learned bias by distance.
    RelativeBias {
        /// How many biases a head has.
        buckets: Size,
        /// From here on all keys share one.
        max_distance: Size,
        /// Whose they are.
        tables: TablesConfig,
    },
}

/// Whose a table of biases is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TablesConfig {
    /// All blocks' of the stage.
    Shared,
    /// Each block's own.
    Each,
}

/// A rope.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RopeConfig {
    /// How many features of a head turn; by default all.
    pub dims: Option<Size>,
    /// The base θ.
    pub theta: f64,
    /// Which features form a pair.
    pub layout: Layout,
    /// How several axes share the pairs.
    #[serde(default = "one_axis")]
    pub axes: Axes,
    /// transformers' `rope_parameters` without θ.
    #[serde(default)]
    pub scaling: Scaling,
    /// The precision of the angles.
    #[serde(default)]
    pub angle: Angle,
}

fn one_axis() -> Axes {
    Axes::One
}

/// What a token sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum MaskConfig {
    /// Everything.
    #[default]
    None,
    /// What stands before it, and itself.
    Causal,
    /// The newest of those.
    Sliding {
        /// How many.
        window: Size,
    },
}

/// A feed-forward network.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FfnConfig {
    /// Two matrices with an activation between.
    Mlp(HiddenConfig),
    /// With a gate, which has the activation.
    Glu(HiddenConfig),
}

/// What is inside a feed-forward network.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HiddenConfig {
    /// Units.
    pub hidden: Size,
    /// Of the units.
    pub activation: Activation,
    /// Whether there are biases.
    #[serde(default)]
    pub bias: bool,
}

/// How the condition acts on a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ModulationConfig {
    /// Not at all.
    #[default]
    None,
    /// A projection of the block's own to shifts, scales and gates.
    AdaLnZero,
    /// A projection of the condition.
    Shared {
        /// Its name.
        projection: String,
    },
    /// A projection of the condition plus a table of the block's own.
    Table {
        /// Its name.
        projection: String,
    },
    /// A projection of the block's own to scales and bounded gates.
    TanhGated,
}
