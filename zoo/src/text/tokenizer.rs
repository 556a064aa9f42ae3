//! The tokenizer of a model, wherever it was read from.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokenizers::{Decoder, DecoderWrapper};

use super::stream::{Spelling, Stream};
use super::template::ChatTemplate;
use crate::error::{Error, Result};

/// The expressions that cut a text look for the end of white space and back. They give up, without a word, when that is
/// more than a million steps.
const LONGEST_BLANK: usize = 500_000;

/// Text to token ids and back, with the ids that begin and end a text and the model's chat template.
///
/// Ids are those of Hugging Face's `tokenizers`, whatever the file: special and user-defined tokens are matched in the
/// text first, then it is normalised, split and merged. A clone shares the vocabulary.
#[derive(Clone)]
pub struct Tokenizer(Arc<Parts>);

/// What a source (snapshot, GGUF) has to find.
pub(super) struct Parts {
    pub tokenizer: tokenizers::Tokenizer,
    /// Ids put before and after a text with `add_special`, outside those that the tokenizer's own post-processor adds.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    pub bos: Option<u32>,
    pub pad: Option<u32>,
    pub eos: BTreeSet<u32>,
    pub template: Option<ChatTemplate>,
}

impl From<Parts> for Tokenizer {
    fn from(mut parts: Parts) -> Self {
        // A file's padding and truncation were meant for the batches that it was trained with.
        parts.tokenizer.with_padding(None);
        parts.tokenizer.with_truncation(None).ok();
        Self(Arc::new(parts))
    }
}

impl Tokenizer {
    /// The ids of `text`. With `add_special` also the ids that the model expects around a text (beginning-of-text, for
    /// some models end-of-text); a rendered chat template has them already.
    ///
    /// Special tokens written out in `text` become their ids.
    ///
    /// # Errors
    /// Half a million white-space characters in a row; a text that the vocabulary cannot represent, which is none for
    /// one with all bytes.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let blank = text.split(|character: char| !character.is_whitespace()).map(str::len).max();
        if blank.is_some_and(|length| length > LONGEST_BLANK) {
            return Err(Error::argument(
                "text",
                format!("more than {LONGEST_BLANK} bytes of white space in a row cannot be split exactly"),
            ));
        }
        let encoding = guard(|| self.0.tokenizer.encode_fast(text, add_special))?;
        let ids = encoding.get_ids();
        if !add_special {
            return Ok(ids.to_vec());
        }
        Ok([&self.0.prefix, ids, &self.0.suffix].concat())
    }

    /// The text of `ids`, without special tokens when `skip_special`. Bytes that are not UTF-8 become U+FFFD; ids beyond
    /// the vocabulary (models pad their embedding) have no text.
    ///
    /// # Errors
    /// The decoder of a malformed file.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let pieces = ids.iter().filter_map(|id| self.piece(*id, skip_special));
        self.join(pieces.collect())
    }

    /// Incremental [`decode`](Self::decode).
    pub fn stream(&self, skip_special: bool) -> Stream {
        Stream::new(self.clone(), skip_special)
    }

    /// The ids that end a text or a turn.
    pub fn eos_ids(&self) -> &BTreeSet<u32> {
        &self.0.eos
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The id that fills a text up to a length.
    pub fn pad(&self) -> Option<u32> {
        self.0.pad
    }

    /// Number of tokens, added ones included. The model's embedding may be larger.
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }

    /// The token with this id, as the vocabulary spells it (`"Ġhello"`, `"▁hello"`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.tokenizer.id_to_token(id)
    }

    /// The id of a token, as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// The bytes that each id adds to a text, by id; none for special tokens and for ids without a token.
    ///
    /// # Errors
    /// When the text of a token depends on its neighbours (WordPiece, words without a decoder), or the decoder is that of a
    /// malformed file.
    pub fn token_bytes(&self) -> Result<Vec<Option<Vec<u8>>>> {
        let dependent = || Error::tokenizer("what a token adds to a text depends on its neighbours");
        let mut spelling = self.decoder().and_then(Spelling::of).ok_or_else(dependent)?;
        let ids = self.0.tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last.saturating_add(1));
        let bytes = |id| self.piece(id, true).map(|piece| spelling.bytes(piece)).transpose();
        (0..ids).map(bytes).collect()
    }

    /// How a conversation becomes a prompt; base models have none.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.0.template.as_ref()
    }

    /// What the decoder is given for an id: nothing for an unknown one, or for a special one to be skipped.
    pub(super) fn piece(&self, id: u32, skip_special: bool) -> Option<String> {
        let piece = self.0.tokenizer.id_to_token(id)?;
        let special = skip_special && self.0.tokenizer.get_added_vocabulary().is_special_token(&piece);
        (!special).then_some(piece)
    }

    /// The text of all pieces of a text.
    pub(super) fn join(&self, pieces: Vec<String>) -> Result<String> {
        match self.decoder() {
            _ if pieces.is_empty() => Ok(String::new()),
            Some(decoder) => guard(|| decoder.decode(pieces)),
            None => Ok(pieces.join(" ")),
        }
    }

    pub(super) fn decoder(&self) -> Option<&DecoderWrapper> {
        self.0.tokenizer.get_decoder()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.0.bos)
            .field("eos", &self.0.eos)
            .field("chat_template", &self.0.template.is_some())
            .finish_non_exhaustive()
    }
}

/// Calls into the `tokenizers` crate, which trusts the file it was built from: some malformed ones make it panic, and
/// that is an error like any other.
pub(crate) fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| Error::tokenizer(error.to_string())),
        Err(_) => Err(Error::tokenizer("the tokenizer's description contradicts itself")),
    }
}
