//! The family whose config is the architecture.

use super::{ComposedConfig, ComposedTransformer, build};
use crate::{
    Arguments, Outputs, Result,
    arguments::forward_only,
    registry::{Checkpoint, Family, Layout, json_config},
};
use framework::{
    Init,
    weights::{self, Config, Header, WeightMap},
};
use serde_json::Value;

/// The family.
pub struct Composed;

impl Family for Composed {
    const NAMES: &'static [&'static str] = &["composed", "ComposedTransformer"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[];
    type Config = ComposedConfig;
    type Model = ComposedTransformer;

    fn build(config: &ComposedConfig, init: &mut Init) -> framework::Result<ComposedTransformer> {
        build::build(config, init)
    }

    /// The names in a file are the model's own paths.
    fn layouts() -> &'static [Layout<ComposedConfig>] {
        &[Layout {
            name: "composed",
            config: json_config::<Composed>,
            map: |_| WeightMap::default().rename("{p:*}", "{p:*}"),
        }]
    }

    /// `forward`: the inputs by the names that the config gives them → the output by its name.
    fn call(model: &ComposedTransformer, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let take = |name: &str| Ok((name.to_owned(), arguments.take(name)?));
        let inputs = model.inputs().into_iter().map(take).collect::<Result<_>>()?;
        arguments.finish()?;
        Ok(vec![(model.output().to_owned(), model.forward(&inputs)?)])
    }
}

/// More tensors than any model has: a config may ask for any number of blocks.
const MOST: usize = 1 << 16;

/// Names and shapes of the weights that a config asks for, before there are any.
///
/// # Errors
/// A config that cannot be built.
pub fn header(config: &Value) -> Result<Header> {
    let none = Header::default();
    let checkpoint = Checkpoint { config: Config::Json(config.clone()), header: &none, tensors: None };
    match json_config::<Composed>(&checkpoint)? {
        Some(config) => Ok(weights::header(&Composed::build(&config, &mut Init::default().at_most(MOST))?)?),
        None => Ok(none),
    }
}
