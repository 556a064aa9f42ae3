//! The zoo's rows as families of the harness: a case's files become a checkpoint, its arguments upstream's.

use std::mem;
use std::ops::ControlFlow;

use framework::weights::{Config, Lookup, Packed, Source, Tensors, paths};
use framework::{Array, tap};
use serde_json::Value as Json;
use zoo::{Arguments, Checkpoint, Entry, OpenOptions, Opened, State};

use crate::arguments::Value;
use crate::array::{array, mlx, tensor};
use crate::case::{Case, Reference};
use crate::subject::{Family, Location, Outputs, Place, Subject, Tap};
use crate::{Error, Result};

impl<F: Family + ?Sized> Family for &F {
    fn answers(&self, reference: &Reference) -> bool {
        (**self).answers(reference)
    }

    fn open(&self, case: &Case) -> Result<Box<dyn Subject>> {
        (**self).open(case)
    }
}

/// A row answers to the classes that it names, `LlamaForCausalLM`, or names with their package, `framework.Linear`. It is opened
/// as a published checkpoint is, but that packed weights stay packed.
impl Family for Entry {
    fn answers(&self, reference: &Reference) -> bool {
        let Reference { package, class, .. } = reference;
        self.names.iter().any(|name| name == class || name.strip_prefix(package) == Some(&format!(".{class}")))
    }

    fn open(&self, case: &Case) -> Result<Box<dyn Subject>> {
        let weights = case.weights.as_ref().ok_or_else(|| Error::file(&case.dir, "has no weights.safetensors"))?;
        let source = Source::open(weights).map_err(Error::subject)?;
        let config = Config::Json(Json::Object(case.meta.config.clone()));
        let checkpoint = Checkpoint { config, header: source.header(), tensors: Some(&source) };
        let options = OpenOptions { dtype: mlx(case.meta.reference.dtype), packed: Packed::Keep };
        let opened = Entry::open(self, &checkpoint, options, &mut |_, _| ControlFlow::Continue(()));
        Ok(Box::new(Model { opened: opened.map_err(Error::subject)?, state: State::default() }))
    }
}

/// An opened model, and what its calls leave for the next.
struct Model {
    opened: Box<dyn Opened>,
    state: State,
}

impl Subject for Model {
    fn locate(&self, path: &str) -> Location {
        let paths = self.opened.paths();
        Location { place: place(paths.lookup(path)), layout: paths.layout(path) }
    }

    fn call(&mut self, method: &str, arguments: &Value, tap: &mut Tap<'_>) -> Result<Outputs> {
        let mut given = given(arguments)?;
        given.state = mem::take(&mut self.state);
        let mut broken = None;
        let mut sink = |path: &str, output: &Array| {
            let replacement = array(&tap(path, &|| tensor(output))?);
            replacement.map_err(|error| broken.get_or_insert(error)).ok()
        };
        let outputs = tap::with(&mut sink, || self.opened.call(method, &mut given));
        self.state = given.state;
        match broken {
            Some(error) => Err(error),
            None => read(&outputs.map_err(Error::subject)?),
        }
    }
}

/// What a method returned, on the host.
pub(crate) fn read(outputs: &zoo::Outputs) -> Result<Outputs> {
    outputs.iter().map(|(name, x)| Ok((name.clone(), tensor(x)?))).collect()
}

/// The arguments of a call as the zoo takes them.
pub(crate) fn given(arguments: &Value) -> Result<Arguments> {
    let mut given = Arguments::default();
    if let Value::Map(arguments) = arguments {
        arguments.iter().try_for_each(|(name, value)| give(&mut given, name, value))?;
    }
    Ok(given)
}

/// Hands over a value under its dotted name: what holds a tensor part by part, anything else as it is.
fn give(arguments: &mut Arguments, name: &str, value: &Value) -> Result<()> {
    match (value, value.json()) {
        (Value::Tensor(stored), _) => arguments.array(name, array(&stored.read()?)?),
        (_, Some(json)) => arguments.value(name, json),
        (Value::Map(fields), None) => {
            for (key, value) in fields {
                give(arguments, &format!("{name}.{key}"), value)?;
            }
        }
        (Value::List(items), None) => {
            for (index, value) in items.iter().enumerate() {
                give(arguments, &format!("{name}.{index}"), value)?;
            }
        }
        (_, None) => {}
    }
    Ok(())
}

fn place(lookup: Lookup) -> Place {
    let label = |tap: paths::Tap| tap.output.map_or(tap.path.clone(), |output| format!("{}#{output}", tap.path));
    let labels = |taps: Vec<paths::Tap>| taps.into_iter().map(label).collect();
    match lookup {
        Lookup::Same(path) => Place::Same(path),
        Lookup::Slice { ours, start, end } => Place::Slice { path: ours, columns: start..end },
        Lookup::Concat { ours } => Place::Join(labels(ours)),
        Lookup::Alias { outputs } => Place::Alias(labels(outputs)),
        Lookup::Unobserved { reason } => Place::Unobserved(reason),
        Lookup::Unknown { because, nearest } => Place::Unknown { because, nearest },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::{self, Stored};
    use crate::tensor::{Data, Dtype, Tensor};

    #[test]
    fn arguments_have_dotted_names_and_all_must_be_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.npy");
        npy::write(&file, &Tensor::new(vec![1], Dtype::Float32, Data::F32(vec![2.0])).unwrap()).unwrap();
        let x = || Value::Tensor(Stored::open(&file).unwrap());
        let map = |fields: Vec<(&str, Value)>| Value::Map(fields.into_iter().map(|(k, v)| (k.into(), v)).collect());
        let value = map(vec![
            ("x", x()),
            ("cond", map(vec![("pooled", x()), ("scale", Value::Bool(true))])),
            ("plain", map(vec![("flag", Value::Null)])),
            ("list", Value::List(vec![Value::Null, x()])),
        ]);
        let mut arguments = Arguments::default();
        give(&mut arguments, "all", &value).unwrap();
        for name in ["all.x", "all.cond.pooled", "all.list.1"] {
            assert_eq!(arguments.take(name).unwrap().shape(), [1], "{name}");
        }
        let left = arguments.finish().unwrap_err().to_string();
        assert!(left.contains("does not take all.cond.scale, all.list.0, all.plain"), "{left}");
    }

    #[test]
    fn places_are_the_paths_of_taps() {
        let tap = |path: &str, output: Option<&str>| paths::Tap { path: path.into(), output: output.map(Into::into) };
        let alias = Lookup::Alias { outputs: vec![tap("a", Some("1")), tap("b", None)] };
        assert_eq!(place(alias), Place::Alias(vec!["a#1".into(), "b".into()]));
        let slice = Lookup::Slice { ours: "qkv".into(), start: 2, end: 4 };
        assert_eq!(place(slice), Place::Slice { path: "qkv".into(), columns: 2..4 });
    }
}
