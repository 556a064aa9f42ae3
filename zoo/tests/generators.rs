//! What holds for everything that makes images, over a tiny snapshot of each; parity's cases compare the numbers.

use framework::{
    Array, Dtype, math,
    sample::{Apg, Guidance, Method, Replay, Rescale, Rule},
    weights::Packed,
};
use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use zoo::{
    Error, Generator, ImageEvent, ImageRequest, InitImage, OpenOptions, PIPELINES, Pipeline,
    image::{Conditioning, Planned, Stage},
};

/// Every pipeline of the table with the components of its first case.
fn snapshots() -> Vec<(&'static Pipeline, PathBuf)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let folders = fs::read_dir(fixtures).unwrap().filter_map(|family| fs::read_dir(family.unwrap().path()).ok());
    let mut cases: Vec<PathBuf> = folders.flatten().map(|case| case.unwrap().path()).collect();
    cases.sort();
    let of = |pipeline: &'static Pipeline| {
        let fits = |case: &&PathBuf| {
            let text = fs::read(case.join("case.json")).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            json["reference"]["class"].as_str().is_some_and(|class| pipeline.names.contains(&class))
        };
        let case = cases.iter().find(fits).unwrap_or_else(|| panic!("{:?} has no case", pipeline.names));
        (pipeline, case.join("components"))
    };
    PIPELINES.iter().map(of).collect()
}

fn open(pipeline: &Pipeline, path: &Path, keep: bool) -> Box<dyn Generator> {
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    (pipeline.open)(path, options, keep).unwrap()
}

fn each(keep: bool) -> impl Iterator<Item = Box<dyn Generator>> {
    snapshots().into_iter().map(move |(pipeline, path)| open(pipeline, &path, keep))
}

/// Two pictures that are not square.
fn request(model: &dyn Generator) -> ImageRequest {
    let prompts = ["a  12  345 naïve café, hello world, and more than either encoder can take", "hello"];
    let prompts = prompts.map(String::from).to_vec();
    let multiple = model.capabilities().multiple;
    let [width, height] = [6 * multiple, 4 * multiple];
    ImageRequest { prompts, width, height, steps: 2, text_tokens: 20, ..model.capabilities().request() }
}

fn quiet(_: ImageEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn make(model: &dyn Generator, request: &ImageRequest) -> Array {
    model.generate(request, &mut quiet).unwrap()
}

/// The largest difference of two pictures, of 255.
fn difference(a: &Array, b: &Array) -> u8 {
    let pairs = math::read::<u8>(a).unwrap().into_iter().zip(math::read::<u8>(b).unwrap());
    pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap()
}

fn init(request: &ImageRequest, strength: f64) -> InitImage {
    let shape = [1, request.height, request.width, 3];
    let pixels: Vec<u8> = (0..shape.iter().product::<i32>()).map(|i| (i % 251) as u8).collect();
    InitImage { pixels: math::array(&pixels, &shape).unwrap(), strength, posterior_noise: None }
}

#[test]
fn progress_grows_to_its_total_and_every_stage_can_be_cancelled() {
    for model in each(false) {
        let plain = request(&*model);
        let request =
            ImageRequest { init: Some(init(&plain, 1.0)), batch: Some(1), tile: Some(64), previews: true, ..plain };
        let run = |stop: usize| {
            let mut events = Vec::new();
            let outcome = model.generate(&request, &mut |event| {
                events.push(match event {
                    ImageEvent::Progress { stage, done, total, .. } => Some((stage, done, total)),
                    _ => None,
                });
                if events.len() > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            (outcome, events)
        };
        let (picture, all) = run(usize::MAX);
        picture.unwrap();
        let mut stages: Vec<Stage> = Vec::new();
        let progress: Vec<_> = all.iter().flatten().collect();
        for (index, &&(stage, done, total)) in progress.iter().enumerate() {
            assert!(done >= 1 && done <= total, "{stage:?} {done} of {total}");
            let before = progress[..index].iter().rev().find(|(known, ..)| *known == stage);
            // A component that was let go is loaded again.
            if let Some((_, known, of)) = before.filter(|_| !matches!(stage, Stage::Load(_))) {
                assert!(*of == total && done == known + 1, "{stage:?}: {done} after {known}");
            }
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        for stage in &stages {
            let (_, done, total) = progress.iter().rev().find(|(known, ..)| known == stage).unwrap();
            assert_eq!(done, total, "{stage:?} ends");
        }
        for stage in [Stage::Encode, Stage::Begin, Stage::Denoise, Stage::Decode] {
            assert!(stages.contains(&stage));
        }
        let evaluations = if request.is_guided() { 2 } else { 1 };
        let others = all.iter().filter(|event| event.is_none()).count();
        assert_eq!(others, 2 * 2 * (evaluations + 2), "evaluations, latents and previews");
        for stop in (0..all.len()).step_by(23).chain(all.len() - 3..all.len()) {
            let (outcome, events) = run(stop);
            assert!(matches!(outcome, Err(Error::Cancelled)), "after {:?}", events.last());
            assert_eq!(events.len(), stop + 1, "nothing happens after {:?}", events.last());
        }
    }
}

#[test]
fn pictures_come_from_their_seeds_alone() {
    for model in each(true) {
        let request = ImageRequest { seed: 7, ..request(&*model) };
        let both = make(&*model, &request);
        assert!(both.eq_exact(make(&*model, &request)).unwrap());
        assert!(difference(&both, &make(&*model, &ImageRequest { seed: 8, ..request.clone() })) > 1);
        // Products of another batch are rounded another way.
        assert!(difference(&both, &make(&*model, &ImageRequest { batch: Some(1), ..request.clone() })) <= 1);
        let alone = ImageRequest { prompts: request.prompts[1..].to_vec(), seed: 8, ..request.clone() };
        let second = math::slice(&both, 0, 1, 2).unwrap();
        assert!(difference(&second, &make(&*model, &alone)) <= 1);
    }
}

#[test]
fn tiles_change_no_pixel_but_by_rounding() {
    for model in each(true) {
        let multiple = model.capabilities().multiple;
        let request = ImageRequest { width: 13 * multiple, height: 9 * multiple, ..request(&*model) };
        let request = ImageRequest { init: Some(init(&request, 0.5)), ..request };
        let mut tiles = [0, 0];
        let tiled = model.generate(&ImageRequest { tile: Some(64), ..request.clone() }, &mut |event| {
            match event {
                ImageEvent::Progress { stage: Stage::Begin, total, .. } => tiles[0] = total,
                ImageEvent::Progress { stage: Stage::Decode, total, .. } => tiles[1] = total,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        assert!(tiles[0] > 10 && tiles[1] > 10, "{tiles:?}");
        assert!(difference(&make(&*model, &request), &tiled.unwrap()) <= 1);
    }
}

#[test]
fn every_sampler_runs_and_is_its_own() {
    for model in each(true) {
        let names = &model.capabilities().samplers;
        let mut pictures: Vec<Vec<u8>> = Vec::new();
        for name in names {
            let request = ImageRequest { steps: 4, sampler: Method::named(name).unwrap(), ..request(&*model) };
            let picture = math::read::<u8>(&make(&*model, &request)).unwrap();
            assert!(picture == math::read::<u8>(&make(&*model, &request)).unwrap(), "{name}");
            pictures.push(picture);
        }
        // DDIM without noise is Euler.
        let distinct: BTreeSet<_> = pictures.into_iter().collect();
        assert!(distinct.len() >= names.len() - 1);
    }
}

#[test]
fn everything_that_can_be_asked_for_is_read() {
    for model in each(true) {
        let plain = ImageRequest { steps: 5, ..request(&*model) };
        let usual = make(&*model, &plain);
        let guided = |rule| ImageRequest { true_guidance: Guidance { rule, ..Guidance::default() }, ..plain.clone() };
        let free = guided(Rule::ClassifierFree { scale: 4.0 });
        let rescale = Some(Rescale::Deviation { share: 0.7 });
        let mut others = vec![
            ImageRequest { prompts: vec!["another".into(), "text".into()], ..plain.clone() },
            ImageRequest { steps: 6, ..plain.clone() },
            ImageRequest { text_tokens: 21, ..plain.clone() },
        ];
        let offers = model.capabilities();
        if let Some(guidance) = plain.guidance {
            others.push(ImageRequest { guidance: Some(guidance + 3.0), ..plain.clone() });
        }
        if offers.true_guidance.is_some() {
            let negatives = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            others.extend([
                guided(Rule::Apg(Apg { scale: 4.0, ..Apg::default() })),
                guided(Rule::ClassifierFreeZero { scale: 4.0, zero_init_steps: 1 }),
                ImageRequest { true_guidance: Guidance { rescale, ..free.true_guidance }, ..plain.clone() },
                ImageRequest { negative_prompts: negatives(&["house"]), ..free.clone() },
                ImageRequest { negative_prompts: negatives(&["house", "tree"]), ..free.clone() },
                free,
            ]);
        }
        if offers.conditioning.contains(&Conditioning::InitImage) {
            others.push(ImageRequest { init: Some(init(&plain, 0.7)), ..plain.clone() });
            others.push(ImageRequest { init: Some(init(&plain, 0.3)), ..plain.clone() });
        }
        let all: Vec<Vec<u8>> = others.iter().map(|other| math::read(&make(&*model, other)).unwrap()).collect();
        let distinct: BTreeSet<_> = all.iter().chain([&math::read(&usual).unwrap()]).cloned().collect();
        assert_eq!(distinct.len(), others.len() + 1, "two requests gave one picture");
    }
}

#[test]
fn memory_stays_flat_over_requests() {
    for keep in [true, false] {
        for model in each(keep) {
            let request = request(&*model);
            let active = |_| {
                make(&*model, &request);
                mlx_rs::memory::active_memory().unwrap()
            };
            let used: Vec<usize> = (0..8).map(active).collect();
            assert!(used[7] <= used[0] + used[0] / 20, "{used:?}");
        }
    }
}

/// The memory of this process, where the system tells.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[test]
fn the_process_does_not_grow_over_requests() {
    for model in each(false) {
        let request = request(&*model);
        let used: Vec<u64> = (0..8)
            .filter_map(|_| {
                make(&*model, &request);
                resident()
            })
            .collect();
        if let (Some(first), Some(last)) = (used.first(), used.get(7)) {
            assert!(*last <= first + first / 20, "{used:?}");
        }
    }
}

#[test]
fn a_tokenizer_and_components_of_another_model_are_refused() {
    for (pipeline, path) in snapshots() {
        let spoilt = |spoil: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().unwrap();
            copy(&path, folder.path());
            spoil(folder.path());
            let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
            (pipeline.open)(folder.path(), options, false).map(drop).unwrap_err().to_string()
        };
        let limit = |limit: serde_json::Value| {
            spoilt(&|folder| {
                let file = folder.join("tokenizer/tokenizer_config.json");
                let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
                json["model_max_length"] = limit.clone();
                fs::write(&file, json.to_string()).unwrap();
            })
        };
        assert!(limit(0.into()).contains("model_max_length"));
        assert!(limit("many".into()).contains("model_max_length"));
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let other = |case: &str, component: &str| {
            spoilt(&|folder| {
                let (case, into) = (fixtures.join(case), folder.join(component));
                let text = fs::read(case.join("case.json")).unwrap();
                let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
                fs::write(into.join("config.json"), json["config"].to_string()).unwrap();
                fs::copy(case.join("weights.safetensors"), into.join("weights.safetensors")).unwrap();
            })
        };
        let vae = other("autoencoder-kl/flux", "vae");
        assert!(vae.contains("channels"), "{vae}");
        if path.join("text_encoder_2").exists() {
            let t5 = other("t5/gated-gelu", "text_encoder_2");
            assert!(t5.contains("text_encoder_2") && t5.contains("the transformer needs"), "{t5}");
        }
    }
}

#[test]
fn what_is_not_finite_is_reported_with_its_stage() {
    let components = [("text_encoder", "encoding"), ("transformer", "denoising"), ("vae", "decoding")];
    for (pipeline, path) in snapshots() {
        for (component, stage) in components {
            let folder = tempfile::tempdir().unwrap();
            copy(&path, folder.path());
            let weights = folder.path().join(component).join("weights.safetensors");
            let mut bytes = fs::read(&weights).unwrap();
            let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            bytes[data..].as_chunks_mut().0.fill(f32::NAN.to_le_bytes());
            fs::write(&weights, bytes).unwrap();
            let model = open(pipeline, folder.path(), false);
            let error = model.generate(&request(&*model), &mut quiet).unwrap_err();
            let found =
                matches!(&error, Error::Framework(framework::Error::NotFinite { stage: found }) if found == stage);
            assert!(found, "{component}: {error}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let place = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &place);
        } else {
            fs::copy(&entry, &place).unwrap();
        }
    }
}

#[test]
fn previews_are_small_and_end_as_the_picture_does() {
    for model in each(true) {
        let plain = request(&*model);
        let request = ImageRequest { previews: true, steps: 3, ..plain };
        let mut previews = Vec::new();
        let picture = model.generate(&request, &mut |event| {
            if let ImageEvent::Preview { pixels, first: 0 } = event {
                previews.push(pixels.clone());
            }
            ControlFlow::Continue(())
        });
        let picture = picture.unwrap();
        assert_eq!(previews.len(), 3);
        let [batch, height, width, channels] = math::shape(&previews[2]).unwrap();
        assert_eq!((batch, channels), (2, 3));
        let factor = request.height / height;
        assert_eq!((height * factor, width * factor), (request.height, request.width));
        // The same picture, but for what a linear projection cannot say.
        let small = picture.as_dtype(Dtype::Float32).unwrap().reshape(&[2, height, factor, width, factor, 3]).unwrap();
        let small = small.mean_axes(&[2, 4], false).unwrap();
        let apart = math::subtract(&small, &previews[2].as_dtype(Dtype::Float32).unwrap()).unwrap().abs().unwrap();
        let mean = math::read::<f32>(&apart.mean(None).unwrap()).unwrap()[0];
        assert!(mean < 40.0, "{mean}");
    }
}

#[test]
fn the_plan_foretells_the_peak_of_every_stage() {
    for model in each(false) {
        let plain = request(&*model);
        let of_side = |side: i32| {
            let side = side * model.capabilities().multiple;
            ImageRequest { width: side, height: side, ..plain.clone() }
        };
        let guided = ImageRequest { true_guidance: Guidance::classifier_free(2.0), ..of_side(24) };
        let begun = ImageRequest { init: Some(init(&of_side(24), 1.0)), tile: Some(64), ..of_side(24) };
        for request in
            [of_side(8), of_side(16), guided, begun, ImageRequest { tile: Some(128), steps: 1, ..of_side(48) }]
        {
            let plan = model.plan(&request).unwrap();
            let stage_of = |part: &Planned| match (part.component, part.task) {
                ("vae", "encode") => Stage::Begin,
                (_, "encode") => Stage::Encode,
                (_, "denoise") => Stage::Denoise,
                _ => Stage::Decode,
            };
            mlx_rs::memory::clear_cache().unwrap();
            mlx_rs::memory::reset_peak_memory().unwrap();
            let before = mlx_rs::memory::active_memory().unwrap();
            let outcome = model.generate(&request, &mut |event| {
                if let ImageEvent::Progress { stage, done, total, .. } = event
                    && done == total
                    && !matches!(stage, Stage::Load(_))
                {
                    let peak = (mlx_rs::memory::peak_memory().unwrap() - before) as f64;
                    let planned = plan.parts.iter().filter(|part| stage_of(part) == stage).map(Planned::peak).max();
                    let ratio = planned.unwrap() as f64 / peak;
                    // Nothing is too small for the parts that are not planned: prompts, latents, tables.
                    assert!(
                        ratio > 0.75 && ratio < 8.0 || peak < 4e6,
                        "{stage:?}: planned {planned:?}, found {peak}: {request:?}"
                    );
                    mlx_rs::memory::reset_peak_memory().unwrap();
                }
                ControlFlow::Continue(())
            });
            outcome.unwrap();
        }
    }
}

#[test]
fn what_needs_more_memory_than_there_is_is_refused_before_anything_is_read() {
    for model in each(false) {
        let request = request(&*model);
        let needed = model.plan(&request).unwrap().peak().unwrap().0;
        let run = |memory| {
            let mut events = 0;
            let outcome = model.generate(&ImageRequest { memory: Some(memory), ..request.clone() }, &mut |_| {
                events += 1;
                ControlFlow::Continue(())
            });
            (outcome, events)
        };
        assert!(run(needed).0.is_ok());
        let (refused, events) = run(needed - 1);
        assert!(matches!(refused, Err(Error::Memory { .. })) && events == 0);
    }
}

#[test]
fn noise_of_another_shape_is_refused() {
    for model in each(true) {
        let noise = Array::zeros::<f32>(&[1, 3, 17]).unwrap();
        let outcome = model.generate_from(&request(&*model), &mut Replay::new([noise]), &mut quiet);
        assert!(outcome.unwrap_err().to_string().contains("noise"));
    }
}

#[test]
fn a_model_opened_in_one_thread_runs_in_another() {
    for (pipeline, path) in snapshots() {
        let (model, first) = std::thread::spawn(move || {
            let model = open(pipeline, &path, true);
            let request = request(&*model);
            let pixels = math::read::<u8>(&make(&*model, &request)).unwrap();
            (model, pixels)
        })
        .join()
        .unwrap();
        assert!(math::read::<u8>(&make(&*model, &request(&*model))).unwrap() == first);
    }
}

/// Requests that cannot be, and the value that the error names.
fn impossible(fine: &ImageRequest, multiple: i32) -> Vec<(ImageRequest, &'static str)> {
    let guided = |guidance: Guidance| ImageRequest { true_guidance: guidance, ..fine.clone() };
    let free = Guidance::classifier_free;
    let apg = |apg: Apg| guided(Guidance { rule: Rule::Apg(apg), ..Guidance::default() });
    let begun = |init: InitImage| ImageRequest { init: Some(init), ..fine.clone() };
    let strength = |strength| begun(init(fine, strength));
    let pixels = |shape: &[i32], dtype| {
        let pixels = Array::zeros::<u8>(shape).unwrap().as_dtype(dtype).unwrap();
        begun(InitImage { pixels, strength: 0.5, posterior_noise: None })
    };
    let (width, height) = (fine.width, fine.height);
    let negatives = |count: usize| vec!["a".to_owned(); count];
    vec![
        (ImageRequest { prompts: Vec::new(), ..fine.clone() }, "prompts"),
        (ImageRequest { prompts: negatives(1 << 20), ..fine.clone() }, "prompts"),
        (ImageRequest { width: 0, ..fine.clone() }, "width"),
        (ImageRequest { width: multiple + 1, ..fine.clone() }, "width"),
        (ImageRequest { width: -multiple, ..fine.clone() }, "width"),
        (ImageRequest { width: i32::MIN, ..fine.clone() }, "width"),
        (ImageRequest { width: i32::MAX, ..fine.clone() }, "width"),
        (ImageRequest { width: 1 << 20, height: 1 << 20, ..fine.clone() }, "width"),
        (ImageRequest { height: 0, ..fine.clone() }, "height"),
        (ImageRequest { height: multiple - 1, ..fine.clone() }, "height"),
        (ImageRequest { height: -multiple, ..fine.clone() }, "height"),
        (ImageRequest { steps: 0, ..fine.clone() }, "steps"),
        (ImageRequest { steps: usize::MAX, ..fine.clone() }, "steps"),
        (ImageRequest { sampler: Method::Ddim { eta: f64::NAN }, ..fine.clone() }, "eta"),
        (ImageRequest { sampler: Method::Ddim { eta: 2.0 }, ..fine.clone() }, "eta"),
        (ImageRequest { sampler: Method::EulerAncestral { eta: -1.0 }, ..fine.clone() }, "eta"),
        (ImageRequest { sampler: Method::DpmppSde { eta: f64::INFINITY }, ..fine.clone() }, "eta"),
        (ImageRequest { sampler: Method::UniPc { order: 0, bh: Default::default() }, ..fine.clone() }, "order"),
        (ImageRequest { sampler: Method::UniPc { order: 9, bh: Default::default() }, ..fine.clone() }, "order"),
        (ImageRequest { guidance: Some(f32::NAN), ..fine.clone() }, "guidance"),
        (ImageRequest { guidance: Some(f32::INFINITY), ..fine.clone() }, "guidance"),
        (guided(free(f64::NAN)), "true_guidance"),
        (guided(free(f64::NEG_INFINITY)), "true_guidance"),
        (guided(free(-0.5)), "true_guidance"),
        (guided(Guidance { start: 0.7, stop: 0.2, ..free(2.0) }), "true_guidance"),
        (guided(Guidance { start: f64::NAN, ..free(2.0) }), "true_guidance"),
        (guided(Guidance { stop: 1.5, ..free(2.0) }), "true_guidance"),
        (guided(Guidance { rescale: Some(Rescale::Deviation { share: 1.5 }), ..free(2.0) }), "true_guidance"),
        (apg(Apg { scale: 2.0, momentum: f64::NAN, ..Apg::default() }), "true_guidance"),
        (apg(Apg { scale: 2.0, threshold: Some(-1.0), ..Apg::default() }), "true_guidance"),
        (apg(Apg { scale: 2.0, eta: 7.0, ..Apg::default() }), "true_guidance"),
        (guided(Guidance { rule: Rule::Dual { scale: 2.0, between: 1.5 }, ..Guidance::default() }), "true_guidance"),
        (ImageRequest { negative_prompts: negatives(1), ..guided(free(1.0)) }, "negative_prompts"),
        (ImageRequest { negative_prompts: negatives(3), ..guided(free(2.0)) }, "negative_prompts"),
        (ImageRequest { text_tokens: 0, ..fine.clone() }, "text_tokens"),
        (ImageRequest { text_tokens: 1 << 20, ..fine.clone() }, "text_tokens"),
        (ImageRequest { batch: Some(0), ..fine.clone() }, "batch"),
        (ImageRequest { tile: Some(0), ..fine.clone() }, "tile"),
        (ImageRequest { tile: Some(-64), ..fine.clone() }, "tile"),
        (ImageRequest { tile: Some(100), ..fine.clone() }, "tile"),
        (strength(0.0), "strength"),
        (strength(-1.0), "strength"),
        (strength(1.01), "strength"),
        (strength(f64::NAN), "strength"),
        (pixels(&[1, height, width, 4], Dtype::Uint8), "init"),
        (pixels(&[1, width, height, 3], Dtype::Uint8), "init"),
        (pixels(&[3, height, width, 3], Dtype::Uint8), "init"),
        (pixels(&[1, height, width, 3], Dtype::Float32), "init"),
        (pixels(&[height, width, 3], Dtype::Uint8), "init"),
        (strength(f64::MIN_POSITIVE), "strength"),
        (
            begun(InitImage { posterior_noise: Some(Array::zeros::<f32>(&[1, 2, 3, 4]).unwrap()), ..init(fine, 0.5) }),
            "posterior_noise",
        ),
        (
            guided(Guidance { rule: Rule::ClassifierFreeZero { scale: 2.0, zero_init_steps: 2 }, ..free(2.0) }),
            "true_guidance",
        ),
        (ImageRequest { memory: Some(1), ..fine.clone() }, "memory"),
    ]
}

#[test]
fn what_cannot_be_is_refused_by_name_before_anything_is_read() {
    for model in each(false) {
        let fine = request(&*model);
        let cases = impossible(&fine, model.capabilities().multiple);
        assert!(cases.len() >= 40);
        for (request, name) in cases {
            let mut events = 0;
            let outcome = model.generate(&request, &mut |_| {
                events += 1;
                ControlFlow::Continue(())
            });
            let error = outcome.unwrap_err();
            let named = match &error {
                Error::Argument { name: found, .. } => found == name,
                Error::Framework(framework::Error::Argument { name: found, .. }) => found == name,
                Error::Memory { .. } => name == "memory",
                _ => false,
            };
            assert!(named && events == 0, "{name}: {error}");
            if name != "memory" {
                assert!(model.plan(&request).is_err(), "{name} is planned");
            }
        }
    }
}

#[test]
fn what_is_offered_is_what_the_published_rows_say() {
    for row in zoo::published::published().unwrap() {
        let Some(offers) = &row.image else { continue };
        assert!(PIPELINES.iter().any(|pipeline| pipeline.names.contains(&row.family.as_str())), "{}", row.id);
        let mut request = offers.request();
        request.prompts = vec!["a".into()];
        offers.validate(&request).unwrap();
        for name in &offers.samplers {
            assert_eq!(Method::named(name).unwrap().name(), name);
        }
        assert!(offers.text_tokens.recommended <= offers.text_tokens.most && offers.steps > 0);
    }
}
