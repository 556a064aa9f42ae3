//! Patterns over dotted names.
//!
//! | written | matches | use |
//! |---|---|---|
//! | `mlp.up_proj` | itself | |
//! | `{i}` | the text of one segment or of a part of one (`conv{i}`), at least one character | carried to the target |
//! | `{p:*}` | the rest: one or more whole segments | carried to the target |
//! | `{*e}` | a whole number without leading zeros | gathers the members of a stack in numeric order |
//! | `*` | any text inside one segment | where nothing is produced: `drop`, `layout`, `unobserved` |
//! | `**` | any number of whole segments, also none | likewise |
//!
//! Each capture takes the shortest text that lets the rest of its segment match, so a name matches in one way only,
//! in time proportional to its length. At most one of `{p:*}` and `**` stands in a pattern, anywhere in it.

use std::fmt;

use crate::error::{Error, Result};

/// A dotted name in which some text is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
    /// What every matching name starts with.
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Pieces(Vec<Piece>),
    /// `{p:*}`: one or more segments.
    Rest(String),
    /// `**`: any number of segments.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Capture(String),
    Gather(String),
    Any,
}

/// What a pattern's captures stood for in one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Captures {
    /// Capture name and text, ordered by name.
    pub named: Vec<(String, String)>,
    /// The number that `{*e}` stood for.
    pub gathered: Option<usize>,
}

impl Pattern {
    /// Reads a pattern of a tensor's name.
    ///
    /// # Errors
    /// [`Error::Rule`] that quotes the pattern and says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|problem| Error::rule(text, problem))
    }

    /// Reads a pattern of a tensor's name; the problem is told without naming the pattern's rule.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name is empty".into());
        }
        Self::read_path(text)
    }

    /// As [`Pattern::read`], but of a module's path: empty for the root.
    pub(crate) fn read_path(text: &str) -> Result<Self, String> {
        let segments = if text.is_empty() {
            Vec::new()
        } else {
            text.split('.')
                .map(|segment| read_segment(segment).map_err(|problem| format!("in `{text}`: {problem}")))
                .collect::<Result<_, _>>()?
        };
        Self::new(text.into(), segments)
    }

    /// The pattern that matches only this name, whatever characters it has.
    pub(crate) fn literal(name: &str) -> Self {
        let segments = name.split('.').map(|segment| Segment::Pieces(vec![Piece::Literal(segment.into())])).collect();
        Self { text: name.into(), segments, prefix: name.into() }
    }

    /// This pattern below another one.
    pub(crate) fn under(&self, parent: &Self) -> Result<Self, String> {
        let dot = if parent.text.is_empty() || self.text.is_empty() { "" } else { "." };
        let segments = parent.segments.iter().chain(&self.segments);
        Self::new(format!("{}{dot}{}", parent.text, self.text), segments.cloned().collect())
    }

    fn new(text: String, segments: Vec<Segment>) -> Result<Self, String> {
        let wide = segments.iter().filter(|segment| !matches!(segment, Segment::Pieces(_)));
        if wide.count() > 1 {
            return Err(format!("in `{text}`: only one of `{{p:*}}` and `**` can stand in a pattern"));
        }
        let pattern = Self { prefix: prefix(&segments), text, segments };
        let mut names: Vec<_> = pattern.names().chain(pattern.gather()).collect();
        names.sort_unstable();
        if let Some([twice, _]) = names.array_windows().find(|[a, b]| a == b) {
            return Err(format!("in `{}`: `{twice}` stands twice", pattern.text));
        }
        let gathers = pattern.pieces().filter(|piece| matches!(piece, Piece::Gather(_)));
        if gathers.count() > 1 {
            return Err(format!("in `{}`: two gathers", pattern.text));
        }
        Ok(pattern)
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.segments
            .iter()
            .filter_map(|segment| match segment {
                Segment::Pieces(pieces) => Some(pieces),
                _ => None,
            })
            .flatten()
    }

    /// Names of the captures, in the order in which they stand; not that of a gather.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().flat_map(|segment| {
            let (rest, pieces) = match segment {
                Segment::Rest(name) => (Some(name.as_str()), [].as_slice()),
                Segment::Pieces(pieces) => (None, pieces.as_slice()),
                Segment::Any => (None, [].as_slice()),
            };
            rest.into_iter().chain(pieces.iter().filter_map(|piece| match piece {
                Piece::Capture(name) => Some(name.as_str()),
                _ => None,
            }))
        })
    }

    /// Name of the gather, `e` of `{*e}`.
    pub fn gather(&self) -> Option<&str> {
        self.pieces().find_map(|piece| match piece {
            Piece::Gather(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether it has `*` or `**`, whose text is not kept.
    pub fn is_wild(&self) -> bool {
        self.segments.contains(&Segment::Any) || self.pieces().any(|piece| *piece == Piece::Any)
    }

    /// The one name that it matches, when it captures nothing.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        let literal = |piece: &Piece| matches!(piece, Piece::Literal(_));
        (self.pieces().all(literal) && self.prefix.len() == self.text.len()).then_some(self.text.as_str())
    }

    /// Whether its last segment is `weight`, so that scales and biases of a quantised weight can follow it.
    pub(crate) fn ends_in_weight(&self) -> bool {
        match self.segments.last() {
            Some(Segment::Pieces(pieces)) => *pieces == [Piece::Literal("weight".into())],
            _ => false,
        }
    }

    /// How much of it is fixed: characters outside captures, and whether the rest is open.
    pub(crate) fn specificity(&self) -> (usize, bool) {
        let fixed = self
            .pieces()
            .map(|piece| match piece {
                Piece::Literal(text) => text.len(),
                _ => 0,
            })
            .sum();
        let closed = self.segments.iter().all(|segment| matches!(segment, Segment::Pieces(_)));
        (fixed, closed)
    }

    /// What the captures stand for in `name`, or `None` when it does not match.
    pub fn captures(&self, name: &str) -> Option<Captures> {
        // The first walk keeps nothing, so that a name that does not match costs no allocation.
        self.walk(name, &mut |_, _| ())?;
        let mut captures = Captures::default();
        self.walk(name, &mut |piece, text| match piece {
            Bound::Named(name) => captures.named.push((name.into(), text.into())),
            Bound::Gathered => captures.gathered = text.parse().ok(),
        })?;
        captures.named.sort_unstable();
        Some(captures)
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        self.walk(name, &mut |_, _| ()).is_some()
    }

    /// The name with the captures put in; `None` when one is not given or the pattern is wild.
    pub fn fill(&self, captures: &Captures) -> Option<String> {
        let value = |name: &str| {
            let found = captures.named.iter().find(|(n, _)| n == name);
            found.map(|(_, text)| text.as_str())
        };
        let mut filled = String::with_capacity(self.text.len());
        for (n, segment) in self.segments.iter().enumerate() {
            if n > 0 {
                filled.push('.');
            }
            match segment {
                Segment::Rest(name) => filled.push_str(value(name)?),
                Segment::Any => return None,
                Segment::Pieces(pieces) => {
                    for piece in pieces {
                        match piece {
                            Piece::Literal(text) => filled.push_str(text),
                            Piece::Capture(name) => filled.push_str(value(name)?),
                            Piece::Gather(_) => filled.push_str(&captures.gathered?.to_string()),
                            Piece::Any => return None,
                        }
                    }
                }
            }
        }
        Some(filled)
    }

    fn walk<'n>(&'n self, name: &'n str, bind: &mut dyn FnMut(Bound<'n>, &'n str)) -> Option<()> {
        if !name.starts_with(&self.prefix) {
            return None;
        }
        let wide = self.segments.iter().position(|segment| !matches!(segment, Segment::Pieces(_)));
        let (head, tail) = self.segments.split_at_checked(wide.unwrap_or(self.segments.len()))?;
        let mut left = (!name.is_empty()).then_some(name);
        for segment in head {
            let text = left?;
            let (first, rest) = match text.split_once('.') {
                Some((first, rest)) => (first, Some(rest)),
                None => (text, None),
            };
            segment.walk(first, bind)?;
            left = rest;
        }
        let Some((wide, tail)) = tail.split_first() else {
            return left.is_none().then_some(());
        };
        for segment in tail.iter().rev() {
            let text = left?;
            let (rest, last) = match text.rsplit_once('.') {
                Some((rest, last)) => (Some(rest), last),
                None => (None, text),
            };
            segment.walk(last, bind)?;
            left = rest;
        }
        if let Segment::Rest(name) = wide {
            bind(Bound::Named(name), left?);
        }
        Some(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a piece of text was matched by.
enum Bound<'n> {
    Named(&'n str),
    Gathered,
}

impl Segment {
    /// Matches one segment of a name from the left, each capture as short as can be.
    fn walk<'n>(&'n self, text: &'n str, bind: &mut dyn FnMut(Bound<'n>, &'n str)) -> Option<()> {
        let Self::Pieces(pieces) = self else {
            return None;
        };
        let mut rest = text;
        let mut open: Option<&Piece> = None;
        for (n, piece) in pieces.iter().enumerate() {
            let Piece::Literal(literal) = piece else {
                open = Some(piece);
                continue;
            };
            let Some(capture) = open.take() else {
                rest = rest.strip_prefix(literal.as_str())?;
                continue;
            };
            let least = match capture {
                Piece::Any => 0,
                _ => rest.chars().next()?.len_utf8(),
            };
            let at = if n + 1 == pieces.len() {
                let at = rest.strip_suffix(literal.as_str())?.len();
                (at >= least).then_some(at)?
            } else {
                least + rest.get(least..)?.find(literal.as_str())?
            };
            let (captured, after) = rest.split_at_checked(at)?;
            capture.bind(captured, bind)?;
            rest = after.get(literal.len()..)?;
        }
        match open {
            Some(capture) => capture.bind(rest, bind),
            None => rest.is_empty().then_some(()),
        }
    }
}

impl Piece {
    fn bind<'n>(&'n self, text: &'n str, bind: &mut dyn FnMut(Bound<'n>, &'n str)) -> Option<()> {
        match self {
            Self::Capture(name) if !text.is_empty() => bind(Bound::Named(name), text),
            Self::Gather(_) if is_number(text) => bind(Bound::Gathered, text),
            Self::Any => (),
            _ => return None,
        }
        Some(())
    }
}

/// Whether it is a number as `to_string` writes it, so that filling it in again gives the same name.
fn is_number(text: &str) -> bool {
    let canonical = text == "0" || !text.starts_with('0');
    canonical && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<usize>().is_ok()
}

fn prefix(segments: &[Segment]) -> String {
    let mut prefix = String::new();
    for (n, segment) in segments.iter().enumerate() {
        let Segment::Pieces(pieces) = segment else {
            // The dot before an open end is not there when `**` stands for nothing.
            return prefix;
        };
        if n > 0 {
            prefix.push('.');
        }
        for piece in pieces {
            match piece {
                Piece::Literal(text) => prefix.push_str(text),
                _ => return prefix,
            }
        }
    }
    prefix
}

fn read_segment(text: &str) -> Result<Segment, String> {
    if text.is_empty() {
        return Err("a segment is empty".into());
    }
    if text == "**" {
        return Ok(Segment::Any);
    }
    if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix(":*}")) {
        return Ok(Segment::Rest(read_name(name)?));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(['{', '}', '*']).unwrap_or(rest.len());
        let (literal, special) = rest.split_at_checked(at).ok_or("a character is cut in two")?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        rest = special;
        let piece = if let Some(after) = special.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("`{` without `}`")?;
            rest = after;
            match name.strip_prefix('*') {
                Some(gather) => Piece::Gather(read_name(gather)?),
                None if name.ends_with(":*") => {
                    return Err(format!("`{{{name}}}` must be a whole segment"));
                }
                None => Piece::Capture(read_name(name)?),
            }
        } else if let Some(after) = special.strip_prefix('*') {
            rest = after;
            Piece::Any
        } else if special.starts_with('}') {
            return Err("`}` without `{`".into());
        } else {
            continue;
        };
        if !matches!(pieces.last(), None | Some(Piece::Literal(_))) {
            return Err("two captures touch: it is not said where the first one ends".into());
        }
        pieces.push(piece);
    }
    Ok(Segment::Pieces(pieces))
}

fn read_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        Ok(name.into())
    } else {
        Err(format!("`{{{name}}}` is not a capture: write {{i}}, {{p:*}} or {{*e}}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn captured(pattern: &str, name: &str) -> Option<String> {
        let captures = read(pattern).captures(name)?;
        let mut text: Vec<_> = captures.named.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text.extend(captures.gathered.map(|n| format!("#{n}")));
        Some(text.join(" "))
    }

    #[test]
    fn captures_take_a_segment_a_part_or_the_rest() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", Some("")),
            ("a.b", "a.bc", None),
            ("a.b", "a", None),
            ("a.b", "a.b.c", None),
            ("l.{i}.up.{p:*}", "l.3.up.weight", Some("i=3 p=weight")),
            ("l.{i}.up.{p:*}", "l.3.up.a.b", Some("i=3 p=a.b")),
            ("l.{i}.up.{p:*}", "l.3.up", None),
            ("l.{i}.up.{p:*}", "l.3.4.up.a", None),
            ("{p:*}.conv{n}.{q}", "a.b.conv_in.bias", Some("n=_in p=a.b q=bias")),
            ("{p:*}.conv{n}.{q}", "conv_in.bias", None),
            ("{p:*}.conv{n}.{q}", "a.conv.bias", None),
            ("{p:*}", "a", Some("p=a")),
            ("w{a}_{b}", "w1_x_2", Some("a=1 b=x_2")),
            ("w{a}_{b}_t", "w1_t_t", Some("a=1 b=t")),
            ("w{a}_t", "w1_t_t", Some("a=1_t")),
            ("w{a}_t", "w_t", None),
            ("é{a}é", "ééé", Some("a=é")),
            ("e.{*e}.w{n}", "e.10.w1", Some("n=1 #10")),
            ("e.{*e}.w", "e.01.w", None),
            ("e.{*e}.w", "e.x.w", None),
            ("e.{*e}.w", "e.99999999999999999999999.w", None),
            ("a.*.c", "a.b.c", Some("")),
            ("a.x*", "a.x", Some("")),
            ("a.**", "a", Some("")),
            ("a.**", "a.b.c", Some("")),
            ("a.**", "ab", None),
            ("**.inv_freq", "inv_freq", Some("")),
            ("**.inv_freq", "a.b.inv_freq", Some("")),
            ("**", "anything.at.all", Some("")),
            ("a.{i}", "a.", None),
            ("a.{i}", "a..", None),
        ] {
            assert_eq!(captured(pattern, name).as_deref(), expected, "{pattern} on {name}");
        }
        assert!(Pattern::read_path("").unwrap().matches(""));
        assert!(!Pattern::read_path("").unwrap().matches("a"));
        assert!(read("**").matches(""));
    }

    #[test]
    fn a_malformed_pattern_says_why() {
        for (pattern, expected) in [
            ("", "empty"),
            ("a..b", "segment is empty"),
            ("a.", "segment is empty"),
            ("a.{i", "`{` without `}`"),
            ("a.i}", "`}` without `{`"),
            ("a.{}", "not a capture"),
            ("a.{i:x}", "not a capture"),
            ("a.{*}", "not a capture"),
            ("a.x{p:*}", "whole segment"),
            ("a.{i}{j}", "touch"),
            ("a.{i}*", "touch"),
            ("a.{i}.{i}", "`i` stands twice"),
            ("a.{i}.{*i}", "`i` stands twice"),
            ("{p:*}.a.{q:*}", "only one"),
            ("**.a.{q:*}", "only one"),
            ("{*a}.{*b}", "two gathers"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
            assert!(error.contains(&format!("rule `{pattern}`")), "{error}");
        }
    }

    #[test]
    fn a_pattern_goes_below_another() {
        let inner = read("layers.{i}.{p:*}");
        let outer = inner.under(&read("text.{m}")).unwrap();
        assert_eq!(outer, read("text.{m}.layers.{i}.{p:*}"));
        assert_eq!(inner.under(&Pattern::read_path("").unwrap()).unwrap(), inner);
        assert!(inner.under(&read("{i}")).is_err());
        let root = Pattern::read_path("").unwrap().under(&read("text"));
        assert_eq!(root.unwrap(), read("text"));
    }

    #[test]
    fn a_literal_matches_only_itself() {
        for name in ["a.b", "a.{i}", "", ".", "a..b", "*"] {
            let literal = Pattern::literal(name);
            assert_eq!(literal.as_literal(), Some(name));
            if !name.is_empty() {
                assert!(literal.matches(name));
            }
        }
        assert_eq!(read("a.{i}").as_literal(), None);
        assert_eq!(read("a.**").as_literal(), None);
        assert_eq!(read("a.b").as_literal(), Some("a.b"));
    }

    proptest! {
        #[test]
        fn filling_gives_the_name_back(
            pattern in "([a-b]|\\{i\\}|a\\{j\\}b)\\.(\\{k\\}_\\{l\\}|c\\{\\*e\\})(\\.\\{p:\\*\\})?(\\.[a-b])?",
            name in "[ab]{1,3}(\\.[abc_0-9]{1,4}){1,4}",
        ) {
            let pattern = read(&pattern);
            if let Some(captures) = pattern.captures(&name) {
                prop_assert_eq!(pattern.fill(&captures), Some(name));
            }
        }

        #[test]
        fn nothing_panics(pattern in "[a{}*.:pé]{0,12}", name in "[ap.é0]{0,12}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let captures = pattern.captures(&name);
                prop_assert_eq!(captures.is_some(), pattern.matches(&name));
                if let (Some(captures), false) = (captures, pattern.is_wild()) {
                    prop_assert_eq!(pattern.fill(&captures), Some(name));
                }
            }
        }
    }
}
