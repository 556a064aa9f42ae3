//! The table of token embeddings.

use crate::{Error, Init, Leaf, LeafMut, Module, Result, Weight, call, math};
use mlx_rs::Array;

/// A row a token: `[B, L]` integers → `[B, L, D]`.
pub struct Embedding {
    /// `[tokens, D]`.
    pub weight: Weight,
}

impl Embedding {
    /// How many ids there are.
    pub fn rows(&self) -> u32 {
        self.weight.shape().first().map_or(0, |&rows| rows.unsigned_abs())
    }

    /// Features of an id.
    pub fn features(&self) -> i32 {
        self.weight.shape().last().copied().unwrap_or(0)
    }

    /// A dense table, normal with deviation 1 as PyTorch's.
    pub fn new(tokens: i32, dim: i32, init: &mut Init) -> Result<Self> {
        Ok(Self { weight: Weight::Dense(init.normal(&[tokens, dim], 1.0)?) })
    }

    /// The rows at `ids` `[B, L]` → `[B, L, D]`. Ids are not checked against the table; callers validate them.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        self.weight.rows(ids)
    }

    /// The rows at `ids` `[B, L]`, times `scale` in their dtype → `[B, L, D]` (Gemma).
    pub fn scaled(&self, ids: &Array, scale: f32) -> Result<Array> {
        math::scaled(&self.forward(ids)?, scale.into())
    }

    /// The rows of the first `length` places → `[1, length, D]`: a table of learned positions.
    ///
    /// # Errors
    /// When there are more tokens than places.
    pub fn places(&self, length: i32) -> Result<Array> {
        let places = self.weight.shape().first().copied().unwrap_or(0);
        if length > places {
            let problem = format!("{length} tokens where the model has places for {places}");
            return Err(Error::argument("ids", problem));
        }
        self.forward(&Array::arange::<_, i32>(0, length, None)?.expand_dims(0)?)
    }

    /// The table as an output layer, which shares its weights with the input.
    pub fn tied(&self) -> Tied<'_> {
        Tied(self)
    }
}

/// An output layer whose matrix is an embedding's table (<https://arxiv.org/abs/1608.05859>).
pub struct Tied<'a>(&'a Embedding);

impl Tied<'_> {
    /// `[B, L, D]` → `[B, L, tokens]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.0.weight.matmul(x, None)
    }
}

impl Module for Embedding {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.weight.each(f);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.weight.each_mut(f);
    }
    fn leaf(&self) -> Leaf<'_> {
        Leaf::Embedding(self)
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        LeafMut::Embedding(self)
    }
}

/// A token's vector plus a learned one for its place in the text (<https://arxiv.org/abs/1706.03762>, section 3.5).
pub struct PlacedEmbedding {
    /// `[tokens, D]`.
    pub tokens: Embedding,
    /// `[places, D]`.
    pub positions: Embedding,
}
crate::module! { impl[] PlacedEmbedding { tokens, positions } }

impl PlacedEmbedding {
    /// Tables for texts of up to `places` tokens.
    pub fn new(tokens: i32, places: i32, dim: i32, init: &mut Init) -> Result<Self> {
        Ok(Self { tokens: Embedding::new(tokens, dim, init)?, positions: Embedding::new(places, dim, init)? })
    }

    /// `ids` `[B, L]`, which begin at the first place → `[B, L, D]`.
    ///
    /// # Errors
    /// When there are more tokens than places.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        let [_, length] = math::shape(ids)?;
        let tokens = call!(self.tokens.forward(ids))?;
        math::add(&tokens, &call!(self.positions.places(length))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_a_place() {
        let embedding = PlacedEmbedding::new(7, 3, 4, &mut Init::default()).unwrap();
        let y = embedding.forward(&math::array(&[6, 6, 6], &[1, 3]).unwrap()).unwrap();
        let rows = |embedding: &Embedding, ids: &[i32]| {
            let ids = math::array(ids, &[1, ids.len() as i32]).unwrap();
            math::read::<f32>(&embedding.forward(&ids).unwrap()).unwrap()
        };
        let sums = rows(&embedding.tokens, &[6, 6, 6]).into_iter().zip(rows(&embedding.positions, &[0, 1, 2]));
        assert_eq!(math::read::<f32>(&y).unwrap(), sums.map(|(token, place)| token + place).collect::<Vec<_>>());
        let error = embedding.forward(&Array::zeros::<i32>(&[1, 4]).unwrap()).unwrap_err().to_string();
        assert!(error.contains("4 tokens") && error.contains("for 3"), "{error}");
    }
}
