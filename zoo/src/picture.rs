//! Pictures: PNG, JPEG and WebP in, PNG that remembers how it was made out.
//!
//! A picture made here carries the settings it was made with, as JSON in a text chunk called `parameters`;
//! [`parameters`] reads them back.

use crate::{Error, Result};
use framework::{Array, Draft, math};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, imageops};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// The longest side that is read or resized to, in pixels.
pub const LONGEST_SIDE: u32 = 16_384;
/// The longest file that is read, in bytes.
const LONGEST_FILE: u64 = 1 << 30;
/// What decoding may allocate, in bytes: the largest picture at 8 bits without alpha, and room to work.
const MEMORY: u64 = 1 << 30;
/// The longest text chunk with the parameters, in bytes.
const LONGEST_TEXT: u32 = 1_000_000;
/// The text chunk with the parameters.
const KEYWORD: &str = "parameters";
/// The first bytes of every PNG file.
const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// The pixels between two pictures of a sheet.
const GAP: u32 = 8;
const CHANNELS: usize = 3;
const WHITE: u8 = 255;

/// A picture in sRGB, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of every pixel, row by row from the top: `height * width * 3` bytes.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A picture of `pixels`, `[height, width, 3]`.
    ///
    /// # Errors
    /// When a side is 0, or there are not `height * width * 3` bytes.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self> {
        if bytes(width, height) != Some(pixels.len()) || pixels.is_empty() {
            return Err(Error::argument(
                "pixels",
                format!(
                    "a picture of {width} x {height} pixels cannot have {} bytes; both sides are at least 1, and every \
                     pixel has 3 bytes",
                    pixels.len()
                ),
            ));
        }
        Ok(Self { width, height, pixels })
    }

    /// The pictures of `[B, H, W, 3]` bytes.
    ///
    /// # Errors
    /// When the array has another number of axes, or other numbers than bytes.
    pub fn all(pixels: &Array) -> Result<Vec<Self>> {
        let [_, height, width, _] = math::shape(pixels)?;
        let all = math::read::<u8>(pixels)?;
        let size = (width as usize).saturating_mul(height as usize).saturating_mul(CHANNELS).max(1);
        all.chunks(size).map(|pixels| Self::new(width as u32, height as u32, pixels.to_vec())).collect()
    }

    /// Reads a PNG, a JPEG or a WebP of any colour type; its content decides which, not its name.
    ///
    /// Grey becomes RGB, 16 bits are rounded to 8, what is transparent is laid over white, and a photograph is turned as
    /// its EXIF orientation says. Colour profiles are ignored. A JPEG that is cut short is read as far as it goes.
    ///
    /// # Errors
    /// When the file cannot be read, is of another format, is damaged, has a side of more than 16384 pixels, or would need
    /// more than 1 GiB to decode.
    pub fn read(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| unread(path, &e))?;
        if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
            return Err(Error::file(path, "is no PNG, JPEG or WebP; convert it to one of them"));
        }
        let image = decode(reader).map_err(|error| undecoded(path, &error))?;
        let pixels = if image.color().has_alpha() { over_white(image) } else { image.into_rgb8() };
        Self::new(pixels.width(), pixels.height(), pixels.into_raw())
    }

    /// The picture at another size, by Lanczos' filter; the same when it has that size.
    ///
    /// A side of 0 counts as 1. The proportions are the caller's business. A picture whose fields contradict each other
    /// stays as it is.
    #[must_use]
    pub fn resized(&self, width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let view =
            image::ImageBuffer::<image::Rgb<u8>, &[u8]>::from_raw(self.width, self.height, self.pixels.as_slice());
        match view {
            Some(view) if (width, height) != (self.width, self.height) => {
                let pixels = imageops::resize(&view, width, height, imageops::FilterType::Lanczos3).into_raw();
                Self { width, height, pixels }
            }
            _ => self.clone(),
        }
    }

    /// The largest square in the middle, at another size, by Lanczos' filter. What [`Self::resized`] says of sides and
    /// fields holds here too.
    #[must_use]
    pub fn square(&self, side: u32) -> Self {
        if self.width == self.height || bytes(self.width, self.height) != Some(self.pixels.len()) {
            return self.resized(side, side);
        }
        let edge = self.width.min(self.height);
        let (left, top) = ((self.width - edge) / 2, (self.height - edge) / 2);
        let row = edge as usize * CHANNELS;
        let rows = self.pixels.chunks_exact((self.width as usize * CHANNELS).max(1));
        let rows = rows.skip(top as usize).take(edge as usize);
        let pixels = rows.flat_map(|line| line.iter().skip(left as usize * CHANNELS).take(row)).copied().collect();
        Self { width: edge, height: edge, pixels }.resized(side, side)
    }

    /// Writes a PNG with `parameters` in it; a file that is there already is replaced.
    ///
    /// # Errors
    /// When the picture's fields contradict each other, `parameters` are longer than 1 MB, or the place cannot be
    /// written. Nothing half-written is left, and a file that was there stays as it was.
    pub fn write(&self, path: &Path, parameters: &Value) -> Result<()> {
        let text = parameters.to_string();
        // The chunk holds the keyword and five zeros too.
        if text.len().saturating_add(KEYWORD.len() + 5) > LONGEST_TEXT as usize {
            return Err(Error::argument(
                KEYWORD,
                format!("{} bytes are too many to put into a picture; at most 1 MB fits", text.len()),
            ));
        }
        if bytes(self.width, self.height) != Some(self.pixels.len()) {
            return Err(Error::argument(
                "pixels",
                format!("{} bytes are no {} x {} pixels", self.pixels.len(), self.width, self.height),
            ));
        }
        let refused = |error: io::Error| unwritten(path, &error);
        let mut draft = Draft::of(path).map_err(refused)?;
        self.encode(draft.file(), text).map_err(|error| match error {
            png::EncodingError::IoError(error) => refused(error),
            other => refused(io::Error::other(other)),
        })?;
        draft.publish().map_err(refused)
    }

    fn encode(&self, file: &mut File, text: String) -> Result<(), png::EncodingError> {
        let mut out = BufWriter::new(file);
        let mut encoder = png::Encoder::new(&mut out, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // The international kind of text chunk: the other is Latin-1.
        encoder.add_itxt_chunk(KEYWORD.to_owned(), text)?;
        encoder.add_text_chunk("Software".to_owned(), concat!("zoo ", env!("CARGO_PKG_VERSION")).to_owned())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(out.flush()?)
    }
}

/// Whether a picture can be written to `path`, before time is spent on it; leaves nothing there.
///
/// # Errors
/// When its folder is missing or cannot be written, it is a folder, or its name says that it is no PNG.
pub fn check_place(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "is a folder; name a file"));
    }
    match path.extension() {
        Some(extension) if !extension.eq_ignore_ascii_case("png") => {
            return Err(Error::file(path, "pictures are written as PNG; let its name end with .png"));
        }
        _ => {}
    }
    Draft::of(path).map(drop).map_err(|error| unwritten(path, &error))
}

/// Reads the JSON that [`Picture::write`] put into a PNG; decodes no pixels.
///
/// # Errors
/// When the file cannot be read, is no PNG, is cut short, or has no `parameters`, more than 1 MB of them, or ones that
/// are not JSON.
pub fn parameters(path: &Path) -> Result<Value> {
    let mut file = BufReader::new(open(path)?);
    let mut signature = [0; SIGNATURE.len()];
    match file.read_exact(&mut signature) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(unread(path, &error)),
        _ if signature != SIGNATURE => {
            return Err(Error::file(path, "is no PNG, and only those remember how they were made; name a PNG"));
        }
        _ => {}
    }
    loop {
        let (length, kind) = chunk(&mut file).map_err(|error| unread(path, &error))?;
        match &kind {
            b"IEND" => {
                return Err(Error::file(
                    path,
                    "does not say how it was made; name a picture as `zoo` wrote it, since other programs may drop that",
                ));
            }
            b"iTXt" | b"tEXt" if length > LONGEST_TEXT => {
                // Only the keyword is read.
                let mut start = [0; KEYWORD.len() + 1];
                file.read_exact(&mut start).map_err(|error| unread(path, &error))?;
                if start.strip_suffix(b"\0") == Some(KEYWORD.as_bytes()) {
                    return Err(Error::file(
                        path,
                        format!(
                            "has {length} bytes of `{KEYWORD}`, more than the 1 MB `zoo` writes; name another picture"
                        ),
                    ));
                }
                skip(&mut file, i64::from(length) - start.len() as i64).map_err(|error| unread(path, &error))?;
            }
            b"iTXt" | b"tEXt" => {
                let mut data = vec![0; length as usize];
                file.read_exact(&mut data).and_then(|()| skip(&mut file, 0)).map_err(|error| unread(path, &error))?;
                if let Some(text) = text(&kind, &data) {
                    return serde_json::from_slice(text).map_err(|error| {
                        Error::file(
                            path,
                            format!(
                                "has `{KEYWORD}` that are not JSON ({error}), so another program wrote or changed them; \
                                 name a picture as `zoo` wrote it"
                            ),
                        )
                    });
                }
            }
            _ => skip(&mut file, i64::from(length)).map_err(|error| unread(path, &error))?,
        }
    }
}

/// A [`sheet`] with about as many columns as rows.
///
/// # Errors
/// As [`sheet`].
pub fn square_sheet(pictures: &[Picture]) -> Result<Picture> {
    sheet(pictures, (pictures.len() as f64).sqrt().ceil() as usize)
}

/// Lays pictures of one size out in rows of `columns`, with 8 white pixels between them; what is left of the last row
/// is white.
///
/// # Errors
/// When there are no pictures, no columns, pictures of different sizes, or the sheet would be too large.
pub fn sheet(pictures: &[Picture], columns: usize) -> Result<Picture> {
    let first = pictures.first().ok_or_else(|| Error::argument("pictures", "a sheet needs at least one"))?;
    let (width, height) = (first.width, first.height);
    for other in pictures {
        if (other.width, other.height) != (width, height) {
            return Err(Error::argument(
                "pictures",
                format!(
                    "one has {width} x {height} pixels and another {} x {}; resize them to one size",
                    other.width, other.height
                ),
            ));
        }
        if bytes(width, height) != Some(other.pixels.len()) || other.pixels.is_empty() {
            return Err(Error::argument(
                "pictures",
                format!("{} bytes are no {width} x {height} pixels", other.pixels.len()),
            ));
        }
    }
    if columns == 0 {
        return Err(Error::argument("columns", "a sheet needs at least one"));
    }
    let columns = columns.min(pictures.len());
    let side = |length: u32, count: usize| {
        let cell = length.checked_add(GAP)?;
        Some(cell.checked_mul(u32::try_from(count).ok()?)? - GAP)
    };
    let too_large = || Error::argument("pictures", "the sheet would be too large; use fewer or smaller pictures");
    let sheet_width = side(width, columns).ok_or_else(too_large)?;
    let sheet_height = side(height, pictures.len().div_ceil(columns)).ok_or_else(too_large)?;
    let size = bytes(sheet_width, sheet_height).ok_or_else(too_large)?;

    let row = width as usize * CHANNELS;
    let gap = GAP as usize * CHANNELS;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(size).map_err(|_| too_large())?;
    for (index, line) in pictures.chunks(columns).enumerate() {
        if index > 0 {
            pixels.resize(pixels.len() + sheet_width as usize * gap, WHITE);
        }
        for y in 0..height as usize {
            let end = pixels.len() + sheet_width as usize * CHANNELS;
            for (x, picture) in line.iter().enumerate() {
                if x > 0 {
                    pixels.resize(pixels.len() + gap, WHITE);
                }
                pixels.extend(picture.pixels.iter().skip(y * row).take(row));
            }
            pixels.resize(end, WHITE);
        }
    }
    Picture::new(sheet_width, sheet_height, pixels)
}

/// The bytes of a picture's pixels, if they can be counted.
fn bytes(width: u32, height: u32) -> Option<usize> {
    (width as usize).checked_mul(height as usize)?.checked_mul(CHANNELS)
}

/// Opens a regular file that is not absurdly long; a pipe would never end.
fn open(path: &Path) -> Result<File> {
    let about = fs::metadata(path).map_err(|error| unread(path, &error))?;
    if !about.is_file() {
        return Err(Error::file(path, "is no file; name a picture"));
    }
    if about.len() > LONGEST_FILE {
        return Err(Error::file(path, "is longer than the 1 GiB a picture may have; make it smaller"));
    }
    File::open(path).map_err(|error| unread(path, &error))
}

/// Decodes within the limits, upright.
fn decode(mut reader: ImageReader<BufReader<File>>) -> Result<DynamicImage, ImageError> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// What shows when the picture lies on white paper.
fn over_white(image: DynamicImage) -> RgbImage {
    let image = image.into_rgba8();
    let mut flat = RgbImage::new(image.width(), image.height());
    for (to, from) in flat.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = from.0;
        let over = |colour: u8| {
            let sum = u32::from(colour) * u32::from(alpha) + u32::from(WHITE) * u32::from(WHITE - alpha);
            // Rounded; never more than 255.
            ((sum + 127) / 255) as u8
        };
        to.0 = [over(red), over(green), over(blue)];
    }
    flat
}

/// The length and the kind of the next chunk of a PNG.
fn chunk(file: &mut impl Read) -> io::Result<(u32, [u8; 4])> {
    let (mut length, mut kind) = ([0; 4], [0; 4]);
    file.read_exact(&mut length)?;
    file.read_exact(&mut kind)?;
    Ok((u32::from_be_bytes(length), kind))
}

/// Steps over what is left of a chunk's data and its checksum.
fn skip(file: &mut BufReader<File>, left: i64) -> io::Result<()> {
    file.seek(SeekFrom::Current(left + 4)).map(|_| ())
}

/// The parameters in a text chunk, if it is theirs. Compressed ones come back as they are, and are no JSON.
fn text<'a>(kind: &[u8; 4], data: &'a [u8]) -> Option<&'a [u8]> {
    let text = data.strip_prefix(KEYWORD.as_bytes())?.strip_prefix(b"\0")?;
    if kind == b"tEXt" {
        return Some(text);
    }
    // Two bytes about compression, then a language and a translated keyword, each up to a zero.
    text.get(2..)?.splitn(3, |&byte| byte == 0).nth(2)
}

/// Why a file cannot be read, and what to do about it.
fn unread(path: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::{NotFound, PermissionDenied, UnexpectedEof};
    let advice = match error.kind() {
        NotFound => "is not there; check the name",
        PermissionDenied => "may not be read; change its permissions",
        UnexpectedEof => "ends too early; copy or download it again",
        _ => "cannot be read; copy or download it again",
    };
    Error::file(path, format!("{advice} ({error})"))
}

/// Why a picture cannot be decoded, and what to do about it.
fn undecoded(path: &Path, error: &ImageError) -> Error {
    match error {
        ImageError::IoError(error) => unread(path, error),
        ImageError::Limits(_) => Error::file(
            path,
            format!(
                "is too large ({error}); a side may have {LONGEST_SIDE} pixels, and decoding may take 1 GiB: make it \
                 smaller"
            ),
        ),
        ImageError::Unsupported(_) => {
            Error::file(path, format!("is of a kind that cannot be read ({error}); convert it to an ordinary PNG"))
        }
        _ => Error::file(path, format!("is damaged ({error}); copy or export it again")),
    }
}

/// Why a picture cannot be written, and what to do about it.
fn unwritten(path: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, QuotaExceeded, StorageFull};
    let advice = match error.kind() {
        NotFound => return Error::file(path, "its folder is not there; make it, or name another place"),
        IsADirectory => "is a folder; name a file",
        NotADirectory => "a file lies where its folder should be; name another place",
        StorageFull | QuotaExceeded => "the disk is full; free some space, or name a place on another disk",
        _ => "this place cannot be written; name another",
    };
    Error::file(path, format!("{advice} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, GrayImage, ImageBuffer, Rgb, Rgba, RgbaImage};
    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::tempdir;

    fn gradient(width: u32, height: u32) -> Picture {
        let pixels = (0..bytes(width, height).unwrap()).map(|i| (i * 7 % 256) as u8).collect();
        Picture::new(width, height, pixels).unwrap()
    }

    /// That something failed, about the file, saying this.
    fn fails<T: std::fmt::Debug>(result: Result<T>, says: &str) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }

    /// A PNG of these chunks.
    fn chunks(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut file = SIGNATURE.to_vec();
        for (kind, data) in chunks {
            file.extend((data.len() as u32).to_be_bytes());
            let start = file.len();
            file.extend(kind.iter());
            file.extend(data.iter());
            let mut sum = u32::MAX;
            for byte in &file[start..] {
                sum ^= u32::from(*byte);
                for _ in 0..8 {
                    sum = (sum >> 1) ^ (0xEDB8_8320 * (sum & 1));
                }
            }
            file.extend((!sum).to_be_bytes());
        }
        file
    }

    fn header(width: u32, height: u32) -> Vec<u8> {
        [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat()
    }

    #[test]
    fn a_picture_and_its_parameters_come_back() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        let settings = json!({"prompt": "żółw 🐢 \"at\"\u{0}dawn", "seed": u64::MAX, "guidance": 3.5, "loras": []});
        fs::write(&path, "what was here before").unwrap();
        for picture in [gradient(5, 3), gradient(1, 1), gradient(64, 40)] {
            picture.write(&path, &settings).unwrap();
            assert_eq!(Picture::read(&path).unwrap(), picture);
            assert_eq!(parameters(&path).unwrap(), settings);
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);

        // Another reader sees the same text.
        let reader = png::Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        assert_eq!(reader.info().utf8_text[0].keyword, "parameters");
        assert_eq!(reader.info().utf8_text[0].get_text().unwrap(), settings.to_string());
        assert!(reader.info().uncompressed_latin1_text[0].text.starts_with("zoo "));
    }

    #[test]
    fn every_colour_type_becomes_rgb() {
        let place = tempdir().unwrap();
        // The name says JPEG; the content decides.
        let path = place.path().join("a.jpg");
        let pixels = |image: DynamicImage| {
            image.save_with_format(&path, ImageFormat::Png).unwrap();
            Picture::read(&path).unwrap().pixels
        };
        assert_eq!(pixels(GrayImage::from_raw(2, 1, vec![9, 200]).unwrap().into()), [9, 9, 9, 200, 200, 200]);
        assert_eq!(
            pixels(GrayAlphaImage::from_raw(2, 1, vec![0, 0, 0, 255]).unwrap().into()),
            [255, 255, 255, 0, 0, 0]
        );
        assert_eq!(
            pixels(RgbaImage::from_raw(2, 1, vec![0, 100, 255, 128, 1, 2, 3, 255]).unwrap().into()),
            [127, 177, 255, 1, 2, 3]
        );
        let wide = ImageBuffer::<Rgb<u16>, _>::from_raw(1, 1, vec![0u16, 0x8080, u16::MAX]).unwrap();
        assert_eq!(pixels(wide.into()), [0, 0x80, 255]);
        let wide = ImageBuffer::<Rgba<u16>, _>::from_raw(1, 1, vec![0u16, 0, 0, 0]).unwrap();
        assert_eq!(pixels(wide.into()), [255, 255, 255]);

        // One bit a pixel into a palette, and the second colour of it transparent.
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 2, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::One);
        encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
        encoder.set_trns(vec![255, 0]);
        encoder.write_header().unwrap().write_image_data(&[0b0100_0000]).unwrap();
        assert_eq!(Picture::read(&path).unwrap().pixels, [10, 20, 30, 255, 255, 255]);
    }

    #[test]
    fn a_jpeg_is_read_upright() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        let half = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
        half.save_with_format(&path, ImageFormat::Jpeg).unwrap();
        let picture = Picture::read(&path).unwrap();
        assert_eq!((picture.width, picture.height), (32, 16));
        assert!(picture.pixels[0] > 240 && picture.pixels[2] < 15, "{:?}", &picture.pixels[..3]);
        fails(parameters(&path), "is no PNG");

        // Turned by a quarter, what was left is on top.
        let mut file = fs::read(&path).unwrap();
        let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        file.splice(2..2, exif.iter().copied());
        fs::write(&path, file).unwrap();
        let turned = Picture::read(&path).unwrap();
        assert_eq!((turned.width, turned.height), (16, 32));
        assert!(turned.pixels[..3][0] > 240 && turned.pixels[turned.pixels.len() - 1] > 240);
    }

    #[test]
    fn a_webp_is_read() {
        let place = tempdir().unwrap();
        let path = place.path().join("a");
        let clear = RgbaImage::from_fn(5, 3, |x, _| if x < 2 { Rgba([9, 9, 9, 0]) } else { Rgba([10, 20, 30, 255]) });
        clear.save_with_format(&path, ImageFormat::WebP).unwrap();
        let picture = Picture::read(&path).unwrap();
        assert_eq!((picture.width, picture.height), (5, 3));
        assert_eq!(picture.pixels[..9], [255, 255, 255, 255, 255, 255, 10, 20, 30]);
    }

    #[test]
    fn a_square_is_cut_from_the_middle() {
        for (width, height) in [(7, 4), (4, 7), (8, 4)] {
            let picture = gradient(width, height);
            let square = picture.square(4);
            assert_eq!((square.width, square.height), (4, 4));
            let (left, top) = ((width as usize - 4) / 2, (height as usize - 4) / 2);
            for y in 0..4 {
                let from = ((y + top) * width as usize + left) * CHANNELS;
                assert_eq!(square.pixels[y * 12..(y + 1) * 12], picture.pixels[from..from + 12], "{width} x {height}");
            }
        }
        assert_eq!(gradient(9, 6).square(2), gradient(9, 6).square(6).resized(2, 2));
        let odd = Picture { width: 3, height: 9, pixels: vec![1, 2] };
        assert_eq!(odd.square(2), odd);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        fails(Picture::read(&path), "is not there");
        fails(parameters(&path), "is not there");
        fails(Picture::read(place.path()), "is no file");
        for content in ["", "GIF89a", "{\"prompt\": \"no picture at all\"}"] {
            fs::write(&path, content).unwrap();
            fails(Picture::read(&path), "no PNG, JPEG or WebP");
            fails(parameters(&path), "is no PNG");
        }
        File::create(&path).unwrap().set_len(LONGEST_FILE + 1).unwrap();
        fails(Picture::read(&path), "longer than");
    }

    #[test]
    fn a_file_that_ends_too_early_is_refused() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        gradient(40, 40).write(&path, &json!({"seed": 1})).unwrap();
        let file = fs::read(&path).unwrap();
        for length in (1..file.len() - 16).step_by(7) {
            fs::write(&path, &file[..length]).unwrap();
            assert!(matches!(Picture::read(&path), Err(Error::File { .. })), "{length}");
        }
        fs::write(&path, &file[..60]).unwrap();
        fails(Picture::read(&path), "again");
        fails(parameters(&path), "ends too early");
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_decoded() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        for (width, height) in [(100_000, 100_000), (LONGEST_SIDE + 1, 1), (1, u32::MAX >> 1)] {
            fs::write(&path, chunks(&[(b"IHDR", &header(width, height)), (b"IDAT", &[]), (b"IEND", &[])])).unwrap();
            fails(Picture::read(&path), "is too large");
        }
        // Both sides are right, and 16 bits with alpha take 2 GiB.
        let mut deep = header(LONGEST_SIDE, LONGEST_SIDE);
        deep[8..10].copy_from_slice(&[16, 6]);
        fs::write(&path, chunks(&[(b"IHDR", &deep), (b"IDAT", &[]), (b"IEND", &[])])).unwrap();
        fails(Picture::read(&path), "is too large");

        RgbImage::new(16, 16).save_with_format(&path, ImageFormat::Jpeg).unwrap();
        let mut file = fs::read(&path).unwrap();
        let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        file[frame + 5..frame + 9].fill(0xff);
        fs::write(&path, file).unwrap();
        fails(Picture::read(&path), "is too large");
    }

    #[test]
    fn parameters_of_others_are_refused() {
        let place = tempdir().unwrap();
        let path = place.path().join("a.png");
        let write = |kind: &[u8; 4], text: &[u8]| {
            fs::write(&path, chunks(&[(b"IHDR", &header(1, 1)), (kind, text), (b"IEND", &[])])).unwrap();
            parameters(&path)
        };
        fails(write(b"tEXt", b"Comment\0{}"), "does not say how it was made");
        fails(write(b"tEXt", b"parameters\0a turtle\nSteps: 20"), "not JSON");
        fails(write(b"iTXt", b"parameters\0\x01\0\0\0x\x9c"), "not JSON");
        fails(write(b"iTXt", b"parameters\0\0\0"), "does not say how it was made");
        let long = |keyword: &[u8]| [keyword, &[b' '; 1_000_000]].concat();
        fails(write(b"iTXt", &long(b"parameters\0\0\0\0\0")), "more than the 1 MB");
        fails(write(b"iTXt", &long(b"XML:com.adobe.xmp\0\0\0\0\0")), "does not say how it was made");
        // A program that keeps the text may keep it in the other kind of chunk.
        assert_eq!(write(b"tEXt", b"parameters\0{\"seed\": 3}").unwrap(), json!({"seed": 3}));
        // The length of a chunk is a claim.
        let mut file = chunks(&[(b"IHDR", &header(1, 1)), (b"iTXt", b"parameters")]);
        file[33..37].fill(0xff);
        fs::write(&path, &file).unwrap();
        fails(parameters(&path), "ends too early");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let place = tempdir().unwrap();
        let (path, picture) = (place.path().join("a.png"), gradient(2, 2));
        fails(picture.write(&place.path().join("no/a.png"), &Value::Null), "its folder is not there");
        picture.write(&path, &Value::Null).unwrap();
        fails(picture.write(&path.join("b.png"), &Value::Null), "a file lies where");
        let folder = place.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fails(picture.write(&folder, &Value::Null), "is a folder");

        let broken = Picture { height: 3, ..picture.clone() };
        assert!(matches!(broken.write(&path, &Value::Null), Err(Error::Argument { .. })));
        assert!(matches!(picture.write(&path, &"x".repeat(1_000_000).into()), Err(Error::Argument { .. })));
        let empty = Picture { width: 0, height: 0, pixels: Vec::new() };
        fails(empty.write(&path, &Value::Null), "cannot be written");
        assert_eq!(Picture::read(&path).unwrap(), picture);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2);

        // The longest that is written is read.
        let longest = Value::from("x".repeat(LONGEST_TEXT as usize - 17));
        picture.write(&path, &longest).unwrap();
        assert_eq!(parameters(&path).unwrap(), longest);
    }

    #[test]
    fn the_number_of_bytes_must_fit() {
        for (width, height, count) in [(2, 2, 11), (0, 0, 0), (0, 4, 0), (u32::MAX, u32::MAX, 3)] {
            let error = Picture::new(width, height, vec![0; count]).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error:?}");
        }
    }

    #[test]
    fn resizing_keeps_a_flat_colour_and_the_same_size() {
        let picture = gradient(6, 4);
        assert_eq!(picture.resized(6, 4), picture);
        let flat = Picture::new(6, 4, [10, 20, 30].repeat(24)).unwrap();
        for (width, height) in [(3, 2), (13, 9), (1, 1), (6, 5)] {
            let resized = flat.resized(width, height);
            assert_eq!(resized, Picture::new(width, height, [10, 20, 30].repeat((width * height) as usize)).unwrap());
        }
        assert_eq!(flat.resized(0, 2).width, 1);
    }

    #[test]
    fn a_sheet_has_gaps_between_its_pictures() {
        let pictures: Vec<_> = (0..3).map(|i| Picture::new(2, 1, vec![i; 6]).unwrap()).collect();
        let made = sheet(&pictures, 2).unwrap();
        assert_eq!((made.width, made.height), (12, 10));
        let white = |count: usize| vec![WHITE; count * 3];
        let rows: Vec<&[u8]> = made.pixels.chunks(36).collect();
        assert_eq!(rows[0], [vec![0; 6], white(8), vec![1; 6]].concat());
        assert!(rows[1..9].iter().all(|row| *row == white(12)));
        assert_eq!(rows[9], [vec![2; 6], white(10)].concat());

        assert_eq!(sheet(&pictures[..1], usize::MAX).unwrap(), pictures[0]);
        for (pictures, columns) in [
            (&pictures[..], 0),
            (&[], 1),
            (&[gradient(1, 2), gradient(2, 1)], 1),
            (&[Picture { width: 9, height: 9, pixels: vec![] }], 1),
        ] {
            assert!(matches!(sheet(pictures, columns), Err(Error::Argument { .. })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_damaged_file_is_an_error_or_a_picture(at in any::<prop::sample::Index>(), byte: u8, jpeg: bool) {
            let place = tempdir().unwrap();
            let path = place.path().join("a");
            let picture = gradient(9, 9);
            picture.write(&path, &json!({"seed": 1})).unwrap();
            if jpeg {
                let image = RgbImage::from_raw(9, 9, picture.pixels).unwrap();
                image.save_with_format(&path, ImageFormat::Jpeg).unwrap();
            }
            let mut file = fs::read(&path).unwrap();
            let at = at.index(file.len());
            file[at] = byte;
            fs::write(&path, file).unwrap();
            let _ = Picture::read(&path);
            let _ = parameters(&path);
        }
    }
}
