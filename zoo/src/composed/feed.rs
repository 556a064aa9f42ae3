//! What a text-to-image pipeline gives its transformer, by the names that a config knows it by.

use super::{ComposedTransformer, Encoder, Inputs, Kind};
use crate::image::patches;
use framework::{Array, Axes, Error, Result, math};
use std::collections::BTreeSet;

/// Noisy latents as patches `[B, L, C·p²]`.
pub(super) const IMAGE: &str = "hidden_states";
/// The text encoder's states `[B, T, D]`.
pub(super) const ENCODED: &str = "encoder_hidden_states";
/// The text's tokens `[B, T]`.
pub(super) const TOKENS: &str = "input_ids";
/// Which of them are the text's `[B, T]`.
pub(super) const MASK: &str = "attention_mask";
/// The noise level `[B]`, from 0 to 1.
const TIME: &str = "timestep";
/// Where the patches stand.
const IMAGE_PLACES: &str = "img_ids";
/// Where the text's tokens stand.
const TEXT_PLACES: &str = "txt_ids";

/// Texts as a transformer reads them.
pub(crate) struct Texts {
    /// `[B, T]`, i32.
    pub ids: Array,
    /// `[B, T]`, booleans.
    pub mask: Array,
    /// `[B, T, D]`, of the text encoder if there is one.
    pub hidden: Option<Array>,
}

/// From latents and texts to the inputs of one transformer.
pub(crate) struct Feed {
    names: BTreeSet<String>,
    /// Latents on a side of a patch.
    pub patch: i32,
    /// How many tokens all that read them know.
    pub vocabulary: u32,
    image: Option<Axes>,
    text: Option<Axes>,
}

impl Feed {
    /// For a transformer of latents of so many channels.
    ///
    /// # Errors
    /// [`Error::Argument`] with the name of the first input that no pipeline has, or has in another way.
    pub fn new(model: &ComposedTransformer, channels: i32, encoder: Option<Encoder>) -> Result<Self> {
        let (mut patch, mut image, mut text) = (None, None, None);
        let mut vocabularies = Vec::new();
        for (name, kind) in model.kinds() {
            match (name, kind) {
                (IMAGE, Kind::Features(width)) => once(&mut patch, name, side(width, channels)?)?,
                (ENCODED, Kind::Features(width)) => match encoder {
                    Some(Encoder { vocabulary, features, .. }) if features == width => vocabularies.push(vocabulary),
                    Some(Encoder { features, .. }) => {
                        let problem = format!("has {width} features, and the text encoder makes {features}");
                        return Err(Error::argument(name, problem));
                    }
                    None => return Err(Error::argument(name, "is a text encoder's, and there is no `text_encoder`")),
                },
                (TOKENS, Kind::Tokens(rows)) => vocabularies.push(rows),
                (MASK, Kind::Mask) | (TIME, Kind::Time) => {}
                (IMAGE_PLACES, Kind::Positions(axes)) => once(&mut image, name, axes.clone())?,
                (TEXT_PLACES, Kind::Positions(axes)) => once(&mut text, name, axes.clone())?,
                _ => return Err(unknown(name, kind)),
            }
        }
        let patch = patch.ok_or_else(|| Error::argument(IMAGE, "is not read, and it is the picture"))?;
        let no_text = || Error::argument(ENCODED, format!("is not read, and neither is `{TOKENS}`: no text is"));
        let vocabulary = vocabularies.into_iter().min().ok_or_else(no_text)?;
        let names = model.inputs().into_iter().map(str::to_owned).collect();
        Ok(Self { names, patch, vocabulary, image, text })
    }

    /// Whether the transformer reads the text encoder's states.
    pub fn is_encoded(&self) -> bool {
        self.names.contains(ENCODED)
    }

    /// What stays the same from step to step: where rows and columns of patches and so many tokens stand.
    pub fn places(&self, grid: [i32; 2], text_tokens: usize) -> Result<Inputs> {
        let image = |axes| (IMAGE_PLACES, axes, patches::places(count(axes), grid));
        let text = |axes| (TEXT_PLACES, axes, text_places(count(axes), text_tokens));
        let both = self.image.iter().map(image).chain(self.text.iter().map(text));
        both.map(|(name, axes, places)| Ok((name.to_owned(), spelt(axes, &places)?))).collect()
    }

    /// The inputs of one evaluation: patches `x` `[B, L, C·p²]` at the noise levels `sigma` `[B]`.
    pub fn inputs(&self, x: Array, sigma: Array, texts: Texts, places: &Inputs) -> Inputs {
        let Texts { ids, mask, hidden } = texts;
        let given = [(IMAGE, Some(x)), (TIME, Some(sigma)), (TOKENS, Some(ids)), (MASK, Some(mask)), (ENCODED, hidden)];
        let read = given.into_iter().filter(|(name, _)| self.names.contains(*name));
        let mut inputs = places.clone();
        inputs.extend(read.filter_map(|(name, value)| Some((name.to_owned(), value?))));
        inputs
    }
}

/// Latents on a side of a patch of so many features.
fn side(width: i32, channels: i32) -> Result<i32> {
    let fits = |side: &i32| side.checked_mul(*side).and_then(|area| area.checked_mul(channels)) == Some(width);
    (1..=width).take_while(|side| i64::from(*side) * i64::from(*side) <= i64::from(width)).find(fits).ok_or_else(|| {
        let problem =
            format!("has {width} features, which are no p × p patches of the autoencoder's {channels} channels");
        Error::argument(IMAGE, problem)
    })
}

fn once<T: PartialEq>(known: &mut Option<T>, name: &str, value: T) -> Result<()> {
    match known {
        Some(known) if *known != value => Err(Error::argument(name, "is read in two ways, and there is one of it")),
        _ => {
            *known = Some(value);
            Ok(())
        }
    }
}

fn unknown(name: &str, kind: Kind<'_>) -> Error {
    let has = [
        (IMAGE, "features"),
        (ENCODED, "features"),
        (TOKENS, "tokens"),
        (MASK, "a mask"),
        (TIME, "a time"),
        (IMAGE_PLACES, "positions"),
        (TEXT_PLACES, "positions"),
    ];
    let has: Vec<String> = has.iter().map(|(name, kind)| format!("`{name}` ({kind})")).collect();
    Error::argument(name, format!("is read as {kind}, and a pipeline has no such input; it has {}", has.join(", ")))
}

fn count(axes: &Axes) -> usize {
    match axes {
        Axes::One => 1,
        Axes::Each(axes) | Axes::Sections(axes) | Axes::InterleavedSections(axes) => axes.len(),
    }
}

/// Tokens count on the first axis; on the others they are at 0.
fn text_places(axes: usize, tokens: usize) -> Vec<f64> {
    let zeros = std::iter::repeat_n(0.0, axes.saturating_sub(1).saturating_mul(tokens));
    (0..tokens).map(|token| token as f64).chain(zeros).collect()
}

/// Places `[axes, L]` as a stream with such a rope is given them.
fn spelt(axes: &Axes, places: &[f64]) -> Result<Array> {
    let count = count(axes).max(1);
    let length = (places.len() / count) as i32;
    let count = count as i32;
    let places: Vec<f32> = places.iter().map(|&place| place as f32).collect();
    match axes {
        Axes::One => math::array(&places, &[1, length]),
        Axes::Each(_) => Ok(math::array(&places, &[count, length])?.transpose()?),
        Axes::Sections(_) | Axes::InterleavedSections(_) => math::array(&places, &[count, 1, length]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::positions;
    use framework::Positions;

    #[test]
    fn the_side_follows_from_the_features() {
        assert_eq!([side(16, 16).unwrap(), side(64, 16).unwrap(), side(27, 3).unwrap()], [1, 2, 3]);
        for (width, channels) in [(8, 4), (4, 16), (48, 16), (i32::MAX, 1)] {
            assert!(side(width, channels).unwrap_err().to_string().contains(IMAGE));
        }
    }

    #[test]
    fn places_are_spelt_as_the_ropes_axes_are_read() {
        let [image, text] = [patches::places(3, [2, 3]), text_places(3, 4)];
        assert_eq!(text, [[0.0, 1.0, 2.0, 3.0], [0.0; 4], [0.0; 4]].concat());
        for places in [image, text] {
            let length = places.len() / 3;
            let expected = Positions::new(places.clone(), 3, 1, length).unwrap();
            let each = spelt(&Axes::Each(vec![2, 2, 4]), &places).unwrap();
            assert_eq!(positions::grid(&each).unwrap(), expected);
            let sections = spelt(&Axes::Sections(vec![2, 1, 1]), &places).unwrap();
            assert_eq!(positions::by_axis(&sections).unwrap(), expected);
        }
        let one = spelt(&Axes::One, &text_places(1, 4)).unwrap();
        assert_eq!(positions::rows(&one).unwrap(), Positions::range(0, 4));
    }
}
