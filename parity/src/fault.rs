//! Faults put into a case on purpose, to prove that the report names the place: a case is copied, one thing in the copy is
//! changed, and the headline must be the first observed output downstream of the change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value as Json;

use crate::arguments::Value;
use crate::case::Case;
use crate::npy::{self, Stored};
use crate::report::Row;
use crate::run::check;
use crate::subject::Family;
use crate::{Error, Result};

/// One fault and where it must show.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What the fault is called in messages, and the name of the copy's directory.
    pub name: String,
    /// The change.
    pub edit: Edit,
    /// The first observed output downstream of it, as the report writes it.
    pub expected: String,
}

/// A change to a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Another value in a JSON file of the case, at a pointer (`/config/rms_norm_eps`).
    Json {
        /// The file, `case.json` or a component's `components/vae/config.json`.
        file: String,
        /// Where in it.
        pointer: String,
        /// What becomes of the value.
        change: Change,
    },
    /// Another tensor in the checkpoint, by the reference's name; of a pipeline, by that of the component, a dot, and that.
    Weight(String, Operation),
    /// Two tensors of the checkpoint under each other's name.
    Exchange(String, String),
    /// Other values in an input (`inputs/0/attention_mask`). Where `ignore` names it, the same rows are ignored as before.
    Input(String, Rewrite),
}

/// A change to a value of a JSON file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A number times this.
    Times(f64),
    /// This instead.
    Set(Json),
}

/// A change to a tensor that keeps its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rows become columns; for a square matrix.
    Transpose,
    /// Every sign is turned.
    Negate,
    /// The rows move up by so many, the first ones to the end.
    Roll(usize),
    /// Of `chunks` equal parts of the rows, two change places.
    Swap {
        /// How many parts there are.
        chunks: usize,
        /// One of the two.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// A change to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Every element becomes one: a mask that hides nothing.
    Ones,
    /// The elements move up by so many, the first ones to the end: chunks in another order.
    Shift(usize),
    /// `None` is given instead.
    Drop,
}

impl Fault {
    /// A fault in the configuration.
    pub fn config(name: &str, pointer: &str, change: Change, expected: &str) -> Self {
        Self::json(name, "case.json", &format!("/config{pointer}"), change, expected)
    }

    /// A fault in a JSON file of the case: its arguments, or the configuration of a component.
    pub fn json(name: &str, file: &str, pointer: &str, change: Change, expected: &str) -> Self {
        Self::new(name, Edit::Json { file: file.into(), pointer: pointer.into(), change }, expected)
    }

    /// A fault in the checkpoint.
    pub fn weight(name: &str, tensor: &str, operation: Operation, expected: &str) -> Self {
        Self::new(name, Edit::Weight(tensor.into(), operation), expected)
    }

    /// A fault in two tensors of one shape.
    pub fn exchange(name: &str, one: &str, other: &str, expected: &str) -> Self {
        Self::new(name, Edit::Exchange(one.into(), other.into()), expected)
    }

    /// A fault in an input.
    pub fn input(name: &str, input: &str, rewrite: Rewrite, expected: &str) -> Self {
        Self::new(name, Edit::Input(input.into(), rewrite), expected)
    }

    fn new(name: &str, edit: Edit, expected: &str) -> Self {
        Self { name: name.into(), edit, expected: expected.into() }
    }

    /// Copies a case to the new directory `into` and puts the fault in the copy.
    ///
    /// # Errors
    /// When there is nothing to change there, the change would change nothing, or a file cannot be copied.
    pub fn inject(&self, case: &Case, into: &Path) -> Result<Case> {
        copy(&case.dir, into)?;
        match &self.edit {
            Edit::Json { file, pointer, change } => self.configure(pointer, change, &into.join(file))?,
            Edit::Weight(name, operation) => {
                let (file, name) = checkpoint(case, into, case.meta.tied.get(name).unwrap_or(name));
                self.reweigh(&file, &[name], |views| {
                    let [view] = views else { return Err("it is one".into()) };
                    Ok(vec![operation.apply(view)?])
                })?;
            }
            Edit::Exchange(one, other) => {
                let [(file, one), (second, other)] = [one, other].map(|name| checkpoint(case, into, name));
                if file != second {
                    return Err(self.refuse(format!("{one} and {other} are in two files")));
                }
                self.reweigh(&file, &[one, other], |views| {
                    let [one, other] = views else { return Err("they are two".into()) };
                    match (one.shape(), one.dtype()) == (other.shape(), other.dtype()) {
                        true => Ok(vec![other.data().to_vec(), one.data().to_vec()]),
                        false => Err(format!("{:?} and {:?} do not change places", one.shape(), other.shape())),
                    }
                })?;
            }
            Edit::Input(name, rewrite) => return self.rewrite(name, *rewrite, Case::open(into)?),
        }
        Case::open(into)
    }

    /// Injects the fault into a copy below `scratch` and runs it. The forced run, of a pipeline the only one, must headline the
    /// fault where it is expected. The free run before it, whose bounds are looser, may see it later or not at all, but must
    /// find nothing earlier.
    ///
    /// # Errors
    /// When the fault cannot be injected, the model stops on it, or the report says something else.
    pub fn prove(&self, case: &Case, family: &dyn Family, scratch: &Path) -> Result<()> {
        let broken = self.inject(case, &scratch.join(&self.name))?;
        let runs = check(&broken, family)?.runs;
        for (index, run) in runs.iter().enumerate() {
            if let Some(error) = &run.error {
                return Err(self.refuse(format!("the {} run stopped: {error}", run.mode)));
            }
            let headline = run.headline();
            let found = headline.is_some_and(|row| row.path == self.expected);
            let mut earlier = run.rows.iter().take_while(|row| row.path != self.expected);
            if found || (index + 1 < runs.len() && earlier.all(Row::passes)) {
                continue;
            }
            return Err(self.refuse(match headline {
                Some(row) => format!("expected at {}; the {} run says {row}", self.expected, run.mode),
                None => format!("the {} run did not notice it", run.mode),
            }));
        }
        Ok(())
    }

    fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::Fault { fault: self.name.clone(), problem: problem.into() }
    }

    fn configure(&self, pointer: &str, change: &Change, file: &Path) -> Result<()> {
        let io = |e| Error::io(file, e);
        let malformed = |e: serde_json::Error| Error::file(file, e.to_string());
        let mut json: Json = serde_json::from_slice(&fs::read(file).map_err(io)?).map_err(malformed)?;
        let value = json.pointer_mut(pointer).ok_or_else(|| self.refuse(format!("there is no {pointer}")))?;
        let new = match change {
            Change::Set(new) => new.clone(),
            Change::Times(factor) => match value.as_f64() {
                Some(number) => Json::from(number * factor),
                None => return Err(self.refuse(format!("{pointer} is not a number"))),
            },
        };
        if *value == new {
            return Err(self.refuse(format!("{pointer} is {new} already")));
        }
        *value = new;
        fs::write(file, json.to_string()).map_err(io)
    }

    /// Gives the named tensors the bytes that `change` makes of them.
    fn reweigh(
        &self,
        file: &Path,
        names: &[&str],
        change: impl FnOnce(&[TensorView]) -> Result<Vec<Vec<u8>>, String>,
    ) -> Result<()> {
        let io = |e| Error::io(file, e);
        let malformed = |e: safetensors::SafeTensorError| Error::file(file, e.to_string());
        let bytes = fs::read(file).map_err(io)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(malformed)?;
        let views = names.iter().map(|name| tensors.tensor(name)).collect::<Result<Vec<_>, _>>();
        let views = views.map_err(|e| self.refuse(e.to_string()))?;
        let changed = change(&views).map_err(|problem| self.refuse(format!("{names:?}: {problem}")))?;
        if changed.iter().zip(&views).all(|(new, old)| new == old.data()) {
            return Err(self.refuse(format!("{names:?} are the same after it")));
        }
        let mut all: BTreeMap<String, TensorView> =
            tensors.iter().map(|(name, view)| (name.to_owned(), view)).collect();
        for ((name, old), new) in names.iter().zip(&views).zip(&changed) {
            let new = TensorView::new(old.dtype(), old.shape().to_vec(), new).map_err(malformed)?;
            all.insert((*name).to_owned(), new);
        }
        let bytes = safetensors::serialize(all, header.metadata().clone()).map_err(malformed)?;
        fs::write(file, bytes).map_err(io)
    }

    /// Gives an argument another value.
    fn rewrite(&self, name: &str, rewrite: Rewrite, mut case: Case) -> Result<Case> {
        let changed = case.dir.join("changed.npy");
        let argument = case.argument_mut(name).ok_or_else(|| self.refuse(format!("the case has no {name}")))?;
        let Value::Tensor(stored) = argument else {
            return Err(self.refuse(format!("{name} is not a tensor")));
        };
        let old = stored.read()?;
        let mut new = old.clone();
        match rewrite {
            Rewrite::Drop => {
                *argument = Value::Null;
                return Ok(case);
            }
            Rewrite::Ones => new.data.fill_with_ones(),
            Rewrite::Shift(by) => new.data.roll(by),
        }
        if new == old {
            return Err(self.refuse(format!("{name} is the same after it")));
        }
        npy::write(&changed, &new)?;
        *argument = Value::Tensor(Stored { file: changed, ..stored.clone() });
        Ok(case)
    }
}

/// The file in the copy `into` that holds a tensor, and the tensor's name there.
fn checkpoint<'a>(case: &Case, into: &Path, name: &'a str) -> (PathBuf, &'a str) {
    const FILE: &str = "weights.safetensors";
    match name.split_once('.') {
        Some((component, name)) if case.is_pipeline() => (into.join("components").join(component).join(FILE), name),
        _ => (into.join(FILE), name),
    }
}

impl Operation {
    /// The tensor's bytes after the operation, or why it does not apply.
    fn apply(self, view: &TensorView) -> Result<Vec<u8>, String> {
        let (shape, data) = (view.shape(), view.data());
        let rows = shape.first().copied().unwrap_or(0);
        let count: usize = shape.iter().product();
        if count == 0 {
            return Err(format!("shape {shape:?} has no rows"));
        }
        let (row, element) = (data.len() / rows, data.len() / count);
        match self {
            Self::Transpose if shape != [rows, rows] => Err(format!("shape {shape:?} is not square")),
            Self::Transpose => {
                let column =
                    |at: usize| data.chunks_exact(row).flat_map(move |r| r[at * element..].iter().take(element));
                Ok((0..rows).flat_map(column).copied().collect())
            }
            Self::Negate => {
                if !matches!(view.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
                    return Err(format!("{:?} has no sign to turn", view.dtype()));
                }
                let mut bytes = data.to_vec();
                bytes.iter_mut().skip(element - 1).step_by(element).for_each(|byte| *byte ^= 0x80);
                Ok(bytes)
            }
            Self::Roll(by) => {
                let mut bytes = data.to_vec();
                bytes.rotate_left(by % rows * row);
                Ok(bytes)
            }
            Self::Swap { chunks, first, second } => {
                if chunks == 0 || rows % chunks != 0 || first.max(second) >= chunks {
                    return Err(format!("shape {shape:?} has no chunks {first} and {second} of {chunks}"));
                }
                let mut parts: Vec<&[u8]> = data.chunks_exact(data.len() / chunks).collect();
                parts.swap(first, second);
                Ok(parts.concat())
            }
        }
    }
}

/// Copies a directory with everything below it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let entry = entry.map_err(|e| Error::io(from, e))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() {
            copy(&old, &new)?;
        } else {
            fs::copy(&old, &new).map_err(|e| Error::io(&old, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{self, Toy};
    use serde_json::json;

    fn proved(fault: &Fault) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        toy::write(&dir.path().join("case"), 1, |_| {});
        let case = Case::open(dir.path().join("case")).unwrap();
        fault.prove(&case, &Toy::default(), dir.path())
    }

    #[test]
    fn every_fault_is_reported_at_the_first_output_downstream() {
        let swap = Operation::Swap { chunks: 2, first: 0, second: 1 };
        for fault in [
            Fault::config("eps", "/eps", Change::Times(10.0), "layers.0.norm"),
            Fault::weight("transposed", "layers.1.q.weight", Operation::Transpose, "layers.1.q"),
            Fault::weight("negated", "layers.0.k.weight", Operation::Negate, "layers.0.k"),
            Fault::weight("gain", "layers.1.norm.weight", Operation::Negate, "layers.1.norm"),
            Fault::exchange("exchanged", "layers.0.q.weight", "layers.0.k.weight", "layers.0.q"),
            Fault::weight("swapped", "layers.0.ff.weight", swap, "layers.0.ff"),
            Fault::weight("head", "head.weight", Operation::Roll(1), "output/0/sample"),
            Fault::input("mask", "inputs/0/mask", Rewrite::Ones, "layers.0.norm"),
            Fault::input("shifted", "inputs/0/mask", Rewrite::Shift(1), "layers.0.norm"),
            Fault::input("no-mask", "inputs/0/mask", Rewrite::Drop, "layers.0.norm"),
        ] {
            proved(&fault).unwrap();
        }
    }

    #[test]
    fn a_fault_reported_elsewhere_is_an_error() {
        let early = Fault::weight("early", "layers.0.q.weight", Operation::Negate, "layers.0.k");
        let message = proved(&early).unwrap_err().to_string();
        assert!(message.contains("expected at layers.0.k; the free run says layers.0.q"), "{message}");
        let fault = Fault::weight("late", "layers.0.k.weight", Operation::Negate, "layers.0.q");
        let message = proved(&fault).unwrap_err().to_string();
        assert!(message.contains("expected at layers.0.q; the forced run says layers.0.k"), "{message}");
    }

    #[test]
    fn a_fault_that_is_none_is_an_error() {
        let weight = |operation| Fault::weight("none", "layers.0.norm.weight", operation, "");
        for fault in [
            Fault::config("none", "/eps", Change::Set(json!(0.01)), ""),
            Fault::config("none", "/nothing", Change::Times(2.0), ""),
            Fault::weight("none", "nothing", Operation::Negate, ""),
            Fault::exchange("none", "layers.0.q.weight", "layers.0.ff.weight", ""),
            Fault::exchange("none", "layers.0.q.weight", "layers.0.q.weight", ""),
            Fault::input("none", "inputs/0/nothing", Rewrite::Ones, ""),
            Fault::input("none", "inputs/0/mask", Rewrite::Shift(0), ""),
            weight(Operation::Roll(1)),
            weight(Operation::Transpose),
            weight(Operation::Swap { chunks: 2, first: 0, second: 1 }),
        ] {
            assert!(matches!(proved(&fault), Err(Error::Fault { .. })), "{fault:?}");
        }
    }

    #[test]
    fn a_matrix_of_any_element_size_is_transposed() {
        let bytes: Vec<u8> = (0..8).collect();
        let view = TensorView::new(Dtype::F16, vec![2, 2], &bytes).unwrap();
        assert_eq!(Operation::Transpose.apply(&view).unwrap(), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(Operation::Roll(1).apply(&view).unwrap(), [4, 5, 6, 7, 0, 1, 2, 3]);
        assert_eq!(Operation::Negate.apply(&view).unwrap(), [0, 129, 2, 131, 4, 133, 6, 135]);
    }
}
