//! A tokenizer learned from captions: byte-level byte-pair encoding (<https://arxiv.org/abs/1508.07909>, on bytes as GPT-2
//! has it).
//!
//! A text is normalised to NFKC, lower-cased, and given a space before it, so that a word has the same tokens wherever it
//! stands; it ends with a token of its own. Every byte is a token, so that there is no unknown one.

use crate::{Error, Result, text::guard};
use framework::Draft;
use serde_json::{Value, json};
use std::{io::Write, path::Path};
use tokenizers::{
    AddedToken, Tokenizer,
    models::{TrainerWrapper, bpe::BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The token that texts are padded with: id 0.
pub const PAD: &str = "<|pad|>";
/// The token that ends a text: id 1.
pub const END: &str = "<|end|>";
/// A byte each, and the two special ones.
const FEWEST: usize = 258;
const MOST: usize = 1 << 20;
/// How often two tokens must stand together to become one: what occurs once is no pattern.
const OFTEN: u64 = 2;

/// A trained tokenizer, to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Bpe {
    tokenizer: String,
    config: Value,
    vocabulary: usize,
}

/// Learns at most `vocabulary` tokens from texts. The same texts, in whatever order, give the same tokenizer; from few
/// texts there are fewer tokens.
///
/// ```
/// use zoo::{data::bpe, text::Tokenizer};
/// let folder = tempfile::tempdir()?;
/// bpe::train(["a red heart", "a red car", "A blue heart"].into_iter(), 300)?.write(folder.path())?;
/// let tokenizer = Tokenizer::from_snapshot(folder.path())?;
/// let ids = tokenizer.encode("Red heart", true)?;
/// assert_eq!(ids.iter().filter_map(|&id| tokenizer.token(id)).collect::<Vec<_>>(), ["Ġred", "Ġheart", "<|end|>"]);
/// # Ok::<(), zoo::Error>(())
/// ```
///
/// # Errors
/// When there is no room for all bytes, or for more than 2²⁰ tokens.
pub fn train<'t>(texts: impl Iterator<Item = &'t str> + Send, vocabulary: usize) -> Result<Bpe> {
    if !(FEWEST..=MOST).contains(&vocabulary) {
        let problem = format!("{vocabulary} tokens; there must be from {FEWEST} (every byte and two more) to {MOST}");
        return Err(Error::argument("vocabulary", problem));
    }
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(OFTEN)
        .special_tokens([PAD, END].map(|token| AddedToken::from(token, true)).into())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    guard(|| {
        let mut tokenizer = Tokenizer::from_bytes(untrained().to_string())?;
        tokenizer.train(&mut TrainerWrapper::from(trainer), texts)?;
        let vocabulary = tokenizer.get_vocab_size(true);
        Ok(Bpe { tokenizer: tokenizer.to_string(false)?, config: config(), vocabulary })
    })
}

/// How a text becomes bytes, and what ends it.
fn untrained() -> Value {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let [a, b] = ["A", "B"].map(|id| json!({"Sequence": {"id": id, "type_id": 0}}));
    let end = json!({"SpecialToken": {"id": END, "type_id": 0}});
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [a, end],
            "pair": [a, end, b, end],
            "special_tokens": {END: {"id": END, "ids": [1], "tokens": [END]}},
        },
        "decoder": bytes,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    })
}

/// What transformers has to know.
fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "padding_side": "right",
        "clean_up_tokenization_spaces": false,
    })
}

impl Bpe {
    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which [`crate::text::Tokenizer::from_snapshot`] and
    /// transformers read, into a folder that exists.
    ///
    /// # Errors
    /// When the folder cannot be written. No file is there by half.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let config = format!("{:#}\n", self.config);
        for (name, text) in [("tokenizer.json", &self.tokenizer), ("tokenizer_config.json", &config)] {
            let path = folder.join(name);
            let write = || {
                let mut draft = Draft::of(&path)?;
                draft.file().write_all(text.as_bytes())?;
                draft.publish()
            };
            write().map_err(|error| framework::Error::io(&path, error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{self, padded};
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use std::{fs, sync::LazyLock};
    use tempfile::tempdir;

    static GOLDEN: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(include_str!("../../../fixtures/text/trained-bpe.json")).unwrap());

    static LEARNED: LazyLock<text::Tokenizer> = LazyLock::new(|| {
        let folder = tempdir().unwrap();
        learned().write(folder.path()).unwrap();
        text::Tokenizer::from_snapshot(folder.path()).unwrap()
    });

    fn field<T: DeserializeOwned>(value: &Value, key: &str) -> T {
        T::deserialize(&value[key]).unwrap()
    }

    fn learned() -> Bpe {
        let captions = GOLDEN["captions"].as_array().unwrap();
        train(captions.iter().map(|text| text.as_str().unwrap()), field(&GOLDEN, "vocabulary")).unwrap()
    }

    #[test]
    fn the_files_are_those_that_the_tokenizers_package_trains() {
        let folder = tempdir().unwrap();
        let bpe = learned();
        bpe.write(folder.path()).unwrap();
        let file = |name| -> Value { serde_json::from_slice(&fs::read(folder.path().join(name)).unwrap()).unwrap() };
        assert_eq!(file("tokenizer.json"), GOLDEN["tokenizer"]);
        assert_eq!(file("tokenizer_config.json"), GOLDEN["config"]);
        assert_eq!(bpe.vocabulary(), LEARNED.vocab_size());
        assert!(bpe.write(&folder.path().join("missing")).unwrap_err().to_string().contains("tokenizer.json"));
    }

    #[test]
    fn ids_are_those_of_transformers() {
        let pad = LEARNED.pad().unwrap();
        assert_eq!((pad, LEARNED.id(PAD), LEARNED.id(END)), (0, Some(0), Some(1)));
        assert_eq!(LEARNED.eos_ids().iter().copied().collect::<Vec<_>>(), [1]);
        for case in GOLDEN["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = LEARNED.encode(text, true).unwrap();
            assert_eq!(ids, field::<Vec<u32>>(case, "ids"), "{text:?}");
            assert_eq!(LEARNED.encode(text, false).unwrap(), field::<Vec<u32>>(case, "bare"), "{text:?}");
            assert_eq!(LEARNED.decode(&ids, true).unwrap(), case["decoded"], "{text:?}");
            let (fixed, mask) = (field::<Vec<u32>>(case, "padded"), field::<Vec<u8>>(case, "mask"));
            assert_eq!(padded(&ids, fixed.len(), pad), (fixed, mask.iter().map(|&seen| seen == 1).collect()));
        }
    }

    #[test]
    fn the_same_texts_give_the_same_file() {
        let words = ["red", "heart", "hearts", "reddish", "hear", "art", "smart", "cart", "carts", "start", "earth"];
        let texts: Vec<String> =
            (0..600).map(|i| format!("{} {}{}", words[i % 11], words[i / 11 % 11], words[i * 7 % 5])).collect();
        let first = train(texts.iter().map(String::as_str), 500).unwrap();
        assert!(first.vocabulary() > 300);
        for _ in 0..5 {
            assert_eq!(train(texts.iter().rev().map(String::as_str), 500).unwrap(), first);
        }
    }

    #[test]
    fn few_texts_give_few_tokens_and_few_tokens_are_refused() {
        assert_eq!(train(["heart"].into_iter(), 1000).unwrap().vocabulary(), 258);
        assert_eq!(train([].into_iter(), 258).unwrap().vocabulary(), 258);
        for vocabulary in [0, 257, usize::MAX] {
            let error = train(["heart"].into_iter(), vocabulary).unwrap_err().to_string();
            assert!(error.contains("`vocabulary`") && error.contains("258"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_tokens_that_spell_it(text in "\\PC*|(?s).*") {
            let ids = LEARNED.encode(&text, true).unwrap();
            prop_assert_eq!(ids.last(), Some(&1));
            prop_assert!(ids.iter().all(|&id| LEARNED.token(id).is_some()));
            let back = LEARNED.decode(&ids, false).unwrap();
            prop_assert_eq!(back.contains('\u{fffd}'), text.contains('\u{fffd}'), "{}", back);
        }
    }
}
