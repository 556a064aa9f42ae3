//! FLUX.1 from prompt to picture, beside diffusers on the same tiny components and the same noise.

use framework::{
    Array, Dtype, math,
    sample::{Method, Replay, Seeded},
    weights::Packed,
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::BufReader,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use zoo::{Error, FluxPipeline, ImageEvent, ImageRequest, InitImage, OpenOptions};

/// Relative L2 of latents and levels.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    arguments: Arguments,
}

/// diffusers' arguments, with its defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    prompt: Value,
    negative_prompt: Option<String>,
    height: i32,
    width: i32,
    num_inference_steps: usize,
    guidance_scale: f32,
    #[serde(default = "one")]
    true_cfg_scale: f64,
    max_sequence_length: usize,
    #[serde(default)]
    num_images_per_prompt: Option<usize>,
    #[serde(default)]
    strength: Option<f64>,
    #[serde(default)]
    output_type: Option<String>,
}

fn one() -> f64 {
    1.0
}

impl Arguments {
    fn request(&self) -> ImageRequest {
        assert_eq!(self.num_images_per_prompt.unwrap_or(1), 1);
        assert!(self.output_type.as_deref().is_none_or(|kind| kind == "np"));
        let prompts = match &self.prompt {
            Value::String(prompt) => vec![prompt.clone()],
            Value::Array(prompts) => prompts.iter().map(|prompt| prompt.as_str().unwrap().to_owned()).collect(),
            other => panic!("{other}"),
        };
        ImageRequest {
            prompts,
            negative_prompt: self.negative_prompt.clone(),
            width: self.width,
            height: self.height,
            steps: self.num_inference_steps,
            guidance: self.guidance_scale,
            // diffusers guides only where a negative prompt is given.
            true_guidance: if self.negative_prompt.is_some() { self.true_cfg_scale } else { 1.0 },
            text_tokens: self.max_sequence_length,
            ..ImageRequest::default()
        }
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/flux-pipeline");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|case| case.unwrap().path()).collect();
    cases.sort();
    cases
}

fn open(case: &Path) -> (FluxPipeline, Arguments) {
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    let pipeline = FluxPipeline::open(&case.join("components"), options, true).unwrap();
    let description: Case = serde_json::from_slice(&fs::read(case.join("pipeline.json")).unwrap()).unwrap();
    (pipeline, description.calls.into_iter().next().unwrap().arguments)
}

/// The numbers of a file and their shape.
fn read(path: &Path) -> (Vec<i32>, Vec<f64>) {
    let file = npyz::NpyFile::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let shape = file.shape().iter().map(|&length| length as i32).collect();
    let numbers = match file.dtype() {
        npyz::DType::Plain(kind) => kind.to_string(),
        other => panic!("{other:?}"),
    };
    let values = match &numbers[1..] {
        "f4" => file.into_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
        "f8" => file.into_vec::<f64>().unwrap(),
        "i8" => file.into_vec::<i64>().unwrap().into_iter().map(|n| n as f64).collect(),
        "i4" => file.into_vec::<i32>().unwrap().into_iter().map(f64::from).collect(),
        "u1" => file.into_vec::<u8>().unwrap().into_iter().map(f64::from).collect(),
        other => panic!("{other}"),
    };
    (shape, values)
}

fn floats(path: &Path) -> Array {
    let (shape, values) = read(path);
    math::array(&values.iter().map(|&value| value as f32).collect::<Vec<f32>>(), &shape).unwrap()
}

fn numbers(x: &Array) -> Vec<f64> {
    math::read::<f32>(&x.as_dtype(Dtype::Float32).unwrap()).unwrap().into_iter().map(f64::from).collect()
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied()).max(1e-30)
}

fn init(case: &Path, arguments: &Arguments) -> Option<InitImage> {
    let strength = arguments.strength?;
    let (mut shape, pixels) = read(&case.join("inputs/0/image.npy"));
    if shape.len() == 3 {
        shape.insert(0, 1);
    }
    let pixels = math::array(&pixels.into_iter().map(|pixel| pixel as u8).collect::<Vec<u8>>(), &shape).unwrap();
    let noise = floats(&case.join("inputs/0/posterior_noise.npy"));
    let posterior_noise = Some(noise.transpose_axes(&[0, 2, 3, 1]).unwrap());
    Some(InitImage { pixels, strength, posterior_noise })
}

#[test]
fn every_step_is_the_references() {
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let output = |file: &str| case.join("output/0").join(file);
        let (pipeline, arguments) = open(&case);
        let request = arguments.request();
        let tokens = pipeline.tokens(&request.prompts, request.text_tokens).unwrap();
        for (found, file) in tokens.iter().zip(["tokens.npy", "tokens_2.npy"]) {
            assert_eq!(numbers(found), read(&output(file)).1, "{name}: {file}");
        }
        let noise = floats(&case.join("inputs/0/latents.npy"));
        let init = init(&case, &arguments);
        let mut schedule = pipeline.schedule(request.steps, noise.shape()[1] as usize).unwrap();
        if let Some(init) = &init {
            schedule = schedule.with_strength(init.strength).unwrap();
        }
        let (_, sigmas) = read(&output("sigmas.npy"));
        let kept = &sigmas[sigmas.len() - schedule.sigmas().len()..];
        assert!(distance(schedule.sigmas(), kept) < 1e-6, "{name}: sigmas");
        let mut worst = 0f64;
        let picture = pipeline.generate(&request, &mut Replay::new([noise]), init.as_ref(), &mut |event| {
            if let ImageEvent::Step { done, latents, .. } = event {
                let expected = read(&output(&format!("latents.{}.npy", done - 1))).1;
                worst = worst.max(distance(&numbers(latents), &expected));
            }
            ControlFlow::Continue(())
        });
        let picture = picture.unwrap();
        let (shape, expected) = read(&output("image.npy"));
        assert_eq!(picture.shape(), shape, "{name}");
        let pixels = numbers(&picture).into_iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{name}: latents within {worst:.1e}, pixels within {pixels}/255");
        assert!(worst < TOLERANCE && pixels <= 1.0, "{name}: {worst} {pixels}");
    }
}

#[test]
fn every_stage_can_be_cancelled() {
    let case = &cases()[0];
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    let pipeline = FluxPipeline::open(&case.join("components"), options, false).unwrap();
    let request = open(case).1.request();
    let noise = floats(&case.join("inputs/0/latents.npy"));
    let run = |stop: usize| {
        let mut stages = Vec::new();
        let outcome = pipeline.generate(&request, &mut Replay::new([noise.clone()]), None, &mut |event| {
            stages.push(match event {
                ImageEvent::Load { component, .. } => component.to_owned(),
                ImageEvent::Encoded => "encoded".into(),
                ImageEvent::Step { done, total, .. } => format!("step {done} of {total}"),
                ImageEvent::Tile { done, total } => format!("tile {done} of {total}"),
                _ => unreachable!(),
            });
            if stages.len() > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (outcome, stages)
    };
    let (picture, all) = run(usize::MAX);
    assert!(picture.is_ok());
    let mut order = all.clone();
    order.dedup();
    let expected = [
        "text_encoder",
        "text_encoder_2",
        "encoded",
        "transformer",
        "step 1 of 2",
        "step 2 of 2",
        "vae",
        "tile 1 of 1",
    ];
    assert_eq!(order, expected);
    for stop in (0..all.len()).step_by(7).chain(all.len() - 5..all.len()) {
        let (outcome, stages) = run(stop);
        assert!(matches!(outcome, Err(Error::Cancelled)), "after {:?}", stages.last());
        assert_eq!(stages.len(), stop + 1);
    }
}

fn quiet(_: ImageEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn seeds(request: &ImageRequest, first: u64) -> Seeded {
    let seeds: Vec<u64> = (first..).take(request.prompts.len()).collect();
    Seeded::rows(&seeds).unwrap()
}

#[test]
fn pictures_come_from_the_seeds_and_the_tiles() {
    let (pipeline, arguments) = open(&cases()[0]);
    let request = ImageRequest { width: 192, height: 128, ..arguments.request() };
    let make =
        |request: &ImageRequest, seed| pipeline.generate(request, &mut seeds(request, seed), None, &mut quiet).unwrap();
    let whole = make(&request, 7);
    assert!(whole.eq_exact(make(&request, 7)).unwrap());
    assert!(!whole.eq_exact(make(&request, 8)).unwrap());
    let tiled = make(&ImageRequest { tile: Some(64), ..request }, 7);
    assert_eq!(tiled.shape(), whole.shape());
    assert!(!tiled.eq_exact(&whole).unwrap(), "the option is read");
}

#[test]
fn every_sampler_runs_and_is_its_own() {
    let (pipeline, arguments) = open(&cases()[0]);
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    for name in Method::NAMES {
        let request = ImageRequest { steps: 4, sampler: Method::named(name).unwrap(), ..arguments.request() };
        let make = || pipeline.generate(&request, &mut seeds(&request, 1), None, &mut quiet).unwrap();
        let picture = math::read::<u8>(&make()).unwrap();
        assert!(picture == math::read::<u8>(&make()).unwrap(), "{name}");
        pictures.push(picture);
    }
    // DDIM without noise is Euler.
    let distinct: std::collections::BTreeSet<_> = pictures.into_iter().collect();
    assert!(distinct.len() >= Method::NAMES.len() - 1);
}

#[test]
fn memory_stays_flat_over_requests() {
    let (pipeline, arguments) = open(&cases()[0]);
    let request = arguments.request();
    let active = |_| {
        pipeline.generate(&request, &mut seeds(&request, 1), None, &mut quiet).unwrap();
        mlx_rs::memory::active_memory().unwrap()
    };
    let used: Vec<usize> = (0..8).map(active).collect();
    assert!(used[7] <= used[0] + used[0] / 20, "{used:?}");
}

#[test]
fn noise_of_another_shape_is_refused() {
    let (pipeline, arguments) = open(&cases()[0]);
    let noise = Array::zeros::<f32>(&[1, 3, 16]).unwrap();
    let outcome = pipeline.generate(&arguments.request(), &mut Replay::new([noise]), None, &mut quiet);
    assert!(outcome.unwrap_err().to_string().contains("noise"));
}
