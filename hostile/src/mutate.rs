//! Damage to valid files: the same in every run, by the number of the input.

use fastrand::Rng;
use serde_json::{Map, Number, Value};

/// How files of a format are damaged, beside what is done to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes and numbers in them.
    Binary,
    /// Words and signs.
    Text,
    /// Values, keys and their order.
    Json,
    /// A header of JSON after its length.
    Safetensors,
}

/// Numbers at which arithmetic ends.
const EXTREMES: [i128; 20] = [
    0,
    1,
    -1,
    2,
    127,
    255,
    -256,
    65_535,
    100_000_000,
    i32::MAX as i128,
    i32::MIN as i128,
    u32::MAX as i128,
    1 << 32,
    1 << 40,
    (1 << 53) + 1,
    i64::MAX as i128,
    i64::MIN as i128,
    u64::MAX as i128,
    1 << 80,
    1 << 24,
];

/// The longest input; what is doubled again and again stays below it.
const LONGEST: usize = 1 << 20;

/// Values that JSON may grow by in one change.
const GROWTH: usize = 5_000;

/// The damaged file of that number, from valid ones.
pub fn mutate(seeds: &[Vec<u8>], kind: Kind, number: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let Some(seed) = rng.choice(seeds) else { return Vec::new() };
    let mut bytes = seed.clone();
    if kind == Kind::Json && rng.u8(..) < 160 {
        bytes = json(&bytes, &mut rng);
    }
    if kind == Kind::Safetensors && rng.u8(..) < 160 {
        bytes = header(&bytes, &mut rng);
    }
    // One in four keeps the structural damage alone.
    let edits = if &bytes == seed || rng.u8(..) < 64 { rng.usize(1..4) } else { 0 };
    for _ in 0..edits {
        edit(&mut bytes, seeds, &mut rng);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// One change of a few bytes.
fn edit(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    if bytes.is_empty() {
        return bytes.push(rng.u8(..));
    }
    // Beginnings hold magic numbers, lengths and headers.
    let reach = if rng.bool() { bytes.len() } else { bytes.len().min(256) };
    let at = rng.usize(..reach);
    let end = (at + rng.usize(1..48)).min(bytes.len());
    match rng.u8(..10) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = rng.u8(..),
        2 => {
            let extreme = rng.choice(EXTREMES).unwrap_or_default().to_le_bytes();
            let width = [1, 2, 4, 8][rng.usize(..4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&extreme[..width]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].to_vec();
            let piece = piece.repeat(1 + rng.usize(..4).pow(3));
            bytes.splice(at..at, piece);
        }
        6 => {
            // A piece of another file of this kind.
            let Some(other) = rng.choice(seeds).filter(|other| !other.is_empty()) else { return };
            let from = rng.usize(..other.len());
            let to = (from + rng.usize(1..200)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        7 | 8 => digits(bytes, at, rng),
        _ => {
            let signs = b"0123456789-,:[]{}()<>|\"'\\e.%~+* \n";
            bytes[at] = signs[rng.usize(..signs.len())];
        }
    }
}

/// Puts another number in place of one that is written in digits at or after `at`.
fn digits(bytes: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match rng.u8(..4) {
        0 => rng.u32(..100).to_string(),
        _ => rng.choice(EXTREMES).unwrap_or_default().to_string(),
    };
    bytes.splice(start..start + length, number.into_bytes());
}

/// A safetensors file whose header is damaged as JSON, and whose length may fit.
fn header(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes.to_vec() };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((text, data)) = rest.split_at_checked(length) else { return bytes.to_vec() };
    let text = json(text, rng);
    [&(text.len() as u64).to_le_bytes()[..], &text, data].concat()
}

/// JSON with a few values changed, and keys twice or in another order.
fn json(text: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return text.to_vec() };
    for _ in 0..rng.usize(1..4) {
        let mut places = places(&value);
        rng.shuffle(&mut places);
        let donor = places.first().and_then(|place| value.pointer(place)).cloned().unwrap_or_default();
        if let Some(place) = places.last().and_then(|place| value.pointer_mut(place)) {
            change(place, donor, rng);
        }
    }
    let disorder = rng.u8(..4) == 0;
    let mut out = String::new();
    write(&value, disorder, rng, &mut out);
    out.into_bytes()
}

/// Pointers to all values; of long lists to the first ones.
fn places(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut next = 0;
    while let Some(place) = found.get(next).cloned() {
        next += 1;
        match value.pointer(&place) {
            Some(Value::Array(items)) => found.extend((0..items.len().min(8)).map(|i| format!("{place}/{i}"))),
            Some(Value::Object(fields)) => {
                let escaped = |key: &String| key.replace('~', "~0").replace('/', "~1");
                found.extend(fields.keys().take(64).map(|key| format!("{place}/{}", escaped(key))));
            }
            _ => {}
        }
    }
    found
}

fn change(value: &mut Value, donor: Value, rng: &mut Rng) {
    match (rng.u8(..12), value) {
        (0, value) => *value = donor,
        (1, value) => *value = Value::Null,
        (2, value) => *value = Value::Bool(rng.bool()),
        (3, value) => *value = number(rng),
        (4, value) => *value = Value::String(word(rng)),
        (5, value) => {
            let depth = [1, 3, 40, 130, 300][rng.usize(..5)];
            *value = (0..depth).fold(value.take(), |inner, _| Value::Array(vec![inner]));
        }
        (_, Value::Number(old)) => {
            let near = old.as_i64().map(|old| Value::from(old.wrapping_add(rng.i64(-3..=3))));
            *old = match near.filter(|_| rng.bool()) {
                Some(Value::Number(near)) => near,
                _ => match number(rng) {
                    Value::Number(far) => far,
                    _ => return,
                },
            };
        }
        (_, Value::Array(items)) => match rng.u8(..4) {
            0 => drop(items.pop()),
            1 => items.push(donor),
            2 => items.reverse(),
            _ => {
                let times = [2, 3, 16, 1000][rng.usize(..4)];
                let most = GROWTH / items.iter().map(nodes).max().unwrap_or(1);
                *items = items.iter().cloned().cycle().take((items.len() * times).min(most)).collect();
            }
        },
        (_, Value::Object(fields)) => fields_changed(fields, donor, rng),
        (_, Value::String(text)) => match rng.u8(..4) {
            0 => *text = word(rng),
            1 => *text = text.repeat(rng.usize(2..40)),
            2 => text.insert_str(0, "\u{0}\u{301}"),
            _ => {
                let mut bytes = text.clone().into_bytes();
                edit(&mut bytes, &[], rng);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
        },
        (_, value) => *value = donor,
    }
}

fn fields_changed(fields: &mut Map<String, Value>, donor: Value, rng: &mut Rng) {
    let key = rng.choice(fields.keys().cloned().collect::<Vec<_>>());
    match (rng.u8(..4), key) {
        (0, Some(key)) => drop(fields.remove(&key)),
        (1, Some(key)) => {
            let value = fields.remove(&key).unwrap_or_default();
            fields.insert(word(rng), value);
        }
        (2, Some(key)) => {
            let copies = GROWTH / nodes(&donor) / 16;
            fields.extend((0..copies).map(|n| (format!("{key}{n}"), donor.clone())));
        }
        _ => drop(fields.insert(word(rng), donor)),
    }
}

/// How many values a value is.
fn nodes(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        _ => 0,
    };
    inner + 1
}

fn number(rng: &mut Rng) -> Value {
    let float = [0.5, -0.0, 1e-45, 1e38, 1e308, 3.4e39, -1e300, 0.1][rng.usize(..8)];
    let whole = rng.choice(EXTREMES).unwrap_or_default();
    let number = match rng.u8(..3) {
        0 => Number::from_f64(float),
        _ => i64::try_from(whole).ok().map(Number::from).or(u64::try_from(whole).ok().map(Number::from)),
    };
    number.or(Number::from_f64(1e25)).map_or(Value::Null, Value::Number)
}

fn word(rng: &mut Rng) -> String {
    let words = ["", "a", "..", "/", "model", "weight", "0", "-1", "\u{0}", "é", "{i}", "**", "__metadata__", "null"];
    rng.choice(words).unwrap_or_default().repeat([1, 1, 1, 2, 500][rng.usize(..5)])
}

/// JSON as text; with `disorder` some keys come twice, and some objects backwards.
fn write(value: &Value, disorder: bool, rng: &mut Rng, out: &mut String) {
    let separate = |first: &mut bool, out: &mut String| {
        if !std::mem::take(first) {
            out.push(',');
        }
    };
    let mut first = true;
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                separate(&mut first, out);
                write(item, disorder, rng, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut entries: Vec<_> = fields.iter().collect();
            if disorder && rng.bool() {
                rng.shuffle(&mut entries);
            }
            if disorder && rng.u8(..4) == 0 {
                entries.extend(entries.first().copied());
            }
            out.push('{');
            for (key, item) in entries {
                separate(&mut first, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(item, disorder, rng, out);
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_the_same_in_every_run_and_differs_from_input_to_input() {
        let seeds = vec![br#"{"a": [1, 2], "b": {"c": "d"}}"#.to_vec()];
        for kind in [Kind::Binary, Kind::Json] {
            let inputs: Vec<_> = (0..500).map(|number| mutate(&seeds, kind, number)).collect();
            assert!(inputs.iter().enumerate().all(|(n, input)| *input == mutate(&seeds, kind, n as u64)));
            let distinct: std::collections::BTreeSet<_> = inputs.iter().collect();
            assert!(distinct.len() > 350, "{}", distinct.len());
        }
    }

    #[test]
    fn keys_come_twice_and_in_another_order() {
        let seed = br#"{"first":1,"second":2}"#.to_vec();
        let inputs: Vec<String> = (0..2000)
            .map(|number| {
                String::from_utf8_lossy(&mutate(std::slice::from_ref(&seed), Kind::Json, number)).into_owned()
            })
            .collect();
        assert!(inputs.iter().any(|input| input.matches("\"first\":").count() == 2));
        assert!(inputs.iter().any(|input| input.starts_with("{\"second\":2,\"first\"")));
    }
}
