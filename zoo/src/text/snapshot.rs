//! The tokenizer of a Hugging Face snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::believable;
use super::clip;
use super::template::ChatTemplate;
use super::tokenizer::{Parts, Tokenizer, guard};
use crate::error::{Error, Result};

/// The special tokens that have a name, which templates know.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The kinds of vocabulary that the `tokenizers` crate knows.
const MODELS: [&str; 4] = ["BPE", "Unigram", "WordPiece", "WordLevel"];

/// What of a tokenizer.json has to be checked because the `tokenizers` crate does not.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<AddedOutline>,
    #[serde(default)]
    model: ModelOutline,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct AddedOutline {
    id: u32,
    content: String,
}

#[derive(Default, Deserialize)]
struct ModelOutline {
    r#type: Option<String>,
    continuing_subword_prefix: Option<String>,
}

impl Tokenizer {
    /// Reads the tokenizer of a snapshot: `tokenizer.json`, which also says what a text begins and ends with, and beside
    /// it, where they exist, `tokenizer_config.json` and `special_tokens_map.json` (special tokens by name),
    /// `generation_config.json` or `config.json` (ids that end a text), `chat_template.jinja` (before a template in the
    /// config). CLIP's is also read from a `vocab.json` and a `merges.txt`, with which diffusion models are published.
    ///
    /// # Errors
    /// A missing or malformed file, by its path.
    pub fn from_snapshot(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let config: Map<String, Value> = read(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
        let special = special_tokens(directory, &config)?;
        let path = directory.join("tokenizer.json");
        let clip = config.get("tokenizer_class").and_then(Value::as_str) == Some("CLIPTokenizer");
        let mut tokenizer = if clip && !path.exists() {
            parse(&directory.join("vocab.json"), &clip::description(directory, &special)?)?
        } else {
            load(&path)?
        };
        let added = added_tokens(&config, &special, &tokenizer);
        guard(|| tokenizer.add_tokens(added)).map_err(|error| Error::file(&path, error.to_string()))?;

        let id = |name: &str| special.get(name).and_then(|token| tokenizer.token_to_id(token));
        let [bos, eos, pad] = ["bos_token", "eos_token", "pad_token"].map(id);
        let mut ends = end_ids(directory)?;
        ends.extend(eos);
        let template = template(directory, &config, &special)?;
        Ok(Parts { tokenizer, prefix: Vec::new(), suffix: Vec::new(), bos, pad, eos: ends, template }.into())
    }
}

fn load(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::file(
            path,
            "no such file; a snapshot with only a SentencePiece or tiktoken file has to be saved again by transformers",
        ),
        _ => Error::file(path, error.to_string()),
    })?;
    parse(path, &bytes)
}

/// Reads the description of a tokenizer, and names `path` where it is wrong.
fn parse(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    let malformed = |problem: String| Error::file(path, problem);
    let outline: Outline = serde_json::from_slice(bytes).map_err(|error| malformed(not_json(&error)))?;
    let model = &outline.model;
    if let Some(kind) = model.r#type.as_deref().filter(|kind| !MODELS.contains(kind)) {
        return Err(malformed(format!("tokenizers of the type `{kind}` are not supported; {} are", MODELS.join(", "))));
    }
    // The crate cuts this prefix off every second half of a merge unseen.
    if model.r#type.as_deref() == Some("BPE")
        && model.continuing_subword_prefix.as_ref().is_some_and(|text| !text.is_empty())
    {
        return Err(malformed("a BPE with a `continuing_subword_prefix` is not supported".to_owned()));
    }
    let parts = [&outline.normalizer, &outline.pre_tokenizer, &outline.post_processor, &outline.decoder];
    believable::check(&parts).map_err(malformed)?;
    let tokenizer = guard(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|error| malformed(error.to_string()))?;
    for AddedOutline { id, content } in outline.added_tokens {
        let actual = tokenizer.token_to_id(&content);
        if actual != Some(id) {
            return Err(malformed(format!(
                "added token `{content}` is said to have id {id}, but by its place it has {}",
                actual.map_or("none".to_owned(), |id| id.to_string())
            )));
        }
    }
    Ok(tokenizer)
}

fn not_json(error: &serde_json::Error) -> String {
    format!("is not valid: {error}; fetch it again")
}

/// Reads a JSON file, if there is one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = text(path)? else { return Ok(None) };
    let refused = |error: &serde_json::Error| Error::file(path, not_json(error));
    let mut json = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| match error.path().iter().next() {
        Some(_) if error.inner().is_data() => Error::file(path, format!("`{}`: {}", error.path(), error.inner())),
        _ => refused(error.inner()),
    })?;
    json.end().map_err(|error| refused(&error))?;
    Ok(Some(value))
}

/// Reads a JSON file that a snapshot has.
pub(crate) fn required<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read(path)?.ok_or_else(|| Error::file(path, "no such file; fetch the whole snapshot"))
}

fn text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, error.to_string())),
    }
}

/// The text of a token, which stands alone or with its properties.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The special tokens by name. The special tokens' own file is older than a config that lists the added tokens.
fn special_tokens(directory: &Path, config: &Map<String, Value>) -> Result<BTreeMap<&'static str, String>> {
    let mut map = Map::new();
    if !config.contains_key("added_tokens_decoder") {
        map = read(&directory.join("special_tokens_map.json"))?.unwrap_or_default();
    }
    let token = |name| map.get(name).or_else(|| config.get(name)).and_then(content);
    Ok(NAMED.iter().filter_map(|name| Some((*name, token(*name)?.to_owned()))).collect())
}

/// Tokens that the config knows and tokenizer.json does not, or knows with other properties.
fn added_tokens(
    config: &Map<String, Value>,
    special: &BTreeMap<&'static str, String>,
    tokenizer: &tokenizers::Tokenizer,
) -> Vec<AddedToken> {
    let listed = config.get("added_tokens_decoder").and_then(Value::as_object);
    let mut listed: Vec<(u32, AddedToken)> = listed
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| {
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let added = AddedToken::from(content(token)?, special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            Some((id.parse().ok()?, added))
        })
        .collect();
    listed.sort_by_key(|(id, _)| *id);
    let mut added: Vec<AddedToken> = listed.into_iter().map(|(_, token)| token).collect();

    let lists =
        ["additional_special_tokens", "extra_special_tokens"].map(|key| config.get(key).and_then(Value::as_array));
    let unnamed = lists.into_iter().flatten().flatten().filter_map(content);
    let known = tokenizer.get_added_vocabulary().get_vocab();
    for token in special.values().map(String::as_str).chain(unnamed) {
        if !known.contains_key(token) && added.iter().all(|other| other.content != token) {
            added.push(AddedToken::from(token, true));
        }
    }
    added
}

/// The ids that end a text, from the generation config or else from the model's.
fn end_ids(directory: &Path) -> Result<BTreeSet<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = directory.join(name);
        let config: Map<String, Value> = read(&path)?.unwrap_or_default();
        let ids = match config.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let ids: Option<BTreeSet<u32>> = ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect();
        return ids.ok_or_else(|| Error::file(path, "`eos_token_id` is neither an id nor a list of ids"));
    }
    Ok(BTreeSet::new())
}

fn template(
    directory: &Path,
    config: &Map<String, Value>,
    special: &BTreeMap<&'static str, String>,
) -> Result<Option<ChatTemplate>> {
    let mut templates = BTreeMap::new();
    match config.get("chat_template") {
        Some(Value::String(source)) => {
            templates.insert("default".to_owned(), source.clone());
        }
        Some(Value::Array(named)) => {
            let field = |entry: &Value, key| Some(entry.get(key)?.as_str()?.to_owned());
            templates.extend(named.iter().filter_map(|entry| Some((field(entry, "name")?, field(entry, "template")?))));
        }
        _ => {}
    }
    let files: [(&str, PathBuf); 2] = [
        ("default", directory.join("chat_template.jinja")),
        ("tool_use", directory.join("additional_chat_templates").join("tool_use.jinja")),
    ];
    for (name, path) in files {
        if let Some(source) = text(&path)? {
            templates.insert(name.to_owned(), source);
        }
    }
    let special = special.iter().map(|(name, token)| ((*name).to_owned(), token.as_str().into()));
    Ok(ChatTemplate::named(templates, special.collect()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{byte_level, field};
    use super::*;
    use crate::text::Message;
    use serde_json::json;

    /// A snapshot in a directory of its own.
    struct Snapshot(PathBuf);

    impl Snapshot {
        fn new(name: &str, tokenizer: &Value) -> Self {
            let directory = std::env::temp_dir().join(format!("zoo-snapshot-{}-{name}", std::process::id()));
            let snapshot = Self(directory);
            snapshot.with("tokenizer.json", &tokenizer.to_string())
        }

        fn with(self, name: &str, text: &str) -> Self {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn refused(&self) -> String {
            Tokenizer::from_snapshot(&self.0).unwrap_err().to_string()
        }
    }

    impl Drop for Snapshot {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn plain(name: &str) -> Snapshot {
        Snapshot::new(name, &byte_level()["tokenizer"])
    }

    #[test]
    fn a_snapshot_is_read_as_transformers_reads_it() {
        let file = byte_level();
        for (index, case) in file["snapshots"].as_array().unwrap().iter().enumerate() {
            let mut description = file["tokenizer"].clone();
            for (key, value) in case["tokenizer"].as_object().into_iter().flatten() {
                description[key] = value.clone();
            }
            let mut snapshot = Snapshot::new(&index.to_string(), &description);
            for (name, value) in case["files"].as_object().unwrap() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                snapshot = snapshot.with(name, &text);
            }
            let tokenizer = Tokenizer::from_snapshot(&snapshot.0).unwrap();
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(ids, field::<Vec<u32>>(case, "with"), "{index}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), field::<Vec<u32>>(case, "without"), "{index}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["skipped"], "{index}");
            assert_eq!(tokenizer.bos(), field(case, "bos"), "{index}");
            let prompt = tokenizer
                .chat_template()
                .map(|template| template.render(&[Message::user("hi")], None, false, &Map::new()).unwrap());
            assert_eq!(prompt, field::<Option<String>>(case, "prompt"), "{index}");
        }
    }

    #[test]
    fn ids_and_texts_are_those_of_the_tokenizers_package() {
        let file = byte_level();
        let tokenizer = Tokenizer::from_snapshot(&plain("texts").0).unwrap();
        for case in file["texts"].as_array().unwrap() {
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), true).unwrap(), field::<Vec<u32>>(case, "ids"));
        }
        for case in file["decodings"].as_array().unwrap() {
            assert_eq!(tokenizer.decode(&field::<Vec<u32>>(case, "ids"), true).unwrap(), case["text"]);
        }
        assert_eq!(tokenizer.vocab_size(), 482);
        assert_eq!(tokenizer.decode(&[1_000_000], false).unwrap(), "");
    }

    #[test]
    fn every_listed_id_ends_the_text() {
        let ends = |snapshot: &Snapshot| {
            let tokenizer = Tokenizer::from_snapshot(&snapshot.0).unwrap();
            tokenizer.eos_ids().iter().copied().collect::<Vec<_>>()
        };
        let snapshot = plain("ends").with("config.json", r#"{"eos_token_id": 7}"#);
        assert_eq!(ends(&snapshot), [7]);
        let snapshot = snapshot.with("generation_config.json", r#"{"eos_token_id": [5, 6]}"#);
        assert_eq!(ends(&snapshot), [5, 6]);
        let snapshot = snapshot.with("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
        assert_eq!(ends(&snapshot), [2, 5, 6]);
        let snapshot = snapshot.with("generation_config.json", r#"{"eos_token_id": "five"}"#);
        let message = snapshot.refused();
        assert!(message.contains("generation_config.json") && message.contains("eos_token_id"), "{message}");
    }

    #[test]
    fn padding_and_truncation_of_the_file_do_not_apply() {
        let mut description = byte_level()["tokenizer"].clone();
        description["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        description["padding"] = json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        let tokenizer = Tokenizer::from_snapshot(&Snapshot::new("padding", &description).0).unwrap();
        let text = "the quick brown fox";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), false).unwrap(), text);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let description = byte_level()["tokenizer"].clone();
        let changed = |name: &str, pointer: &str, value: Value| {
            let mut description = description.clone();
            *description.pointer_mut(pointer).unwrap() = value;
            Snapshot::new(name, &description).refused()
        };
        let cases = [
            (changed("id", "/added_tokens/0/id", json!(9)), vec!["<|endoftext|>", "9"]),
            (changed("prefix", "/model/continuing_subword_prefix", json!("##")), vec!["continuing_subword_prefix"]),
            (changed("model", "/model/type", json!("Nonsense")), vec!["tokenizer.json"]),
            (changed("merge", "/model/merges/0", json!(["a", "nowhere"])), vec!["nowhere"]),
            (changed("split", "/decoder", json!({"type": "Nonsense"})), vec!["tokenizer.json"]),
            (plain("cut").with("tokenizer.json", "{\"model\": ").refused(), vec!["tokenizer.json", "EOF"]),
            (plain("config").with("tokenizer_config.json", "[]").refused(), vec!["tokenizer_config.json"]),
        ];
        for (message, words) in cases {
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        let missing = Tokenizer::from_snapshot("no/such/directory").unwrap_err().to_string();
        assert!(missing.contains("tokenizer.json") && missing.contains("no such file"), "{missing}");
    }

    #[test]
    fn a_description_that_makes_the_library_panic_is_an_error() {
        let mut description = byte_level()["tokenizer"].clone();
        description["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 99});
        let tokenizer = Tokenizer::from_snapshot(&Snapshot::new("panic", &description).0).unwrap();
        let ids = tokenizer.encode("a", false).unwrap();
        assert!(tokenizer.decode(&ids, false).unwrap_err().to_string().contains("contradicts itself"));
    }

    #[test]
    fn endless_white_space_is_refused_rather_than_split_wrongly() {
        let tokenizer = Tokenizer::from_snapshot(&plain("blank").0).unwrap();
        let blank = " ".repeat(500_000);
        let ids = tokenizer.encode(&format!("{blank}the fox"), false).unwrap();
        assert_eq!(ids.last(), tokenizer.encode("the fox", false).unwrap().last());
        let message = tokenizer.encode(&(blank + " the fox"), false).unwrap_err().to_string();
        assert!(message.contains("white space"), "{message}");
    }
}
