//! The lines of a `metadata.jsonl`, one a picture, as Hugging Face's imagefolder has them.

use serde::Deserialize;
use std::{
    collections::HashMap,
    fmt,
    path::{Component, Path, PathBuf},
};

/// A picture that a line names.
pub(super) struct Entry {
    /// The number of the line; the first is 1.
    pub line: usize,
    /// The picture's place in the folder.
    pub file: String,
    /// At least one.
    pub captions: Vec<String>,
}

/// A line that gave no picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The number of the line; the first is 1.
    pub line: usize,
    /// The file that it names, if it names one.
    pub file: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(file) = &self.file {
            write!(f, ", `{file}`")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A line. Other keys are other columns of the data set, which are not read.
#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: Text,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`text` is neither a caption nor a list of captions")]
enum Text {
    One(String),
    Several(Vec<String>),
}

/// What the lines of a file name, and the lines that name nothing usable; empty lines are neither.
pub(super) fn entries(text: &[u8]) -> (Vec<Entry>, Vec<Skipped>) {
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    let mut named = HashMap::new();
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let mut skip = |file, reason| skipped.push(Skipped { line, file, reason });
        let Line { file_name: file, text } = match serde_json::from_slice(text) {
            Ok(read) => read,
            Err(error) => {
                skip(None, format!("is not valid: {error}"));
                continue;
            }
        };
        let captions = match text {
            Text::One(caption) => vec![caption],
            Text::Several(captions) => captions,
        };
        match place(&file) {
            None => skip(Some(file), "does not name a file in the folder".into()),
            Some(_) if captions.is_empty() => skip(Some(file), "has no caption".into()),
            Some(place) => match named.insert(place, line) {
                None => entries.push(Entry { line, file, captions }),
                Some(first) => skip(Some(file), format!("is named before, in line {first}")),
            },
        }
    }
    (entries, skipped)
}

/// Where a file lies in its folder, however that is written; nothing when it is not below the folder.
fn place(file: &str) -> Option<PathBuf> {
    let mut place = PathBuf::new();
    for part in Path::new(file).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!place.as_os_str().is_empty()).then_some(place)
}
