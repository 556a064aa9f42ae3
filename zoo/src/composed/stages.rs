//! From a stage of a config to its blocks, kind by kind.

use super::{
    blocks::{Keyed, Widths, attention, ffn, heads, lends, mask, modulation, norm, qk_norm, rope, score},
    config::{ConditionConfig, CrossConfig, JointConfig, LayerConfig, SingleConfig},
    parts::{AttentionConfig, MaskConfig, ModulationConfig, PositionConfig, QkvConfig, TablesConfig},
    stage::{AnyBlock, Lane, Stage},
};
use framework::{
    AnyPosition, Block, Cross, Dtype, Error, Heads, Init, Joint, Linear, RelativeBias, Result, Sandwich, Score, Single,
};

/// How blocks see the streams of their stage.
pub(super) struct Seen<'a> {
    /// The streams of each sequence.
    pub lanes: Vec<Vec<usize>>,
    /// The width of each sequence.
    pub dims: Vec<i32>,
    pub condition: Option<&'a ConditionConfig>,
}

impl<'a> Seen<'a> {
    fn widths(&self, lane: usize) -> Widths<'a> {
        Widths { dim: self.dims.get(lane).copied().unwrap_or(1), condition: self.condition }
    }

    /// The stage of such blocks; `attention` and `modulation` are those of each sequence.
    fn stage(
        &self,
        blocks: Vec<AnyBlock>,
        parts: &[(&AttentionConfig, &ModulationConfig)],
        sublayers: i32,
        init: &mut Init,
    ) -> Result<Stage> {
        let mut lanes = Vec::new();
        let mut seen = MaskConfig::None;
        let mut distances = Vec::new();
        for (i, (streams, (attention, modulation))) in self.lanes.iter().zip(parts).enumerate() {
            let widths = self.widths(i);
            let sizes = heads(attention, widths.dim).of("attention")?;
            if i > 0 && attention.mask != seen {
                return Err(Error::config("streams", "they share one attention, and with it one mask"));
            }
            seen = attention.mask;
            lanes.push(Lane {
                streams: streams.clone(),
                rope: rope(attention, sizes.head_dim).of("attention")?,
                lends: lends(modulation, widths, sublayers)?,
            });
            if let PositionConfig::RelativeBias { buckets, max_distance, tables } = attention.position {
                if self.lanes.len() > 1 || streams.len() > 1 {
                    let problem = "distances are those of one stream; blocks on several cannot have them";
                    return Err(Error::config("attention.position.relative_bias", problem));
                }
                let count = if tables == TablesConfig::Shared { 1 } else { blocks.len() };
                let table = |_| RelativeBias::new(buckets.get(), sizes.heads, max_distance.get(), init);
                distances = (0..count).map(table).collect::<Result<_>>().map_err(|error| match error {
                    Error::Argument { name, problem } => {
                        Error::config(format!("attention.position.relative_bias.{name}"), problem)
                    }
                    other => other,
                })?;
            }
        }
        Ok(Stage { blocks, distances, lanes, context: None, mask: mask(seen) })
    }

    pub fn pre_norm(&self, config: &LayerConfig, count: i32, init: &mut Init) -> Result<Stage> {
        let build = |init: &mut Init| Ok(AnyBlock::PreNorm(block(config, self.widths(0), init)?));
        let blocks = repeat(count, init, build)?;
        self.stage(blocks, &[(&config.attention, &config.modulation)], 2, init)
    }

    pub fn sandwich(&self, config: &LayerConfig, count: i32, init: &mut Init) -> Result<Stage> {
        let dim = self.widths(0).dim;
        let build = |init: &mut Init| {
            let Block { norm1, attn, norm2: ffn_norm1, ffn, modulation } = block(config, self.widths(0), init)?;
            let [norm2, ffn_norm2] = [norm(&config.norm, dim, init)?, norm(&config.norm, dim, init)?];
            Ok(AnyBlock::Sandwich(Sandwich { norm1, attn, norm2, ffn_norm1, ffn, ffn_norm2, modulation }))
        };
        let blocks = repeat(count, init, build)?;
        self.stage(blocks, &[(&config.attention, &config.modulation)], 2, init)
    }

    pub fn joint(&self, config: &JointConfig, count: i32, init: &mut Init) -> Result<Stage> {
        let layers: Vec<&LayerConfig> = match &config.streams[..] {
            [one] => self.lanes.iter().map(|_| one).collect(),
            each if each.len() == self.lanes.len() => each.iter().collect(),
            each => {
                let problem = format!(
                    "{} for {} streams; give one that serves all, or one for each",
                    each.len(),
                    self.lanes.len()
                );
                return Err(Error::config("streams", problem));
            }
        };
        let key = |i: usize| format!("streams[{}]", if config.streams.len() == 1 { 0 } else { i });
        self.meet(&layers)?;
        let build = |init: &mut Init| {
            let each = layers.iter().enumerate();
            let streams = each.map(|(i, layer)| block(layer, self.widths(i), init).of(key(i)));
            Ok(AnyBlock::Joint(Joint { streams: streams.collect::<Result<_>>()? }))
        };
        let blocks = repeat(count, init, build)?;
        let parts: Vec<_> = layers.iter().map(|layer| (&layer.attention, &layer.modulation)).collect();
        self.stage(blocks, &parts, 2, init)
    }

    /// Streams that meet in one attention have the same heads and scores.
    fn meet(&self, layers: &[&LayerConfig]) -> Result<()> {
        let mut first: Option<(Heads, Score)> = None;
        for (i, layer) in layers.iter().enumerate() {
            let sizes = heads(&layer.attention, self.widths(i).dim).of(format!("streams[{i}].attention"))?;
            let own = (sizes, score(&layer.attention, &sizes)?);
            if *first.get_or_insert(own) != own {
                return Err(Error::config("streams", "they share one attention, and with it heads, scale and softcap"));
            }
            if layer.attention.sinks {
                return Err(Error::config("streams", "an attention of several streams has no sinks"));
            }
        }
        Ok(())
    }

    pub fn single(&self, config: &SingleConfig, count: i32, init: &mut Init) -> Result<Stage> {
        let own = &config.attention;
        if own.projections.is_some() || own.sinks {
            let problem = "one matrix projects everything here, and there are no sinks; leave both keys out";
            return Err(Error::config("attention.projections", problem));
        }
        let widths @ Widths { dim, .. } = self.widths(0);
        let build = |init: &mut Init| {
            let sizes @ Heads { heads, kv_heads, head_dim } = heads(own, dim).of("attention")?;
            let (attended, hidden) = (heads * head_dim, config.hidden.get());
            let qk_norm = |heads, init: &mut Init| qk_norm(own.qk_norm, &sizes, heads, init);
            Ok(AnyBlock::Single(Single {
                norm: norm(&config.norm, dim, init)?,
                proj_in: Linear::new(dim, attended + 2 * kv_heads * head_dim + hidden, config.bias, init)?,
                q_norm: qk_norm(heads, init)?,
                k_norm: qk_norm(kv_heads, init)?,
                position: rope(own, head_dim).of("attention")?.map_or(AnyPosition::None, AnyPosition::Rope),
                proj_out: Linear::new(attended + hidden, dim, config.bias, init)?,
                modulation: modulation(&config.modulation, widths, 1, init)?,
                sizes,
                score: score(own, &sizes).of("attention")?,
                activation: config.activation,
            }))
        };
        let blocks = repeat(count, init, build)?;
        self.stage(blocks, &[(own, &config.modulation)], 1, init)
    }

    pub fn cross(&self, config: &CrossConfig, context: i32, count: i32, init: &mut Init) -> Result<Stage> {
        let asked = &config.cross_attention;
        let fused = asked.projections.is_some_and(|projections| projections.qkv == QkvConfig::Fused);
        let placed = !matches!(asked.position, PositionConfig::None) || asked.mask != MaskConfig::None;
        if fused || placed {
            let problem = "it has no position and no mask, and its queries are projected apart from its keys";
            return Err(Error::config("cross_attention", problem));
        }
        let dim = self.widths(0).dim;
        let layer = LayerConfig {
            norm: config.norm.clone(),
            attention: config.attention.clone(),
            ffn: config.ffn,
            modulation: config.modulation.clone(),
        };
        let build = |init: &mut Init| {
            let Block { norm1, attn: attn1, norm2: norm3, ffn, modulation } = block(&layer, self.widths(0), init)?;
            Ok(AnyBlock::Cross(Box::new(Cross {
                norm1,
                attn1,
                norm2: norm(&config.cross_norm, dim, init)?,
                attn2: attention(asked, dim, context, init).of("cross_attention")?,
                norm3,
                ffn,
                modulation,
                accumulate: config.accumulate.map(|_| Dtype::Float32),
            })))
        };
        let blocks = repeat(count, init, build)?;
        self.stage(blocks, &[(&config.attention, &config.modulation)], 2, init)
    }
}

/// So many of them.
fn repeat<T>(count: i32, init: &mut Init, build: impl Fn(&mut Init) -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| build(init)).collect()
}

fn block(config: &LayerConfig, widths: Widths, init: &mut Init) -> Result<Block> {
    let dim = widths.dim;
    Ok(Block {
        norm1: norm(&config.norm, dim, init)?,
        attn: attention(&config.attention, dim, dim, init).of("attention")?,
        norm2: norm(&config.norm, dim, init)?,
        ffn: ffn(&config.ffn, dim, init)?,
        modulation: modulation(&config.modulation, widths, 2, init)?,
    })
}
