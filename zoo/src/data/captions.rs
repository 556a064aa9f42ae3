//! The captions of a folder as token ids.

use super::{Example, ImageFolder};
use crate::{
    Error, Result,
    checksum::Checksum,
    text::{Tokenizer, padded},
};
use framework::{Array, math};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::ops::Range;

/// The most tokens of a caption.
const LONGEST: usize = 1 << 16;

/// All captions of N pictures, tokenised once: M rows of L ids in the order of the pictures, and after them the empty
/// caption as row M.
pub struct Captions {
    length: usize,
    ids: Vec<u32>,
    lengths: Vec<u32>,
    pictures: Vec<u32>,
    /// Where the rows of each picture begin, and where those of the last one end.
    starts: Vec<u32>,
    cut: usize,
    digest: String,
}

impl Captions {
    /// Tokenises the captions with what the model expects around a text, and pads them to `length`. One that is longer
    /// loses what stands before its last token.
    ///
    /// # Errors
    /// When the length is 0 or above 65536, the tokenizer has no token to pad with or refuses a caption, or the ids do not
    /// fit into memory.
    pub fn new(folder: &ImageFolder, tokenizer: &Tokenizer, length: usize) -> Result<Self> {
        if !(1..=LONGEST).contains(&length) {
            return Err(Error::argument("length", format!("{length} tokens; it must be from 1 to {LONGEST}")));
        }
        let pad = tokenizer.pad().ok_or_else(|| {
            Error::tokenizer("it has no token to pad with; give its `tokenizer_config.json` a `pad_token`")
        })?;
        let encoded = |picture: usize| {
            let captions = folder.captions(picture).iter();
            captions.map(|caption| tokenizer.encode(caption, true)).collect::<Result<Vec<_>>>()
        };
        let texts: Vec<Vec<Vec<u32>>> = (0..folder.len()).into_par_iter().map(encoded).collect::<Result<_>>()?;

        let mut captions = Self {
            length,
            ids: Vec::new(),
            lengths: Vec::new(),
            pictures: Vec::new(),
            starts: vec![0],
            cut: 0,
            digest: String::new(),
        };
        let rows = texts.iter().map(Vec::len).sum::<usize>().saturating_add(1);
        let full = || Error::argument("length", format!("{rows} captions of {length} tokens are too many"));
        u32::try_from(rows).map_err(|_| full())?;
        captions.ids.try_reserve_exact(rows.saturating_mul(length)).map_err(|_| full())?;
        for (picture, texts) in (0..).zip(&texts) {
            texts.iter().for_each(|ids| captions.push(ids, pad));
            captions.pictures.extend(texts.iter().map(|_| picture));
            captions.starts.push(captions.pictures.len() as u32);
        }
        captions.push(&tokenizer.encode("", true)?, pad);

        let mut sum = Checksum::default().of(&length.to_le_bytes());
        for number in captions.ids.iter().chain(&captions.lengths) {
            sum.add(&number.to_le_bytes());
        }
        captions.digest = sum.end();
        Ok(captions)
    }

    fn push(&mut self, ids: &[u32], pad: u32) {
        self.cut += usize::from(ids.len() > self.length);
        self.lengths.push(ids.len().min(self.length) as u32);
        self.ids.extend(padded(ids, self.length, pad).0);
    }

    /// How many captions there are: M.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// The ids of a row, padding included: L.
    pub fn length(&self) -> usize {
        self.length
    }

    /// `[M + 1, L]`; the last row is that of the empty caption.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many ids of each row are no padding, `[M + 1]`.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// The picture of each caption, `[M]`.
    pub fn pictures(&self) -> &[u32] {
        &self.pictures
    }

    /// The row of the empty caption: M.
    pub fn empty(&self) -> u32 {
        self.pictures.len() as u32
    }

    /// The rows of a picture; none for one that there is not.
    pub fn rows(&self, picture: u32) -> Range<u32> {
        match self.starts.get(picture as usize..) {
            Some([start, end, ..]) => *start..*end,
            _ => 0..0,
        }
    }

    /// The row of what an example shows.
    pub fn row(&self, example: &Example) -> u32 {
        let Range { start, end } = self.rows(example.picture);
        match example.caption.checked_rem(end - start) {
            Some(choice) if !example.dropped => start + choice,
            _ => self.empty(),
        }
    }

    /// Some rows as a text encoder reads them: ids `[B, L]`, i32, and what of them is no padding, `[B, L]`, booleans.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn tokens(&self, rows: &[u32]) -> Result<(Array, Array)> {
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for &row in rows {
            let begin = (row as usize).saturating_mul(self.length);
            let found = self.ids.get(begin..begin.saturating_add(self.length)).zip(self.lengths.get(row as usize));
            let (row, &seen) = found.ok_or_else(|| Error::argument("rows", format!("there is no caption {row}")))?;
            ids.extend(row.iter().map(|&id| id as i32));
            mask.extend((0..self.length).map(|place| place < seen as usize));
        }
        let shape = [rows.len() as i32, self.length as i32];
        Ok((math::array(&ids, &shape)?, math::array(&mask, &shape)?))
    }

    /// How many captions were longer than L.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// The SHA-256 of the ids and lengths: a key for what is computed from them.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::bpe;
    use image::{Rgb, RgbImage};
    use std::fs;
    use tempfile::tempdir;

    fn tokenizer() -> Tokenizer {
        let folder = tempdir().unwrap();
        bpe::train(["heart"; 3].into_iter().chain(["car"; 3]), 300).unwrap().write(folder.path()).unwrap();
        Tokenizer::from_snapshot(folder.path()).unwrap()
    }

    fn folder(captions: &[&[&str]]) -> ImageFolder {
        let folder = tempdir().unwrap();
        let mut lines = String::new();
        for (i, captions) in captions.iter().enumerate() {
            RgbImage::from_pixel(1, 1, Rgb([9; 3])).save(folder.path().join(format!("{i}.png"))).unwrap();
            lines += &format!("{{\"file_name\": \"{i}.png\", \"text\": {captions:?}}}\n");
        }
        fs::write(folder.path().join("metadata.jsonl"), lines).unwrap();
        ImageFolder::open(folder, 1).unwrap()
    }

    #[test]
    fn captions_are_rows_and_the_empty_one_is_the_last() {
        let tokenizer = tokenizer();
        let folder = folder(&[&["heart", "Car car"], &["", "car heart car heart"], &["car"]]);
        let captions = Captions::new(&folder, &tokenizer, 4).unwrap();
        let [heart, car, end] = ["Ġheart", "Ġcar", bpe::END].map(|token| tokenizer.id(token).unwrap());
        let expected = [
            [heart, end, 0, 0],
            [car, car, end, 0],
            [end, 0, 0, 0],
            [car, heart, car, end],
            [car, end, 0, 0],
            [end, 0, 0, 0],
        ];
        assert_eq!(captions.ids(), expected.concat());
        assert_eq!((captions.len(), captions.length(), captions.cut(), captions.empty()), (5, 4, 1, 5));
        assert_eq!(captions.lengths(), [2, 3, 1, 4, 2, 1]);
        assert_eq!(captions.pictures(), [0, 0, 1, 1, 2]);
        assert_eq!([0, 1, 2, 3, u32::MAX].map(|picture| captions.rows(picture)), [0..2, 2..4, 4..5, 0..0, 0..0]);
    }

    #[test]
    fn an_example_shows_one_of_its_pictures_captions() {
        let captions = Captions::new(&folder(&[&["a", "b"], &["c", "d", "e"]]), &tokenizer(), 4).unwrap();
        let example = |picture, caption, dropped| Example { picture, caption, dropped, flipped: false };
        assert_eq!([0, 1, 2, u32::MAX].map(|caption| captions.row(&example(0, caption, false))), [0, 1, 0, 1]);
        assert_eq!([0, 1, 2, 3].map(|caption| captions.row(&example(1, caption, false))), [2, 3, 4, 2]);
        assert_eq!(captions.row(&example(1, 1, true)), 5);
        assert_eq!(captions.row(&example(2, 1, false)), 5, "no such picture");
    }

    #[test]
    fn the_digest_is_that_of_the_ids() {
        let digest = |captions: &[&[&str]], length| {
            Captions::new(&folder(captions), &tokenizer(), length).unwrap().digest().to_owned()
        };
        let first = digest(&[&["car", "heart"]], 4);
        assert_eq!(first, digest(&[&["CAR", "Heart"]], 4));
        for other in [digest(&[&["car", "heart"]], 5), digest(&[&["heart", "car"]], 4), digest(&[&["car"]], 4)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn what_cannot_be_padded_is_refused() {
        let says = |tokenizer: &Tokenizer, length| {
            Captions::new(&folder(&[&["car"]]), tokenizer, length).err().unwrap().to_string()
        };
        assert!(says(&tokenizer(), 0).contains("`length`: 0 tokens"));
        assert!(says(&tokenizer(), usize::MAX).contains("`length`"));
        let place = tempdir().unwrap();
        bpe::train(["car"].into_iter(), 300).unwrap().write(place.path()).unwrap();
        fs::write(place.path().join("tokenizer_config.json"), "{}").unwrap();
        let error = says(&Tokenizer::from_snapshot(place.path()).unwrap(), 4);
        assert!(error.contains("pad_token"), "{error}");
    }
}
