//! Published models at their real size without their files: their configs and headers are part of this program.

use crate::{Checkpoint, Entry, Error, MODELS, Opened, Result, published::Published, registry, task::CausalLm};
use framework::{
    Dtype, Module,
    weights::{Config, Header},
};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// By id, what the repository of every model that is one checkpoint says.
const HEADERS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/headers.rs"));

#[derive(Deserialize)]
struct Said {
    config: Value,
    header: Header,
}

/// A language model with random weights.
pub struct RandomModel {
    entry: &'static Entry,
    opened: Box<dyn Opened>,
}

impl RandomModel {
    /// Builds it lazily: no weight is made.
    ///
    /// # Errors
    /// When the row is not that of a language model.
    pub fn build(row: &'static Published, dtype: Dtype) -> Result<Self> {
        let id = row.id.as_str();
        let Some((_, text)) = HEADERS.iter().find(|(known, _)| row.language.is_some() && *known == id) else {
            let problem = "is no language model, and only those are measured; `zoo models` lists them".to_owned();
            return Err(Error::Unrecognised { file: id.into(), problem });
        };
        let file = Path::new(id);
        let said: Said = serde_json::from_str(text).map_err(|error| Error::file(file, error.to_string()))?;
        let checkpoint = Checkpoint { config: Config::Json(said.config), header: &said.header, tensors: None };
        let entry = registry::of(MODELS, &checkpoint, file)?;
        let model = Self { entry, opened: entry.fit(&checkpoint, dtype)? };
        model.lm()?;
        Ok(model)
    }

    /// What predicts the next token.
    ///
    /// # Errors
    /// When its family does not.
    pub fn lm(&self) -> Result<&dyn CausalLm> {
        let none = || Error::argument("model", "it does not predict text");
        self.entry.causal_lm(&*self.opened).ok_or_else(none)
    }

    /// The tree.
    pub fn module(&self) -> &dyn Module {
        self.opened.module()
    }

    /// The tree, mutably.
    pub fn module_mut(&mut self) -> &mut dyn Module {
        self.opened.module_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::{find, published};

    /// Numbers of a larger model that its language model does not read.
    fn pictures(id: &str) -> u64 {
        let (_, text) = HEADERS.iter().find(|(known, _)| *known == id).unwrap();
        let said: Said = serde_json::from_str(text).unwrap();
        let parts = ["vision_tower.", "multi_modal_projector."];
        let tensors = said.header.tensors.iter().filter(|(name, _)| parts.iter().any(|part| name.starts_with(part)));
        tensors.map(|(_, info)| info.shape.iter().map(|&length| length as u64).product::<u64>()).sum()
    }

    #[test]
    fn every_language_model_is_built_with_its_vocabulary_and_context() {
        for row in published().unwrap() {
            let Some(language) = row.language else { continue };
            let model = RandomModel::build(row, Dtype::Bfloat16).unwrap();
            let lm = model.lm().unwrap();
            assert_eq!(lm.context() as usize, language.context, "{}", row.id);
            let parameters = row.parameters - pictures(&row.id);
            assert_eq!(framework::memory::weights(model.module()), 2 * parameters, "{}", row.id);
        }
    }

    #[test]
    fn a_model_of_pictures_is_refused() {
        let error = RandomModel::build(find("flux.1-dev").unwrap(), Dtype::Bfloat16).err().unwrap().to_string();
        assert!(error.contains("no language model"), "{error}");
    }
}
