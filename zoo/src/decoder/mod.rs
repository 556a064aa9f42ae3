//! The wiring that causal language models share: embed, transform, normalise, project.

mod call;
mod family;
mod names;
mod spec;

pub use family::{Family, GgufNaming, Inside, Keys, LayerType};
pub use names::Naming;
pub use spec::{Biases, DecoderSpec, LayerKind, Mixture, Wiring};

use crate::task::CausalLm;
use framework::{
    AngleTable, Angles, Array, At, Block, Embedding, Error, KvCache, Linear, Lowered, Mask, Norm, Pace, Positions,
    Result, RmsNorm, Rope, Sandwich, call, math, module,
};

/// A decoder-only transformer over tokens (<https://arxiv.org/abs/1706.03762>).
pub struct Decoder {
    /// `[vocabulary, D]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<Layer>,
    /// After the last block.
    pub norm: RmsNorm,
    /// `[vocabulary, D]`; without it the embedding's table serves.
    pub lm_head: Option<Linear>,
    /// What embedded tokens are multiplied by.
    pub embedding_scale: Option<f32>,
    /// `c tanh(logit / c)` bounds logits to ±c.
    pub logit_cap: Option<f32>,
    /// The kinds of layers.
    pub kinds: Vec<LayerKind>,
    /// The angles of each kind that has a rope.
    pub angle_tables: Vec<AngleTable>,
    /// Which kind each layer is of.
    pub kind_of: Vec<usize>,
    /// How many tokens there are.
    pub vocabulary: i32,
    /// The longest sequence that the model was made for, in tokens.
    pub context: i32,
}
module! { impl[] Decoder { embed_tokens, layers, norm, lm_head } }

/// A block of a [`Decoder`], as its [`Wiring`] has it.
pub enum Layer {
    /// With a norm before each sublayer.
    PreNorm(Block),
    /// With a norm on both sides of each sublayer.
    Sandwich(Sandwich),
}
module! { enum[] Layer { Layer::PreNorm, Layer::Sandwich } }

impl Layer {
    /// `[B, L, D]` → `[B, L, D]`; with a state, earlier calls are seen too.
    pub fn forward(&self, x: &Array, at: &At, state: Option<&mut KvCache>) -> Result<Array> {
        match self {
            Self::PreNorm(block) => block.forward(x, at, state),
            Self::Sandwich(block) => block.forward(x, at, state),
        }
    }
}

/// What a call lends to the layers of one kind.
struct Lent {
    angles: Option<Angles>,
    mask: Lowered,
}

impl Decoder {
    /// Token ids `[B, L]` → hidden states after the last norm `[B, L, D]`.
    ///
    /// With a state (one cache a layer) the tokens continue the sequence that it holds.
    pub fn forward(
        &self,
        ids: &Array,
        positions: &Positions,
        mask: &Mask,
        state: Option<&mut [KvCache]>,
    ) -> Result<Array> {
        self.transform(self.embed(ids)?, positions, mask, state, &mut |_, _| {})
    }

    /// Token ids `[B, L]` → what goes into the first layer `[B, L, D]`.
    pub fn embed(&self, ids: &Array) -> Result<Array> {
        match self.embedding_scale {
            Some(scale) => call!(self.embed_tokens.scaled(ids, scale)),
            None => call!(self.embed_tokens.forward(ids)),
        }
    }

    /// As [`forward`](Self::forward) from embedded tokens `[B, L, D]`. Offers hidden states to `each` under transformers'
    /// numbers: 0 is what goes into the first layer, `n` what leaves the `n`-th, the last one what leaves the norm.
    pub fn transform(
        &self,
        mut x: Array,
        positions: &Positions,
        mask: &Mask,
        mut state: Option<&mut [KvCache]>,
        each: &mut dyn FnMut(usize, &Array),
    ) -> Result<Array> {
        let [_, length, _] = math::shape(&x)?;
        let lend = |(kind, sees): (usize, &LayerKind)| -> Result<Lent> {
            let cache = self.kind_of.iter().position(|&of| of == kind).zip(state.as_deref());
            let keys = cache.and_then(|(layer, caches)| caches.get(layer)).map_or(length, |cache| cache.keys(length));
            let angles = |rope: &Rope| match self.angle_tables.get(kind) {
                Some(table) => table.angles(rope, positions),
                None => rope.angles(positions),
            };
            Ok(Lent {
                angles: sees.rope.as_ref().map(angles).transpose()?,
                mask: mask.clone().within(sees.window).lower(length, keys, x.dtype())?,
            })
        };
        let lent = self.kinds.iter().enumerate().map(lend).collect::<Result<Vec<Lent>>>()?;
        let mut pace = Pace::default();
        for i in 0..self.layers.len() {
            each(i, &x);
            let lent = self.kind_of.get(i).and_then(|&kind| lent.get(kind));
            let Lent { angles, mask } = lent.ok_or_else(|| Error::argument("kind_of", "every layer has a kind"))?;
            let at = At { angles: angles.as_ref(), mask, cond: None };
            let cache = state.as_deref_mut().and_then(|caches| caches.get_mut(i));
            x = call!(self.layers[i].forward(&x, &at, cache))?;
            pace.follow(&x)?;
        }
        let x = call!(self.norm.forward(&x))?;
        each(self.layers.len(), &x);
        Ok(x)
    }

    /// Chosen hidden states of texts, for a model that reads them: token ids `[B, L]` → `[B, L, D]` each, in the order in which
    /// transformers' numbers are asked for ([`transform`](Self::transform)). `padding` `[B, L]` is 0 where a token means nothing;
    /// tokens are counted from the first on, as transformers does without `position_ids`. What lies behind the last of the
    /// chosen layers is not computed.
    ///
    /// # Errors
    /// When there are not so many hidden states.
    pub fn hidden_states(&self, ids: &Array, padding: Option<&Array>, chosen: &[usize]) -> Result<Vec<Array>> {
        let count = self.layers.len() + 1;
        if let Some(number) = chosen.iter().find(|&&number| number >= count) {
            let problem = format!("there is no number {number}: they go from 0 to {}", self.layers.len());
            return Err(Error::argument("hidden_states", problem));
        }
        let [_, length] = math::shape(ids)?;
        let mask = padding.map_or(Mask::causal(), |padding| Mask::causal().keys(padding.clone()));
        let mut all = Vec::with_capacity(count);
        let mut each = |_, x: &Array| all.push(x.clone());
        self.transform(self.embed(ids)?, &Positions::range(0, length), &mask, None, &mut each)?;
        Ok(chosen.iter().filter_map(|&number| all.get(number).cloned()).collect())
    }

    /// Hidden states `[B, L, D]` → logits `[B, L, vocabulary]`.
    pub fn logits(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.lm_head {
            Some(lm_head) => call!(lm_head.forward(hidden)),
            None => {
                let lm_head = self.embed_tokens.tied();
                call!(lm_head.forward(hidden))
            }
        };
        match self.logit_cap {
            Some(cap) => math::bounded(&logits?, cap.into()),
            None => logits,
        }
    }
}

impl CausalLm for Decoder {
    fn state(&self) -> Vec<KvCache> {
        let window = |kind: &usize| self.kinds.get(*kind).and_then(|kind| kind.window);
        self.kind_of.iter().map(|kind| window(kind).map_or_else(KvCache::growing, KvCache::rotating)).collect()
    }

    fn next_padded(&self, ids: &Array, pads: &[i32], state: &mut [KvCache]) -> Result<Array> {
        let [batch, length] = math::shape(ids)?;
        let past = state.first().map_or(0, KvCache::seen);
        let (positions, mask) = padded(pads, batch, past, length)?;
        let hidden = self.forward(ids, &positions, &mask, Some(state))?;
        let last = math::slice(&hidden, 1, length - 1, length)?;
        Ok(self.logits(&last)?.reshape(&[batch, -1])?)
    }

    fn next_of_each(&self, ids: &Array, state: &mut [KvCache]) -> Result<Array> {
        let [_, length] = math::shape(ids)?;
        let past = state.first().map_or(0, KvCache::seen);
        self.logits(&self.forward(ids, &Positions::range(past, length), &Mask::causal(), Some(state))?)
    }

    fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    fn context(&self) -> i32 {
        self.context
    }
}

/// Where `length` tokens after `past` stand, and what they see, in rows that began with so many pads.
fn padded(pads: &[i32], batch: i32, past: i32, length: i32) -> Result<(Positions, Mask)> {
    if pads.iter().all(|&pads| pads == 0) {
        return Ok((Positions::range(past, length), Mask::causal()));
    }
    if pads.len() as i32 != batch {
        return Err(Error::argument("pads", format!("{} numbers for {batch} rows", pads.len())));
    }
    let keys = past + length;
    let places = |&pads: &i32| (past..keys).map(|place| (place - pads).max(0)).collect();
    let seen: Vec<bool> = pads.iter().flat_map(|&pads| (0..keys).map(move |key| key >= pads)).collect();
    let rows: Vec<Vec<i32>> = pads.iter().map(places).collect();
    Ok((Positions::rows(&rows)?, Mask::causal().keys(math::array(&seen, &[batch, keys])?)))
}
