//! Everything that training changes.

use super::{Optimiser, Step};
use crate::{Array, Dtype, Error, Result, math};
use mlx_rs::{ops, random, transforms};
use std::collections::BTreeMap;

/// Arrays by name.
pub type Named = BTreeMap<String, Array>;

/// Everything that a step changes, and nothing else: two equal states and equal batches give equal steps.
#[derive(Clone, Debug)]
pub struct State {
    /// The trained parameters in f32, by path, whatever the dtype of the module.
    pub params: Named,
    /// The optimiser's arrays: by its name for them, then by path.
    pub slots: BTreeMap<String, Named>,
    /// The running average of the parameters, by path; empty without one.
    pub average: Named,
    /// The random key of the next step, `[2]` u32.
    pub key: Array,
    /// How many steps were made; the position of every schedule.
    pub step: u64,
}

impl State {
    /// The beginning: parameters as they are in the module, the optimiser's arrays zero.
    pub fn begin(step: &Step<'_>, seed: u64) -> Result<Self> {
        let wide = |(path, value): (String, Array)| Ok((path, value.as_dtype(Dtype::Float32)?));
        let params = step.trainable().values().into_iter().map(wide).collect::<Result<Named>>()?;
        let state = Self {
            slots: Self::zeros(&params, step.optimiser())?,
            average: if step.average.is_some() { params.clone() } else { Named::new() },
            params,
            key: random::key(seed)?,
            step: 0,
        };
        state.settle()?;
        Ok(state)
    }

    fn zeros(params: &Named, optimiser: &dyn Optimiser) -> Result<BTreeMap<String, Named>> {
        let zero = |(path, value): (&String, &Array)| Ok((path.clone(), ops::zeros_like(value)?));
        let slot = |&name: &&str| Ok((name.to_owned(), params.iter().map(zero).collect::<Result<_>>()?));
        optimiser.slots().iter().map(slot).collect()
    }

    /// What was learned: the running average, or the parameters where there is none.
    pub fn weights(&self) -> &Named {
        if self.average.is_empty() { &self.params } else { &self.average }
    }

    /// Evaluates every array, which cuts it off from all that it was computed from.
    ///
    /// # Errors
    /// When the evaluation fails; the state is not usable then.
    pub fn settle(&self) -> Result<()> {
        Ok(transforms::eval(self.leaves().values())?)
    }

    /// Every array by a name of its own: `params.PATH`, `slots.SLOT.PATH`, `average.PATH`, `key`.
    pub fn leaves(&self) -> Named {
        let params = self.params.iter().map(|(path, value)| (format!("params.{path}"), value.clone()));
        let average = self.average.iter().map(|(path, value)| (format!("average.{path}"), value.clone()));
        let slots = self.slots.iter().flat_map(|(slot, values)| {
            values.iter().map(move |(path, value)| (format!("slots.{slot}.{path}"), value.clone()))
        });
        params.chain(average).chain(slots).chain([("key".to_owned(), self.key.clone())]).collect()
    }

    /// A state of the same names, whose arrays are empty.
    pub(super) fn form(&self) -> Result<Self> {
        let nothing = math::scalar(0.0, Dtype::Float32)?;
        let leaves = self.leaves().into_keys().map(|name| (name, nothing.clone())).collect();
        self.with_leaves(leaves, self.step)
    }

    /// A state of the same form with other arrays.
    ///
    /// # Errors
    /// When one is missing.
    pub(super) fn with_leaves(&self, mut leaves: Named, step: u64) -> Result<Self> {
        let mut take = |name: String| {
            leaves.remove(&name).ok_or_else(|| Error::argument(name, "is missing among the arrays of the state"))
        };
        let mut all = |prefix: &str, like: &Named| {
            let one = |path: &String| Ok((path.clone(), take(format!("{prefix}.{path}"))?));
            like.keys().map(one).collect::<Result<Named>>()
        };
        let params = all("params", &self.params)?;
        let average = all("average", &self.average)?;
        let slot = |(slot, like): (&String, &Named)| Ok((slot.clone(), all(&format!("slots.{slot}"), like)?));
        let slots = self.slots.iter().map(slot).collect::<Result<_>>()?;
        Ok(Self { params, average, slots, key: take("key".into())?, step })
    }
}
