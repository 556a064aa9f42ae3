//! Structure: what every block is, and the walks that all generic passes are.

use crate::{Embedding, Linear, Param};
use std::collections::BTreeMap;

/// A node of a model's tree: it lists its immediate children by name.
///
/// There is no `forward` here: forwards differ by role and are inherent methods, or methods of a role's trait.
/// [`module!`](crate::module!) writes the implementation from the field names.
pub trait Module {
    /// Offers every child with its name.
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module));
    /// Offers every child with its name, mutably.
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module));
    /// What a generic pass must recognise in this node.
    fn leaf(&self) -> Leaf<'_> {
        Leaf::Branch
    }
    /// As [`leaf`](Module::leaf), mutably.
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        LeafMut::Branch
    }
}

/// The nodes that generic passes act on. Everything else is a branch.
pub enum Leaf<'a> {
    /// A node with children only.
    Branch,
    /// A tensor.
    Param(&'a Param),
    /// A place where a stored matrix is multiplied: quantisation and adapters act here.
    Linear(&'a Linear),
    /// A table of rows: quantisation acts here.
    Embedding(&'a Embedding),
}

/// [`Leaf`], mutably.
pub enum LeafMut<'a> {
    /// A node with children only.
    Branch,
    /// A tensor.
    Param(&'a mut Param),
    /// A place where a stored matrix is multiplied.
    Linear(&'a mut Linear),
    /// A table of rows.
    Embedding(&'a mut Embedding),
}

/// Joins a path and a name with a dot.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Visits a module and everything below it, parents first, with the path of each.
pub fn walk<'a>(module: &'a dyn Module, f: &mut dyn FnMut(&str, Leaf<'a>)) {
    fn down<'a>(module: &'a dyn Module, path: &str, f: &mut dyn FnMut(&str, Leaf<'a>)) {
        f(path, module.leaf());
        module.each(&mut |name, child| down(child, &join(path, name), f));
    }
    down(module, "", f);
}

/// As [`walk`], mutably.
pub fn walk_mut(module: &mut dyn Module, f: &mut dyn FnMut(&str, LeafMut<'_>)) {
    fn down(module: &mut dyn Module, path: &str, f: &mut dyn FnMut(&str, LeafMut<'_>)) {
        f(path, module.leaf_mut());
        module.each_mut(&mut |name, child| down(child, &join(path, name), f));
    }
    down(module, "", f);
}

/// Every parameter by path, in alphabetical order.
pub fn params(module: &dyn Module) -> BTreeMap<String, &Param> {
    let mut found = BTreeMap::new();
    walk(module, &mut |path, leaf| {
        if let Leaf::Param(param) = leaf {
            found.insert(path.to_owned(), param);
        }
    });
    found
}

impl<M: Module> Module for Vec<M> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        for (index, module) in self.iter().enumerate() {
            f(&index.to_string(), module);
        }
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        for (index, module) in self.iter_mut().enumerate() {
            f(&index.to_string(), module);
        }
    }
}

/// Transparent: an absent part has no children, a present one adds no segment to the path.
impl<M: Module> Module for Option<M> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        if let Some(module) = self {
            module.each(f);
        }
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        if let Some(module) = self {
            module.each_mut(f);
        }
    }
    fn leaf(&self) -> Leaf<'_> {
        self.as_ref().map_or(Leaf::Branch, Module::leaf)
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        self.as_mut().map_or(LeafMut::Branch, Module::leaf_mut)
    }
}

/// Transparent.
impl<M: Module + ?Sized> Module for Box<M> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        (**self).each(f);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        (**self).each_mut(f);
    }
    fn leaf(&self) -> Leaf<'_> {
        (**self).leaf()
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        (**self).leaf_mut()
    }
}

/// Implements [`Module`] from field names, which thereby become the path of parameters, adapters, taps and errors.
///
/// ```
/// use framework::{AnyNorm, Attention, Norm, Param, module};
/// struct Pooler<N = AnyNorm> {
///     query: Param,
///     norm: N,
/// }
/// module! { impl[N: Norm] Pooler<N> { query, norm } }
///
/// // An enum is transparent: its variant is not a segment of the path.
/// enum Mixer {
///     Attention(Attention),
///     Pool(Pooler),
/// }
/// module! { enum[] Mixer { Mixer::Attention, Mixer::Pool } }
///
/// // Where some variants have no part, `..` stands for them.
/// enum Pooling {
///     Learned(Pooler),
///     Mean,
/// }
/// module! { enum[] Pooling { Pooling::Learned, .. } }
///
/// // The named fields of a variant are segments.
/// enum Gate {
///     Own { gate: Param },
///     Shared { gate: Param, up: Param },
/// }
/// module! { fields[] Gate { Own { gate }, Shared { gate, up } } }
/// ```
#[macro_export]
macro_rules! module {
    (impl [$($generics:tt)*] $type:ty { $($field:ident),* $(,)? }) => {
        impl<$($generics)*> $crate::Module for $type {
            fn each<'a>(&'a self, _f: &mut dyn FnMut(&str, &'a dyn $crate::Module)) {
                $(_f(stringify!($field), &self.$field);)*
            }
            fn each_mut(&mut self, _f: &mut dyn FnMut(&str, &mut dyn $crate::Module)) {
                $(_f(stringify!($field), &mut self.$field);)*
            }
        }
    };
    (fields [$($generics:tt)*] $type:ty { $($variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl<$($generics)*> $crate::Module for $type {
            fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn $crate::Module)) {
                match self { $(Self::$variant { $($field),* } => { $(f(stringify!($field), $field);)* })* }
            }
            fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn $crate::Module)) {
                match self { $(Self::$variant { $($field),* } => { $(f(stringify!($field), $field);)* })* }
            }
        }
    };
    (enum [$($generics:tt)*] $type:ty { $($variant:path),* $(,)? }) => {
        $crate::module! { @enum [$($generics)*] $type { $($variant),* } }
    };
    (enum [$($generics:tt)*] $type:ty { $($variant:path),* , .. }) => {
        $crate::module! { @enum [$($generics)*] $type { $($variant),* } _ }
    };
    (@enum [$($generics:tt)*] $type:ty { $($variant:path),* } $($rest:tt)?) => {
        impl<$($generics)*> $crate::Module for $type {
            fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn $crate::Module)) {
                match self { $($variant(part) => $crate::Module::each(part, f),)* $($rest => {})? }
            }
            fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn $crate::Module)) {
                match self { $($variant(part) => $crate::Module::each_mut(part, f),)* $($rest => {})? }
            }
            fn leaf(&self) -> $crate::Leaf<'_> {
                match self { $($variant(part) => $crate::Module::leaf(part),)* $($rest => $crate::Leaf::Branch)? }
            }
            fn leaf_mut(&mut self) -> $crate::LeafMut<'_> {
                match self { $($variant(part) => $crate::Module::leaf_mut(part),)* $($rest => $crate::LeafMut::Branch)? }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;

    struct Pair {
        left: Option<Param>,
        right: Vec<Linear>,
    }
    module! { impl[] Pair { left, right } }

    #[test]
    fn paths_are_field_names() {
        let mut init = Init::default();
        let pair = Pair { left: None, right: vec![Linear::new(2, 3, true, &mut init).unwrap()] };
        let names: Vec<String> = params(&pair).into_keys().collect();
        assert_eq!(names, ["right.0.bias", "right.0.weight"]);
    }

    #[test]
    fn absent_parts_have_no_name_and_present_ones_no_segment() {
        let mut init = Init::default();
        let pair = Pair { left: Some(init.constant(&[2], 1.0).unwrap()), right: vec![] };
        assert!(params(&pair).contains_key("left"));
    }
}
