//! `case.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::tensor::Dtype;
use crate::{Error, Result};

/// The version of the format that this crate reads.
pub const FORMAT: u64 = 1;

const KEYS: [&str; 11] =
    ["format", "reference", "config", "calls", "order", "dtypes", "ignore", "tied", "tolerance", "noise", "note"];

/// Tensors that `order` may count, stored or not: each takes memory, and a file of a line can claim any number.
const MOST_OUTPUTS: usize = 100_000;

/// Who computed a case, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The package; `framework` for a NumPy twin of one of the framework's own blocks.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The class that was run.
    pub class: String,
    /// The seed of its weights and inputs.
    pub seed: u64,
    /// The element type of its floating-point weights.
    pub dtype: Dtype,
}

/// One call of a method. All calls of a case share the module and its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The method, `forward` most often.
    pub method: String,
    /// The arguments that are not tensors.
    pub arguments: BTreeMap<String, Json>,
}

/// One return of one module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Return {
    /// The module's path in the reference.
    pub path: String,
    /// How often it had returned before, in the whole case.
    pub nth: usize,
    /// How many tensors it returned.
    pub outputs: usize,
    /// Their element types, where the files cannot hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtypes: Option<Vec<Dtype>>,
}

/// The bounds on relative L2; max-abs over the reference's peak may be ten times as much.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// When every observed output is replaced by the reference's.
    pub forced: f64,
    /// When nothing is replaced.
    pub free: f64,
}

/// `case.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The version of the format.
    pub format: u64,
    /// Who computed the case.
    pub reference: Reference,
    /// The reference's configuration, field for field.
    pub config: serde_json::Map<String, Json>,
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// What was observed, in order of return.
    pub order: Vec<Return>,
    /// Input or output (`output/0/logits`) → the element type it had, where its file cannot hold it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dtypes: BTreeMap<String, Dtype>,
    /// Result → the mask (`inputs/0/attention_mask`) whose zeros mark rows that are not compared.
    pub ignore: BTreeMap<String, String>,
    /// Parameter → the parameter whose memory it shares, stored once under the latter name.
    pub tied: BTreeMap<String, String>,
    /// The bounds.
    pub tolerance: Tolerance,
    /// Result → relative L2 between the reference and itself in `float32`, where the case is narrower: twice that is the bound.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noise: BTreeMap<String, f64>,
    /// Anything a reader should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Reads `case.json`, and refuses what the format does not know.
pub(super) fn read(file: &Path) -> Result<Meta> {
    let text = fs::read(file).map_err(|e| Error::io(file, e))?;
    let malformed = |e: serde_json::Error| Error::file(file, e.to_string());
    let json: Json = serde_json::from_slice(&text).map_err(malformed)?;
    let fields = json.as_object().ok_or_else(|| Error::file(file, "not a JSON object"))?;
    match fields.get("format").map(Json::as_u64) {
        Some(Some(FORMAT)) => {}
        Some(Some(found)) => {
            return Err(Error::Format { file: file.into(), found });
        }
        _ => {
            return Err(Error::file(file, "`format` is missing or not a whole number"));
        }
    }
    let keys: Vec<String> = fields.keys().filter(|key| !KEYS.contains(&key.as_str())).cloned().collect();
    if !keys.is_empty() {
        return Err(Error::UnknownKeys { file: file.into(), keys });
    }
    let meta: Meta = serde_json::from_value(json).map_err(malformed)?;
    let mut outputs: usize = 0;
    for (place, Return { path, nth, outputs: own, .. }) in meta.order.iter().enumerate() {
        outputs = outputs.saturating_add(*own);
        if outputs > MOST_OUTPUTS || *nth > MOST_OUTPUTS {
            let problem = format!(
                "`order[{place}]`, `{path}`: return {nth} with {own} outputs is more than the {MOST_OUTPUTS} that a case may \
                 have; write the case again"
            );
            return Err(Error::file(file, problem));
        }
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_no_case_has_are_refused_by_their_place() {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/framework/rms-norm/case.json");
        let valid: Json = serde_json::from_slice(&fs::read(case).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (key, value) in [("outputs", u64::MAX), ("outputs", 1 << 40), ("nth", u64::MAX), ("nth", 1 << 40)] {
            let mut json = valid.clone();
            let mut entry = serde_json::json!({"path": "a", "nth": 0, "outputs": 1});
            entry[key] = value.into();
            json["order"] = serde_json::json!([entry]);
            let file = folder.path().join("case.json");
            fs::write(&file, json.to_string()).unwrap();
            let problem = read(&file).unwrap_err().to_string();
            assert!(problem.contains("`order[0]`, `a`") && problem.contains("100000"), "{problem}");
        }
    }
}
