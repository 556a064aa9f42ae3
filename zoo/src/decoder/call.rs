//! A decoder called by upstream's names.

use super::Decoder;
use crate::{Arguments, Error, Outputs, Result, arguments::forward_only, positions, task::CausalLm};
use framework::{Array, Dtype, KvCache, Mask, Positions, math};
use serde::Deserialize;

/// Which hidden states are asked for.
#[derive(Deserialize)]
#[serde(untagged)]
enum HiddenStates {
    /// All or none.
    All(bool),
    /// One; a negative number counts from the last.
    One(i64),
    /// Some.
    Some(Vec<i64>),
}

impl HiddenStates {
    /// Whether number `index` of `count` is among them; a number out of range selects nothing.
    fn select(&self, index: usize, count: usize) -> bool {
        let is = |&chosen: &i64| {
            let from_the_end = count as i64 + chosen;
            [chosen, from_the_end].contains(&(index as i64))
        };
        match self {
            Self::All(all) => *all,
            Self::One(chosen) => is(chosen),
            Self::Some(chosen) => chosen.iter().any(is),
        }
    }
}

impl Decoder {
    /// `forward` of transformers' `…ForCausalLM`: `input_ids` or `inputs_embeds`, `attention_mask` (1 is seen; `[B, S]`,
    /// or boolean or additive `[B, 1, L, S]`), `position_ids`, `use_cache`, `logits_to_keep`, `output_hidden_states` (a
    /// flag, a number or several) → `logits`, and of the hidden states those that are asked for: `hidden_states.0`
    /// (embedded tokens) to the last one (after the norm).
    pub fn call_by_name(&self, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let x = match arguments.take_optional("inputs_embeds") {
            Some(embedded) => embedded,
            None => self.embed(&arguments.take("input_ids")?)?,
        };
        let [batch, length, _] = math::shape(&x)?;
        let cached = arguments.flag("use_cache", true)?;
        let past = if cached { arguments.state.first().map_or(0, KvCache::seen) } else { 0 };
        let positions = match arguments.take_optional("position_ids") {
            Some(ids) => positions::rows(&ids)?,
            None => Positions::range(past, length),
        };
        let mask = call_mask(arguments.take_optional("attention_mask"), &[batch, past + length])?;
        // Where the tokens stand follows from the state.
        arguments.take_optional("cache_position");
        let keep = arguments.integer("logits_to_keep", 0)?;
        let chosen = arguments.optional("output_hidden_states")?.unwrap_or(HiddenStates::All(false));
        for (name, only) in [("return_dict", true), ("output_attentions", false)] {
            if arguments.flag(name, only)? != only {
                return Err(Error::argument(name, format!("only {only} is answered")));
            }
        }
        if cached && arguments.state.is_empty() {
            arguments.state = self.state();
        }
        let state = cached.then_some(&mut arguments.state[..]);
        let mut states = Vec::new();
        let count = self.layers.len() + 1;
        let mut keep_state = |index: usize, x: &Array| {
            if chosen.select(index, count) {
                states.push((format!("hidden_states.{index}"), x.clone()));
            }
        };
        let hidden = self.transform(x, &positions, &mask, state, &mut keep_state)?;
        let from = if keep > 0 { (i64::from(length) - keep).max(0) as i32 } else { 0 };
        let mut outputs = vec![("logits".into(), self.logits(&math::slice(&hidden, 1, from, length)?)?)];
        outputs.extend(states);
        Ok(outputs)
    }
}

/// The mask of a call by name over `[batch, keys]`.
fn call_mask(mask: Option<Array>, seen: &[i32; 2]) -> Result<Mask> {
    match mask {
        None => Ok(Mask::causal()),
        Some(mask) if mask.ndim() == 4 && mask.dtype() == Dtype::Bool => Ok(Mask::none().visible(mask)),
        Some(mask) if mask.ndim() == 4 => Ok(Mask::none().bias(mask)),
        Some(mask) if mask.shape() == seen => Ok(Mask::causal().keys(mask)),
        Some(mask) => {
            Err(Error::argument("attention_mask", format!("shape {:?} where {seen:?} is seen", mask.shape())))
        }
    }
}
