//! Loading is exact: every parameter is assigned once, every tensor of the file is used or dropped for a reason, or
//! nothing is loaded and one report says everything that is wrong.

use crate::{
    Error, Leaf, LeafMut, Module, Param, Result, Weight, walk, walk_mut,
    weights::{
        evaluate::{evaluate, from_bytes, info},
        expr::Expr,
        header::Header,
        map::WeightMap,
        resolve::{Plan, Wanted},
        source::Tensors,
    },
};
use mlx_rs::Array;
use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

/// What becomes of packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packed {
    /// They stay packed, as the file has them.
    #[default]
    Keep,
    /// They are unpacked into the model's dtype: several times faster on a CPU, at several times the memory.
    Unpack,
}

/// Sees how many bytes of how many are loaded, after every parameter; may stop the loading.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Makes the model take the storage that the header says, and plans its loading. Reads no weights: over the header of
/// a published checkpoint it proves that map and model fit.
///
/// # Errors
/// [`Error::Coverage`] with everything that does not fit.
pub fn fit(model: &mut dyn Module, header: &Header, map: &WeightMap) -> Result<Plan> {
    let forward = map.forward(header)?;
    let mut packed: HashMap<&str, _> = forward.packed().map(|packed| (packed.module, packed)).collect();
    let mut outcome = Ok(());
    on_storage(model, &mut |path, weight| {
        if let Some(shapes) = packed.remove(path)
            && matches!(weight, Weight::Dense(_))
            && outcome.is_ok()
        {
            let packed = weight.expect_packed(&shapes.weight.shape, &shapes.scales.shape);
            outcome = packed.map_err(|error| error.under(&[&path]));
        }
    });
    outcome?;
    forward.against(&wanted(model)?).map_err(Error::Coverage)
}

/// Loads a model from a checkpoint by the rules of a map, in the model's dtype, and evaluates every parameter.
///
/// # Errors
/// [`Error::Coverage`] before anything is read if file and model do not cover each other; errors of the file; tied
/// tensors that differ; [`Error::Cancelled`] when `progress` breaks. After an error the model is not usable.
pub fn load(
    model: &mut dyn Module,
    source: &dyn Tensors,
    map: &WeightMap,
    packed: Packed,
    progress: &mut Progress,
) -> Result<()> {
    let plan = fit(model, source.header(), map)?;
    let mut reader = Reader::new(source, &plan);
    for (one, other) in &plan.checks {
        let (a, b) = (reader.evaluate(one)?, reader.evaluate(other)?);
        if !a.eq_exact(&b)? {
            let [one, other] = [one, other].map(|expr| expr.sources().join(", "));
            return Err(Error::argument(one, format!("differs from `{other}`, to which it is tied")));
        }
    }
    let total: u64 = source.header().bytes();
    let mut outcome = Ok(());
    walk(model, &mut |path, leaf| {
        if let (Leaf::Param(param), Ok(())) = (&leaf, &outcome)
            && let Some(expr) = plan.assign.get(path)
        {
            outcome = reader.assign(path, param, expr);
            if outcome.is_ok() && progress(reader.done.min(total), total).is_break() {
                outcome = Err(Error::Cancelled);
            }
        }
    });
    outcome?;
    if packed == Packed::Unpack {
        unpack(model)?;
    }
    if progress(total, total).is_break() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Unpacks every packed weight, one at a time.
fn unpack(model: &mut dyn Module) -> Result<()> {
    let mut outcome = Ok(());
    on_storage(model, &mut |path, weight| {
        if outcome.is_ok() {
            let dtype = weight.dtype();
            let unpacked = weight.dequantise(dtype).and_then(|()| match weight {
                Weight::Dense(dense) => Ok(dense.get().eval()?),
                Weight::Affine(_) => Ok(()),
            });
            outcome = unpacked.map_err(|error| error.under(&[&path]));
        }
    });
    outcome
}

/// Offers the storage of every linear layer and embedding, with the path of its module.
fn on_storage(model: &mut dyn Module, f: &mut dyn FnMut(&str, &mut Weight)) {
    walk_mut(model, &mut |path, leaf| match leaf {
        LeafMut::Linear(linear) => f(path, &mut linear.weight),
        LeafMut::Embedding(embedding) => f(path, &mut embedding.weight),
        LeafMut::Branch | LeafMut::Param(_) => {}
    });
}

/// The shape and the kind of element of every parameter.
pub fn wanted(model: &dyn Module) -> Result<BTreeMap<String, Wanted>> {
    let describe = |(path, param): (String, &Param)| Ok((path, info(&param.get())?.into()));
    crate::params(model).into_iter().map(describe).collect()
}

/// Reads tensors once, however many parameters they go into, and no longer than they are needed.
struct Reader<'a> {
    source: &'a dyn Tensors,
    uses: HashMap<String, usize>,
    held: HashMap<String, Array>,
    done: u64,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn Tensors, plan: &Plan) -> Self {
        let mut uses = HashMap::new();
        let checked = plan.checks.iter().flat_map(|(one, other)| [one, other]);
        for name in plan.assign.values().chain(checked).flat_map(Expr::sources) {
            *uses.entry(name.to_owned()).or_insert(0) += 1;
        }
        Self { source, uses, held: HashMap::new(), done: 0 }
    }

    fn evaluate(&mut self, expr: &Expr) -> Result<Array> {
        evaluate(expr, &mut |name| self.tensor(name))
    }

    fn tensor(&mut self, name: &str) -> Result<Array> {
        let left = self.uses.get_mut(name).map_or(0, |uses| {
            *uses = uses.saturating_sub(1);
            *uses
        });
        if let Some(array) = self.held.get(name).cloned() {
            if left == 0 {
                self.held.remove(name);
            }
            return Ok(array);
        }
        let (info, bytes) = self.source.read(name)?;
        self.done += bytes.len() as u64;
        let array = from_bytes(&info, &bytes)?;
        if left > 0 {
            self.held.insert(name.to_owned(), array.clone());
        }
        Ok(array)
    }

    /// Puts a value into its parameter, evaluated: a lazy one would keep the bytes it was cut from, and belongs to
    /// the thread that made it.
    fn assign(&mut self, path: &str, param: &Param, expr: &Expr) -> Result<()> {
        let value = self.evaluate(expr).and_then(|value| {
            let value = value.as_dtype(param.dtype())?.contiguous()?;
            value.eval()?;
            Ok(value)
        });
        param.replace(value.map_err(|error| error.under(&[&path]))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Init, Linear, math, weights::header::Info};

    struct Pair {
        left: Linear,
        right: Linear,
    }
    crate::module! { impl[] Pair { left, right } }

    /// A file in memory.
    struct Memory(Header, BTreeMap<String, Vec<u8>>);

    impl Tensors for Memory {
        fn header(&self) -> &Header {
            &self.0
        }
        fn read(&self, name: &str) -> Result<(Info, Vec<u8>)> {
            Ok((self.0.tensors[name].clone(), self.1[name].clone()))
        }
    }

    fn memory(tensors: &[(&str, Array)]) -> Memory {
        let mut memory = Memory(Header::default(), BTreeMap::new());
        for (name, array) in tensors {
            let (info, bytes) = crate::weights::evaluate::to_bytes(array).unwrap();
            memory.0.tensors.insert((*name).into(), info);
            memory.1.insert((*name).into(), bytes);
        }
        memory
    }

    fn pair(dtype: Dtype) -> Pair {
        let mut init = Init::new(dtype, 0);
        let mut linear = || Linear::new(32, 4, false, &mut init).unwrap();
        Pair { left: linear(), right: linear() }
    }

    fn go_on(_: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn random(shape: &[i32]) -> Array {
        Init::default().normal(shape, 1.0).unwrap().get()
    }

    #[test]
    fn a_fused_tensor_is_read_once_and_cut() {
        let fused = random(&[8, 32]);
        let file = memory(&[("both.weight", fused.clone())]);
        let map = WeightMap::default().split("both.{p:*}", ["left.{p:*}", "right.{p:*}"], 0, [4, 4]);
        let mut pair = pair(Dtype::Float32);
        let mut last = (0, 0);
        load(&mut pair, &file, &map, Packed::Keep, &mut |done, total| {
            assert!(done >= last.0);
            last = (done, total);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(last, (8 * 32 * 4, 8 * 32 * 4));
        let right = crate::params(&pair)["right.weight"].get();
        assert!(right.eq_exact(math::slice(&fused, 0, 4, 8).unwrap()).unwrap());
    }

    #[test]
    fn everything_wrong_is_reported_at_once_and_nothing_is_read() {
        let file = memory(&[("left.weight", random(&[4, 31])), ("rigth.weight", random(&[4, 32]))]);
        let error = load(&mut pair(Dtype::Float32), &file, &WeightMap::identity(), Packed::Keep, &mut go_on);
        let report = error.unwrap_err().to_string();
        for part in ["left.weight", "[4, 32]", "F32[4,31]", "right.weight", "rigth.weight"] {
            assert!(report.contains(part), "{part} in\n{report}");
        }
    }

    #[test]
    fn packed_tensors_are_recognised_and_kept_or_unpacked() {
        let dense = random(&[4, 32]);
        let (weight, scales, biases) = mlx_rs::ops::quantize(&dense, 32, 4).unwrap();
        let file = memory(&[
            ("left.weight", weight),
            ("left.scales", scales.as_dtype(Dtype::Float16).unwrap()),
            ("left.biases", biases.as_dtype(Dtype::Float16).unwrap()),
            ("right.weight", dense),
        ]);
        let x = random(&[1, 32]);
        let run = |packed| {
            let mut pair = pair(Dtype::Float32);
            load(&mut pair, &file, &WeightMap::identity(), packed, &mut go_on).unwrap();
            assert_eq!(matches!(pair.left.weight, Weight::Affine(_)), packed == Packed::Keep);
            math::read::<f32>(&pair.left.forward(&x).unwrap()).unwrap()
        };
        for (kept, unpacked) in run(Packed::Keep).iter().zip(run(Packed::Unpack)) {
            assert!((kept - unpacked).abs() < 1e-5);
        }
    }

    #[test]
    fn tied_tensors_must_be_equal() {
        let map = WeightMap::default().rename("right.{p:*}", "right.{p:*}").tied("left.weight", "right.weight");
        struct One {
            right: Linear,
        }
        crate::module! { impl[] One { right } }
        let one = || One { right: Linear::new(32, 4, false, &mut Init::default()).unwrap() };
        let (a, b) = (random(&[4, 32]), math::scaled(&random(&[4, 32]), 2.0).unwrap());
        for (left, right, fine) in [(&a, &a, true), (&a, &b, false)] {
            let file = memory(&[("left.weight", left.clone()), ("right.weight", right.clone())]);
            let outcome = load(&mut one(), &file, &map, Packed::Keep, &mut go_on);
            assert_eq!(outcome.is_ok(), fine);
        }
    }

    #[test]
    fn loading_can_be_cancelled_and_casts_to_the_models_dtype() {
        let file = memory(&[("left.weight", random(&[4, 32])), ("right.weight", random(&[4, 32]))]);
        let mut pair = pair(Dtype::Bfloat16);
        load(&mut pair, &file, &WeightMap::identity(), Packed::Keep, &mut go_on).unwrap();
        assert_eq!(crate::params(&pair)["left.weight"].dtype(), Dtype::Bfloat16);
        let stop = &mut |_, _| ControlFlow::Break(());
        let outcome = load(&mut pair, &file, &WeightMap::identity(), Packed::Keep, stop);
        assert!(matches!(outcome, Err(Error::Cancelled)));
    }
}
