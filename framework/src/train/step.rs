//! One step of training.

use super::{
    Average, Loss, Named, Optimiser, Rate, State, Trainable,
    clip::{clipped, global_norm},
};
use crate::{
    Array, Dtype, Error, Result,
    closure::{Closure, after},
    math,
};
use mlx_rs::{ops, random, transforms};
use serde::Deserialize;
use std::{collections::BTreeMap, rc::Rc, sync::Arc};

/// How a step is made.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The learning rate.
    pub rate: Rate,
    /// The largest norm of the gradient, if there is a bound.
    #[serde(default)]
    pub clip: Option<f64>,
    /// The running average of the parameters, if there is one.
    #[serde(default)]
    pub average: Option<Average>,
    /// Whether the step is traced once and fused. MLX compiles for a CPU with the system's C++ compiler.
    #[serde(default)]
    pub compiled: bool,
}

impl Settings {
    /// A rate, and nothing else.
    pub fn new(rate: Rate) -> Self {
        Self { rate, clip: None, average: None, compiled: false }
    }
}

/// Gradients, accumulation, clipping, optimiser and running average as one function of a [`State`], batches and numbers.
pub struct Step<'a> {
    parts: Rc<Parts<'a>>,
    rate: Rate,
    pub(super) average: Option<Average>,
    /// By the names of the arrays, which the arrays alone do not tell.
    compiled: Option<BTreeMap<Layout, Closure<'a>>>,
}

/// The names of the state's arrays, and of every batch's.
type Layout = (Vec<String>, Vec<Vec<String>>);

type Measure<'a> = dyn Fn(&Trainable<'a>, &Named, &Array) -> Result<Loss> + 'a;

struct Parts<'a> {
    trainable: Trainable<'a>,
    optimiser: Box<dyn Optimiser + 'a>,
    clip: Option<f64>,
    loss: Box<Measure<'a>>,
}

/// What a step reports.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its number; the first is 1.
    pub step: u64,
    /// The mean of the batches' losses.
    pub loss: f64,
    /// The norm of the gradient before it was clipped.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// What the loss reported beside itself, for each batch.
    pub aux: Vec<Vec<Array>>,
}

impl<'a> Step<'a> {
    /// A step that minimises `loss`, which is given the trained parameters' owner, a batch and a random key of its own.
    ///
    /// The module computes in the dtype that its parameters have, and gradients, their sum, the optimiser and the average
    /// are f32: a module in bf16 is trained in mixed precision.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(
        trainable: Trainable<'a>,
        optimiser: impl Optimiser + 'a,
        settings: Settings,
        loss: impl Fn(&Trainable<'a>, &Named, &Array) -> Result<Loss> + 'a,
    ) -> Result<Self> {
        let Settings { rate, clip, average, compiled } = settings;
        rate.check()?;
        if let Some(clip) = clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
            return Err(Error::argument("clip", format!("{clip}; the largest norm must be above 0")));
        }
        if let Some(Average { decay, .. }) = average.filter(|average| !(0.0..1.0).contains(&average.decay)) {
            return Err(Error::argument("decay", format!("{decay} is not at least 0 and below 1")));
        }
        let parts = Parts { trainable, optimiser: Box::new(optimiser), clip, loss: Box::new(loss) };
        Ok(Self { parts: Rc::new(parts), rate, average, compiled: compiled.then(BTreeMap::new) })
    }

    /// The parameters that it trains.
    pub fn trainable(&self) -> &Trainable<'a> {
        &self.parts.trainable
    }

    /// What moves them.
    pub fn optimiser(&self) -> &(dyn Optimiser + 'a) {
        &*self.parts.optimiser
    }

    /// Makes one step from the mean of the batches' losses. The batches are computed one after the other; each has its
    /// own shapes and any names. Within [`crate::memory::bounded`] the device does not run ahead, and the step takes the
    /// least memory.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the loss or the gradient is not finite: the state is as before then. Those of the loss,
    /// which leave the state as it was; those of an evaluation, after which it is not usable.
    pub fn run(&mut self, state: &mut State, batches: &[Named]) -> Result<Report> {
        let number = state.step.saturating_add(1);
        let rate = self.rate.at(state.step);
        let mut numbers = self.parts.optimiser.coefficients(number, rate);
        numbers.extend(self.average.map(|average| 1.0 - average.at(number)));
        let numbers = numbers.into_iter().map(|number| math::scalar(number, Dtype::Float32));
        let numbers = numbers.collect::<Result<Vec<_>>>()?;

        if self.average.is_some() == state.average.is_empty() {
            return Err(Error::argument("state", "it has an average and the step has none, or the other way round"));
        }
        let leaves = state.leaves();
        let names = batches.iter().map(|batch| batch.keys().cloned().collect()).collect();
        let layout: Layout = (leaves.keys().cloned().collect(), names);
        let constants = self.parts.trainable.constants();
        let inputs: Vec<Array> = leaves
            .into_values()
            .chain(batches.iter().flat_map(Named::values).cloned())
            .chain(constants)
            .chain(numbers)
            .collect();
        let outputs = match &mut self.compiled {
            None => whole(&self.parts, &state.form()?, &layout, &inputs)?,
            Some(compiled) => {
                if !compiled.contains_key(&layout) {
                    let (parts, form, names) = (Rc::clone(&self.parts), state.form()?, layout.clone());
                    let function = move |inputs: &[Array]| whole(&parts, &form, &names, inputs);
                    let function = Closure::new(Arc::default(), function)?.compiled()?;
                    compiled.insert(layout.clone(), function);
                }
                let missing = || Error::argument("batches", "no step is compiled for them");
                compiled.get(&layout).ok_or_else(missing)?.apply(&inputs)?
            }
        };
        // What they hold is then free to be written over.
        drop(inputs);

        let mut outputs = outputs.into_iter();
        let key = state.key.clone();
        *state = state.with_leaves(layout.0.into_iter().zip(outputs.by_ref()).collect(), number)?;
        let rest: Vec<Array> = outputs.collect();
        transforms::eval(state.leaves().values().chain(&rest))?;

        let [loss, norm, aux @ ..] = &rest[..] else {
            return Err(Error::argument("loss", "MLX returned none"));
        };
        let (loss, norm) = (first(loss)?, first(norm)?);
        if !(loss.is_finite() && norm.is_finite()) {
            (state.key, state.step) = (key, number.saturating_sub(1));
            return Err(Error::NotFinite { stage: format!("step {number} of training, its loss or gradient") });
        }
        let each = (aux.len() / batches.len().max(1)).max(1);
        Ok(Report { step: number, loss, norm, rate, aux: aux.chunks(each).map(<[Array]>::to_vec).collect() })
    }
}

fn first(x: &Array) -> Result<f64> {
    Ok(math::read::<f32>(x)?.first().copied().unwrap_or(f32::NAN).into())
}

/// The step as a function of arrays: state, batches, the parameters that are not trained, numbers; to state, loss, norm of
/// the gradient, and what is reported beside them.
fn whole(parts: &Parts<'_>, form: &State, layout: &Layout, inputs: &[Array]) -> Result<Vec<Array>> {
    let mut inputs = inputs.iter().cloned();
    let state = form.with_leaves(form.leaves().into_keys().zip(inputs.by_ref()).collect(), 0)?;
    let named = |names: &Vec<String>| names.iter().cloned().zip(inputs.by_ref()).collect();
    let batches: Vec<Named> = layout.1.iter().map(named).collect();
    let _constants = parts.trainable.with_constants(inputs.by_ref());
    let numbers: Vec<Array> = inputs.collect();

    let (gradients, loss, aux, key) = parts.gradients(&state, &batches)?;
    let norm = global_norm(&gradients)?;
    let gradients = parts.clip.map_or(Ok(gradients.clone()), |most| clipped(&gradients, &norm, most))?;
    let stepped = parts.moved(&state, &gradients, &numbers, key)?;

    // A step that is not finite changes nothing.
    let finite = loss.add(&norm)?.is_finite()?;
    let before = state.leaves();
    let chosen = stepped.leaves().into_iter().map(|(name, new)| match before.get(&name) {
        Some(old) => Ok(ops::select(&finite, new, old)?),
        None => Err(Error::argument(name, "is not in the state")),
    });
    chosen.chain([Ok(loss.clone()), Ok(norm.clone())]).chain(aux.into_iter().map(Ok)).collect()
}

impl Parts<'_> {
    /// The mean over the batches of gradient and loss, what was reported beside it, and the next key.
    fn gradients(&self, state: &State, batches: &[Named]) -> Result<(Named, Array, Vec<Array>, Array)> {
        let mut key = state.key.clone();
        let mut sum: Option<(Named, Array)> = None;
        let mut aux: Vec<Vec<Array>> = Vec::new();
        for batch in batches {
            let (next, own) = random::split(&key, 2)?;
            key = next;
            let batch = match &sum {
                Some((gradients, _)) => behind(batch, gradients)?,
                None => batch.clone(),
            };
            let measure = || (self.loss)(&self.trainable, &batch, &own);
            let (loss, gradients) = self.trainable.value_and_grad(&state.params, measure)?;
            let value = loss.value.as_dtype(Dtype::Float32)?;
            sum = Some(match sum {
                None => (gradients, value),
                Some((total, before)) => (added(&total, &gradients)?, before.add(value)?),
            });
            aux.push(loss.aux);
        }
        let (gradients, loss) = sum.ok_or_else(|| Error::argument("batches", "none; a step needs one"))?;
        if aux.iter().any(|one| Some(one.len()) != aux.first().map(Vec::len)) {
            return Err(Error::argument("loss", "it reports another number of arrays for another batch"));
        }
        let share = 1.0 / batches.len() as f64;
        let mean = |(path, gradient): (String, Array)| Ok((path, math::scaled(&gradient, share)?));
        let gradients =
            if batches.len() == 1 { gradients } else { gradients.into_iter().map(mean).collect::<Result<_>>()? };
        Ok((gradients, math::scaled(&loss, share)?, aux.concat(), key))
    }

    /// The state after the optimiser and the running average.
    fn moved(&self, state: &State, gradients: &Named, numbers: &[Array], key: Array) -> Result<State> {
        let (numbers, fresh) = match numbers.split_last() {
            Some((fresh, numbers)) if !state.average.is_empty() => (numbers, Some(fresh)),
            _ => (numbers, None),
        };
        let names = self.optimiser.slots();
        let mut new = State { key, ..state.clone() };
        for (path, gradient) in gradients {
            let missing = |name: &str| Error::argument(path, format!("has no array `{name}` in the state"));
            let slot = |name: &&str| {
                state.slots.get(*name).and_then(|all| all.get(path)).cloned().ok_or_else(|| missing(name))
            };
            let slots = names.iter().map(slot).collect::<Result<Vec<_>>>()?;
            let parameter = state.params.get(path).ok_or_else(|| missing("params"))?;
            let (parameter, slots) = self.optimiser.update(path, parameter, gradient, &slots, numbers)?;
            if let Some(fresh) = fresh {
                let average = state.average.get(path).ok_or_else(|| missing("average"))?;
                new.average.insert(path.clone(), Average::update(average, &parameter, fresh)?);
            }
            new.params.insert(path.clone(), parameter);
            for (name, slot) in names.iter().zip(slots) {
                new.slots.entry((*name).to_owned()).or_default().insert(path.clone(), slot);
            }
        }
        Ok(new)
    }
}

fn added(one: &Named, other: &Named) -> Result<Named> {
    let pairs = one.iter().zip(other.values());
    pairs.map(|((path, one), other)| Ok((path.clone(), math::add(one, other)?))).collect()
}

/// A batch that is not begun before these gradients are there, so that one batch's intermediate results live at a time.
fn behind(batch: &Named, gradients: &Named) -> Result<Named> {
    let arrays: Vec<Array> = batch.values().cloned().collect();
    let before: Vec<Array> = gradients.values().cloned().collect();
    Ok(batch.keys().cloned().zip(after(&arrays, &before)?).collect())
}
