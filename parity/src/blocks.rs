//! The framework's own blocks as families, so that they are loaded, called and observed as every model is.
//!
//! `fixtures/README.md` says what each takes; its references are float64 twins in NumPy.

use framework::weights::WeightMap;
use framework::{
    Array, Attention, Block, Cross, Embedding, Glu, GroupNorm, Init, LayerNorm, Linear, Mlp, Moe, RmsNorm, Rope,
};
use framework::{Leaf, LeafMut, Module, Sandwich, SpatialTransformer};
use serde::de::DeserializeOwned;
use zoo::registry::{Layout, entry, json_config};
use zoo::{Arguments, Entry, Error, Family, Outputs, Result};

mod attention;
mod block;
mod cross;
mod layers;
mod moe;
mod norms;
mod rope;

use attention::Attend;

/// All of them.
pub const BLOCKS: &[Entry] = &[
    entry::<Built<RmsNorm>>(),
    entry::<Built<LayerNorm>>(),
    entry::<Built<GroupNorm>>(),
    entry::<Built<Linear>>(),
    entry::<Built<Embedding>>(),
    entry::<Built<Mlp>>(),
    entry::<Built<Glu>>(),
    entry::<Built<Moe>>(),
    entry::<Built<Rope>>(),
    entry::<Built<Attend>>(),
    entry::<Built<Attention>>(),
    entry::<Built<Block>>(),
    entry::<Built<Sandwich>>(),
    entry::<Built<Cross>>(),
    entry::<Built<SpatialTransformer>>(),
];

/// How a block is built from the fields of a case, and called with its inputs.
trait Twin: Module + Send + Sized + 'static {
    /// `framework.` and the class.
    const NAMES: &'static [&'static str];
    /// The fields.
    type Config: DeserializeOwned + Clone + Send + 'static;

    fn build(config: &Self::Config, init: &mut Init) -> framework::Result<Self>;

    fn forward(&self, config: &Self::Config, inputs: &mut Arguments) -> Result<Array>;
}

/// A block with the fields that it was built from; its parameters are the block's.
struct Built<T: Twin> {
    block: T,
    config: T::Config,
}

impl<T: Twin> Module for Built<T> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.block.each(f);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.block.each_mut(f);
    }
    fn leaf(&self) -> Leaf<'_> {
        self.block.leaf()
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        self.block.leaf_mut()
    }
}

impl<T: Twin> Family for Built<T> {
    const NAMES: &'static [&'static str] = T::NAMES;
    const IGNORED: &'static [(&'static str, &'static str)] = &[];
    type Config = T::Config;
    type Model = Self;

    fn build(config: &T::Config, init: &mut Init) -> framework::Result<Self> {
        Ok(Self { block: T::build(config, init)?, config: config.clone() })
    }

    fn layouts() -> &'static [Layout<T::Config>] {
        const { &[Layout { name: "framework", config: json_config::<Self>, map: |_| WeightMap::identity() }] }
    }

    fn call(model: &Self, method: &str, inputs: &mut Arguments) -> Result<Outputs> {
        match method {
            "forward" => Ok(vec![("0".into(), model.block.forward(&model.config, inputs)?)]),
            _ => Err(Error::argument("method", format!("`{method}` is not one of this block's: forward"))),
        }
    }
}
