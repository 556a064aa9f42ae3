//! The tokenizer inside a GGUF file.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use super::split::{self, Split};
use super::template::ChatTemplate;
use super::tokenizer::{Parts, Tokenizer, guard};
use crate::error::{Error, Result};

/// The `tokenizer.*` metadata of a GGUF file, under the names after `tokenizer.ggml.` unless noted.
///
/// Two vocabularies are understood: `gpt2` (byte-level BPE with merges) and `llama` (SentencePiece BPE with scores and
/// byte fallback). Ids come out as from the model's own tokenizer.json.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `model`: the kind of vocabulary.
    pub model: String,
    /// `pre`: how a byte-level vocabulary cuts text.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id, or empty: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `merges`, best first: two tokens and a space between them.
    pub merges: Vec<String>,
    /// `scores`, by id, or empty: the higher, the sooner two pieces are merged into this token.
    pub scores: Vec<f32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: end of message, before the answer of a tool.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.tool_use`.
    pub tool_template: Option<String>,
}

/// Control tokens that end a turn whatever `eos_token_id` says: converters often recorded only one of several.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// SentencePiece's visible space.
const SPACE: &str = "▁";
/// Longer tokens have no merges: no trained vocabulary holds one, and a file could make the search for them quadratic.
const LONGEST_MERGED: usize = 1024;

impl TryFrom<GgufTokenizer> for Tokenizer {
    type Error = Error;

    /// Builds the tokenizer.
    ///
    /// # Errors
    /// Another kind of vocabulary, an unknown `pre`, lists of different lengths, a token that stands twice, a merge of
    /// unknown tokens, an id beyond the vocabulary.
    fn try_from(gguf: GgufTokenizer) -> Result<Self> {
        gguf.check()?;
        let (mut tokenizer, add_bos) = match gguf.model.as_str() {
            "gpt2" => gguf.byte_level()?,
            "llama" => (gguf.sentencepiece()?, true),
            other => {
                return Err(Error::tokenizer(format!(
                    "`tokenizer.ggml.model` is `{other}`; this reads `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE)"
                )));
            }
        };
        guard(|| tokenizer.add_tokens(gguf.added()))?;
        let around = |add: bool, id: Option<u32>| id.filter(|_| add).into_iter().collect();
        Ok(Parts {
            tokenizer,
            prefix: around(gguf.add_bos.unwrap_or(add_bos), gguf.bos),
            suffix: around(gguf.add_eos.unwrap_or(false), gguf.eos),
            bos: gguf.bos,
            pad: gguf.pad,
            eos: gguf.ends(),
            template: gguf.template(),
        }
        .into())
    }
}

impl GgufTokenizer {
    /// Refuses lists that do not belong together.
    fn check(&self) -> Result<()> {
        let count = self.tokens.len();
        for (name, length) in [("token_type", self.types.len()), ("scores", self.scores.len())] {
            if length != 0 && length != count {
                return Err(Error::tokenizer(format!(
                    "`tokenizer.ggml.{name}` has {length} entries for {count} tokens"
                )));
            }
        }
        let ids = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unknown", self.unk),
            ("padding", self.pad),
        ];
        for (name, id) in ids {
            if let Some(id) = id
                && self.text(id).is_none()
            {
                return Err(Error::tokenizer(format!(
                    "`tokenizer.ggml.{name}_token_id` is {id}, but there are {count} tokens"
                )));
            }
        }
        Ok(())
    }

    /// Byte-level BPE, and whether a text begins with `bos` by default.
    fn byte_level(&self) -> Result<(tokenizers::Tokenizer, bool)> {
        let Some(pre) = &self.pre else {
            return Err(Error::tokenizer(format!(
                "`tokenizer.ggml.pre` is missing: the file does not say how text is split (convert the model again with a \
                 current converter); known are {}",
                split::known()
            )));
        };
        let split = Split::named(pre)?;
        let merges = self.merges.iter().map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(Error::tokenizer(format!("merge `{merge}` is not two tokens"))),
        });
        let model = self.bpe(merges.collect::<Result<_>>()?)?.ignore_merges(split.ignore_merges);
        let tokenizer = guard(|| {
            let mut tokenizer = tokenizers::Tokenizer::new(model.build()?);
            tokenizer.with_normalizer(split.normalizer())?;
            tokenizer.with_pre_tokenizer(Some(split.pre_tokenizer(self.add_space_prefix.unwrap_or(false))?));
            tokenizer.with_decoder(Some(ByteLevel::default()));
            Ok(tokenizer)
        })?;
        Ok((tokenizer, split.add_bos))
    }

    /// SentencePiece BPE: spaces are visible, a text begins with one, unknown characters are bytes.
    fn sentencepiece(&self) -> Result<tokenizers::Tokenizer> {
        let mut model = self.bpe(self.merges_by_score()?)?.fuse_unk(true).byte_fallback(true);
        if let Some(unk) = self.unk.and_then(|id| self.text(id)) {
            model = model.unk_token(unk.to_owned());
        }
        let prefix = self.add_space_prefix.unwrap_or(true);
        guard(|| {
            let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
            let mut decoders: Vec<DecoderWrapper> =
                vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
            if prefix {
                normalizers.push(Prepend::new(SPACE.to_owned()).into());
                decoders.push(Strip::new(' ', 1, 0).into());
            }
            normalizers.push(Replace::new(" ", SPACE)?.into());
            let mut tokenizer = tokenizers::Tokenizer::new(model.build()?);
            tokenizer.with_normalizer(Some(Normalizers::new(normalizers)))?;
            tokenizer.with_decoder(Some(Decoders::new(decoders)));
            Ok(tokenizer)
        })
    }

    fn bpe(&self, merges: Merges) -> Result<tokenizers::models::bpe::BpeBuilder> {
        let mut seen = HashMap::with_capacity(self.tokens.len());
        for (id, token) in (0u32..).zip(&self.tokens) {
            if let Some(first) = seen.insert(token.as_str(), id) {
                return Err(Error::tokenizer(format!("token `{token}` has the ids {first} and {id}")));
            }
        }
        let unknown = merges.iter().find_map(|(left, right)| {
            let result = format!("{left}{right}");
            [left, right, &result].into_iter().find(|token| !seen.contains_key(token.as_str())).cloned()
        });
        if let Some(token) = unknown {
            let problem = format!(
                "`tokenizer.ggml.merges` names `{token}`, which is not among the tokens; convert the model again"
            );
            return Err(Error::tokenizer(problem));
        }
        let vocab = seen.into_iter().map(|(token, id)| (token.to_owned(), id));
        let vocab: tokenizers::models::bpe::Vocab = vocab.collect();
        Ok(BPE::builder().vocab_and_merges(vocab, merges))
    }

    /// Every way to join two tokens into a third, in the order in which SentencePiece would: by falling score of the
    /// result. Its unknown, control and byte pieces are not made of others.
    fn merges_by_score(&self) -> Result<Merges> {
        if self.scores.is_empty() {
            return Err(Error::tokenizer("`tokenizer.ggml.scores` is missing: the order of merges is unknown"));
        }
        let pieces = || {
            let kinds = self.types.iter().copied().chain(std::iter::repeat(1));
            let entries = self.tokens.iter().zip(&self.scores).zip(kinds);
            let made = entries.filter(|(_, kind)| ![UNKNOWN, CONTROL, BYTE].contains(kind));
            made.map(|((token, score), _)| (token.as_str(), *score))
        };
        let known: BTreeMap<&str, usize> = pieces().map(|(token, _)| token).zip(0..).collect();
        let mut merges = Vec::new();
        for (token, score) in pieces().filter(|(token, _)| token.len() <= LONGEST_MERGED) {
            let mut splits = Vec::new();
            for (middle, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(middle);
                if let (Some(first), Some(second)) = (known.get(left), known.get(right)) {
                    splits.push((*first, *second, left, right));
                }
            }
            splits.sort_unstable();
            merges.extend(splits.into_iter().map(|(_, _, left, right)| (score, left, right)));
        }
        merges.sort_by(|(a, left_a, right_a), (b, left_b, right_b)| {
            let lengths = |left: &str, right: &str| Reverse((left.chars().count(), right.chars().count()));
            b.total_cmp(a).then_with(|| lengths(left_a, right_a).cmp(&lengths(left_b, right_b)))
        });
        let merges = merges.into_iter();
        Ok(merges.map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
    }

    /// Tokens that are matched in the text before anything else: control tokens and the unknown one, which a decoder can
    /// skip, and user-defined ones.
    fn added(&self) -> Vec<AddedToken> {
        let tokens = self.tokens.iter().zip(&self.types);
        let added = tokens.filter(|(_, kind)| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
        added.map(|(token, kind)| AddedToken::from(token.as_str(), *kind != USER_DEFINED).normalized(false)).collect()
    }

    fn ends(&self) -> BTreeSet<u32> {
        let tokens = (0u32..).zip(self.tokens.iter().zip(&self.types));
        let by_name = tokens.filter(|(_, (token, kind))| **kind == CONTROL && TURN_ENDS.contains(&token.as_str()));
        let by_key = [self.eos, self.eot, self.eom].into_iter().flatten();
        by_name.map(|(id, _)| id).chain(by_key).collect()
    }

    fn template(&self) -> Option<ChatTemplate> {
        let named = [("default", &self.chat_template), ("tool_use", &self.tool_template)];
        let named = named.into_iter().filter_map(|(name, source)| Some((name.to_owned(), source.clone()?)));
        let special =
            [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unk), ("pad_token", self.pad)];
        let special: Map<String, Value> =
            special.into_iter().filter_map(|(name, id)| Some((name.to_owned(), self.text(id?)?.into()))).collect();
        ChatTemplate::named(named, special)
    }

    fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{byte_level, byte_level_gguf, field, sentencepiece, sentencepiece_gguf, tokenizer};
    use super::*;
    use crate::text::Message;

    fn agrees(tokenizer: &Tokenizer, file: &Value, skipped: &[&str]) {
        let mut compared = 0;
        for case in file["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            if skipped.iter().any(|special| text.contains(special)) {
                continue;
            }
            assert_eq!(tokenizer.encode(text, false).unwrap(), field::<Vec<u32>>(case, "ids"), "{text:?}");
            compared += 1;
        }
        assert!(compared > 15);
        for case in file["decodings"].as_array().unwrap() {
            let ids: Vec<u32> = field(case, "ids");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["all"], "{ids:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["text"], "{ids:?}");
        }
    }

    #[test]
    fn byte_level_ids_and_texts_are_those_of_the_tokenizers_package() {
        agrees(&tokenizer(byte_level_gguf()), &byte_level(), &[]);
    }

    #[test]
    fn sentencepiece_ids_are_those_of_sentencepiece() {
        agrees(&tokenizer(sentencepiece_gguf()), &sentencepiece(), &[]);
    }

    #[test]
    fn special_tokens_are_matched_in_the_text() {
        let bpe = tokenizer(byte_level_gguf());
        let ids = bpe.encode("<|im_start|>the<think> <|im_end|>", false).unwrap();
        assert_eq!(ids.first(), Some(&1));
        assert_eq!(ids.last(), Some(&2));
        assert_eq!(bpe.decode(&ids, true).unwrap(), "the<think> ");
        assert_eq!(bpe.id("<think>").and_then(|id| bpe.token(id)).as_deref(), Some("<think>"));

        let spm = tokenizer(sentencepiece_gguf());
        let ids = spm.encode("<s>the<mask>", false).unwrap();
        assert_eq!((ids.first(), ids.last()), (Some(&1), spm.id("<mask>").as_ref()));
        assert_eq!(spm.decode(&ids, true).unwrap(), "the<mask>");
        // Bytes have pieces, but a text that spells one out is a text.
        let ids = spm.encode("<0x41>", false).unwrap();
        assert!(ids.len() > 3, "{ids:?}");
        assert_eq!(spm.decode(&ids, false).unwrap(), "<0x41>");
    }

    #[test]
    fn a_text_begins_and_ends_as_the_file_says() {
        let ids = |gguf: GgufTokenizer| tokenizer(gguf).encode("the", true).unwrap();
        let plain = tokenizer(byte_level_gguf()).encode("the", false).unwrap();
        assert_eq!(ids(byte_level_gguf()), plain);
        let around = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..byte_level_gguf() };
        assert_eq!(ids(around), [&[1][..], &plain, &[2]].concat());
        // Llama 3 begins with `bos` unless told otherwise, Llama 2 as well, neither without one.
        let llama3 = GgufTokenizer { pre: Some("llama-bpe".into()), ..byte_level_gguf() };
        assert_eq!(ids(llama3.clone()).first(), Some(&1));
        assert_eq!(ids(GgufTokenizer { add_bos: Some(false), ..llama3.clone() }), plain);
        assert_eq!(ids(GgufTokenizer { bos: None, ..llama3 }), plain);
        assert_eq!(ids(sentencepiece_gguf()).first(), Some(&1));
    }

    #[test]
    fn a_sentencepiece_text_begins_with_a_space_unless_the_file_says_no() {
        let spm = tokenizer(sentencepiece_gguf());
        assert_eq!(spm.token(*spm.encode("the", false).unwrap().first().unwrap()).unwrap(), "▁the");
        let bare = tokenizer(GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece_gguf() });
        let ids = bare.encode("the fox", false).unwrap();
        assert_eq!(bare.decode(&ids, false).unwrap(), "the fox");
        assert_ne!(bare.token(*ids.first().unwrap()).unwrap(), "▁the");
        let spaced = bare.encode(" the", false).unwrap();
        assert_eq!(bare.decode(&spaced, false).unwrap(), " the");
    }

    #[test]
    fn every_end_of_turn_ends_the_text() {
        let bpe = tokenizer(byte_level_gguf());
        assert_eq!(bpe.eos_ids().iter().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(bpe.bos(), Some(1));
        let other =
            tokenizer(GgufTokenizer { eos: None, eot: Some(7), eom: Some(9), types: vec![], ..byte_level_gguf() });
        assert_eq!(other.eos_ids().iter().copied().collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn templates_know_the_special_tokens() {
        let gguf = GgufTokenizer {
            chat_template: Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}".into()),
            tool_template: Some("{{ tools | length }}".into()),
            ..byte_level_gguf()
        };
        let bpe = tokenizer(gguf);
        let template = bpe.chat_template().unwrap();
        let hi = [Message::user("hi")];
        assert_eq!(template.render(&hi, None, false, &Map::new()).unwrap(), "<|im_start|>hi<|im_end|>");
        let tools = serde_json::json!([{}, {}]);
        assert_eq!(template.render(&hi, Some(&tools), false, &Map::new()).unwrap(), "2");
        assert!(tokenizer(byte_level_gguf()).chat_template().is_none());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let refused = |gguf: GgufTokenizer| Tokenizer::try_from(gguf).unwrap_err().to_string();
        let bpe = byte_level_gguf;
        let mut twice = bpe();
        twice.tokens[300] = twice.tokens[299].clone();
        let cases = [
            (GgufTokenizer { model: "t5".into(), ..bpe() }, vec!["`t5`", "gpt2", "llama"]),
            (GgufTokenizer { pre: Some("new".into()), ..bpe() }, vec!["`new`", "smollm"]),
            (GgufTokenizer { pre: None, ..bpe() }, vec!["tokenizer.ggml.pre", "missing", "smollm"]),
            (GgufTokenizer { types: vec![1; 3], ..bpe() }, vec!["token_type", "3 entries"]),
            (GgufTokenizer { scores: vec![1.0; 3], ..bpe() }, vec!["scores", "3 entries"]),
            (GgufTokenizer { eos: Some(4_000_000), ..bpe() }, vec!["eos_token_id", "4000000"]),
            (GgufTokenizer { merges: vec!["a b c".into()], ..bpe() }, vec!["`a b c`"]),
            (GgufTokenizer { merges: vec!["ab".into()], ..bpe() }, vec!["`ab`"]),
            (GgufTokenizer { merges: vec!["a nowhere".into()], ..bpe() }, vec!["nowhere"]),
            (twice, vec!["has the ids 299 and 300"]),
            (GgufTokenizer { scores: vec![], ..sentencepiece_gguf() }, vec!["scores", "missing"]),
        ];
        for (gguf, words) in cases {
            let message = refused(gguf);
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn a_hostile_token_does_not_make_the_search_for_merges_quadratic() {
        let mut gguf = sentencepiece_gguf();
        gguf.tokens.push("a".repeat(4 << 20));
        gguf.types.push(1);
        gguf.scores.push(f32::NAN);
        assert_eq!(tokenizer(gguf).encode("a", false).unwrap().len(), 1);
    }
}
