//! What of a tokenizer.json would cost the `tokenizers` crate far more than the file is long.

use serde_json::{Map, Value};

/// Normalizers, pre-tokenizers, post-processors and decoders, those within others too: each compiles what it needs.
/// Published tokenizers have about ten.
const MOST_PARTS: usize = 48;

/// How many times as long all of them may make a text. Published tokenizers make it about ten times as long.
const MOST_GROWTH: usize = 1_000;

/// Signs of base64 in the order of what they stand for.
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Checks the parts of a tokenizer, each with its parts.
///
/// # Errors
/// When there are too many, they make a text too long, or SentencePiece's table of characters claims to be longer than it is.
pub(super) fn check(parts: &[&Value]) -> Result<(), String> {
    let mut left: Vec<&Value> = parts.to_vec();
    let (mut count, mut growth) = (0_usize, 1_usize);
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                count = count.saturating_add(usize::from(fields.contains_key("type")));
                growth = growth.saturating_mul(grown(fields));
                if let Some(Value::String(table)) = fields.get("precompiled_charsmap") {
                    check_table(table)?;
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    if count > MOST_PARTS {
        return Err(format!("has {count} normalizers, pre-tokenizers and the like, and {MOST_PARTS} are allowed"));
    }
    if growth > MOST_GROWTH {
        return Err(format!(
            "its normalizers, pre-tokenizers and the like make a text more than {MOST_GROWTH} times as long; fetch it again"
        ));
    }
    Ok(())
}

/// How many times as long a part may make a text.
fn grown(part: &Map<String, Value>) -> usize {
    let text = |key| part.get(key).and_then(Value::as_str);
    match text("type") {
        // A byte becomes a character of up to two.
        Some("ByteLevel") => 2,
        Some("Replace") => text("content").map_or(1, str::len).max(1),
        _ => 1,
    }
}

/// A table begins with the length of its index, for which memory is taken before it is read.
fn check_table(table: &str) -> Result<(), String> {
    let claim = first_number(table).map_or(0, |claim| claim as usize);
    if claim > table.len() {
        return Err(format!(
            "`precompiled_charsmap` claims {claim} bytes and has fewer than {}; fetch the file again",
            table.len()
        ));
    }
    Ok(())
}

/// The first four bytes of base64, the lowest first.
fn first_number(base64: &str) -> Option<u32> {
    let digit = |sign: u8| BASE64.iter().position(|&known| known == sign).map(|place| place as u64);
    let signs = base64.as_bytes().first_chunk::<6>()?;
    let bits = signs.iter().try_fold(0_u64, |bits, &sign| Some(bits << 6 | digit(sign)?))?;
    u32::try_from(bits >> 4).ok().map(u32::swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_length_of_a_table_is_its_first_number() {
        assert_eq!(first_number("AQAAAAAA"), Some(1));
        assert_eq!(first_number("AAQAAAAg"), Some(1024));
        assert_eq!(first_number("////////"), Some(u32::MAX));
        assert_eq!(first_number("AQAA"), None);
    }

    #[test]
    fn what_costs_more_than_its_length_is_refused() {
        let table = |text: &str| json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": text}]});
        assert!(check(&[&table("TemplateProcessing")]).unwrap_err().contains("`precompiled_charsmap` claims"));
        assert!(check(&[&table("AQAAAAAA"), &Value::Null]).is_ok());
        let many = json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 2000]});
        assert!(check(&[&many]).unwrap_err().contains("has 2001 normalizers"));
        let doubling =
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "Replace", "content": "aa"}); 20]});
        assert!(check(&[&doubling]).unwrap_err().contains("times as long"));
        let bytes = json!({"pretokenizers": vec![json!({"type": "ByteLevel"}); 9]});
        assert!(check(&[&bytes]).is_ok() && check(&[&bytes, &bytes]).is_err());
    }
}
