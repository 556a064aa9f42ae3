//! A case: what the reference computed, read from its directory and checked for contradictions before anything runs.
//!
//! The format is specified in `fixtures/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

mod inconsistency;
mod meta;

pub use inconsistency::Inconsistency;
pub use meta::{Call, FORMAT, Meta, Reference, Return, Tolerance};

use crate::arguments::{Value, natural};
use crate::npy::Stored;
use crate::tensor::Dtype;
use crate::{Error, Result};

/// One tensor that a module of the reference returned.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// The module's path in the reference.
    pub path: String,
    /// How often the module had returned before, in the whole case.
    pub nth: usize,
    /// Which of its tensors this is, counted from 0.
    pub output: usize,
    /// The index or name by which it is called when there are several.
    pub key: Option<String>,
    /// The tensor; `None` when the dumper did not store it.
    pub stored: Option<Stored>,
}

impl Activation {
    /// `path[@nth][#key]`, as the file is called.
    pub fn label(&self) -> String {
        label(&self.path, self.nth, self.key.as_deref())
    }
}

/// A tensor in the root's return value.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name, or its index as a string.
    pub name: String,
    /// The tensor.
    pub stored: Stored,
}

/// A case, consistent, with every tensor still in its file.
#[derive(Clone, Debug)]
pub struct Case {
    /// The directory.
    pub dir: PathBuf,
    /// `case.json`.
    pub meta: Meta,
    /// Everything observed, in order of return.
    pub activations: Vec<Activation>,
    /// The root's return value, by call.
    pub outputs: Vec<Vec<Output>>,
    /// The checkpoint in the reference's names; absent for a module without parameters.
    pub weights: Option<PathBuf>,
    /// The names of a pipeline's parts, each with its own configuration and weights; empty for a single module.
    pub components: Vec<String>,
    arguments: Vec<Value>,
    inputs: BTreeMap<String, Stored>,
}

impl Case {
    /// Reads `case.json` and the header of every tensor below `dir`.
    ///
    /// # Errors
    /// When `case.json` is missing, malformed, of another format or has unknown keys; when a file is malformed; when the files
    /// and `case.json` contradict each other, all contradictions at once.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let meta = meta::read(&dir.join("case.json"))?;
        let mut problems = Vec::new();
        let reference = stored(&dir, "reference", &mut problems)?;
        let activations = activations(&meta, reference, &mut problems);
        let (arguments, inputs) = arguments(&dir, &meta, &mut problems)?;
        let outputs = outputs(&dir, &meta, &mut problems)?;
        let components = components(&dir, &mut problems)?;
        let weights = dir.join("weights.safetensors");
        let weights = weights.is_file().then_some(weights);
        let case = Self { dir, meta, activations, outputs, weights, components, arguments, inputs };
        case.check_names(&mut problems);
        match problems.is_empty() {
            true => Ok(case),
            false => Err(Error::Inconsistent { dir: case.dir, problems }),
        }
    }

    /// Whether the case is about a pipeline, which is made of components.
    pub fn is_pipeline(&self) -> bool {
        !self.components.is_empty()
    }

    /// The arguments of a call, tensors and all.
    pub fn arguments(&self, call: usize) -> Option<&Value> {
        self.arguments.get(call)
    }

    /// The argument at `inputs/<call>/<argument>`, to be changed; the masks of `ignore` stay what they are.
    pub(crate) fn argument_mut(&mut self, name: &str) -> Option<&mut Value> {
        let (call, argument) = name.strip_prefix("inputs/")?.split_once('/')?;
        argument.split('.').try_fold(self.arguments.get_mut(call.parse::<usize>().ok()?)?, Value::part_mut)
    }

    /// The tensor at `inputs/<call>/<argument>`.
    pub fn input(&self, name: &str) -> Option<&Stored> {
        self.inputs.get(name)
    }

    /// The mask by which rows of an activation are ignored.
    pub fn mask(&self, activation: &Activation) -> Option<&Stored> {
        named(&self.meta.ignore, &names(activation)).and_then(|mask| self.inputs.get(mask))
    }

    /// The mask by which rows of an output are ignored.
    pub fn output_mask(&self, call: usize, output: &str) -> Option<&Stored> {
        self.meta.ignore.get(&output_label(call, output)).and_then(|mask| self.inputs.get(mask))
    }

    /// The reference's own error on an activation, where the case is narrower than `float32`.
    pub fn noise(&self, activation: &Activation) -> Option<f64> {
        named(&self.meta.noise, &names(activation)).copied()
    }

    /// The reference's own error on an output, where the case is narrower than `float32`.
    pub fn output_noise(&self, call: usize, output: &str) -> Option<f64> {
        self.meta.noise.get(&output_label(call, output)).copied()
    }

    /// Keys of `ignore`, `noise` and `dtypes` must name something, masks must exist, numbers must be usable, and where there is
    /// noise every result has one.
    fn check_names(&self, problems: &mut Vec<Inconsistency>) {
        let outputs: BTreeSet<String> = self.output_labels().collect();
        let mut results = outputs.clone();
        results.extend(self.activations.iter().flat_map(names));
        let Meta { ignore, noise, dtypes, tolerance, .. } = &self.meta;
        let unknown = ignore.iter().filter(|(key, mask)| !results.contains(*key) || !self.inputs.contains_key(*mask));
        problems.extend(unknown.map(|(key, _)| Inconsistency::Ignore(key.clone())));
        let unusable =
            noise.iter().filter(|(key, noise)| !results.contains(*key) || !noise.is_finite() || **noise < 0.0);
        problems.extend(unusable.map(|(key, _)| Inconsistency::Noise(key.clone())));
        if !noise.is_empty() {
            let quiet = self.activations.iter().filter(|it| it.stored.is_some() && self.noise(it).is_none());
            let quiet =
                quiet.map(Activation::label).chain(outputs.iter().filter(|it| !noise.contains_key(*it)).cloned());
            problems.extend(quiet.map(Inconsistency::Noise));
        }
        let untyped = dtypes.keys().filter(|key| !self.inputs.contains_key(*key) && !outputs.contains(*key));
        problems.extend(untyped.map(|key| Inconsistency::Dtypes(key.clone())));
        if ![tolerance.forced, tolerance.free].iter().all(|bound| bound.is_finite() && *bound > 0.0) {
            problems.push(Inconsistency::Tolerance);
        }
    }

    fn output_labels(&self) -> impl Iterator<Item = String> + '_ {
        let calls = self.outputs.iter().enumerate();
        calls.flat_map(|(call, outputs)| outputs.iter().map(move |output| output_label(call, &output.name)))
    }
}

/// `path[@nth][#key]`.
pub(crate) fn label(path: &str, nth: usize, key: Option<&str>) -> String {
    let nth = if nth > 0 { format!("@{nth}") } else { String::new() };
    let key = key.map(|key| format!("#{key}")).unwrap_or_default();
    format!("{path}{nth}{key}")
}

/// The names under which `ignore` and `noise` may speak of an activation: its own, or that of the whole return.
fn names(activation: &Activation) -> [String; 2] {
    let Activation { path, nth, .. } = activation;
    [activation.label(), label(path, *nth, None)]
}

/// The name under which `ignore`, `noise` and `dtypes` speak of an output.
pub(crate) fn output_label(call: usize, output: &str) -> String {
    format!("output/{call}/{output}")
}

fn named<'a, T>(map: &'a BTreeMap<String, T>, names: &[String]) -> Option<&'a T> {
    names.iter().find_map(|name| map.get(name))
}

/// The `.npy` files directly in `dir/sub` by stem, list indices in numeric order; anything else there is stray.
fn stored(dir: &Path, sub: &str, problems: &mut Vec<Inconsistency>) -> Result<Vec<(String, Stored)>> {
    let mut files = Vec::new();
    for name in listed(&dir.join(sub))? {
        match name.strip_suffix(".npy") {
            Some(stem) if !stem.is_empty() => files.push((stem.to_owned(), Stored::open(dir.join(sub).join(&name))?)),
            _ => problems.push(Inconsistency::Stray(format!("{sub}/{name}"))),
        }
    }
    files.sort_by(|(a, _), (b, _)| natural(a).cmp(&natural(b)));
    Ok(files)
}

/// The names in a directory, hidden ones left out; none when there is no such directory.
fn listed(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let io = |e| Error::io(dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Joins `order` with the files in `reference/`.
fn activations(meta: &Meta, files: Vec<(String, Stored)>, problems: &mut Vec<Inconsistency>) -> Vec<Activation> {
    let mut groups: BTreeMap<String, Vec<(Option<String>, Stored)>> = BTreeMap::new();
    for (stem, stored) in files {
        let (base, key) = match stem.split_once('#') {
            Some((base, key)) => (base.to_owned(), Some(key.to_owned())),
            None => (stem, None),
        };
        groups.entry(base).or_default().push((key, stored));
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut activations = Vec::new();
    for entry in &meta.order {
        let expected = seen.entry(&entry.path).or_insert(0);
        if entry.nth != *expected {
            let (path, expected, found) = (entry.path.clone(), *expected, entry.nth);
            problems.push(Inconsistency::Nth { path, expected, found });
        }
        *expected = entry.nth + 1;
        let base = label(&entry.path, entry.nth, None);
        let found = groups.remove(&base).unwrap_or_default();
        if found.is_empty() && entry.outputs > 0 {
            problems.push(Inconsistency::Unrecorded(base));
            continue;
        }
        activations.extend(slots(entry, found, problems));
    }
    for (base, files) in groups {
        let labels = files.into_iter().map(|(key, _)| label(&base, 0, key.as_deref()));
        problems.extend(labels.map(|label| Inconsistency::Stray(format!("reference/{label}.npy"))));
    }
    activations
}

/// The tensors of one return: those with a file, and those that `order` counts but nobody stored.
fn slots(
    entry: &Return,
    mut files: Vec<(Option<String>, Stored)>,
    problems: &mut Vec<Inconsistency>,
) -> Vec<Activation> {
    let Return { path, nth, outputs, dtypes } = entry;
    let base = label(path, *nth, None);
    if dtypes.as_ref().is_some_and(|dtypes| dtypes.len() != *outputs) {
        problems.push(Inconsistency::Dtypes(base));
        return Vec::new();
    }
    let by_name = files.iter().any(|(key, _)| key.as_ref().is_some_and(|key| key.parse::<usize>().is_err()));
    let keys: Vec<Option<String>> = match (outputs, by_name) {
        (1, false) => vec![None],
        (n, false) => (0..*n).map(|k| Some(k.to_string())).collect(),
        (n, true) => {
            let unnamed = (files.len()..*n).map(|k| Some(format!("?{k}")));
            files.iter().take(*n).map(|(key, _)| key.clone()).chain(unnamed).collect()
        }
    };
    let mixed = dtypes.as_ref().is_some_and(|dtypes| dtypes.iter().any(|dtype| Some(dtype) != dtypes.first()));
    if by_name && mixed {
        problems.push(Inconsistency::Dtypes(base));
        return Vec::new();
    }
    let mut slots = Vec::new();
    for (k, key) in keys.into_iter().enumerate() {
        let at = files.iter().position(|(found, _)| *found == key);
        let mut stored = at.map(|at| files.remove(at).1);
        let stated = dtypes.as_ref().and_then(|dtypes| dtypes.get(k));
        if let (Some(stored), Some(dtype)) = (&mut stored, stated)
            && !stored.stands_for(*dtype)
        {
            problems.push(Inconsistency::Dtypes(label(path, *nth, key.as_deref())));
        }
        slots.push(Activation { path: path.clone(), nth: *nth, output: k, key, stored });
    }
    problems.extend(
        files
            .into_iter()
            .map(|(key, _)| Inconsistency::Outputs { label: label(path, *nth, key.as_deref()), outputs: *outputs }),
    );
    slots
}

type Inputs = (Vec<Value>, BTreeMap<String, Stored>);

fn arguments(dir: &Path, meta: &Meta, problems: &mut Vec<Inconsistency>) -> Result<Inputs> {
    if meta.calls.is_empty() {
        problems.push(Inconsistency::NoCalls);
    }
    check_calls(dir, "inputs", meta.calls.len(), problems)?;
    let mut arguments = Vec::new();
    let mut inputs = BTreeMap::new();
    for (index, call) in meta.calls.iter().enumerate() {
        let json = call.arguments.iter().map(|(key, value)| (key.clone(), value.clone().into()));
        let mut root = Value::Map(json.collect());
        for (stem, mut stored) in stored(dir, &format!("inputs/{index}"), problems)? {
            let name = format!("inputs/{index}/{stem}");
            state(&meta.dtypes, &name, &mut stored, problems);
            let path: Vec<&str> = stem.split('.').collect();
            if let Err(problem) = root.place(&path, stored.clone()) {
                problems.push(Inconsistency::Argument { file: format!("{name}.npy"), problem });
            }
            inputs.insert(name, stored);
        }
        arguments.push(root);
    }
    Ok((arguments, inputs))
}

fn outputs(dir: &Path, meta: &Meta, problems: &mut Vec<Inconsistency>) -> Result<Vec<Vec<Output>>> {
    check_calls(dir, "output", meta.calls.len(), problems)?;
    let mut outputs = Vec::new();
    for call in 0..meta.calls.len() {
        let files = stored(dir, &format!("output/{call}"), problems)?;
        if files.is_empty() {
            problems.push(Inconsistency::NoOutput(call));
        }
        let output = |(name, mut stored): (String, Stored)| {
            state(&meta.dtypes, &output_label(call, &name), &mut stored, problems);
            Output { name, stored }
        };
        outputs.push(files.into_iter().map(output).collect());
    }
    Ok(outputs)
}

/// Gives a tensor the element type that `dtypes` states for it.
fn state(dtypes: &BTreeMap<String, Dtype>, name: &str, stored: &mut Stored, problems: &mut Vec<Inconsistency>) {
    if let Some(dtype) = dtypes.get(name)
        && !stored.stands_for(*dtype)
    {
        problems.push(Inconsistency::Dtypes(name.to_owned()));
    }
}

fn check_calls(dir: &Path, sub: &str, calls: usize, problems: &mut Vec<Inconsistency>) -> Result<()> {
    let known = |name: &String| name.parse::<usize>().is_ok_and(|call| call < calls && call.to_string() == *name);
    let names = listed(&dir.join(sub))?;
    let strays = names.iter().filter(|name| !known(name));
    problems.extend(strays.map(|name| Inconsistency::NoCall(format!("{sub}/{name}"))));
    Ok(())
}

fn components(dir: &Path, problems: &mut Vec<Inconsistency>) -> Result<Vec<String>> {
    const ENTRIES: [&str; 6] = ["case.json", "weights.safetensors", "inputs", "reference", "output", "components"];
    let strays = listed(dir)?.into_iter().filter(|name| !ENTRIES.contains(&name.as_str()));
    problems.extend(strays.map(Inconsistency::Stray));
    listed(&dir.join("components"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;
    use serde_json::{Value as Json, json};

    fn opened(edit: impl FnOnce(&mut Json), disturb: impl FnOnce(&Path)) -> Result<Case> {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), 2, edit);
        disturb(dir.path());
        Case::open(dir.path())
    }

    fn problems(edit: impl FnOnce(&mut Json), disturb: impl FnOnce(&Path)) -> Vec<Inconsistency> {
        match opened(edit, disturb) {
            Err(Error::Inconsistent { problems, .. }) => problems,
            other => panic!("{other:?}"),
        }
    }

    fn copy(dir: &Path, from: &str, to: &str) {
        fs::create_dir_all(dir.join(to).parent().unwrap()).unwrap();
        fs::copy(dir.join(from), dir.join(to)).unwrap();
    }

    fn untouched(_: &Path) {}

    #[test]
    fn a_consistent_case_is_read_whole() {
        let case = opened(|_| {}, untouched).unwrap();
        assert_eq!(case.activations.len(), 2 * (1 + 2 * 7));
        let last = case.activations.last().unwrap();
        assert_eq!((last.label().as_str(), last.output), ("layers.1@1#1", 1));
        let names: Vec<&str> = case.outputs[1].iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["calls", "sample"]);
        let Some(Value::Map(arguments)) = case.arguments(1) else { panic!("no arguments") };
        assert_eq!(arguments.keys().collect::<Vec<_>>(), ["mask", "x"]);
        assert_eq!(case.input("inputs/0/mask").unwrap().shape, [2, 3]);
    }

    #[test]
    fn unknown_keys_and_formats_are_refused() {
        let error = opened(|case| case.as_object_mut().unwrap().extend([("zoo".into(), 1.into())]), untouched);
        assert!(matches!(error, Err(Error::UnknownKeys { keys, .. }) if keys == ["zoo"]));
        assert!(matches!(opened(|case| case["format"] = 2.into(), untouched), Err(Error::Format { found: 2, .. })));
        for (at, value) in [("/format", json!("1")), ("/order/0", json!({"path": "x", "nth": 0, "outputs": 1, "x": 1}))]
        {
            let error = opened(|case| *case.pointer_mut(at).unwrap() = value, untouched).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error}");
        }
        let error = opened(|_| {}, |dir| fs::write(dir.join("case.json"), "[]").unwrap()).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert!(matches!(opened(|_| {}, |dir| fs::remove_file(dir.join("case.json")).unwrap()), Err(Error::Io { .. })));
    }

    #[test]
    fn files_that_nobody_refers_to_are_named() {
        let found = problems(
            |_| {},
            |dir| {
                copy(dir, "reference/embed.npy", "reference/other.npy");
                copy(dir, "reference/embed.npy", "reference/embed@7.npy");
                copy(dir, "reference/embed.npy", "reference/layers.0#2.npy");
                copy(dir, "reference/embed.npy", "notes/embed.npy");
                copy(dir, "reference/embed.npy", "inputs/2/x.npy");
                copy(dir, "case.json", "output/1/more.json");
                copy(dir, "case.json", ".hidden");
            },
        );
        let stray = |file: &str| Inconsistency::Stray(file.into());
        let mut expected = vec![
            Inconsistency::Outputs { label: "layers.0#2".into(), outputs: 2 },
            stray("reference/embed@7.npy"),
            stray("reference/other.npy"),
            Inconsistency::NoCall("inputs/2".into()),
            stray("output/1/more.json"),
            stray("notes"),
        ];
        let mut found = found;
        found.sort_by_key(Inconsistency::to_string);
        expected.sort_by_key(Inconsistency::to_string);
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let remove = |dir: &Path, name: &str| fs::remove_file(dir.join(name)).unwrap();
        let found = problems(
            |_| {},
            |dir| {
                remove(dir, "reference/embed@1.npy");
                remove(dir, "output/1/sample.npy");
                remove(dir, "output/1/calls.npy");
            },
        );
        assert_eq!(found, [Inconsistency::Unrecorded("embed@1".into()), Inconsistency::NoOutput(1)]);
        let case = opened(|_| {}, |dir| remove(dir, "reference/layers.0@1#0.npy")).unwrap();
        let without: Vec<_> = case.activations.iter().filter(|it| it.stored.is_none()).map(Activation::label).collect();
        assert_eq!(without, ["layers.0@1#0"]);
    }

    #[test]
    fn returns_are_numbered_in_order() {
        let found = problems(
            |case| case["order"][0]["nth"] = 1.into(),
            |dir| fs::remove_file(dir.join("reference/embed.npy")).unwrap(),
        );
        let nth = |expected, found| Inconsistency::Nth { path: "embed".into(), expected, found };
        assert!(found.starts_with(&[nth(0, 1), nth(2, 1)]), "{found:?}");
    }

    #[test]
    fn element_types_that_files_cannot_hold_are_stated() {
        let case = opened(
            |case| {
                case["order"][0]["dtypes"] = json!(["bfloat16"]);
                case["dtypes"] = json!({"inputs/1/x": "bfloat16", "output/0/sample": "float16"});
            },
            untouched,
        );
        let case = case.unwrap();
        assert_eq!(case.activations[0].stored.as_ref().unwrap().dtype, Dtype::Bfloat16);
        assert_eq!(case.outputs[0][1].stored.dtype, Dtype::Float16);
        assert_eq!(case.input("inputs/1/x").unwrap().dtype, Dtype::Bfloat16);
        let found = problems(
            |case| {
                case["order"][0]["dtypes"] = json!(["int32"]);
                case["order"][1]["dtypes"] = json!(["float32", "float32"]);
                case["dtypes"] = json!({"inputs/1/mask": "bfloat16", "output/2/sample": "float16"});
            },
            untouched,
        );
        let dtypes = |name: &str| Inconsistency::Dtypes(name.into());
        assert_eq!(found[..2], [dtypes("embed"), dtypes("layers.0.norm")]);
        assert_eq!(found[2..4], [dtypes("inputs/1/mask"), dtypes("output/2/sample")]);
    }

    #[test]
    fn masks_and_noise_name_what_exists() {
        let case =
            opened(|case| case["ignore"] = json!({"embed@1": "inputs/1/mask", "layers.0": "inputs/0/mask"}), untouched);
        let case = case.unwrap();
        let masked: Vec<_> =
            case.activations.iter().filter(|it| case.mask(it).is_some()).map(Activation::label).collect();
        assert_eq!(masked, ["layers.0#0", "layers.0#1", "embed@1"]);
        let found = problems(
            |case| {
                case["ignore"] = json!({"nothing": "inputs/0/mask", "embed": "inputs/0/../../etc/passwd"});
                case["tolerance"] = json!({"forced": 0.0, "free": 1e-4});
            },
            untouched,
        );
        let ignore = |name: &str| Inconsistency::Ignore(name.into());
        assert_eq!(found, [ignore("embed"), ignore("nothing"), Inconsistency::Tolerance]);
        let found = problems(|case| case["noise"] = json!({"embed": -1.0, "nothing": 0.1}), untouched);
        let noise = |name: &str| Inconsistency::Noise(name.into());
        assert_eq!(found[..3], [noise("embed"), noise("nothing"), noise("layers.0.norm")]);
    }

    #[test]
    fn an_argument_stands_in_one_place() {
        let found = problems(|case| case["calls"][0]["arguments"] = json!({"x": 1}), untouched);
        assert!(matches!(&found[..], [Inconsistency::Argument { file, .. }] if file == "inputs/0/x.npy"));
        let found = problems(|case| case["calls"] = json!([]), untouched);
        assert!(found.contains(&Inconsistency::NoCalls), "{found:?}");
    }

    #[test]
    fn the_message_lists_everything() {
        let error =
            opened(|case| case["tolerance"]["free"] = 0.into(), |dir| copy(dir, "case.json", "more")).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("\n  more: nothing refers to this file\n  tolerances"), "{message}");
    }
}
