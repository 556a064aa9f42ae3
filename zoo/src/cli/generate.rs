//! `zoo generate`.

use super::{
    image::{Asked, RequestArguments, Size, Wishes},
    show::{Show, Unit, note_failure},
};
use crate::{
    Error, ImageEvent, Result,
    image::Stage,
    picture::{self, Picture},
};
use clap::Args;
use framework::Array;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What a picture shows, and where it goes.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// What the picture shows.
    prompt: Option<String>,
    /// The file to write, a PNG that holds its request; several pictures are numbered, with a contact sheet beside them.
    #[arg(short, long, default_value = "picture.png", value_name = "FILE")]
    out: PathBuf,
    /// What the picture does not show, of a model that is guided: see --true-guidance.
    #[arg(long)]
    negative: Option<String>,
    /// The seed of the first picture; the next ones follow.
    #[arg(long)]
    seed: Option<u64>,
    /// How much of the picture to begin from is changed, above 0 and up to 1; by default 0.6.
    #[arg(long, requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Write pictures at this size, WIDTHxHEIGHT, or one number for the longer side; the model makes --width by --height
    /// pixels, and a Lanczos filter the rest.
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    size: Option<Size>,
    /// After every step, write what the pictures will be, small, to this PNG.
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    #[command(flatten)]
    request: RequestArguments,
}

/// Makes pictures and writes them.
pub fn run(arguments: &GenerateArguments, show: &Show) -> Result<()> {
    let asked = arguments.request.ask(&Wishes {
        prompt: arguments.prompt.as_deref(),
        negative: arguments.negative.as_deref(),
        seed: arguments.seed,
        strength: arguments.strength,
        size: arguments.size,
        previews: arguments.preview.is_some(),
    })?;
    let several = asked.request.prompts.len() > 1;
    let numbered = (0..asked.request.prompts.len()).filter(|_| several).map(|index| numbered(&arguments.out, index));
    for path in arguments.preview.iter().chain([&arguments.out]).cloned().chain(numbered) {
        picture::check_place(&path)?;
    }
    let mut failure = None;
    let outcome = asked
        .generator
        .generate(&asked.request, &mut |event| note_failure(arguments.watch(&event, show), &mut failure));
    let pixels = match failure {
        Some(error) => return Err(error),
        None => outcome?,
    };
    arguments.write(&asked, &pixels, show)
}

impl GenerateArguments {
    fn watch(&self, event: &ImageEvent<'_>, show: &Show) -> Result<()> {
        match (*event, &self.preview) {
            (ImageEvent::Progress { stage, done, total, remaining }, _) => {
                let unit = match stage {
                    Stage::Load(_) => Unit::Bytes,
                    Stage::Encode => Unit::Things("encoders"),
                    Stage::Denoise => Unit::Things("steps"),
                    Stage::Begin | Stage::Decode => Unit::Things("tiles"),
                };
                show.paced(stage.name(), unit, done, total, remaining)
            }
            (ImageEvent::Preview { pixels, .. }, Some(path)) => {
                picture::square_sheet(&Picture::all(pixels)?)?.write(path, &Value::Null)?;
                show.event("preview", json!({"path": path}))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, asked: &Asked, pixels: &Array, show: &Show) -> Result<()> {
        let made = [asked.request.width, asked.request.height];
        let size = asked.remembered.size.unwrap_or(made.map(i32::unsigned_abs));
        let [width, height] = size;
        let pictures: Vec<Picture> =
            Picture::all(pixels)?.iter().map(|picture| picture.resized(width, height)).collect();
        let resized = match size == made.map(i32::unsigned_abs) {
            true => String::new(),
            false => format!(", made at {}x{} and resized to {width}x{height}", made[0], made[1]),
        };
        let remember = |index: usize| {
            let mut remembered = asked.remembered.clone();
            remembered.seed = Some(asked.request.seed_of(index));
            serde_json::to_value(remembered).map_err(|error| Error::argument("parameters", error.to_string()))
        };
        for (index, picture) in pictures.iter().enumerate() {
            let path = if pictures.len() > 1 { numbered(&self.out, index) } else { self.out.clone() };
            picture.write(&path, &remember(index)?)?;
            let seed = asked.request.seed_of(index);
            show.event("picture", json!({"path": path, "seed": seed, "made": made, "size": size}))?;
            show.text(&format!("{}{resized}\n", path.display()))?;
        }
        if pictures.len() > 1 {
            picture::square_sheet(&pictures)?.write(&self.out, &remember(0)?)?;
            show.event("sheet", json!({"path": self.out}))?;
            show.text(&format!("{}\n", self.out.display()))?;
        }
        Ok(())
    }
}

/// `picture.png` as `picture-2.png`.
fn numbered(path: &Path, index: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{}.png", index + 1))
}
