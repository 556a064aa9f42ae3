//! Texts as tokens of one length.

use crate::{
    Error, Result,
    text::{Tokenizer, padded, required_json},
};
use framework::{Array, math};
use serde::Deserialize;
use std::path::PathBuf;

/// A tokenizer that pads every text to one length, for an encoder of so many tokens.
pub(crate) struct Prompts {
    tokenizer: Tokenizer,
    folder: PathBuf,
    pad: u32,
    vocabulary: u32,
    /// Whether a text ends with a token of its own, which is kept when the text is cut.
    ends: bool,
}

/// Texts of one length; observed as `#ids` and `#mask` of their tokenizer.
pub struct Tokens {
    /// `[B, L]`, i32.
    pub ids: Array,
    /// `[B, L]`, booleans: what is no padding.
    pub mask: Array,
}
framework::observed! { Tokens { ids, mask } }

impl Prompts {
    /// The tokenizer of a folder; its encoder has `vocabulary` tokens.
    ///
    /// # Errors
    /// When there is none, or it has no padding, or one that its encoder does not know.
    pub fn open(folder: PathBuf, vocabulary: u32) -> Result<Self> {
        let tokenizer = Tokenizer::from_snapshot(&folder)?;
        let none = || Error::file(&folder, "its `pad_token` is missing, or not among its tokens");
        let pad = tokenizer.pad().ok_or_else(none)?;
        let ends = tokenizer.encode("a", true)?.last() != tokenizer.encode("a", false)?.last();
        let prompts = Self { tokenizer, folder, pad, vocabulary, ends };
        prompts.known(&[pad])?;
        Ok(prompts)
    }

    /// The most tokens that the tokenizer says its model reads, if it says so.
    ///
    /// # Errors
    /// When it says a number that holds no text.
    pub fn longest(&self) -> Result<Option<usize>> {
        #[derive(Deserialize)]
        struct Described {
            /// A float where there is no limit: 10³⁰.
            model_max_length: Option<f64>,
        }
        let path = self.folder.join("tokenizer_config.json");
        let Described { model_max_length } = required_json(&path)?;
        match model_max_length {
            Some(longest) if longest < 2.0 => {
                Err(Error::file(path, format!("`model_max_length`: {longest} tokens hold no text")))
            }
            longest => Ok(longest.map(|longest| longest as usize)),
        }
    }

    /// Refuses ids that the encoder has no row for: they would read foreign memory.
    fn known(&self, ids: &[u32]) -> Result<()> {
        let Some(id) = ids.iter().find(|&&id| id >= self.vocabulary) else { return Ok(()) };
        let problem = format!("token {id} is not among the {} of its encoder: it is another model's", self.vocabulary);
        Err(Error::file(&self.folder, problem))
    }

    /// Texts as `length` tokens each: padded, or cut before the token that ends them.
    ///
    /// # Errors
    /// When a token is not the encoder's.
    pub fn read(&self, prompts: &[String], length: usize) -> Result<Tokens> {
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let mut text = self.tokenizer.encode(prompt, true)?;
            if !self.ends {
                text.truncate(length);
            }
            let (row, seen) = padded(&text, length, self.pad);
            ids.extend(row);
            mask.extend(seen);
        }
        self.known(&ids)?;
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        let shape = [prompts.len() as i32, length as i32];
        Ok(Tokens { ids: math::array(&ids, &shape)?, mask: math::array(&mask, &shape)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    /// Ids of a text that is cut to 3 tokens.
    fn cut(post_processor: Value) -> Vec<i32> {
        let file: Value = serde_json::from_str(include_str!("../../../fixtures/text/tiny-bpe.json")).unwrap();
        let mut tokenizer = file["tokenizer"].clone();
        tokenizer["post_processor"] = post_processor;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let config = json!({"pad_token": "<|endoftext|>"});
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let prompts = Prompts::open(folder.path().to_owned(), 1000).unwrap();
        let whole = prompts.tokenizer.encode("12345", false).unwrap();
        assert_eq!(whole.len(), 5);
        let Tokens { ids, mask } = prompts.read(&["12345".into()], 3).unwrap();
        assert!(math::read::<bool>(&mask).unwrap().into_iter().all(|seen| seen));
        let ids = math::read::<i32>(&ids).unwrap();
        assert_eq!(ids[0], whole[0] as i32);
        ids
    }

    #[test]
    fn a_text_is_cut_before_the_token_that_ends_it() {
        let plain = cut(Value::Null);
        let end = json!({"SpecialToken": {"id": "<|im_end|>", "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = json!({"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}});
        let ended = cut(json!({
            "type": "TemplateProcessing", "single": [text, end], "pair": [text, end], "special_tokens": special,
        }));
        assert_eq!((&plain[..2], ended[2]), (&ended[..2], 2));
        assert!(plain[2] > 2, "{plain:?}");
    }
}
