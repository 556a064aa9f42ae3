//! How byte-level vocabularies cut a text before merging: the table behind `tokenizer.ggml.pre`.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split as SplitRegex, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::{Error, Result};

/// A named way of cutting text. GGUF files carry only the name; the rest is what the tokenizer.json of the models with
/// this name says.
#[derive(Debug)]
pub(super) struct Split {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether text is normalised to NFC first.
    nfc: bool,
    /// Whether a piece that is a token stays whole although no merges lead to it.
    pub ignore_merges: bool,
    /// Whether a text begins with the beginning-of-text token when the file does not say.
    pub add_bos: bool,
}

#[derive(Debug)]
enum Step {
    /// Every digit alone.
    Digits,
    /// GPT-2's expression.
    Gpt2,
    /// The matches of an expression and what lies between them.
    Regex(&'static str),
}

const PLAIN: Split = Split { names: &[], steps: &[], nfc: false, ignore_merges: false, add_bos: false };

const SPLITS: &[Split] = &[
    Split { names: &["gpt-2", "phi-2"], steps: &[Step::Gpt2], ..PLAIN },
    Split { names: &["smollm", "starcoder", "refact"], steps: &[Step::Digits, Step::Gpt2], ..PLAIN },
    Split { names: &["command-r"], steps: &[Step::Digits, Step::Gpt2], nfc: true, ..PLAIN },
    Split {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[Step::Regex(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Split { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], steps: &[Step::Regex(LLAMA3)], ..PLAIN },
    Split { names: &["qwen2", "deepseek-r1-qwen"], steps: &[Step::Regex(QWEN2)], nfc: true, ..PLAIN },
    Split { names: &["qwen35"], steps: &[Step::Regex(QWEN35)], nfc: true, ..PLAIN },
    Split { names: &["tekken"], steps: &[Step::Regex(TEKKEN)], ignore_merges: true, add_bos: true, ..PLAIN },
    Split { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], steps: &[Step::Regex(GPT4O)], ..PLAIN },
    Split {
        names: &["deepseek-coder"],
        steps: &[
            Step::Regex(r"[\r\n]"),
            Step::Regex(r"\s?\p{L}+"),
            Step::Regex(r"\s?\p{P}+"),
            Step::Regex(r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+"),
            Step::Digits,
        ],
        ..PLAIN
    },
    Split {
        names: &["deepseek-v3"],
        steps: &[
            Step::Regex(r"\p{N}{1,3}"),
            Step::Regex(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"),
            Step::Regex(DEEPSEEK3),
        ],
        ..PLAIN
    },
];

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

impl Split {
    /// The way of cutting that `tokenizer.ggml.pre` names.
    ///
    /// # Errors
    /// An unknown name, with the known ones: a wrong split gives wrong ids without any other sign.
    pub fn named(name: &str) -> Result<&'static Self> {
        SPLITS.iter().find(|split| split.names.contains(&name)).ok_or_else(|| {
            Error::tokenizer(format!("unknown pre-tokenizer `{name}` in `tokenizer.ggml.pre`; known are {}", known()))
        })
    }

    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then(|| NFC.into())
    }

    /// The steps, then the byte alphabet.
    ///
    /// # Errors
    /// None for the table's own expressions.
    pub fn pre_tokenizer(&self, add_prefix_space: bool) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        let mut gpt2 = false;
        for step in self.steps {
            match step {
                Step::Digits => steps.push(Digits::new(true).into()),
                Step::Gpt2 => gpt2 = true,
                Step::Regex(regex) => {
                    let pattern = SplitPattern::Regex((*regex).to_owned());
                    steps.push(SplitRegex::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
                }
            }
        }
        steps.push(ByteLevel::new(add_prefix_space, false, gpt2).into());
        Ok(Sequence::new(steps).into())
    }
}

/// The known names, for messages.
pub(super) fn known() -> String {
    let names: Vec<&str> = SPLITS.iter().flat_map(|split| split.names).copied().collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        let split = Split::named(name).unwrap().pre_tokenizer(false).unwrap();
        split.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn every_named_split_covers_every_text() {
        let text =
            "It's 12345 ½ o'clock,\r\n\n  über   naïve/中文かな한국 {\"k\": [1.5]}\t\u{1f600}!!\u{a0}'LL\u{301} ";
        for name in SPLITS.iter().flat_map(|split| split.names) {
            assert_eq!(cut(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn digits_are_alone_in_threes_or_together() {
        assert_eq!(cut("gpt-2", "a 12345"), ["a", " 12345"]);
        assert_eq!(cut("smollm", "a  123"), ["a", "  ", "1", "2", "3"]);
        assert_eq!(cut("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(cut("qwen2", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(cut("deepseek-v3", "a 12345"), ["a", " ", "123", "45"]);
    }

    #[test]
    fn case_contractions_and_scripts_follow_the_model() {
        assert_eq!(cut("gpt-2", "I'LL go"), ["I", "'", "LL", " go"]);
        assert_eq!(cut("llama-bpe", "I'LL go\n\n x"), ["I", "'LL", " go", "\n\n", " x"]);
        assert_eq!(cut("gpt-4o", "fooBar's"), ["foo", "Bar's"]);
        assert_eq!(cut("tekken", "fooBar's"), ["foo", "Bar", "'s"]);
        assert_eq!(cut("deepseek-v3", "x中文かな"), ["x", "中文かな"]);
        assert_eq!(cut("deepseek-coder", "a\n\nb, 12"), ["a", "\n", "\n", "b", ",", " ", "1", "2"]);
    }

    #[test]
    fn an_unknown_name_is_named_beside_the_known_ones() {
        let error = Split::named("nonsense").unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("smollm") && error.contains("tekken"), "{error}");
    }
}
