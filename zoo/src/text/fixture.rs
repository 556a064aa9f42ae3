//! The tiny tokenizers under `fixtures/text` for the tests.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::gguf::GgufTokenizer;
use super::tokenizer::Tokenizer;

/// `tiny-bpe.json`: a byte-level vocabulary as a tokenizer.json.
pub fn byte_level() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/text/tiny-bpe.json")).unwrap()
}

/// `tiny-spm.json`: a SentencePiece vocabulary with scores.
pub fn sentencepiece() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/text/tiny-spm.json")).unwrap()
}

pub fn field<T: DeserializeOwned>(value: &Value, key: &str) -> T {
    T::deserialize(&value[key]).unwrap()
}

/// The byte-level vocabulary as a GGUF file would hold it.
pub fn byte_level_gguf() -> GgufTokenizer {
    let description = &byte_level()["tokenizer"];
    let vocab = description["model"]["vocab"].as_object().unwrap();
    let added = description["added_tokens"].as_array().unwrap();
    let last = added.iter().map(|token| token["id"].as_u64().unwrap()).max().unwrap();
    let mut tokens = vec![String::new(); last as usize + 1];
    let mut types = vec![1; tokens.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().to_owned();
        types[id] = if token["special"].as_bool().unwrap() { 3 } else { 4 };
    }
    let pair = |merge: &Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        tokens,
        types,
        merges: description["model"]["merges"].as_array().unwrap().iter().map(pair).collect(),
        bos: Some(1),
        eos: Some(2),
        ..Default::default()
    }
}

pub fn sentencepiece_gguf() -> GgufTokenizer {
    let file = sentencepiece();
    GgufTokenizer {
        model: "llama".into(),
        tokens: field(&file, "tokens"),
        types: field(&file, "types"),
        scores: field(&file, "scores"),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..Default::default()
    }
}

pub fn tokenizer(gguf: GgufTokenizer) -> Tokenizer {
    gguf.try_into().unwrap()
}
