//! Which parameters of a module are trained.

use super::{recompute::Scope, state::Named};
use crate::{Array, Dtype, Error, Leaf, Module, Param, Result, Weight, module::join, params, walk};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    sync::Arc,
};

/// The parameters of a module that are trained, by path, and those that are not.
pub struct Trainable<'a> {
    selected: BTreeMap<String, &'a Param>,
    frozen: BTreeMap<String, &'a Param>,
    /// The gradient that is being taken.
    pub(super) scope: RefCell<Option<Arc<Scope>>>,
    /// Invariant: a block that is recomputed must live as long as the module, not only as long as a shorter borrow.
    module: PhantomData<Cell<&'a ()>>,
}

impl<'a> Trainable<'a> {
    /// Selects the parameters whose path satisfies the predicate.
    ///
    /// # Errors
    /// When none does, or one of them is packed or holds integers.
    pub fn new(module: &'a dyn Module, mut select: impl FnMut(&str) -> bool) -> Result<Self> {
        let packed = packed(module);
        let (mut selected, mut frozen) = (BTreeMap::new(), BTreeMap::new());
        for (path, param) in params(module) {
            if !select(&path) {
                frozen.insert(path, param);
                continue;
            }
            let dtype = param.dtype();
            if !is_float(dtype) || packed.contains(&path) {
                let problem = format!(
                    "is packed or holds {dtype:?}, and has no gradient; unpack it, or train an adapter beside it"
                );
                return Err(Error::argument(path, problem));
            }
            selected.insert(path, param);
        }
        if selected.is_empty() {
            return Err(Error::argument("select", "no parameter is selected; compare it with the paths of the module"));
        }
        Ok(Self { selected, frozen, scope: RefCell::default(), module: PhantomData })
    }

    /// The paths of the trained parameters, in alphabetical order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.selected.keys().map(String::as_str)
    }

    /// What the trained parameters are now.
    pub fn values(&self) -> Named {
        self.selected.iter().map(|(path, param)| (path.clone(), param.get())).collect()
    }

    /// Puts values into the module, each in the dtype that the parameter has.
    ///
    /// # Errors
    /// When they are not exactly the trained parameters; nothing is assigned then.
    pub fn assign(&self, values: &Named) -> Result<()> {
        for (param, value) in self.cast(values)? {
            param.replace(value);
        }
        Ok(())
    }

    /// Runs `f` with other values in the module, which are taken out again on every way out.
    ///
    /// # Errors
    /// When they are not exactly the trained parameters, and those of `f`.
    pub fn with<T>(&self, values: &Named, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let _swapped = Swapped::new(self.cast(values)?);
        f()
    }

    /// Every value in the dtype of its parameter.
    fn cast(&self, values: &Named) -> Result<Vec<(&'a Param, Array)>> {
        if let Some(path) = values.keys().find(|path| !self.selected.contains_key(*path)) {
            return Err(Error::argument(path, "is not among the trained parameters"));
        }
        let cast = |(path, param): (&String, &&'a Param)| {
            let value = values.get(path).ok_or_else(|| Error::argument(path, "has no value"))?;
            if value.shape() != param.shape() {
                let problem = format!("the shape {:?} where {:?} is expected", value.shape(), param.shape());
                return Err(Error::argument(path, problem));
            }
            Ok((*param, value.as_dtype(param.dtype())?))
        };
        self.selected.iter().map(cast).collect()
    }

    /// The other parameters' values, in the order of their paths.
    pub(super) fn constants(&self) -> Vec<Array> {
        self.frozen.values().map(|param| param.get()).collect()
    }

    /// Puts arrays in the place of the other parameters until the result is dropped.
    pub(super) fn with_constants(&self, values: impl IntoIterator<Item = Array>) -> Swapped<'a> {
        Swapped::new(self.frozen.values().copied().zip(values))
    }

    /// The paths below `block` of its trained parameters.
    pub(super) fn trained_in(&self, block: &dyn Module) -> Vec<String> {
        let trained: BTreeSet<*const Param> = self.selected.values().map(|&param| std::ptr::from_ref(param)).collect();
        let own = params(block).into_iter();
        own.filter(|(_, param)| trained.contains(&std::ptr::from_ref(*param))).map(|(path, _)| path).collect()
    }
}

/// Changes the dtype of every parameter of floats that satisfies the predicate: bf16 for a step that computes in bf16 with
/// the [`State`](super::State)'s f32 parameters, which is begun before. Packed weights stay as they are.
pub fn cast(module: &dyn Module, dtype: Dtype, mut select: impl FnMut(&str) -> bool) -> Result<()> {
    let packed = packed(module);
    for (path, param) in params(module) {
        if is_float(param.dtype()) && !packed.contains(&path) && select(&path) {
            param.replace(param.get().as_dtype(dtype)?);
        }
    }
    Ok(())
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float64 | Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

/// The paths of the parameters that are parts of packed matrices.
fn packed(module: &dyn Module) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(module, &mut |path, leaf| {
        let weight = match leaf {
            Leaf::Linear(linear) => &linear.weight,
            Leaf::Embedding(embedding) => &embedding.weight,
            Leaf::Branch | Leaf::Param(_) => return,
        };
        if matches!(weight, Weight::Affine(_)) {
            weight.each(&mut |name, _| {
                found.insert(join(path, name));
            });
        }
    });
    found
}

/// Parameters that hold other arrays for a while; dropped, they hold their own again.
pub(super) struct Swapped<'p>(Vec<(&'p Param, Array)>);

impl<'p> Swapped<'p> {
    pub fn new(pairs: impl IntoIterator<Item = (&'p Param, Array)>) -> Self {
        Self(pairs.into_iter().map(|(param, value)| (param, param.replace(value))).collect())
    }
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        for (param, value) in self.0.drain(..) {
            param.replace(value);
        }
    }
}
