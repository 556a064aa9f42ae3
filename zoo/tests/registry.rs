//! What holds for every family, over a tiny checkpoint of each.

use framework::{
    Dtype, math,
    weights::{Config, Packed, Source, Tensors, save},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use zoo::{Arguments, Checkpoint, MODELS, OpenOptions, Opened, registry};

/// The first case in f32 of each class under `fixtures/`.
fn checkpoints() -> Vec<(&'static registry::Entry, PathBuf)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let mut cases: Vec<PathBuf> = fs::read_dir(fixtures)
        .unwrap()
        .filter_map(|family| fs::read_dir(family.unwrap().path()).ok())
        .flat_map(|cases| cases.map(|case| case.unwrap().path()))
        .filter(|case| case.join("case.json").exists())
        .collect();
    cases.sort();
    let mut seen = BTreeSet::new();
    let entry = |case: PathBuf| {
        let reference = &description(&case)["reference"];
        if reference["dtype"] != "float32" {
            return None;
        }
        let class = reference["class"].as_str()?.to_owned();
        let entry = registry::find(MODELS, &class)?;
        seen.insert(class).then_some((entry, case))
    };
    cases.into_iter().filter_map(entry).collect()
}

fn description(case: &Path) -> Value {
    serde_json::from_slice(&fs::read(case.join("case.json")).unwrap()).unwrap()
}

fn open(entry: &registry::Entry, config: &Value, weights: &Path) -> Box<dyn Opened> {
    let source = Source::open(weights).unwrap();
    let checkpoint =
        Checkpoint { config: Config::Json(config.clone()), header: source.header(), tensors: Some(&source) };
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn every_family_has_a_checkpoint() {
    let covered: BTreeSet<&str> = checkpoints().iter().flat_map(|(entry, _)| entry.names).copied().collect();
    for entry in MODELS {
        assert!(entry.names.iter().any(|name| covered.contains(name)), "{:?} has no case", entry.names);
    }
}

#[test]
fn names_are_unique() {
    let names: Vec<&str> = MODELS.iter().flat_map(|entry| entry.names).copied().collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn a_model_opened_in_one_thread_runs_in_another() {
    for (entry, case) in checkpoints() {
        let config = description(&case)["config"].clone();
        let weights = case.join("weights.safetensors");
        let opened = std::thread::spawn(move || open(entry, &config, &weights)).join().unwrap();
        if let Some(model) = entry.causal_lm(&*opened) {
            let ids = math::array(&[1, 2, 3], &[1, 3]).unwrap();
            let logits = model.next(&ids, &mut model.state()).unwrap();
            assert_eq!(logits.shape(), [1, model.vocabulary()]);
            assert!(math::is_finite(&logits).unwrap());
            let each = model.next_of_each(&ids, &mut model.state()).unwrap();
            assert_eq!(each.shape(), [1, 3, model.vocabulary()]);
            let last = math::slice(&each, 1, 2, 3).unwrap().reshape(logits.shape()).unwrap();
            let apart = math::subtract(&last, &logits).unwrap().abs().unwrap().max(None).unwrap();
            assert!(math::read::<f32>(&apart).unwrap()[0] < 1e-5);
        }
    }
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for (entry, case) in checkpoints() {
        let weights = case.join("weights.safetensors");
        let opened = open(entry, &description(&case)["config"], &weights);
        let copy = folder.path().join("copy.safetensors");
        let original = Source::open(&weights).unwrap();
        save(opened.module(), opened.map(), Some(original.header()), &copy).unwrap();
        let copy = Source::open(&copy).unwrap();
        // A language model saves what it reads of a larger one.
        let mut tensors = original.header().tensors.clone();
        tensors.retain(|name, _| !name.starts_with("model.vision_tower.") && !name.starts_with("model.multi_modal"));
        assert_eq!(copy.header().tensors, tensors, "{}", case.display());
        for name in tensors.keys() {
            assert_eq!(copy.read(name).unwrap(), original.read(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn an_argument_that_is_not_taken_is_an_error() {
    for (entry, case) in checkpoints() {
        let opened = open(entry, &description(&case)["config"], &case.join("weights.safetensors"));
        let mut arguments = Arguments::default();
        arguments.array("input_ids", math::array(&[1, 2], &[1, 2]).unwrap());
        arguments.value("colour", "blue".into());
        assert!(opened.call("forward", &mut arguments).is_err());
        assert!(opened.call("backward", &mut Arguments::default()).is_err());
    }
}

#[test]
fn an_unknown_key_of_a_config_is_refused() {
    for (entry, case) in checkpoints() {
        let mut config = description(&case)["config"].clone();
        config["flux_capacitor"] = 1.into();
        let source = Source::open(&case.join("weights.safetensors")).unwrap();
        let checkpoint = Checkpoint { config: Config::Json(config), header: source.header(), tensors: None };
        let error = entry.fit(&checkpoint, Dtype::Float32).err().unwrap().to_string();
        assert!(error.contains("flux_capacitor"), "{error}");
    }
}
