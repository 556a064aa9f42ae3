//! Rotary position embedding in every layout and scaling.

use crate::{At, Error, Module, Result, fused::fused, math};
use mlx_rs::{Array, ops, transforms};
use serde::Deserialize;
use std::{f64::consts::PI, ops::Range};

/// The role of a position encoding inside attention.
pub trait Position: Module {
    /// Encodes positions into queries or keys `x` `[B, L, H, D]`; keeps shape and dtype.
    fn rotate(&self, x: &Array, at: &At) -> Result<Array>;
}

/// Which features of a head form a pair that rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Neighbours, (0, 1), (2, 3), …: the paper's, FLUX's, GPT-J's.
    Interleaved,
    /// (0, D/2), (1, D/2 + 1), …: GPT-NeoX's, Llama's as Hugging Face stores it.
    HalfSplit,
}

impl Layout {
    /// The axis of the two features of a pair, from behind, where a head's features are pairs.
    fn axis(self) -> i32 {
        match self {
            Self::Interleaved => -1,
            Self::HalfSplit => -2,
        }
    }
}

/// How several position axes share the pairs of a head.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axes {
    /// One axis: text.
    One,
    /// Each axis has features of its own, with frequencies of its own: `dims` per axis, in order (FLUX, Wan, …).
    Each(Vec<i32>),
    /// All axes share one list of frequencies, each owns a contiguous run of pairs: M-RoPE of Qwen2-VL.
    Sections(Vec<i32>),
    /// As `Sections`, with the axes' pairs interleaved, t h w t h w … t t: M-RoPE of Qwen3-VL.
    InterleavedSections(Vec<i32>),
}

/// Whether angles are computed in f32, as transformers does, or in f64, as diffusers does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Angle {
    /// f32.
    #[default]
    Single,
    /// f64.
    Double,
}

/// How the frequencies are stretched to reach beyond the length of training; transformers' `rope_parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Scaling {
    /// As trained.
    #[default]
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// NTK-aware: the base grows with the length once it exceeds that of training.
    Dynamic {
        /// How many times longer.
        factor: f64,
        /// The length of training, in tokens.
        max_position_embeddings: f64,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>): slow frequencies are interpolated, fast ones kept.
    Yarn {
        /// How many times longer.
        factor: f64,
        /// The length of training, in tokens.
        original_max_position_embeddings: f64,
        /// Rotations over that length above which a frequency is kept.
        #[serde(default = "defaults::beta_fast")]
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated.
        #[serde(default = "defaults::beta_slow")]
        beta_slow: f64,
        /// What queries and keys are multiplied by; by default `0.1 ln(factor) + 1`.
        #[serde(default)]
        attention_factor: Option<f64>,
        /// DeepSeek's variant of the attention factor.
        #[serde(default)]
        mscale: Option<f64>,
        /// DeepSeek's variant of the attention factor.
        #[serde(default)]
        mscale_all_dim: Option<f64>,
        /// Whether the bounds of the ramp are whole pairs.
        #[serde(default = "defaults::truncate")]
        truncate: bool,
    },
    /// Llama 3.1's: by wavelength, with a smooth step between.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are interpolated.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The length of training, in tokens.
        original_max_position_embeddings: f64,
    },
    /// LongRoPE (<https://arxiv.org/abs/2402.13753>): a divisor for each pair, one list for calls within the length of
    /// training and one beyond it.
    LongRope {
        /// The divisors within the length of training.
        short_factor: Vec<f64>,
        /// The divisors beyond it.
        long_factor: Vec<f64>,
        /// How many times longer.
        factor: f64,
        /// The length of training, in tokens.
        original_max_position_embeddings: f64,
        /// What queries and keys are multiplied by; by default `√(1 + ln(factor) / ln(original))`.
        #[serde(default)]
        attention_factor: Option<f64>,
    },
    /// Frequencies of the whole head, of which only the first share rotates (Gemma 4).
    Proportional {
        /// The share of the pairs that rotates.
        #[serde(default = "defaults::whole")]
        partial_rotary_factor: f64,
        /// Divides the frequencies.
        #[serde(default = "defaults::whole")]
        factor: f64,
    },
}

mod defaults {
    pub fn beta_fast() -> f64 {
        32.0
    }
    pub fn beta_slow() -> f64 {
        1.0
    }
    pub fn truncate() -> bool {
        true
    }
    pub fn whole() -> f64 {
        1.0
    }
}

/// Rotary position embedding (<https://arxiv.org/abs/2104.09864>): the pair of features with frequency `f` turns by
/// the angle `f · position`.
///
/// The model builds the tables of a call once, [`Rope::angles`], and lends them to every layer in [`At`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many features of a head rotate; the rest pass unchanged.
    pub dims: i32,
    /// The base θ: pair `i` of `n` has the frequency `θ^(−i/n)`.
    pub theta: f64,
    /// Which features form a pair.
    pub layout: Layout,
    /// The stretching of the frequencies.
    pub scaling: Scaling,
    /// How several axes share the pairs.
    pub axes: Axes,
    /// The precision of the angles.
    pub angle: Angle,
}
crate::module! { impl[] Rope {} }

/// Positions of the tokens of a call, on the host: `values[(axis · batch + row) · length + column]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    values: Vec<f64>,
    axes: usize,
    batch: usize,
    length: usize,
}

impl Positions {
    /// `offset, offset + 1, …`: text, the same for every row of a batch.
    pub fn range(offset: i32, length: i32) -> Self {
        let values: Vec<f64> = (offset..offset.saturating_add(length)).map(f64::from).collect();
        Self { axes: 1, batch: 1, length: values.len(), values }
    }

    /// Positions by axis, row and column.
    ///
    /// # Errors
    /// When the number of values is not `axes · batch · length`.
    pub fn new(values: Vec<f64>, axes: usize, batch: usize, length: usize) -> Result<Self> {
        if axes.checked_mul(batch).and_then(|n| n.checked_mul(length)) != Some(values.len()) {
            let problem = format!("{} values for {axes} axes × {batch} rows × {length} columns", values.len());
            return Err(Error::argument("positions", problem));
        }
        Ok(Self { values, axes, batch, length })
    }

    /// Rows of text `[B, L]`.
    pub fn rows(rows: &[Vec<i32>]) -> Result<Self> {
        let length = rows.first().map_or(0, Vec::len);
        let values = rows.iter().flatten().map(|&position| position.into()).collect();
        Self::new(values, 1, rows.len(), length)
    }

    /// The range, if each row and axis has consecutive positions, the same ones.
    pub(crate) fn as_range(&self) -> Option<Range<i32>> {
        let first = self.values.first().filter(|_| self.axes == 1 && self.batch == 1)?;
        let consecutive = self.values.iter().zip(0..).all(|(&value, place)| value == first + f64::from(place));
        let start = *first as i32;
        consecutive.then(|| start..start.saturating_add(self.length as i32))
    }

    fn furthest(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }

    fn of_axis(&self, axis: usize) -> Result<&[f64]> {
        let size = self.batch * self.length;
        // One axis serves all: text in a model that knows several.
        let axis = if self.axes == 1 { 0 } else { axis };
        self.values
            .get(axis * size..(axis + 1) * size)
            .ok_or_else(|| Error::argument("positions", format!("{} axes where more are rotated", self.axes)))
    }
}

/// What the features of one call are turned by, f32: each pair `(a, b)` becomes `a · of_first + b · of_second`. Both are
/// `[B or 1, L, 1, 2, pairs]`, or `[B or 1, L, 1, pairs, 2]` where pairs are interleaved.
#[derive(Clone, Debug)]
pub struct Angles {
    /// Cosine, sine.
    pub(crate) of_first: Array,
    /// Minus sine, cosine.
    pub(crate) of_second: Array,
}

impl Angles {
    /// The tables of these tokens followed by those of others.
    pub fn then(&self, others: &Self) -> Result<Self> {
        let join = |a: &Array, b: &Array| ops::concatenate(&[a, b], 1);
        Ok(Self {
            of_first: join(&self.of_first, &others.of_first)?,
            of_second: join(&self.of_second, &others.of_second)?,
        })
    }
}

impl Angles {
    /// Those of some of the tokens.
    pub(crate) fn slice(&self, start: i32, end: i32) -> Result<Self> {
        let some = |x: &Array| math::slice(x, 1, start, end);
        Ok(Self { of_first: some(&self.of_first)?, of_second: some(&self.of_second)? })
    }

    pub(crate) fn eval(&self) -> Result<()> {
        Ok(transforms::eval([&self.of_first, &self.of_second])?)
    }
}

impl Rope {
    /// One axis, all features in f32, not stretched.
    pub fn new(dims: i32, theta: f64, layout: Layout) -> Self {
        Self { dims, theta, layout, scaling: Scaling::Default, axes: Axes::One, angle: Angle::Single }
    }

    /// The tables for the given positions.
    ///
    /// # Errors
    /// When the positions have fewer axes than the rope, or the axes do not add up to its dims.
    pub fn angles(&self, positions: &Positions) -> Result<Angles> {
        let pairs = self.pairs(positions)?;
        let tokens = positions.batch * positions.length;
        let factor = self.attention_factor();
        let mut cos = Vec::with_capacity(tokens * pairs.len());
        let mut sin = Vec::with_capacity(tokens * pairs.len());
        for token in 0..tokens {
            for (frequency, position) in &pairs {
                let position = position.get(token).copied().unwrap_or(0.0);
                let angle = match self.angle {
                    Angle::Single => f64::from(*frequency as f32 * position as f32),
                    Angle::Double => frequency * position,
                };
                cos.push((angle.cos() * factor) as f32);
                sin.push((angle.sin() * factor) as f32);
            }
        }
        let shape = [positions.batch, positions.length, 1, pairs.len()].map(|length| length as i32);
        let (cos, sin) = (math::array(&cos, &shape)?, math::array(&sin, &shape)?);
        let parts = |a: &Array, b: &Array| ops::stack(&[a, b], self.layout.axis());
        Ok(Angles { of_first: parts(&cos, &sin)?, of_second: parts(&sin.negative()?, &cos)? })
    }

    /// Whether its frequencies are the same in calls of these positions: some depend on the furthest.
    pub(crate) fn has_one_frequency_at(&self, some: &Positions, others: &Positions) -> Result<bool> {
        let (some, others) = (self.pairs(some)?, self.pairs(others)?);
        Ok(some.iter().map(|pair| pair.0).eq(others.iter().map(|pair| pair.0)))
    }

    /// For every pair its frequency and the positions of the axis that turns it.
    fn pairs<'a>(&self, positions: &'a Positions) -> Result<Vec<(f64, &'a [f64])>> {
        let length = positions.furthest() + 1.0;
        match &self.axes {
            Axes::One => {
                let axis = positions.of_axis(0)?;
                Ok(self.frequencies(self.dims, length).into_iter().map(|f| (f, axis)).collect())
            }
            Axes::Each(dims) => {
                self.check_axes(dims.iter().sum())?;
                let mut pairs = Vec::new();
                for (axis, &dims) in dims.iter().enumerate() {
                    let axis = positions.of_axis(axis)?;
                    pairs.extend(self.frequencies(dims, length).into_iter().map(|f| (f, axis)));
                }
                Ok(pairs)
            }
            Axes::Sections(sections) => {
                self.check_axes(2 * sections.iter().sum::<i32>())?;
                let owner = sections.iter().enumerate().flat_map(|(axis, &n)| (0..n).map(move |_| axis));
                self.owned(owner, positions, length)
            }
            Axes::InterleavedSections(sections) => {
                self.check_axes(2 * sections.iter().sum::<i32>())?;
                let axes = sections.len();
                let owner = (0..self.dims / 2).map(|pair| {
                    let axis = pair as usize % axes.max(1);
                    let within = sections.get(axis).is_some_and(|&n| pair < n * axes as i32);
                    if within { axis } else { 0 }
                });
                self.owned(owner, positions, length)
            }
        }
    }

    fn owned<'a>(
        &self,
        owner: impl Iterator<Item = usize>,
        positions: &'a Positions,
        length: f64,
    ) -> Result<Vec<(f64, &'a [f64])>> {
        let frequencies = self.frequencies(self.dims, length).into_iter();
        frequencies.zip(owner).map(|(f, axis)| Ok((f, positions.of_axis(axis)?))).collect()
    }

    fn check_axes(&self, sum: i32) -> Result<()> {
        if sum == self.dims {
            return Ok(());
        }
        Err(Error::config("axes", format!("they add up to {sum} features where {} rotate", self.dims)))
    }

    /// The frequencies of the pairs of `dims` features for a call of `length` tokens.
    fn frequencies(&self, dims: i32, length: f64) -> Vec<f64> {
        let (d, theta) = (f64::from(dims), self.theta);
        let plain =
            |theta: f64| -> Vec<f64> { (0..dims / 2).map(|pair| theta.powf(-2.0 * f64::from(pair) / d)).collect() };
        match self.scaling {
            Scaling::Default => plain(theta),
            Scaling::Linear { factor } => plain(theta).into_iter().map(|f| f / factor).collect(),
            Scaling::LongRope { ref short_factor, ref long_factor, original_max_position_embeddings, .. } => {
                let long = length > original_max_position_embeddings;
                let divisors = if long { long_factor } else { short_factor };
                plain(theta).into_iter().zip(divisors).map(|(f, divisor)| f / divisor).collect()
            }
            Scaling::Dynamic { factor, max_position_embeddings } => {
                let stretch = factor * length.max(max_position_embeddings) / max_position_embeddings - (factor - 1.0);
                plain(theta * stretch.powf(d / (d - 2.0)))
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let stretch = |f: f64| {
                    let turns = original_max_position_embeddings * f / (2.0 * PI);
                    let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - smooth) * f / factor + smooth * f
                };
                plain(theta).into_iter().map(stretch).collect()
            }
            Scaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                // The pair that makes the given number of turns over the length of training.
                let pair = |turns: f64| d * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(d - 1.0));
                let width = if high == low { 0.001 } else { high - low };
                let blend = |(pair, f): (usize, f64)| {
                    let ramp = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                plain(theta).into_iter().enumerate().map(blend).collect()
            }
            Scaling::Proportional { partial_rotary_factor, factor } => {
                let turning = (partial_rotary_factor * d / 2.0).floor() as usize;
                let keep = |(pair, f): (usize, f64)| if pair < turning { f / factor } else { 0.0 };
                plain(theta).into_iter().enumerate().map(keep).collect()
            }
        }
    }

    /// What the tables are multiplied by: 1 but for YaRN and LongRoPE.
    fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => {
                let grow = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                match (attention_factor, mscale, mscale_all_dim) {
                    (Some(given), _, _) => given,
                    (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => grow(mscale) / grow(all),
                    _ => grow(1.0),
                }
            }
            Scaling::LongRope { factor, attention_factor, original_max_position_embeddings: original, .. } => {
                let grow = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                attention_factor.unwrap_or_else(grow)
            }
            _ => 1.0,
        }
    }

    /// Checks what a config can get wrong.
    ///
    /// # Errors
    /// When the features that rotate do not form pairs, θ is not above 1, or a list has not one entry a pair.
    pub fn validate(&self) -> Result<()> {
        if self.dims < 2 || self.dims % 2 != 0 {
            return Err(Error::config("head_dim", format!("{} features do not form pairs to rotate", self.dims)));
        }
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(Error::config("rope_theta", format!("{} is not above 1", self.theta)));
        }
        if let Scaling::LongRope { short_factor, long_factor, .. } = &self.scaling {
            let pairs = self.dims as usize / 2;
            for (key, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if list.len() != pairs {
                    return Err(Error::config(key, format!("{} entries for {pairs} pairs", list.len())));
                }
            }
        }
        Ok(())
    }
}

impl Position for Rope {
    fn rotate(&self, x: &Array, at: &At) -> Result<Array> {
        let Some(angles) = at.angles else {
            return Err(Error::argument("at.angles", "a rope needs the tables of this call; lend `rope.angles(…)`"));
        };
        let width = math::last(x)?;
        let (rotated, rest) = if self.dims < width {
            let rest = math::slice(x, -1, self.dims, width)?;
            (math::slice(x, -1, 0, self.dims)?, Some(rest))
        } else {
            (x.clone(), None)
        };
        let y = turned(&rotated, angles, self.layout.axis())?;
        Ok(match rest {
            Some(rest) => ops::concatenate(&[y, rest], -1)?,
            None => y,
        })
    }
}

/// Turns every pair, which lie along `axis` where features are pairs; in f32.
fn turned(x: &Array, angles: &Angles, axis: i32) -> Result<Array> {
    let shape = x.shape();
    let leading = shape.split_last().map_or(&[][..], |(_, leading)| leading);
    let pair = if axis == -1 { [-1, 2] } else { [2, -1] };
    let pairs = x.reshape(&[leading, &pair].concat())?;
    let [a, b] = [0, 1].map(|which| math::slice(&pairs, axis, which, which + 1));
    let turn = |[a, b, of_first, of_second]: [&Array; 4]| {
        Ok(a.multiply(of_first)?.add(b.multiply(of_second)?)?.as_dtype(a.dtype())?)
    };
    Ok(fused(0, turn, [&a?, &b?, &angles.of_first, &angles.of_second])?.reshape(shape)?)
}

/// A position encoding chosen by a config.
pub enum AnyPosition {
    /// Rotary.
    Rope(Rope),
    /// None: the layer does not see positions.
    None,
    /// One's own.
    Custom(Box<dyn Position + Send>),
}
crate::module! { enum[] AnyPosition { AnyPosition::Rope, AnyPosition::Custom, .. } }

impl Position for AnyPosition {
    fn rotate(&self, x: &Array, at: &At) -> Result<Array> {
        match self {
            Self::Rope(rope) => rope.rotate(x, at),
            Self::None => Ok(x.clone()),
            Self::Custom(position) => position.rotate(x, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Lowered};

    /// The definition, feature by feature.
    fn scalar_reference(x: &[f32], position: f64, theta: f64, layout: Layout) -> Vec<f32> {
        let d = x.len();
        let mut y = x.to_vec();
        for pair in 0..d / 2 {
            let angle = position * theta.powf(-2.0 * pair as f64 / d as f64);
            let (i, j) = match layout {
                Layout::Interleaved => (2 * pair, 2 * pair + 1),
                Layout::HalfSplit => (pair, pair + d / 2),
            };
            let (a, b) = (f64::from(x[i]), f64::from(x[j]));
            y[i] = (a * angle.cos() - b * angle.sin()) as f32;
            y[j] = (b * angle.cos() + a * angle.sin()) as f32;
        }
        y
    }

    fn rotate(rope: &Rope, x: &Array, positions: &Positions) -> Result<Array> {
        let angles = rope.angles(positions)?;
        rope.rotate(x, &At { angles: Some(&angles), mask: &Lowered::None, cond: None })
    }

    #[test]
    fn both_layouts_follow_the_definition_and_leave_the_rest() {
        for layout in [Layout::Interleaved, Layout::HalfSplit] {
            let rope = Rope::new(6, 50.0, layout);
            let x = Init::default().normal(&[1, 3, 2, 8], 1.0).unwrap().get();
            let y = math::read::<f32>(&rotate(&rope, &x, &Positions::range(4, 3)).unwrap()).unwrap();
            let x = math::read::<f32>(&x).unwrap();
            for (head, (x, y)) in x.chunks(8).zip(y.chunks(8)).enumerate() {
                let expected = scalar_reference(&x[..6], 4.0 + (head / 2) as f64, 50.0, layout);
                for (y, expected) in y.iter().zip(expected.iter().chain(&x[6..])) {
                    assert!((y - expected).abs() < 1e-6, "{layout:?}: {y} {expected}");
                }
            }
        }
    }

    #[test]
    fn scores_depend_on_distance_only() {
        let rope = Rope::new(8, 100.0, Layout::HalfSplit);
        let x = Init::default().normal(&[1, 2, 1, 8], 1.0).unwrap().get();
        let score = |offset| {
            let y = rotate(&rope, &x, &Positions::range(offset, 2)).unwrap().reshape(&[2, 8]).unwrap();
            math::read::<f32>(&y.matmul(y.transpose().unwrap()).unwrap()).unwrap()[1]
        };
        assert!((score(0) - score(17)).abs() < 1e-4);
    }

    #[test]
    fn axes_must_add_up() {
        let rope = Rope { axes: Axes::Each(vec![2, 2]), ..Rope::new(6, 1e4, Layout::Interleaved) };
        assert!(rope.angles(&Positions::range(0, 1)).is_err());
    }

    #[test]
    fn an_unknown_scaling_is_refused_by_name() {
        let error = serde_json::from_str::<Scaling>(r#"{"rope_type": "spiral"}"#).unwrap_err();
        assert!(error.to_string().contains("spiral"), "{error}");
    }
}
