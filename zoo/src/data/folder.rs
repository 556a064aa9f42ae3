//! A folder of pictures with captions.

use super::metadata::{self, Entry, Skipped};
use crate::{
    Error, Result,
    checksum::Checksum,
    picture::{LONGEST_SIDE, Picture},
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::{fs, io, path::Path};

/// The file that says what the pictures show.
const METADATA: &str = "metadata.jsonl";
/// The longest of them that is read, in bytes.
const LONGEST_METADATA: u64 = 1 << 30;
/// How many pictures are decoded before they are put to the others.
const BLOCK: usize = 64;

/// Pictures of one size, each with at least one caption.
///
/// The folder has a `metadata.jsonl` as Hugging Face's imagefolder has it, a line a picture:
/// `{"file_name": "a.png", "text": "a caption"}`, or a list of captions in place of one. Other keys are not read. Files are
/// PNG, JPEG or WebP; links may lead out of the folder, names may not.
pub struct ImageFolder {
    side: u32,
    pixels: Vec<u8>,
    names: Vec<String>,
    captions: Vec<Vec<String>>,
    skipped: Vec<Skipped>,
    digest: String,
}

impl ImageFolder {
    /// Reads all pictures of a folder: their middle square, resized to `side` × `side` by Lanczos' filter, what is
    /// transparent over white.
    ///
    /// A line that gives no picture is skipped: one that is malformed, has no caption, names a file that is broken, is not
    /// there, is not below the folder, or was named before.
    ///
    /// # Errors
    /// When there is no folder, no `metadata.jsonl` in it, or no usable line in that; when a side is 0 or above 16384, or
    /// the pictures do not fit into memory.
    pub fn open(folder: impl AsRef<Path>, side: u32) -> Result<Self> {
        if !(1..=LONGEST_SIDE).contains(&side) {
            return Err(Error::argument("side", format!("{side} pixels; it must be from 1 to {LONGEST_SIDE}")));
        }
        let folder = folder.as_ref();
        let (entries, skipped) = metadata::entries(&read(folder)?);
        let mut read = Reading::new(side, skipped);
        for block in entries.chunks(BLOCK) {
            let picture = |entry: &Entry| Ok(Picture::read(&folder.join(&entry.file))?.square(side));
            let pictures: Vec<Result<Picture>> = block.par_iter().map(picture).collect();
            for (entry, picture) in block.iter().zip(pictures) {
                read.take(entry, picture)?;
            }
        }
        let read = read.end();
        if read.is_empty() {
            let problem = match read.skipped.first() {
                Some(first) => format!("gives no usable picture; its {first}"),
                None => "has no lines; write one a picture into it".into(),
            };
            return Err(Error::file(folder.join(METADATA), problem));
        }
        Ok(read)
    }

    /// How many pictures there are: N.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Pixels in a row, and rows.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// Red, green and blue of every pixel in sRGB: u8 `[N, side, side, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The captions of a picture as they were written; none for one that there is not.
    pub fn captions(&self, picture: usize) -> &[String] {
        self.captions.get(picture).map_or(&[], Vec::as_slice)
    }

    /// The files, as the lines name them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The lines that gave no picture, in order.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The SHA-256 of the size, and of the names, captions and pixels in order: a key for what is computed from them.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// All captions of a folder, and the lines that name no picture with a caption; the pictures are not read.
///
/// # Errors
/// When there is no folder, no `metadata.jsonl` in it, or no usable line in that.
pub fn texts(folder: &Path) -> Result<(Vec<String>, Vec<Skipped>)> {
    let (entries, skipped) = metadata::entries(&read(folder)?);
    let texts: Vec<String> = entries.into_iter().flat_map(|entry| entry.captions).collect();
    if texts.is_empty() {
        return Err(Error::file(folder.join(METADATA), "has no caption; write one a picture into it"));
    }
    Ok((texts, skipped))
}

/// The lines of a folder.
fn read(folder: &Path) -> Result<Vec<u8>> {
    if !folder.is_dir() {
        return Err(Error::file(folder, format!("is no folder; name one with pictures and a `{METADATA}`")));
    }
    let path = folder.join(METADATA);
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::file(
            &path,
            r#"is not there; write a line a picture into it: {"file_name": "a.png", "text": "a caption"}"#,
        ),
        _ => Error::file(&path, error.to_string()),
    };
    let about = fs::metadata(&path).map_err(refused)?;
    if !about.is_file() || about.len() > LONGEST_METADATA {
        return Err(Error::file(&path, "is no file of at most 1 GiB; write a line a picture into one"));
    }
    fs::read(&path).map_err(refused)
}

/// A folder that is being read.
struct Reading {
    sum: Checksum,
    folder: ImageFolder,
}

impl Reading {
    fn new(side: u32, skipped: Vec<Skipped>) -> Self {
        let sum = Checksum::default().of(&side.to_le_bytes());
        let (pixels, names, captions, digest) = Default::default();
        Self { sum, folder: ImageFolder { side, pixels, names, captions, skipped, digest } }
    }

    fn take(&mut self, entry: &Entry, picture: Result<Picture>) -> Result<()> {
        let Entry { line, file, captions } = entry;
        let folder = &mut self.folder;
        match picture {
            Ok(picture) => {
                let full = |_| {
                    let problem =
                        format!("{} pixels; with {} pictures the memory is full", folder.side, folder.names.len());
                    Error::argument("side", format!("{problem}; choose a smaller one, or fewer pictures"))
                };
                folder.pixels.try_reserve(picture.pixels.len()).map_err(full)?;
                self.sum.add(&captions.len().to_le_bytes());
                std::iter::once(file).chain(captions).for_each(|text| self.sum.add(text.as_bytes()));
                self.sum.add(&picture.pixels);
                folder.pixels.extend_from_slice(&picture.pixels);
                folder.names.push(file.clone());
                folder.captions.push(captions.clone());
            }
            Err(error) => {
                let reason = match error {
                    Error::File { problem, .. } => problem,
                    other => other.to_string(),
                };
                folder.skipped.push(Skipped { line: *line, file: Some(file.clone()), reason });
            }
        }
        Ok(())
    }

    fn end(self) -> ImageFolder {
        let mut folder = self.folder;
        folder.digest = self.sum.end();
        folder.skipped.sort_by_key(|skipped| skipped.line);
        folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage, Rgba, RgbaImage};
    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    /// A folder with `plain.png`, 6 × 4, and `clear.webp`, 4 × 4 and transparent.
    fn pictures(lines: impl AsRef<[u8]>) -> TempDir {
        let folder = tempdir().unwrap();
        let plain = RgbImage::from_fn(6, 4, |x, y| Rgb([x as u8 * 40, y as u8 * 60, 100]));
        plain.save(folder.path().join("plain.png")).unwrap();
        RgbaImage::from_pixel(4, 4, Rgba([1, 2, 3, 0])).save(folder.path().join("clear.webp")).unwrap();
        fs::write(folder.path().join(METADATA), lines).unwrap();
        folder
    }

    fn open(lines: &str) -> Result<ImageFolder> {
        ImageFolder::open(pictures(lines), 4)
    }

    const TWO: &str = r#"{"file_name": "plain.png", "text": ["a gradient", "colours"], "artist": "nobody"}
{"file_name": "clear.webp", "text": "nothing"}
"#;

    #[test]
    fn pictures_are_squares_over_white_with_their_captions() {
        let folder = open(TWO).unwrap();
        assert_eq!((folder.len(), folder.side()), (2, 4));
        assert_eq!(folder.names(), ["plain.png", "clear.webp"]);
        assert_eq!(folder.captions(0), ["a gradient", "colours"]);
        assert_eq!((folder.captions(1), folder.captions(2)), (&["nothing".to_owned()][..], &[][..]));
        assert!(folder.skipped().is_empty());
        let (plain, clear) = folder.pixels().split_at(4 * 4 * 3);
        assert_eq!(plain[..6], [40, 0, 100, 80, 0, 100], "the middle");
        assert_eq!(plain[45..], [160, 180, 100]);
        assert_eq!(clear, [255; 4 * 4 * 3]);
    }

    #[test]
    fn more_pictures_than_are_decoded_at_once_stay_in_order() {
        let folder = pictures("");
        let mut lines = String::new();
        for i in 0..2 * BLOCK as u8 + 3 {
            RgbImage::from_pixel(1, 1, Rgb([i; 3])).save(folder.path().join(format!("{i}.png"))).unwrap();
            lines += &format!("{{\"file_name\": \"{i}.png\", \"text\": \"\"}}\r\n\n");
        }
        fs::write(folder.path().join(METADATA), format!("\u{feff}{lines}")).unwrap();
        let folder = ImageFolder::open(folder, 1).unwrap();
        assert!(folder.pixels().iter().copied().eq((0..131).flat_map(|i| [i; 3])));
        assert_eq!(folder.captions(130), [""], "an empty caption is one");
    }

    #[test]
    fn what_is_no_picture_is_skipped_and_told() {
        let lines = [
            "{",
            r#"{"file_name": "plain.png", "text": []}"#,
            r#"{"file_name": "plain.png", "text": "a gradient"}"#,
            r#"{"file_name": "missing.png", "text": "a gradient"}"#,
            "",
            r#"{"file_name": "./plain.png", "text": "the same"}"#,
            r#"{"file_name": "broken.png", "text": "half of one"}"#,
            r#"{"file_name": "../plain.png", "text": "outside"}"#,
            r#"{"file_name": "/plain.png", "text": "outside"}"#,
            r#"{"file_name": ".", "text": "the folder"}"#,
            r#"{"file_name": "metadata.jsonl", "text": "no picture"}"#,
            r#"{"file_name": "clear.webp", "text": 7}"#,
            r#"{"file_name": "clear.webp"}"#,
            "{\"file_name\": \"clear.webp\", \"text\": \"\u{1F600}\"}",
            r#"{"file_name": "c\u0000", "text": "no name"}"#,
        ];
        let place = pictures(lines.join("\n"));
        let png = fs::read(place.path().join("plain.png")).unwrap();
        fs::write(place.path().join("broken.png"), &png[..png.len() / 2]).unwrap();
        let folder = ImageFolder::open(&place, 4).unwrap();
        assert_eq!(folder.names(), ["plain.png", "clear.webp"]);
        let skipped: Vec<String> = folder.skipped().iter().map(Skipped::to_string).collect();
        let expected = [
            "line 1: is not valid: EOF",
            "line 2, `plain.png`: has no caption",
            "line 4, `missing.png`: is not there",
            "line 6, `./plain.png`: is named before, in line 3",
            "line 7, `broken.png`: ends too early",
            "line 8, `../plain.png`: does not name a file in the folder",
            "line 9, `/plain.png`: does not name a file in the folder",
            "line 10, `.`: does not name a file in the folder",
            "line 11, `metadata.jsonl`: is no PNG, JPEG or WebP",
            "line 12: is not valid: `text` is neither a caption nor a list of captions",
            "line 13: is not valid: missing field `text`",
            "line 15, `c\0`: ",
        ];
        assert_eq!(skipped.len(), expected.len(), "{skipped:#?}");
        for (told, expected) in skipped.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told} is not {expected}");
        }
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        let refused = |result: Result<ImageFolder>, says: &[&str]| {
            let error = result.err().unwrap().to_string();
            assert!(says.iter().all(|says| error.contains(says)), "{error}");
        };
        refused(ImageFolder::open("no/such/folder", 4), &["no/such/folder", "is no folder"]);
        refused(ImageFolder::open(tempdir().unwrap(), 4), &["metadata.jsonl: is not there", "file_name"]);
        refused(open("\n \n"), &["metadata.jsonl: has no lines"]);
        refused(open("\n{}\n"), &["metadata.jsonl: gives no usable picture; its line 2: ", "file_name"]);
        refused(ImageFolder::open(pictures(TWO), 0), &["side", "0 pixels"]);
        refused(ImageFolder::open(pictures(TWO), 16_385), &["side", "16384"]);
        let place = tempdir().unwrap();
        fs::create_dir(place.path().join(METADATA)).unwrap();
        refused(ImageFolder::open(place, 4), &["metadata.jsonl: is no file"]);
    }

    #[test]
    fn the_digest_is_that_of_all_that_was_read() {
        let digest = |lines: &str, side| ImageFolder::open(pictures(lines), side).unwrap().digest;
        let first = digest(TWO, 4);
        assert_eq!(first, digest(TWO, 4));
        assert_eq!(first, digest(&TWO.replace("nobody", "somebody"), 4), "other keys are not read");
        assert_eq!(first.len(), 64);
        let swapped: Vec<&str> = TWO.lines().rev().collect();
        let moved = TWO.replace(r#""a gradient", "colours""#, r#""a gradien", "tcolours""#);
        for other in [digest(TWO, 3), digest(&swapped.join("\n"), 4), digest(&moved, 4)] {
            assert_ne!(first, other);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_metadata_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageFolder::open(pictures(bytes), 2);
        }

        #[test]
        fn any_lines_are_read_or_skipped(
            lines in proptest::collection::vec((".*", ".*", 0..4u8), 0..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            let line = |(name, text, kind): &(String, String, u8)| match kind {
                0 => serde_json::json!({"file_name": name, "text": text}),
                1 => serde_json::json!({"file_name": "plain.png", "text": [text, name]}),
                2 => serde_json::json!({"text": name, "file_name": format!("./{name}"), "more": [text]}),
                _ => serde_json::json!([name, {"text": text}]),
            };
            let mut text: Vec<u8> = lines.iter().flat_map(|told| format!("{}\n", line(told)).into_bytes()).collect();
            if let Ok(folder) = ImageFolder::open(pictures(&text), 2) {
                prop_assert_eq!(folder.pixels().len(), folder.len() * 12);
                prop_assert_eq!(folder.len() + folder.skipped().len(), lines.len());
            }
            text.truncate(cut.index(text.len() + 1));
            let _ = ImageFolder::open(pictures(&text), 2);
        }
    }
}
