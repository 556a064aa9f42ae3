//! How much a template may make: what its filters, operators and texts come to, in bytes.

use super::json;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, context, filters};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What any template may make, and what it may write.
const MADE: usize = 12 << 20;
const WRITTEN: usize = 16 << 20;
/// What it makes of each byte that it is given, beside once for each value among them: prompts grow message by message.
const MADE_PER_BYTE: usize = 16;
const WRITTEN_PER_BYTE: usize = 8;
/// Shorter ones are as many as there are instructions for.
const SHORT: usize = 4 << 10;
/// Bytes of a text between tags that may be written by every instruction.
pub(super) const SHORT_TEXT: usize = 256;
/// Items of a list without a length, of which no more can be paid for.
const MOST_COUNTED: usize = 1 << 20;
/// Bytes of an item of a list.
const ITEM: usize = size_of::<Value>();
/// Filters that print whatever they are given.
const PRINTING: [&str; 7] = ["capitalize", "lower", "string", "sum", "title", "trim", "upper"];
/// Filters that may write six characters for one.
const ESCAPING: [&str; 3] = ["escape", "pprint", "tojson"];

/// What a template may still make and write.
#[derive(Clone)]
pub(super) struct Budget {
    made: Account,
    written: Account,
}

/// What is left of so many bytes.
#[derive(Clone)]
struct Account {
    left: Arc<AtomicUsize>,
    whole: usize,
}

impl Account {
    fn new(whole: usize) -> Self {
        Self { left: Arc::new(whole.into()), whole }
    }

    fn spend(&self, bytes: usize) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

impl Budget {
    /// For a template that is given texts of so many bytes in so many values.
    pub fn new(bytes: usize, values: usize) -> Self {
        let times = |per_byte: usize| bytes.saturating_mul(per_byte);
        Self {
            made: Account::new(MADE.saturating_add(times(MADE_PER_BYTE.saturating_add(values)))),
            written: Account::new(WRITTEN.saturating_add(times(WRITTEN_PER_BYTE))),
        }
    }

    /// Adds the filters that [`metered`](super::metered::metered) writes into a source, counts what is written, and counts what
    /// the engine's own filters make.
    pub fn govern(&self, environment: &mut Environment<'_>) {
        macro_rules! counted {
            ($($module:ident: $($name:ident),*;)*) => {$($({
                let budget = self.clone();
                let filter = move |state: &mut State<'_, '_>, values: Rest<ValueOrKwargs>| {
                    let values = values.into_values();
                    budget.make(stringify!($name), &values)?;
                    state.apply_filter(concat!("uncounted ", stringify!($name)), &values)
                };
                environment.add_filter(concat!("uncounted ", stringify!($name)), $module::$name);
                environment.add_filter(stringify!($name), filter);
            })*)*};
        }
        counted!(
            filters: batch, capitalize, chain, dictsort, escape, format, groupby, indent, items, join, lines, list, lower, map, pprint,
            reject, rejectattr, replace, reverse, select, selectattr, slice, sort, split, string, sum, title, trim, unique,
            upper, zip;
            json: tojson;
        );
        let budget = self.clone();
        environment.add_filter("e", move |state: &mut State<'_, '_>, value: Value| {
            budget.make("escape", std::slice::from_ref(&value))?;
            filters::escape(state, &value)
        });
        let budget = self.clone();
        environment.add_filter("times", move |state: &State<'_, '_>, left: Value, right: Value| {
            budget.product(state, &left, &right)
        });
        let budget = self.clone();
        environment.add_filter("added", move |value: Value| {
            let bytes = value.as_str().map_or_else(|| items(&value).saturating_mul(ITEM), str::len);
            budget.charge("+", bytes).map(|()| value)
        });
        let budget = self.clone();
        environment
            .add_filter("printed", move |value: Value| budget.charge("~", budget.printed(&value)).map(|()| value));
        let budget = self.clone();
        environment.add_filter("looped", move |value: Value| budget.looped(value));
        let budget = self.clone();
        environment.add_filter("written", move |bytes: usize| {
            if budget.written.spend(bytes) { Ok("") } else { Err(budget.too_much_written()) }
        });
        let budget = self.clone();
        environment.set_formatter(move |output, _, value| budget.write(output, value));
    }

    /// Pays for what a filter or method makes of its first value, with the others.
    pub fn make(&self, name: &str, values: &[Value]) -> Result<(), Error> {
        let Some((value, others)) = values.split_first() else { return Ok(()) };
        let text = |at: usize| others.get(at).and_then(Value::as_str);
        let bytes = match (name, value.as_str(), text(0), text(1)) {
            ("replace", Some(value), Some(from), Some(to)) => {
                value.len().saturating_add(value.matches(from).count().saturating_mul(to.len()))
            }
            ("format", Some(format), ..) => {
                let specs = format.split(['%', '{']).skip(1);
                let specs = specs.filter_map(|rest| rest.split(|c: char| c.is_ascii_alphabetic() || c == '}').next());
                let numbers = specs.flat_map(|spec| spec.split(|c: char| !c.is_ascii_digit()));
                let numbers = numbers.filter(|digits| !digits.is_empty());
                let widths = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
                let stars = format.matches('*').count().saturating_mul(largest(others));
                let values = others.iter().map(|value| self.printed(value)).fold(0, usize::saturating_add);
                // A value may stand in more than one place.
                let places = format.matches(['%', '{']).count().max(1);
                values.saturating_mul(places).saturating_add(widths).saturating_add(stars)
            }
            // As a method of the text between.
            ("join", Some(between), ..) if others.first().is_some_and(|value| value.as_str().is_none()) => {
                let joined = others.first().map_or(0, |items| self.printed(items));
                let gaps = others.first().map_or(0, items);
                joined.saturating_add(gaps.saturating_mul(between.len()))
            }
            ("join", ..) => self.printed(value).saturating_add(items(value).saturating_mul(largest(others))),
            ("indent", ..) => {
                // One indentation is made even where there is no line.
                let lines = value.as_str().map_or(1, |text| text.lines().count().saturating_add(1));
                self.printed(value).saturating_add(lines.saturating_mul(largest(others)))
            }
            ("batch" | "slice", ..) => items(value).saturating_add(largest(others)).saturating_mul(ITEM),
            ("list" | "reverse" | "splitlines" | "lines" | "sort" | "unique", ..) => items(value).saturating_mul(ITEM),
            ("split" | "rsplit" | "partition", Some(value), from, _) => {
                let pieces = match from {
                    Some(from) => value.matches(from).count(),
                    None => value.split_whitespace().count(),
                };
                value.len().saturating_add(pieces.saturating_mul(ITEM))
            }
            ("chain" | "zip", ..) => values.iter().map(items).fold(0, usize::saturating_add).saturating_mul(ITEM),
            ("dictsort" | "groupby" | "items" | "map" | "reject" | "rejectattr" | "select" | "selectattr", ..) => {
                items(value).saturating_mul(ITEM)
            }
            ("strip" | "lstrip" | "rstrip", Some(value), ..) => value.len(),
            (name, ..) if ESCAPING.contains(&name) => self.printed(value).saturating_mul(6),
            (name, ..) if PRINTING.contains(&name) => self.printed(value),
            _ => 0,
        };
        self.charge(name, bytes)
    }

    /// The engine's `*`, for texts and lists after they are paid for.
    fn product(&self, state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
        for (value, times) in [(left, right), (right, left)] {
            let bytes = match (value.as_str(), times.as_usize()) {
                (Some(text), Some(times)) => text.len().saturating_mul(times),
                // A list may be printed as often as its items stand in it.
                (None, Some(times)) if is_list(value) => {
                    items(value).saturating_mul(ITEM).max(self.printed(value)).saturating_mul(times)
                }
                _ => continue,
            };
            self.charge("*", bytes)?;
        }
        state.env().compile_expression("a * b")?.eval(context! { a => left, b => right })
    }

    /// What Python loops over: a text by its characters, of which the engine does not know the last, and never none.
    fn looped(&self, value: Value) -> Result<Value, Error> {
        if value.is_none() {
            return Err(refused("`none` is not iterable".to_owned()));
        }
        let Some(text) = value.as_str() else { return Ok(value) };
        self.charge("for", text.len().saturating_mul(ITEM))?;
        Ok(text.chars().map(Value::from).collect())
    }

    /// Bytes of a value as it is printed; of one that is too long to be made, more than may be.
    fn printed(&self, value: &Value) -> usize {
        if let Some(text) = value.as_str() {
            return text.len();
        }
        let mut count = Count { bytes: 0, most: self.made.whole, output: None };
        match write!(count, "{value}") {
            Ok(()) => count.bytes,
            Err(_) => usize::MAX,
        }
    }

    fn write(&self, output: &mut Output<'_>, value: &Value) -> Result<(), Error> {
        let left = self.written.left.load(Relaxed);
        let mut count = Count { bytes: 0, most: left, output: Some(output) };
        // The writer's own error says that the prompt is too long.
        match write!(count, "{value}") {
            Ok(()) => {}
            Err(_) if count.bytes > left => return Err(self.too_much_written()),
            Err(error) => return Err(error.into()),
        }
        let bytes = count.bytes;
        if self.written.spend(bytes) { Ok(()) } else { Err(self.too_much_written()) }
    }

    fn charge(&self, name: &str, bytes: usize) -> Result<(), Error> {
        if bytes <= SHORT || self.made.spend(bytes) {
            return Ok(());
        }
        Err(refused(format!("with `{name}` it makes texts and lists of more than {} MiB", self.made.whole >> 20)))
    }

    fn too_much_written(&self) -> Error {
        refused(format!("it writes more than {} MiB", self.written.whole >> 20))
    }
}

/// Counts what is printed, up to a limit, and may pass it on.
struct Count<'a, 'b> {
    bytes: usize,
    most: usize,
    output: Option<&'a mut Output<'b>>,
}

impl Write for Count<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > self.most {
            return Err(fmt::Error);
        }
        self.output.as_mut().map_or(Ok(()), |output| output.write_str(text))
    }
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// Items of a list or mapping, bytes of a text.
fn items(value: &Value) -> usize {
    let counted = || value.try_iter().map_or(0, |items| items.take(MOST_COUNTED).count());
    value.as_str().map_or_else(|| value.len().unwrap_or_else(counted), str::len)
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
            ("{{ 2 * 3 * 4 - (1 + 2) * (3) * -2 }} {{ 2 ** 3 * 2 / 4 }} {{ 2.5 * 2 }}", "42 4.0 5.0"),
            (
                "{{ 'ab' * 2 * 2 ~ (3 * '-') }}{{ [1] * 2 + [2] }}{{ (1, 2) * 2 }}{{ -1 * 3 | abs }}",
                "abababab---[1, 1, 2](1, 2, 1, 2)-3",
            ),
            ("{{ ('a' ~ 1) ~ ('b' ~ (2 + 3)) ~ 'c' if 1 + 1 == 2 else 'd' ~ 'e' }}", "a1b5c"),
            (
                "{% for c in 'äb' ~ '' %}{{ c }}{% endfor %}{% set t = 'äb' %}{% for c in t %}{{ c }}{{ loop.last }}{% endfor %}",
                "äbäFalsebTrue",
            ),
            ("{% for x in nothing %}{% endfor %}{% for x in none %}{% endfor %}a", "a"),
            ("{% for x in messages[0].missing %}{% else %}b{% endfor %}", "b"),
            ("{% set x = none %}{{ x is none }}{% set y = nothing %}{{ y is defined }}", "TrueFalse"),
            ("{{ nothing }}{{ none }}{{ nothing ~ 'a' }}{{ [nothing] | length }}", "Nonea1"),
        ] {
            assert_eq!(render(source), expected, "{source}");
        }
    }

    #[test]
    fn what_would_multiply_is_refused() {
        for (source, name) in [
            ("{{ 'a\nb' | indent(1099511627776) }}", "indent"),
            ("{{ 'a\nb' | indent(width=100000000) }}", "indent"),
            ("{{ '' | indent(4294967295) }}", "indent"),
            ("{{ nothing | indent(4294967295) }}", "indent"),
            ("{{ [1] | slice(4294967296) | length }}", "slice"),
            ("{{ [1] | batch(4294967296, 0) | length }}", "batch"),
            ("{{ '%1000000000d' | format(1) }}", "format"),
            ("{{ '{:>1000000000}'.format(1) }}", "format"),
            ("{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}", "replace"),
            ("{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}", "replace"),
            ("{{ ('a' * 1000000).join([1] * 1000) }}", "join"),
            ("{{ ([1] * 1000) | join('a' * 1000000) }}", "join"),
            ("{{ 'a' * 100000000 }}", "*"),
            ("{{ 100000000 * 'a' }}", "*"),
            ("{% set n = 100000000 %}{{ ('ab' * n) | length }}", "*"),
            ("{{ [0] * 100000000 }}", "*"),
            ("{{ (0, 1) * 50000000 }}", "*"),
            ("{{ ['a' * 1000000] * 1000 }}", "*"),
            ("{{ [['a' * 1000] * 1000] * 1000 }}", "*"),
            ("{% set a = [0] * 1000 %}{% set b = a * 2000 %}", "*"),
            ("{% set x = 'a' * 1000000 %}{{ [x, x, x, x, x, x, x, x, x, x, x, x, x] ~ '' }}", "~"),
            ("{% set x = 'a' * 1000000 %}{{ [x, x, x, x, x, x, x, x, x, x, x, x, x] | string }}", "string"),
            ("{% set x = 'a' * 1000000 %}{{ [x, x, x, x, x, x, x, x, x, x, x, x, x] | tojson }}", "tojson"),
            ("{% set x = 'a' * 1000000 %}{{ x.split('a') }}", "split"),
            ("{% set x = 'a' * 1000000 %}{{ x | list }}", "list"),
            ("{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "~"),
            ("{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('a') }}", "+"),
            ("{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f([1]) }}", "+"),
        ] {
            let answer = render(source);
            let expected = format!("with `{name}` it makes texts and lists of more than 12 MiB");
            assert!(answer.contains(&expected), "{source}: {answer}");
        }
    }

    #[test]
    fn what_is_written_again_and_again_is_refused() {
        let long = "word ".repeat(2000);
        for source in [
            "{% set t = 'word' * 1000000 %}{% set u %}{% for i in range(100) %}{{ t }}{% endfor %}{% endset %}",
            &format!("{{% set u %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endset %}}"),
            &format!(
                "{{% macro f() %}}{{% for i in range(100000) %}}{{% raw %}}{long}{{% endraw %}}{{% endfor %}}{{% endmacro %}}{{{{ f() }}}}"
            ),
        ] {
            let answer = render(source);
            assert!(answer.contains("it writes more than 16 MiB"), "{answer}");
        }
        assert!(render(&"~ ".repeat(200)).contains("no words"));
    }
}
