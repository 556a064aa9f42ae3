//! From the byte alphabet of a vocabulary back to text, piece by piece.

/// The byte that a character of GPT-2's byte alphabet stands for.
///
/// Printable Latin-1 characters stand for themselves; the 68 other bytes are U+0100 onwards, in order.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// UTF-8 decoding that waits for the rest of a character.
///
/// The concatenated output equals `String::from_utf8_lossy` of all bytes, so U+FFFD stands for each maximal invalid
/// sequence, but only once it is certain that no later byte can complete it.
#[derive(Clone, Debug, Default)]
pub(super) struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    /// The text that is complete after `bytes`.
    pub fn push(&mut self, bytes: impl IntoIterator<Item = u8>) -> String {
        self.pending.extend(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            let error = match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at_checked(error.valid_up_to()).unwrap_or((rest, &[]));
            text.push_str(&String::from_utf8_lossy(valid));
            rest = invalid;
            let Some(length) = error.error_len() else { break };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = rest.get(length..).unwrap_or_default();
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the text: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::decoders::byte_level::ByteLevel;

    #[test]
    fn the_alphabet_is_the_one_of_the_tokenizers_crate() {
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        let known = (0..0x11_0000).filter_map(char::from_u32).filter_map(byte_of).count();
        assert_eq!(known, 256);
    }

    proptest! {
        #[test]
        fn chunks_concatenate_to_the_lossy_text(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..=0xF5u8, Just(b'a')], 0..40),
            cuts in prop::collection::vec(1usize..4, 1..40),
        ) {
            let mut utf8 = Utf8::default();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                text += &utf8.push(chunk.iter().copied());
                prop_assert!(utf8.pending.len() < 4);
                rest = later;
            }
            text += &utf8.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
