//! A model small enough to follow by hand, with every way in which a reference can differ from us in structure: the tests of
//! this crate write cases of it, break it, and look at the report.
//!
//! | reference | here |
//! |---|---|
//! | `embed` | `embed` |
//! | `layers.{i}.norm` | `blocks.{i}.norm` |
//! | `layers.{i}.q`, `layers.{i}.k` | columns of `blocks.{i}.qk` |
//! | `layers.{i}.ff` | `blocks.{i}.gate` and `blocks.{i}.up` side by side |
//! | `layers.{i}`, a pair | `blocks.{i}#1`, `blocks.{i}#0` |
//! | `layers.{i}.drop` | nothing |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use framework::weights::ActivationLayout;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};
use serde_json::{Value as Json, json};

use crate::arguments::Value;
use crate::case::{Case, Reference};
use crate::npy;
use crate::subject::{Family, Location, Outputs, Place, Subject, Tap};
use crate::tensor::{Data, Dtype, Tensor};
use crate::{Error, Result};

const WIDTH: usize = 4;
const LAYERS: usize = 2;
const ROWS: [usize; 2] = [2, 3];

/// The family, with an error built in where a test wants one.
#[derive(Clone, Default)]
pub struct Toy {
    /// The output at this path is multiplied by this factor.
    pub scaled: Option<(&'static str, f64)>,
    /// The model stops before this output.
    pub stops: Option<&'static str>,
    /// The module at this path returns once more.
    pub repeats: Option<&'static str>,
    /// The map does not know this reference path.
    pub unknown: Option<&'static str>,
    /// Outputs are called this.
    pub dtype: Option<Dtype>,
}

type Matrix = Vec<Vec<f64>>;

struct Model {
    toy: Toy,
    eps: f64,
    weights: BTreeMap<String, Matrix>,
    calls: usize,
}

impl Family for Toy {
    fn answers(&self, reference: &Reference) -> bool {
        reference.class == "Toy"
    }

    fn open(&self, case: &Case) -> Result<Box<dyn Subject>> {
        let eps = case.meta.config.get("eps").and_then(Json::as_f64);
        let eps = eps.ok_or_else(|| Error::subject("config key `eps`"))?;
        let bytes = fs::read(case.dir.join("weights.safetensors")).map_err(Error::subject)?;
        let file = SafeTensors::deserialize(&bytes).map_err(Error::subject)?;
        let weights = file.iter().map(|(name, view)| (name.to_owned(), matrix(&view))).collect();
        Ok(Box::new(Model { toy: self.clone(), eps, weights, calls: 0 }))
    }
}

fn matrix(view: &TensorView) -> Matrix {
    let values = view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let values: Vec<f64> = values.collect();
    values.chunks(*view.shape().last().unwrap()).map(<[f64]>::to_vec).collect()
}

impl Model {
    fn emit(&self, path: &str, mut rows: Matrix, tap: &mut Tap<'_>) -> Result<Matrix> {
        if self.toy.stops == Some(path) {
            return Err(Error::subject(format!("{path}: out of cheese")));
        }
        if let Some((scaled, factor)) = self.toy.scaled
            && scaled == path
        {
            rows.iter_mut().flatten().for_each(|x| *x *= factor);
        }
        let tensor = tensor(&rows, self.toy.dtype.unwrap_or(Dtype::Float32));
        let replaced = tap(path, &|| Ok(tensor.clone()));
        if self.toy.repeats == Some(path) {
            tap(path, &|| Ok(tensor.clone()));
        }
        Ok(replaced.map_or(rows, |tensor| values(&tensor)))
    }

    fn linear(&self, x: &Matrix, name: &str) -> Matrix {
        let dot = |row: &Vec<f64>, w: &Vec<f64>| row.iter().zip(w).map(|(a, b)| a * b).sum();
        x.iter().map(|row| self.weights[name].iter().map(|w| dot(row, w)).collect()).collect()
    }

    fn forward(&mut self, x: Matrix, mask: Option<Vec<f64>>, tap: &mut Tap<'_>) -> Result<Outputs> {
        let shift = 0.1 * self.calls as f64;
        self.calls += 1;
        let x: Matrix = x.iter().map(|row| row.iter().map(|x| x + shift).collect()).collect();
        let mut h = self.emit("embed", self.linear(&x, "embed.weight"), tap)?;
        if let Some(mask) = mask {
            let pooled = |c: usize| h.iter().zip(&mask).map(|(row, m)| row[c] * m).sum::<f64>();
            let pooled: Vec<f64> = (0..WIDTH).map(pooled).collect();
            h.iter_mut().for_each(|row| *row = sum(row, &pooled));
        }
        for i in 0..LAYERS {
            let gain = &self.weights[&format!("layers.{i}.norm.weight")][0];
            let normed = h.iter().map(|row| {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / WIDTH as f64;
                let scale = (mean + self.eps).sqrt().recip();
                row.iter().zip(gain).map(|(x, g)| x * scale * g).collect()
            });
            let n = self.emit(&format!("blocks.{i}.norm"), normed.collect(), tap)?;
            let (q, k) =
                (self.linear(&n, &format!("layers.{i}.q.weight")), self.linear(&n, &format!("layers.{i}.k.weight")));
            let qk = q.iter().zip(&k).map(|(q, k)| [&q[..], k].concat()).collect();
            let qk = self.emit(&format!("blocks.{i}.qk"), qk, tap)?;
            let ff = self.linear(&n, &format!("layers.{i}.ff.weight"));
            let half = |range: std::ops::Range<usize>| ff.iter().map(|row| row[range.clone()].to_vec()).collect();
            let gate = self.emit(&format!("blocks.{i}.gate"), half(0..WIDTH), tap)?;
            let up = self.emit(&format!("blocks.{i}.up"), half(WIDTH..2 * WIDTH), tap)?;
            let products = |pair: &Vec<f64>| (0..WIDTH).map(|c| pair[c] * pair[WIDTH + c]).collect::<Vec<_>>();
            let a = h.iter().zip(&qk).map(|(h, qk)| sum(h, &products(qk))).collect();
            let b = h.iter().zip(gate.iter().zip(&up)).map(|(h, (g, u))| sum(h, &products(&[&g[..], u].concat())));
            let b = b.collect();
            let a = self.emit(&format!("blocks.{i}#0"), a, tap)?;
            let b = self.emit(&format!("blocks.{i}#1"), b, tap)?;
            h = a.iter().zip(&b).map(|(a, b)| sum(a, b)).collect();
        }
        let calls = Tensor::new(vec![1], Dtype::Uint32, Data::U64(vec![self.calls as u64]))?;
        let sample = tensor(&self.linear(&h, "head.weight"), self.toy.dtype.unwrap_or(Dtype::Float32));
        Ok(vec![("sample".into(), sample), ("calls".into(), calls), ("spare".into(), tensor(&h, Dtype::Float32))])
    }
}

impl Subject for Model {
    fn locate(&self, path: &str) -> Location {
        let place = if self.toy.unknown == Some(path) {
            Place::Unknown { because: "a test says so".into(), nearest: Some("embed".into()) }
        } else {
            place(path)
        };
        Location { place, layout: ActivationLayout::ChannelsLast }
    }

    fn call(&mut self, method: &str, arguments: &Value, tap: &mut Tap<'_>) -> Result<Outputs> {
        let Value::Map(arguments) = arguments else { return Err(Error::subject("no arguments")) };
        let Some(Value::Tensor(x)) = arguments.get("x") else { return Err(Error::subject("argument `x`")) };
        let mask = match arguments.get("mask") {
            Some(Value::Tensor(mask)) => Some(values(&mask.read()?).concat()),
            _ => None,
        };
        match method {
            "forward" => self.forward(values(&x.read()?), mask, tap),
            _ => Err(Error::subject(format!("no method {method}"))),
        }
    }
}

fn place(path: &str) -> Place {
    let Some((i, part)) = path.strip_prefix("layers.").map(|rest| rest.split_once('.').unwrap_or((rest, ""))) else {
        return Place::Same(path.into());
    };
    let qk = |columns| Place::Slice { path: format!("blocks.{i}.qk"), columns };
    match part {
        "" => Place::Alias(vec![format!("blocks.{i}#1"), format!("blocks.{i}#0")]),
        "q" => qk(0..WIDTH),
        "k" => qk(WIDTH..2 * WIDTH),
        "ff" => Place::Join(vec![format!("blocks.{i}.gate"), format!("blocks.{i}.up")]),
        "drop" => Place::Unobserved("identity in evaluation".into()),
        _ => Place::Same(format!("blocks.{i}.{part}")),
    }
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn values(tensor: &Tensor) -> Matrix {
    let all: Vec<f64> = (0..tensor.data.len()).filter_map(|i| tensor.data.f64(i)).collect();
    all.chunks(tensor.shape.last().copied().unwrap_or(1)).map(<[f64]>::to_vec).collect()
}

fn tensor(rows: &Matrix, dtype: Dtype) -> Tensor {
    let data = Data::F32(rows.concat().iter().map(|&x| x as f32).collect());
    let shape = vec![ROWS[0], rows.len() / ROWS[0], rows[0].len()];
    Tensor::new(shape, dtype, data).unwrap()
}

/// Numbers of mixed sign around one, the same each time.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + 11) % 64) as f32 / 32.0 - 0.97).collect()
}

/// Writes a case of the toy with `calls` calls, its last row masked, after `edit` has changed its `case.json`.
pub fn write(dir: &Path, calls: usize, edit: impl FnOnce(&mut Json)) {
    let mut weights = vec![("embed.weight".to_owned(), WIDTH), ("head.weight".to_owned(), WIDTH)];
    for i in 0..LAYERS {
        let parts = [("norm", 1), ("q", WIDTH), ("k", WIDTH), ("ff", 2 * WIDTH)];
        weights.extend(parts.map(|(part, rows)| (format!("layers.{i}.{part}.weight"), rows)));
    }
    let bytes = weights.iter().enumerate().map(|(seed, (name, rows))| {
        let bytes: Vec<u8> = numbers(rows * WIDTH, seed).iter().flat_map(|x| x.to_le_bytes()).collect();
        (name.clone(), vec![*rows, WIDTH], bytes)
    });
    let bytes: Vec<_> = bytes.collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Stored::F32, shape.clone(), bytes).unwrap()));
    fs::create_dir_all(dir.join("reference")).unwrap();
    safetensors::serialize_to_file(views, None, &dir.join("weights.safetensors")).unwrap();

    let count = ROWS.iter().product::<usize>();
    let mut order = Vec::new();
    let mut model = None;
    for call in 0..calls {
        let inputs = dir.join("inputs").join(call.to_string());
        let outputs = dir.join("output").join(call.to_string());
        fs::create_dir_all(&inputs).unwrap();
        fs::create_dir_all(&outputs).unwrap();
        let x = Data::F32(numbers(count * WIDTH, 50 + call));
        npy::write(&inputs.join("x.npy"), &Tensor::new([&ROWS[..], &[WIDTH]].concat(), Dtype::Float32, x).unwrap())
            .unwrap();
        let mask = Data::I64((0..count).map(|i| i64::from(i + 1 < count)).collect());
        npy::write(&inputs.join("mask.npy"), &Tensor::new(ROWS.to_vec(), Dtype::Int64, mask).unwrap()).unwrap();

        let mut case = json!({
            "format": 1,
            "reference": {"package": "toys", "version": "1", "class": "Toy", "seed": 0, "dtype": "float32"},
            "config": {"eps": 0.01},
            "calls": vec![json!({"method": "forward", "arguments": {}}); call + 1],
            "order": [], "ignore": {}, "tied": {},
            "tolerance": {"forced": 1e-5, "free": 1e-4},
        });
        write_json(dir, &case);
        // Only what has been written so far must agree; the reference is this very model, undisturbed.
        let model = model.get_or_insert_with(|| {
            npy::write(&outputs.join("sample.npy"), &tensor(&vec![vec![0.0]; count], Dtype::Float32)).unwrap();
            Toy::default().open(&Case::open(dir).unwrap()).unwrap()
        });
        let seen = RefCell::new(BTreeMap::new());
        let stored = |name: &str| Value::Tensor(npy::Stored::open(inputs.join(name)).unwrap());
        let arguments = Value::Map([("x", "x.npy"), ("mask", "mask.npy")].map(|(k, f)| (k.into(), stored(f))).into());
        let returned = model
            .call("forward", &arguments, &mut |path, read| {
                seen.borrow_mut().insert(path.to_owned(), read().unwrap());
                None
            })
            .unwrap();
        let seen = seen.into_inner();
        let mut record = |path: String, tensors: Vec<Tensor>| {
            let at = if call > 0 { format!("{path}@{call}") } else { path.clone() };
            for (k, tensor) in tensors.iter().enumerate() {
                let name = if tensors.len() > 1 { format!("{at}#{k}") } else { at.clone() };
                npy::write(&dir.join("reference").join(name + ".npy"), tensor).unwrap();
            }
            order.push(json!({"path": path, "nth": call, "outputs": tensors.len()}));
        };
        record("embed".into(), vec![seen["embed"].clone()]);
        for i in 0..LAYERS {
            let here = |part: &str| seen[&format!("blocks.{i}{part}")].clone();
            record(format!("layers.{i}.norm"), vec![here(".norm")]);
            record(format!("layers.{i}.q"), vec![here(".qk").columns(0..WIDTH).unwrap()]);
            record(format!("layers.{i}.k"), vec![here(".qk").columns(WIDTH..2 * WIDTH).unwrap()]);
            record(format!("layers.{i}.ff"), vec![Tensor::joined(&[&here(".gate"), &here(".up")]).unwrap()]);
            record(format!("layers.{i}.drop"), vec![here("#0")]);
            record(format!("layers.{i}"), vec![here("#1"), here("#0")]);
        }
        npy::write(&outputs.join("sample.npy"), &returned[0].1).unwrap();
        let calls = Tensor { dtype: Dtype::Int64, data: Data::I64(vec![call as i64 + 1]), shape: vec![1] };
        npy::write(&outputs.join("calls.npy"), &calls).unwrap();
        case["order"] = Json::Array(order.clone());
        write_json(dir, &case);
    }
    edit_json(dir, edit);
}

/// Changes a written `case.json`.
pub fn edit_json(dir: &Path, edit: impl FnOnce(&mut Json)) {
    let mut case = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
    edit(&mut case);
    write_json(dir, &case);
}

fn write_json(dir: &Path, case: &Json) {
    fs::write(dir.join("case.json"), serde_json::to_vec(case).unwrap()).unwrap();
}
