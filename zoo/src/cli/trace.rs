//! `zoo trace`.

use super::{ModelArguments, show::Show};
use crate::{Error, Result};
use framework::{Array, Dtype, math, tap, weights::Pattern};
use npyz::WriterBuilder;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

/// Writes the activations of reading a text as `.npy`, and `index.json` with their order, shapes and dtypes.
pub fn run(prompt: &str, pattern: &str, out: &Path, model: &ModelArguments, show: &Show) -> Result<()> {
    let pattern = Pattern::parse(pattern)?;
    empty_folder(out)?;
    let opened = model.open().language_model(&model.model)?;
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
        return Err(Error::argument("match", format!("no activation's path matches `{pattern}`; see `zoo inspect`")));
    }
    let index = write_all(&seen, out, show)?;
    let text = serde_json::to_string_pretty(&json!({"tokens": tokens, "activations": index})).unwrap_or_default();
    fs::write(out.join("index.json"), text + "\n")?;
    show.event("done", json!({"activations": seen.len(), "folder": out}))?;
    show.text(&format!("{} activations in {}\n", seen.len(), out.display()))
}

fn empty_folder(out: &Path) -> Result<()> {
    let refuse = |error: std::io::Error| Error::file(out, format!("cannot be written: {error}"));
    fs::create_dir_all(out).map_err(refuse)?;
    if fs::read_dir(out).map_err(refuse)?.next().is_some() {
        return Err(Error::file(out, "holds something already; name an empty folder"));
    }
    Ok(())
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
        show.progress("write", done as u64 + 1, seen.len() as u64)?;
    }
    Ok(index)
}

/// Floats as f32, which holds every half exactly; integers as i64.
fn write(path: &Path, x: &Array) -> Result<()> {
    let shape: Vec<u64> = x.shape().iter().map(|&length| length as u64).collect();
    let draft = path.with_extension("partial");
    let file = BufWriter::new(File::create(&draft)?);
    if matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64) {
        write_as(&math::read::<f32>(&x.as_dtype(Dtype::Float32)?)?, &shape, file)?;
    } else {
        write_as(&math::read::<i64>(&x.as_dtype(Dtype::Int64)?)?, &shape, file)?;
    }
    Ok(fs::rename(draft, path)?)
}

fn write_as<T: npyz::AutoSerialize + Copy>(data: &[T], shape: &[u64], file: impl Write) -> Result<()> {
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd()?;
    writer.extend(data.iter().copied())?;
    Ok(writer.finish()?)
}
