//! Which keys a query sees.

use crate::{Error, Result, math};
use mlx_rs::{Array, Dtype, fast::ScaledDotProductAttentionMask, ops};
use std::ops::Range;

/// What a call allows its queries to see: the conjunction of the parts that are set, plus a bias.
///
/// Queries are the newest of the keys: with L queries and S keys, query `i` stands at key `S − L + i`.
///
/// ```
/// use framework::{Dtype, Lowered, Mask, math};
/// let padding = math::array(&[false, true, true], &[1, 3])?;
/// let mask = Mask::causal().keys(padding);
/// assert!(matches!(mask.lower(3, 3, Dtype::Float32)?, Lowered::Additive(_)));
/// assert!(matches!(Mask::causal().lower(1, 9, Dtype::Float32)?, Lowered::None));
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Mask {
    causal: bool,
    window: Option<i32>,
    keys: Option<Array>,
    segments: Option<(Array, Array)>,
    visible: Option<Array>,
    bias: Option<Array>,
}

impl Mask {
    /// Every query sees every key.
    pub fn none() -> Self {
        Self::default()
    }

    /// A query sees the keys up to its own position.
    pub fn causal() -> Self {
        Self { causal: true, ..Self::default() }
    }

    /// A query sees the `window` newest keys up to its own position.
    pub fn sliding(window: i32) -> Self {
        Self { causal: true, window: Some(window), ..Self::default() }
    }

    /// As a causal mask of which a query sees the `window` newest keys only, if there is one.
    #[must_use]
    pub fn within(self, window: Option<i32>) -> Self {
        Self { window, ..self }
    }

    /// Queries see keys of their own segment only: block-diagonal. `queries` `[B, L]`, `keys` `[B, S]`, integers.
    #[must_use]
    pub fn blocks(self, queries: Array, keys: Array) -> Self {
        Self { segments: Some((queries, keys)), ..self }
    }

    /// Only the keys that are true (or not 0) in `keys` `[B, S]` are seen: padding.
    #[must_use]
    pub fn keys(self, keys: Array) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Only what is true in `visible`, which broadcasts to `[B, H, L, S]`.
    #[must_use]
    pub fn visible(self, visible: Array) -> Self {
        Self { visible: Some(visible), ..self }
    }

    /// `bias` is added to the scores; it broadcasts to `[B, H, L, S]`.
    #[must_use]
    pub fn bias(self, bias: Array) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// The mask for `queries` newest of `keys` positions, ready for attention in `dtype`. Build it once a call.
    ///
    /// Parts that tell of more keys hold for the newest of them: those that a rotating cache still has. What is hidden gets a finite minimum: MLX answers NaN to a row of −∞.
    pub fn lower(&self, queries: i32, keys: i32, dtype: Dtype) -> Result<Lowered> {
        let window = self.window.filter(|&window| window < keys);
        if window.is_some_and(|window| window < 1) {
            return Err(Error::argument("window", "a sliding window holds at least 1 key"));
        }
        let plain = self.keys.is_none() && self.segments.is_none() && self.visible.is_none() && self.bias.is_none();
        if plain && window.is_none() {
            let alone = !self.causal || queries == 1;
            return Ok(if alone { Lowered::None } else { Lowered::Causal });
        }
        let mut visible = self.visible.as_ref().map(|visible| truth(&newest(visible, keys)?)).transpose()?;
        if self.causal {
            narrow(&mut visible, triangle(queries, keys, window)?)?;
        }
        if let Some(padding) = &self.keys {
            narrow(&mut visible, truth(&newest(padding, keys)?)?.expand_dims_axes(&[1, 2])?)?;
        }
        if let Some((queries, keys)) = &self.segments {
            let same = queries.expand_dims(-1)?.eq(keys.expand_dims(-2)?)?;
            narrow(&mut visible, same.expand_dims(1)?)?;
        }
        let bias = self.bias.as_ref().map(|bias| -> Result<Array> { Ok(newest(bias, keys)?.as_dtype(dtype)?) });
        let bias = bias.transpose()?;
        let additive = match (visible, bias) {
            (Some(visible), Some(bias)) => ops::select(visible, bias, hidden(dtype)?)?,
            (Some(visible), None) => ops::select(visible, math::scalar(0.0, dtype)?, hidden(dtype)?)?,
            (None, Some(bias)) => bias,
            (None, None) => return Ok(Lowered::None),
        };
        // −∞ in a bias that a caller made would be NaN in a row that is hidden whole.
        Ok(Lowered::Additive(ops::maximum(additive, hidden(dtype)?)?))
    }
}

/// A mask in the form that attention takes; lent to every layer of a call.
#[derive(Clone, Debug)]
pub enum Lowered {
    /// Everything is seen.
    None,
    /// Causal, aligned at the newest key.
    Causal,
    /// Added to the scores; broadcasts to `[B, H, L, S]`.
    Additive(Array),
}

impl Lowered {
    pub(crate) fn for_sdpa(&self) -> Option<ScaledDotProductAttentionMask<'_>> {
        match self {
            Self::None => None,
            Self::Causal => Some(ScaledDotProductAttentionMask::Causal),
            Self::Additive(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
        }
    }

    /// The mask of some of the L queries, and how many of the S keys they see at most.
    pub(crate) fn rows(&self, rows: Range<i32>, queries: i32, keys: i32) -> Result<(Self, i32)> {
        match self {
            Self::None => Ok((Self::None, keys)),
            Self::Causal => Ok((Self::Causal, keys - queries + rows.end)),
            Self::Additive(mask) => match mask.shape() {
                [.., height, _] if *height == queries => {
                    Ok((Self::Additive(math::slice(mask, -2, rows.start, rows.end)?), keys))
                }
                _ => Ok((self.clone(), keys)),
            },
        }
    }

    /// As an array to add to scores of L queries over S keys, or nothing.
    pub(crate) fn additive(&self, queries: i32, keys: i32, dtype: Dtype) -> Result<Option<Array>> {
        match self {
            Self::None => Ok(None),
            Self::Additive(mask) => Ok(Some(mask.clone())),
            Self::Causal => {
                let visible = triangle(queries, keys, None)?;
                let mask = ops::select(visible, math::scalar(0.0, dtype)?, hidden(dtype)?)?;
                Ok(Some(mask))
            }
        }
    }
}

/// The score of what is hidden: as low as the dtype goes with room for a score on top.
fn hidden(dtype: Dtype) -> Result<Array> {
    let lowest = if dtype == Dtype::Float16 { -32_768.0 } else { -1e38 };
    math::scalar(lowest, dtype)
}

/// The last `keys` columns, of what has more.
fn newest(x: &Array, keys: i32) -> Result<Array> {
    let columns = math::last(x)?;
    if columns > keys { math::slice(x, -1, columns - keys, columns) } else { Ok(x.clone()) }
}

fn truth(x: &Array) -> Result<Array> {
    Ok(x.as_dtype(Dtype::Bool)?)
}

fn narrow(visible: &mut Option<Array>, also: Array) -> Result<()> {
    *visible = Some(match visible.take() {
        Some(visible) => visible.logical_and(also)?,
        None => also,
    });
    Ok(())
}

/// `[L, S]`: true where a query's key is not later than itself, and within the window.
fn triangle(queries: i32, keys: i32, window: Option<i32>) -> Result<Array> {
    let column = Array::arange::<_, i32>(keys - queries, keys, None)?.expand_dims(1)?;
    let row = Array::arange::<_, i32>(0, keys, None)?.expand_dims(0)?;
    let causal = row.le(&column)?;
    match window {
        None => Ok(causal),
        Some(window) => {
            let oldest = column.subtract(Array::from_int(window))?;
            Ok(causal.logical_and(row.gt(oldest)?)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mask: &Mask, queries: i32, keys: i32) -> Vec<Vec<bool>> {
        let lowered = mask.lower(queries, keys, Dtype::Float32).unwrap();
        let additive = lowered.additive(queries, keys, Dtype::Float32).unwrap().unwrap();
        let additive = ops::broadcast_to(additive, &[1, 1, queries, keys]).unwrap();
        let values = math::read::<f32>(&additive).unwrap();
        values.chunks(keys as usize).map(|row| row.iter().map(|&v| v == 0.0).collect()).collect()
    }

    #[test]
    fn causal_is_aligned_at_the_newest_key() {
        let rows = seen(&Mask::causal(), 2, 4);
        assert_eq!(rows, [[true, true, true, false], [true, true, true, true]]);
    }

    #[test]
    fn a_window_holds_the_newest_keys() {
        let rows = seen(&Mask::sliding(2), 3, 3);
        assert_eq!(rows, [[true, false, false], [true, true, false], [false, true, true]]);
    }

    #[test]
    fn parts_combine() {
        let keys = math::array(&[1, 0, 1], &[1, 3]).unwrap();
        assert_eq!(seen(&Mask::causal().keys(keys), 1, 3), [[true, false, true]]);
        let segments = math::array(&[7, 7, 8], &[1, 3]).unwrap();
        let rows = seen(&Mask::causal().blocks(segments.clone(), segments), 3, 3);
        assert_eq!(rows, [[true, false, false], [true, true, false], [false, false, true]]);
    }

    #[test]
    fn parts_that_tell_of_more_keys_hold_for_the_newest() {
        let padding = math::array(&[1, 1, 0, 1], &[1, 4]).unwrap();
        let mask = Mask::causal().keys(padding).within(Some(2));
        assert_eq!(seen(&mask, 1, 2), [[false, true]]);
        assert_eq!(seen(&mask, 1, 4), [[false, false, false, true]]);
        let bias = math::array(&[-1f32, 0.0, 0.0], &[1, 3]).unwrap();
        assert_eq!(seen(&Mask::none().bias(bias), 1, 2), [[true, true]]);
    }

    #[test]
    fn minus_infinity_becomes_finite() {
        let bias = math::array(&[f32::NEG_INFINITY, f32::NEG_INFINITY], &[1, 2]).unwrap();
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let Lowered::Additive(mask) = Mask::none().bias(bias.clone()).lower(1, 2, dtype).unwrap() else {
                panic!("an additive mask");
            };
            assert_eq!(mask.dtype(), dtype);
            assert!(math::is_finite(&mask).unwrap());
        }
    }

    #[test]
    fn an_empty_window_is_refused() {
        assert!(Mask::sliding(0).lower(2, 2, Dtype::Float32).is_err());
    }
}
