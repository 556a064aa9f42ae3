//! Chat templates against transformers: whole conversations, with tools and thinking.
//!
//! `parity/reference/chat.py` writes the goldens and says what is in them. `CHAT_CASES` names further folders of its files.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};
use zoo::text::ChatTemplate;

#[derive(Deserialize)]
struct Shared {
    tools: Value,
    extra: Map<String, Value>,
    conversations: BTreeMap<String, Vec<Value>>,
}

#[derive(Deserialize)]
struct Golden {
    template: String,
    special: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    conversation: String,
    generation: bool,
    #[serde(default)]
    tools: bool,
    #[serde(default)]
    extra: Map<String, Value>,
    /// None where the template refuses.
    text: Option<String>,
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What differs between the prompts of a folder's templates and transformers'.
fn differences(folder: &Path) -> Vec<String> {
    let shared: Shared = read(&folder.join("conversations.json"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "json") && !file.ends_with("conversations.json"));
    assert!(!files.is_empty(), "{}", folder.display());
    let mut differences = Vec::new();
    for file in files {
        let golden: Golden = read(&file);
        let template = ChatTemplate::new(golden.template);
        for case in golden.cases {
            let extra = [&golden.special, &shared.extra, &case.extra].into_iter().flatten();
            let extra = extra.map(|(name, value)| (name.clone(), value.clone())).collect();
            let messages = &shared.conversations[&case.conversation];
            let tools = case.tools.then_some(&shared.tools);
            let rendered = template.render(messages, tools, case.generation, &extra);
            if rendered.as_ref().ok() != case.text.as_ref() {
                let asked = (case.generation, case.tools, case.extra.keys().collect::<Vec<_>>());
                let name = file.file_stem().unwrap().display();
                let rendered = rendered.unwrap_or_else(|error| format!("error: {error}"));
                let expected = case.text.unwrap_or_else(|| "an error".into());
                differences
                    .push(format!("{name}, {}, {asked:?}:\n{rendered}\nexpected:\n{expected}", case.conversation));
            }
        }
    }
    differences
}

#[test]
fn prompts_are_those_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chat");
    let elsewhere = env::var_os("CHAT_CASES");
    let elsewhere = elsewhere.iter().flat_map(env::split_paths);
    let differences: Vec<String> =
        [fixtures].into_iter().chain(elsewhere).flat_map(|folder| differences(&folder)).collect();
    assert!(differences.is_empty(), "{} differ\n\n{}", differences.len(), differences.join("\n\n"));
}
