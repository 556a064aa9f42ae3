//! The key-value part of a GGUF file: a model's configuration, its tokenizer and its chat template.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use super::reader::{Parsed, Reader};
use crate::error::{Error, Result};

/// Longest key in bytes, as the format prescribes.
const LONGEST_KEY: u64 = 65_535;

/// How deep arrays may lie within arrays. Published files have none.
const DEEPEST_ARRAY: usize = 4;

/// Memory of one entry beyond its text: the map's share and the allocator's.
const ENTRY: u64 = 200;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A list in a GGUF file's metadata; its items have one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

impl Value {
    fn read<R: Read>(reader: &mut Reader<R>) -> Parsed<Self> {
        Ok(match reader.u32()? {
            0 => Self::U8(u8::from_le_bytes(reader.array()?)),
            1 => Self::I8(i8::from_le_bytes(reader.array()?)),
            2 => Self::U16(u16::from_le_bytes(reader.array()?)),
            3 => Self::I16(i16::from_le_bytes(reader.array()?)),
            4 => Self::U32(u32::from_le_bytes(reader.array()?)),
            5 => Self::I32(i32::from_le_bytes(reader.array()?)),
            6 => Self::F32(f32::from_le_bytes(reader.array()?)),
            7 => Self::Bool(boolean(u8::from_le_bytes(reader.array()?))?),
            8 => Self::String(reader.string(u64::MAX)?),
            9 => Self::Array(Array::read(reader, 1)?),
            10 => Self::U64(u64::from_le_bytes(reader.array()?)),
            11 => Self::I64(i64::from_le_bytes(reader.array()?)),
            12 => Self::F64(f64::from_le_bytes(reader.array()?)),
            other => return Err(unknown(other)),
        })
    }

    /// A whole number of any width.
    fn whole(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// What it is, for a message that says what was expected instead.
    fn kind(&self) -> &'static str {
        match self {
            Self::F32(_) | Self::F64(_) => "a floating-point number",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a text",
            Self::Array(Array::String(_)) => "a list of texts",
            Self::Array(Array::F32(_) | Array::F64(_)) => "a list of floating-point numbers",
            Self::Array(Array::Bool(_)) => "a list of booleans",
            Self::Array(Array::Array(_)) => "a list of lists",
            Self::Array(_) => "a list of whole numbers",
            _ => "a whole number",
        }
    }
}

/// Lists are displayed by what they are and how long; all else as it is.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(value) => value.fmt(f),
            Self::Array(items) => write!(f, "{} ({})", self.kind(), items.len()),
        }
    }
}

impl Array {
    fn read<R: Read>(reader: &mut Reader<R>, depth: usize) -> Parsed<Self> {
        let kind = reader.u32()?;
        let count = reader.u64()?;
        Ok(match kind {
            0 => Self::U8(reader.numbers(count, u8::from_le_bytes)?),
            1 => Self::I8(reader.numbers(count, i8::from_le_bytes)?),
            2 => Self::U16(reader.numbers(count, u16::from_le_bytes)?),
            3 => Self::I16(reader.numbers(count, i16::from_le_bytes)?),
            4 => Self::U32(reader.numbers(count, u32::from_le_bytes)?),
            5 => Self::I32(reader.numbers(count, i32::from_le_bytes)?),
            6 => Self::F32(reader.numbers(count, f32::from_le_bytes)?),
            7 => {
                let mut items = reader.room(count, 1)?;
                for _ in 0..count {
                    items.push(boolean(u8::from_le_bytes(reader.array()?))?);
                }
                Self::Bool(items)
            }
            8 => {
                let mut items = reader.room(count, 8)?;
                for _ in 0..count {
                    items.push(reader.string(u64::MAX)?);
                }
                Self::String(items)
            }
            9 if depth >= DEEPEST_ARRAY => {
                return Err(format!("at byte {}: lists within lists more than {DEEPEST_ARRAY} deep", reader.at()));
            }
            9 => {
                let mut items = reader.room(count, 12)?;
                for _ in 0..count {
                    items.push(Self::read(reader, depth + 1)?);
                }
                Self::Array(items)
            }
            10 => Self::U64(reader.numbers(count, u64::from_le_bytes)?),
            11 => Self::I64(reader.numbers(count, i64::from_le_bytes)?),
            12 => Self::F64(reader.numbers(count, f64::from_le_bytes)?),
            other => return Err(unknown(other)),
        })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::F64(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::String(items) => items.len(),
            Self::Array(items) => items.len(),
        }
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items as signed whole numbers wide enough for all of them, `None` when they are something else.
    fn integers(&self) -> Option<Vec<i128>> {
        fn wide<T: Copy + Into<i128>>(items: &[T]) -> Vec<i128> {
            items.iter().map(|&item| item.into()).collect()
        }
        Some(match self {
            Self::U8(items) => wide(items),
            Self::I8(items) => wide(items),
            Self::U16(items) => wide(items),
            Self::I16(items) => wide(items),
            Self::U32(items) => wide(items),
            Self::I32(items) => wide(items),
            Self::U64(items) => wide(items),
            Self::I64(items) => wide(items),
            _ => return None,
        })
    }
}

fn boolean(byte: u8) -> Parsed<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("{other} is not a boolean")),
    }
}

fn unknown(kind: u32) -> String {
    format!("value type {kind} is unknown: the file is damaged or newer than this program")
}

/// The metadata of a GGUF file by key.
///
/// The typed getters fail with the key's name when it is missing or is something else; ask [`Metadata::has`] first for a
/// key that may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Reads `count` entries.
    pub(super) fn read<R: Read>(reader: &mut Reader<R>, count: u64) -> Parsed<Self> {
        let mut values = BTreeMap::new();
        for index in 0..count {
            let key =
                reader.string(LONGEST_KEY).map_err(|problem| format!("metadata key {index} of {count}: {problem}"))?;
            let named = |problem| format!("metadata key {key:?}: {problem}");
            reader.charge(ENTRY).map_err(named)?;
            let value = Value::read(reader).map_err(named)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(named("occurs twice".into()));
            }
        }
        Ok(Self(values))
    }

    /// The metadata that a [`Header`](crate::weights::Header) keeps as texts: each is the number or boolean that it spells,
    /// or else a text. Lists are not among them.
    pub fn from_texts(texts: &BTreeMap<String, String>) -> Self {
        let value = |text: &String| {
            let whole = text.parse().map(Value::U64).or_else(|_not_whole| text.parse().map(Value::I64));
            let float = || text.parse().ok().filter(|float: &f64| float.is_finite()).map(Value::F64);
            let boolean = || text.parse().ok().map(Value::Bool);
            whole.ok().or_else(float).or_else(boolean).unwrap_or_else(|| Value::String(text.clone()))
        };
        Self(texts.iter().map(|(key, text)| (key.clone(), value(text))).collect())
    }

    /// All keys and values in the keys' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A whole number of any width.
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.value(key, "a whole number that is not negative", |value| value.whole()?.try_into().ok())
    }

    /// A whole number that counts or indexes something in memory.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.u64(key)?.try_into().map_err(|_error| Error::config(key, "is too large in the GGUF metadata"))
    }

    /// A number, rounded to 32 bits.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.value(key, "a number", |value| match *value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => value.whole().map(|value| value as f32),
        })
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.value(key, "a boolean", |value| match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.value(key, "a text", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// A list of texts, such as `tokenizer.ggml.tokens`.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.value(key, "a list of texts", |value| match value {
            Value::Array(Array::String(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers of any width, such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>> {
        self.value(key, "a list of whole numbers", |value| match value {
            Value::Array(items) => items.integers()?.into_iter().map(|item| item.try_into().ok()).collect(),
            _ => None,
        })
    }

    /// A list of floating-point numbers, such as `tokenizer.ggml.scores`; those of 64 bits are rounded.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.value(key, "a list of floating-point numbers", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.clone()),
            Value::Array(Array::F64(items)) => Some(items.iter().map(|&item| item as f32).collect()),
            _ => None,
        })
    }

    fn value<'a, T>(&'a self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T> {
        let value = self
            .get(key)
            .ok_or_else(|| Error::config(key, format!("is missing from the GGUF metadata; it should be {expected}")))?;
        read(value).ok_or_else(|| {
            let found = match value {
                Value::String(_) | Value::Array(_) => value.kind().to_string(),
                number => format!("{}, {number}", value.kind()),
            };
            Error::config(key, format!("is {found} in the GGUF metadata; it should be {expected}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let entries = [
            ("u32", Value::U32(7)),
            ("i8", Value::I8(-1)),
            ("i64", Value::I64(i64::MAX)),
            ("f32", Value::F32(0.5)),
            ("f64", Value::F64(1.5)),
            ("bool", Value::Bool(true)),
            ("text", Value::String("a".into())),
            ("texts", Value::Array(Array::String(vec!["b".into()]))),
            ("u16s", Value::Array(Array::U16(vec![1, 65_535]))),
            ("u64s", Value::Array(Array::U64(vec![u64::MAX]))),
            ("f64s", Value::Array(Array::F64(vec![0.25]))),
            ("lists", Value::Array(Array::Array(vec![Array::Bool(vec![])]))),
        ];
        Metadata(entries.map(|(key, value)| (key.into(), value)).into())
    }

    #[test]
    fn getters_take_any_width() {
        let metadata = metadata();
        assert_eq!(metadata.u64("u32").unwrap(), 7);
        assert_eq!(metadata.usize("i64").unwrap(), i64::MAX as usize);
        assert_eq!(metadata.f32("f32").unwrap(), 0.5);
        assert_eq!(metadata.f32("f64").unwrap(), 1.5);
        assert_eq!(metadata.f32("u32").unwrap(), 7.0);
        assert!(metadata.bool("bool").unwrap());
        assert_eq!(metadata.str("text").unwrap(), "a");
        assert_eq!(metadata.strings("texts").unwrap(), ["b"]);
        assert_eq!(metadata.integers("u16s").unwrap(), [1, 65_535]);
        assert_eq!(metadata.f32s("f64s").unwrap(), [0.25]);
        assert!(metadata.has("lists") && !metadata.has("list"));
        assert_eq!(metadata.iter().count(), 12);
        assert_eq!(metadata.get("lists").unwrap().to_string(), "a list of lists (1)");
    }

    #[test]
    fn texts_are_what_they_spell() {
        let texts =
            [("count", "7"), ("below", "-1"), ("eps", "0.00001"), ("flag", "false"), ("name", "inf"), ("size", "1B")];
        let metadata = Metadata::from_texts(&texts.map(|(key, text)| (key.to_owned(), text.to_owned())).into());
        assert_eq!(metadata.u64("count").unwrap(), 7);
        assert_eq!(metadata.get("below"), Some(&Value::I64(-1)));
        assert_eq!(metadata.f32("eps").unwrap(), 1e-5);
        assert!(!metadata.bool("flag").unwrap());
        assert_eq!((metadata.str("name").unwrap(), metadata.str("size").unwrap()), ("inf", "1B"));
    }

    #[test]
    fn getters_name_the_key_and_what_it_is() {
        let metadata = metadata();
        let text = |result: Result<u64>| result.unwrap_err().to_string();
        assert_eq!(
            text(metadata.u64("none")),
            "config key `none`: is missing from the GGUF metadata; it should be a whole number that is not negative"
        );
        assert!(text(metadata.u64("i8")).contains("`i8`: is a whole number, -1 in"));
        assert!(text(metadata.u64("text")).contains("`text`: is a text in"));
        assert!(metadata.f32("text").is_err());
        assert!(metadata.bool("u32").is_err());
        assert!(metadata.str("texts").is_err());
        assert!(metadata.strings("text").is_err());
        assert!(metadata.strings("u16s").is_err());
        assert!(metadata.integers("u64s").is_err(), "too wide");
        assert!(metadata.f32s("u16s").is_err());
    }
}
