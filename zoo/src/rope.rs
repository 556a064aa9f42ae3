//! Rotary embeddings as upstream's configs spell them.

use crate::{Error, Result, registry::Checkpoint};
use framework::{
    Dtype, Layout, Rope, Scaling, math,
    weights::{Tensors, evaluate::from_bytes, gguf::Metadata},
};
use serde::Deserialize as _;
use serde_json::{Map, Value};

/// The keys of a transformers config that describe its rope: `rope_parameters`, or since before version 5 `rope_theta`
/// and `rope_scaling`.
#[derive(Clone, Copy, Debug)]
pub struct RopeKeys<'a> {
    /// θ.
    pub theta: Option<f64>,
    /// The scaling, in the old spelling.
    pub scaling: Option<&'a Map<String, Value>>,
    /// Both, in the new spelling.
    pub parameters: Option<&'a Map<String, Value>>,
    /// Which share of a head rotates, where neither says so.
    pub share: Option<f64>,
}

impl RopeKeys<'_> {
    /// The rope over heads of `head_dim` features of a model with the given context.
    ///
    /// # Errors
    /// When a type of scaling is unknown or lacks a key; names it.
    pub fn rope(&self, head_dim: i32, context: i32) -> framework::Result<Rope> {
        let mut keys = self.parameters.or(self.scaling).cloned().unwrap_or_default();
        let none = || framework::Error::config("rope_theta", "is missing: the base of the rope");
        let theta = number(&mut keys, "rope_theta")?.or(self.theta).ok_or_else(none)?;
        let share = match keys.get("rope_type").or(keys.get("type")).and_then(Value::as_str) {
            // Proportional frequencies are those of the whole head.
            Some("proportional") => 1.0,
            _ => number(&mut keys, "partial_rotary_factor")?.or(self.share).unwrap_or(1.0),
        };
        let dims = (f64::from(head_dim) * share) as i32;
        let scaling = scaling(keys, context)?;
        let rope = Rope { scaling, ..Rope::new(dims, theta, Layout::HalfSplit) };
        rope.validate()?;
        Ok(rope)
    }
}

/// Takes a number that may be absent.
fn number(keys: &mut Map<String, Value>, key: &str) -> framework::Result<Option<f64>> {
    match keys.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let none =
                || framework::Error::config(format!("rope_parameters.{key}"), format!("{value} is not a number"));
            value.as_f64().map(Some).ok_or_else(none)
        }
    }
}

fn scaling(mut keys: Map<String, Value>, context: i32) -> framework::Result<Scaling> {
    // The spelling before `rope_type`.
    if let Some(old) = keys.remove("type") {
        keys.entry("rope_type").or_insert(old);
    }
    let refused = |problem: String| framework::Error::config("rope_parameters", problem);
    let kind = match keys.get("rope_type") {
        Some(Value::String(kind)) => kind.clone(),
        None if keys.is_empty() => return Ok(Scaling::Default),
        None => return Err(refused("`rope_type` is missing, and says what the other keys mean".into())),
        Some(other) => return Err(refused(format!("rope_type {other} is not a text"))),
    };
    if kind == "default" && keys.len() > 1 {
        keys.remove("rope_type");
        let unread: Vec<&str> = keys.keys().map(String::as_str).collect();
        return Err(refused(format!("rope_type `default` does not use {}", unread.join(", "))));
    }
    let original = keys.get("original_max_position_embeddings").and_then(Value::as_f64);
    let fill = |keys: &mut Map<String, Value>, key: &str, value: f64| {
        keys.entry(key).or_insert(value.into());
    };
    match kind.as_str() {
        // transformers takes the model's context where a scaling does not name the length of training.
        "dynamic" => fill(&mut keys, "max_position_embeddings", original.unwrap_or(context.into())),
        "yarn" => fill(&mut keys, "original_max_position_embeddings", context.into()),
        "longrope" => fill(&mut keys, "factor", f64::from(context) / original.unwrap_or(context.into())),
        _ => {}
    }
    if kind == "dynamic" {
        keys.remove("original_max_position_embeddings");
    }
    Scaling::deserialize(Value::Object(keys)).map_err(|error| refused(format!("rope_type `{kind}`: {error}")))
}

/// The rope of a GGUF file, in the spelling of transformers' `rope_parameters`; `prefix` is the architecture's.
///
/// llama.cpp stores Llama 3's scaling as divisors of the frequencies, in a tensor.
///
/// # Errors
/// When the type of scaling is unknown, or a key that it needs is missing.
pub fn gguf_parameters(checkpoint: &Checkpoint<'_>, metadata: &Metadata, prefix: &str) -> Result<Map<String, Value>> {
    let key = |name: &str| format!("{prefix}.rope.{name}");
    let mut parameters = Map::new();
    let mut set = |name: &str, value: Value| drop(parameters.insert(name.into(), value));
    if metadata.has(&key("freq_base")) {
        set("rope_theta", f64::from(metadata.f32(&key("freq_base"))?).into());
    }
    let kind = if metadata.has(&key("scaling.type")) { metadata.str(&key("scaling.type"))? } else { "none" };
    let factor = || Ok::<_, Error>(Value::from(f64::from(metadata.f32(&key("scaling.factor"))?)));
    match (kind, checkpoint.header.tensors.get(DIVISORS)) {
        ("none", Some(info)) => {
            let divisors: Value = match checkpoint.tensors {
                Some(tensors) => floats(tensors)?.into(),
                None => vec![1.0; info.elements().unwrap_or(0)].into(),
            };
            set("rope_type", "longrope".into());
            set("short_factor", divisors.clone());
            set("long_factor", divisors);
            set("original_max_position_embeddings", metadata.u64(&format!("{prefix}.context_length"))?.into());
            set("attention_factor", 1.0.into());
        }
        ("none", None) => {}
        ("linear", None) => {
            set("rope_type", "linear".into());
            set("factor", factor()?);
        }
        ("yarn", None) => {
            set("rope_type", "yarn".into());
            set("factor", factor()?);
            let original = metadata.u64(&key("scaling.original_context_length"))?;
            set("original_max_position_embeddings", original.into());
        }
        (other, _) => {
            let problem = format!("`{other}` is not known here; none, linear and yarn are");
            return Err(Error::argument(key("scaling.type"), problem));
        }
    }
    Ok(parameters)
}

/// The tensor of the divisors.
const DIVISORS: &str = "rope_freqs.weight";

fn floats(tensors: &dyn Tensors) -> Result<Vec<f64>> {
    let (info, bytes) = tensors.read(DIVISORS)?;
    let wide = from_bytes(&info, &bytes)?.as_dtype(Dtype::Float32)?;
    Ok(math::read::<f32>(&wide)?.into_iter().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(json: &str) -> framework::Result<Rope> {
        let json: Map<String, Value> = serde_json::from_str(json).unwrap();
        let object = |key: &str| json.get(key).and_then(Value::as_object);
        let theta = json.get("rope_theta").and_then(Value::as_f64).or(Some(1e4));
        let keys =
            RopeKeys { theta, scaling: object("rope_scaling"), parameters: object("rope_parameters"), share: None };
        keys.rope(8, 64)
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let old = r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}"#;
        let new = r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}"#;
        assert_eq!(rope(old).unwrap(), rope(new).unwrap());
        assert_eq!(rope(r#"{"rope_scaling": null}"#).unwrap().scaling, Scaling::Default);
    }

    #[test]
    fn an_unknown_type_and_an_unknown_key_are_refused_by_name() {
        let unknown = rope(r#"{"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}"#).unwrap_err().to_string();
        assert!(unknown.contains("spiral") && unknown.contains("llama3"), "{unknown}");
        let key =
            rope(r#"{"rope_scaling": {"rope_type": "linear", "factor": 2.0, "twist": 1}}"#).unwrap_err().to_string();
        assert!(key.contains("twist"), "{key}");
        for (parameters, problem) in [
            (r#"{"rope_type": 3}"#, "3 is not a text"),
            (r#"{"factor": 2.0}"#, "`rope_type` is missing"),
            (r#"{"rope_type": "default", "factor": 2.0}"#, "does not use factor"),
            (r#"{"rope_theta": "1e4"}"#, "is not a number"),
            (r#"{"partial_rotary_factor": [0.5]}"#, "is not a number"),
        ] {
            let message = rope(&format!(r#"{{"rope_parameters": {parameters}}}"#)).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        let missing = rope(r#"{"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}"#).unwrap_err().to_string();
        assert!(missing.contains("low_freq_factor"), "{missing}");
    }
}
