//! `zoo inspect`.

use super::{
    show::Show,
    table::{bytes, columns, count},
};
use crate::{
    Checkpoint, Error, Family, MODELS, Result, cache, composed, families::Composed, registry, text::read_json,
};
use framework::{
    Dtype, Leaf, Module, Weight,
    weights::{Config, Header, Source},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt, path::Path};

/// Shows what a checkpoint is, from its config and header alone; or what a config of our own amounts to, without weights.
pub fn run(path: &str, depth: usize, show: &Show) -> Result<()> {
    let path = cache::locate(path)?;
    if path.extension().is_some_and(|extension| extension == "json") {
        let config = read_json::<Value>(&path)?.unwrap_or_default();
        let checkpoint = |header| Checkpoint { config: Config::Json(config.clone()), header, tensors: None };
        let none = Header::default();
        let name = checkpoint(&none).name().unwrap_or_default();
        if !Composed::NAMES.contains(&name.as_str()) {
            let problem = format!(
                "`{name}` needs weights to be inspected; name their folder. A config alone shows what \
                                   `\"model_type\": \"composed\"` amounts to"
            );
            return Err(Error::Unrecognised { file: path, problem });
        }
        let header = composed::header(&config).map_err(|error| error.about(&path))?;
        return tell(&checkpoint(&header), &path, depth, show);
    }
    tell(&Checkpoint::of(&Source::open(&path)?)?, &path, depth, show)
}

fn tell(checkpoint: &Checkpoint, path: &Path, depth: usize, show: &Show) -> Result<()> {
    let header = checkpoint.header;
    let opened = registry::of(MODELS, checkpoint, path)?.fit(checkpoint, Dtype::Float32);
    let opened = opened.map_err(|error| error.about(path))?;
    let root = tree(opened.module());
    let name = checkpoint.name().unwrap_or_default();
    let dtypes = by_dtype(header);
    let types =
        dtypes.iter().map(|(dtype, (tensors, bytes))| (dtype.clone(), json!({"tensors": tensors, "bytes": bytes})));
    show.event(
        "inspect",
        json!({
            "path": path,
            "architecture": name,
            "layout": opened.layout(),
            "tensors": header.tensors.len(),
            "bytes": header.bytes(),
            "dtypes": types.collect::<Map<_, _>>(),
            "parameters": root.to_json(),
        }),
    )?;
    let mut rows = vec![
        vec!["file".to_owned(), path.display().to_string()],
        vec!["architecture".into(), format!("{name}, layout {}", opened.layout())],
        vec!["weights".into(), format!("{} tensors, {}", header.tensors.len(), bytes(header.bytes()))],
    ];
    for (dtype, (tensors, size)) in &dtypes {
        rows.push(vec![format!("  {dtype}"), format!("{tensors} tensors, {}", bytes(*size))]);
    }
    show.text(&columns(&rows))?;
    let mut lines = vec![];
    root.lines("model", 0, depth, &mut lines);
    show.text(&format!("\n{}", columns(&lines)))
}

/// Tensors and bytes by stored type.
fn by_dtype(header: &Header) -> BTreeMap<String, (usize, u64)> {
    let mut found = BTreeMap::new();
    for info in header.tensors.values() {
        let (tensors, size) = found.entry(info.dtype.name().to_owned()).or_insert((0, 0));
        *tensors += 1;
        *size += info.bytes().unwrap_or(0) as u64;
    }
    found
}

/// A node of the parameter tree. Neighbours that are the same but for their number stand for one another.
#[derive(Debug, Default, PartialEq)]
struct Node {
    tensor: Option<Tensor>,
    children: Vec<(String, usize, Node)>,
}

/// A tensor as the model sees it: a packed matrix has the shape of what is packed.
#[derive(Debug, PartialEq)]
struct Tensor {
    /// Matrices of a stack, where it is one of matrices of that shape.
    stack: Option<i32>,
    shape: Vec<i32>,
    /// Bits an element and elements a scale, where it is packed.
    packed: Option<(i32, i32)>,
}

fn stored(weight: &Weight) -> Option<Tensor> {
    let shape = weight.shape();
    let packed = match weight {
        Weight::Dense(_) => None,
        Weight::Affine(packed) => Some((packed.bits, packed.group)),
    };
    match shape[..] {
        [count, rows, columns] => Some(Tensor { stack: Some(count), shape: vec![rows, columns], packed }),
        _ => packed.map(|packed| Tensor { stack: None, shape, packed: Some(packed) }),
    }
}

fn tree(module: &dyn Module) -> Node {
    let tensor = match module.leaf() {
        Leaf::Param(param) => Some(Tensor { stack: None, shape: param.shape(), packed: None }),
        Leaf::Linear(linear) => stored(&linear.weight),
        Leaf::Embedding(embedding) => stored(&embedding.weight),
        Leaf::Branch => None,
    };
    // A matrix that is shown as its module is not shown again.
    let shown = tensor.is_some();
    let mut children: Vec<(String, usize, Node)> = Vec::new();
    module.each(&mut |name, child| {
        let node = tree(child);
        let empty = node.tensor.is_none() && node.children.is_empty();
        if empty || (shown && ["weight", "scales", "biases"].contains(&name)) {
            return;
        }
        match (name.parse::<usize>(), children.last_mut()) {
            (Ok(_), Some((_, times, last))) if *last == node => *times += 1,
            _ => children.push((name.to_owned(), 1, node)),
        }
    });
    Node { tensor, children }
}

impl Node {
    fn elements(&self) -> u64 {
        let own = self
            .tensor
            .iter()
            .map(|tensor| tensor.stack.iter().chain(&tensor.shape).map(|&length| length as u64).product::<u64>());
        own.sum::<u64>() + self.children.iter().map(|(_, times, node)| *times as u64 * node.elements()).sum::<u64>()
    }

    fn lines(&self, name: &str, level: usize, depth: usize, lines: &mut Vec<Vec<String>>) {
        let shape = self.tensor.as_ref().map(ToString::to_string).unwrap_or_default();
        lines.push(vec![format!("{}{name}", "  ".repeat(level)), count(self.elements()), shape]);
        if level < depth {
            for (name, times, node) in &self.children {
                node.lines(&numbered(name, *times), level + 1, depth, lines);
            }
        }
    }

    fn to_json(&self) -> Value {
        let children = self.children.iter();
        let below: Map<String, Value> =
            children.map(|(name, times, node)| (numbered(name, *times), node.to_json())).collect();
        match &self.tensor {
            None => Value::Object(below),
            Some(tensor) => {
                let packed = tensor.packed.map(|(bits, group)| json!({"bits": bits, "group": group}));
                json!({"stack": tensor.stack, "shape": tensor.shape, "packed": packed})
            }
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(count) = self.stack {
            write!(f, "{count} × ")?;
        }
        write!(f, "{:?}", self.shape)?;
        match self.packed {
            Some((bits, group)) => write!(f, " in {bits} bits, groups of {group}"),
            None => Ok(()),
        }
    }
}

/// `0` five times is `0..4`.
fn numbered(name: &str, times: usize) -> String {
    match name.parse::<usize>() {
        Ok(first) if times > 1 => format!("{first}..{}", first + times - 1),
        _ => name.to_owned(),
    }
}
