//! What decoders differ in, as values.

use super::{Decoder, Layer};
use crate::sizes::positive;
use framework::{
    Activation, AngleTable, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Attention, Block, Choice, Dtype, Embedding,
    Error, ExpertSizes, Glu, Heads, Init, Linear, Moe, Qkv, Result, RmsNorm, Rope, Sandwich, Score,
};

/// The sizes and choices of a [`Decoder`]: grouped-query attention with a rope, and a gated feed-forward network.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// How many tokens there are.
    pub vocabulary: i32,
    /// The longest sequence, in tokens.
    pub context: i32,
    /// Features of a token, D.
    pub dim: i32,
    /// Units of the feed-forward network.
    pub hidden: i32,
    /// What stands in its place in some layers.
    pub mixture: Option<Mixture>,
    /// The heads of the attention.
    pub sizes: Heads,
    /// The layers, in order.
    pub layers: Vec<LayerKind>,
    /// Where the norms of a layer stand.
    pub wiring: Wiring,
    /// ε of the norms.
    pub eps: f32,
    /// What the norms add to their weights.
    pub norm_offset: f32,
    /// Whether each head's queries and keys are normalised.
    pub qk_norm: bool,
    /// What scores are multiplied by and bounded to.
    pub score: Score,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Which projections have biases.
    pub biases: Biases,
    /// What embedded tokens are multiplied by.
    pub embedding_scale: Option<f32>,
    /// What bounds the logits.
    pub logit_cap: Option<f32>,
    /// Whether the embedding's table serves as the head.
    pub tied: bool,
}

/// What the attention of a layer knows of positions, and how far back it sees.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerKind {
    /// Without one, attention does not know where tokens stand.
    pub rope: Option<Rope>,
    /// How many tokens are seen, the token itself included; without it, all.
    pub window: Option<i32>,
}

/// Experts of which a token goes through a few.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// How many of what size.
    pub experts: ExpertSizes,
    /// How they are chosen and weighed.
    pub choice: Choice,
    /// What their weights are kept in, where that is wider than the tokens.
    pub accumulate: Option<Dtype>,
    /// For each layer, whether it has them.
    pub layers: Vec<bool>,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Before each sublayer.
    PreNorm,
    /// On both sides of each sublayer.
    Sandwich,
}

/// Which projections have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Those to queries, keys and values.
    pub qkv: bool,
    /// That from the heads.
    pub o: bool,
    /// Those of the feed-forward network.
    pub ffn: bool,
}

impl DecoderSpec {
    /// Builds the model, lazily.
    ///
    /// # Errors
    /// When a size is not positive; names upstream's key.
    pub fn build(&self, init: &mut Init) -> Result<Decoder> {
        let &Self { vocabulary, context, dim, hidden, .. } = self;
        positive(&[
            ("vocab_size", vocabulary),
            ("hidden_size", dim),
            ("intermediate_size", hidden),
            ("num_hidden_layers", self.layers.len() as i32),
            ("max_position_embeddings", context),
        ])?;
        if let Some(Mixture { experts: ExpertSizes { count, hidden }, choice, .. }) = self.sparse() {
            positive(&[("num_experts", *count), ("moe_intermediate_size", *hidden)])?;
            if !(1..=*count).contains(&choice.top_k) {
                let problem =
                    format!("{} of {count} experts; a token goes through at least 1 and at most all", choice.top_k);
                return Err(Error::config("num_experts_per_tok", problem));
            }
        }
        let mut kinds: Vec<LayerKind> = Vec::new();
        let mut kind_of = Vec::new();
        for layer in &self.layers {
            let known = kinds.iter().position(|kind| kind == layer);
            kind_of.push(known.unwrap_or(kinds.len()));
            if known.is_none() {
                positive(&[("sliding_window", layer.window.unwrap_or(1))])?;
                kinds.push(layer.clone());
            }
        }
        Ok(Decoder {
            embed_tokens: Embedding::new(vocabulary, dim, init)?,
            layers: (0..self.layers.len())
                .zip(&self.layers)
                .map(|(i, kind)| self.layer(i, kind, init))
                .collect::<Result<_>>()?,
            norm: self.norm(dim, init)?,
            lm_head: (!self.tied).then(|| Linear::new(dim, vocabulary, false, init)).transpose()?,
            embedding_scale: self.embedding_scale,
            logit_cap: self.logit_cap,
            angle_tables: kinds.iter().map(|_| AngleTable::default()).collect(),
            kinds,
            kind_of,
            vocabulary,
            context,
        })
    }

    /// The mixture, if any layer has it.
    pub fn sparse(&self) -> Option<&Mixture> {
        self.mixture.as_ref().filter(|_| (0..self.layers.len()).any(|layer| self.is_sparse(layer)))
    }

    /// Whether every layer has a mixture.
    pub fn is_all_sparse(&self) -> bool {
        (0..self.layers.len()).all(|layer| self.is_sparse(layer))
    }

    fn is_sparse(&self, layer: usize) -> bool {
        self.mixture.as_ref().is_some_and(|mixture| mixture.layers.get(layer) == Some(&true))
    }

    fn layer(&self, index: usize, kind: &LayerKind, init: &mut Init) -> Result<Layer> {
        let norm = |init: &mut Init| Ok::<_, framework::Error>(AnyNorm::Rms(self.norm(self.dim, init)?));
        let (norm1, attn, norm2) = (norm(init)?, self.attention(kind, init)?, norm(init)?);
        let modulation = AnyModulation::None;
        Ok(match self.wiring {
            Wiring::PreNorm => Layer::PreNorm(Block { norm1, attn, norm2, ffn: self.ffn(index, init)?, modulation }),
            Wiring::Sandwich => {
                let (ffn_norm1, ffn, ffn_norm2) = (norm(init)?, self.ffn(index, init)?, norm(init)?);
                Layer::Sandwich(Sandwich { norm1, attn, norm2, ffn_norm1, ffn, ffn_norm2, modulation })
            }
        })
    }

    fn attention(&self, kind: &LayerKind, init: &mut Init) -> Result<Attention> {
        let &Self { dim, sizes, biases, score, .. } = self;
        let qk_norm = |init: &mut Init| -> Result<AnyNorm> {
            Ok(if self.qk_norm { AnyNorm::Rms(self.norm(sizes.head_dim, init)?) } else { AnyNorm::None })
        };
        Ok(Attention {
            qkv: Qkv::separate(&sizes, dim, biases.qkv, init)?,
            o: Linear::new(sizes.heads * sizes.head_dim, dim, biases.o, init)?,
            q_norm: qk_norm(init)?,
            k_norm: qk_norm(init)?,
            position: kind.rope.clone().map_or(AnyPosition::None, AnyPosition::Rope),
            sinks: None,
            sizes,
            score,
        })
    }

    fn ffn(&self, layer: usize, init: &mut Init) -> Result<AnyFfn> {
        if let Some(&Mixture { experts, choice, accumulate, .. }) =
            self.mixture.as_ref().filter(|_| self.is_sparse(layer))
        {
            let mut moe = Moe::new(self.dim, experts, choice, self.activation, init)?;
            moe.router.accumulate = accumulate;
            return Ok(AnyFfn::Moe(Box::new(moe)));
        }
        Ok(AnyFfn::Glu(Glu::new(self.dim, self.hidden, self.activation, self.biases.ffn, init)?))
    }

    fn norm(&self, dim: i32, init: &mut Init) -> Result<RmsNorm> {
        Ok(RmsNorm { offset: self.norm_offset, ..RmsNorm::new(dim, self.eps, init)? })
    }
}
