//! A component of a pipeline, in memory only while it is used.

use crate::{
    Checkpoint, Family, OpenOptions, Result,
    registry::{fit_config, open_model},
};
use framework::weights::Source;
use std::{
    cell::RefCell,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Sees how many bytes of how many of a component are loaded; may stop the loading.
pub type Loading<'a> = dyn FnMut(&'static str, u64, u64) -> ControlFlow<()> + 'a;

/// A component that is loaded when its stage begins, and let go when it ends unless it is kept.
pub struct Stage<F: Family> {
    name: &'static str,
    path: PathBuf,
    options: OpenOptions,
    keep: bool,
    model: RefCell<Option<F::Model>>,
}

impl<F: Family> Stage<F> {
    /// The component `name` of the snapshot in `folder`, which is fitted to its header and not read yet; and its
    /// model, built and without weights.
    ///
    /// # Errors
    /// When it is missing or does not fit.
    pub fn new(folder: &Path, name: &'static str, options: OpenOptions, keep: bool) -> Result<(Self, F::Model)> {
        let path = folder.join(name);
        let source = Source::open(&path)?;
        let model = fit_config::<F>(&Checkpoint::of(&source)?, options.dtype)?;
        Ok((Self { name, path, options, keep, model: RefCell::new(None) }, model))
    }

    fn load(&self, loading: &mut Loading<'_>) -> Result<F::Model> {
        let progress = &mut |done, total| loading(self.name, done, total);
        open_model::<F>(&self.path, self.options, progress)
    }

    /// Runs a stage with the component.
    ///
    /// # Errors
    /// Those of loading and of `run`; [`Error::Cancelled`](crate::Error::Cancelled) when `loading` breaks.
    pub fn with<T>(&self, loading: &mut Loading<'_>, run: impl FnOnce(&F::Model) -> Result<T>) -> Result<T> {
        let model = match self.model.take() {
            Some(model) => model,
            None => self.load(loading)?,
        };
        let outcome = run(&model);
        if self.keep {
            self.model.replace(Some(model));
        } else {
            drop(model);
            mlx_rs::memory::clear_cache()?;
        }
        outcome
    }
}
