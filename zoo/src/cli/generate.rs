//! `zoo generate`.

use super::{
    folder::{Folder, unwritten},
    image::{Asked, RequestArguments, Size, SubjectArguments, Wishes},
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
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a picture shows, and where it goes.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// What the picture shows.
    prompt: Option<String>,
    /// A picture for every line of this file, into the folder of --out, with a contact sheet and a `metadata.jsonl` that
    /// says what each shows.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// The file to write, a PNG that holds its request, picture.png by default; several pictures are numbered, with a
    /// contact sheet beside them. With --prompts an empty folder, pictures by default.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    subject: SubjectArguments,
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
    let prompts = match &arguments.prompts {
        Some(path) => lines(path)?,
        None => arguments.prompt.iter().cloned().collect(),
    };
    let asked = arguments.request.ask(&Wishes {
        prompts: &prompts,
        subject: &arguments.subject,
        size: arguments.size,
        previews: arguments.preview.is_some(),
    })?;
    let out = arguments.out();
    let folder = arguments.prompts.as_ref().map(|_| Folder::new(&out)).transpose()?;
    let places = arguments.places(&out, asked.request.prompts.len());
    for path in arguments.preview.iter().chain(&places.pictures).chain(&places.sheet) {
        picture::check_place(path)?;
    }
    let mut failure = None;
    let outcome = asked
        .generator
        .generate(&asked.request, &mut |event| note_failure(arguments.watch(&event, show), &mut failure));
    let pixels = match failure {
        Some(error) => return Err(error),
        None => outcome?,
    };
    arguments.write(&asked, &pixels, &places, show)?;
    if let Some(folder) = folder {
        describe(&places.pictures, &asked.request.prompts, &folder.path().join("metadata.jsonl"))?;
        folder.keep();
    }
    Ok(())
}

/// Where pictures go.
struct Places {
    pictures: Vec<PathBuf>,
    sheet: Option<PathBuf>,
}

/// Shows how far a request is.
pub(super) fn progress(event: &ImageEvent<'_>, show: &Show) -> Result<()> {
    let ImageEvent::Progress { stage, done, total, remaining } = *event else { return Ok(()) };
    let unit = match stage {
        Stage::Load(_) => Unit::Bytes,
        Stage::Encode => Unit::Things("encoders"),
        Stage::Denoise => Unit::Things("steps"),
        Stage::Begin | Stage::Decode => Unit::Things("tiles"),
    };
    show.paced(stage.name(), unit, done, total, remaining)
}

impl GenerateArguments {
    fn out(&self) -> PathBuf {
        let usual = if self.prompts.is_some() { "pictures" } else { "picture.png" };
        self.out.clone().unwrap_or_else(|| usual.into())
    }

    fn places(&self, out: &Path, count: usize) -> Places {
        let each = |path: &Path| (0..count).map(|index| numbered(path, index)).collect();
        match (&self.prompts, count) {
            (Some(_), _) => Places { pictures: each(&out.join("picture.png")), sheet: Some(out.join("sheet.png")) },
            (None, 1) => Places { pictures: vec![out.to_owned()], sheet: None },
            (None, _) => Places { pictures: each(out), sheet: Some(out.to_owned()) },
        }
    }

    fn watch(&self, event: &ImageEvent<'_>, show: &Show) -> Result<()> {
        match (event, &self.preview) {
            (ImageEvent::Preview { pixels, .. }, Some(path)) => {
                picture::square_sheet(&Picture::all(pixels)?)?.write(path, &Value::Null)?;
                show.event("preview", json!({"path": path}))
            }
            _ => progress(event, show),
        }
    }

    fn write(&self, asked: &Asked, pixels: &Array, places: &Places, show: &Show) -> Result<()> {
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
            remembered.prompt = asked.request.prompts.get(index).cloned();
            remembered.seed = Some(asked.request.seed_of(index));
            serde_json::to_value(remembered).map_err(|error| Error::argument("parameters", error.to_string()))
        };
        for (index, (picture, path)) in pictures.iter().zip(&places.pictures).enumerate() {
            picture.write(path, &remember(index)?)?;
            let seed = asked.request.seed_of(index);
            show.event("picture", json!({"path": path, "seed": seed, "made": made, "size": size}))?;
            show.text(&format!("{}{resized}\n", path.display()))?;
        }
        if let Some(path) = &places.sheet {
            picture::square_sheet(&pictures)?.write(path, &remember(0)?)?;
            show.event("sheet", json!({"path": path}))?;
            show.text(&format!("{}\n", path.display()))?;
        }
        Ok(())
    }
}

/// The prompts of a file, one a line; empty lines are none.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Error::file(path, "is no text in UTF-8; write a prompt a line"),
        _ => Error::file(path, format!("cannot be read; name a text file with a prompt a line ({error})")),
    })?;
    let prompts: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(Error::file(path, "holds no prompt; write one a line"));
    }
    Ok(prompts)
}

/// Writes what each picture shows, a line a picture, as Hugging Face's imagefolder has it.
fn describe(pictures: &[PathBuf], prompts: &[String], path: &Path) -> Result<()> {
    let line = |(picture, text): (&PathBuf, &String)| {
        let name = picture.file_name().unwrap_or_default().to_string_lossy();
        format!("{}\n", json!({"file_name": name, "text": text}))
    };
    let lines: String = pictures.iter().zip(prompts).map(line).collect();
    fs::write(path, lines).map_err(|error| unwritten(path, &error))
}

/// `picture.png` as `picture-2.png`.
fn numbered(path: &Path, index: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{}.png", index + 1))
}
