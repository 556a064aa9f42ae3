//! Pipeline cases as others write them: what the contract leaves open loads, what it does not know fails by name.

use std::fs;
use std::path::{Path, PathBuf};

use parity::Suite;
use parity::npy;
use parity::report::Report;
use parity::suite::Outcome;
use parity::tensor::{Data, Dtype, Tensor};
use serde_json::{Value, json};
use zoo::Pipeline;

fn fixture(case: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../fixtures/flux-pipeline", case].iter().collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (old, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if old.is_dir() {
            copy(&old, &to.join(name));
        } else {
            fs::copy(&old, to.join(name)).unwrap();
        }
    }
}

/// What comes of a copy of a case whose arguments and files were changed.
fn outcome(suite: &Suite, case: &str, edit: impl FnOnce(&mut Value, &Path)) -> Outcome {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("elsewhere").join(case);
    copy(&fixture(case), &dir);
    let file = dir.join("case.json");
    let mut description: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    edit(&mut description["calls"][0]["arguments"], &dir);
    fs::write(file, description.to_string()).unwrap();
    let summary = suite.run(&[scratch.path().to_owned()]).unwrap();
    assert_eq!(summary.cases[0].case, format!("elsewhere/{case}"));
    summary.cases.into_iter().next().unwrap().outcome
}

fn passed(case: &str, edit: impl FnOnce(&mut Value, &Path)) -> Report {
    match outcome(&parity::models(), case, edit) {
        Outcome::Passed(report) => report,
        Outcome::Failed(report) => panic!("{report}"),
        other => panic!("{other:?}"),
    }
}

/// The headline of a case that must fail.
fn failed(case: &str, edit: impl FnOnce(&mut Value, &Path)) -> String {
    match outcome(&parity::models(), case, edit) {
        Outcome::Failed(report) => report.headline().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn rewrite(file: &Path, change: impl FnOnce(Tensor) -> Tensor) {
    npy::write(file, &change(npy::read(file).unwrap())).unwrap();
}

fn units(pixels: Tensor) -> Tensor {
    let values = (0..pixels.data.len()).map(|at| pixels.data.f64(at).unwrap() as f32 / 255.0).collect();
    Tensor { dtype: Dtype::Float32, data: Data::F32(values), ..pixels }
}

#[test]
fn rows_are_in_the_order_of_the_pipeline_and_run_once() {
    let report = passed("dev", |_, _| {});
    assert_eq!(report.runs.len(), 1);
    let rows: Vec<&str> = report.runs[0].rows.iter().filter_map(|row| row.path.strip_prefix("output/2/")).collect();
    let texts = ["tokens", "tokens_2", "mask", "mask_2"];
    let away = ["negative_tokens", "negative_tokens_2", "negative_mask", "negative_mask_2"];
    let rest = ["sigmas", "timesteps", "latents.0", "latents.1", "latents.2", "image"];
    assert_eq!(rows, [&texts[..], &away, &rest].concat());
}

#[test]
fn what_is_not_given_takes_its_default() {
    passed("dev", |arguments, _| {
        *arguments = json!({"prompt": [arguments["prompt"]], "width": 48, "height": 32, "num_inference_steps": 4,
            "max_sequence_length": 20, "generator": null, "output_type": "pil", "return_dict": false});
    });
}

#[test]
fn outputs_may_be_left_out_and_be_of_other_types() {
    let report = passed("schnell", |_, dir| {
        for name in ["mask_2", "timesteps", "latents.0"] {
            fs::remove_file(dir.join(format!("output/0/{name}.npy"))).unwrap();
        }
        rewrite(&dir.join("output/0/mask.npy"), |mask| {
            let data = Data::Bool((0..mask.data.len()).map(|at| mask.data.integer(at) == Some(1)).collect());
            Tensor { dtype: Dtype::Bool, data, ..mask }
        });
        rewrite(&dir.join("output/0/tokens.npy"), |tokens| Tensor { dtype: Dtype::Int32, ..tokens });
        rewrite(&dir.join("output/0/image.npy"), |image| units(Tensor { shape: image.shape[1..].to_vec(), ..image }));
    });
    assert_eq!(report.runs[0].counts().unrecorded, 3);
    passed("batch2", |arguments, dir| {
        arguments["output_type"] = "pt".into();
        rewrite(&dir.join("output/0/image.npy"), |image| units(image).channels_first());
    });
}

#[test]
fn a_picture_to_begin_from_may_be_of_floats_and_all_levels_be_stored() {
    passed("img2img", |arguments, dir| {
        arguments.as_object_mut().unwrap().remove("strength");
        rewrite(&dir.join("inputs/0/image.npy"), |image| {
            units(Tensor { shape: [&[1], &image.shape[..]].concat(), ..image }).channels_first()
        });
        // As a scheduler that was set for all five steps holds them; the last three are made.
        rewrite(&dir.join("output/0/timesteps.npy"), |made| {
            let all = [1000.0, 900.0].into_iter().chain((0..3).map(|at| made.data.f64(at).unwrap() as f32));
            Tensor::new(vec![5], Dtype::Float32, Data::F32(all.collect())).unwrap()
        });
    });
}

#[test]
fn what_the_contract_does_not_know_fails_by_name() {
    let headline = failed("dev", |arguments, _| arguments["seed"] = 3.into());
    assert!(headline.contains("`seed`"), "{headline}");
    let headline = failed("dev", |arguments, _| arguments["sigmas"] = json!([1.0, 0.5]));
    assert!(headline.contains("`sigmas`"), "{headline}");
    let headline = failed("dev", |arguments, _| arguments["strength"] = 0.5.into());
    assert!(headline.contains("`strength`"), "{headline}");
    let again = |from: &'static str, to: &'static str| {
        move |_: &mut Value, dir: &Path| assert!(fs::copy(dir.join(from), dir.join(to)).is_ok())
    };
    let headline = failed("dev", again("inputs/0/latents.npy", "inputs/0/noise.0.npy"));
    assert!(headline.contains("`noise.0`"), "{headline}");
    let headline = failed("dev", again("output/0/sigmas.npy", "output/0/betas.npy"));
    assert!(headline.contains("output/0/betas: the call returned"), "{headline}");
    let headline = failed("dev", again("output/0/latents.3.npy", "output/0/latents.4.npy"));
    assert!(headline.contains("output/0/latents.4"), "{headline}");
}

#[test]
fn the_table_is_open() {
    const MINE: Pipeline = Pipeline {
        names: &["FluxPipeline"],
        run: |_, _, arguments| Ok(vec![("latents.0".into(), arguments.take("latents")?)]),
        ..zoo::PIPELINES[0]
    };
    let Outcome::Failed(report) =
        outcome(&Suite::default().with(MINE), "schnell", |arguments, _| *arguments = json!({}))
    else {
        panic!("not failed")
    };
    assert!(report.headline().unwrap().contains("output/0/latents.0: out of tolerance"), "{report}");
    let skipped = outcome(&Suite::new(zoo::MODELS), "schnell", |_, _| {});
    assert_eq!(skipped, Outcome::Skipped("no family answers to FluxPipeline of diffusers".into()));
}
