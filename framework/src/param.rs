//! Parameters and how they begin.

use crate::{Error, Leaf, LeafMut, Module, Result};
use mlx_rs::{Array, Dtype, random};
use std::cell::RefCell;

/// A tensor of the model. Lazy until something evaluates it, so that building a model costs nothing.
///
/// The array is behind a cell so that transforms can swap in tracers under `&self`.
#[derive(Debug)]
pub struct Param(RefCell<Array>);

impl Param {
    /// Wraps an array.
    pub fn new(value: Array) -> Self {
        Self(RefCell::new(value))
    }

    /// A handle on the array; no data is copied.
    pub fn get(&self) -> Array {
        self.0.borrow().clone()
    }

    /// Puts another array in its place and returns the old one.
    pub fn replace(&self, value: Array) -> Array {
        self.0.replace(value)
    }

    /// The shape of the array.
    pub fn shape(&self) -> Vec<i32> {
        self.0.borrow().shape().to_vec()
    }

    /// The element type of the array.
    pub fn dtype(&self) -> Dtype {
        self.0.borrow().dtype()
    }
}

impl Module for Param {
    fn each<'a>(&'a self, _: &mut dyn FnMut(&str, &'a dyn Module)) {}
    fn each_mut(&mut self, _: &mut dyn FnMut(&str, &mut dyn Module)) {}
    fn leaf(&self) -> Leaf<'_> {
        Leaf::Param(self)
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        LeafMut::Param(self)
    }
}

/// How construction asks for tensors: a dtype and a seeded stream of random keys.
///
/// The tensors stay lazy: a model of any size builds in milliseconds and holds no memory until it is loaded, or
/// evaluated to train from nothing.
#[derive(Debug)]
pub struct Init {
    dtype: Dtype,
    seed: u64,
    left: usize,
}

impl Default for Init {
    fn default() -> Self {
        Self::new(Dtype::Float32, 0)
    }
}

impl Init {
    /// Parameters of type `dtype` from the given seed.
    pub fn new(dtype: Dtype, seed: u64) -> Self {
        Self { dtype, seed, left: usize::MAX }
    }

    /// Refuses to make more than so many parameters: a config from a stranger may ask for any number of layers.
    #[must_use]
    pub fn at_most(self, parameters: usize) -> Self {
        Self { left: parameters, ..self }
    }

    /// The element type of new parameters.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Uniform in `[-bound, bound]`.
    pub fn uniform(&mut self, shape: &[i32], bound: f32) -> Result<Param> {
        self.count()?;
        let key = self.key()?;
        let value = random::uniform::<_, f32>(-bound, bound, shape, &key)?;
        Ok(Param::new(value.as_dtype(self.dtype)?))
    }

    /// Normal with the given standard deviation and mean 0.
    pub fn normal(&mut self, shape: &[i32], deviation: f32) -> Result<Param> {
        self.count()?;
        let key = self.key()?;
        let value = random::normal::<f32>(shape, None, deviation, &key)?;
        Ok(Param::new(value.as_dtype(self.dtype)?))
    }

    /// The same value everywhere.
    pub fn constant(&mut self, shape: &[i32], value: f32) -> Result<Param> {
        self.count()?;
        let value = Array::full::<f32>(shape, Array::from_f32(value))?;
        Ok(Param::new(value.as_dtype(self.dtype)?))
    }

    fn count(&mut self) -> Result<()> {
        let none =
            || Error::argument("config", "it asks for far more parameters than the file has tensors; check its counts");
        self.left = self.left.checked_sub(1).ok_or_else(none)?;
        Ok(())
    }

    fn key(&mut self) -> Result<Array> {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Ok(random::key(self.seed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_parameters_are_made_than_may_be() {
        let mut init = Init::default().at_most(2);
        init.constant(&[1], 0.0).unwrap();
        init.normal(&[1], 1.0).unwrap();
        assert!(init.uniform(&[1], 1.0).unwrap_err().to_string().contains("far more parameters"));
    }
}
