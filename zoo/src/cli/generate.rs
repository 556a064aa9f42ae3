//! `zoo generate`.

use super::{
    ComputeArguments,
    show::{Show, Unit, note_failure},
};
use crate::{
    Error, FluxPipeline, ImageEvent, ImageRequest, InitImage, Result, cache,
    picture::{self, Picture},
};
use clap::Args;
use framework::{
    Array, math,
    sample::{Method, Seeded},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The request of a picture. What is left out comes from the picture of `--from`, or else from the model.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// What the picture shows.
    prompt: Option<String>,
    /// The folder of a snapshot; by default that of the picture of --from.
    #[arg(short, long, value_name = "DIR")]
    model: Option<String>,
    /// The file to write, a PNG that holds its request; several pictures are numbered, with a contact sheet beside them.
    #[arg(short, long, default_value = "picture.png", value_name = "FILE")]
    out: PathBuf,
    /// Take the request from a picture that was made here.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// What the picture does not show; needs --true-guidance.
    #[arg(long)]
    negative: Option<String>,
    /// Pixels, a multiple of 16.
    #[arg(long, allow_negative_numbers = true)]
    width: Option<i32>,
    /// Pixels, a multiple of 16.
    #[arg(long, allow_negative_numbers = true)]
    height: Option<i32>,
    /// How many noise levels there are.
    #[arg(long)]
    steps: Option<usize>,
    /// How the picture moves from one noise level to the next: euler, euler_ancestral, heun, dpmpp_2m, dpmpp_sde, uni_pc,
    /// uni_pc_bh2 or ddim; by default euler.
    #[arg(long)]
    sampler: Option<String>,
    /// The guidance that the model was distilled with.
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Classifier-free guidance, at twice the time; 1 is off.
    #[arg(long, allow_negative_numbers = true)]
    true_guidance: Option<f64>,
    /// The seed of the first picture; the next ones follow.
    #[arg(long)]
    seed: Option<u64>,
    /// How many pictures.
    #[arg(long, default_value_t = 1)]
    count: u16,
    /// Begin from this picture, PNG or JPEG, resized to the width and height.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// How much of the picture to begin from is changed, above 0 and up to 1; by default 0.6.
    #[arg(long, requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Tokens of the long text encoder.
    #[arg(long)]
    text_tokens: Option<usize>,
    /// Decode in tiles of so many pixels, a multiple of 64: less memory for large pictures.
    #[arg(long, allow_negative_numbers = true)]
    tile: Option<i32>,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// What a picture remembers of how it was made.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Remembered {
    prompt: Option<String>,
    negative_prompt: Option<String>,
    width: Option<i32>,
    height: Option<i32>,
    steps: Option<usize>,
    sampler: Option<String>,
    guidance: Option<f32>,
    true_guidance: Option<f64>,
    seed: Option<u64>,
    text_tokens: Option<usize>,
    tile: Option<i32>,
    strength: Option<f64>,
    model: Option<String>,
}

/// Makes pictures and writes them.
pub fn run(arguments: &GenerateArguments, show: &Show) -> Result<()> {
    let remembered = match &arguments.from {
        Some(path) => serde_json::from_value(picture::parameters(path)?)
            .map_err(|error| Error::file(path, format!("its request is not one of zoo's: {error}")))?,
        None => Remembered::default(),
    };
    if remembered.strength.is_some() && arguments.init.is_none() {
        return Err(Error::argument("--init", "that picture began from another one; name it"));
    }
    let strength = arguments.strength.or(remembered.strength).unwrap_or(0.6);
    let model = arguments.model.clone().or(remembered.model.clone());
    let model = model.ok_or_else(|| Error::argument("--model", "there is none: name the folder of a snapshot"))?;
    let path = cache::locate(&model)?;
    let options = arguments.compute.open().resolve(&path.join("transformer"))?;
    let pipeline = FluxPipeline::open(&path, options, false)?;
    let seed = arguments.seed.or(remembered.seed).unwrap_or(0);
    let sampler = arguments.sampler.clone().or(remembered.sampler.clone()).unwrap_or("euler".into());
    let request =
        ImageRequest { sampler: Method::named(&sampler)?, ..arguments.request(remembered, pipeline.recommended())? };
    request.validate()?;
    picture::check_place(&arguments.out)?;
    let init = arguments.init.as_ref().map(|path| begin(path, strength, &request)).transpose()?;
    let seeds: Vec<u64> = (0..arguments.count).map(|index| seed.wrapping_add(index.into())).collect();
    let mut rng = Seeded::rows(&seeds)?;

    let mut failure = None;
    let outcome = pipeline
        .generate(&request, &mut rng, init.as_ref(), &mut |event| note_failure(progress(&event, show), &mut failure));
    let pixels = match failure {
        Some(error) => return Err(error),
        None => outcome?,
    };
    let made =
        Made { model: &model, sampler: &sampler, request: &request, strength: init.is_some().then_some(strength) };
    arguments.write(&made, &seeds, &pixels, show)
}

fn progress(event: &ImageEvent<'_>, show: &Show) -> Result<()> {
    match *event {
        ImageEvent::Load { component, done, total } => show.progress(component, Unit::Bytes, done, total),
        ImageEvent::Encoded => Ok(()),
        ImageEvent::Step { done, total, .. } => {
            show.progress("steps", Unit::Things("steps"), done as u64, total as u64)
        }
        ImageEvent::Tile { done, total } => show.progress("tiles", Unit::Things("tiles"), done as u64, total as u64),
    }
}

impl GenerateArguments {
    fn request(&self, remembered: Remembered, recommended: ImageRequest) -> Result<ImageRequest> {
        let prompt = self.prompt.clone().or(remembered.prompt);
        let prompt = prompt.ok_or_else(|| Error::argument("prompt", "there is none: say what the picture shows"))?;
        if self.count == 0 {
            return Err(Error::argument("--count", "0 pictures are nothing to make"));
        }
        let request = ImageRequest {
            prompts: vec![prompt; self.count as usize],
            negative_prompt: self.negative.clone().or(remembered.negative_prompt),
            width: self.width.or(remembered.width).unwrap_or(recommended.width),
            height: self.height.or(remembered.height).unwrap_or(recommended.height),
            steps: self.steps.or(remembered.steps).unwrap_or(recommended.steps),
            guidance: self.guidance.or(remembered.guidance).unwrap_or(recommended.guidance),
            true_guidance: self.true_guidance.or(remembered.true_guidance).unwrap_or(recommended.true_guidance),
            text_tokens: self.text_tokens.or(remembered.text_tokens).unwrap_or(recommended.text_tokens),
            tile: self.tile.or(remembered.tile),
            ..recommended
        };
        if request.negative_prompt.is_some() && request.true_guidance <= 1.0 {
            let problem = "a negative prompt is read only where --true-guidance is above 1";
            return Err(Error::argument("--negative", problem));
        }
        Ok(request)
    }

    fn write(&self, made: &Made<'_>, seeds: &[u64], pixels: &Array, show: &Show) -> Result<()> {
        let all = math::read::<u8>(pixels)?;
        let (width, height) = (made.request.width as u32, made.request.height as u32);
        let size = width as usize * height as usize * 3;
        let pictures =
            all.chunks(size).map(|pixels| Picture::new(width, height, pixels.to_vec())).collect::<Result<Vec<_>>>()?;
        for (index, (picture, seed)) in pictures.iter().zip(seeds).enumerate() {
            let path = if pictures.len() > 1 { numbered(&self.out, index) } else { self.out.clone() };
            picture.write(&path, &self.remember(made, *seed)?)?;
            show.event("picture", json!({"path": path, "seed": seed}))?;
            show.text(&format!("{}\n", path.display()))?;
        }
        if pictures.len() > 1 {
            let columns = (pictures.len() as f64).sqrt().ceil() as usize;
            let first = seeds.first().copied().unwrap_or(0);
            picture::sheet(&pictures, columns)?.write(&self.out, &self.remember(made, first)?)?;
            show.event("sheet", json!({"path": self.out}))?;
            show.text(&format!("{}\n", self.out.display()))?;
        }
        Ok(())
    }

    fn remember(&self, made: &Made<'_>, seed: u64) -> Result<serde_json::Value> {
        let &Made { model, sampler, request, strength } = made;
        let remembered = Remembered {
            prompt: request.prompts.first().cloned(),
            negative_prompt: request.negative_prompt.clone(),
            width: Some(request.width),
            height: Some(request.height),
            steps: Some(request.steps),
            sampler: Some(sampler.to_owned()),
            guidance: Some(request.guidance),
            true_guidance: Some(request.true_guidance),
            seed: Some(seed),
            text_tokens: Some(request.text_tokens),
            tile: request.tile,
            strength,
            model: Some(model.to_owned()),
        };
        serde_json::to_value(remembered).map_err(|error| Error::argument("parameters", error.to_string()))
    }
}

fn begin(path: &Path, strength: f64, request: &ImageRequest) -> Result<InitImage> {
    let picture = Picture::read(path)?.resized(request.width as u32, request.height as u32);
    let pixels = math::array(&picture.pixels, &[1, request.height, request.width, 3])?;
    Ok(InitImage { pixels, strength, posterior_noise: None })
}

/// How pictures were made, but for their seeds.
struct Made<'a> {
    model: &'a str,
    sampler: &'a str,
    request: &'a ImageRequest,
    /// Where there was a picture to begin from.
    strength: Option<f64>,
}

/// `picture.png` as `picture-2.png`.
fn numbered(path: &Path, index: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{}.png", index + 1))
}
