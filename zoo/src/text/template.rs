//! Chat templates: a conversation becomes the prompt that the model was trained on.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use chrono::Local;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::limits::Budget;
use super::metered::metered;
use crate::error::{Error, Result};

/// One message of a conversation. Templates see it as it is serialised.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` …
    pub role: String,
    /// The text, or for some models a list of parts (`{"type": "text", "text": …}`).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub content: Value,
    /// Whatever else the template understands: `tool_calls`, `tool_call_id`, `name`, `reasoning_content` …
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(text.into()), extra: Map::new() }
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new("user", text)
    }

    /// What the model said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new("assistant", text)
    }

    /// The standing instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new("system", text)
    }
}

/// A model's Jinja template, rendered as `transformers` does: the same environment (`trim_blocks`, `lstrip_blocks`, loop
/// controls, methods of Python's types, `raise_exception`, `strftime_now`, Python's `tojson`), the same variables
/// (`messages`, `tools`, `documents`, `add_generation_prompt`, the special tokens by name), the same handling of empty
/// fields and of the several names for reasoning. `{% generation %}` blocks render their content.
///
/// A template is data from a stranger, so it runs with a bounded number of instructions, a bounded output and a stack
/// that these cannot overflow, and what its operators, filters and captured texts come to is bounded.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// By name: `default`, and `tool_use` for requests with tools.
    templates: BTreeMap<String, String>,
    special: Map<String, Value>,
}

/// Instructions that any conversation may cost, and each value in it: real templates need a tenth of it.
const FUEL: u64 = 50_000;
const FUEL_PER_VALUE: u64 = 1_000;
const MOST_FUEL: u64 = 2_000_000;
/// An instruction nests a value by at most one level; the stack holds a walk over a value of that depth.
const STACK_PER_FUEL: usize = if cfg!(debug_assertions) { 4096 } else { 1024 };
const STACK: usize = 8 << 20;
/// Bytes of the longest prompt.
const LONGEST: usize = 16 << 20;
/// Depth of a value in a namespace, and number of values within it.
const DEEPEST_STORED: usize = 64;
const MOST_STORED: usize = 100_000;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The names under which reasoning is passed, the one that templates read first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The switches for thinking: of Qwen, GLM and SmolLM; of DeepSeek and Kimi.
const THINKING: [&str; 2] = ["enable_thinking", "thinking"];

impl ChatTemplate {
    /// A template without special tokens.
    pub fn new(source: impl Into<String>) -> Self {
        Self { templates: BTreeMap::from([(DEFAULT.to_owned(), source.into())]), special: Map::new() }
    }

    /// Templates by name, and the special tokens by theirs (`bos_token` …); nothing without a template.
    pub(super) fn named(
        templates: impl IntoIterator<Item = (String, String)>,
        special: Map<String, Value>,
    ) -> Option<Self> {
        let templates: BTreeMap<_, _> = templates.into_iter().collect();
        (!templates.is_empty()).then_some(Self { templates, special })
    }

    /// The prompt for `messages`, each an object like [`Message`].
    ///
    /// `tools` is a list of JSON schemas. With `add_generation_prompt` the prompt ends with the header of the model's own
    /// message. `extra` are further variables of the template (`enable_thinking`, `date_string`, `documents` …), before
    /// the special tokens of the same name. An encoded prompt needs no `add_special`.
    ///
    /// # Errors
    /// No messages, a message that is no object, tools that are no list, an `extra` with the name of an argument; a
    /// template that is malformed, refuses the conversation or costs too much, with its line.
    pub fn render(
        &self,
        messages: &[impl Serialize],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String> {
        let (name, source) = self.choose(tools.is_some())?;
        let messages: Vec<Value> = messages.iter().map(message).collect::<Result<_>>()?;
        if messages.is_empty() {
            return Err(Error::argument("messages", "a conversation needs at least one message"));
        }
        if tools.is_some_and(|tools| !tools.is_array()) {
            return Err(Error::argument("tools", "expected a list of JSON schemas"));
        }
        let mut variables = self.special.clone();
        variables.insert("documents".to_owned(), Value::Null);
        for (key, value) in extra {
            if ["messages", "tools", "add_generation_prompt"].contains(&key.as_str()) {
                return Err(Error::argument("extra", format!("`{key}` has an argument of its own")));
            }
            variables.insert(key.clone(), value.clone());
        }
        variables.insert("messages".to_owned(), Value::Array(messages));
        variables.insert("tools".to_owned(), tools.cloned().unwrap_or_default());
        variables.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        bounded(name, source, &Value::Object(variables))
    }

    /// Whether the template that serves requests with or without tools reads a variable.
    pub fn reads(&self, variable: &str, tools: bool) -> bool {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        self.choose(tools).is_ok_and(|(_, source)| source.split(|c| !word(c)).any(|name| name == variable))
    }

    /// The variable that says whether the model thinks.
    ///
    /// # Errors
    /// When there is none.
    pub fn thinking_switch(&self) -> Result<&'static str> {
        let found = THINKING.into_iter().find(|name| self.reads(name, false));
        found.ok_or_else(|| Error::template("it has no switch for thinking"))
    }

    fn choose(&self, tools: bool) -> Result<(&str, &str)> {
        let wanted = [tools.then_some(TOOL_USE), Some(DEFAULT)];
        let found = wanted.into_iter().flatten().find_map(|name| self.templates.get_key_value(name));
        let (name, source) = found.ok_or_else(|| {
            let names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
            Error::template(format!("none is called `{DEFAULT}`; there are {}", names.join(", ")))
        })?;
        Ok((name, source))
    }
}

/// A message as templates expect it: without empty fields, reasoning under the name that they read.
fn message(message: &impl Serialize) -> Result<Value> {
    let value = serde_json::to_value(message).map_err(|error| Error::argument("messages", error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(Error::argument("messages", "a message is an object with `role` and `content`"));
    };
    fields.retain(|_, value| !value.is_null());
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(Value::Object(fields))
}

/// Renders with limits. A value can be nested by every instruction, and walks over values are recursive, so the stack is
/// as large as the fuel lets a value become.
fn bounded(name: &str, source: &str, variables: &Value) -> Result<String> {
    let fuel = FUEL.saturating_add(FUEL_PER_VALUE.saturating_mul(count(variables))).min(MOST_FUEL);
    let stack = usize::try_from(fuel).unwrap_or(usize::MAX).saturating_mul(STACK_PER_FUEL);
    thread::scope(|scope| {
        thread::Builder::new()
            .stack_size(stack.saturating_add(STACK))
            .spawn_scoped(scope, || run(name, source, variables, fuel))
            .map_err(|error| Error::template(format!("no thread to render on: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(Error::template("the template engine failed on it")))
    })
}

fn run(name: &str, source: &str, variables: &Value, fuel: u64) -> Result<String> {
    let failed = |error: minijinja::Error| Error::template(describe(name, &error));
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(failed)?;
    environment.set_syntax(syntax.clone());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let budget = Budget::new(bytes(variables), usize::try_from(count(variables)).unwrap_or(usize::MAX));
    let methods = budget.clone();
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        methods.make(method, &[std::slice::from_ref(value), arguments].concat())?;
        unknown_method_callback(state, value, method, arguments)
    });
    environment.set_fuel(Some(fuel));
    budget.govern(&mut environment);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("storable", storable);
    environment.add_function("strftime_now", strftime_now);
    let source = metered(&portable(source), syntax).map_err(Error::template)?;
    let mut output = Bounded(Vec::new());
    environment
        .add_template(name, &source)
        .and_then(|()| environment.get_template(name))
        .and_then(|template| template.render_captured_to(Serde(variables), &mut output))
        .map_err(failed)?;
    String::from_utf8(output.0).map_err(|error| Error::template(error.to_string()))
}

/// Python's `len`, which Jinja extends to undefined values.
fn length(value: &minijinja::Value) -> Result<usize, minijinja::Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// Whether Python could loop over it; the engine itself loops over `none`, which is nothing.
fn is_iterable(value: &minijinja::Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    std::fmt::Write::write_fmt(&mut text, format_args!("{}", Local::now().format(format))).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a format of a date"))
    })?;
    Ok(text)
}

/// The source without what the engine does not know: Windows' line ends (Jinja reads them as `\n`), and the marks that
/// `transformers` puts around what the model said. These have a scope of their own, like `with`.
///
/// Namespaces are the only values that can change, so they alone can come to hold themselves, and the engine walks
/// values without looking. What is stored in one goes through [`storable`] first.
fn portable(source: &str) -> String {
    let source = joined(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let mut output = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some((before, tag)) = rest.split_once("{%") {
        output.push_str(before);
        output.push_str("{%");
        rest = tag;
        let name = tag.trim_start_matches(['-', '+']).trim_start();
        for (mark, scope) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(end) = name.strip_prefix(mark) else { continue };
            if end.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                output.extend(tag.strip_suffix(name));
                output.push_str(scope);
                rest = end;
            }
        }
        if let Some((value, end)) = stored(name) {
            output.extend(tag.strip_suffix(value));
            output.push_str(" (");
            output.extend(value.strip_suffix(end));
            output.push_str(")|storable");
            rest = end;
        }
    }
    output + rest
}

/// The source without the line ends that a backslash hides in a quoted text: Python joins the lines, the engine does not.
fn joined(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let (mut end, mut quote) = (None, None);
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        let mut taken = character.len_utf8();
        match (end, quote) {
            (None, _) => {
                let tags = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];
                end = tags.into_iter().find(|(begin, _)| rest.starts_with(begin)).map(|(_, end)| end);
                taken = if end.is_some() { 2 } else { taken };
            }
            (Some("#}"), _) if !rest.starts_with("#}") => {}
            (Some(_), Some(_)) if rest.starts_with("\\\n") => {
                rest = rest.get(2..).unwrap_or_default();
                continue;
            }
            (Some(_), Some(_)) if character == '\\' => {
                taken = taken.saturating_add(rest.chars().nth(1).map_or(0, char::len_utf8));
            }
            (Some(_), Some(open)) if character == open => quote = None,
            (Some(_), None) if ['\'', '"'].contains(&character) => quote = Some(character),
            (Some(close), None) if rest.starts_with(close) => end = None,
            _ => {}
        }
        let (done, after) = rest.split_at_checked(taken).unwrap_or((rest, ""));
        output.push_str(done);
        rest = after;
    }
    output
}

/// For a tag like `set target.field = value %}…`: the text from the value on, and that after it.
fn stored(tag: &str) -> Option<(&str, &str)> {
    let (target, value) = tag.strip_prefix("set")?.split_once('=')?;
    let is_name = |character: char| character.is_alphanumeric() || "_., \t\n".contains(character);
    if !target.starts_with(char::is_whitespace) || !target.contains('.') || !target.chars().all(is_name) {
        return None;
    }
    let mut quote = None;
    let mut rest = value;
    loop {
        if quote.is_none() && ["%}", "-%}", "+%}"].iter().any(|end| rest.starts_with(end)) {
            return Some((value, rest));
        }
        let mut characters = rest.chars();
        match (quote, characters.next()?) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), character) if open == character => quote = None,
            (None, mark @ ('\'' | '"')) => quote = Some(mark),
            _ => {}
        }
        rest = characters.as_str();
    }
}

/// Passes on a value that a namespace may hold: none with a namespace in it, none of excessive depth or size.
fn storable(value: minijinja::Value) -> Result<minijinja::Value, minijinja::Error> {
    let mut level = vec![value.clone()];
    let mut seen = 0;
    for _ in 0..DEEPEST_STORED {
        let mut inner = Vec::new();
        for value in level {
            if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
                return Err(refused("a namespace cannot be stored in a namespace"));
            }
            let is_map = value.kind() == ValueKind::Map;
            if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
                continue;
            }
            for item in value.try_iter()? {
                seen += 1;
                if seen > MOST_STORED {
                    return Err(refused("a value in a namespace is too large"));
                }
                inner.push(if is_map { value.get_item(&item)? } else { item });
            }
        }
        if inner.is_empty() {
            return Ok(value);
        }
        level = inner;
    }
    Err(refused("a value in a namespace is nested too deeply"))
}

fn refused(problem: &'static str) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, problem)
}

fn describe(name: &str, error: &minijinja::Error) -> String {
    let place = match (name, error.line()) {
        (DEFAULT, Some(line)) => format!("line {line}: "),
        (name, Some(line)) => format!("`{name}`, line {line}: "),
        _ => String::new(),
    };
    let problem = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it runs for too long".to_owned(),
        (ErrorKind::WriteFailure, _) => format!("the prompt is longer than {} MiB", LONGEST >> 20),
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    place + &problem
}

/// Number of values within `value`.
fn count(value: &Value) -> u64 {
    let inner: u64 = match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    };
    inner.saturating_add(1)
}

/// Bytes of the texts within `value`.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len().saturating_add(bytes(value))).sum(),
        _ => 0,
    }
}

/// A buffer that refuses to grow beyond the longest prompt.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: Value) -> Result<String> {
        let Value::Array(messages) = messages else { panic!("messages are a list") };
        ChatTemplate::new(source).render(&messages, None, true, &Map::new())
    }

    fn one(source: &str) -> String {
        render(source, json!([{"role": "user", "content": "hi"}])).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn smollm2_speaks_chatml() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
            {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(source);
        let conversation = [Message::system("Be brief."), Message::user("2+2?"), Message::assistant("4")];
        assert_eq!(
            template.render(&conversation, None, false, &Map::new()).unwrap(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        );
        let prompt = template.render(&[Message::user("hi")], None, true, &Map::new()).unwrap();
        assert!(prompt.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM"));
        assert!(prompt.ends_with("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));
    }

    #[test]
    fn blocks_take_their_line_with_them() {
        assert_eq!(one("  {% if true %}\r\n  x\r\n  {% endif %}\n  y\n"), "  x\n  y");
        assert_eq!(one("a {%- if true -%} b {%- endif -%} c"), "abc");
    }

    #[test]
    fn values_look_like_pythons() {
        assert_eq!(
            one("{{ [true, none, 'a', 1.0] }} {{ messages[0].missing }} {{ tools is none }}"),
            "[True, None, 'a', 1.0]  True"
        );
        assert_eq!(
            one("{{ ' a b '.strip().split(' ') }} {{ 'ab'[::-1] }} {{ messages[-1:] | length }}"),
            "['a', 'b'] ba 1"
        );
        assert_eq!(one("{{ tools is iterable }} {{ nothing | length }} {{ 'a' is iterable }}"), "False 0 True");
    }

    #[test]
    fn loops_can_be_left_and_namespaces_written() {
        let source = "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}\
            {% if i == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
        assert_eq!(one(source), "5");
    }

    #[test]
    fn marks_of_generated_text_render_their_content() {
        let source = "a{% generation %}{% set x = 1 %}b{% endgeneration %}{{ x is defined }} {%- generation -%} c {%- endgeneration -%} d\n";
        assert_eq!(one(source), "abFalsecd");
        assert_eq!(one("{{ '{% generation' }}"), "{% generation");
    }

    #[test]
    fn messages_lose_empty_fields_and_reasoning_has_one_name() {
        let source = "{{ messages | tojson }}";
        let messages = json!([{"role": "assistant", "content": null, "thinking": "hm", "tool_calls": []}]);
        assert_eq!(
            render(source, messages).unwrap(),
            r#"[{"role": "assistant", "thinking": "hm", "tool_calls": [], "reasoning_content": "hm"}]"#
        );
        let message = Message { extra: Map::from_iter([("name".to_owned(), json!("n"))]), ..Message::user("é") };
        let text = ChatTemplate::new(source).render(&[message], None, true, &Map::new()).unwrap();
        assert_eq!(text, r#"[{"role": "user", "content": "é", "name": "n"}]"#);
    }

    #[test]
    fn tools_choose_their_template_and_extras_reach_it() {
        let templates = [("default", "{{ mode }}{{ documents }}"), ("tool_use", "{{ tools[0].name }}{{ mode }}")];
        let templates = templates.map(|(name, source)| (name.to_owned(), source.to_owned()));
        let template = ChatTemplate::named(templates, Map::from_iter([("mode".to_owned(), json!("special"))])).unwrap();
        let hi = [Message::user("hi")];
        assert_eq!(template.render(&hi, None, true, &Map::new()).unwrap(), "specialNone");
        let extra = Map::from_iter([("mode".to_owned(), json!(1))]);
        assert_eq!(template.render(&hi, Some(&json!([{"name": "f"}])), true, &extra).unwrap(), "f1");
    }

    #[test]
    fn a_refusal_is_the_templates_own_words_and_line() {
        assert_eq!(
            one("line one\n{{ raise_exception('Roles must alternate, ' ~ messages[0].role) }}"),
            "chat template: line 2: Roles must alternate, user"
        );
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (source, words) in [
            ("\n{% if %}", vec!["line 2", "syntax error"]),
            ("\n\n{{ messages[0].a.b }}", vec!["line 3", "undefined"]),
            ("{{ 'a' | nothing }}", vec!["line 1", "nothing"]),
            ("{{ 'a'.nothing() }}", vec!["line 1", "nothing"]),
            ("{{ strftime_now('%!') }}", vec!["line 1", "%!"]),
            ("{% include 'x' %}", vec!["line 1"]),
        ] {
            let message = one(source);
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        assert_eq!(one("{{ strftime_now('%Y') | length }}"), "4");
    }

    #[test]
    fn arguments_are_checked() {
        let template = ChatTemplate::new("");
        let none: [Message; 0] = [];
        let hi = [Message::user("hi")];
        let refused = |result: Result<String>| result.unwrap_err().to_string();
        assert!(refused(template.render(&none, None, true, &Map::new())).contains("messages"));
        assert!(refused(template.render(&["hi"], None, true, &Map::new())).contains("object"));
        assert!(refused(template.render(&hi, Some(&json!({})), true, &Map::new())).contains("tools"));
        let extra = Map::from_iter([("tools".to_owned(), json!([]))]);
        assert!(refused(template.render(&hi, None, true, &extra)).contains("tools"));
        let named = ChatTemplate::named([("rag".to_owned(), String::new())], Map::new()).unwrap();
        assert!(refused(named.render(&hi, None, true, &Map::new())).contains("rag"));
    }

    #[test]
    fn a_hostile_template_ends() {
        let forever = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
        assert!(one(forever).contains("too long"));
        let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(one(recursive).contains("recursion"));
        let parenthesised = format!("{{{{ {}1{} }}}}", "(".repeat(1_000), ")".repeat(1_000));
        assert!(one(&parenthesised).contains("recursion"));
        let long = "{% set x = 'x' * 1000000 %}{% for i in range(2000) %}{{ x }}{% endfor %}";
        assert!(one(long).contains("writes more than"));
    }

    #[test]
    fn what_would_overflow_the_stack_is_refused() {
        for piece in ["~a", "|e", ".a", "*1", "+1", "[0]", "()", " if a else a", " and a", " is a", "[0:]", "{}"] {
            for times in [1_200, 300_000] {
                let source = format!("{{{{ a{} }}}}", piece.repeat(times));
                let answer = one(&source);
                assert!(
                    times < 300_000 || answer.contains("too long") || answer.contains("syntax error"),
                    "{piece}: {answer}"
                );
            }
        }
        for (times, expected) in [(900, ""), (80_000, "chat template: it has too many branches")] {
            assert_eq!(one(&format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(times))), expected);
        }
    }

    #[test]
    fn a_namespace_holds_neither_itself_nor_what_grows_without_end() {
        let source = |value: &str| {
            format!(
                "{{% set ns = namespace(x=[1]) %}}{{% for i in range(200) %}}{{%- set ns.x = {value} -%}}{{% endfor %}}{{{{ ns.x }}}}"
            )
        };
        for value in ["ns", "[ns]", "{'a': (1, ns)}", "namespace(a=ns)", "'%}' and ns"] {
            assert!(one(&source(value)).contains("cannot be stored"), "{value}");
        }
        assert!(one(&source("[ns.x]")).contains("too deeply"));
        assert!(one(&source("{'a': ns.x}")).contains("too deeply"));
        assert!(one(&source("[ns.x, ns.x]")).contains("too large"));
        assert!(one(&source("ns.x + ns.x")).contains("too large"));
        assert_eq!(one(&source("[i]")), "[199]");
        assert_eq!(one(&source("(1, '\\'%}', \"%}'\", i if i < 5 else 2)")), "(1, \"'%}\", \"%}'\", 2)");
    }

    #[test]
    fn a_backslash_joins_lines_in_a_quoted_text_and_nowhere_else() {
        for (source, expected) in [
            ("{{ 'a\\\nb' ~ \"c\\\n\\\nd\" }}", "abcd"),
            ("{% set x = 'a\\\n\"b' %}{{ x }}\\\nc", "a\"b\\\nc"),
            ("{# it's #}'a\\\nb'{{ 'c' }}", "'a\\\nb'c"),
            ("{{ 'a\\\\' ~ '\\\nb' }}", "a\\b"),
            ("{{ '\\'\\\né' }}", "'é"),
        ] {
            assert_eq!(one(source), expected, "{source}");
        }
    }

    #[test]
    fn assignments_are_told_from_other_tags() {
        for (source, expected) in [
            ("{% set ns.x = 1 %}", "{% set ns.x = ( 1 )|storable%}"),
            ("{%- set ns.x=a -%}", "{%- set ns.x= (a )|storable-%}"),
            ("{% set x = ns.x %}{% set ns.x %}a{% endset %}", "{% set x = ns.x %}{% set ns.x %}a{% endset %}"),
            ("{% if a.b == 1 %}{% set ns.x = 1", "{% if a.b == 1 %}{% set ns.x = 1"),
        ] {
            assert_eq!(portable(source), expected);
        }
    }

    #[test]
    fn values_as_deep_as_the_fuel_allows_do_not_overflow_the_stack() {
        let deep = format!("{{% set x = {}x{} %}}", "[".repeat(60), "]".repeat(60)).repeat(750);
        for (end, expected) in [("ok", "ok"), ("{{ x | string | length > 0 }}", "True"), ("{{ x == [x] }}", "False")] {
            assert_eq!(one(&format!("{deep}{end}")), expected);
        }
        assert!(one(&(deep + "{{ x | tojson }}")).contains("too deeply"));
    }
}
