//! Gradients by path.

use super::{Named, Trainable, recompute::Scope};
use crate::{Array, Error, Result, cuda};
use mlx_rs::transforms::value_and_grad_with_argnums;
use std::{
    cell::RefCell,
    ops::Deref,
    sync::{Arc, atomic::Ordering},
};

/// What is minimised, and what is reported beside it.
#[derive(Clone, Debug)]
pub struct Loss {
    /// A scalar.
    pub value: Array,
    /// No gradient flows from these.
    pub aux: Vec<Array>,
}

impl Loss {
    /// A loss with nothing beside it.
    pub fn of(value: Array) -> Self {
        Self { value, aux: Vec::new() }
    }
}

impl Trainable<'_> {
    /// The loss that `f` computes from the module, and its gradient at `values`, by path.
    ///
    /// While `f` runs, the module holds `values`, each in the dtype of its parameter; a gradient has the dtype of its
    /// value: bf16 parameters and f32 values are computed with in bf16 and have f32 gradients.
    ///
    /// ```
    /// use framework::train::{Loss, Trainable};
    /// use framework::{Array, Init, Linear, math};
    /// let layer = Linear::new(2, 1, true, &mut Init::default())?;
    /// let x = math::array(&[1f32, 2.0], &[1, 2])?;
    /// let trainable = Trainable::new(&layer, |path| path == "weight")?;
    /// let loss = || Ok(Loss::of(layer.forward(&x)?.sum(None)?));
    /// let (_, gradients) = trainable.value_and_grad(&trainable.values(), loss)?;
    /// assert_eq!(math::read::<f32>(&gradients["weight"])?, [1.0, 2.0]);
    /// # Ok::<(), framework::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `f`, as they were raised; a loss that is no scalar; values that are not the trained parameters.
    pub fn value_and_grad(&self, values: &Named, mut f: impl FnMut() -> Result<Loss>) -> Result<(Loss, Named)> {
        let scope = Scope::open(self);
        let body = |tracers: &[Array]| {
            scope.kept.run(|| {
                let traced: Named = values.keys().cloned().zip(tracers.iter().cloned()).collect();
                let Loss { value, aux } = cuda::differentiated(|| self.with(&traced, &mut f))?;
                if value.ndim() != 0 {
                    let problem = format!("its shape is {:?}; reduce it to a scalar", value.shape());
                    return Err(Error::argument("loss", problem));
                }
                Ok([vec![value], aux].concat())
            })
        };
        let places: Vec<i32> = (0..values.len() as i32).collect();
        let at: Vec<Array> = values.values().cloned().collect();
        let outcome = value_and_grad_with_argnums(body, places.as_slice())(&at);
        let (outputs, gradients) = outcome.map_err(|error| scope.kept.raise(error))?;
        let mut outputs = outputs.into_iter();
        let value = outputs.next().ok_or_else(|| Error::argument("loss", "MLX returned none"))?;
        Ok((Loss { value, aux: outputs.collect() }, values.keys().cloned().zip(gradients).collect()))
    }
}

impl Scope {
    /// Opens a scope until the result is dropped; a gradient within a gradient hides the outer one.
    fn open<'t>(trainable: &'t Trainable<'_>) -> Open<'t> {
        let scope = Arc::new(Self::default());
        Open { place: &trainable.scope, outer: trainable.scope.replace(Some(Arc::clone(&scope))), scope }
    }
}

/// The scope of a gradient, until it is dropped.
struct Open<'t> {
    place: &'t RefCell<Option<Arc<Scope>>>,
    outer: Option<Arc<Scope>>,
    scope: Arc<Scope>,
}

impl Deref for Open<'_> {
    type Target = Scope;
    fn deref(&self) -> &Scope {
        &self.scope
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.scope.over.store(true, Ordering::Relaxed);
        self.place.replace(self.outer.take());
    }
}
