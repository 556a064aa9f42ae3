//! Text encoders as a text-to-image model knows them.

use super::{
    ComposedTransformer, Inputs, Kind,
    feed::{MASK, TOKENS},
};
use framework::{Array, Error, Result, math};

/// What a text encoder reads and makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    /// How many tokens it knows.
    pub vocabulary: u32,
    /// Features of its states.
    pub features: i32,
    /// The most tokens that it has places for.
    pub longest: Option<u32>,
    /// Whether it is told of padding.
    masked: bool,
}

impl Encoder {
    /// What a model is as a text encoder. Computes nothing.
    ///
    /// # Errors
    /// When it reads anything but tokens and their mask.
    pub fn of(model: &ComposedTransformer) -> Result<Self> {
        let (mut masked, mut vocabulary) = (false, None);
        for (name, kind) in model.kinds() {
            match (name, kind) {
                (TOKENS, Kind::Tokens(rows)) => vocabulary = Some(rows),
                (MASK, Kind::Mask) => masked = true,
                _ => {
                    let problem = format!("is read as {kind}, and a text encoder has `{TOKENS}` and `{MASK}` alone");
                    return Err(Error::argument(name, problem));
                }
            }
        }
        let vocabulary = vocabulary.ok_or_else(|| Error::argument(TOKENS, "is not read, and it is the text"))?;
        let encoder = Self { vocabulary, features: 0, longest: model.longest(TOKENS), masked };
        let states = encoder.states(model, &Array::zeros::<i32>(&[1, 1])?, &Array::ones::<bool>(&[1, 1])?)?;
        Ok(Self { features: math::last(&states)?, ..encoder })
    }

    /// Tokens and what of them is no padding, `[B, T]` → states `[B, T, D]`.
    pub fn states(&self, model: &ComposedTransformer, ids: &Array, mask: &Array) -> Result<Array> {
        let mut inputs = Inputs::from([(TOKENS.to_owned(), ids.clone())]);
        if self.masked {
            inputs.insert(MASK.to_owned(), mask.clone());
        }
        model.forward(&inputs)
    }
}
