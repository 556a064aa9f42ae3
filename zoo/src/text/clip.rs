//! CLIP's tokenizer from a vocabulary and merges, the files that diffusion models are published with.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Special tokens are kept whole, white space is dropped, letters go together, digits alone, the rest together.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What a `tokenizer.json` would say for the files `vocab.json` and `merges.txt`, by the definition of transformers'
/// `CLIPTokenizer`. `special` are the special tokens by name.
///
/// # Errors
/// A missing or malformed file, by its path.
pub(super) fn description(directory: &Path, special: &BTreeMap<&'static str, String>) -> Result<Vec<u8>> {
    let path = directory.join("vocab.json");
    let malformed = |problem: String| Error::file(&path, problem);
    let vocabulary: Map<String, Value> =
        serde_json::from_str(&text(&path)?).map_err(|error| malformed(format!("is not valid: {error}")))?;
    let token = |name: &str, default: &str| -> Result<(String, Value)> {
        let token = special.get(name).map_or(default, String::as_str);
        match vocabulary.get(token) {
            Some(id) => Ok((token.to_owned(), id.clone())),
            None => Err(malformed(format!("has no token `{token}`"))),
        }
    };
    let (begin, end) = (token("bos_token", "<|startoftext|>")?, token("eos_token", "<|endoftext|>")?);
    let unknown = token("unk_token", "<|endoftext|>")?.0;
    let merges = merges(&directory.join("merges.txt"), &vocabulary)?;
    let added = |(content, id): &(String, Value)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true})
    };
    let description = json!({
        "version": "1.0",
        "added_tokens": [added(&begin), added(&end)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": end, "cls": begin, "trim_offsets": false,
            "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": unknown, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "vocab": vocabulary, "merges": merges},
    });
    Ok(description.to_string().into_bytes())
}

/// The pairs of the file, first merged first.
fn merges(path: &Path, vocabulary: &Map<String, Value>) -> Result<Vec<[String; 2]>> {
    let text = text(path)?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    lines
        .map(|line| {
            let malformed = |problem: &str| Err(Error::file(path, format!("`{line}` {problem}")));
            match line.split_once(' ') {
                None => malformed("is no pair of tokens"),
                Some((a, b)) if [a, b, &format!("{a}{b}")].iter().all(|token| vocabulary.contains_key(*token)) => {
                    Ok([a.to_owned(), b.to_owned()])
                }
                Some(_) => malformed("names a token that vocab.json does not have"),
            }
        })
        .collect()
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::file(path, "no such file, and no tokenizer.json beside it; fetch it again"),
        _ => Error::file(path, error.to_string()),
    })
}
