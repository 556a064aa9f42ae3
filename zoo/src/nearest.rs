//! What somebody may have meant.

/// How alike two names must be for one to be taken for the other's misspelling; 1 means equal.
const ALIKE: f64 = 0.8;

/// The name that is most like the given one, the first of several that are equally so.
pub fn nearest<'a>(name: &str, among: impl DoubleEndedIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    // Reversed, because the last of several equals is the greatest.
    among
        .rev()
        .map(|other| (strsim::jaro_winkler(&other.to_lowercase(), &name), other))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}
