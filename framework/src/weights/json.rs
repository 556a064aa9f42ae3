//! JSON objects from files that nobody vouches for: a name occurs once, and there are bounds on how many and
//! how long they are.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Most names in one object. The largest published checkpoints have about 210,000 tensors; at most some 300 bytes of
/// memory a name, the bound keeps what a small hostile file can make us allocate below 64 MB.
pub(super) const MOST_NAMES: usize = 1 << 18;

/// Longest name in bytes. Published ones have about a hundred.
pub(super) const LONGEST_NAME: usize = 1024;

/// What is wrong with the JSON of a `part`, and what to do unless that is said already.
pub(super) fn malformed(part: &str, error: &serde_json::Error) -> String {
    let advice = if error.is_data() { "" } else { ": it is damaged; fetch it again" };
    format!("malformed {part}: {error}{advice}")
}

/// The next name of an object, `None` at its end.
///
/// # Errors
/// When the name is too long, `taken` knows it already, or `count` names have been read and that is the most there may
/// be.
pub(super) fn next_name<'de, A: MapAccess<'de>>(
    object: &mut A,
    count: usize,
    taken: impl FnOnce(&str) -> bool,
) -> Result<Option<String>, A::Error> {
    let Some(name) = object.next_key::<String>()? else {
        return Ok(None);
    };
    if count >= MOST_NAMES {
        return Err(A::Error::custom(format!("more than {MOST_NAMES} names")));
    }
    if name.len() > LONGEST_NAME {
        return Err(A::Error::custom(format!("a name of {} bytes, more than the {LONGEST_NAME} allowed", name.len())));
    }
    if taken(&name) {
        return Err(A::Error::custom(format!("{name:?} occurs twice")));
    }
    Ok(Some(name))
}

/// The value of `name`, the name put before what is wrong with it.
pub(super) fn value_of<'de, A: MapAccess<'de>, V: Deserialize<'de>>(object: &mut A, name: &str) -> Result<V, A::Error> {
    object.next_value().map_err(|error| A::Error::custom(format!("{name:?}: {error}")))
}

/// An ordered object whose names occur once.
#[derive(Debug)]
pub(super) struct Unique<V>(pub BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(name) = next_name(&mut object, map.len(), |name| map.contains_key(name))? {
                    let value = value_of(&mut object, &name)?;
                    map.insert(name, value);
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Names(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        serde_json::from_str::<Unique<u8>>(text).unwrap_err().to_string()
    }

    #[test]
    fn keeps_each_name_once() {
        let map: Unique<u8> = serde_json::from_str(r#"{"b": 2, "a": 1}"#).unwrap();
        assert_eq!(map.0, BTreeMap::from([("a".into(), 1), ("b".into(), 2)]));
        assert!(problem(r#"{"a": 1, "a": 1}"#).contains(r#""a" occurs twice"#));
        assert!(problem(r#"{"a": 1, "b": 300}"#).contains(r#""b": invalid value"#));
        assert!(problem("[]").contains("an object"));
    }

    #[test]
    fn bounds_the_names() {
        let names: Vec<String> = (0..=MOST_NAMES).map(|i| format!("\"{i}\":0")).collect();
        assert!(problem(&format!("{{{}}}", names.join(","))).contains("more than 262144 names"));
        let long = "n".repeat(1025);
        assert!(problem(&format!("{{\"{long}\": 0}}")).contains("a name of 1025 bytes"));
    }
}
