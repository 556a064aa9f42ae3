//! The table of token embeddings.

use crate::{Init, Leaf, LeafMut, Module, Result, Weight};
use mlx_rs::Array;

/// A row a token: `[B, L]` integers → `[B, L, D]`.
pub struct Embedding {
    /// `[tokens, D]`.
    pub weight: Weight,
}

impl Embedding {
    /// A dense table, normal with deviation 1 as PyTorch's.
    pub fn new(tokens: i32, dim: i32, init: &mut Init) -> Result<Self> {
        Ok(Self { weight: Weight::Dense(init.normal(&[tokens, dim], 1.0)?) })
    }

    /// The rows at `ids` `[B, L]` → `[B, L, D]`. Ids are not checked against the table; callers validate them.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        self.weight.rows(ids)
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
