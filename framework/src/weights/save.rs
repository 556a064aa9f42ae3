//! Saving in the layout of the reference: the same map, backwards.

use crate::{
    Error, Module, Param, Result,
    weights::{
        evaluate::{evaluate, info, to_bytes},
        header::Header,
        map::WeightMap,
        safetensors,
    },
};
use std::{borrow::Cow, collections::BTreeMap, path::Path};

/// Names, shapes and dtypes of a model's parameters as a file would hold them.
pub fn header(model: &dyn Module) -> Result<Header> {
    let describe = |(path, param): (String, &Param)| Ok((path, info(&param.get())?));
    let tensors = crate::params(model).into_iter().map(describe).collect::<Result<_>>()?;
    Ok(Header { tensors, metadata: BTreeMap::new() })
}

/// Writes a model as a `.safetensors` file in the layout that `map` reads: packed weights stay packed, a tensor at a
/// time is in memory, and the file appears when it is complete.
///
/// The header of a checkpoint in that layout, if there is one, says which of several tied names is written, and the
/// sizes of joins that the map does not state.
///
/// # Errors
/// [`Error::Rule`] for a rule without an inverse, errors of the directory.
pub fn save(model: &dyn Module, map: &WeightMap, reference: Option<&Header>, path: &Path) -> Result<()> {
    let inverse = reference.map_or_else(|| map.invert(), |reference| map.invert_like(reference))?;
    let forward = inverse.forward(&header(model)?)?;
    if !forward.coverage.is_empty() {
        return Err(Error::Coverage(Box::new(forward.coverage)));
    }
    let params = crate::params(model);
    let format = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    let tensors = forward.produced.iter().map(|(name, produced)| (name.clone(), produced.info.clone())).collect();
    safetensors::stream(path, &Header { tensors, metadata: format }, |name| {
        let unknown = || Error::argument(name, "is not among the parameters");
        let produced = forward.produced.get(name).ok_or_else(unknown)?;
        let value = evaluate(&produced.expr, &mut |path| params.get(path).map(|p| p.get()).ok_or_else(unknown))?;
        Ok(Cow::Owned(to_bytes(&value)?.1))
    })
}
