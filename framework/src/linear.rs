//! The linear layer, and the adapters that it may carry.

use crate::{Init, Leaf, LeafMut, Module, Param, Result, Route, Weight, cuda::Matrix, math, tap};
use mlx_rs::Array;
use std::collections::BTreeMap;

/// `y = x Wᵀ + b`: `[…, in]` → `[…, out]`.
///
/// The leaf that absorbs variation: the matrix may be dense or packed, and any number of adapters act on top. The
/// base is never changed by an adapter.
///
/// Where one stands for many ([`Stacked`](crate::Stacked)), every tensor has an axis of them before its own.
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Param>,
    /// By name; applied in alphabetical order.
    pub adapters: BTreeMap<String, Box<dyn Adapter + Send>>,
}

/// A learned change of a linear layer: LoRA, LoKr, DoRA and their like.
pub trait Adapter: Module {
    /// The layer's output with the adapter, from its input `x` `[…, in]` and its output without, `y` `[…, out]`.
    ///
    /// In a [`Stacked`](crate::Stacked) layer the route says which of the layers each row goes through; factors that are
    /// stacked too are multiplied by [`Route::product`], which serves both kinds.
    fn apply(&self, x: &Array, y: Array, route: Option<&Route>) -> Result<Array>;
}

impl Linear {
    /// A dense layer that begins as PyTorch's: uniform in ±1/√in, the bias too.
    pub fn new(input: i32, output: i32, bias: bool, init: &mut Init) -> Result<Self> {
        let bound = (input.max(1) as f32).sqrt().recip();
        Ok(Self {
            weight: Weight::Dense(init.uniform(&[output, input], bound)?),
            bias: bias.then(|| init.uniform(&[output], bound)).transpose()?,
            adapters: BTreeMap::new(),
        })
    }

    /// `[…, in]` → `[…, out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let y = self.weight.matmul(x, self.bias.as_ref())?;
        self.adapters.values().try_fold(y, |y, adapter| adapter.apply(x, y, None))
    }

    /// The matrices of layers for kernels of ours, where there are some for rows like those of `x`, each layer is its matrix
    /// alone, and nobody wants to see what each of them makes.
    pub(crate) fn matrices<const N: usize>(layers: [&Self; N], x: &Array) -> Result<Option<[Matrix; N]>> {
        let is_bare = |layer: &&Self| layer.bias.is_none() && layer.adapters.is_empty();
        if tap::is_watched() || !layers.iter().all(is_bare) {
            return Ok(None);
        }
        let matrices = layers.iter().map(|layer| Matrix::of(&layer.weight, x)).collect::<Result<Option<Vec<_>>>>()?;
        Ok(matrices.and_then(|matrices| matrices.try_into().ok()))
    }

    /// [`matrices`](Self::matrices) that one row `[…, in]` goes through at once.
    pub(crate) fn matrices_for_row<const N: usize>(layers: [&Self; N], x: &Array) -> Result<Option<[Matrix; N]>> {
        if math::is_row(x)? { Self::matrices(layers, x) } else { Ok(None) }
    }
}

impl Module for Linear {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.weight.each(f);
        if let Some(bias) = &self.bias {
            f("bias", bias);
        }
        for (name, adapter) in &self.adapters {
            f(name, adapter);
        }
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.weight.each_mut(f);
        if let Some(bias) = &mut self.bias {
            f("bias", bias);
        }
        for (name, adapter) in &mut self.adapters {
            f(name, adapter);
        }
    }
    fn leaf(&self) -> Leaf<'_> {
        Leaf::Linear(self)
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        LeafMut::Linear(self)
    }
}

/// Acts on every linear layer by its path: quantise, attach an adapter, take one off.
///
/// ```
/// use framework::{Init, Linear, on_linears};
/// let mut init = Init::default();
/// let mut layers = vec![Linear::new(64, 8, true, &mut init)?, Linear::new(64, 8, true, &mut init)?];
/// on_linears(&mut layers, |path, linear| match path {
///     "1" => linear.weight.quantise(64, 4),
///     _ => Ok(()),
/// })?;
/// # Ok::<(), framework::Error>(())
/// ```
///
/// # Errors
/// The first one that `f` returns, with the layer's path; the layers after it are left as they are.
pub fn on_linears(module: &mut dyn Module, mut f: impl FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
    let mut outcome = Ok(());
    crate::walk_mut(module, &mut |path, leaf| {
        if let (LeafMut::Linear(linear), Ok(())) = (leaf, &outcome) {
            outcome = f(path, linear).map_err(|error| error.under(&[&path]));
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math;

    struct Lora {
        a: Param,
        b: Param,
    }
    crate::module! { impl[] Lora { a, b } }
    impl Adapter for Lora {
        fn apply(&self, x: &Array, y: Array, _: Option<&Route>) -> Result<Array> {
            math::add(&y, &x.matmul(self.a.get())?.matmul(self.b.get())?)
        }
    }

    #[test]
    fn an_adapter_acts_on_dense_and_packed_layers_and_is_part_of_the_tree() {
        let mut init = Init::default();
        let mut linear = Linear::new(32, 4, true, &mut init).unwrap();
        let x = init.normal(&[2, 32], 1.0).unwrap().get();
        for packed in [false, true] {
            if packed {
                linear.weight.quantise(32, 8).unwrap();
            }
            linear.adapters.clear();
            let before = linear.forward(&x).unwrap();
            let lora = Lora { a: init.normal(&[32, 2], 1.0).unwrap(), b: init.normal(&[2, 4], 1.0).unwrap() };
            let delta = x.matmul(lora.a.get()).unwrap().matmul(lora.b.get()).unwrap();
            linear.adapters.insert("style".into(), Box::new(lora));
            let change = math::subtract(&linear.forward(&x).unwrap(), &before).unwrap();
            let error = math::subtract(&change, &delta).unwrap().abs().unwrap().max(None).unwrap();
            assert!(math::read::<f32>(&error).unwrap()[0] < 1e-4);
            assert!(crate::params(&linear).contains_key("style.a"));
        }
    }

    #[test]
    fn an_error_on_the_way_names_the_layer() {
        let mut layers = vec![Linear::new(30, 4, true, &mut Init::default()).unwrap()];
        let error = on_linears(&mut layers, |_, linear| linear.weight.quantise(32, 8)).unwrap_err();
        assert!(error.to_string().starts_with("0: "), "{error}");
    }
}
