//! Tiny GGUF files, named and laid out as llama.cpp's converter does it, give what transformers gives for their weights.

use framework::{
    Dtype, math,
    weights::{Packed, Source},
};
use serde::Deserialize;
use std::{fs, ops::ControlFlow, path::Path};
use zoo::{Checkpoint, MODELS, OpenOptions, registry};

#[derive(Deserialize)]
struct Expected {
    reference: String,
    ids: Vec<u32>,
    logits: Vec<f32>,
}

#[test]
fn every_architecture_gives_what_transformers_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf");
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "json") {
            continue;
        }
        let expected: Expected = serde_json::from_slice(&fs::read(file.with_extension("json")).unwrap()).unwrap();
        let source = Source::open(&file).unwrap();
        let checkpoint = Checkpoint::of(&source).unwrap();
        let entry = registry::of(MODELS, &checkpoint, &file).unwrap();
        assert!(entry.names.contains(&expected.reference.as_str()), "{}", file.display());
        let opened = entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(opened.layout(), "gguf");
        let model = entry.causal_lm(&*opened).unwrap();
        let ids = math::array(&expected.ids, &[1, expected.ids.len() as i32]).unwrap();
        let logits = math::read::<f32>(&model.next(&ids, &mut model.state()).unwrap()).unwrap();
        let worst = logits.iter().zip(&expected.logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(logits.len() == expected.logits.len() && worst < 1e-4, "{}: {worst}", file.display());
        seen += 1;
    }
    assert_eq!(seen, 6);
}
