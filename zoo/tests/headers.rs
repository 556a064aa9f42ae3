//! Published checkpoints at their real size: each header in `fixtures/headers/` is fitted to its family, which proves that the
//! weight map is total. Models are built lazily and no weights are read.

use framework::{
    Dtype, Embedding, Leaf, Linear, Module,
    weights::{Config, Header, gguf::Metadata},
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};
use zoo::{Checkpoint, Entry, MODELS, registry};

#[derive(Clone, serde::Deserialize)]
struct Published {
    class: String,
    /// Nothing where the header's metadata say it, as in a GGUF, or only its shapes, as in a single file.
    config: Option<Value>,
    header: Header,
}

fn published() -> Vec<(String, Published)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/headers");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: &Path| {
        let published = serde_json::from_slice(&fs::read(file).unwrap()).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        (file.file_stem().unwrap().to_string_lossy().into_owned(), published)
    };
    files.iter().map(|file| read(file)).collect()
}

/// Calls `f` with the family of that class and the checkpoint.
fn with_checkpoint<T>(published: &Published, f: impl FnOnce(&Entry, &Checkpoint<'_>) -> T) -> T {
    let metadata = Metadata::from_texts(&published.header.metadata);
    let config = match &published.config {
        Some(config) => Config::Json(config.clone()),
        None if published.header.metadata.contains_key("general.architecture") => Config::Gguf(&metadata),
        None => Config::None,
    };
    let checkpoint = Checkpoint { config, header: &published.header, tensors: None };
    f(registry::find(MODELS, &published.class).unwrap(), &checkpoint)
}

/// How many numbers the model learned; those of packed matrices are counted as if they were dense.
fn parameters(model: &dyn Module) -> u64 {
    let count = |shape: &[i32]| shape.iter().map(|&length| length as u64).product::<u64>();
    let mut total = 0;
    let mut counted = BTreeSet::new();
    framework::walk(model, &mut |path, leaf| match leaf {
        Leaf::Linear(Linear { weight, .. }) | Leaf::Embedding(Embedding { weight }) => {
            total += count(&weight.shape());
            counted.extend(["weight", "scales", "biases"].map(|name| format!("{path}.{name}")));
        }
        Leaf::Param(param) if !counted.contains(path) => total += count(&param.shape()),
        Leaf::Param(_) | Leaf::Branch => {}
    });
    total
}

#[test]
fn every_published_checkpoint_fits() {
    for (name, published) in published() {
        let model = with_checkpoint(&published, |entry, checkpoint| {
            let told = registry::of(MODELS, checkpoint, Path::new("header"))?;
            assert_eq!(told.names, entry.names, "{name} is taken for another family");
            entry.fit(checkpoint, Dtype::Bfloat16)
        });
        let model = model.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {} parameters, layout {}", parameters(model.module()), model.layout());
    }
}

#[test]
fn both_layouts_of_flux_have_its_parameters() {
    let mut seen = Vec::new();
    for (name, published) in published() {
        if published.class != "FluxTransformer2DModel" {
            continue;
        }
        let model = with_checkpoint(&published, |entry, checkpoint| entry.fit(checkpoint, Dtype::Bfloat16)).unwrap();
        seen.push((name, model.layout(), parameters(model.module())));
    }
    let expected = [
        ("flux.1-dev.single-file", "bfl", 11_901_408_320),
        ("flux.1-dev.transformer", "diffusers", 11_901_408_320),
        ("flux.1-schnell.single-file", "bfl", 11_891_178_560),
        ("flux.1-schnell.transformer", "diffusers", 11_891_178_560),
    ];
    assert_eq!(seen, expected.map(|(name, layout, count)| (name.to_owned(), layout, count)));
}

#[test]
fn a_tensor_more_or_less_does_not_fit() {
    for (name, published) in published() {
        let norm = published.header.tensors.keys().find(|tensor| tensor.contains("norm")).unwrap().clone();
        let (mut less, mut more) = (published.clone(), published);
        let info = less.header.tensors.remove(&norm).unwrap();
        more.header.tensors.insert("stranger.weight".into(), info);
        for (wrong, expected) in [(less, "missing"), (more, "stranger.weight")] {
            let outcome = with_checkpoint(&wrong, |entry, checkpoint| entry.fit(checkpoint, Dtype::Bfloat16));
            let error = outcome.err().unwrap_or_else(|| panic!("{name} fits")).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
