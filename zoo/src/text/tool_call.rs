//! Calls of tools in what a model says.

use serde::Serialize;
use serde_json::{Deserializer, Value};

/// A tool that a model wants called.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// What it is to be called with, by name.
    pub arguments: Value,
    /// The model's own name for this call, to which the result refers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The calls in an answer, in the known formats: `<tool_call>{…}</tool_call>` (Hermes, Qwen), `[TOOL_CALLS]` (Mistral: a
/// list, or name and arguments), and nothing but JSON with a `name` and `parameters` (Llama). What is malformed is no call.
///
/// ```
/// let calls = zoo::text::tool_calls("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>");
/// assert_eq!((calls[0].name.as_str(), &calls[0].arguments["zone"]), ("now", &"UTC".into()));
/// ```
pub fn tool_calls(text: &str) -> Vec<ToolCall> {
    let said = text.rsplit_once("</think>").map_or(text, |(_, said)| said);
    let found = [hermes, mistral, llama].map(|format| format(said));
    found.into_iter().find(|calls| !calls.is_empty()).unwrap_or_default()
}

fn hermes(said: &str) -> Vec<ToolCall> {
    said.split("<tool_call>").skip(1).filter_map(|rest| call(value(rest)?.0)).collect()
}

fn mistral(said: &str) -> Vec<ToolCall> {
    said.split("[TOOL_CALLS]").skip(1).flat_map(mistral_calls).collect()
}

/// `[{"name": …, "arguments": …, "id": …}, …]`, `name{…}`, `name[CALL_ID]id[ARGS]{…}`.
fn mistral_calls(rest: &str) -> Vec<ToolCall> {
    if let Some((Value::Array(calls), _)) = value(rest) {
        return calls.into_iter().filter_map(call).collect();
    }
    let named = rest.find('{').and_then(|at| rest.split_at_checked(at)).and_then(|(head, arguments)| {
        let head = head.trim().trim_end_matches("[ARGS]");
        let (name, id) = head.split_once("[CALL_ID]").map_or((head, None), |(name, id)| (name, Some(id.to_owned())));
        let (arguments, _) = value(arguments)?;
        (!name.is_empty()).then(|| ToolCall { name: name.to_owned(), arguments, id })
    });
    named.into_iter().collect()
}

/// Values one after the other, between which a semicolon may stand; all of them are calls, or none is.
fn llama(said: &str) -> Vec<ToolCall> {
    let mut rest = said.trim();
    rest = rest.strip_prefix("<|python_tag|>").unwrap_or(rest);
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let Some((Some(call), after)) = value(rest).map(|(value, after)| (call(value), after)) else {
            return Vec::new();
        };
        calls.push(call);
        rest = after.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    calls
}

/// The JSON that a text begins with, and what follows it.
fn value(text: &str) -> Option<(Value, &str)> {
    let mut values = Deserializer::from_str(text).into_iter();
    let value = values.next()?.ok()?;
    Some((value, text.get(values.byte_offset()..)?))
}

fn call(value: Value) -> Option<ToolCall> {
    let Value::Object(mut fields) = value else { return None };
    let Value::String(name) = fields.remove("name")? else { return None };
    let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"))?;
    let arguments = match arguments {
        // Some models write the arguments as a text that holds them.
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        arguments => arguments,
    };
    let id = fields.get("id").and_then(Value::as_str).map(str::to_owned);
    Some(ToolCall { name, arguments, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_known_format_is_read() {
        let weather = |id: Option<&str>| ToolCall {
            name: "weather".into(),
            arguments: json!({"city": "Zürich; {x}", "days": 2}),
            id: id.map(str::to_owned),
        };
        let now = ToolCall { name: "now".into(), arguments: json!({}), id: None };
        let arguments = r#"{"city": "Zürich; {x}", "days": 2}"#;
        for (text, expected) in [
            (
                format!(
                    "Let me see.\n<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>\n<tool_call>\n{{\"name\": \"now\", \"arguments\": {{}}}}\n</tool_call>"
                ),
                vec![weather(None), now.clone()],
            ),
            (
                format!(
                    "<think>a <tool_call>{{}}</tool_call></think><tool_call>{{\"name\":\"weather\",\"arguments\":{arguments}}}"
                ),
                vec![weather(None)],
            ),
            (
                format!(
                    "[TOOL_CALLS] [{{\"name\": \"weather\", \"arguments\": {arguments}, \"id\": \"9\"}}, {{\"name\": \"now\", \"arguments\": {{}}}}]"
                ),
                vec![weather(Some("9")), now.clone()],
            ),
            (format!("[TOOL_CALLS]weather{arguments}[TOOL_CALLS]now{{}}"), vec![weather(None), now.clone()]),
            (
                format!("[TOOL_CALLS]weather[CALL_ID]9[ARGS]{arguments}[TOOL_CALLS]now[ARGS]{{}}"),
                vec![weather(Some("9")), now.clone()],
            ),
            (
                format!(
                    "<|python_tag|>{{\"name\": \"weather\", \"parameters\": {arguments}}}; {{\"name\": \"now\", \"parameters\": {{}}}}"
                ),
                vec![weather(None), now.clone()],
            ),
            (r#"{"name": "now", "arguments": "{}"}"#.to_owned(), vec![now]),
        ] {
            assert_eq!(tool_calls(&text), expected, "{text}");
        }
    }

    #[test]
    fn other_text_is_no_call() {
        for text in [
            "",
            "hello {\"name\": \"now\", \"parameters\": {}}",
            "{\"name\": \"Anna\", \"age\": 3}",
            "{\"name\": \"now\", \"parameters\": {}} and more",
            "<tool_call>\n{\"name\": \"now\", \"argu",
            "<tool_call>now</tool_call>",
            "[TOOL_CALLS]",
            "[TOOL_CALLS]now",
            "[TOOL_CALLS]{}",
            "[TOOL_CALLS]now{\"a\": ",
            "{\"name\": 3, \"parameters\": {}}",
        ] {
            assert_eq!(tool_calls(text), [], "{text}");
        }
    }
}
