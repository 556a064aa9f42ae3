//! Gradient checkpointing: less memory for more computation.

use super::{Trainable, trainable::Swapped};
use crate::{
    Array, Error, Module, Result,
    closure::{Closure, Kept, after},
    cuda, params,
};
use mlx_rs::transforms::fallible_vjp;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A gradient that is being taken: until it is over, blocks may be computed again.
#[derive(Default)]
pub(super) struct Scope {
    pub over: AtomicBool,
    pub kept: Arc<Kept>,
}

impl<'a> Trainable<'a> {
    /// Computes a block of the module so that its intermediate results are not kept for the gradient, but computed again
    /// (<https://arxiv.org/abs/1604.06174>). Outside of a gradient it is a plain call.
    ///
    /// All that the block computes from must be a parameter of its own or among `inputs`, and `f` cannot capture: what it
    /// captured would be a constant, with a gradient of zero.
    ///
    /// ```
    /// use framework::train::{Loss, Trainable};
    /// use framework::{Array, Init, Linear};
    /// let layers = (0..3).map(|_| Linear::new(4, 4, true, &mut Init::default())).collect::<Result<Vec<_>, _>>()?;
    /// let trainable = Trainable::new(&layers, |_| true)?;
    /// let loss = || {
    ///     let mut x = Array::ones::<f32>(&[1, 4])?;
    ///     for layer in &layers {
    ///         x = trainable.recompute(layer, &[x], |layer, inputs| Ok(vec![layer.forward(&inputs[0])?]))?.remove(0);
    ///     }
    ///     Ok(Loss::of(x.sum(None)?))
    /// };
    /// let (_, gradients) = trainable.value_and_grad(&trainable.values(), loss)?;
    /// assert_eq!(gradients.len(), 6);
    /// # Ok::<(), framework::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `f`.
    pub fn recompute<B: Module>(
        &self,
        block: &'a B,
        inputs: &[Array],
        f: fn(&B, &[Array]) -> Result<Vec<Array>>,
    ) -> Result<Vec<Array>> {
        let Some(scope) = self.scope.borrow().clone() else {
            return f(block, inputs);
        };
        let paths = self.trained_in(block);
        let own = params(block);
        let weights = paths.iter().filter_map(|path| own.get(path)).map(|param| param.get());
        let all: Vec<Array> = weights.chain(inputs.iter().cloned()).collect();
        let kept = Arc::clone(&scope.kept);
        let count = paths.len();
        let kept_again = Arc::clone(&kept);
        let block = std::ptr::from_ref(block);
        let again = move |arrays: &[Array]| {
            if scope.over.load(Ordering::Relaxed) {
                let problem = "a block is computed again after the gradient that it was part of";
                return Err(Error::argument("gradient", problem));
            }
            // SAFETY: MLX may keep this function for longer than `'a`, but until the scope is over a borrow of this
            // `Trainable`, which is invariant in `'a`, is on the stack, and `block` lives for `'a`.
            let block = unsafe { &*block };
            let own = params(block);
            let weights = paths.iter().filter_map(|path| own.get(path).copied());
            let (traced, inputs) = arrays.split_at_checked(paths.len()).unwrap_or_default();
            let _swapped = Swapped::new(weights.zip(traced.iter().cloned()));
            cuda::differentiated(|| f(block, inputs))
        };
        let first = again.clone();
        // `mlx_checkpoint` leaves the order to MLX, which computes the gradients of weights last and keeps all blocks for
        // them: a block must wait for the gradient at its outputs, and the block before it for those of its weights.
        let gradient = move |inputs: &[Array], at_outputs: &[Array]| {
            let body = |inputs: &[Array]| kept_again.run(|| again(inputs));
            let vjp = fallible_vjp(body, &after(inputs, at_outputs)?, at_outputs);
            let (_, mut gradients) = vjp.map_err(|error| kept_again.raise(error))?;
            let at_inputs = gradients.split_off(count.min(gradients.len()));
            let at_inputs = after(&at_inputs, &gradients)?;
            gradients.extend(at_inputs);
            Ok(gradients)
        };
        Closure::new(kept, first)?.with_gradient(gradient)?.apply(&all)
    }
}
