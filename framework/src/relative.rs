//! Positions as a learned bias of attention scores.

use crate::{Error, Init, Param, Result, math};
use mlx_rs::Array;

/// A learned score for how far a key stands from its query, for each head: distances up to a quarter of the buckets have
/// one each, longer ones share them by the logarithm, and keys after the query have buckets of their own
/// (<https://arxiv.org/abs/1910.10683>, section 2.1). Scores are usually not scaled beside it.
///
/// ```
/// use framework::{Dtype, Init, Mask, RelativeBias};
/// let bias = RelativeBias::new(32, 4, 128, &mut Init::default())?;
/// let mask = Mask::none().bias(bias.forward(7, 7)?).lower(7, 7, Dtype::Float32)?;
/// # Ok::<(), framework::Error>(())
/// ```
pub struct RelativeBias {
    /// `[buckets, H]`.
    pub weight: Param,
    /// The distance in tokens from which on all keys share a bucket.
    pub max_distance: i32,
}
crate::module! { impl[] RelativeBias { weight } }

impl RelativeBias {
    /// A table for `heads` heads.
    ///
    /// # Errors
    /// When there are fewer than 4 buckets, or not more distances than there are buckets for single ones.
    pub fn new(buckets: i32, heads: i32, max_distance: i32, init: &mut Init) -> Result<Self> {
        if buckets < 4 || max_distance <= buckets / 4 {
            let problem =
                format!("{buckets} buckets for distances up to {max_distance}; there are at least 4, and more");
            return Err(Error::argument("buckets", format!("{problem} distances than a quarter of them")));
        }
        Ok(Self { weight: init.normal(&[buckets, heads], 1.0)?, max_distance })
    }

    /// The bias of `queries` newest of `keys` positions, `[1, H, L, S]`, for [`Mask::bias`](crate::Mask::bias). Build it
    /// once a call.
    ///
    /// # Errors
    /// When there are more queries than keys, or none.
    pub fn forward(&self, queries: i32, keys: i32) -> Result<Array> {
        if queries < 1 || keys < queries {
            return Err(Error::argument("queries", format!("{queries} of {keys} positions")));
        }
        let weight = self.weight.get();
        let [buckets, _] = math::shape(&weight)?;
        // Keys lie at most S − 1 before a query and L − 1 after it.
        let distances = (1 - keys)..queries;
        let rows: Vec<i32> = distances.map(|distance| bucket(distance, buckets, self.max_distance)).collect();
        let by_distance = weight.take_axis(math::array(&rows, &[queries + keys - 1])?, 0)?.transpose()?;
        let query = Array::arange::<_, i32>(0, queries, None)?.expand_dims(1)?;
        let key = Array::arange::<_, i32>(queries - 1, queries + keys - 1, None)?.expand_dims(0)?;
        Ok(by_distance.take_axis(key.subtract(query)?, 1)?.expand_dims(0)?)
    }
}

/// The bucket of a key that stands `distance` tokens after its query.
fn bucket(distance: i32, buckets: i32, max_distance: i32) -> i32 {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let (distance, single) = (distance.abs(), half / 2);
    if distance < single {
        return side + distance;
    }
    let octaves = |distance: i32| (f64::from(distance) / f64::from(single)).ln();
    let shared = octaves(distance) / octaves(max_distance) * f64::from(half - single);
    side + (single + shared as i32).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_of_the_paper() {
        // Where each bucket begins, by the original implementation.
        let begins = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 0..300 {
            let expected = begins.iter().rposition(|&begin| begin <= distance).unwrap() as i32;
            assert_eq!(bucket(-distance, 32, 128), expected, "{distance} before");
            let after = if distance > 0 { 16 + expected } else { 0 };
            assert_eq!(bucket(distance, 32, 128), after, "{distance} after");
        }
    }

    #[test]
    fn each_score_is_its_buckets() {
        let bias = RelativeBias::new(8, 3, 5, &mut Init::default()).unwrap();
        let table = math::read::<f32>(&bias.weight.get()).unwrap();
        for (queries, keys) in [(9, 9), (2, 9), (1, 1)] {
            let y = bias.forward(queries, keys).unwrap();
            assert_eq!(y.shape(), [1, 3, queries, keys]);
            let mut values = math::read::<f32>(&y.contiguous().unwrap()).unwrap().into_iter();
            for head in 0..3 {
                for (query, key) in (0..queries).flat_map(|query| (0..keys).map(move |key| (query, key))) {
                    let row = bucket(key - (keys - queries + query), 8, 5);
                    assert_eq!(values.next().unwrap(), table[(row * 3 + head) as usize], "{query} {key}");
                }
            }
        }
    }

    #[test]
    fn what_has_no_buckets_is_refused() {
        for (buckets, distance) in [(3, 10), (32, 8)] {
            assert!(RelativeBias::new(buckets, 1, distance, &mut Init::default()).is_err());
        }
        let bias = RelativeBias::new(4, 1, 2, &mut Init::default()).unwrap();
        assert!(bias.forward(2, 1).is_err() && bias.forward(0, 0).is_err());
    }
}
