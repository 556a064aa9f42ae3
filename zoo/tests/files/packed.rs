//! Snapshots as mlx-lm packs them, and as `zoo quantize` does.

use crate::{continued, place};
use framework::weights::{Packed, Source, Tensors as _};
use serde_json::Value;
use std::{fs, ops::ControlFlow, path::Path, process::Command};
use zoo::Quantise;

fn fixture(name: &str) -> std::path::PathBuf {
    place("fixtures/mlx-lm").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Whether the snapshot answers as mlx-lm does with the one of that name.
fn assert_answers(folder: &Path, name: &str) {
    let golden = json(&fixture(name).join("golden.json"));
    let ids = |key: &str| numbers(&golden[key]).iter().map(|&id| id as u32).collect::<Vec<_>>();
    for packed in [Packed::Keep, Packed::Unpack] {
        let (tokens, logits) = continued(folder, packed, &ids("prompt"), ids("tokens").len()).unwrap();
        assert_eq!(tokens, ids("tokens"), "{name} {packed:?}");
        let expected = numbers(&golden["logits"]);
        let peak = expected.iter().fold(0.0_f64, |peak, x| peak.max(x.abs()));
        let error = logits.iter().zip(&expected).fold(0.0_f64, |worst, (a, b)| worst.max((f64::from(*a) - b).abs()));
        assert!(error < 1e-5 * peak, "{name} {packed:?}: {error} of {peak}");
    }
}

#[test]
fn snapshots_of_mlx_lm_answer_as_they_do_there() {
    for name in ["dense", "uniform", "mixed", "tied"] {
        assert_answers(&fixture(name), name);
    }
}

#[test]
fn what_is_saved_here_is_what_mlx_lm_saves() {
    let folder = tempfile::tempdir().unwrap();
    let done = Quantise { bits: 4, group: 32 }
        .snapshot(&fixture("dense"), folder.path(), &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    let (ours, theirs) = (Source::open(folder.path()).unwrap(), Source::open(&fixture("uniform")).unwrap());
    assert_eq!(ours.header().tensors, theirs.header().tensors);
    for name in ours.header().tensors.keys() {
        assert!(ours.read(name).unwrap() == theirs.read(name).unwrap(), "{name}");
    }
    let config = |folder: &Path| json(&folder.join("config.json"));
    assert_eq!(config(folder.path()), config(&fixture("uniform")));
    assert_eq!((done.packed, done.dense), (16, vec![]));
    assert_eq!(
        (done.before, done.after),
        (Source::open(&fixture("dense")).unwrap().header().bytes(), ours.header().bytes())
    );
    assert_answers(folder.path(), "uniform");
}

fn quantize(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_zoo")).arg("quantize").args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_command_writes_a_snapshot_or_nothing() {
    let world = tempfile::tempdir().unwrap();
    let (from, out) = (world.path().join("from"), world.path().join("out"));
    fs::create_dir(&from).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("dense").join(name), from.join(name)).unwrap();
    }
    fs::write(from.join("tokenizer.json"), "{}").unwrap();
    fs::write(from.join("notes.md"), "not part of it").unwrap();
    let run = |model: &Path, more: &[&str]| {
        quantize(&[&[model.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat())
    };
    let dense = fixture("dense");
    for (model, more, expected) in [
        (&dense, &["--bits", "7"][..], "`--bits`: 7 is none of [2, 3, 4, 5, 6, 8]"),
        (&dense, &["--group-size", "-1"], "`--group-size`: -1 is none of"),
        (&dense, &["--group-size", "128"], "no matrix whose rows are a multiple of 128"),
        (&fixture("uniform"), &[], "is packed already"),
        (&fixture("dense").join("model.safetensors"), &[], ""),
    ] {
        let (fine, said) = run(model, more);
        assert!(fine == expected.is_empty() && said.contains(expected), "{said}");
        assert!(expected.is_empty() || !out.exists(), "{said}: something was left");
        let _ = fs::remove_dir_all(&out);
    }
    let (fine, said) = run(&from, &["--bits", "8"]);
    assert!(fine && said.contains("16 matrices packed") && said.contains("became"), "{said}");
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    let (fine, said) = run(&from, &[]);
    assert!(!fine && said.contains("holds something already"), "{said}");
}
