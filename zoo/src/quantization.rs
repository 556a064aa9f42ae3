//! What MLX's tools write into a `config.json` about packed weights: bits, group and mode, and where a path differs.
//!
//! Bits and group follow from the shapes in a file; a config that says otherwise belongs to another file.

use crate::{Error, Result};
use framework::weights::{Header, Stored};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The key that mlx-lm reads.
const KEY: &str = "quantization";
/// The key that transformers reads, which mlx-lm writes too.
const TWIN: &str = "quantization_config";

/// Bits an element, and elements that share a scale and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u64,
    /// 32, 64 or 128.
    pub group: u64,
}

impl Packing {
    /// A config that says that its weights are packed like this.
    pub fn write(self, config: &mut Map<String, Value>) {
        let said = json!({"group_size": self.group, "bits": self.bits, "mode": "affine"});
        config.insert(KEY.into(), said.clone());
        config.insert(TWIN.into(), said);
    }
}

/// How the weights of a file are packed, as its config says.
#[derive(Debug, PartialEq)]
struct Quantization {
    common: Packing,
    /// Modules that differ; nothing for one that is dense.
    paths: BTreeMap<String, Option<Packing>>,
}

/// Holds what a config says of packed weights against a file.
///
/// # Errors
/// When the weights are packed in a way that is not read here, or are not those of the config.
pub fn check(config: &Value, header: &Header) -> Result<()> {
    read(config)?.map_or(Ok(()), |said| said.check(header))
}

fn read(config: &Value) -> Result<Option<Quantization>> {
    let said = |key| config.get(key).filter(|value| !value.is_null());
    let (key, value) = match (said(KEY), said(TWIN)) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one != other => {
            return refused(TWIN, "says something else than `quantization`; delete the one that is not this file's");
        }
        (Some(value), _) => (KEY, value),
        (None, Some(value)) => (TWIN, value),
    };
    if let Some(method) = value.get("quant_method") {
        let problem = format!(
            "the weights were packed by {method}, which is not read here; fetch the model unpacked, or as MLX's tools \
             pack it"
        );
        return refused(&format!("{key}.quant_method"), problem);
    }
    let Some(fields) = value.as_object() else {
        return refused(key, format!("{value} is no object with `bits` and `group_size`"));
    };
    let common = packing(key, fields, Packing { bits: 4, group: 64 })?;
    let mut paths = BTreeMap::new();
    for (path, value) in fields.iter().filter(|(path, _)| !["bits", "group_size", "mode"].contains(&path.as_str())) {
        let own = match value {
            Value::Bool(true) => Some(common),
            Value::Bool(false) => None,
            Value::Object(fields) => Some(packing(&format!("{key}.{path}"), fields, common)?),
            other => return refused(&format!("{key}.{path}"), format!("{other} is neither a flag nor an object")),
        };
        paths.insert(path.clone(), own);
    }
    Ok(Some(Quantization { common, paths }))
}

fn packing(key: &str, fields: &Map<String, Value>, default: Packing) -> Result<Packing> {
    if let Some(mode) = fields.get("mode").filter(|mode| *mode != "affine" && !mode.is_null()) {
        let problem = format!("{mode} is not read here, `affine` is; convert the model with `--q-mode affine`");
        return refused(&format!("{key}.mode"), problem);
    }
    let number = |name: &str, default| match fields.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(number),
            None => refused(&format!("{key}.{name}"), format!("{value} is not a number")),
        },
    };
    Ok(Packing { bits: number("bits", default.bits)?, group: number("group_size", default.group)? })
}

fn refused<T>(key: &str, problem: impl Into<String>) -> Result<T> {
    Err(Error::Framework(framework::Error::config(key, problem)))
}

impl Quantization {
    fn check(&self, header: &Header) -> Result<()> {
        let info = |module: &str, leaf: &str| header.tensors.get(&format!("{module}.{leaf}"));
        for (module, _) in self.paths.iter().filter(|(_, own)| own.is_some()) {
            if info(module, "scales").is_none() {
                return refused(&format!("{KEY}.{module}"), "the file has no packed weight of that name");
            }
        }
        for module in header.tensors.keys().filter_map(|name| name.strip_suffix(".scales")) {
            let (Some(weight), Some(scales)) = (info(module, "weight"), info(module, "scales")) else { continue };
            let (Some(&words), Some(&groups)) = (weight.shape.last(), scales.shape.last()) else { continue };
            if weight.dtype != Stored::U32 {
                continue;
            }
            let own = self.paths.get(module).copied().unwrap_or(Some(self.common));
            let Some(Packing { bits, group }) = own else {
                return refused(&format!("{KEY}.{module}"), "is said to be dense, and is packed in the file");
            };
            let columns = (groups as u64).saturating_mul(group);
            if columns.checked_mul(bits) != (words as u64).checked_mul(32) {
                let problem = format!(
                    "`{module}` has {words} words and {groups} scales a row, which are not {bits} bits in groups of \
                     {group}; the config is of another file"
                );
                return refused(KEY, problem);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::weights::Info;

    fn header(modules: &[(&str, usize, usize)]) -> Header {
        let mut header = Header::default();
        for (module, words, groups) in modules {
            let mut add = |leaf: &str, dtype, last: usize| {
                header.tensors.insert(format!("{module}.{leaf}"), Info { dtype, shape: vec![8, last] });
            };
            add("weight", Stored::U32, *words);
            add("scales", Stored::BF16, *groups);
            add("biases", Stored::BF16, *groups);
        }
        header
    }

    fn problem(config: Value) -> String {
        check(&config, &header(&[("a", 8, 2), ("b", 16, 2)])).unwrap_err().to_string()
    }

    #[test]
    fn each_path_is_held_against_the_file() {
        let config = json!({"quantization": {
            "group_size": 32, "bits": 4, "mode": "affine", "b": {"group_size": 32, "bits": 8}, "c": false,
        }});
        check(&config, &header(&[("a", 8, 2), ("b", 16, 2)])).unwrap();
        check(&json!({}), &header(&[("a", 8, 2)])).unwrap();
        check(&json!({"quantization": {}}), &header(&[("a", 16, 2)])).unwrap(); // MLX's own: 4 bits, groups of 64
    }

    #[test]
    fn what_is_packed_otherwise_is_refused_by_its_key() {
        let like = |more: Value| {
            let mut said = json!({"group_size": 32, "bits": 4, "b": {"bits": 8}});
            said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            problem(json!({"quantization": said}))
        };
        for (found, expected) in [
            (like(json!({"b": true})), "`b` has 16 words and 2 scales a row, which are not 4 bits in groups of 32"),
            (like(json!({"bits": 3})), "`a` has 8 words"),
            (like(json!({"a": false})), "`quantization.a`: is said to be dense"),
            (like(json!({"d": {"bits": 4}})), "`quantization.d`: the file has no packed weight"),
            (like(json!({"mode": "mxfp4"})), "`quantization.mode`: \"mxfp4\" is not read here, `affine` is"),
            (like(json!({"a": {"mode": "nvfp4"}})), "`quantization.a.mode`: \"nvfp4\""),
            (like(json!({"bits": "4"})), "`quantization.bits`: \"4\" is not a number"),
            (like(json!({"a": 4})), "`quantization.a`: 4 is neither"),
            (like(json!({"bits": u64::MAX})), "are not 18446744073709551615 bits"),
            (problem(json!({"quantization": 4})), "`quantization`: 4 is no object"),
            (problem(json!({"quantization_config": {"quant_method": "gptq"}})), "packed by \"gptq\""),
            (problem(json!({"quantization": {}, "quantization_config": {"bits": 8}})), "says something else"),
        ] {
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }
}
