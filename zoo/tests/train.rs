//! Training from recipes, from a folder of pictures to a model that paints.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;
use zoo::{
    Error, ImageRequest, Open,
    picture::Picture,
    train::{Finished, Limits, Recipe, TrainEvent, train},
};

const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/train");

/// A folder of 8 × 8 pictures of one colour, recipes for them, and what they were trained to.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let data = place.path("data");
        fs::create_dir(&data).unwrap();
        let mut lines = String::new();
        for (name, colour) in [("red", [230, 20, 30]), ("green", [20, 200, 40]), ("blue", [10, 30, 240])] {
            let pixels = colour.repeat(64);
            Picture::new(8, 8, pixels).unwrap().write(&data.join(format!("{name}.png")), &().into()).unwrap();
            lines += &format!("{{\"file_name\": \"{name}.png\", \"text\": [\"{name}\", \"all of it {name}\"]}}\n");
        }
        fs::write(data.join("broken.png"), "no picture").unwrap();
        lines += "{\"file_name\": \"broken.png\", \"text\": \"nothing\"}\n{\"file_name\": \"missing.png\", \"text\": \"?\"}\n";
        fs::write(data.join("metadata.jsonl"), lines).unwrap();
        for file in fs::read_dir(RECIPES).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, place.path(file.file_name().unwrap().to_str().unwrap())).unwrap();
        }
        place
    }

    /// With a tokenizer and an autoencoder.
    fn prepared() -> Self {
        let place = Self::new();
        for recipe in ["tokenizer.toml", "vae.toml"] {
            assert!(matches!(place.train(recipe, Limits::default()), Ok(Finished::Whole { .. })));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, name: &str) -> Recipe {
        Recipe::read(&self.path(name)).unwrap()
    }

    fn train(&self, recipe: &str, limits: Limits) -> zoo::Result<Finished> {
        train(&self.recipe(recipe), limits, &mut |_| ControlFlow::Continue(()))
    }

    /// The losses of a log.
    fn losses(&self, out: &str) -> Vec<f64> {
        let text = fs::read_to_string(self.path(out).join("log.jsonl")).unwrap();
        let entry = |line: &str| serde_json::from_str::<zoo::train::Entry>(line).unwrap();
        let entries: Vec<_> = text.lines().map(entry).collect();
        assert!(entries.iter().enumerate().all(|(place, entry)| entry.step == place as u64 + 1));
        entries.into_iter().map(|entry| entry.loss).collect()
    }
}

fn steps(steps: u64) -> Limits {
    Limits { steps: Some(steps), ..Limits::default() }
}

fn bytes(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().filter(|path| path.is_file()).map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_model_is_trained_from_nothing_and_paints() {
    let place = Place::prepared();
    let told = RefCell::new(Vec::new());
    let finished = train(&place.recipe("transformer.toml"), Limits::default(), &mut |event| {
        told.borrow_mut().push(match event {
            TrainEvent::Skipped(skipped) => skipped.to_string(),
            TrainEvent::Wrote { what, .. } => (*what).to_owned(),
            TrainEvent::Note(text) => (*text).to_owned(),
            _ => return ControlFlow::Continue(()),
        });
        ControlFlow::Continue(())
    });
    assert_eq!(finished.unwrap(), Finished::Whole { steps: 6 });
    let told = told.into_inner();
    assert!(told[0].starts_with("line 4, `broken.png`") && told[1].starts_with("line 5, `missing.png`"), "{told:?}");
    assert!(told.contains(&"latents: computed".to_owned()), "{told:?}");
    assert_eq!(told[told.len() - 4..], ["checkpoint", "curve", "snapshot", "samples"]);

    let snapshot = place.path("transformer/snapshot");
    let generator = Open::default().generator_at(&snapshot, false).unwrap();
    let usual = generator.capabilities().request();
    assert_eq!((usual.width, usual.steps, usual.text_tokens), (8, 2, 5));
    let request = ImageRequest { prompts: vec!["red".into(), "blue".into()], ..usual };
    let pixels = generator.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let pictures = Picture::all(&pixels).unwrap();
    let sheet = Picture::read(&place.path("transformer/samples/step-000006.png")).unwrap();
    assert_eq!(zoo::picture::square_sheet(&pictures).unwrap(), sheet, "the sheet is what anyone would get");
    assert!(Picture::read(&place.path("transformer/loss.png")).is_ok());

    let again = RefCell::new(String::new());
    let nothing = train(&place.recipe("transformer.toml"), Limits::default(), &mut |event| {
        if let TrainEvent::Note(text) = event {
            again.replace((*text).to_owned());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(
        (nothing.unwrap(), again.into_inner()),
        (Finished::Whole { steps: 6 }, "latents: read from the cache".into())
    );
}

#[test]
fn a_training_that_stopped_goes_on_as_if_it_had_not() {
    let one = Place::prepared();
    let other = Place::prepared();
    assert_eq!(one.losses("vae"), other.losses("vae"), "the same recipe, the same losses");
    for recipe in ["vae", "transformer"] {
        let file = format!("{recipe}.toml");
        fs::remove_dir_all(other.path(recipe)).ok();
        one.train(&file, Limits::default()).unwrap();
        assert_eq!(other.train(&file, steps(2)).unwrap(), Finished::Early { steps: 2, of: 6 });
        let mut seen = 0;
        let cancelled = train(&other.recipe(&file), Limits::default(), &mut |event| {
            seen += u32::from(matches!(event, TrainEvent::Step(_)));
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(cancelled, Err(Error::Cancelled)));
        assert_eq!(other.losses(recipe).len(), 4);
        assert_eq!(other.train(&file, Limits::default()).unwrap(), Finished::Whole { steps: 6 });
        assert_eq!(one.losses(recipe), other.losses(recipe), "{recipe}");
        assert_eq!(bytes(&one.path(recipe).join("checkpoint")), bytes(&other.path(recipe).join("checkpoint")));
    }
    assert_eq!(
        bytes(&one.path("transformer/snapshot/text_encoder")),
        bytes(&other.path("transformer/snapshot/text_encoder"))
    );
}

#[test]
fn a_slim_checkpoint_is_a_warm_restart() {
    let place = Place::new();
    place.train("vae.toml", steps(2)).unwrap();
    let folder = place.path("vae/checkpoint");
    for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_string_lossy().starts_with("checkpoint") {
            fs::remove_file(entry).unwrap();
        }
    }
    let mut said = String::new();
    train(&place.recipe("vae.toml"), steps(1), &mut |event| {
        if let TrainEvent::Restarted(restart) = event {
            said = restart.to_string();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(said.starts_with("warm restart"), "{said}");
    assert_eq!(place.losses("vae").len(), 1);
}

#[test]
fn a_text_encoder_that_is_given_stays_as_it_is() {
    let place = Place::prepared();
    place.train("transformer.toml", Limits::default()).unwrap();
    let given = place.path("given");
    fs::rename(place.path("transformer/snapshot/text_encoder"), &given).unwrap();
    fs::remove_dir_all(place.path("transformer")).unwrap();
    let recipe = fs::read_to_string(place.path("transformer.toml")).unwrap();
    fs::write(place.path("transformer.toml"), recipe.replace("text_encoder.json", "given")).unwrap();
    place.train("transformer.toml", Limits::default()).unwrap();
    assert_eq!(bytes(&given), bytes(&place.path("transformer/snapshot/text_encoder")));
    assert!(place.path("transformer/cache/text.safetensors").exists());
}

#[test]
fn time_that_is_up_leaves_a_checkpoint() {
    let place = Place::new();
    let limits = Limits { time: Some(std::time::Duration::from_nanos(1)), ..Limits::default() };
    assert_eq!(place.train("vae.toml", limits).unwrap(), Finished::Early { steps: 0, of: 6 });
    assert_eq!(place.train("vae.toml", Limits::default()).unwrap(), Finished::Whole { steps: 6 });
}

#[test]
fn another_architecture_does_not_go_on() {
    let place = Place::new();
    place.train("vae.toml", steps(1)).unwrap();
    let config = fs::read_to_string(place.path("vae.json")).unwrap().replace("[8, 16]", "[8, 24]");
    fs::write(place.path("vae.json"), config).unwrap();
    let error = place.train("vae.toml", Limits::default()).unwrap_err().to_string();
    assert!(error.contains("checkpoint") && error.contains("shape"), "{error}");
    assert_eq!(place.losses("vae").len(), 1, "nothing was changed");
}

#[test]
fn an_interrupt_leaves_a_checkpoint() {
    let place = Place::new();
    let recipe = fs::read_to_string(place.path("vae.toml")).unwrap().replace("steps = 6", "steps = 100000");
    fs::write(place.path("vae.toml"), recipe).unwrap();
    let mut zoo = Command::new(env!("CARGO_BIN_EXE_zoo"));
    zoo.args(["--json-events", "train"]).arg(place.path("vae.toml")).stdout(Stdio::piped());
    let mut running = zoo.spawn().unwrap();
    let lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut last = String::new();
    for line in lines.map(Result::unwrap) {
        if line.contains(r#""step":1,"#) {
            assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
        }
        last = line;
    }
    assert_eq!(running.wait().unwrap().code(), Some(1));
    assert!(last.contains("cancelled"), "{last}");
    let steps = place.losses("vae").len() as u64;
    assert!((1..100).contains(&steps) && place.path("vae/checkpoint/checkpoint.json").exists());
    assert_eq!(
        place.train("vae.toml", Limits { steps: Some(steps + 1), ..Limits::default() }).unwrap(),
        Finished::Early { steps: steps + 1, of: 100_000 }
    );
}
