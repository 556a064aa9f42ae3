//! Answers that have a structure: JSON that satisfies a schema, whatever the model would rather say.

use crate::{Error, Result, text::Tokenizer};
use llguidance::{
    Matcher, ParserFactory, TokenParser,
    api::TopLevelGrammar,
    panic_utils::catch_unwind,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Map, Value, json};
use std::{panic::AssertUnwindSafe, sync::Arc};

/// White space between the parts of a value: none, a space, or a new line and its indent. JSON allows any amount, in which
/// small models get lost.
const WHITE_SPACE: &str = r" |\n[ \t]{0,40}";

/// Keywords of a schema whose values are a schema, a schema a name, and a list of schemas.
const ONE: [&str; 2] = ["items", "additionalProperties"];
const NAMED: [&str; 4] = ["$defs", "definitions", "properties", "patternProperties"];
const LISTED: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];

/// What an answer has to be: JSON that satisfies a schema (<https://json-schema.org>). Tokens that would lead astray are not
/// chosen; llguidance says which.
///
/// ```
/// let sizes = serde_json::json!({"type": "array", "items": {"enum": ["small", "large"]}, "maxItems": 3});
/// let structure = zoo::Structure::schema(sizes)?;
/// assert!(zoo::Structure::schema(serde_json::json!({"items": {"type": "sting"}})).is_err());
/// # let _ = structure;
/// # Ok::<(), zoo::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    schema: Map<String, Value>,
}

impl Structure {
    /// Any object.
    pub fn json() -> Self {
        Self { schema: Map::from_iter([("type".to_owned(), "object".into())]) }
    }

    /// What a schema describes. Names that a schema does not forbid are allowed, as JSON Schema has it:
    /// `additionalProperties: false` forbids them.
    ///
    /// # Errors
    /// When it is no schema, nothing satisfies it, or it says what llguidance cannot follow (`not`, references to other
    /// files, `oneOf` whose parts overlap …), with the place.
    pub fn schema(schema: Value) -> Result<Self> {
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(true) => Map::new(),
            _ => return Err(Error::argument("json_schema", "a schema is an object, such as {\"type\": \"object\"}")),
        };
        let factory = factory(&ApproximateTokEnv::single_byte_env())?;
        if let Err(problem) = compile(&factory, &schema) {
            let place = place(&factory, &schema, &problem);
            return Err(Error::argument("json_schema", format!("at #{place}: {problem}")));
        }
        Ok(Self { schema })
    }
}

fn factory(environment: &TokEnv) -> Result<ParserFactory> {
    let mut factory = ParserFactory::new_simple(environment).map_err(|error| Error::tokenizer(format!("{error:#}")))?;
    factory.quiet();
    Ok(factory)
}

/// Fails with one line.
fn compile(factory: &ParserFactory, schema: &Map<String, Value>) -> Result<TokenParser, String> {
    let mut schema = schema.clone();
    schema.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": WHITE_SPACE}));
    let grammar = TopLevelGrammar::from_json_schema(Value::Object(schema));
    catch_unwind(AssertUnwindSafe(|| factory.create_parser(grammar))).map_err(|error| {
        let problem = error.to_string();
        let problem = problem.split("\n<backtrace>").next().unwrap_or_default();
        problem.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// The innermost part of a schema that has the same problem by itself, as a JSON pointer.
fn place(factory: &ParserFactory, schema: &Map<String, Value>, problem: &str) -> String {
    for (name, part) in parts(schema) {
        let mut alone = part.clone();
        for (key, shared) in schema.iter().filter(|(key, _)| ["$defs", "definitions"].contains(&key.as_str())) {
            alone.entry(key).or_insert_with(|| shared.clone());
        }
        if compile(factory, &alone).is_err_and(|found| found == problem) {
            return name + &place(factory, part, problem);
        }
    }
    String::new()
}

/// The schemas right within one, by their pointers.
fn parts(schema: &Map<String, Value>) -> Vec<(String, &Map<String, Value>)> {
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let one = ONE.iter().filter_map(|key| Some((format!("/{key}"), schema.get(*key)?)));
    let named = NAMED.iter().filter_map(|key| Some((key, schema.get(*key)?.as_object()?)));
    let named = named
        .flat_map(|(key, parts)| parts.iter().map(move |(name, part)| (format!("/{key}/{}", escaped(name)), part)));
    let listed = LISTED.iter().filter_map(|key| Some((key, schema.get(*key)?.as_array()?)));
    let listed =
        listed.flat_map(|(key, parts)| parts.iter().enumerate().map(move |(at, part)| (format!("/{key}/{at}"), part)));
    let parts = one.chain(named).chain(listed);
    parts.filter_map(|(pointer, part)| Some((pointer, part.as_object()?))).collect()
}

/// An answer that follows a [`Structure`].
pub struct Follower(Matcher);

impl Follower {
    /// At the beginning of an answer.
    pub fn new(structure: &Structure, tokenizer: &Tokenizer) -> Result<Self> {
        let factory = factory(&environment(tokenizer)?)?;
        let parser = compile(&factory, &structure.schema).map_err(|problem| Error::argument("json_schema", problem))?;
        Ok(Self(Matcher::new(Ok(parser))))
    }

    /// Gives −∞ to the logits of tokens that cannot come next.
    pub fn narrow(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.0.compute_mask_or_eos().map_err(astray)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen; whether the answer is complete, so that nothing can follow.
    pub fn push(&mut self, token: u32) -> Result<bool> {
        self.0.consume_token(token).map_err(astray)?;
        Ok(self.0.is_stopped())
    }
}

fn astray(error: impl std::fmt::Display) -> Error {
    let problem = error.to_string();
    Error::argument("json_schema", problem.lines().next().unwrap_or_default())
}

/// A tokenizer as llguidance sees it: bytes by id, and the ids that end a text.
fn environment(tokenizer: &Tokenizer) -> Result<TokEnv> {
    let words: Vec<Vec<u8>> = tokenizer.token_bytes()?.into_iter().map(Option::unwrap_or_default).collect();
    let ends: Vec<u32> = tokenizer
        .eos_ids()
        .iter()
        .copied()
        .filter(|&id| words.len() > usize::try_from(id).unwrap_or(usize::MAX))
        .collect();
    let &[end, ..] = &ends[..] else {
        return Err(Error::tokenizer("it names no token that ends a text, which an answer with a structure needs"));
    };
    let size = u32::try_from(words.len()).map_err(|error| Error::tokenizer(error.to_string()))?;
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(schema: Value) -> String {
        Structure::schema(schema).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_schema_is_refused_with_the_place() {
        for (schema, words) in [
            (json!({"type": "objekt"}), vec!["at #:", "objekt"]),
            (json!({"properties": {"a/b": {"type": "sting"}}}), vec!["at #/properties/a~1b:", "sting"]),
            (
                json!({"items": {"anyOf": [{"type": "null"}, {"pattern": "(", "type": "string"}]}}),
                vec!["at #/items/anyOf/1:", "unclosed"],
            ),
            (
                json!({"$defs": {"n": {"properties": {"x": {"not": {}}}}}, "properties": {"n": {"$ref": "#/$defs/n"}}}),
                vec!["/properties/x:", "not"],
            ),
            (json!({"properties": {"a": {"$ref": "#/$defs/b"}}}), vec!["at #/properties/a:", "$defs"]),
            (json!({"type": "integer", "minimum": 5, "maximum": 2}), vec!["at #:", "minimum"]),
            (json!(false), vec!["an object"]),
            (json!([]), vec!["an object"]),
            (json!("object"), vec!["an object"]),
        ] {
            let problem = problem(schema);
            assert!(words.iter().all(|word| problem.contains(word)) && !problem.contains('\n'), "{problem}");
        }
    }
}
