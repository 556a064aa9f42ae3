//! `zoo trace`, on tiny components.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// Traces the tiny FLUX.1 in two steps.
fn tiny(folder: &Path, arguments: &[&str]) -> Output {
    let model = fixture("flux-pipeline/dev/components");
    let size = ["--width", "64", "--height", "96", "--steps", "2", "--text-tokens", "20"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_zoo"));
    command.current_dir(folder).arg("trace").arg("--model").arg(model).args(size).args(arguments).output().unwrap()
}

/// A trace in a folder of its own.
struct Trace {
    folder: TempDir,
    index: Value,
}

impl Trace {
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = tiny(folder.path(), &[&["a red heart", "--out", "trace"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let index = fs::read(folder.path().join("trace/index.json")).unwrap();
        Self { folder, index: serde_json::from_slice(&index).unwrap() }
    }

    fn entries(&self) -> impl Iterator<Item = &Value> {
        self.index["activations"].as_array().unwrap().iter()
    }

    /// The numbers of a file.
    fn read(&self, file: &str) -> Vec<f32> {
        let bytes = fs::read(self.folder.path().join("trace").join(file)).unwrap();
        npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
    }
}

#[test]
fn a_whole_request_is_traced_by_component_and_step() {
    let trace = Trace::of(&["--true-guidance", "3", "--seed", "4"]);
    assert_eq!((&trace.index["request"]["seed"], &trace.index["request"]["steps"]), (&4.into(), &2.into()));
    let mut steps: BTreeMap<&str, BTreeSet<Option<u64>>> = BTreeMap::new();
    let mut evaluations: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for entry in trace.entries() {
        let path = entry["path"].as_str().unwrap();
        let component = path.split(['.', '#']).next().unwrap();
        steps.entry(component).or_default().insert(entry["step"].as_u64());
        if component == "transformer" {
            let condition = entry["condition"].as_str().unwrap();
            evaluations.entry(path).or_default().push((entry["step"].as_u64().unwrap(), condition));
            assert!(entry["sigma"].as_f64().unwrap() > 0.0 && entry["first"] == 0, "{entry}");
        } else {
            assert!(entry["condition"].is_null() && entry["sigma"].is_null(), "{entry}");
        }
        assert!(fs::exists(trace.folder.path().join("trace").join(entry["file"].as_str().unwrap())).unwrap());
    }
    let before = BTreeSet::from([Some(0)]);
    let expected = [
        ("text_encoder", before.clone()),
        ("text_encoder_2", before.clone()),
        ("tokenizer", before.clone()),
        ("tokenizer_2", before),
        ("transformer", BTreeSet::from([Some(1), Some(2)])),
        ("vae", BTreeSet::from([None])),
    ];
    assert_eq!(steps, BTreeMap::from(expected));
    let each = [(1, "towards"), (1, "away"), (2, "towards"), (2, "away")];
    assert!(evaluations.len() > 20 && evaluations.values().all(|found| found == &each), "{evaluations:?}");
}

#[test]
fn occurrences_are_numbered_and_differ() {
    let pattern = ["--match", "transformer.transformer_blocks.0.**.rotated"];
    let trace = Trace::of(&pattern);
    let files: Vec<&str> = trace.entries().map(|entry| entry["file"].as_str().unwrap()).collect();
    let trace_of = |more: &[&str]| Trace::of(&[&pattern, more].concat());
    assert_eq!(files.len(), 2 * 4, "queries and keys of text and image, in two steps: {files:?}");
    assert!(trace.entries().all(|entry| entry["condition"].is_null()), "nothing is guided");
    // The image's; the text does not depend on the noise in the first block.
    let (first, second) = (files[2], files[6]);
    assert_eq!(second, first.replace(".npy", "@1.npy"));
    assert!(trace.read(first) != trace.read(second));
    assert!(trace.read(first) == trace_of(&["--seed", "0"]).read(first));
    assert!(trace.read(first) != trace_of(&["--seed", "1"]).read(first));
    assert_eq!(trace_of(&["--sampler", "heun"]).entries().count(), 3 * 4, "and once more in the first step");
}

#[test]
fn pictures_in_batches_say_which_they_are() {
    let trace = Trace::of(&["--count", "3", "--batch", "2", "--match", "transformer.proj_out"]);
    let found: Vec<_> = trace.entries().map(|entry| (entry["first"].as_u64(), entry["shape"][0].as_u64())).collect();
    assert_eq!(found, [(Some(0), Some(2)), (Some(0), Some(2)), (Some(2), Some(1)), (Some(2), Some(1))]);
}

#[test]
fn tokens_are_traced_as_the_encoders_read_them() {
    let trace = Trace::of(&["--match", "tokenizer_2"]);
    let entries: Vec<_> = trace.entries().map(|entry| (entry["path"].as_str().unwrap(), &entry["shape"])).collect();
    let shape = serde_json::json!([1, 20]);
    assert_eq!(entries, [("tokenizer_2#ids", &shape), ("tokenizer_2#mask", &shape)]);
}
