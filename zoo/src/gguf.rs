//! A GGUF file as a family's config reads it.

use crate::{Result, registry::Checkpoint};
use framework::{
    Error,
    weights::{Config, gguf::Metadata},
};

/// The keys of one architecture, which begin with its name, and the tensors beside them.
pub struct Gguf<'a> {
    /// All keys.
    pub metadata: &'a Metadata,
    checkpoint: &'a Checkpoint<'a>,
    architecture: &'static str,
}

impl<'a> Gguf<'a> {
    /// The keys of an architecture, if the checkpoint is a GGUF file.
    pub fn of(checkpoint: &'a Checkpoint<'a>, architecture: &'static str) -> Option<Self> {
        match &checkpoint.config {
            Config::Gguf(metadata) => Some(Self { metadata, checkpoint, architecture }),
            Config::Json(_) | Config::None => None,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number.
    ///
    /// # Errors
    /// When the key is missing, or not a number that fits a size.
    pub fn number(&self, name: &str) -> Result<i32> {
        let key = self.key(name);
        let value = self.metadata.u64(&key)?;
        Ok(i32::try_from(value).map_err(|_| Error::config(key, format!("{value} is out of range")))?)
    }

    /// A whole number that the file may leave out.
    ///
    /// # Errors
    /// When the key holds something else.
    pub fn optional(&self, name: &str) -> Result<Option<i32>> {
        self.metadata.has(&self.key(name)).then(|| self.number(name)).transpose()
    }

    /// A number with a fraction.
    ///
    /// # Errors
    /// When the key is missing or holds something else.
    pub fn float(&self, name: &str) -> Result<f32> {
        Ok(self.metadata.f32(&self.key(name))?)
    }

    /// Whether the file holds a tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.checkpoint.header.tensors.contains_key(name)
    }

    /// The rows of a tensor; 0 if it is missing.
    pub fn rows(&self, name: &str) -> i32 {
        let info = self.checkpoint.header.tensors.get(name);
        info.and_then(|info| i32::try_from(*info.shape.first()?).ok()).unwrap_or(0)
    }
}
