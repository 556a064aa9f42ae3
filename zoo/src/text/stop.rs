//! Stop strings over streamed text.

use crate::error::{Error, Result};

/// Cuts streamed text at the first stop string, wherever the borders of the chunks fall.
///
/// A stop string fires as soon as its last character has been seen; when several end there, the longest does. The text
/// before it is released, the stop string and everything after it are not. Text that may still turn out to be the
/// beginning of a stop string is held back, and never more than that. Each byte costs one comparison a stop string
/// (amortised), however the strings overlap (Knuth, Morris and Pratt).
///
/// ```
/// # use zoo::text::Stop;
/// let mut stop = Stop::new(["</s>", "\nUser:"])?;
/// assert_eq!(stop.push("4 < 5\nUs"), "4 < 5");
/// assert_eq!(stop.push("er: next"), "");
/// assert_eq!(stop.fired(), Some("\nUser:"));
/// # Ok::<(), zoo::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop {
    patterns: Vec<Pattern>,
    held: String,
    fired: Option<String>,
}

impl Stop {
    /// A watcher for `strings`; without any, all text passes at once.
    ///
    /// # Errors
    /// An empty stop string would fire before any text.
    pub fn new<S: Into<String>>(strings: impl IntoIterator<Item = S>) -> Result<Self> {
        let patterns = strings.into_iter().map(|text| match text.into() {
            text if text.is_empty() => {
                Err(Error::argument("stop", "a stop string is empty: it would stop before the first word"))
            }
            text => Ok(Pattern::new(text)),
        });
        Ok(Self { patterns: patterns.collect::<Result<_>>()?, ..Self::default() })
    }

    /// Takes the next chunk and returns the text that can be shown, which may be empty. Once a stop string has fired,
    /// it always is.
    pub fn push(&mut self, chunk: &str) -> String {
        if self.fired.is_some() {
            return String::new();
        }
        let mut seen = self.held.len();
        self.held.push_str(chunk);
        for byte in chunk.bytes() {
            seen += 1;
            let complete = self.patterns.iter_mut().filter_map(|pattern| pattern.step(byte));
            if let Some(text) = complete.max_by_key(|text| text.len()) {
                self.held.truncate(seen - text.len());
                self.fired = Some(text.to_owned());
                return std::mem::take(&mut self.held);
            }
        }
        let open = self.patterns.iter().map(|pattern| pattern.matched).max();
        let tail = self.held.split_off(self.held.len() - open.unwrap_or(0));
        std::mem::replace(&mut self.held, tail)
    }

    /// The stop string that fired.
    pub fn fired(&self) -> Option<&str> {
        self.fired.as_deref()
    }

    /// Ends the text: returns what was held back as the possible beginning of a stop string.
    pub fn finish(self) -> String {
        self.held
    }
}

/// One stop string and how much of it the text ends with.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// For each prefix, the length of its longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: String) -> Self {
        let mut pattern = Self { borders: vec![0], matched: 0, text };
        // Matching the string against itself, one place behind, yields its borders.
        for byte in pattern.text.clone().bytes().skip(1) {
            pattern.step(byte);
            pattern.borders.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    /// Advances by one byte; the whole string when it is now complete.
    fn step(&mut self, byte: u8) -> Option<&str> {
        while self.text.as_bytes().get(self.matched) != Some(&byte) {
            match self.matched.checked_sub(1) {
                Some(last) => self.matched = self.borders.get(last).copied().unwrap_or(0),
                None => return None,
            }
        }
        self.matched += 1;
        (self.matched == self.text.len()).then_some(self.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(strings: &[String], chunks: &[&str]) -> (String, Option<String>) {
        let mut stop = Stop::new(strings.iter().cloned()).unwrap();
        let mut shown: String = chunks.iter().map(|chunk| stop.push(chunk)).collect();
        let fired = stop.fired().map(str::to_owned);
        shown.push_str(&stop.finish());
        (shown, fired)
    }

    /// The definition, by brute force: the earliest end, then the longest string.
    fn reference(strings: &[String], text: &str) -> (String, Option<String>) {
        for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            let before = &text[..end];
            let ending = strings.iter().filter(|stop| before.ends_with(stop.as_str()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (before[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn holds_back_no_more_than_the_beginning_of_a_stop_string() {
        let mut stop = Stop::new(["<|end|>", "<eot>"]).unwrap();
        assert_eq!(stop.push("a <"), "a ");
        assert_eq!(stop.push("b> <"), "<b> ");
        assert_eq!(stop.push("|en"), "");
        assert_eq!(stop.push("d|"), "");
        assert_eq!(stop.push("?"), "<|end|?");
        assert_eq!(stop.fired(), None);
        assert_eq!(stop.push("é<e"), "é");
        assert_eq!(stop.finish(), "<e");
    }

    #[test]
    fn reports_which_one_fired_and_drops_the_rest() {
        let mut stop = Stop::new(["aab", "ab", "zzz"]).unwrap();
        assert_eq!(stop.push("xa"), "x");
        assert_eq!(stop.push("aa"), "a");
        assert_eq!(stop.push("b and more"), "");
        assert_eq!(stop.fired(), Some("aab"));
        assert_eq!(stop.push("zzz"), "");
        assert_eq!(stop.fired(), Some("aab"));
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn without_stop_strings_everything_passes() {
        let mut stop = Stop::new::<String>([]).unwrap();
        assert_eq!(stop.push("abc"), "abc");
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = Stop::new(["a", ""]).unwrap_err().to_string();
        assert!(error.contains("empty"), "{error}");
    }

    #[test]
    fn a_long_periodic_stop_string_costs_linear_time() {
        let mut stop = Stop::new(["a".repeat(1 << 16) + "b"]).unwrap();
        let text = "a".repeat(1 << 22);
        let shown: usize =
            text.as_bytes().chunks(1000).map(|chunk| stop.push(str::from_utf8(chunk).unwrap()).len()).sum();
        assert_eq!(shown + (1 << 16), text.len());
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition_for_any_chunking(
            strings in prop::collection::vec("[abé]{1,4}", 0..4),
            chunks in prop::collection::vec("[abéc]{0,5}", 0..12),
        ) {
            let text = chunks.concat();
            let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
            let expected = reference(&strings, &text);
            prop_assert_eq!(run(&strings, &chunks), expected.clone());
            prop_assert_eq!(run(&strings, &[text.as_str()]), expected);
        }
    }
}
