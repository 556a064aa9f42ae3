//! Schedules and samplers against diffusers, step by step, and what holds for all of them.
//!
//! `parity/reference/sampling.py` writes the goldens and says what is in them.

mod goldens;

use framework::sample::{
    AnySchedule, BetaKind, Betas, Bh, Clock, Curve, Discrete, Fixed, Flow, LogitNormal, Method, Noising, Prediction,
    Replay, Resolution, Rng, Schedule, Seeded, Shift, Spacing,
};
use framework::{Array, Dtype, Result, math};
use goldens::{Scalar, apart};
use mlx_rs::Device;
use num_traits::Float;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

const SHAPE: [i32; 3] = [1, 2, 3];

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    steps: usize,
    #[serde(default)]
    config: Value,
    noising: Option<Noising>,
    prediction: Option<Prediction>,
    order: Option<usize>,
    bh: Option<Bh>,
    eta: Option<f64>,
    f32: Option<Run>,
    f64: Option<Run>,
}

#[derive(Deserialize)]
struct Run {
    sigmas: Vec<Option<f64>>,
    timesteps: Vec<Option<f64>>,
    #[serde(default)]
    initial: Vec<f64>,
    #[serde(default)]
    latents: Vec<Vec<Option<f64>>>,
}

impl Case {
    fn says(&self, key: &str) -> bool {
        self.config[key] == Value::Bool(true)
    }

    /// The schedule of a diffusers scheduler's configuration.
    fn schedule(&self) -> AnySchedule {
        let curve = match () {
            () if self.says("use_karras_sigmas") => Some(Curve::KARRAS),
            () if self.says("use_exponential_sigmas") => Some(Curve::Exponential),
            () if self.says("use_beta_sigmas") => Some(Curve::BETA),
            () => None,
        };
        let algebraic = |key| match self.config[key].as_f64() {
            Some(shift) => Shift::Algebraic { shift },
            None => Shift::None,
        };
        let multistep = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"].contains(&self.kind.as_str());
        match self.kind.as_str() {
            "FlowMatchEulerDiscreteScheduler" => AnySchedule::Flow(match self.name.as_str() {
                "terminal" => Flow { terminal: Some(0.1), ..Flow::even(Shift::Exponential { mu: 2.05 }) },
                "schnell" => Flow::even(Shift::None),
                name if name.starts_with("flux") => {
                    let tokens = name.strip_prefix("flux-").map_or(1024, |tokens| tokens.parse().unwrap());
                    Flow::even(Shift::Exponential { mu: Resolution::default().mu(tokens) })
                }
                _ => Flow { curve, ..Flow::trained(algebraic("shift")) },
            }),
            "FlowMatchHeunDiscreteScheduler" => AnySchedule::Flow(Flow::trained(algebraic("shift"))),
            "LTXEulerAncestralRFScheduler" => AnySchedule::Flow(Flow::even(Shift::None)),
            "UniPCMultistepScheduler" if self.says("use_flow_sigmas") => {
                AnySchedule::Flow(Flow::unipc(algebraic("flow_shift")))
            }
            "DPMSolverMultistepScheduler" if self.says("use_flow_sigmas") => {
                AnySchedule::Flow(Flow::dpm(algebraic("flow_shift")))
            }
            "Ideogram4Pipeline" if self.name.ends_with("512") => AnySchedule::LogitNormal(LogitNormal::default()),
            "Ideogram4Pipeline" => {
                let usual = LogitNormal { mean: 0.3, deviation: 1.2, ..LogitNormal::default() };
                AnySchedule::LogitNormal(usual.at(2048, 1024))
            }
            "NumPy twin" => {
                let spacing = if self.name == "simple" { Spacing::Simple } else { Spacing::SgmUniform };
                let betas = Betas::STABLE_DIFFUSION;
                AnySchedule::Discrete(Discrete { betas, spacing, curve: None, multistep: false })
            }
            _ => {
                let kind = match self.config["beta_schedule"].as_str().unwrap() {
                    "linear" => BetaKind::Linear,
                    "scaled_linear" => BetaKind::ScaledLinear,
                    _ => BetaKind::SquaredCosine,
                };
                let or = |key: &str, usual: f64| self.config[key].as_f64().unwrap_or(usual);
                let (start, end) = (or("beta_start", 0.0001), or("beta_end", 0.02));
                let offset = or("steps_offset", 0.0) as usize;
                let usual = if self.kind == "DDIMScheduler" { "leading" } else { "linspace" };
                let spacing = match self.config["timestep_spacing"].as_str().unwrap_or(usual) {
                    "leading" => Spacing::Leading { offset },
                    "linspace" => Spacing::Linspace,
                    _ => Spacing::Trailing,
                };
                let betas = Betas { kind, start, end, timesteps: 1000 };
                AnySchedule::Discrete(Discrete { betas, spacing, curve, multistep })
            }
        }
    }

    fn method(&self, file: &str) -> Method {
        let eta = self.eta.unwrap_or(1.0);
        match file {
            "euler_ancestral" => Method::EulerAncestral { eta },
            "dpmpp_sde" => Method::DpmppSde { eta },
            "ddim" => Method::Ddim { eta },
            "uni_pc" => Method::UniPc { order: self.order.unwrap(), bh: self.bh.unwrap() },
            name => Method::named(name).unwrap(),
        }
    }

    /// Whether diffusers keeps latents divided by `√(1 + σ²)`.
    fn preserves_variance(&self) -> bool {
        let kinds = ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"];
        self.noising == Some(Noising::Additive) && kinds.contains(&self.kind.as_str())
    }
}

/// A nonlinear model of `u` and σ, in operations that MLX does exactly in f64.
fn model<F: Float>(u: &Array, sigma: F) -> Result<Array> {
    let tau = (sigma / (F::one() + sigma)).to_f64().unwrap();
    let rising = math::offset(&math::scaled(u, 0.6)?, tau - 0.4)?;
    let falling = math::offset(&math::scaled(&math::multiply(u, u)?, 0.5)?, 1.0)?;
    math::add(&math::scaled(u, 0.1)?, &math::divide(&rising, &falling)?)
}

/// The noise of the goldens.
fn noise() -> Vec<Array> {
    let rows: Vec<Vec<f64>> = goldens::read("noise");
    rows.iter().map(|row| math::array(row, &SHAPE).unwrap()).collect()
}

/// The worst relative error of a schedule: of its sigmas, and of its timesteps.
fn compare_schedule<F: Scalar>(case: &Case, run: &Run) -> f64 {
    if run.sigmas.iter().any(Option::is_none) {
        // Diffusers divides 0 by 0; ours must be finite.
        assert_eq!(case.schedule().schedule::<F>(case.steps).unwrap().steps(), case.steps);
        return 0.0;
    }
    let schedule: Schedule<F> = case.schedule().schedule(case.steps).unwrap();
    assert_eq!(schedule.sigmas().last(), Some(&F::zero()));
    let pairs = schedule.timesteps().iter().zip(&run.timesteps);
    let timesteps = pairs
        .fold(0.0f64, |most, (found, listed)| most.max((found.to_f64().unwrap() - listed.unwrap()).abs() / 1000.0));
    assert_eq!(schedule.timesteps().len(), run.timesteps.len());
    apart(schedule.sigmas(), &run.sigmas).max(timesteps)
}

/// How far diffusers in f32 is from diffusers in f64.
fn own_noise(case: &Case) -> f64 {
    let (Some(single), Some(double)) = (&case.f32, &case.f64) else { return 0.0 };
    let values = |row: &[Option<f64>]| -> Vec<f64> { row.iter().map(|value| value.unwrap_or(f64::NAN)).collect() };
    let rows = |run: &Run| [vec![run.sigmas.clone()], run.latents.clone()].concat();
    let pairs = rows(single).into_iter().zip(rows(double));
    let noise = pairs.fold(0.0f64, |most, (row, exact)| most.max(apart(&values(&row), &exact)));
    let timesteps = values(&single.timesteps).into_iter().zip(values(&double.timesteps));
    timesteps.fold(noise, |most, (single, double)| most.max((single - double).abs() / 1000.0))
}

/// The worst relative error of the latents of any step.
fn compare_latents<F: Scalar>(file: &str, case: &Case, run: &Run) -> f64 {
    let (noising, prediction) = (case.noising.unwrap(), case.prediction.unwrap());
    let schedule: Schedule<F> = case.schedule().schedule(case.steps).unwrap();
    let mut sampler = case.method(file).sampler::<F>(noising, schedule.steps());
    let frame = |sigma: F| if case.preserves_variance() { noising.input_scale(sigma) } else { F::one() };
    let mut rng = Replay::new(noise());
    let initial = math::array(&run.initial, &SHAPE).unwrap().as_dtype(F::DTYPE).unwrap();
    let first = frame(schedule.sigmas()[0]).recip().to_f64().unwrap();
    let mut x = math::scaled(&initial, first).unwrap();
    let mut worst: f64 = 0.0;
    for ((sigma, next), reference) in schedule.spans().zip(&run.latents) {
        let mut evaluations = 0;
        let mut denoise = |x: &Array, sigma: F| {
            evaluations += 1;
            let u = math::scaled(x, noising.input_scale(sigma).to_f64().unwrap())?;
            prediction.denoised(noising, &model(&u, sigma)?, x, sigma)
        };
        x = sampler.step(&mut denoise, &x, sigma, next, &mut rng).unwrap();
        assert_eq!(evaluations, sampler.evaluations(next));
        assert!(math::is_finite(&x).unwrap(), "{} {}", case.name, case.steps);
        let latents = math::scaled(&x, frame(next).to_f64().unwrap()).unwrap();
        worst = worst.max(apart(&math::read::<F>(&latents).unwrap(), reference));
    }
    assert_eq!(run.latents.len(), case.steps);
    worst
}

/// Compares the cases of a file in one precision; `slack` is what a case may be off beyond the tolerance.
fn compare<F: Scalar>(file: &str, run: impl Fn(&Case) -> Option<&Run>, slack: impl Fn(&Case) -> f64) {
    Device::set_default(&Device::cpu());
    let cases: File = goldens::read(file);
    let mut far = Vec::new();
    let mut worst: f64 = 0.0;
    for case in &cases.cases {
        let Some(run) = run(case) else { continue };
        let mut error = compare_schedule::<F>(case, run);
        if !run.latents.is_empty() {
            error = error.max(compare_latents::<F>(file, case, run));
        }
        worst = worst.max(error);
        if error > F::TOLERANCE + slack(case) {
            far.push(format!("{} in {} steps: {error:.1e}", case.name, case.steps));
        }
    }
    println!("{file}, {}: at most {worst:.1e}", std::any::type_name::<F>());
    assert!(far.is_empty(), "{file}, {}: {far:#?}", std::any::type_name::<F>());
}

fn check(file: &str) {
    compare::<f64>(file, |case| case.f64.as_ref(), |_| 0.0);
    // Ours starts from a table in f64. In f32 the lowest levels of diffusers' lose digits in 1 − (1 − β), and a timestep
    // of 999 may be cut to 998.
    compare::<f32>(file, |case| case.f32.as_ref(), own_noise);
}

#[test]
fn schedules_are_diffusers() {
    check("schedules");
}

#[test]
fn euler_is_diffusers() {
    check("euler");
}

#[test]
fn euler_ancestral_is_diffusers() {
    check("euler_ancestral");
}

#[test]
fn heun_is_diffusers() {
    check("heun");
}

#[test]
fn dpmpp_2m_is_diffusers() {
    check("dpmpp_2m");
}

#[test]
fn dpmpp_sde_is_diffusers() {
    check("dpmpp_sde");
}

#[test]
fn uni_pc_is_diffusers() {
    check("uni_pc");
}

#[test]
fn ddim_is_diffusers() {
    check("ddim");
}

fn shifts() -> impl Strategy<Value = Shift> {
    prop_oneof![
        Just(Shift::None),
        (0.2..15.0).prop_map(|shift| Shift::Algebraic { shift }),
        (-1.0..3.0).prop_map(|mu| Shift::Exponential { mu }),
    ]
}

fn curves() -> impl Strategy<Value = Option<Curve>> {
    prop_oneof![
        Just(None),
        (1.0..10.0).prop_map(|rho| Some(Curve::Karras { rho })),
        Just(Some(Curve::Exponential)),
        (0.4..1.5, 0.4..1.5).prop_map(|(alpha, beta)| Some(Curve::Beta { alpha, beta })),
    ]
}

fn flows() -> impl Strategy<Value = AnySchedule> {
    let ramp = prop_oneof![
        Just(Flow::even as fn(Shift) -> Flow),
        Just(Flow::trained as fn(Shift) -> Flow),
        Just(Flow::unipc as fn(Shift) -> Flow),
        Just(Flow::dpm as fn(Shift) -> Flow),
    ];
    let terminal = prop_oneof![Just(None), (0.01..0.3).prop_map(Some)];
    let flow = (ramp, shifts(), terminal, curves())
        .prop_map(|(ramp, shift, terminal, curve)| AnySchedule::Flow(Flow { terminal, curve, ..ramp(shift) }));
    let logit_normal = (-1.0..1.0, 0.5..1.6).prop_map(|(mean, deviation)| {
        AnySchedule::LogitNormal(LogitNormal { mean, deviation, ..LogitNormal::default() })
    });
    let fixed = (1usize..=60).prop_map(|steps| {
        let sigmas = (0..steps).map(|step| 0.97f64.powi(step as i32)).collect();
        AnySchedule::Fixed(Fixed { sigmas, clock: Clock::Scaled(1000.0) })
    });
    prop_oneof![4 => flow, 1 => logit_normal, 1 => fixed]
}

fn discretes() -> impl Strategy<Value = AnySchedule> {
    let kind = prop_oneof![Just(BetaKind::Linear), Just(BetaKind::ScaledLinear), Just(BetaKind::SquaredCosine)];
    let spacing = prop_oneof![
        (0usize..=1).prop_map(|offset| Spacing::Leading { offset }),
        Just(Spacing::Linspace),
        Just(Spacing::Trailing),
        Just(Spacing::Simple),
        Just(Spacing::SgmUniform),
    ];
    (kind, spacing, curves(), any::<bool>()).prop_map(|(kind, spacing, curve, multistep)| {
        let betas = Betas { kind, ..Betas::STABLE_DIFFUSION };
        AnySchedule::Discrete(Discrete { betas, spacing, curve, multistep })
    })
}

fn schedules() -> impl Strategy<Value = (Noising, AnySchedule)> {
    prop_oneof![
        flows().prop_map(|schedule| (Noising::Flow, schedule)),
        discretes().prop_map(|schedule| (Noising::Additive, schedule)),
    ]
}

fn methods() -> Vec<Method> {
    let mut methods: Vec<Method> = Method::NAMES.iter().map(|name| Method::named(name).unwrap()).collect();
    methods.extend([Method::Ddim { eta: 1.0 }, Method::EulerAncestral { eta: 0.3 }, Method::DpmppSde { eta: 0.0 }]);
    for bh in [Bh::Bh1, Bh::Bh2] {
        methods.extend((1..=3).map(|order| Method::UniPc { order, bh }));
    }
    methods
}

/// Levels of a schedule, for its own number of steps where it has one.
fn levels<F: Float>(any: &AnySchedule, steps: usize) -> Schedule<F> {
    let steps = if let AnySchedule::Fixed(fixed) = any { fixed.sigmas.len() } else { steps };
    any.schedule(steps).unwrap()
}

fn falls_to_zero<F: Scalar>(any: &AnySchedule, steps: usize) {
    let schedule: Schedule<F> = levels(any, steps);
    let sigmas = schedule.sigmas();
    assert_eq!(sigmas.len(), schedule.steps() + 1);
    assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{sigmas:?}");
    assert_eq!(sigmas.last(), Some(&F::zero()));
    for (&sigma, &timestep) in sigmas.iter().zip(schedule.timesteps()) {
        assert!(timestep.is_finite() && timestep >= F::zero());
        assert_eq!(schedule.timestep(sigma), timestep);
    }
}

/// Where a sampler ends when the model always knows the answer.
fn lands<F: Scalar>(noising: Noising, any: &AnySchedule, steps: usize, method: Method, seed: u64) {
    let schedule: Schedule<F> = levels(any, steps);
    let mut rng = Seeded::new(seed).unwrap();
    let target = rng.normal(&SHAPE, F::DTYPE).unwrap();
    let noise = rng.normal(&SHAPE, F::DTYPE).unwrap();
    let mut x = noising.noised(&target, &noise, schedule.sigmas()[0]).unwrap();
    let mut sampler = method.sampler::<F>(noising, schedule.steps());
    for (sigma, next) in schedule.spans() {
        let mut perfect = |_: &Array, _: F| Ok(target.clone());
        x = sampler.step(&mut perfect, &x, sigma, next, &mut rng).unwrap();
    }
    assert_eq!(x.dtype(), F::DTYPE);
    let (x, target) = (math::read::<F>(&x).unwrap(), math::read::<F>(&target).unwrap());
    let target: Vec<_> = target.iter().map(|value| value.to_f64()).collect();
    let error = apart(&x, &target);
    assert!(error <= F::TOLERANCE, "{method:?} {any:?} {steps}: {error:.1e}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sigmas_fall_strictly_to_zero((_, schedule) in schedules(), steps in 1usize..=60) {
        falls_to_zero::<f32>(&schedule, steps);
        falls_to_zero::<f64>(&schedule, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_perfect_denoiser_lands((noising, schedule) in schedules(), steps in 1usize..=60, seed: u64) {
        Device::set_default(&Device::cpu());
        for method in methods() {
            lands::<f32>(noising, &schedule, steps, method, seed);
            lands::<f64>(noising, &schedule, steps, method, seed);
        }
    }
}

/// The dtype of the latents is kept, also where the host computes in another precision.
#[test]
fn samplers_keep_the_dtype() -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        for method in methods() {
            let schedule = Flow::even(Shift::None).schedule::<f64>(3)?;
            let mut sampler = method.sampler(Noising::Flow, 3);
            let mut rng = Seeded::new(0)?;
            let mut x = rng.normal(&SHAPE, dtype)?;
            for (sigma, next) in schedule.spans() {
                let mut wide = |x: &Array, _: f64| math::scaled(&x.as_dtype(Dtype::Float32)?, 0.5);
                x = sampler.step(&mut wide, &x, sigma, next, &mut rng)?;
                assert_eq!(x.dtype(), dtype, "{method:?}");
            }
        }
    }
    Ok(())
}

/// An error of the model ends the step.
#[test]
fn errors_of_the_model_come_out() {
    for method in methods() {
        let mut sampler = method.sampler::<f32>(Noising::Flow, 2);
        let x = math::array(&[1f32], &[1]).unwrap();
        let mut failing = |_: &Array, _: f32| Err(framework::Error::Cancelled);
        let mut rng = Seeded::new(0).unwrap();
        assert!(matches!(sampler.step(&mut failing, &x, 1.0, 0.5, &mut rng), Err(framework::Error::Cancelled)));
    }
}
