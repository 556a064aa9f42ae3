//! `zoo generate`, on tiny components.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};
use zoo::picture::{self, Picture};

fn components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/flux-pipeline/dev/components")
}

/// Runs with a tiny model whose parts its configs describe, as it recommends.
fn composed(folder: &Path, arguments: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/composed-pipeline/encoder/components");
    generate(folder, &[&["--model", model.to_str().unwrap()], arguments].concat())
}

fn generate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zoo"));
    command.current_dir(folder).arg("generate").args(arguments).output().unwrap()
}

/// Runs with the tiny model at a tiny size.
fn tiny(folder: &Path, arguments: &[&str]) -> Output {
    let model = components();
    let model = ["--model", model.to_str().unwrap(), "--width", "64", "--height", "96", "--steps", "2"];
    let size = [&model[..], &["--text-tokens", "20"], arguments].concat();
    generate(folder, &size)
}

fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_picture_holds_its_request_and_can_be_made_again_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_eq!(fine(&tiny(folder.path(), &["a röd heart", "--seed", "3"])), "picture.png\n");
    let picture = Picture::read(&at("picture.png")).unwrap();
    assert_eq!((picture.width, picture.height), (64, 96));
    let parameters = picture::parameters(&at("picture.png")).unwrap();
    assert_eq!(parameters["prompt"], "a röd heart");
    assert_eq!((&parameters["seed"], &parameters["steps"]), (&3.into(), &2.into()));

    assert_eq!(
        (&parameters["guidance"], &parameters["sampler"]),
        (&3.5.into(), &"euler".into()),
        "and what was recommended"
    );

    fine(&generate(folder.path(), &["--from", "picture.png", "--out", "again.png"]));
    assert!(Picture::read(&at("again.png")).unwrap().pixels == picture.pixels);
    fine(&tiny(
        folder.path(),
        &["a", "--true-guidance", "3", "--negative", "house", "--dtype", "bf16", "--out", "led.png"],
    ));
    fine(&generate(folder.path(), &["--from", "led.png", "--out", "again.png"]));
    assert!(Picture::read(&at("again.png")).unwrap().pixels == Picture::read(&at("led.png")).unwrap().pixels);
    fine(&generate(folder.path(), &["--from", "led.png", "--true-guidance", "1", "--out", "free.png"]));
    fine(&generate(folder.path(), &["--from", "picture.png", "--out", "other.png", "--seed", "4"]));
    assert!(Picture::read(&at("other.png")).unwrap().pixels != picture.pixels);
}

#[test]
fn a_picture_that_began_from_another_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    fine(&tiny(folder.path(), &["a house", "--out", "house.png"]));
    let begun = ["a tree", "--steps", "5", "--init", "house.png", "--strength", "0.3", "--out", "tree.png"];
    fine(&tiny(folder.path(), &begun));
    let output = generate(folder.path(), &["--from", "tree.png", "--out", "again.png"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--init"));
    fine(&generate(folder.path(), &["--from", "tree.png", "--init", "house.png", "--out", "again.png"]));
    let read = |name: &str| Picture::read(&folder.path().join(name)).unwrap().pixels;
    assert!(read("again.png") == read("tree.png"));
}

#[test]
fn several_pictures_come_with_a_sheet_and_each_can_be_made_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shown = fine(&tiny(folder.path(), &["a tree", "--seed", "8", "--count", "3", "--out", "trees.png"]));
    assert_eq!(shown, "trees-1.png\ntrees-2.png\ntrees-3.png\ntrees.png\n");
    fine(&tiny(folder.path(), &["a tree", "--seed", "9", "--out", "second.png"]));
    let read = |name: &str| Picture::read(&folder.path().join(name)).unwrap();
    // Products of another batch are rounded another way.
    let pairs = read("trees-2.png").pixels.into_iter().zip(read("second.png").pixels);
    assert!(pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap() <= 1);
    assert!(read("trees.png").width > 2 * 64);
}

#[test]
fn pictures_are_written_at_another_size_and_remember_it() {
    let folder = tempfile::tempdir().unwrap();
    let size = |name: &str| {
        let picture = Picture::read(&folder.path().join(name)).unwrap();
        (picture.width, picture.height)
    };
    assert_eq!(fine(&composed(folder.path(), &["a tree"])), "picture.png\n");
    assert_eq!(size("picture.png"), (40, 24));
    let shown = fine(&composed(folder.path(), &["a tree", "--size", "100x50", "--out", "both.png"]));
    assert_eq!(shown, "both.png, made at 40x24 and resized to 100x50\n");
    assert_eq!(size("both.png"), (100, 50));
    fine(&composed(folder.path(), &["a tree", "--size", "20", "--out", "longer.png"]));
    assert_eq!(size("longer.png"), (20, 12));
    fine(&generate(folder.path(), &["--from", "both.png", "--out", "again.png"]));
    assert_eq!(Picture::read(&folder.path().join("again.png")).unwrap().pixels, {
        Picture::read(&folder.path().join("both.png")).unwrap().pixels
    });
    let events = ["a tree", "--size", "80", "--count", "3", "--out", "trees.png", "--json-events"];
    let events = fine(&composed(folder.path(), &events));
    assert!(events.contains(r#""path":"trees-2.png","seed":1,"made":[40,24],"size":[80,48]"#), "{events}");
    assert_eq!(size("trees.png"), (2 * 80 + 8, 2 * 48 + 8));
}

#[test]
fn a_model_without_a_distilled_guidance_is_guided_by_its_negative_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let make = |arguments: &[&str]| {
        fine(&composed(folder.path(), &[&["a tree", "--out", "made.png"], arguments].concat()));
        Picture::read(&folder.path().join("made.png")).unwrap().pixels
    };
    let usual = make(&[]);
    let parameters = picture::parameters(&folder.path().join("made.png")).unwrap();
    assert_eq!((&parameters["true_guidance"], &parameters["guidance"]), (&2.5.into(), &serde_json::Value::Null));
    assert!(make(&["--guidance", "2.5"]) == usual && make(&["--true-guidance", "2.5"]) == usual);
    assert!(make(&["--guidance", "4"]) != usual);
    assert!(make(&["--negative", "a house"]) != usual);
    assert!(make(&["--guidance", "1"]) != usual);
    fine(&generate(folder.path(), &["--from", "made.png", "--out", "again.png"]));
    let again = Picture::read(&folder.path().join("again.png")).unwrap().pixels;
    assert!(again == make(&["--guidance", "1"]));
}

#[test]
fn a_file_of_prompts_becomes_a_folder_of_pictures_with_their_texts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompts.txt"), "a tree\n\n  a röd house\r\n").unwrap();
    let shown = fine(&tiny(
        folder.path(),
        &["--prompts", "prompts.txt", "--out", "made", "--count", "2", "--seed", "5", "--batch", "3", "--json-events"],
    ));
    let last: Vec<&str> = shown.lines().filter(|line| line.contains(r#""stage":"denoise""#)).collect();
    assert!(last.last().unwrap().contains(r#""done":4,"total":4"#), "two steps of two batches: {last:?}");
    let lines = std::fs::read_to_string(folder.path().join("made/metadata.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a tree", "a tree", "a röd house", "a röd house"]);
    assert_eq!(lines[3]["file_name"], "picture-4.png");
    for (index, line) in lines.iter().enumerate() {
        let path = folder.path().join("made").join(line["file_name"].as_str().unwrap());
        let parameters = picture::parameters(&path).unwrap();
        assert_eq!((&parameters["prompt"], &parameters["seed"]), (&line["text"], &(5 + index).into()));
    }
    fine(&generate(folder.path(), &["--from", "made/picture-4.png", "--out", "again.png"]));
    let read = |name: &str| Picture::read(&folder.path().join(name)).unwrap();
    let pairs = read("made/picture-4.png").pixels.into_iter().zip(read("again.png").pixels);
    assert!(pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap() <= 1);
    assert!(read("made/sheet.png").width > 2 * 64);
    assert_eq!(std::fs::read_dir(folder.path().join("made")).unwrap().count(), 4 + 2);
}

#[test]
fn every_option_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let make = |arguments: &[&str]| {
        fine(&tiny(folder.path(), &[&["a tree", "--steps", "5", "--out", "made.png"], arguments].concat()));
        Picture::read(&folder.path().join("made.png")).unwrap().pixels
    };
    let plain = make(&[]);
    fine(&tiny(folder.path(), &["a house", "--out", "house.png"]));
    for arguments in [
        &["--guidance", "7"][..],
        &["--true-guidance", "3"],
        &["--init", "house.png"],
        &["--init", "house.png", "--strength", "0.3"],
        &["--dtype", "bf16"],
        &["--sampler", "heun"],
        &["--true-guidance", "3", "--guidance-rule", "apg"],
        &["--true-guidance", "3", "--guidance-rule", "classifier_free_zero"],
        &["--true-guidance", "3", "--guidance-rescale", "0.7"],
    ] {
        assert!(make(arguments) != plain, "{arguments:?}");
    }
    assert!(make(&["--true-guidance", "3", "--negative", "a house"]) != make(&["--true-guidance", "3"]));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |output: Output, expected: &str| {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{expected}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{expected}");
    };
    for (arguments, expected) in [
        (&["a", "--width", "100"][..], "--width"),
        (&["a", "--height", "0"], "--height"),
        (&["a", "--height", "-64"], "--height"),
        (&["a", "--width", "1048576", "--height", "1048576"], "--width"),
        (&["a", "--steps", "0"], "--steps"),
        (&["a", "--guidance", "NaN"], "--guidance"),
        (&["a", "--true-guidance", "-0.5"], "--true-guidance"),
        (&["a", "--true-guidance", "inf"], "--true-guidance"),
        (&["a", "--guidance-rule", "apg"], "--true-guidance"),
        (&["a", "--guidance-rescale", "0.5"], "--true-guidance"),
        (&["a", "--true-guidance", "2", "--guidance-rescale", "7"], "--true-guidance"),
        (&["a", "--true-guidance", "2", "--guidance-rule", "magic"], "magic"),
        (&["a", "--negative", "b"], "--negative"),
        (&["a", "--tile", "100"], "--tile"),
        (&["a", "--tile", "-64"], "--tile"),
        (&["a", "--text-tokens", "0"], "--text-tokens"),
        (&["a", "--text-tokens", "513"], "--text-tokens"),
        (&["a", "--size", "0"], "--size"),
        (&["a", "--size", "12x"], "--size"),
        (&["a", "--size", "-5"], "--size"),
        (&["a", "--size", "20000"], "--size"),
        (&["a", "--size", "16384", "--count", "4"], "--size"),
        (&["a", "--count", "0"], "--count"),
        (&["a", "--count", "4000000000"], "--count"),
        (&["a", "--batch", "0"], "--batch"),
        (&["a", "--memory", "0.001"], "may be used"),
        (&["a", "--memory", "-1"], "--memory"),
        (&["a", "--memory", "NaN"], "--memory"),
        (&["a", "--sampler", "magic"], "magic"),
        (&["a", "--init", "absent.png"], "absent.png"),
        (&["a", "--init", "absent.png", "--strength", "-1"], "absent.png"),
        (&["a", "--strength", "0.5"], "--init"),
        (&["a", "--from", "absent.png"], "absent.png"),
        (&["a", "--out", "no/such/folder.png"], "no/such"),
        (&["a", "--preview", "no/such/preview.png"], "no/such"),
        (&["a", "--out", "."], "is a folder"),
        (&["a", "--out", "heart.jpg"], ".png"),
        (&[], "prompt"),
    ] {
        refused(tiny(folder.path(), arguments), expected);
    }
    refused(generate(folder.path(), &["a", "--model", "absent"]), "absent");
    let part = components().join("vae");
    refused(generate(folder.path(), &["a", "--model", part.to_str().unwrap()]), "no snapshot");
}

#[test]
fn a_plan_says_what_is_needed_and_whether_it_fits() {
    let folder = tempfile::tempdir().unwrap();
    let model = components();
    let plan = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zoo"));
        let size = ["--width", "64", "--height", "96", "--text-tokens", "20"];
        let arguments = [&["plan", "--model", model.to_str().unwrap()][..], &size, more].concat();
        command.current_dir(folder.path()).args(arguments).output().unwrap()
    };
    let shown = fine(&plan(&[]));
    for part in ["text_encoder ", "text_encoder_2", "transformer", "vae", "at most about"] {
        assert!(shown.contains(part), "{shown}");
    }
    let events = fine(&plan(&["--json-events"]));
    let event: serde_json::Value = serde_json::from_str(&events).unwrap();
    let peak = event["peak"].as_u64().unwrap();
    assert!(event["fits"] == true && event["parts"].as_array().unwrap().len() == 4, "{event}");
    let more = |arguments: &[&str]| {
        let event: serde_json::Value = serde_json::from_str(&fine(&plan(arguments))).unwrap();
        event["peak"].as_u64().unwrap()
    };
    assert!(more(&["--json-events", "--count", "4"]) > 2 * peak);
    assert!(more(&["--json-events", "--count", "4", "--batch", "1"]) < 2 * peak);
    let refused = plan(&["--memory", "0.001"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("may be used"));
}

#[test]
fn previews_are_written_as_the_picture_grows() {
    let folder = tempfile::tempdir().unwrap();
    let shown = fine(&tiny(folder.path(), &["a tree", "--preview", "small.png", "--json-events"]));
    assert_eq!(shown.matches(r#""event":"preview""#).count(), 2, "{shown}");
    assert!(shown.contains("remaining_seconds"), "{shown}");
    let small = Picture::read(&folder.path().join("small.png")).unwrap();
    assert!(small.width < 64 && small.width * 96 == small.height * 64);
}
