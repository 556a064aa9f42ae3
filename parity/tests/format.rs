//! Every committed case is what `fixtures/case.schema.json` says, and what this crate reads.

use std::fs;
use std::path::PathBuf;

use boon::{Compiler, Schemas};
use parity::case::Case;
use parity::suite::{Found, find};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures"].iter().collect()
}

fn cases() -> Vec<Found> {
    find(&[fixtures()]).unwrap()
}

fn read(file: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Whether the schema accepts each document.
fn accepted<'a>(documents: impl IntoIterator<Item = &'a Value>) -> Vec<Result<(), String>> {
    let mut compiler = Compiler::new();
    let mut schemas = Schemas::new();
    compiler.add_resource("case.schema.json", read(fixtures().join("case.schema.json"))).unwrap();
    let schema = compiler.compile("case.schema.json", &mut schemas).unwrap();
    documents.into_iter().map(|it| schemas.validate(it, schema).map_err(|error| error.to_string())).collect()
}

#[test]
fn every_case_satisfies_the_schema() {
    let cases = cases();
    let documents: Vec<Value> = cases.iter().map(|found| read(found.dir.join("case.json"))).collect();
    for (found, verdict) in cases.iter().zip(accepted(&documents)) {
        assert_eq!(verdict, Ok(()), "{}", found.name);
    }
}

#[test]
fn every_case_is_consistent() {
    for found in cases() {
        if let Err(error) = Case::open(&found.dir) {
            panic!("{error}");
        }
    }
}

#[test]
fn the_schema_knows_the_arguments_of_a_pipeline() {
    let found = cases().into_iter().find(|found| found.name.starts_with("flux-pipeline")).unwrap();
    let document = |arguments: Value| {
        let mut case = read(found.dir.join("case.json"));
        case["calls"][0]["arguments"] = arguments;
        case
    };
    let good =
        [json!({"prompt": ""}), json!({"prompt": ["a", "b"], "guidance_scale": 0, "strength": 1, "sigmas": null})];
    let good = good.map(document);
    assert_eq!(accepted(&good), [Ok(()), Ok(())]);
    let bad =
        [json!({}), json!({"prompt": []}), json!({"prompt": "a", "sigmas": [1.0]}), json!({"prompt": "a", "seed": 1})];
    let bad = bad.map(document);
    assert!(accepted(&bad).iter().all(Result::is_err));
}

#[test]
fn schema_and_reader_refuse_the_same_documents() {
    let found = cases().into_iter().find(|found| found.name.starts_with("llama")).unwrap();
    let good = read(found.dir.join("case.json"));
    let edits: [(&str, &str, Value); 12] = [
        ("", "extra", 1.into()),
        ("", "format", 2.into()),
        ("", "order", Value::Null),
        ("/reference", "extra", 1.into()),
        ("/reference", "seed", (-1).into()),
        ("/reference", "dtype", "float31".into()),
        ("/calls/0", "extra", 1.into()),
        ("/order/0", "extra", 1.into()),
        ("/order/0", "nth", (-1).into()),
        ("/order/0", "dtypes", vec!["half"].into()),
        ("/tolerance", "free", 0.into()),
        ("/tolerance", "extra", 1.into()),
    ];
    let bad: Vec<Value> = edits
        .iter()
        .map(|(at, key, value)| {
            let mut case = good.clone();
            case.pointer_mut(at).unwrap()[*key] = value.clone();
            case
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    for ((document, verdict), (at, key, _)) in bad.iter().zip(accepted(&bad)).zip(&edits) {
        assert!(verdict.is_err(), "the schema accepts {at}/{key}");
        fs::write(scratch.path().join("case.json"), document.to_string()).unwrap();
        let error = Case::open(scratch.path()).unwrap_err().to_string();
        let expected = if *key == "free" { "tolerances" } else { "case.json" };
        assert!(error.contains(expected), "the reader accepts {at}/{key}: {error}");
    }
}
