//! A call by upstream's names: what parity and tracing hand to a model.

use crate::{Error, Result};
use framework::{Array, KvCache};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a method returned, by upstream's names.
pub type Outputs = Vec<(String, Array)>;

/// The arguments of one call. A family takes each by name; what it does not take is an error, so nothing is ignored.
#[derive(Debug, Default)]
pub struct Arguments {
    arrays: BTreeMap<String, Array>,
    values: BTreeMap<String, Value>,
    /// What lives from call to call.
    pub state: State,
}

/// The state of a sequence of calls: the caches of a decoder's layers.
pub type State = Vec<KvCache>;

impl Arguments {
    /// Adds a tensor; nested ones have dotted names, `added_cond_kwargs.time_ids`.
    pub fn array(&mut self, name: impl Into<String>, value: Array) {
        self.arrays.insert(name.into(), value);
    }

    /// Adds anything else.
    pub fn value(&mut self, name: impl Into<String>, value: Value) {
        self.values.insert(name.into(), value);
    }

    /// Takes a tensor that the method needs.
    ///
    /// # Errors
    /// When it was not given.
    pub fn take(&mut self, name: &str) -> Result<Array> {
        self.take_optional(name).ok_or_else(|| Error::argument(name, "is needed, and was not given"))
    }

    /// Takes a tensor that the method can do without.
    pub fn take_optional(&mut self, name: &str) -> Option<Array> {
        if self.values.get(name) == Some(&Value::Null) {
            self.values.remove(name);
        }
        self.arrays.remove(name)
    }

    /// Takes anything that is not a tensor, if it was given; null is nothing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::deserialize(&value) {
                Ok(fit) => Ok(Some(fit)),
                Err(error) => Err(Error::argument(name, format!("{value} does not fit: {error}"))),
            },
        }
    }

    /// Takes a flag.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// Takes a whole number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&mut self, name: &str, default: i64) -> Result<i64> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// Takes `attention_mask` `[B, L]`, whose zeros are padding among the tokens `ids` `[B, L]`.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn padding(&mut self, ids: &Array) -> Result<Option<Array>> {
        let mask = self.take_optional("attention_mask");
        match &mask {
            Some(mask) if mask.shape() != ids.shape() => {
                let problem = format!("shape {:?} where the tokens are {:?}", mask.shape(), ids.shape());
                Err(Error::argument("attention_mask", problem))
            }
            _ => Ok(mask),
        }
    }

    /// Checks that everything was taken.
    ///
    /// # Errors
    /// Names what was not.
    pub fn finish(&mut self) -> Result<()> {
        let left: Vec<String> = self.arrays.keys().chain(self.values.keys()).cloned().collect();
        match left.first() {
            None => Ok(()),
            Some(first) => Err(Error::argument(first, format!("this method does not take {}", left.join(", ")))),
        }
    }
}

/// Checks the method of a model that has one.
///
/// # Errors
/// When it is another.
pub(crate) fn forward_only(method: &str) -> Result<()> {
    match method {
        "forward" => Ok(()),
        _ => Err(Error::argument("method", format!("`{method}` is not one of this model's: forward"))),
    }
}
