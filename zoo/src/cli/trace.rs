//! `zoo trace`.

use super::{
    ModelArguments,
    folder::{Folder, unwritten},
    show::{Show, Unit},
};
use crate::{Error, Result};
use framework::{Array, Dtype, math, tap, weights::Pattern};
use npyz::WriterBuilder;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

/// Writes the activations of reading a text as `.npy`, and `index.json` with their order, shapes and dtypes.
pub fn run(prompt: &str, pattern: &str, out: &Path, model: &ModelArguments, show: &Show) -> Result<()> {
    let pattern = Pattern::parse(pattern).map_err(|error| match error {
        framework::Error::Rule { problem, .. } => Error::argument("--match", problem),
        other => other.into(),
    })?;
    let folder = Folder::new(out)?;
    let opened = model.compute.open().language_model(&model.model)?;
    let tokens = opened.tokenizer().encode(prompt, true)?;
    let mut seen: Vec<(String, Array)> = Vec::new();
    let mut sink = |path: &str, x: &Array| {
        let module = path.split('#').next().unwrap_or(path);
        if pattern.matches(module) {
            seen.push((path.to_owned(), x.clone()));
        }
        None
    };
    tap::with(&mut sink, || opened.read(&tokens))?;
    if seen.is_empty() {
        return Err(Error::argument(
            "--match",
            format!("no activation's path matches `{pattern}`; `zoo inspect` shows them"),
        ));
    }
    let index = write_all(&seen, folder.path(), show)?;
    let text = serde_json::to_string_pretty(&json!({"tokens": tokens, "activations": index})).unwrap_or_default();
    let index = out.join("index.json");
    fs::write(&index, text + "\n").map_err(|error| unwritten(&index, &error))?;
    folder.keep();
    show.event("done", json!({"activations": seen.len(), "folder": out}))?;
    show.text(&format!("{} activations in {}\n", seen.len(), out.display()))
}

fn write_all(seen: &[(String, Array)], out: &Path, show: &Show) -> Result<Vec<Value>> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut index = Vec::new();
    for (done, (path, x)) in seen.iter().enumerate() {
        let nth = times.entry(path).or_insert(0);
        let file = if *nth == 0 { format!("{path}.npy") } else { format!("{path}@{nth}.npy") };
        *nth += 1;
        write(&out.join(&file), x)?;
        index.push(json!({"path": path, "file": file, "shape": x.shape(), "dtype": format!("{:?}", x.dtype())}));
        show.progress("write", Unit::Things("tensors"), done as u64 + 1, seen.len() as u64)?;
    }
    Ok(index)
}

/// Floats as f32, which holds every half exactly; integers as i64.
fn write(path: &Path, x: &Array) -> Result<()> {
    let is_float = matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64);
    if is_float {
        write_as(path, &math::read::<f32>(&x.as_dtype(Dtype::Float32)?)?, x.shape())
    } else {
        write_as(path, &math::read::<i64>(&x.as_dtype(Dtype::Int64)?)?, x.shape())
    }
}

fn write_as<T: npyz::AutoSerialize + Copy>(path: &Path, data: &[T], shape: &[i32]) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&length| length as u64).collect();
    let write = || {
        let file = BufWriter::new(File::create(path)?);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(data.iter().copied())?;
        writer.finish()
    };
    write().map_err(|error| unwritten(path, &error))
}
