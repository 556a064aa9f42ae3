//! Streamed detokenisation.

use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder, DecoderWrapper};

use super::bytes::{Utf8, byte_of};
use super::tokenizer::{Tokenizer, guard};
use crate::error::Result;

/// Text of ids as they are generated: the concatenation of all chunks is exactly
/// [`Tokenizer::decode`] of all ids, and no chunk ends within a character.
///
/// The cost of an id does not depend on how many came before. Text is held back only as long as a later id can change
/// it: an incomplete character, and for vocabularies with byte fallback a whole run of bytes, because one invalid byte
/// turns each byte of its run into U+FFFD. A decoder that no generating model uses (WordPiece, CTC, suffix BPE) yields
/// all of its text at the end.
///
/// ```
/// # fn run(tokenizer: &zoo::text::Tokenizer, ids: &[u32]) -> zoo::Result<()> {
/// let mut stream = tokenizer.stream(true);
/// for id in ids {
///     if let Some(text) = stream.push(*id)? {
///         print!("{text}");
///     }
/// }
/// print!("{}", stream.finish()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stream {
    tokenizer: Tokenizer,
    skip_special: bool,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Stages(Vec<Stage>),
    /// Pieces kept for a decoder that needs all of them.
    Whole(Vec<String>),
}

impl Stream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let plan = match tokenizer.decoder().and_then(stages) {
            Some(stages) => Plan::Stages(stages),
            None => Plan::Whole(Vec::new()),
        };
        Self { tokenizer, skip_special, plan }
    }

    /// The text that is certain after one more id, if any.
    ///
    /// # Errors
    /// The decoder of a malformed file.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let Some(piece) = self.tokenizer.piece(id, self.skip_special) else {
            return Ok(None);
        };
        let text = match &mut self.plan {
            Plan::Whole(pieces) => {
                pieces.push(piece);
                return Ok(None);
            }
            Plan::Stages(stages) => {
                let mut pieces = vec![piece];
                for stage in stages {
                    pieces = stage.push(pieces)?;
                }
                pieces.concat()
            }
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the text: returns the rest of it, which may be empty.
    ///
    /// # Errors
    /// The decoder of a malformed file.
    pub fn finish(self) -> Result<String> {
        let stages = match self.plan {
            Plan::Whole(pieces) => return self.tokenizer.join(pieces),
            Plan::Stages(stages) => stages,
        };
        let mut pieces = Vec::new();
        for mut stage in stages {
            pieces = stage.push(pieces)?;
            pieces.extend(stage.finish());
        }
        Ok(pieces.concat())
    }
}

/// The bytes that a piece adds to a text that has begun, for decoders that treat pieces one by one.
pub(super) struct Spelling(Vec<Stage>);

impl Spelling {
    /// None for a decoder that needs all pieces at once.
    pub fn of(decoder: &DecoderWrapper) -> Option<Self> {
        let mut stages = stages(decoder)?;
        for stage in &mut stages {
            if let Stage::First { begun, .. } = stage {
                *begun = true;
            }
        }
        Some(Self(stages))
    }

    /// # Errors
    /// The decoder of a malformed file.
    pub fn bytes(&mut self, piece: String) -> Result<Vec<u8>> {
        let mut pieces = vec![piece];
        for stage in &mut self.0 {
            match stage {
                Stage::Each(_) | Stage::First { .. } => pieces = stage.push(pieces)?,
                Stage::ByteLevel(_) => {
                    let text = pieces.concat();
                    return Ok(text.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| text.into_bytes()));
                }
                Stage::ByteFallback(_) => {
                    if let Some(byte) = fallback_byte(&pieces.concat()) {
                        return Ok(vec![byte]);
                    }
                }
                // What begins a text was stripped when it began.
                Stage::StripText { .. } => {}
            }
        }
        Ok(pieces.concat().into_bytes())
    }
}

/// One step of a decoder, with what it has to remember between pieces.
#[derive(Debug)]
enum Stage {
    /// Acts on each piece alone.
    Each(DecoderWrapper),
    /// Treats the first piece differently.
    First { decoder: DecoderWrapper, begun: bool },
    /// Pieces spelled in the byte alphabet.
    ByteLevel(Utf8),
    /// Pieces like `<0xE2>`: the bytes of the current run.
    ByteFallback(Vec<u8>),
    /// Removes up to `left` characters at the beginning of the text.
    StripText { content: char, left: usize },
}

/// The stages of a decoder, or none when it needs all pieces at once.
fn stages(decoder: &DecoderWrapper) -> Option<Vec<Stage>> {
    let steps = match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders(),
        one => std::slice::from_ref(one),
    };
    // From here on a decoder is given the whole text as one piece.
    let mut joined = false;
    let mut stages = Vec::new();
    for step in steps {
        stages.push(match step {
            DecoderWrapper::Fuse(_) => {
                joined = true;
                continue;
            }
            DecoderWrapper::Strip(Strip { stop: 1.., .. }) => return None,
            DecoderWrapper::Strip(Strip { content, start, .. }) if joined => {
                Stage::StripText { content: *content, left: *start }
            }
            _ if joined => return None,
            DecoderWrapper::ByteLevel(_) => {
                joined = true;
                Stage::ByteLevel(Utf8::default())
            }
            DecoderWrapper::ByteFallback(_) => Stage::ByteFallback(Vec::new()),
            DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) => Stage::Each(step.clone()),
            DecoderWrapper::Metaspace(_) => Stage::First { decoder: step.clone(), begun: false },
            _ => return None,
        });
    }
    Some(stages)
}

impl Stage {
    fn push(&mut self, pieces: Vec<String>) -> Result<Vec<String>> {
        let mut output = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match self {
                Self::Each(decoder) => output.extend(guard(|| decoder.decode_chain(vec![piece]))?),
                Self::First { decoder, begun } => {
                    // A piece that is not the first gets an empty one before it.
                    let chain = if *begun { vec![String::new(), piece] } else { vec![piece] };
                    *begun = true;
                    output.extend(guard(|| decoder.decode_chain(chain))?);
                }
                Self::ByteLevel(utf8) => {
                    let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
                    // An added token is not spelled in the byte alphabet.
                    output.push(utf8.push(bytes.unwrap_or_else(|| piece.into_bytes())));
                }
                Self::ByteFallback(run) => match fallback_byte(&piece) {
                    Some(byte) => run.push(byte),
                    None => {
                        output.extend(end_of_run(run));
                        output.push(piece);
                    }
                },
                Self::StripText { content, left } => output.push(strip(piece, *content, left)),
            }
        }
        Ok(output)
    }

    fn finish(&mut self) -> Option<String> {
        match self {
            Self::ByteLevel(utf8) => Some(utf8.finish()),
            Self::ByteFallback(run) => end_of_run(run),
            Self::Each(_) | Self::First { .. } | Self::StripText { .. } => None,
        }
    }
}

fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The text of a run of bytes, if there is one: U+FFFD for each byte unless all of it is UTF-8.
fn end_of_run(run: &mut Vec<u8>) -> Option<String> {
    let run = std::mem::take(run);
    let length = run.len();
    let text = String::from_utf8(run).unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string().repeat(length));
    (!text.is_empty()).then_some(text)
}

fn strip(piece: String, content: char, left: &mut usize) -> String {
    let mut rest = piece.as_str();
    while *left > 0 && !rest.is_empty() {
        match rest.strip_prefix(content) {
            Some(shorter) => {
                rest = shorter;
                *left -= 1;
            }
            None => *left = 0,
        }
    }
    rest.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{byte_level, byte_level_gguf, field, sentencepiece, sentencepiece_gguf, tokenizer};
    use super::*;
    use crate::text::GgufTokenizer;
    use proptest::prelude::*;

    fn chunks(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut stream = tokenizer.stream(skip_special);
        let mut chunks: Vec<String> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
        chunks.push(stream.finish().unwrap());
        chunks
    }

    #[test]
    fn the_bytes_of_tokens_make_the_text() {
        for tokenizer in [byte_level_tokenizer(), tokenizer(sentencepiece_gguf())] {
            let bytes = tokenizer.token_bytes().unwrap();
            for text in ["the quick  brown fox", "naïve café", "中文 한국어 👋🏽", "a\n\tb <think>"] {
                let ids = tokenizer.encode(text, false).unwrap();
                let spelled: Vec<u8> = ids.iter().flat_map(|&id| bytes[id as usize].clone().unwrap()).collect();
                let spelled = String::from_utf8(spelled).unwrap();
                assert_eq!(spelled.trim_start(), text, "{ids:?}");
            }
            for special in tokenizer.eos_ids() {
                assert!(bytes[*special as usize].is_none());
            }
        }
    }

    fn byte_level_tokenizer() -> Tokenizer {
        tokenizer(byte_level_gguf())
    }

    fn agrees(tokenizer: &Tokenizer, ids: &[u32]) {
        for skip_special in [false, true] {
            let whole = tokenizer.decode(ids, skip_special).unwrap();
            assert_eq!(chunks(tokenizer, ids, skip_special).concat(), whole, "{ids:?}");
        }
    }

    #[test]
    fn chunks_concatenate_to_the_golden_texts() {
        for (tokenizer, file) in
            [(tokenizer(byte_level_gguf()), byte_level()), (tokenizer(sentencepiece_gguf()), sentencepiece())]
        {
            for case in file["decodings"].as_array().unwrap() {
                let ids: Vec<u32> = field(case, "ids");
                assert_eq!(chunks(&tokenizer, &ids, false).concat(), case["all"], "{ids:?}");
                assert_eq!(chunks(&tokenizer, &ids, true).concat(), case["text"], "{ids:?}");
            }
        }
    }

    #[test]
    fn a_character_appears_when_its_last_byte_does() {
        let bpe = tokenizer(byte_level_gguf());
        let ids = bpe.encode("a😀b", false).unwrap();
        let mut stream = bpe.stream(false);
        let shown: Vec<Option<String>> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        let expected = [Some("a"), None, None, None, Some("😀"), Some("b")];
        assert_eq!(shown.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_run_of_bytes_is_held_until_it_ends() {
        let spm = tokenizer(sentencepiece_gguf());
        let byte = |byte: u8| spm.id(&format!("<0x{byte:02X}>")).unwrap();
        let mut stream = spm.stream(false);
        assert_eq!(stream.push(byte(0xC3)).unwrap(), None);
        assert_eq!(stream.push(byte(0xA9)).unwrap(), None);
        assert_eq!(stream.push(spm.id("▁the").unwrap()).unwrap().as_deref(), Some("é the"));
        // One byte that is no text makes its whole run unreadable, as when all ids are decoded at once.
        assert_eq!(stream.push(byte(0xC3)).unwrap(), None);
        assert_eq!(stream.push(byte(0xA9)).unwrap(), None);
        assert_eq!(stream.push(byte(0xFF)).unwrap(), None);
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn the_first_space_of_a_sentencepiece_text_is_not_shown() {
        let spm = tokenizer(sentencepiece_gguf());
        let the = spm.id("▁the").unwrap();
        assert_eq!(chunks(&spm, &[1, the, the], true), ["the", " the", ""]);
        let bare = tokenizer(GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece_gguf() });
        assert_eq!(chunks(&bare, &[the, the], true), [" the", " the", ""]);
    }

    #[test]
    fn other_decoders_agree_too() {
        let decoders = [
            serde_json::json!({"type": "Metaspace", "replacement": "Ġ", "prepend_scheme": "always", "split": true}),
            serde_json::json!({"type": "WordPiece", "prefix": "Ġ", "cleanup": true}),
            serde_json::json!({"type": "BPEDecoder", "suffix": "e"}),
            serde_json::json!({"type": "Strip", "content": "t", "start": 1, "stop": 0}),
            serde_json::json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
            serde_json::json!(null),
        ];
        let mut description = byte_level()["tokenizer"].clone();
        let directory = std::env::temp_dir().join(format!("zoo-stream-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for decoder in decoders {
            description["decoder"] = decoder;
            std::fs::write(directory.join("tokenizer.json"), description.to_string()).unwrap();
            let tokenizer = Tokenizer::from_snapshot(&directory).unwrap();
            agrees(&tokenizer, &[]);
            agrees(&tokenizer, &tokenizer.encode("the quick  fox, they'll see <|im_end|>é", false).unwrap());
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_cost_of_an_id_does_not_grow() {
        let bpe = tokenizer(byte_level_gguf());
        let mut stream = bpe.stream(true);
        let id = bpe.encode("the", false).unwrap();
        let mut length = 0;
        for _ in 0..300_000 {
            length += stream.push(*id.first().unwrap()).unwrap().unwrap().len();
        }
        assert!(length >= 300_000);
    }

    proptest! {
        #[test]
        fn chunks_concatenate_to_the_decoded_text(
            ids in prop::collection::vec(prop_oneof![0u32..490, 4u32..260], 0..60),
        ) {
            thread_local! {
                static BOTH: [Tokenizer; 2] = [tokenizer(byte_level_gguf()), tokenizer(sentencepiece_gguf())];
            }
            BOTH.with(|both| both.iter().for_each(|tokenizer| agrees(tokenizer, &ids)));
        }

        #[test]
        fn any_text_survives(text in "\\PC{0,30}|[a-z 😀é中\n]{0,30}") {
            thread_local! {
                static BPE: Tokenizer = tokenizer(byte_level_gguf());
            }
            BPE.with(|bpe| {
                let ids = bpe.encode(&text, false).unwrap();
                assert_eq!(chunks(bpe, &ids, false).concat(), text);
            });
        }
    }
}
