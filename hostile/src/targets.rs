//! What reads each format, from bytes on.

use crate::{
    Bench,
    mutate::Kind,
    seeds::{self, Family},
};
use framework::{
    Dtype,
    weights::{Source, Tensors, WeightMap, gguf, safetensors},
};
use parity::case::Case;
use serde_json::{Map, Value, json};
use std::{io, path::Path};
use zoo::{
    Checkpoint, MODELS, registry,
    text::{ChatTemplate, GgufTokenizer, Message, Tokenizer},
};

/// A format, what reads it here, and valid files to begin with.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// How files of it are damaged.
    pub kind: Kind,
    seeds: fn() -> io::Result<Vec<Vec<u8>>>,
    read: fn(&Bench, &[u8]) -> io::Result<bool>,
}

/// Every format that comes from strangers.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", kind: Kind::Safetensors, seeds: seeds::safetensors, read: safetensors },
    Target { name: "index", kind: Kind::Json, seeds: seeds::indices, read: index },
    Target { name: "gguf", kind: Kind::Binary, seeds: seeds::ggufs, read: gguf },
    Target { name: "npy", kind: Kind::Binary, seeds: seeds::npys, read: npy },
    Target { name: "case", kind: Kind::Json, seeds: seeds::cases, read: case },
    Target { name: "config", kind: Kind::Json, seeds: seeds::configs, read: config },
    Target { name: "map", kind: Kind::Text, seeds: seeds::maps, read: map },
    Target { name: "tokenizer", kind: Kind::Json, seeds: seeds::tokenizers, read: tokenizer },
    Target { name: "tokenizer-config", kind: Kind::Json, seeds: seeds::tokenizer_configs, read: tokenizer_config },
    Target { name: "template", kind: Kind::Text, seeds: seeds::templates, read: template },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// The valid files.
    ///
    /// # Errors
    /// When the fixtures cannot be read.
    pub fn seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        (self.seeds)()
    }

    /// Whether the reader takes these bytes for a good file.
    ///
    /// # Panics
    /// When the bench cannot be written, which says nothing about the reader; and when the reader does, which it must not.
    pub fn reads(&self, bench: &Bench, bytes: &[u8]) -> bool {
        (self.read)(bench, bytes).unwrap_or_else(|error| panic!("the bench is broken: {error}"))
    }
}

/// Header and every tensor.
fn safetensors(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    let path = bench.put("model.safetensors", bytes)?;
    Ok(safetensors::File::open(&path).is_ok_and(|file| all_tensors(&file)))
}

fn all_tensors(tensors: &dyn Tensors) -> bool {
    tensors.header().tensors.keys().all(|name| tensors.read(name).is_ok())
}

/// The index of two shards.
fn index(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    bench.put("index/model.safetensors.index.json", bytes)?;
    Ok(Source::open(&bench.path("index")).is_ok_and(|source| all_tensors(&source)))
}

/// Metadata, every tensor, the tokenizer within, the model that it is for.
fn gguf(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    let path = bench.put("model.gguf", bytes)?;
    let Ok(file) = gguf::File::open(&path) else { return Ok(false) };
    let tensors = all_tensors(&file);
    let tokenizer = GgufTokenizer::from_metadata(file.metadata()).and_then(Tokenizer::try_from);
    let tokenizer = tokenizer.is_ok_and(|tokenizer| speaks(&tokenizer));
    Ok(fits(&path) && tensors && tokenizer)
}

/// Whether a model is there for a checkpoint, and its weights cover it.
fn fits(path: &Path) -> bool {
    let Ok(source) = Source::open(path) else { return false };
    let fitted = Checkpoint::of(&source)
        .and_then(|checkpoint| registry::of(MODELS, &checkpoint, path)?.fit(&checkpoint, Dtype::Float32));
    fitted.is_ok()
}

fn npy(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    let path = bench.put("array.npy", bytes)?;
    Ok(parity::npy::read(&path).is_ok())
}

/// A description beside tensors that stay as they are.
fn case(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    bench.put("case/case.json", bytes)?;
    Ok(Case::open(bench.path("case")).is_ok())
}

/// A config beside the weights of the family that it names, or else of the first.
fn config(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let named = |class: &str| {
        ["model_type", "_class_name"].iter().filter_map(|key| said.get(key)?.as_str()).any(|name| {
            let of = |name| registry::find(MODELS, name).map(|entry| entry.names);
            name == class || of(name).is_some_and(|names| Some(names) == of(class))
        })
    };
    let exact = |family: &&Family| said.get("_class_name").is_some_and(|class| *class == *family.class);
    let kin = || bench.families.iter().find(|family| named(&family.class));
    let family = bench.families.iter().find(exact).or_else(kin).or(bench.families.first());
    let Some(family) = family else { return Ok(false) };
    bench.put(&format!("{}/config.json", family.class), bytes)?;
    Ok(fits(&bench.path(&family.class)))
}

/// The rules, over the names of a Llama.
fn map(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    let Ok(map) = WeightMap::from_toml(&String::from_utf8_lossy(bytes)) else { return Ok(false) };
    let weights = safetensors::File::open(&bench.path("case/weights.safetensors")).map_err(io::Error::other)?;
    let inverted = map.invert_like(weights.header()).is_ok();
    Ok(map.forward(weights.header()).is_ok_and(|forward| forward.coverage.is_empty()) && inverted)
}

fn tokenizer(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    bench.put("tokenizer/tokenizer.json", bytes)?;
    Ok(Tokenizer::from_snapshot(bench.path("tokenizer")).is_ok_and(|tokenizer| speaks(&tokenizer)))
}

fn tokenizer_config(bench: &Bench, bytes: &[u8]) -> io::Result<bool> {
    bench.put("tokenizer-config/tokenizer_config.json", bytes)?;
    let Ok(tokenizer) = Tokenizer::from_snapshot(bench.path("tokenizer-config")) else { return Ok(false) };
    Ok(tokenizer.chat_template().is_none_or(renders) && speaks(&tokenizer))
}

/// A text and back, and every id that it has, and one that it has not.
fn speaks(tokenizer: &Tokenizer) -> bool {
    let text = "<|endoftext|>Hello,  wörld! 你好 1234\r\n\n\t<|im_end|>";
    let encoded = tokenizer.encode(text, true).and_then(|ids| tokenizer.decode(&ids, false));
    let ids: Vec<u32> = (0..64).chain([u32::MAX]).collect();
    encoded.is_ok() && tokenizer.decode(&ids, true).is_ok()
}

fn template(_: &Bench, bytes: &[u8]) -> io::Result<bool> {
    Ok(renders(&ChatTemplate::new(String::from_utf8_lossy(bytes))))
}

/// A conversation with a tool.
fn renders(template: &ChatTemplate) -> bool {
    let messages = [
        Message::user("What is 6 × 7?"),
        Message::assistant("<think>\nsix sevens\n</think>\n42"),
        Message::user("And the weather?"),
    ];
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "day": {}}});
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}]);
    template.render(&messages, Some(&tools), true, &Map::new()).is_ok()
}
