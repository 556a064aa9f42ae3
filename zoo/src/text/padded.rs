//! Texts of one length, as encoders of prompts take them.

/// `length` ids and which of them are the text's: `ids` with `pad` after them, or without those before the last, which
/// ends a text, when they are too many.
///
/// ```
/// use zoo::text::padded;
/// let (begin, end, pad) = (7, 8, 0);
/// assert_eq!(padded(&[begin, 1, end], 4, pad), (vec![begin, 1, end, pad], vec![true, true, true, false]));
/// assert_eq!(padded(&[begin, 1, 2, 3, end], 4, pad), (vec![begin, 1, 2, end], vec![true; 4]));
/// ```
pub fn padded(ids: &[u32], length: usize, pad: u32) -> (Vec<u32>, Vec<bool>) {
    let taken = ids.len().min(length);
    let (last, rest) = ids.split_last().map_or((None, ids), |(last, rest)| (Some(last), rest));
    let text = rest.iter().take(length.saturating_sub(1)).chain(last).take(length).copied();
    let ids = text.chain(std::iter::repeat_n(pad, length - taken)).collect();
    (ids, (0..length).map(|place| place < taken).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Tokenizer, fixture::field};
    use serde_json::{Value, json};
    use std::fs;

    fn load(description: &Value) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), description.to_string()).unwrap();
        Tokenizer::from_snapshot(folder.path()).unwrap()
    }

    fn check(tokenizer: &Tokenizer, texts: &Value, pad: u32) {
        for golden in texts.as_array().unwrap() {
            let text = golden["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), field::<Vec<u32>>(golden, "bare"), "{text}");
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(ids, field::<Vec<u32>>(golden, "ids"), "{text}");
            let (fixed, mask) = (field::<Vec<u32>>(golden, "padded"), field::<Vec<u8>>(golden, "mask"));
            let mask = mask.into_iter().map(|seen| seen == 1).collect();
            assert_eq!(padded(&ids, fixed.len(), pad), (fixed, mask), "{text}");
        }
    }

    #[test]
    fn prompts_are_those_of_the_tokenizers_package() {
        for file in
            [include_str!("../../../fixtures/text/tiny-t5.json"), include_str!("../../../fixtures/text/tiny-clip.json")]
        {
            let file: Value = serde_json::from_str(file).unwrap();
            let pad = field(&file, "pad");
            check(&load(&file["tokenizer"]), &file["texts"], pad);
            for variant in file["variants"].as_array().unwrap() {
                let mut description = file["tokenizer"].clone();
                for (key, value) in variant["tokenizer"].as_object().unwrap() {
                    description[key] = value.clone();
                }
                check(&load(&description), &variant["texts"], pad);
            }
        }
    }

    #[test]
    fn a_vocabulary_and_merges_make_the_tokenizer_that_transformers_makes() {
        let file: Value = serde_json::from_str(include_str!("../../../fixtures/text/tiny-clip.json")).unwrap();
        let (model, golden) = (&file["tokenizer"]["model"], &file["files"]);
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        write("tokenizer_config.json", golden["config"].to_string());
        let missing = Tokenizer::from_snapshot(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("vocab.json"), "{missing}");
        write("vocab.json", model["vocab"].to_string());
        let pair = |pair: &Value| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        let pairs: String = model["merges"].as_array().unwrap().iter().map(pair).collect();
        write("merges.txt", format!("#version: 0.2\n{pairs}"));
        let tokenizer = Tokenizer::from_snapshot(folder.path()).unwrap();
        check(&tokenizer, &golden["texts"], field(golden, "pad"));
        assert_eq!(tokenizer.bos(), tokenizer.id("<|startoftext|>"));

        for (text, problem) in [("a\n", "`a`"), ("nowhere anywhere\n", "nowhere")] {
            write("merges.txt", text.to_owned());
            let error = Tokenizer::from_snapshot(folder.path()).unwrap_err().to_string();
            assert!(error.contains("merges.txt") && error.contains(problem), "{error}");
        }
        write("merges.txt", String::new());
        write("vocab.json", json!({"a": 0}).to_string());
        let error = Tokenizer::from_snapshot(folder.path()).unwrap_err().to_string();
        assert!(error.contains("<|startoftext|>"), "{error}");
    }

    #[test]
    fn nothing_is_padded_and_nothing_fits() {
        assert_eq!(padded(&[], 2, 9), (vec![9, 9], vec![false, false]));
        assert_eq!(padded(&[1, 2], 0, 9), (vec![], vec![]));
        assert_eq!(padded(&[1, 2, 3], 1, 9), (vec![3], vec![true]));
    }
}
