//! `tojson` as chat templates know it: Python's `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// A template can build values of any depth; none is sent deeper than this.
const DEEPEST: usize = 256;

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`; the last only by name.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    separators: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let flag = |positional: Option<bool>, name| -> Result<bool, Error> {
        let named: Option<bool> = kwargs.get(name)?;
        Ok(named.or(positional).unwrap_or(false))
    };
    let setting = |positional: Option<Value>, name| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or(positional).filter(|value| !value.is_none()))
    };
    let indent = match setting(indent, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(usize::try_from(i64::try_from(width)?.clamp(0, 64)).unwrap_or(0))),
    };
    let (item, key) = match setting(separators, "separators")? {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        ensure_ascii: flag(ensure_ascii, "ensure_ascii")?,
        sort_keys: flag(None, "sort_keys")?,
        indent,
        item,
        key,
    };
    kwargs.assert_all_used()?;
    let mut output = String::new();
    style.value(value, 0, &mut output)?;
    Ok(Value::from(output))
}

struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Style {
    fn value(&self, value: &Value, depth: usize, output: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(problem("a value is nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => output.push_str("null"),
            ValueKind::Bool => output.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => output.push_str(&number(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), output),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.nest(['[', ']'], items, depth, output, |item, output| self.value(item, depth + 1, output))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((self.name(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.nest(['{', '}'], entries, depth, output, |(key, item), output| {
                    self.text(key, output);
                    output.push_str(&self.key);
                    self.value(item, depth + 1, output)
                })?;
            }
            kind => return Err(problem(&format!("a value of type {kind} cannot be written as JSON"))),
        }
        Ok(())
    }

    /// Writes items between brackets, each on a line of its own when there is an indent.
    fn nest<T>(
        &self,
        [open, close]: [char; 2],
        items: Vec<T>,
        depth: usize,
        output: &mut String,
        mut write: impl FnMut(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        output.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                output.push_str(&self.item);
            }
            self.line(depth + 1, output);
            write(item, output)?;
        }
        if !items.is_empty() {
            self.line(depth, output);
        }
        output.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, output: &mut String) {
        if let Some(indent) = &self.indent {
            output.push('\n');
            output.push_str(&indent.repeat(depth));
        }
    }

    /// A key, which JSON wants to be text.
    fn name(&self, key: &Value) -> Result<String, Error> {
        match key.kind() {
            ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
            ValueKind::Number => number(key),
            ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
            ValueKind::None => Ok("null".to_owned()),
            kind => Err(problem(&format!("a key of type {kind} cannot be written as JSON"))),
        }
    }

    fn text(&self, text: &str, output: &mut String) {
        output.push('"');
        for character in text.chars() {
            match character {
                '"' => output.push_str("\\\""),
                '\\' => output.push_str("\\\\"),
                '\n' => output.push_str("\\n"),
                '\r' => output.push_str("\\r"),
                '\t' => output.push_str("\\t"),
                '\u{8}' => output.push_str("\\b"),
                '\u{c}' => output.push_str("\\f"),
                _ if character < ' ' || (self.ensure_ascii && !character.is_ascii()) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(output, "\\u{unit:04x}").ok();
                    }
                }
                _ => output.push(character),
            }
        }
        output.push('"');
    }
}

fn problem(text: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text.to_owned())
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    f64::try_from(value.clone()).map(float)
}

/// Python's `repr` of a float: the shortest digits that give it back, with an exponent from 1e16 and below 1e-4.
fn float(value: f64) -> String {
    if !value.is_finite() {
        let name = if value.is_nan() { "NaN" } else { "Infinity" };
        return if value < 0.0 { format!("-{name}") } else { name.to_owned() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 if value.fract() == 0.0 => format!("{value}.0"),
        -4..16 => value.to_string(),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use minijinja::{Environment, context};

    fn render(expression: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", tojson);
        let value: serde_json::Value =
            serde_json::from_str(r#"{"z": [1, -2.5, true, null], "a": {"é\"\n\u0001\u007f<&'>😀": {}}, "e": []}"#)
                .unwrap();
        let source = format!("{{{{ {expression} }}}}");
        environment.render_str(&source, context! { value => Serde(value) }).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn keeps_order_and_characters_like_python() {
        assert_eq!(
            render("value | tojson"),
            "{\"z\": [1, -2.5, true, null], \"a\": {\"é\\\"\\n\\u0001\u{7f}<&'>😀\": {}}, \"e\": []}"
        );
        assert_eq!(
            render("value.a | tojson(ensure_ascii=true)"),
            "{\"\\u00e9\\\"\\n\\u0001\u{7f}<&'>\\ud83d\\ude00\": {}}"
        );
        assert_eq!(render("value.z | tojson(separators=(',', ':'))"), "[1,-2.5,true,null]");
    }

    #[test]
    fn indents_and_sorts_like_python() {
        assert_eq!(
            render("value | tojson(indent=2, sort_keys=true)"),
            "{\n  \"a\": {\n    \"é\\\"\\n\\u0001\u{7f}<&'>😀\": {}\n  },\n  \"e\": [],\n  \"z\": [\n    1,\n    -2.5,\n    true,\n    null\n  ]\n}"
        );
        assert_eq!(render("[1, 2] | tojson(indent='\t')"), "[\n\t1,\n\t2\n]");
        assert_eq!(render("{1: 2, true: 3, none: 4} | tojson"), "{\"1\": 2, \"true\": 3, \"null\": 4}");
    }

    #[test]
    fn floats_are_written_like_python() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(render("missing | tojson").contains("undefined"));
        assert!(render("range | tojson").contains("cannot be written"));
        assert!(render("value | tojson(width=3)").contains("width"));
    }
}
