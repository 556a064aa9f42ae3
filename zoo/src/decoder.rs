//! The wiring that causal language models share: embed, transform, normalise, project.

use crate::{Arguments, Error, Outputs, Result, arguments::forward_only, positions, task::CausalLm};
use framework::{
    Activation, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Array, At, Attention, Block, Dtype, Embedding, Glu, Heads,
    Init, KvCache, Linear, Mask, Norm, Positions, RmsNorm, Rope, call, math, module,
};

/// A decoder-only transformer over tokens (<https://arxiv.org/abs/1706.03762>, pre-norm).
pub struct Decoder {
    /// `[vocabulary, D]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<Block>,
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
module! { impl[] Decoder { embed_tokens, layers, norm, lm_head } }

/// The sizes and choices of a [`Decoder`] whose blocks are alike: grouped-query attention with a rope, and a gated
/// feed-forward network.
pub struct DecoderSpec {
    /// How many tokens there are.
    pub vocabulary: i32,
    /// The longest sequence, in tokens.
    pub context: i32,
    /// Features of a token, D.
    pub dim: i32,
    /// Units of the feed-forward network.
    pub hidden: i32,
    /// How many blocks.
    pub layers: i32,
    /// The heads of the attention.
    pub sizes: Heads,
    /// The rope of the attention.
    pub rope: Rope,
    /// ε of the norms.
    pub eps: f32,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Whether the attention's projections have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward network has biases.
    pub ffn_bias: bool,
    /// Whether the embedding's table serves as the head.
    pub tied: bool,
}

impl DecoderSpec {
    /// Builds the model, lazily.
    pub fn build(&self, init: &mut Init) -> framework::Result<Decoder> {
        let &Self { vocabulary, context, dim, eps, .. } = self;
        let embed_tokens = Embedding::new(vocabulary, dim, init)?;
        let layers = (0..self.layers).map(|_| self.block(init)).collect::<framework::Result<_>>()?;
        let norm = RmsNorm::new(dim, eps, init)?;
        let lm_head = (!self.tied).then(|| Linear::new(dim, vocabulary, false, init)).transpose()?;
        Ok(Decoder { embed_tokens, layers, norm, lm_head, rope: self.rope.clone(), vocabulary, context })
    }

    fn block(&self, init: &mut Init) -> framework::Result<Block> {
        let &Self { dim, hidden, sizes, activation, attention_bias, ffn_bias, .. } = self;
        let norm = |init: &mut Init| Ok::<_, framework::Error>(AnyNorm::Rms(RmsNorm::new(dim, self.eps, init)?));
        Ok(Block {
            norm1: norm(init)?,
            attn: Attention {
                position: AnyPosition::Rope(self.rope.clone()),
                ..Attention::plain(sizes, dim, attention_bias, init)?
            },
            norm2: norm(init)?,
            ffn: AnyFfn::Glu(Glu::new(dim, hidden, activation, ffn_bias, init)?),
            modulation: AnyModulation::None,
        })
    }
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
    ) -> framework::Result<Array> {
        let x = call!(self.embed_tokens.forward(ids))?;
        self.transform(x, positions, mask, state, &mut |_| {})
    }

    /// As [`forward`](Self::forward) from embedded tokens `[B, L, D]`; offers what goes into each layer to `each`.
    pub fn transform(
        &self,
        mut x: Array,
        positions: &Positions,
        mask: &Mask,
        mut state: Option<&mut [KvCache]>,
        each: &mut dyn FnMut(&Array),
    ) -> framework::Result<Array> {
        let [_, length, _] = math::shape(&x)?;
        let angles = self.rope.angles(positions)?;
        let keys = state.as_deref().and_then(<[KvCache]>::first).map_or(length, |cache| cache.keys(length));
        let mask = mask.lower(length, keys, x.dtype())?;
        let at = At { angles: Some(&angles), mask: &mask, cond: None };
        for i in 0..self.layers.len() {
            each(&x);
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

    /// `forward` of transformers' `…ForCausalLM`: `input_ids` or `inputs_embeds`, `attention_mask` (1 is seen; `[B, S]`,
    /// or boolean or additive `[B, 1, L, S]`), `position_ids`, `use_cache`, `logits_to_keep`, `output_hidden_states` →
    /// `logits`, and `hidden_states.0` (embedded tokens) to the last one (after the norm).
    pub fn call_by_name(&self, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let x = match arguments.take_optional("inputs_embeds") {
            Some(embedded) => embedded,
            None => call!(self.embed_tokens.forward(&arguments.take("input_ids")?))?,
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
        let all = arguments.flag("output_hidden_states", false)?;
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
        let hidden = self.transform(x, &positions, &mask, state, &mut |x| states.push(x.clone()))?;
        let from = if keep > 0 { (i64::from(length) - keep).max(0) as i32 } else { 0 };
        let mut outputs = vec![("logits".into(), self.logits(&math::slice(&hidden, 1, from, length)?)?)];
        if all {
            states.push(hidden);
            outputs.extend(states.into_iter().enumerate().map(|(i, x)| (format!("hidden_states.{i}"), x)));
        }
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

impl CausalLm for Decoder {
    fn state(&self) -> Vec<KvCache> {
        self.layers.iter().map(|_| KvCache::growing()).collect()
    }

    fn next(&self, ids: &Array, state: &mut [KvCache]) -> framework::Result<Array> {
        let [batch, length] = math::shape(ids)?;
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
