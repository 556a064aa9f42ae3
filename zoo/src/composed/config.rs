//! What a config says: streams, condition, stages, output.

use super::parts::{AttentionConfig, FfnConfig, ModulationConfig, NormConfig};
use crate::sizes::Size;
use framework::Activation;
use serde::Deserialize;

/// A transformer, whole. A key that this does not know is refused where the config is read, by
/// [`json_config`](crate::registry::json_config), since `model_type` and the like stand beside these.
#[derive(Clone, Debug, Deserialize)]
pub struct ComposedConfig {
    /// What goes in, in the order in which tokens are joined.
    pub(super) streams: Vec<StreamConfig>,
    /// What acts on modulated blocks.
    pub(super) condition: Option<ConditionConfig>,
    /// Blocks, in order.
    pub(super) stages: Vec<StageConfig>,
    /// What comes out.
    pub(super) output: OutputConfig,
}

/// A sequence of tokens that the model is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamConfig {
    /// What stages call it.
    pub name: String,
    /// What it is given as.
    pub input: InputConfig,
    /// On what it is given as, before the projection.
    #[serde(default)]
    pub norm: NormConfig,
    /// From that to the width of the blocks.
    #[serde(default)]
    pub projection: ProjectionConfig,
    /// What is added to tell where a token stands.
    #[serde(default)]
    pub place: PlaceConfig,
    /// The input with the positions for a rope; without it tokens count from 0.
    pub positions: Option<String>,
    /// The input with a mask `[B, L]`, whose zeros are padding.
    pub mask: Option<String>,
}

/// What a stream is given as.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum InputConfig {
    /// Token ids `[B, L]`, embedded.
    Tokens {
        /// The input.
        name: String,
        /// How many tokens there are.
        vocabulary: Size,
        /// Features of the embedding.
        dim: Size,
        /// What embedded tokens are multiplied by.
        scale: Option<f64>,
    },
    /// Features `[B, L, dim]`: packed latents, patches, an encoder's states.
    Features {
        /// The input.
        name: String,
        /// How many.
        dim: Size,
    },
}

/// From an input to the width of the blocks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ProjectionConfig {
    /// The input has that width.
    #[default]
    None,
    /// One matrix.
    Linear {
        /// The width.
        dim: Size,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Two matrices with an activation between, both to the width.
    Mlp {
        /// The width.
        dim: Size,
        /// Between them.
        activation: Activation,
        /// Whether there are biases.
        bias: bool,
    },
}

/// What is added to tokens to tell where they stand.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum PlaceConfig {
    /// Nothing.
    #[default]
    None,
    /// A learned row a place.
    Learned {
        /// How many places there are.
        length: Size,
    },
    /// Cosines of the place, then sines, at frequencies from 1 to 1/10000.
    Sinusoidal,
}

/// One vector from all that acts on the whole: the sum of its parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionConfig {
    /// Its width.
    pub dim: Size,
    /// What is added up.
    pub parts: Vec<ConditionPartConfig>,
    /// On the sum.
    pub activation: Option<Activation>,
    /// Projections of it that many blocks share.
    #[serde(default)]
    pub projections: Vec<SharedConfig>,
}

/// A part of the condition.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ConditionPartConfig {
    /// A scalar `[B]` (time step, guidance): a sinusoid, then two layers with SiLU between.
    Time {
        /// The input.
        name: String,
        /// Features of the sinusoid.
        sinusoid: Size,
        /// What the scalar is multiplied by.
        scale: Option<f64>,
    },
    /// A vector `[B, dim]` (a pooled prompt): two layers with SiLU between.
    Vector {
        /// The input.
        name: String,
        /// Its features.
        dim: Size,
    },
    /// A class `[B]`, embedded.
    Class {
        /// The input.
        name: String,
        /// How many there are.
        classes: Size,
    },
}

/// A projection of the condition into shift, scale and gate of every sublayer of the blocks that name it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedConfig {
    /// What modulations call it.
    pub name: String,
    /// The width of the blocks.
    pub dim: Size,
    /// Sublayers of the blocks: 2, or 1 of `single`.
    pub sublayers: Size,
}

/// Blocks that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StageConfig {
    /// The streams that they act on. Several are one sequence for as long as the stage lasts, but for `joint`.
    pub on: Vec<String>,
    /// How many blocks.
    pub count: Size,
    /// What they are.
    pub block: BlockConfig,
}

/// A kind of block.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BlockConfig {
    /// `x + attn(norm(x))`, then `x + ffn(norm(x))`.
    PreNorm(LayerConfig),
    /// Norms on both sides of both.
    Sandwich(LayerConfig),
    /// A block a stream, which meet in one attention.
    Joint(JointConfig),
    /// Attention and feed-forward network side by side.
    Single(SingleConfig),
    /// With attention to another stream between.
    Cross(Box<CrossConfig>),
}

/// The parts of a block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerConfig {
    /// Before each sublayer; of `sandwich` after it too.
    pub norm: NormConfig,
    /// Tokens exchange.
    pub attention: AttentionConfig,
    /// Tokens compute.
    pub ffn: FfnConfig,
    /// How the condition acts on both.
    #[serde(default)]
    pub modulation: ModulationConfig,
}

/// The blocks of `joint`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JointConfig {
    /// One for each stream in the order of `on`, or one that serves all.
    pub streams: Vec<LayerConfig>,
}

/// The parts of `single`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SingleConfig {
    /// Before everything.
    pub norm: NormConfig,
    /// Without `projections` and `sinks`: one matrix projects everything.
    pub attention: AttentionConfig,
    /// Units of the feed-forward network.
    pub hidden: Size,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Whether both projections have biases.
    #[serde(default)]
    pub bias: bool,
    /// How the condition acts on both at once.
    #[serde(default)]
    pub modulation: ModulationConfig,
}

/// The parts of `cross`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CrossConfig {
    /// The stream that is attended to.
    pub context: String,
    /// Before self-attention and the feed-forward network.
    pub norm: NormConfig,
    /// Tokens exchange.
    pub attention: AttentionConfig,
    /// Before cross-attention.
    #[serde(default)]
    pub cross_norm: NormConfig,
    /// Tokens ask the context; without a position and a mask.
    pub cross_attention: AttentionConfig,
    /// Tokens compute.
    pub ffn: FfnConfig,
    /// How the condition acts on self-attention and the feed-forward network.
    #[serde(default)]
    pub modulation: ModulationConfig,
    /// What norms, modulation and residuals are computed in, where that is wider than the tokens.
    pub accumulate: Option<Wide>,
}

/// An element type that is wider than a model's.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wide {
    /// f32.
    Float32,
}

/// What comes out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputConfig {
    /// What it is called.
    pub name: String,
    /// Of which stream it is.
    pub stream: String,
    /// After the last block.
    #[serde(default)]
    pub norm: NormConfig,
    /// How the condition acts on that norm.
    #[serde(default)]
    pub modulation: OutputModulationConfig,
    /// After that.
    #[serde(default)]
    pub head: HeadConfig,
}

/// How the condition acts on the last norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutputModulationConfig {
    /// Not at all.
    #[default]
    None,
    /// A projection of it to a scale and a shift.
    AdaLnContinuous,
}

/// The output layer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum HeadConfig {
    /// Hidden states are the output.
    #[default]
    None,
    /// One matrix.
    Linear {
        /// Features of the output.
        dim: Size,
        /// Whether there is a bias.
        bias: bool,
    },
    /// The table that embeds the stream's tokens.
    Tied,
}
