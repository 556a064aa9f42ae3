//! Names, shapes and element types of a checkpoint, without its data; and the short JSON form in which the headers of
//! published checkpoints are kept.
//!
//! # The JSON form
//! ```json
//! {
//!   "tensors": {
//!     "model.embed_tokens.weight": "BF16[32000,4096]",
//!     "model.layers.{0..31}.mlp.up_proj.weight": "BF16[11008,4096]",
//!     "odd{name}": {"dtype": "F32", "shape": []}
//!   },
//!   "metadata": {"format": "pt"}
//! }
//! ```
//! A value that is a string, `DTYPE[d0,d1,…]`, makes its name a pattern: each `{first..last}` (both ends included) stands
//! for every whole number between them, several for every combination. A value that is an object is the long form, and
//! its name is taken as it stands. Writing uses the short form wherever the name has no braces of its own.

use std::{collections::BTreeMap, fmt};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::json::{MOST_NAMES, Unique};

/// Most dimensions of a tensor. Published ones have five at most.
const MOST_DIMENSIONS: usize = 8;

/// How a stored tensor's elements are encoded, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Stored {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    #[serde(rename = "BOOL")]
    Bool,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
}

impl Stored {
    /// Every encoding.
    pub const ALL: [Self; 15] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
        Self::F8E4M3,
        Self::F8E5M2,
    ];

    /// Size of one element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool | Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// The name that safetensors gives it: `F32`, `BOOL`, `F8_E4M3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
        }
    }

    /// The encoding of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stored| stored.name() == name)
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shape and element type of one tensor as a file names it. Displayed as `BF16[4096,4096]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// Encoding of the elements.
    pub dtype: Stored,
    /// Dimensions, outermost first; empty for a scalar.
    #[serde(deserialize_with = "dimensions")]
    pub shape: Vec<usize>,
}

impl Info {
    /// Number of elements, `None` when it does not fit a `usize`.
    pub fn elements(&self) -> Option<usize> {
        // A zero anywhere makes the tensor empty, whatever the other dimensions would overflow to.
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1_usize, |product, &dimension| product.checked_mul(dimension))
    }

    /// Size of the data in bytes, `None` when it does not fit a `usize`.
    pub fn bytes(&self) -> Option<usize> {
        self.elements()?.checked_mul(self.dtype.bytes())
    }

    /// Reads the form that `Display` writes.
    fn parse(text: &str) -> Option<Self> {
        let (dtype, dimensions) = text.strip_suffix(']')?.split_once('[')?;
        let shape = match dimensions {
            "" => Vec::new(),
            some => some
                .split(',')
                .map(|dimension| dimension.parse().ok())
                .take(MOST_DIMENSIONS + 1)
                .collect::<Option<_>>()?,
        };
        let dtype = Stored::named(dtype)?;
        (shape.len() <= MOST_DIMENSIONS).then_some(Self { dtype, shape })
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dimension) in self.shape.iter().enumerate() {
            write!(f, "{}{dimension}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// A shape that is refused as soon as it has too many dimensions.
pub(super) fn dimensions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Dimensions;

    impl<'de> Visitor<'de> for Dimensions {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a shape: a list of whole numbers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<usize>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = list.next_element()? {
                if shape.len() == MOST_DIMENSIONS {
                    return Err(A::Error::custom(format!("a shape of more than {MOST_DIMENSIONS} dimensions")));
                }
                shape.push(dimension);
            }
            Ok(shape)
        }
    }

    deserializer.deserialize_seq(Dimensions)
}

/// Names, shapes and dtypes of a checkpoint; no data. Ordered.
///
/// `serde` reads both JSON forms that the module describes and writes the short one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Info>,
    /// What else the file says about itself, as text.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Size of all tensors' data in bytes. A sum that does not fit is `u64::MAX`.
    pub fn bytes(&self) -> u64 {
        self.tensors
            .values()
            .fold(0, |sum: u64, info| sum.saturating_add(info.bytes().map_or(u64::MAX, |bytes| bytes as u64)))
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut header = serializer.serialize_struct("Header", 2)?;
        header.serialize_field("tensors", &shorten(&self.tensors))?;
        header.serialize_field("metadata", &self.metadata)?;
        header.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            tensors: Unique<Form>,
            #[serde(default)]
            metadata: Unique<String>,
        }

        let Fields { tensors, metadata } = Fields::deserialize(deserializer)?;
        let mut header = Self { tensors: BTreeMap::new(), metadata: metadata.0 };
        for (key, form) in tensors.0 {
            let (names, info) = match form {
                Form::Long(info) => (vec![key], info),
                Form::Short(info) => {
                    let room = MOST_NAMES.saturating_sub(header.tensors.len());
                    let names = expand(&key, room)
                        .map_err(|problem| D::Error::custom(format!("tensor pattern {key:?}: {problem}")))?;
                    (names, info)
                }
            };
            for name in names {
                if let Some(_earlier) = header.tensors.insert(name.clone(), info.clone()) {
                    return Err(D::Error::custom(format!("tensor {name:?} is given twice, by patterns that overlap")));
                }
            }
        }
        Ok(header)
    }
}

/// The value of a name in the JSON form; which of the two says whether the name is a pattern.
enum Form {
    Short(Info),
    Long(Info),
}

impl Serialize for Form {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Short(info) => serializer.collect_str(info),
            Self::Long(info) => info.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#""DTYPE[d0,d1,…]" or {"dtype": …, "shape": […]}"#)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Form, E> {
                Info::parse(text)
                    .map(Form::Short)
                    .ok_or_else(|| E::custom(format!("{text:?} is not of the form \"BF16[4096,4096]\"")))
            }

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Form, A::Error> {
                Info::deserialize(MapAccessDeserializer::new(object)).map(Form::Long)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Merges names that differ in one whole number, and agree in shape and dtype, into patterns.
fn shorten(tensors: &BTreeMap<String, Info>) -> BTreeMap<String, Form> {
    let (braced, plain): (Vec<_>, Vec<_>) = tensors.iter().partition(|(name, _)| name.contains(['{', '}']));
    let mut names: Vec<(Vec<String>, &Info)> =
        plain.into_iter().map(|(name, info)| (name.split('.').map(String::from).collect(), info)).collect();
    let longest = names.iter().map(|(parts, _)| parts.len()).max().unwrap_or(0);
    for position in 0..longest {
        names = merge(names, position);
    }
    let long = braced.into_iter().map(|(name, info)| (name.clone(), Form::Long(info.clone())));
    names.into_iter().map(|(parts, info)| (parts.join("."), Form::Short(info.clone()))).chain(long).collect()
}

/// Merges names that are equal but for the number at `position`; runs of consecutive numbers become one name.
fn merge(names: Vec<(Vec<String>, &Info)>, position: usize) -> Vec<(Vec<String>, &Info)> {
    let mut merged = Vec::new();
    let mut families: BTreeMap<(Vec<String>, &Info), Vec<u32>> = BTreeMap::new();
    for (mut parts, info) in names {
        match parts.get_mut(position) {
            Some(part) => match number(part) {
                Some(value) => {
                    part.clear();
                    families.entry((parts, info)).or_default().push(value);
                }
                None => merged.push((parts, info)),
            },
            None => merged.push((parts, info)),
        }
    }
    for ((parts, info), mut values) in families {
        values.sort_unstable();
        for run in values.chunk_by(|&a, &b| a.checked_add(1) == Some(b)) {
            let text = match run {
                [one] => one.to_string(),
                [first, .., last] => format!("{{{first}..{last}}}"),
                [] => continue,
            };
            let mut parts = parts.clone();
            if let Some(part) = parts.get_mut(position) {
                *part = text;
            }
            merged.push((parts, info));
        }
    }
    merged
}

/// A whole number written the one way that `to_string` writes it, so that expanding a range gives the name back.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|value: &u32| value.to_string() == text)
}

/// All names of a pattern, at most `room`.
fn expand(pattern: &str, room: usize) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((text, after)) = rest.split_once('{') {
        let (range, after) = after.split_once('}').ok_or("`{` without `}`")?;
        let (first, last) = range
            .split_once("..")
            .and_then(|(first, last)| Some((number(first)?, number(last)?)))
            .filter(|(first, last)| first <= last)
            .ok_or_else(|| format!("`{{{range}}}` is not a range such as `{{0..31}}`"))?;
        let count = names
            .len()
            .checked_mul((last - first) as usize + 1)
            .filter(|&count| count <= room)
            .ok_or_else(|| format!("stands for more tensors than the {MOST_NAMES} allowed"))?;
        let mut longer = Vec::with_capacity(count);
        for name in &names {
            longer.extend((first..=last).map(|value| format!("{name}{text}{value}")));
        }
        names = longer;
        rest = after;
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(dtype: Stored, shape: &[usize]) -> Info {
        Info { dtype, shape: shape.to_vec() }
    }

    fn problem(text: &str) -> String {
        serde_json::from_str::<Header>(text).unwrap_err().to_string()
    }

    /// Llama 3 8B as published: 291 tensors.
    fn llama() -> Header {
        let (wide, narrow, inner, vocabulary) = (4096, 1024, 14336, 128_256);
        let mut header = Header::default();
        let mut add = |name: String, shape: &[usize]| {
            header.tensors.insert(name, info(Stored::BF16, shape));
        };
        add("model.embed_tokens.weight".into(), &[vocabulary, wide]);
        add("lm_head.weight".into(), &[vocabulary, wide]);
        add("model.norm.weight".into(), &[wide]);
        for i in 0..32 {
            for (name, shape) in [
                ("input_layernorm", &[wide][..]),
                ("post_attention_layernorm", &[wide]),
                ("self_attn.q_proj", &[wide, wide]),
                ("self_attn.k_proj", &[narrow, wide]),
                ("self_attn.v_proj", &[narrow, wide]),
                ("self_attn.o_proj", &[wide, wide]),
                ("mlp.gate_proj", &[inner, wide]),
                ("mlp.up_proj", &[inner, wide]),
                ("mlp.down_proj", &[wide, inner]),
            ] {
                add(format!("model.layers.{i}.{name}.weight"), shape);
            }
        }
        header.metadata.insert("format".into(), "pt".into());
        header
    }

    #[test]
    fn every_encoding_has_one_name() {
        for stored in Stored::ALL {
            assert_eq!(Stored::named(stored.name()), Some(stored));
            assert_eq!(serde_json::to_string(&stored).unwrap(), format!("{:?}", stored.name()));
            assert!(!stored.is_float() || stored.name().contains('F'));
        }
        assert_eq!(Stored::named("F4"), None);
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(info(Stored::F32, &[]).bytes(), Some(4));
        assert_eq!(info(Stored::BF16, &[3, 5]).bytes(), Some(30));
        assert_eq!(info(Stored::F32, &[usize::MAX, 2, 0]).bytes(), Some(0), "empty, not too large");
        assert_eq!(info(Stored::U8, &[usize::MAX, 2]).elements(), None);
        assert_eq!(info(Stored::F32, &[usize::MAX / 2]).bytes(), None);
        assert_eq!(llama().bytes(), 16_060_522_496);
    }

    #[test]
    fn a_large_header_is_short_and_comes_back() {
        let header = llama();
        let text = serde_json::to_string_pretty(&header).unwrap();
        assert_eq!(header.tensors.len(), 291);
        assert!(text.len() < 1000, "{} bytes:\n{text}", text.len());
        assert!(text.contains(r#""model.layers.{0..31}.mlp.up_proj.weight": "BF16[14336,4096]""#));
        assert_eq!(serde_json::from_str::<Header>(&text).unwrap(), header);
    }

    #[test]
    fn ragged_numbers_and_odd_names_come_back() {
        let mut header = Header::default();
        let mut add = |name: &str, shape: &[usize]| {
            let _ = header.tensors.insert(name.into(), info(Stored::F16, shape));
        };
        for expert in 0..4 {
            for layer in [1, 2, 3, 7, 9, 10] {
                add(&format!("layers.{layer}.experts.{expert}.up"), &[4, 2]);
                add(&format!("layers.{layer}.experts.{expert}.down"), &[2, 4 + usize::from(layer == 3)]);
            }
        }
        for name in
            ["", ".", "a..0", "a.00", "a.01", "a.0", "a.1", "4294967295", "4294967296", "a.{0..3}", "}{", "é.0\n\""]
        {
            add(name, &[]);
        }
        let text = serde_json::to_string(&header).unwrap();
        assert!(text.contains(r#""layers.{1..3}.experts.{0..3}.up":"F16[4,2]""#));
        assert!(text.contains(r#""layers.7.experts.{0..3}.up""#));
        assert!(text.contains(r#""a.{0..3}":{"dtype":"F16","shape":[]}"#));
        assert_eq!(serde_json::from_str::<Header>(&text).unwrap(), header);
    }

    #[test]
    fn the_long_form_is_read() {
        let text = r#"{"tensors": {"a.{0..1}": {"dtype": "BOOL", "shape": [1, 2]}}}"#;
        let header: Header = serde_json::from_str(text).unwrap();
        assert_eq!(header.tensors.get("a.{0..1}"), Some(&info(Stored::Bool, &[1, 2])));
    }

    #[test]
    fn a_malformed_header_says_where() {
        for (text, expected) in [
            (r#"{"tensors": {"a": "F4[1]"}}"#, "\"a\": \"F4[1]\" is not of the form"),
            (r#"{"tensors": {"a": "F32[1"}}"#, "is not of the form"),
            (r#"{"tensors": {"a": "F32[-1]"}}"#, "is not of the form"),
            (r#"{"tensors": {"a": 3}}"#, "DTYPE[d0,d1,…]"),
            (r#"{"tensors": {"a": {"dtype": "F32"}}}"#, "\"a\": missing field `shape`"),
            (r#"{"tensors": {"a": {"dtype": "F32", "shape": [0.5]}}}"#, "\"a\": "),
            (r#"{"tensors": {"{0..x}": "F32[]"}}"#, "`{0..x}` is not a range"),
            (r#"{"tensors": {"{3..1}": "F32[]"}}"#, "is not a range"),
            (r#"{"tensors": {"{0..1": "F32[]"}}"#, "`{` without `}`"),
            (r#"{"tensors": {"{0..4294967295}": "F32[]"}}"#, "more tensors than"),
            (r#"{"tensors": {"{0..999}.{0..999}": "F32[]"}}"#, "more tensors than"),
            (r#"{"tensors": {"a.{0..2}": "F32[]", "a.1": "F32[]"}}"#, "\"a.1\" is given twice"),
            (r#"{"tensors": {"a": "F32[]", "a": "F32[]"}}"#, "\"a\" occurs twice"),
            (r#"{"tensors": {}, "tensor": {}}"#, "unknown field `tensor`"),
            (r#"{"metadata": {}}"#, "missing field `tensors`"),
        ] {
            let problem = problem(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let long = ["1"; 9].join(",");
        assert!(problem(&format!(r#"{{"tensors": {{"a": "F32[{long}]"}}}}"#)).contains("form"));
        assert!(
            problem(&format!(r#"{{"tensors": {{"a": {{"dtype": "F32", "shape": [{long}]}}}}}}"#))
                .contains("more than 8 dimensions")
        );
    }
}
