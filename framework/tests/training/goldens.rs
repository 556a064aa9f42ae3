//! Optimisers, clipping, rates, averages and objectives against torch, transformers and diffusers.
//!
//! `parity/reference/training.py` writes the goldens and says what is in them.

use framework::sample::{Betas, Discrete, Noising, Prediction, Spacing};
use framework::train::{
    Adam, Average, Decay, Levels, Named, Objective, Optimiser, Rate, Weighting, clipped, global_norm,
};
use framework::{Array, Dtype, math};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeMap, path::PathBuf};

type Values = BTreeMap<String, Vec<f32>>;

fn golden<T: DeserializeOwned>(name: &str) -> T {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/training");
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

fn array(values: &[f32], shape: &[i32]) -> Array {
    math::array(values, shape).unwrap()
}

fn scalar(value: f64) -> Array {
    math::scalar(value, Dtype::Float32).unwrap()
}

/// The largest difference, of the largest value.
fn apart(found: &Array, reference: &[f32]) -> f32 {
    let found = math::read::<f32>(found).unwrap();
    assert_eq!(found.len(), reference.len());
    let peak = reference.iter().fold(f32::MIN_POSITIVE, |peak, x| peak.max(x.abs()));
    found.iter().zip(reference).fold(0f32, |most, (found, x)| most.max((found - x).abs() / peak))
}

#[derive(Deserialize)]
struct Optimisers {
    shapes: BTreeMap<String, Vec<i32>>,
    begin: Values,
    gradients: Vec<Values>,
    rates: Vec<f64>,
    shown: Vec<usize>,
    cases: BTreeMap<String, OptimiserCase>,
}

#[derive(Deserialize)]
struct OptimiserCase {
    decoupled: bool,
    betas: (f64, f64),
    eps: f64,
    decay: f64,
    after: Vec<Values>,
}

#[test]
fn optimisers_step_as_torch_does() {
    let golden: Optimisers = golden("optimisers.json");
    for (name, case) in &golden.cases {
        let decay = if case.decoupled { Decay::Decoupled(case.decay) } else { Decay::Coupled(case.decay) };
        let adam = Adam { betas: case.betas, eps: case.eps, decay, ..Adam::default() };
        let shaped = |values: &Values| -> Named {
            values.iter().map(|(path, values)| (path.clone(), array(values, &golden.shapes[path]))).collect()
        };
        let mut params = shaped(&golden.begin);
        let zeros = |x: &Array| vec![mlx_rs::ops::zeros_like(x).unwrap(); 2];
        let mut slots: BTreeMap<String, Vec<Array>> = params.iter().map(|(p, x)| (p.clone(), zeros(x))).collect();
        let mut shown = 0;
        for (step, (gradients, rate)) in golden.gradients.iter().zip(&golden.rates).enumerate() {
            let numbers: Vec<Array> = adam.coefficients(step as u64 + 1, *rate).into_iter().map(scalar).collect();
            for (path, gradient) in shaped(gradients) {
                let (param, kept) = adam.update(&path, &params[&path], &gradient, &slots[&path], &numbers).unwrap();
                params.insert(path.clone(), param);
                slots.insert(path, kept);
            }
            if golden.shown.contains(&step) {
                for (path, reference) in &case.after[shown] {
                    let apart = apart(&params[path], reference);
                    assert!(apart < 1e-5, "{name} {path} after step {}: {apart}", step + 1);
                }
                shown += 1;
            }
        }
        assert_eq!(shown, 5);
    }
}

#[derive(Deserialize)]
struct ClipCase {
    gradients: Values,
    most: f64,
    norm: f32,
    clipped: Values,
}

#[test]
fn gradients_are_clipped_as_torch_does() {
    for case in golden::<Vec<ClipCase>>("clipping.json") {
        let flat = |values: &Vec<f32>| array(values, &[values.len() as i32]);
        let gradients: Named = case.gradients.iter().map(|(path, values)| (path.clone(), flat(values))).collect();
        let norm = global_norm(&gradients).unwrap();
        assert!(apart(&norm, &[case.norm]) < 1e-6);
        for (path, found) in clipped(&gradients, &norm, case.most).unwrap() {
            assert!(apart(&found, &case.clipped[&path]) < 1e-6, "{path} {}", case.most);
        }
    }
    assert!(global_norm(&Named::new()).is_err());
}

#[derive(Deserialize)]
struct RateCase {
    rate: Rate,
    found: Vec<f64>,
}

#[test]
fn rates_are_those_of_transformers() {
    for case in golden::<Vec<RateCase>>("rates.json") {
        for (done, reference) in case.found.iter().enumerate() {
            let found = case.rate.at(done as u64);
            assert!((found - reference).abs() < 1e-12, "{:?} at {done}: {found}, not {reference}", case.rate);
        }
        case.rate.check().unwrap();
    }
}

#[test]
fn rates_stay_where_they_fell_to() {
    let rate: Rate = serde_json::from_str(r#"{"kind": "cosine", "rate": 1.0, "steps": 10, "last": 0.1}"#).unwrap();
    assert_eq!((rate.at(10), rate.at(1_000_000)), (0.1, 0.1));
    assert!((rate.at(5) - 0.55).abs() < 1e-12);
    for text in [
        r#"{"kind": "linear", "rate": -1.0, "steps": 10}"#,
        r#"{"kind": "linear", "rate": 1.0, "steps": 10, "warm_up": 10}"#,
        r#"{"kind": "cosine", "rate": 1.0, "steps": 10, "last": -0.1}"#,
    ] {
        assert!(serde_json::from_str::<Rate>(text).unwrap().check().is_err(), "{text}");
    }
    assert!(serde_json::from_str::<Rate>(r#"{"kind": "constant", "rate": 1.0, "steps": 10}"#).is_err());
}

#[derive(Deserialize)]
struct AverageCase {
    average: Average,
    begin: Vec<f32>,
    parameters: Vec<Vec<f32>>,
    found: Vec<Vec<f32>>,
}

#[test]
fn averages_decay_as_diffusers_do() {
    for case in golden::<Vec<AverageCase>>("averages.json") {
        let mut average = case.begin;
        for (step, (parameters, reference)) in case.parameters.iter().zip(&case.found).enumerate() {
            let decay = case.average.at(step as u64 + 1) as f32;
            for (average, parameter) in average.iter_mut().zip(parameters) {
                *average += (1.0 - decay) * (parameter - *average);
            }
            let found = array(&average, &[average.len() as i32]);
            assert!(apart(&found, reference) < 1e-5, "{:?} after step {}", case.average, step + 1);
        }
    }
}

#[derive(Deserialize)]
struct ObjectiveCase {
    noising: Noising,
    prediction: Prediction,
    weighting: Weighting,
    betas: Option<serde_json::Value>,
    #[serde(default)]
    timesteps: Vec<usize>,
    #[serde(default)]
    sigmas: Vec<f32>,
    clean: Vec<f32>,
    noise: Vec<f32>,
    output: Vec<f32>,
    input: Vec<f32>,
    target: Vec<f32>,
    weight: Vec<f32>,
    loss: f32,
}

#[test]
fn objectives_are_those_of_diffusers() {
    for case in golden::<Vec<ObjectiveCase>>("objectives.json") {
        let sigmas = match case.betas {
            None => case.sigmas.clone(),
            Some(betas) => {
                let betas: Betas = serde_json::from_value(betas).unwrap();
                let every = Discrete { betas, spacing: Spacing::Linspace, curve: None, multistep: false };
                let table = every.schedule::<f64>(betas.timesteps).unwrap();
                // The schedule begins with the highest.
                case.timesteps.iter().map(|t| table.sigmas()[betas.timesteps - 1 - t] as f32).collect()
            }
        };
        let objective = Objective { noising: case.noising, prediction: case.prediction, weighting: case.weighting };
        let sigma = array(&sigmas, &[4]);
        let levels = Levels { timestep: sigma.clone(), sigma };
        let noised = objective.mixed(&array(&case.clean, &[4, 3]), &array(&case.noise, &[4, 3]), levels).unwrap();
        for (name, found, reference) in [
            ("input", &noised.input, &case.input),
            ("target", &noised.target, &case.target),
            ("weight", &noised.weight, &case.weight),
        ] {
            let apart = apart(found, reference);
            assert!(apart < 1e-5, "{objective:?} {name}: {apart}");
        }
        let loss = objective.loss(&array(&case.output, &[4, 3]), &noised).unwrap();
        assert!(apart(&loss, &[case.loss]) < 1e-5, "{objective:?}");
        assert!(objective.loss(&array(&case.output, &[3, 4]), &noised).is_err());
    }
}

#[test]
fn the_least_signal_weighs_all_predictions_of_the_clean_sample_alike() {
    // min(snr, γ) is the weight of an error of the clean sample; an error of a prediction is one of the clean sample
    // times what `denoised` makes of it.
    for noising in [Noising::Additive, Noising::Flow] {
        for sigma in [0.05f64, 0.3, 0.9] {
            let weighting = Weighting::MinSnr { gamma: 5.0 };
            let at = |prediction| {
                let weight = weighting.at(noising, prediction, &scalar(sigma)).unwrap();
                math::read::<f32>(&weight).unwrap()[0]
            };
            let clean = at(Prediction::Sample);
            let signal: f64 = noising.signal(sigma);
            assert!((f64::from(clean) - (signal / sigma).powi(2).min(5.0)).abs() < 1e-4);
            for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Flow] {
                let moved = prediction.denoised(noising, &scalar(1.0), &scalar(0.0), sigma).unwrap();
                let factor = math::read::<f32>(&moved).unwrap()[0];
                assert!((at(prediction) - clean * factor * factor).abs() < 1e-4, "{noising:?} {prediction:?} {sigma}");
            }
        }
    }
    let ends = array(&[0.0, 1.0], &[2]);
    for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Flow, Prediction::Sample] {
        let weight = Weighting::MinSnr { gamma: 5.0 }.at(Noising::Flow, prediction, &ends).unwrap();
        assert!(math::is_finite(&weight).unwrap(), "{prediction:?}");
    }
}
