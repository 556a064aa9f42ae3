//! Guidance against diffusers' guiders and pipelines, step by step, and what holds for every guidance.
//!
//! `parity/reference/guidance.py` writes the goldens and says what is in them.

mod goldens;

use framework::sample::{Anchor, Apg, Condition, Guidance, Guide, Rescale, Rng, Rule, Seeded};
use framework::{Array, Dtype, Error, Result, math};
use goldens::{Scalar, apart};
use mlx_rs::Device;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct File {
    shape: Vec<i32>,
    predictions: Vec<Row>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Row {
    towards: Vec<f64>,
    between: Vec<f64>,
    away: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    config: Value,
    f32: Run,
    f64: Run,
}

#[derive(Deserialize)]
struct Run {
    evaluations: Vec<usize>,
    guided: Vec<Vec<Option<f64>>>,
}

impl Row {
    fn under(&self, condition: Condition) -> &[f64] {
        match condition {
            Condition::Towards => &self.towards,
            Condition::Between => &self.between,
            Condition::Away => &self.away,
        }
    }
}

impl Case {
    /// The guidance of a diffusers guider's configuration.
    fn guidance(&self) -> Guidance {
        let or = |key: &str, usual: f64| self.config[key].as_f64().unwrap_or(usual);
        let above_0 = |value: f64| Some(value).filter(|&value| value > 0.0);
        let original = self.config["use_original_formulation"] == Value::Bool(true);
        let scale = or("guidance_scale", 7.5) + f64::from(u8::from(original));
        let rule = match self.kind.as_str() {
            "AdaptiveProjectedGuidance" => Rule::Apg(Apg {
                scale,
                momentum: or("adaptive_projected_guidance_momentum", 0.0),
                threshold: above_0(or("adaptive_projected_guidance_rescale", 15.0)),
                eta: or("eta", 1.0),
                anchor: if original { Anchor::Towards } else { Anchor::Away },
            }),
            "ClassifierFreeZeroStarGuidance" => {
                Rule::ClassifierFreeZero { scale, zero_init_steps: or("zero_init_steps", 1.0) as usize }
            }
            "StableDiffusionInstructPix2PixPipeline" => {
                Rule::Dual { scale, between: or("image_guidance_scale", f64::NAN) }
            }
            "QwenImagePipeline" => Rule::ClassifierFree { scale: or("true_cfg_scale", f64::NAN) },
            _ => Rule::ClassifierFree { scale },
        };
        let rescale = match self.kind.as_str() {
            "QwenImagePipeline" => Some(Rescale::TokenNorm),
            _ => above_0(or("guidance_rescale", 0.0)).map(|share| Rescale::Deviation { share }),
        };
        Guidance { rule, rescale, start: or("start", 0.0), stop: or("stop", 1.0) }
    }
}

/// The worst relative error of any step.
fn compare<F: Scalar>(file: &File, case: &Case, run: &Run) -> f64 {
    let guidance = case.guidance();
    guidance.validate().unwrap();
    let mut guide = Guide::new(guidance, file.predictions.len());
    let mut worst: f64 = 0.0;
    for (step, row) in file.predictions.iter().enumerate() {
        let given = |condition| math::array(row.under(condition), &file.shape).unwrap().as_dtype(F::DTYPE);
        let mut asked = Vec::new();
        let mut evaluate = |condition| {
            asked.push(condition);
            Ok(given(condition)?)
        };
        let x = given(Condition::Towards).unwrap();
        let guided = guide.predict(step, &x, &mut evaluate).unwrap();
        assert_eq!((guided.shape(), guided.dtype()), (&*file.shape, F::DTYPE));
        assert!(math::is_finite(&guided).unwrap(), "{} {step}", case.name);
        assert_eq!(asked, guide.conditions(step));
        // Diffusers evaluates the model also where the prediction is zero.
        let zero = matches!(guidance.rule, Rule::ClassifierFreeZero { zero_init_steps, .. } if step < zero_init_steps);
        assert_eq!(asked.len(), if zero { 0 } else { run.evaluations[step] }, "{} {step}", case.name);
        worst = worst.max(apart(&math::read::<F>(&guided).unwrap(), &run.guided[step]));
    }
    assert_eq!(run.guided.len(), file.predictions.len());
    worst
}

fn check<F: Scalar>(run: impl Fn(&Case) -> &Run) {
    Device::set_default(&Device::cpu());
    let file: File = goldens::read("guidance");
    assert_eq!(file.cases.len(), 16);
    let mut far = Vec::new();
    for case in &file.cases {
        let error = compare::<F>(&file, case, run(case));
        println!("{}: {error:.1e}", case.name);
        if error > F::TOLERANCE {
            far.push(format!("{}: {error:.1e}", case.name));
        }
    }
    assert!(far.is_empty(), "{far:#?}");
}

#[test]
fn guidance_is_diffusers_in_f64() {
    check::<f64>(|case| &case.f64);
}

#[test]
fn guidance_is_diffusers_in_f32() {
    check::<f32>(|case| &case.f32);
}

const SHAPE: [i32; 4] = [2, 3, 2, 5];

fn rules(scale: f64) -> impl Strategy<Value = Rule> {
    let anchor = prop_oneof![Just(Anchor::Away), Just(Anchor::Towards)];
    let threshold = prop_oneof![Just(None), (0.01..20.0).prop_map(Some)];
    let apg = (-0.9..0.9, threshold, 0.0..=1.0, anchor).prop_map(move |(momentum, threshold, eta, anchor)| Apg {
        scale,
        momentum,
        threshold,
        eta,
        anchor,
    });
    prop_oneof![
        Just(Rule::ClassifierFree { scale }),
        Just(Rule::ClassifierFreeZero { scale, zero_init_steps: 0 }),
        apg.prop_map(Rule::Apg),
        Just(Rule::Dual { scale, between: scale }),
        if scale == 1.0 { 1.0..=1.0 } else { 0.0..=5.0 }.prop_map(move |between| Rule::Dual { scale, between }),
    ]
}

fn scales() -> impl Strategy<Value = f64> {
    prop_oneof![Just(1.0), 0.0..10.0]
}

fn rescales() -> impl Strategy<Value = Option<Rescale>> {
    let deviation = (0.0..=1.0).prop_map(|share| Some(Rescale::Deviation { share }));
    prop_oneof![Just(None), Just(Some(Rescale::TokenNorm)), deviation]
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::Float32), Just(Dtype::Bfloat16), Just(Dtype::Float16)]
}

fn values(x: &Array) -> Vec<f32> {
    math::read(&x.as_dtype(Dtype::Float32).unwrap()).unwrap()
}

/// How far two arrays are apart, of the largest value.
fn between(a: &Array, b: &Array) -> f64 {
    let reference: Vec<Option<f64>> = values(b).iter().map(|&value| Some(value.into())).collect();
    apart(&values(a), &reference)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scale_of_1_is_the_prediction_itself(
        rule in rules(1.0), rescale in rescales(), dtype in dtypes(), steps in 1usize..10, seed: u64,
    ) {
        let guidance = Guidance { rule, rescale, ..Guidance::default() };
        prop_assert_eq!(guidance.conditions(), [Condition::Towards]);
        let mut guide = Guide::new(guidance, steps);
        let mut rng = Seeded::new(seed).unwrap();
        for step in 0..steps {
            let x = rng.normal(&SHAPE, dtype).unwrap();
            let mut asked = 0;
            let guided = guide.predict(step, &x, &mut |condition| {
                asked += 1;
                assert_eq!(condition, Condition::Towards);
                Ok(x.clone())
            });
            let guided = guided.unwrap();
            prop_assert_eq!((asked, guided.dtype()), (1, dtype));
            prop_assert_eq!(values(&guided), values(&x));
        }
    }

    #[test]
    fn equal_predictions_stay(
        rule in scales().prop_flat_map(rules), rescale in rescales(), dtype in dtypes(), seed: u64,
    ) {
        let guidance = Guidance { rule, rescale, ..Guidance::default() };
        guidance.validate().unwrap();
        let mut guide = Guide::new(guidance, 3);
        let mut rng = Seeded::new(seed).unwrap();
        for step in 0..3 {
            let x = rng.normal(&SHAPE, dtype).unwrap();
            let guided = guide.predict(step, &x, &mut |_| Ok(x.clone())).unwrap();
            prop_assert_eq!((guided.shape(), guided.dtype()), (x.shape(), dtype));
            let exact = rescale.is_none() && !matches!(rule, Rule::ClassifierFreeZero { .. });
            let tolerance = match dtype {
                _ if exact => 0.0,
                Dtype::Float32 => 1e-5,
                _ => 1e-2,
            };
            let error = between(&guided, &x);
            prop_assert!(error <= tolerance, "{:?}: {}", guidance, error);
        }
    }

    #[test]
    fn a_run_keeps_shape_and_dtype_and_is_finite(
        rule in scales().prop_flat_map(rules), rescale in rescales(), dtype in dtypes(), blank: bool, seed: u64,
    ) {
        let guidance = Guidance { rule, rescale, ..Guidance::default() };
        let mut guide = Guide::new(guidance, 3);
        let mut rng = Seeded::new(seed).unwrap();
        for step in 0..3 {
            let x = rng.normal(&SHAPE, dtype).unwrap();
            let mut draw = |_| if blank { math::scaled(&x, 0.0) } else { rng.normal(&SHAPE, dtype) };
            let guided = guide.predict(step, &x, &mut draw).unwrap();
            prop_assert_eq!((guided.shape(), guided.dtype()), (x.shape(), dtype));
            prop_assert!(math::is_finite(&guided).unwrap(), "{:?}", guidance);
        }
    }
}

/// A guidance at which the norm over a row of the batch, over a token, or over the whole batch would differ.
#[test]
fn a_row_of_the_batch_does_not_depend_on_the_others() -> Result<()> {
    let apg = Apg { scale: 6.0, momentum: -0.5, threshold: Some(2.0), eta: 0.3, anchor: Anchor::Away };
    for rule in [Rule::Apg(apg), Rule::ClassifierFreeZero { scale: 6.0, zero_init_steps: 0 }] {
        let guidance = Guidance { rule, rescale: Some(Rescale::Deviation { share: 0.7 }), ..Guidance::default() };
        let (mut both, mut alone) = (Guide::new(guidance, 3), Guide::new(guidance, 3));
        let mut rng = Seeded::new(5)?;
        for step in 0..3 {
            let given = [rng.normal(&SHAPE, Dtype::Float32)?, rng.normal(&SHAPE, Dtype::Float32)?];
            let row = |x: &Array| math::slice(x, 0, 1, 2);
            let guided = both.combine(step, &given[0], &given)?;
            let own = alone.combine(step, &row(&given[0])?, &[row(&given[0])?, row(&given[1])?])?;
            assert!(between(&own, &row(&guided)?) < 1e-6);
        }
    }
    Ok(())
}

/// Where a condition of dual guidance is not evaluated, the result is what it would have been.
#[test]
fn what_is_not_evaluated_has_no_share() -> Result<()> {
    let mut rng = Seeded::new(6)?;
    let mut drawn = || rng.normal(&SHAPE, Dtype::Float32);
    let (towards, middle, away) = (drawn()?, drawn()?, drawn()?);
    for (scale, outer, conditions) in [(7.5, 1.0, 2), (3.0, 3.0, 2), (1.0, 1.0, 1)] {
        let guided = |outer: f64| {
            let mut guide =
                Guide::new(Guidance { rule: Rule::Dual { scale, between: outer }, ..Guidance::default() }, 1);
            let mut evaluate = |condition| {
                Ok(match condition {
                    Condition::Towards => towards.clone(),
                    Condition::Between => middle.clone(),
                    Condition::Away => away.clone(),
                })
            };
            (guide.conditions(0).len(), guide.predict(0, &towards, &mut evaluate).unwrap())
        };
        let ((few, left_out), (all, near)) = (guided(outer), guided(outer + 1e-9));
        assert_eq!((few, all), (conditions, 3));
        assert!(between(&left_out, &near) < 1e-6);
    }
    Ok(())
}

#[test]
fn predictions_that_do_not_fit_are_refused() -> Result<()> {
    let mut guide = Guide::new(Guidance::classifier_free(5.0), 4);
    let (x, other) = (math::array(&[1f32, 2.0], &[1, 2])?, math::array(&[1f32], &[1, 1])?);
    for given in [vec![], vec![x.clone()], vec![x.clone(), other]] {
        let message = guide.combine(0, &x, &given).unwrap_err().to_string();
        assert!(message.contains("predictions"), "{message}");
    }
    let mut failing = |condition| if condition == Condition::Away { Err(Error::Cancelled) } else { Ok(x.clone()) };
    assert!(matches!(guide.predict(0, &x, &mut failing), Err(Error::Cancelled)));
    Ok(())
}
