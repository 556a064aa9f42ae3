//! The arguments of one call: JSON values and tensors in one tree, nested as the reference takes them.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::npy::Stored;

/// An argument, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`.
    Null,
    /// A flag.
    Bool(bool),
    /// A number, integer or not as the reference was given it.
    Number(serde_json::Number),
    /// A string.
    String(String),
    /// A list or tuple.
    List(Vec<Value>),
    /// A dictionary or an object's fields.
    Map(BTreeMap<String, Value>),
    /// A tensor, still in its file.
    Tensor(Stored),
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(flag) => Self::Bool(flag),
            Json::Number(number) => Self::Number(number),
            Json::String(text) => Self::String(text),
            Json::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Json::Object(fields) => Self::Map(fields.into_iter().map(|(key, value)| (key, value.into())).collect()),
        }
    }
}

impl Value {
    /// The value as JSON; `None` when it is or holds a tensor.
    pub fn json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Number(number) => Json::Number(number.clone()),
            Self::String(text) => Json::String(text.clone()),
            Self::List(items) => Json::Array(items.iter().map(Self::json).collect::<Option<_>>()?),
            Self::Map(fields) => {
                let fields = fields.iter().map(|(key, value)| Some((key.clone(), value.json()?)));
                Json::Object(fields.collect::<Option<_>>()?)
            }
            Self::Tensor(_) => return None,
        })
    }

    /// The part under a dictionary's key or a list's index.
    pub(crate) fn part_mut(&mut self, part: &str) -> Option<&mut Self> {
        match self {
            Self::Map(fields) => fields.get_mut(part),
            Self::List(items) => items.get_mut(part.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Puts a tensor at `path` (dictionary keys and list indices). A `null` on the way is a hole to
    /// fill; lists grow one by one, so indices must arrive in ascending order.
    ///
    /// # Errors
    /// What is already there, or which index a list lacks.
    pub(crate) fn place(&mut self, path: &[&str], tensor: Stored) -> Result<(), String> {
        let Some((first, rest)) = path.split_first() else {
            return match self {
                Self::Null => {
                    *self = Self::Tensor(tensor);
                    Ok(())
                }
                _ => Err("another argument stands in its place".into()),
            };
        };
        if let Self::Null = self {
            *self = match first.parse::<usize>() {
                Ok(_) => Self::List(Vec::new()),
                Err(_) => Self::Map(BTreeMap::new()),
            };
        }
        match self {
            Self::Map(fields) => fields.entry((*first).to_owned()).or_insert(Self::Null).place(rest, tensor),
            Self::List(items) => {
                let index: usize = first.parse().map_err(|_| format!("`{first}` indexes a list"))?;
                if index == items.len() {
                    items.push(Self::Null);
                }
                match items.get_mut(index) {
                    Some(item) => item.place(rest, tensor),
                    None => Err(format!("the list has no element {} before it", items.len())),
                }
            }
            _ => Err(format!("`{first}` is inside an argument that is not a list or dictionary")),
        }
    }
}

/// The segments of a dotted name, ordered so that list indices ascend as numbers.
pub(crate) fn natural(name: &str) -> Vec<(Option<usize>, &str)> {
    name.split('.').map(|segment| (segment.parse().ok(), segment)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;
    use serde_json::json;

    fn tensor(name: &str) -> Stored {
        Stored { file: name.into(), shape: vec![1], dtype: Dtype::Float32 }
    }

    fn built(arguments: Json, names: &[&str]) -> Result<Value, String> {
        let mut root = Value::from(arguments);
        let mut names = names.to_vec();
        names.sort_by_key(|name| natural(name));
        for name in names {
            root.place(&name.split('.').collect::<Vec<_>>(), tensor(name))?;
        }
        Ok(root)
    }

    #[test]
    fn tensors_join_the_json_values() {
        let names = ["x", "cond.pooled", "images.1", "images.0", "pair.0"];
        let root = built(json!({"flag": true, "cond": {"scale": 2}, "pair": [null, 3]}), &names);
        let Value::Map(root) = root.unwrap() else { panic!("not a map") };
        assert_eq!(root["flag"], Value::Bool(true));
        assert_eq!(root["x"], Value::Tensor(tensor("x")));
        assert_eq!(
            root["images"],
            Value::List(["images.0", "images.1"].map(|name| Value::Tensor(tensor(name))).to_vec())
        );
        let Value::Map(cond) = &root["cond"] else { panic!("not a map") };
        assert_eq!(cond["pooled"], Value::Tensor(tensor("cond.pooled")));
        assert_eq!(cond["scale"], Value::Number(2.into()));
        let pair = [Value::Tensor(tensor("pair.0")), Value::Number(3.into())];
        assert_eq!(root["pair"], Value::List(pair.to_vec()));
    }

    #[test]
    fn what_holds_no_tensor_is_json_again() {
        let json = json!({"a": [1, 2.5, "x", null, {"b": true}]});
        assert_eq!(Value::from(json.clone()).json(), Some(json.clone()));
        assert_eq!(built(json, &["c.d"]).unwrap().json(), None);
    }

    #[test]
    fn a_list_of_more_than_ten_keeps_its_order() {
        let names: Vec<String> = (0..12).map(|i| format!("x.{i}")).collect();
        let root = built(json!({}), &names.iter().map(String::as_str).collect::<Vec<_>>());
        let Value::Map(root) = root.unwrap() else { panic!("not a map") };
        let Value::List(items) = &root["x"] else { panic!("not a list") };
        assert_eq!(items[10], Value::Tensor(tensor("x.10")));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(built(json!({"x": 1}), &["x"]).is_err());
        assert!(built(json!({"x": 1}), &["x.y"]).is_err());
        assert!(built(json!({"x": [1]}), &["x.y"]).is_err());
        assert!(built(json!({}), &["x.1"]).is_err());
        assert!(built(json!({}), &["x", "x.y"]).is_err());
    }
}
