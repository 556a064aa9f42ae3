//! From what a config says of a block to the block.

use super::{
    config::ConditionConfig,
    parts::{
        AffineConfig, AttentionConfig, FfnConfig, HiddenConfig, MaskConfig, ModulationConfig, NormConfig,
        PositionConfig, ProjectionsConfig, QkNormConfig, QkvConfig, RopeConfig,
    },
    stage::Lends,
};
use crate::sizes;
use framework::{
    AcrossHeads, AdaLnZero, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Attention, Axes, Error, Glu, Heads, Init,
    LayerNorm, Linear, Mask, Mlp, Qkv, Result, RmsNorm, Rope, Score, Shared, Table, TanhGated,
};
use std::fmt::Display;

/// Adds the place in the config to the key of an error.
pub(super) trait Keyed {
    /// The same result, with `place` before the key.
    fn of(self, place: impl Display) -> Self;
}

impl<T> Keyed for Result<T> {
    fn of(self, place: impl Display) -> Self {
        self.map_err(|error| match error {
            Error::Config { key, problem } => Error::config(format!("{place}.{key}"), problem),
            other => other,
        })
    }
}

/// Widths that a block is built for: of its tokens, and of the condition if there is one.
#[derive(Clone, Copy)]
pub(super) struct Widths<'a> {
    pub dim: i32,
    pub condition: Option<&'a ConditionConfig>,
}

pub(super) fn norm(config: &NormConfig, dim: i32, init: &mut Init) -> Result<AnyNorm> {
    Ok(match *config {
        NormConfig::None => AnyNorm::None,
        NormConfig::Rms { eps, offset } => AnyNorm::Rms(RmsNorm { offset, ..RmsNorm::new(dim, eps, init)? }),
        NormConfig::Layer { eps, parameters } => AnyNorm::Layer(match parameters {
            AffineConfig::None => LayerNorm::plain(eps),
            AffineConfig::Weight => LayerNorm { bias: None, ..LayerNorm::new(dim, eps, init)? },
            AffineConfig::WeightAndBias => LayerNorm::new(dim, eps, init)?,
        }),
    })
}

pub(super) fn ffn(config: &FfnConfig, dim: i32, init: &mut Init) -> Result<AnyFfn> {
    Ok(match *config {
        FfnConfig::Mlp(HiddenConfig { hidden, activation, bias }) => {
            AnyFfn::Mlp(Mlp::new(dim, hidden.get(), activation, bias, init)?)
        }
        FfnConfig::Glu(HiddenConfig { hidden, activation, bias }) => {
            AnyFfn::Glu(Glu::new(dim, hidden.get(), activation, bias, init)?)
        }
    })
}

pub(super) fn mask(config: MaskConfig) -> Mask {
    match config {
        MaskConfig::None => Mask::none(),
        MaskConfig::Causal => Mask::causal(),
        MaskConfig::Sliding { window } => Mask::sliding(window.get()),
    }
}

pub(super) fn modulation(
    config: &ModulationConfig,
    widths: Widths,
    sublayers: i32,
    init: &mut Init,
) -> Result<AnyModulation> {
    let Widths { dim, condition } = widths;
    let cond = || match condition {
        Some(condition) => Ok(condition.dim.get()),
        None => Err(Error::config("modulation", "it needs a condition, and the config has none")),
    };
    Ok(match config {
        ModulationConfig::None => AnyModulation::None,
        ModulationConfig::AdaLnZero => AnyModulation::AdaLnZero(AdaLnZero::new(cond()?, dim, sublayers, init)?),
        ModulationConfig::TanhGated => AnyModulation::TanhGated(TanhGated::new(cond()?, dim, sublayers, init)?),
        ModulationConfig::Shared { .. } => AnyModulation::Shared(Shared),
        ModulationConfig::Table { .. } => AnyModulation::Table(Table::new(dim, sublayers, init)?),
    })
}

/// What of the condition a block with this modulation is lent.
pub(super) fn lends(config: &ModulationConfig, widths: Widths, sublayers: i32) -> Result<Lends> {
    let (ModulationConfig::Shared { projection } | ModulationConfig::Table { projection }) = config else {
        return Ok(if *config == ModulationConfig::None { Lends::Nothing } else { Lends::Vector });
    };
    let projections = widths.condition.map_or(&[][..], |condition| &condition.projections);
    let Some((index, found)) = projections.iter().enumerate().find(|(_, found)| found.name == *projection) else {
        return Err(Error::config("modulation", format!("the condition has no projection called `{projection}`")));
    };
    let (dim, count) = (found.dim.get(), found.sublayers.get());
    if (dim, count) != (widths.dim, sublayers) {
        let problem = format!(
            "`{projection}` is for {count} sublayers of {dim} features, and this block has {sublayers} of {}",
            widths.dim
        );
        return Err(Error::config("modulation", problem));
    }
    Ok(Lends::Projection(index))
}

pub(super) fn heads(config: &AttentionConfig, dim: i32) -> Result<Heads> {
    let heads = config.heads.get();
    let head_dim = match config.head_dim {
        Some(head_dim) => head_dim.get(),
        None if dim % heads == 0 => dim / heads,
        None => return Err(Error::config("heads", format!("{heads} heads do not divide {dim} features"))),
    };
    let kv_heads = config.kv_heads.map_or(heads, sizes::Size::get);
    if heads % kv_heads != 0 {
        return Err(Error::config("kv_heads", format!("{kv_heads} key-value heads do not divide {heads} heads")));
    }
    let sizes = sizes::heads("heads", heads, head_dim)?;
    if sizes::Size::try_from(i64::from(heads) * i64::from(head_dim)).is_err() {
        return Err(Error::config("heads", format!("{heads} heads of {head_dim} features are too many")));
    }
    Ok(Heads { kv_heads, ..sizes })
}

/// The rope of an attention that has one.
pub(super) fn rope(config: &AttentionConfig, head_dim: i32) -> Result<Option<Rope>> {
    let PositionConfig::Rope(RopeConfig { dims, theta, layout, axes, scaling, angle }) = &config.position else {
        return Ok(None);
    };
    let dims = dims.map_or(head_dim, sizes::Size::get);
    if dims > head_dim || dims % 2 != 0 {
        let problem = format!("{dims} features of a head of {head_dim} do not form pairs to rotate");
        return Err(Error::config("dims", problem)).of("position.rope");
    }
    let (parts, whole) = match axes {
        Axes::One => (&[][..], dims),
        Axes::Each(parts) => (&parts[..], dims),
        Axes::Sections(parts) | Axes::InterleavedSections(parts) => (&parts[..], dims / 2),
    };
    let odd = matches!(axes, Axes::Each(_)) && parts.iter().any(|part| part % 2 != 0);
    let sum: i64 = parts.iter().map(|&part| i64::from(part)).sum();
    let fits = sum == i64::from(whole) && parts.iter().all(|&part| part > 0) && parts.len() <= AXES && !odd;
    if *axes != Axes::One && !fits {
        let problem =
            format!("{parts:?} do not share {whole}: at most {AXES}, each positive, even where they are features");
        return Err(Error::config("axes", problem)).of("position.rope");
    }
    if !(theta.is_finite() && *theta > 1.0) {
        return Err(Error::config("theta", format!("{theta} is not above 1"))).of("position.rope");
    }
    let rope = Rope { scaling: scaling.clone(), axes: axes.clone(), angle: *angle, ..Rope::new(dims, *theta, *layout) };
    rope.validate().of("position.rope.scaling")?;
    Ok(Some(rope))
}

/// More axes than any grid has.
const AXES: usize = 8;

pub(super) fn qk_norm(config: QkNormConfig, sizes: &Heads, heads: i32, init: &mut Init) -> Result<AnyNorm> {
    let head_dim = sizes.head_dim;
    Ok(match config {
        QkNormConfig::None => AnyNorm::None,
        QkNormConfig::Rms { eps } => AnyNorm::Rms(RmsNorm::new(head_dim, eps, init)?),
        QkNormConfig::RmsAcrossHeads { eps } => {
            AnyNorm::AcrossHeads(AcrossHeads(RmsNorm::new(heads * head_dim, eps, init)?))
        }
        QkNormConfig::Layer { eps } => AnyNorm::Layer(LayerNorm::new(head_dim, eps, init)?),
    })
}

pub(super) fn score(config: &AttentionConfig, sizes: &Heads) -> Result<Score> {
    let usual = Score::of(sizes.head_dim);
    if let Some(cap) = config.softcap.filter(|&cap| !(cap > 0.0 && cap.is_finite())) {
        return Err(Error::config("softcap", format!("{cap} is not a positive number")));
    }
    Ok(Score { scale: config.scale.unwrap_or(usual.scale), softcap: config.softcap })
}

/// The attention of tokens of width `dim` to tokens of width `context`: their own, or a context's.
pub(super) fn attention(config: &AttentionConfig, dim: i32, context: i32, init: &mut Init) -> Result<Attention> {
    let sizes = heads(config, dim)?;
    let Heads { heads, kv_heads, head_dim } = sizes;
    let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
    let ProjectionsConfig { qkv, bias, out_bias } = config.projections.unwrap_or_default();
    let mut linear = |from, to| Linear::new(from, to, bias, init);
    let qkv = match qkv {
        QkvConfig::Separate => {
            Qkv::Separate { q: linear(dim, queries)?, k: linear(context, keys)?, v: linear(context, keys)? }
        }
        QkvConfig::Fused => Qkv::Fused { qkv: linear(dim, queries + 2 * keys)? },
        QkvConfig::KeyValue => Qkv::KeyValue { q: linear(dim, queries)?, kv: linear(context, 2 * keys)? },
        QkvConfig::KeyIsValue => Qkv::KeyIsValue { q: linear(dim, queries)?, k: linear(context, keys)? },
    };
    Ok(Attention {
        qkv,
        o: Linear::new(queries, dim, out_bias.unwrap_or(bias), init)?,
        q_norm: qk_norm(config.qk_norm, &sizes, heads, init)?,
        k_norm: qk_norm(config.qk_norm, &sizes, kv_heads, init)?,
        position: rope(config, head_dim)?.map_or(AnyPosition::None, AnyPosition::Rope),
        sinks: config.sinks.then(|| init.constant(&[heads], 0.0)).transpose()?,
        sizes,
        score: score(config, &sizes)?,
    })
}
