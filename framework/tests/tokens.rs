//! The choice of tokens against transformers' processors.
//!
//! `parity/reference/tokens.py` writes the goldens and says what is in them.

mod goldens;

use framework::sample::{History, TokenSampler};
use goldens::{Scalar, apart};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    logits: Vec<f32>,
    prompt: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sampler: TokenSampler,
    generated: Vec<u32>,
    probabilities: Vec<Option<f64>>,
}

#[test]
fn probabilities_are_those_of_transformers() {
    let file: File = goldens::read("tokens");
    assert!(file.cases.len() > 20);
    for case in &file.cases {
        let sampler = &case.sampler;
        sampler.validate().unwrap();
        let history = History { prompt: &file.prompt, generated: &case.generated };
        let mut probabilities = vec![0.0_f32; file.logits.len()];
        for (token, probability) in sampler.distribution(&file.logits, history).unwrap() {
            probabilities[token as usize] = probability;
        }
        let kept = probabilities.iter().filter(|&&p| p > 0.0).count();
        assert_eq!(kept, case.probabilities.iter().flatten().filter(|&&p| p > 0.0).count(), "{sampler:?}");
        let difference = apart(&probabilities, &case.probabilities);
        assert!(difference < f32::TOLERANCE, "{difference} in {sampler:?} after {:?}", case.generated);
    }
}
