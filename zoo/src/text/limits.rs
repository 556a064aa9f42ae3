//! How much a template may make of what it is given: filters that multiply, and what variables hold.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of the longest text that a filter makes or a variable holds.
const LONGEST: usize = 8 << 20;
/// Bytes of all long texts that variables are given while a template runs.
const MOST_KEPT: usize = 32 << 20;
/// Shorter texts are as many as there are instructions for.
const SHORT: usize = 64 << 10;
/// Items of the longest list that a variable holds.
const MOST_ITEMS: usize = 1_000_000;

/// Bounds the filters whose output can be far longer than their input.
pub(super) fn bound(environment: &mut Environment<'_>) {
    macro_rules! bounded {
        ($($name:ident),*) => {$({
            fn $name(state: &mut State<'_, '_>, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
                let values = values.into_values();
                affordable(stringify!($name), &values)?;
                state.apply_filter(concat!("unbounded ", stringify!($name)), &values)
            }
            environment.add_filter(concat!("unbounded ", stringify!($name)), filters::$name);
            environment.add_filter(stringify!($name), $name);
        })*};
    }
    bounded!(batch, format, indent, join, replace, slice);
}

/// Whether what a filter or method makes of its first value, with the others, cannot become too long.
pub(super) fn affordable(name: &str, values: &[Value]) -> Result<(), Error> {
    let Some((value, others)) = values.split_first() else { return Ok(()) };
    let text = |at: usize| others.get(at).and_then(Value::as_str);
    let grown = match (name, value.as_str(), text(0), text(1)) {
        ("replace", Some(value), Some(from), Some(to)) => value.matches(from).count().saturating_mul(to.len()),
        ("format", Some(format), ..) => {
            let specs = format.split(['%', '{']).skip(1);
            let specs = specs.filter_map(|rest| rest.split(|c: char| c.is_ascii_alphabetic() || c == '}').next());
            let numbers = specs.flat_map(|spec| spec.split(|c: char| !c.is_ascii_digit()));
            let widths = numbers.filter(|digits| !digits.is_empty()).map(|digits| digits.parse().unwrap_or(usize::MAX));
            let widest = widths.max().unwrap_or_default();
            if format.contains('*') { widest.max(largest(others)) } else { widest }
        }
        // As a method of the text between.
        ("join", Some(between), ..) => others.first().map_or(0, size).saturating_mul(between.len().max(1)),
        ("batch" | "indent" | "join" | "slice", ..) => size(value).saturating_mul(largest(others).max(1)),
        _ => 0,
    };
    if grown > LONGEST {
        return Err(refused(format!("`{name}` would make a text of more than {} MiB", LONGEST >> 20)));
    }
    Ok(())
}

/// Bytes of the texts in a value, and one for everything else.
fn size(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) => {
            let Ok(items) = value.try_iter() else { return 1 };
            let one = |item: Value| item.as_str().map_or(1, |text| text.len().saturating_add(1));
            items.take(MOST_ITEMS).map(one).fold(0, usize::saturating_add)
        }
        None => 1,
    }
}

/// The largest number, and the length of the longest text, among arguments with and without names.
fn largest(values: &[Value]) -> usize {
    let one = |value: &Value| value.as_usize().or_else(|| value.as_str().map(str::len)).unwrap_or_default();
    let of = |value: &Value| match value.is_kwargs() {
        true => {
            let named = value.try_iter().ok().into_iter().flatten().filter_map(|key| value.get_item(&key).ok());
            named.map(|value| one(&value)).max().unwrap_or_default()
        }
        false => one(value),
    };
    values.iter().map(of).max().unwrap_or_default()
}

/// Counts what variables are given.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<AtomicUsize>);

impl Kept {
    /// Passes on a value that a variable may hold.
    pub(super) fn check(&self, value: Value) -> Result<Value, Error> {
        if value.as_str().is_none() && value.len().is_some_and(|items| items > MOST_ITEMS) {
            return Err(refused(format!("a variable would hold more than {MOST_ITEMS} items")));
        }
        let bytes = value.as_str().map_or(0, str::len);
        let long = if bytes > SHORT { bytes } else { 0 };
        if bytes > LONGEST || self.0.fetch_add(long, Relaxed).saturating_add(long) > MOST_KEPT {
            return Err(refused("variables would hold texts that are too long".to_owned()));
        }
        Ok(value)
    }
}

fn refused(problem: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

#[cfg(test)]
mod tests {
    use crate::text::{ChatTemplate, Message};
    use serde_json::Map;

    fn render(source: &str) -> String {
        let answer = ChatTemplate::new(source).render(&[Message::user("a b")], None, true, &Map::new());
        answer.unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_stays_short_is_as_before() {
        for (source, expected) in [
            ("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(width=3, first=true) }}", "a\n  b   a\n   b"),
            ("{{ ['a', 'b'] | join('--') }}{{ 'a-b'.replace('-', '+') }}{{ 'a' | replace('a', 'bb') }}", "a--ba+bbb"),
            (
                "{{ 'on 20251120: %s is %5d' | format('x', 7) }}{{ [1, 2, 3] | batch(2) | length }}",
                "on 20251120: x is     72",
            ),
            ("{% set a = 'x' ~ 'y' %}{% set b, c = 1, [2] %}{{ a }}{{ b }}{{ c }}", "xy1[2]"),
            ("{% set t %}<a href=\"{{ 1 }}\">{% endset %}{{ t }}", "<a href=\"1\">"),
            ("{% set x = none %}{{ x is none }}{% set y = nothing %}{{ y is defined }}", "TrueFalse"),
        ] {
            assert_eq!(render(source), expected, "{source}");
        }
    }

    #[test]
    fn what_would_multiply_is_refused() {
        for (source, expected) in [
            ("{{ 'a\nb' | indent(1099511627776) }}", "`indent` would make"),
            ("{{ 'a\nb' | indent(width=100000000) }}", "`indent` would make"),
            ("{{ [1] | slice(4294967296) | length }}", "`slice` would make"),
            ("{{ [1] | batch(4294967296, 0) | length }}", "`batch` would make"),
            ("{{ '%1000000000d' | format(1) }}", "`format` would make"),
            ("{{ '{:>1000000000}'.format(1) }}", "`format` would make"),
            ("{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}", "`replace` would make"),
            ("{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}", "`replace` would make"),
            ("{{ ('a' * 1000000).join([1] * 1000) }}", "`join` would make"),
            ("{{ ([1] * 1000) | join('a' * 1000000) }}", "`join` would make"),
            ("{% set a = 'a' * 9000000 %}", "variables would hold"),
            (
                "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                "variables would hold",
            ),
            ("{% set a = [0] * 1000 %}{% set b = a * 2000 %}", "1000000 items"),
        ] {
            let answer = render(source);
            assert!(answer.contains(expected), "{source}: {answer}");
        }
    }
}
