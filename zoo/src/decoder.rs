//! The wiring that causal language models share: embed, transform, normalise, project.

use crate::{Arguments, Error, Outputs, Result, task::CausalLm};
use framework::{
    Array, At, Block, Embedding, KvCache, Linear, Mask, Norm, Positions, RmsNorm, Rope, call, math, module,
};

/// A decoder-only transformer over tokens (<https://arxiv.org/abs/1706.03762>, pre-norm).
pub struct Decoder<B = Block> {
    /// `[vocabulary, D]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<B>,
    /// After the last block.
    pub norm: RmsNorm,
    /// `[vocabulary, D]`; without it the embedding's table serves.
    pub lm_head: Option<Linear>,
    /// Builds the tables that a call lends to the layers.
    pub rope: Rope,
    /// How many tokens there are.
    pub vocabulary: i32,
    /// The longest sequence that the model was made for, in tokens.
    pub context: i32,
}
module! { impl[] Decoder<Block> { embed_tokens, layers, norm, lm_head } }

impl Decoder {
    /// Token ids `[B, L]` → hidden states after the last norm `[B, L, D]`.
    ///
    /// With a state (one cache a layer) the tokens continue the sequence that it holds.
    pub fn forward(
        &self,
        ids: &Array,
        positions: &Positions,
        mask: &Mask,
        mut state: Option<&mut [KvCache]>,
    ) -> framework::Result<Array> {
        let length = ids.dim(1);
        let mut x = call!(self.embed_tokens.forward(ids))?;
        let angles = self.rope.angles(positions)?;
        let keys = state.as_deref().and_then(<[KvCache]>::first).map_or(length, |cache| cache.keys(length));
        let mask = mask.lower(length, keys, x.dtype())?;
        let at = At { angles: Some(&angles), mask: &mask };
        for i in 0..self.layers.len() {
            let cache = state.as_deref_mut().and_then(|caches| caches.get_mut(i));
            x = call!(self.layers[i].forward(&x, &at, cache))?;
        }
        call!(self.norm.forward(&x))
    }

    /// Hidden states `[B, L, D]` → logits `[B, L, vocabulary]`.
    pub fn logits(&self, hidden: &Array) -> framework::Result<Array> {
        match &self.lm_head {
            Some(lm_head) => call!(lm_head.forward(hidden)),
            None => {
                let lm_head = self.embed_tokens.tied();
                call!(lm_head.forward(hidden))
            }
        }
    }

    /// `forward` of transformers' `…ForCausalLM`: `input_ids`, `attention_mask` (1 is seen; `[B, S]`, or additive
    /// `[B, 1, L, S]`), `position_ids`, `use_cache`, `logits_to_keep` → `logits`.
    pub fn call_by_name(&self, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        if method != "forward" {
            return Err(Error::argument("method", format!("`{method}` is not one of this model's: forward")));
        }
        let ids = arguments.take("input_ids")?;
        let (batch, length) = (ids.dim(0), ids.dim(1));
        let cached = arguments.flag("use_cache", true)?;
        for ordinary in ["return_dict", "output_attentions", "output_hidden_states"] {
            let usual = ordinary == "return_dict";
            if arguments.flag(ordinary, usual)? != usual {
                return Err(Error::argument(ordinary, format!("only {usual} is answered")));
            }
        }
        let past = if cached { arguments.state.first().map_or(0, KvCache::seen) } else { 0 };
        arguments.take_optional("cache_position");
        let positions = match arguments.take_optional("position_ids") {
            Some(positions) => rows(&positions)?,
            None => Positions::range(past, length),
        };
        let mask = match arguments.take_optional("attention_mask") {
            Some(mask) if mask.ndim() == 4 && mask.dtype() == framework::Dtype::Bool => Mask::none().visible(mask),
            Some(mask) if mask.ndim() == 4 => Mask::none().bias(mask),
            Some(mask) if mask.shape() == [batch, past + length] => Mask::causal().keys(mask),
            Some(mask) => {
                let problem = format!("shape {:?} where [{batch}, {}] is seen", mask.shape(), past + length);
                return Err(Error::argument("attention_mask", problem));
            }
            None => Mask::causal(),
        };
        let keep = arguments.integer("logits_to_keep", 0)?;
        if cached && arguments.state.is_empty() {
            arguments.state = self.state();
        }
        let state = cached.then_some(&mut arguments.state[..]);
        let mut hidden = self.forward(&ids, &positions, &mask, state)?;
        if keep > 0 {
            let from = (i64::from(length) - keep).max(0) as i32;
            hidden = math::slice(&hidden, 1, from, length)?;
        }
        Ok(vec![("logits".into(), self.logits(&hidden)?)])
    }
}

/// Position ids `[B, L]` on the host.
fn rows(positions: &Array) -> Result<Positions> {
    let values = math::read::<i64>(&positions.as_dtype(framework::Dtype::Int64)?)?;
    let values = values.into_iter().map(|position| position as f64).collect();
    let (batch, length) = (positions.dim(0) as usize, positions.dim(1) as usize);
    Ok(Positions::new(values, 1, batch, length)?)
}

impl CausalLm for Decoder {
    fn state(&self) -> Vec<KvCache> {
        self.layers.iter().map(|_| KvCache::growing()).collect()
    }

    fn next(&self, ids: &Array, state: &mut [KvCache]) -> framework::Result<Array> {
        let (batch, length) = (ids.dim(0), ids.dim(1));
        let past = state.first().map_or(0, KvCache::seen);
        let hidden = self.forward(ids, &Positions::range(past, length), &Mask::causal(), Some(state))?;
        let last = math::slice(&hidden, 1, length - 1, length)?;
        Ok(self.logits(&last)?.reshape(&[batch, -1])?)
    }

    fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    fn context(&self) -> i32 {
        self.context
    }
}
