//! Sizes that a config states.

use framework::{Error, Heads, Result};

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
