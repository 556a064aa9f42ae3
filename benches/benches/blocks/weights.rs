//! From a real checkpoint's header to a plan of its loading: what opening a model costs before the first byte is read.

use crate::suite::Suite;
use criterion::Throughput;
use framework::{
    Dtype,
    weights::{Config, Header, wanted},
};
use serde_json::Value;
use std::{fs, path::Path};
use zoo::{Checkpoint, MODELS, registry};

pub fn measure(suite: &mut Suite) -> Result<(), Box<dyn std::error::Error>> {
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/headers");
    for name in ["llama-3.2-1b", "llama-3.1-405b", "flux.1-dev.transformer"] {
        let file = headers.join(format!("{name}.json"));
        let mut published: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let header: Header = serde_json::from_value(published["header"].take())?;
        let checkpoint =
            Checkpoint { config: Config::Json(published["config"].take()), header: &header, tensors: None };
        let entry = registry::of(MODELS, &checkpoint, &file)?;
        let opened = entry.fit(&checkpoint, Dtype::Bfloat16)?;
        let model = wanted(opened.module())?;
        let tensors = Throughput::Elements(header.tensors.len() as u64);
        suite.any("weights", &format!("resolve {name}"), tensors.clone(), || {
            let plan = opened.map().forward(&header)?.against(&model);
            plan.map_err(framework::Error::Coverage)
        });
        suite.any("weights", &format!("build and fit {name}"), tensors, || entry.fit(&checkpoint, Dtype::Bfloat16));
    }
    Ok(())
}
