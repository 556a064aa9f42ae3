//! Stopping a training, and going on.

use crate::toy::{self, Toy, batch, bits, loss};
use framework::train::{
    Adam, Average, Optimiser, Rate, Settings, State, Step, Trainable, WarmUp,
    checkpoint::{Restart, load, save, save_slim},
};
use framework::weights::{Packed, Source, Tensors, WeightMap};
use framework::{Array, Dtype, Error, Linear, Result, math};
use std::{collections::BTreeSet, fs, ops::ControlFlow, os::unix::fs::PermissionsExt, path::Path};

fn settings(compiled: bool) -> Settings {
    let average = Average { decay: 0.9, warm_up: WarmUp::Ratio };
    let rate = Rate::Cosine { rate: 1e-2, warm_up: 2, steps: 10, last: 1e-4 };
    Settings { rate, clip: Some(1.0), average: Some(average), compiled }
}

fn step(model: &Toy, compiled: bool) -> Step<'_> {
    let trainable = Trainable::new(model, |_| true).unwrap();
    Step::new(trainable, Adam::decoupled(0.01), settings(compiled), loss(model)).unwrap()
}

fn begin(model: &Toy) -> State {
    State::begin(&step(model, false), 5).unwrap()
}

fn steps(step: &mut Step<'_>, state: &mut State, count: u64) {
    for _ in 0..count {
        let number = state.step;
        step.run(state, &[batch(8, number)]).unwrap();
    }
}

fn files(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn going_on_is_not_having_stopped() {
    for compiled in [false, true] {
        let model = Toy::new(1);
        let mut straight = begin(&model);
        steps(&mut step(&model, compiled), &mut straight, 10);

        let folder = tempfile::tempdir().unwrap();
        let mut first = begin(&model);
        steps(&mut step(&model, compiled), &mut first, 5);
        save(folder.path(), &first).unwrap();
        // Another process: another model, whose own parameters do not matter.
        let model = Toy::new(2);
        let (mut state, restart) = load(folder.path(), &begin(&model)).unwrap();
        assert_eq!(restart, Restart::Exact { step: 5 });
        assert_eq!(bits(&state.leaves()), bits(&first.leaves()));
        steps(&mut step(&model, compiled), &mut state, 5);
        assert_eq!(state.step, 10);
        assert_eq!(bits(&state.leaves()), bits(&straight.leaves()));

        // A fault in any part shows.
        let (mut faulty, _) = load(folder.path(), &begin(&model)).unwrap();
        faulty.step = 4;
        steps(&mut step(&model, compiled), &mut faulty, 5);
        assert_ne!(bits(&faulty.params), bits(&straight.params));
    }
}

#[test]
fn a_newer_checkpoint_takes_the_place_of_the_older() {
    let model = Toy::new(1);
    let folder = tempfile::tempdir().unwrap();
    let mut state = begin(&model);
    for _ in 0..2 {
        steps(&mut step(&model, false), &mut state, 1);
        save(folder.path(), &state).unwrap();
        save(folder.path(), &state).unwrap();
    }
    let expected = ["checkpoint-00000002.safetensors", "checkpoint.json"];
    assert_eq!(files(folder.path()), expected.map(String::from).into());
}

#[test]
fn a_slim_checkpoint_is_a_warm_restart() {
    let model = Toy::new(1);
    let folder = tempfile::tempdir().unwrap();
    let mut state = begin(&model);
    steps(&mut step(&model, false), &mut state, 3);
    save_slim(folder.path(), &state, 1 << 20).unwrap();
    assert_eq!(files(folder.path()).len(), 2);
    const PART: u64 = 4000;
    steps(&mut step(&model, false), &mut state, 1);
    save_slim(folder.path(), &state, PART).unwrap();
    let parts: Vec<String> = files(folder.path()).into_iter().filter(|name| name.starts_with("model-step")).collect();
    assert!(parts.len() > 2 && parts.iter().all(|name| name.starts_with("model-step4-")), "{parts:?}");
    assert!(parts.iter().all(|name| fs::metadata(folder.path().join(name)).unwrap().len() <= PART));

    let begun = begin(&Toy::new(2));
    let (restarted, restart) = load(folder.path(), &begun).unwrap();
    assert_eq!(restart, Restart::Warm { step: 4 });
    assert!(restart.to_string().starts_with("warm restart: "), "{restart}");
    assert_eq!(restarted.step, 0);
    for (path, value) in &state.average {
        let narrow = value.as_dtype(Dtype::Bfloat16).unwrap().as_dtype(Dtype::Float32).unwrap();
        assert!(
            restarted.params[path].eq_exact(&narrow).unwrap() && restarted.average[path].eq_exact(&narrow).unwrap()
        );
    }
    assert_eq!(bits(&restarted.slots["exp_avg"]), bits(&begun.slots["exp_avg"]));
    let (mut going, _) = load(folder.path(), &begun).unwrap();
    steps(&mut step(&model, false), &mut going, 1);

    // Anyone else reads it as a checkpoint of the model.
    let mut other = Toy::new(3);
    let source = Source::open(folder.path()).unwrap();
    assert!(source.header().tensors.values().all(|info| info.dtype.name() == "BF16"));
    let mut ignore = |_, _| ControlFlow::Continue(());
    framework::weights::load(&mut other, &source, &WeightMap::identity(), Packed::Keep, &mut ignore).unwrap();
    assert!(begin(&other).params["out.weight"].eq_exact(&restarted.params["out.weight"]).unwrap());

    // The full checkpoint beside it is preferred.
    save(folder.path(), &state).unwrap();
    assert_eq!(load(folder.path(), &begun).unwrap().1, Restart::Exact { step: 4 });

    let error = save_slim(folder.path(), &state, 500).unwrap_err();
    assert!(error.to_string().contains("`embed.weight`, which takes 504"), "{error}");
}

#[test]
fn another_architecture_is_refused_with_everything_that_differs() {
    let mut model = Toy::new(1);
    let folder = tempfile::tempdir().unwrap();
    let state = begin(&model);
    save(folder.path(), &state).unwrap();
    let slim = tempfile::tempdir().unwrap();
    save_slim(slim.path(), &state, 1 << 20).unwrap();

    model.layers.truncate(1);
    model.out = Linear::new(toy::WIDTH, 3, false, &mut framework::Init::default()).unwrap();
    let begun = begin_of(&model, Adam::default());
    for folder in [folder.path(), slim.path()] {
        let error = load(folder, &begun).unwrap_err();
        assert!(matches!(error, Error::Coverage(_)), "{error:?}");
        let text = format!("{error:#}");
        for part in ["out.weight  expected [3, 16]", "out.bias", "layers.1.ffn.up.weight"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
    let other = begin_of(&Toy::new(1), Momentum);
    assert!(load(folder.path(), &other).unwrap_err().to_string().contains("slots.momentum"));
    assert!(load(slim.path(), &other).is_ok());
}

fn begin_of(model: &Toy, optimiser: impl Optimiser + 'static) -> State {
    let trainable = Trainable::new(model, |_| true).unwrap();
    State::begin(&Step::new(trainable, optimiser, settings(false), loss(model)).unwrap(), 0).unwrap()
}

/// Someone's own optimiser: `m ← 0.9 m + g`, `w ← w − rate · m`.
struct Momentum;

impl Optimiser for Momentum {
    fn slots(&self) -> &[&str] {
        &["momentum"]
    }

    fn coefficients(&self, _: u64, rate: f64) -> Vec<f64> {
        vec![rate]
    }

    fn update(&self, _: &str, w: &Array, g: &Array, slots: &[Array], rate: &[Array]) -> Result<(Array, Vec<Array>)> {
        let momentum = math::add(&math::scaled(&slots[0], 0.9)?, g)?;
        Ok((math::subtract(w, &math::multiply(&momentum, &rate[0])?)?, vec![momentum]))
    }
}

#[test]
fn an_optimiser_of_ones_own_trains_and_goes_on() {
    let model = Toy::new(1);
    let make = || {
        let trainable = Trainable::new(&model, |_| true).unwrap();
        Step::new(trainable, Momentum, settings(true), loss(&model)).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut straight = begin_of(&model, Momentum);
    steps(&mut make(), &mut straight, 2);
    save(folder.path(), &straight).unwrap();
    steps(&mut make(), &mut straight, 2);
    let (mut state, _) = load(folder.path(), &begin_of(&model, Momentum)).unwrap();
    steps(&mut make(), &mut state, 2);
    assert_eq!(bits(&state.leaves()), bits(&straight.leaves()));
}

#[test]
fn a_write_that_fails_leaves_the_last_good_checkpoint() {
    let model = Toy::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut state = begin(&model);
    steps(&mut step(&model, false), &mut state, 1);
    save(path, &state).unwrap();
    save_slim(path, &state, 1 << 20).unwrap();
    let (good, all) = (bits(&state.leaves()), files(path));
    steps(&mut step(&model, false), &mut state, 1);

    // Folders in the places of the files that are written last; a superuser may write into any folder.
    let full = fs::read(path.join("checkpoint.json")).unwrap();
    for name in ["checkpoint-00000002.safetensors", "model-step2-00001-of-00001.safetensors"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    assert!(save(path, &state).is_err() && save_slim(path, &state, 1 << 20).is_err());
    for name in ["checkpoint-00000002.safetensors", "model-step2-00001-of-00001.safetensors"] {
        fs::remove_dir(path.join(name)).unwrap();
    }
    assert_eq!(files(path), all);
    assert_eq!(fs::read(path.join("checkpoint.json")).unwrap(), full);
    assert_eq!(bits(&load(path, &begin(&model)).unwrap().0.leaves()), good);
    Source::open(path).unwrap();

    fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    let written = save(path, &state);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let expected = if written.is_ok() { bits(&state.leaves()) } else { good };
    assert_eq!(bits(&load(path, &begin(&model)).unwrap().0.leaves()), expected);

    let nowhere = path.join("not there");
    assert!(save(&nowhere, &state).unwrap_err().to_string().contains("not there"));
    assert!(save_slim(&nowhere, &state, 1 << 20).unwrap_err().to_string().contains("not there"));
}

#[test]
fn damaged_checkpoints_are_errors() {
    let model = Toy::new(1);
    let begun = begin(&model);
    let folder = tempfile::tempdir().unwrap();
    assert!(load(folder.path(), &begun).is_err());
    save(folder.path(), &begun).unwrap();
    let index = folder.path().join("checkpoint.json");
    for text in [
        "{",
        r#"{"format": 2, "step": 0, "state": "checkpoint-00000000.safetensors"}"#,
        r#"{"format": 1, "step": 0, "state": "../checkpoint-00000000.safetensors"}"#,
        r#"{"format": 1, "step": 0, "state": "checkpoint-00000009.safetensors"}"#,
    ] {
        fs::write(&index, text).unwrap();
        assert!(load(folder.path(), &begun).is_err(), "{text}");
    }
    let data = folder.path().join("checkpoint-00000000.safetensors");
    fs::write(&index, r#"{"format": 1, "step": 0, "state": "checkpoint-00000000.safetensors"}"#).unwrap();
    load(folder.path(), &begun).unwrap();
    let bytes = fs::read(&data).unwrap();
    fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
    assert!(load(folder.path(), &begun).is_err());
}
