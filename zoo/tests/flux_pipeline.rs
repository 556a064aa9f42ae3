//! What FLUX.1's pipeline does beside computing what diffusers computes, which parity's cases hold it to.

use framework::{
    Array, Dtype, math,
    sample::{Method, Replay, Seeded},
    weights::Packed,
};
use std::{ops::ControlFlow, path::Path};
use zoo::{Error, FluxPipeline, ImageEvent, ImageRequest, OpenOptions};

/// A tiny pipeline, whose parts are kept in memory or not.
fn open(keep: bool) -> FluxPipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/flux-pipeline/batch2/components");
    FluxPipeline::open(&folder, OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep }, keep).unwrap()
}

/// Two pictures that are not square.
fn request() -> ImageRequest {
    let prompts = ["a  12  345 naïve café, hello world, and more than either encoder can take", "hello"];
    let prompts = prompts.map(String::from).to_vec();
    ImageRequest { prompts, width: 96, height: 64, steps: 2, text_tokens: 20, ..ImageRequest::default() }
}

#[test]
fn every_stage_can_be_cancelled() {
    let (pipeline, request) = (open(false), request());
    let run = |stop: usize| {
        let mut stages = Vec::new();
        let outcome = pipeline.generate(&request, &mut seeds(&request, 1), None, &mut |event| {
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
    let pipeline = open(true);
    let request = ImageRequest { width: 192, height: 128, ..request() };
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
    let pipeline = open(true);
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    for name in Method::NAMES {
        let request = ImageRequest { steps: 4, sampler: Method::named(name).unwrap(), ..request() };
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
    let (pipeline, request) = (open(true), request());
    let active = |_| {
        pipeline.generate(&request, &mut seeds(&request, 1), None, &mut quiet).unwrap();
        mlx_rs::memory::active_memory().unwrap()
    };
    let used: Vec<usize> = (0..8).map(active).collect();
    assert!(used[7] <= used[0] + used[0] / 20, "{used:?}");
}

#[test]
fn noise_of_another_shape_is_refused() {
    let pipeline = open(true);
    let noise = Array::zeros::<f32>(&[1, 3, 16]).unwrap();
    let outcome = pipeline.generate(&request(), &mut Replay::new([noise]), None, &mut quiet);
    assert!(outcome.unwrap_err().to_string().contains("noise"));
}
