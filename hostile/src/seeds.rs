//! The valid files that damage begins with: the fixtures of this workspace.

#[path = "../../zoo/tests/bad_input/gguf.rs"]
#[allow(dead_code, reason = "the tests of the command line change more of it")]
mod gguf;

use framework::weights::{Info, Stored, safetensors};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The case whose description is damaged while the tensors beside it stay.
pub const CASE: &str = "llama/base";

/// A family with a case that its weights and config are taken from.
pub struct Family {
    /// Upstream's class.
    pub class: String,
    /// The folder of the case.
    pub case: PathBuf,
    config: Value,
}

/// A file or folder among the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn json_of(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The first case with weights of each class that a family answers to.
pub fn families() -> io::Result<Vec<Family>> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    for folder in folders(&fixture(""))?.iter().map(|family| folders(family)).collect::<io::Result<Vec<_>>>()?.concat()
    {
        if !folder.join("weights.safetensors").exists() || !folder.join("case.json").exists() {
            continue;
        }
        let case = json_of(&folder.join("case.json"))?;
        let class = case["reference"]["class"].as_str().unwrap_or_default().to_owned();
        if zoo::registry::find(zoo::MODELS, &class).is_some() {
            let config = case["config"].clone();
            found.entry(class.clone()).or_insert(Family { class, case: folder, config });
        }
    }
    Ok(found.into_values().collect())
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

/// The config of each family, which says whose it is.
pub fn configs() -> io::Result<Vec<Vec<u8>>> {
    let text = |mut family: Family| {
        if let Some(config) = family.config.as_object_mut() {
            config.insert("_class_name".into(), family.class.into());
        }
        family.config.to_string().into_bytes()
    };
    Ok(families()?.into_iter().map(text).collect())
}

/// Small checkpoints, and two of no or few bytes.
pub fn safetensors() -> io::Result<Vec<Vec<u8>>> {
    let mut files = shards().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    for case in ["framework/embedding-affine-8bit-group32", "framework/glu-silu", "framework/rms-norm"] {
        files.extend(fs::read(fixture(case).join("weights.safetensors")));
    }
    Ok(files)
}

/// A model in full precision, and one whose matrices are packed.
pub fn ggufs() -> io::Result<Vec<Vec<u8>>> {
    let dense = gguf::Gguf::new();
    let mut packed = gguf::Gguf::new();
    let blocks = [2, 3, 8]; // Q4_0, Q4_1, Q8_0
    let matrices = packed.tensors.iter_mut().filter(|tensor| tensor.dimensions.len() == 2);
    matrices.zip(blocks.iter().cycle()).for_each(|(tensor, kind)| tensor.kind = *kind);
    Ok(vec![dense.bytes(), packed.bytes()])
}

/// Arrays of several types and ranks.
pub fn npys() -> io::Result<Vec<Vec<u8>>> {
    let folder = fixture(CASE);
    let mut files = Vec::new();
    for place in [folder.join("inputs/0"), folder.join("output/0")] {
        for entry in fs::read_dir(place)? {
            files.push(fs::read(entry?.path())?);
        }
    }
    files.push(npy("|b1", "(2, 3)", &[0, 1, 0, 1, 1, 0]));
    files.push(npy("<f2", "(3,)", &[0; 6]));
    files.push(npy(">i4", "()", &[0; 4]));
    files.push(npy("|u1", "(2, 0, 3)", &[]));
    Ok(files)
}

fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - header.len() - 1));
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The description of [`CASE`], and others to take pieces from.
pub fn cases() -> io::Result<Vec<Vec<u8>>> {
    [CASE, "llama/cached-decode", "framework/attend-none", "flux-pipeline/dev"]
        .iter()
        .map(|case| fs::read(fixture(case).join("case.json")))
        .collect()
}

/// The byte-level tokenizer.
pub fn tokenizer() -> io::Result<Vec<u8>> {
    Ok(json_of(&fixture("text/tiny-bpe.json"))?["tokenizer"].to_string().into_bytes())
}

/// Byte-level, CLIP's and T5's.
pub fn tokenizers() -> io::Result<Vec<Vec<u8>>> {
    ["bpe", "clip", "t5"]
        .iter()
        .map(|kind| Ok(json_of(&fixture(&format!("text/tiny-{kind}.json")))?["tokenizer"].to_string().into_bytes()))
        .collect()
}

/// Configs of tokenizers, with templates and tables of tokens.
pub fn tokenizer_configs() -> io::Result<Vec<Vec<u8>>> {
    let description = json_of(&fixture("text/tiny-bpe.json"))?;
    let snapshots = description["snapshots"].as_array().cloned().unwrap_or_default();
    let configs = snapshots.iter().map(|snapshot| snapshot["files"]["tokenizer_config.json"].clone());
    let mut files: Vec<Vec<u8>> = configs.map(|config| config.to_string().into_bytes()).collect();
    let named = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "additional_special_tokens": ["<|tool|>", {"content": "<|end|>"}],
        "chat_template": [{"name": "default", "template": TEMPLATES[0]}, {"name": "tool_use", "template": TEMPLATES[1]}],
    });
    files.push(named.to_string().into_bytes());
    Ok(files)
}

const TEMPLATES: [&str; 4] = [
    include_str!("../seeds/plain.jinja"),
    include_str!("../seeds/tools.jinja"),
    include_str!("../seeds/reasoning.jinja"),
    include_str!("../seeds/growth.jinja"),
];

/// Chat templates in the styles that models are published with, and one of all ways in which texts grow.
pub fn templates() -> io::Result<Vec<Vec<u8>>> {
    Ok(TEMPLATES.iter().map(|text| text.as_bytes().to_vec()).collect())
}

/// A map for the names of [`CASE`].
pub fn maps() -> io::Result<Vec<Vec<u8>>> {
    Ok(vec![include_bytes!("../seeds/map.toml").to_vec()])
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Two small shards.
pub fn shards() -> [(&'static str, Vec<u8>); 2] {
    let tensor = |shape: &[usize]| {
        let info = Info { dtype: Stored::F16, shape: shape.to_vec() };
        (info, vec![1; 2 * shape.iter().product::<usize>()])
    };
    let file = |tensors: &[(&str, &[usize])]| {
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect();
        bytes_of(&tensors)
    };
    [
        (SHARDS[0], file(&[("model.embed_tokens.weight", &[7, 4]), ("model.layers.0.norm.weight", &[4])])),
        (SHARDS[1], file(&[("model.layers.1.norm.weight", &[4]), ("scalar", &[])])),
    ]
}

fn bytes_of(tensors: &BTreeMap<String, (Info, Vec<u8>)>) -> Vec<u8> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let folder = tempfile::tempdir();
    let written = folder.and_then(|folder| {
        let path = folder.path().join("shard.safetensors");
        safetensors::write(&path, tensors, &metadata).map_err(io::Error::other)?;
        fs::read(path)
    });
    written.unwrap_or_default()
}

/// The index of the two shards.
pub fn indices() -> io::Result<Vec<Vec<u8>>> {
    let place = |name: &str| SHARDS[usize::from(!(name.contains("embed") || name.contains("layers.0")))];
    let names = ["model.embed_tokens.weight", "model.layers.0.norm.weight", "model.layers.1.norm.weight", "scalar"];
    let map: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), place(name).into())).collect();
    Ok(vec![json!({"metadata": {"total_size": 80}, "weight_map": map}).to_string().into_bytes()])
}
