//! A component of a pipeline, in memory only while it is used.

use crate::{
    Checkpoint, Error, Family, OpenOptions, Result,
    image::{Plan, Planned, Watch},
    open,
    registry::{fit_config, open_model},
};
use framework::{Result as Outcome, memory, tap, weights::Source};
use std::{cell::RefCell, path::PathBuf};

/// A component that is loaded when it is needed, and let go after that unless it is kept.
pub struct Component<F: Family> {
    name: &'static str,
    path: PathBuf,
    options: OpenOptions,
    keep: bool,
    model: RefCell<Option<F::Model>>,
}

impl<F: Family> Component<F> {
    /// The component of that name in a folder or a file; and its model, built and without weights. Reads the header
    /// alone.
    ///
    /// # Errors
    /// When it is missing or does not fit.
    pub fn new(path: PathBuf, name: &'static str, options: OpenOptions, keep: bool) -> Result<(Self, F::Model)> {
        let component = Self { name, path, options, keep, model: RefCell::new(None) };
        let model = component.fit()?;
        Ok((component, model))
    }

    /// The model without weights.
    fn fit(&self) -> Result<F::Model> {
        let source = Source::open(&self.path)?;
        fit_config::<F>(&Checkpoint::of(&source)?, self.options.dtype).map_err(|error| error.about(&self.path))
    }

    /// Bytes of the weights that are in memory now.
    pub fn kept(&self) -> u64 {
        self.model.borrow().as_ref().map_or(0, |model| memory::weights(model))
    }

    /// What doing something with the component takes: its weights, and what `working` estimates of a model without any.
    ///
    /// # Errors
    /// Those of `working`, and when the component is not there any more.
    pub fn plan(&self, task: &'static str, working: impl FnOnce(&F::Model) -> Outcome<u64>) -> Result<Planned> {
        let model = self.fit()?;
        let weights = open::loaded_bytes(&model, self.options);
        Ok(Planned { component: self.name, task, weights, working: working(&model)? })
    }

    /// Runs something with the component, within the memory that is planned for it. Activations are observed under the
    /// component's name.
    ///
    /// # Errors
    /// Those of loading and of `run`; [`Error::Cancelled`] when whoever watches breaks.
    pub fn with<T>(&self, plan: &Plan, watch: &Watch<'_>, run: impl FnOnce(&F::Model) -> Result<T>) -> Result<T> {
        let loaded = self.model.take();
        let model = match loaded {
            Some(model) => model,
            None => {
                let mut loading = watch.loading();
                let progress = &mut |done, total| loading(self.name, done, total);
                open_model::<F>(&self.path, self.options, progress).map_err(|error| error.about(&self.path))?
            }
        };
        let scope = tap::enter(&[&self.name]);
        let outcome = memory::bounded(plan.working(self.name), || run(&model)).map_err(Error::from).flatten();
        drop(scope);
        if self.keep {
            self.model.replace(Some(model));
        } else {
            drop(model);
            mlx_rs::memory::clear_cache()?;
        }
        outcome
    }
}
