//! Sizes that a config states.

use framework::{Error, Heads, Result};
use serde::Deserialize;

/// A size that a config states, checked where it is read, so that the error names its key.
///
/// There are at most 2²⁴ of anything, which leaves room for what is computed from it: a few times as many features in one
/// matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "i64")]
pub struct Size(i32);

impl Size {
    const MOST: i64 = 1 << 24;

    /// The number.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl TryFrom<i64> for Size {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, String> {
        match i32::try_from(value) {
            Ok(size) if (1..=Self::MOST).contains(&value) => Ok(Self(size)),
            _ => Err(format!("{value} is not a size from 1 to {}", Self::MOST)),
        }
    }
}

/// Checks that each key is a positive number.
///
/// # Errors
/// [`Error::Config`] for the first that is not.
pub fn positive(sizes: &[(&str, i32)]) -> Result<()> {
    match sizes.iter().find(|(_, value)| *value < 1) {
        None => Ok(()),
        Some((key, value)) => Err(Error::config(*key, format!("{value} is not a positive number"))),
    }
}

/// Heads of which several share keys and values; `head_dim` is by default the width over the heads.
///
/// # Errors
/// [`Error::Config`] when the heads do not share evenly, or there are more features than a matrix can have.
pub fn grouped_heads(heads: i32, kv_heads: Option<i32>, head_dim: Option<i32>, width: i32) -> Result<Heads> {
    let kv_heads = kv_heads.unwrap_or(heads);
    if heads < 1 || kv_heads < 1 || heads % kv_heads != 0 {
        let problem = format!("{kv_heads} key-value heads do not divide {heads} heads");
        return Err(Error::config("num_key_value_heads", problem));
    }
    let head_dim = head_dim.unwrap_or(width / heads);
    if head_dim < 1 || heads.checked_mul(head_dim).is_none() {
        return Err(Error::config("head_dim", format!("{heads} heads of {head_dim} features are not possible")));
    }
    Ok(Heads { heads, kv_heads, head_dim })
}

/// As many heads of keys and values as of queries, of this size; `key` is the config's for the number of heads.
///
/// # Errors
/// [`Error::Config`] when there are none, or more features than a matrix can have.
pub fn heads(key: &str, heads: i32, head_dim: i32) -> Result<Heads> {
    if heads < 1 || head_dim < 1 || heads.checked_mul(head_dim).is_none() {
        return Err(Error::config(key, format!("{heads} heads of {head_dim} features cannot be")));
    }
    Ok(Heads { heads, kv_heads: heads, head_dim })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_from_one_to_its_limit() {
        assert_eq!(Size::try_from(1).unwrap().get(), 1);
        assert_eq!(Size::try_from(1 << 24).unwrap().get(), 1 << 24);
        for value in [0, -1, (1 << 24) + 1, i64::MAX, i64::MIN] {
            assert!(Size::try_from(value).unwrap_err().contains(&value.to_string()));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        assert!(positive(&[("a", 1), ("b", 7)]).is_ok());
        let error = positive(&[("a", 1), ("b", 0)]).unwrap_err().to_string();
        assert!(error.contains("`b`: 0"), "{error}");
        for (count, dim) in [(0, 4), (4, 0), (1 << 20, 1 << 20)] {
            assert!(heads("heads", count, dim).unwrap_err().to_string().contains("heads"));
        }
        assert_eq!(heads("heads", 3, 4).unwrap(), Heads { heads: 3, kv_heads: 3, head_dim: 4 });
    }
}
