//! Streams of tokens that meet in attention: the two kinds of block of an MMDiT.

use crate::{
    Activation, AnyModulation, AnyNorm, AnyPosition, At, Block, Error, Ffn, Heads, Linear, Lowered, Mod, Modulation,
    Norm, Position, Result, Score, attend, call, math, tap, within,
};
use mlx_rs::{Array, ops};

/// Blocks, one a stream, that share one attention over all tokens (MMDiT, <https://arxiv.org/abs/2403.03206>): each
/// stream has its own norms, projections, modulation and feed-forward network.
pub struct Joint<B = Block> {
    /// In the order in which their tokens are joined.
    pub streams: Vec<B>,
}
crate::module! { impl[F: Ffn, M: Modulation, N: Norm, P: Position] Joint<Block<F, M, N, P>> { streams } }

/// The tokens of one stream and what the call lends to it.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// `[B, L, D]`.
    pub x: &'a Array,
    /// Positions and condition; the mask is the joint one.
    pub at: At<'a>,
}

impl<F: Ffn, M: Modulation, N: Norm, P: Position> Joint<Block<F, M, N, P>> {
    /// Each stream `[B, Lᵢ, D]` → `[B, Lᵢ, D]`. `mask` is over all tokens in the order of the streams.
    pub fn forward(&self, streams: &[Stream], mask: &Lowered) -> Result<Vec<Array>> {
        let Some(first) = self.streams.first().filter(|_| streams.len() == self.streams.len()) else {
            let problem = format!("{} streams for {} blocks", streams.len(), self.streams.len());
            return Err(Error::argument("streams", problem));
        };
        let mut mods = Vec::new();
        let mut gathered: [Vec<Array>; 3] = Default::default();
        let mut ends = Vec::new();
        for (i, (block, Stream { x, at })) in self.streams.iter().zip(streams).enumerate() {
            let (m, parts) = within!(self.streams[i] => project(block, x, at))?;
            let [_, length, _] = math::shape(x)?;
            ends.push(ends.last().unwrap_or(&0) + length);
            mods.push(m);
            for (all, part) in gathered.iter_mut().zip(parts) {
                all.push(part);
            }
        }
        let [q, k, v] = gathered.map(|parts| ops::concatenate(&parts, 1));
        let joined = attend(&q?, &k?, &v?, mask, &first.attn.score, None)?;
        let mut start = 0;
        let mut outputs = Vec::new();
        let blocks = self.streams.iter().zip(streams).zip(mods.iter().zip(ends));
        for (i, ((block, Stream { x, .. }), (m, end))) in blocks.enumerate() {
            let y = math::slice(&joined, 1, start, end)?;
            outputs.push(within!(self.streams[i] => finish(block, x, &y, m))?);
            start = end;
        }
        Ok(outputs)
    }
}

/// The half of a block before the joint attention: its modulation, and queries, keys and values.
fn project<F: Ffn, M: Modulation, N: Norm, P: Position>(
    block: &Block<F, M, N, P>,
    x: &Array,
    at: &At,
) -> Result<([Mod; 2], [Array; 3])> {
    let mods = within!(block.modulation => block.modulation.sublayers(at, 2).and_then(Mod::exactly::<2>))?;
    let [outer, _] = &mods;
    let h = outer.before(call!(block.norm1.forward(x))?)?;
    let parts = within!(block.attn => block.attn.heads(&h, &h, at, None))?;
    Ok((mods, parts))
}

/// The half after it.
fn finish<F: Ffn, M: Modulation, N: Norm, P: Position>(
    block: &Block<F, M, N, P>,
    x: &Array,
    attended: &Array,
    [outer, inner]: &[Mod; 2],
) -> Result<Array> {
    let y = call!(block.attn.o.forward(attended))?;
    let x = outer.after(x, &y)?;
    inner.around(&x, call!(block.norm2.forward(&x))?, |h| call!(block.ffn.forward(h)))
}

/// A block whose attention and feed-forward network run side by side on one norm
/// (<https://arxiv.org/abs/2302.05442>): `x + gate · W₂ [attention(h), a(mlp(h))]`.
///
/// All that is projected from the norm is one matrix, cut after the product: queries, keys, values, hidden units.
pub struct Single<M = AnyModulation, N = AnyNorm, P = AnyPosition> {
    /// Before everything.
    pub norm: N,
    /// `[(H + 2·Hkv)·D + hidden, in]`.
    pub proj_in: Linear,
    /// On queries `[B, L, H, D]`.
    pub q_norm: N,
    /// On keys `[B, L, Hkv, D]`.
    pub k_norm: N,
    /// On queries and keys after the norms.
    pub position: P,
    /// `[out, H·D + hidden]`.
    pub proj_out: Linear,
    /// Around both at once.
    pub modulation: M,
    /// The sizes of the heads.
    pub sizes: Heads,
    /// The scores of the attention.
    pub score: Score,
    /// a.
    pub activation: Activation,
}
crate::module! {
    impl[M: Modulation, N: Norm, P: Position] Single<M, N, P> {
        norm, proj_in, q_norm, k_norm, position, proj_out, modulation
    }
}

impl<M: Modulation, N: Norm, P: Position> Single<M, N, P> {
    /// `[B, L, D]` → `[B, L, D]`.
    pub fn forward(&self, x: &Array, at: &At) -> Result<Array> {
        let [m] = within!(self.modulation => self.modulation.sublayers(at, 1).and_then(Mod::exactly))?;
        let h = m.before(call!(self.norm.forward(x))?)?;
        let all = call!(self.proj_in.forward(&h))?;
        let Heads { heads, kv_heads, head_dim } = self.sizes;
        let [queries, keys] = [heads * head_dim, kv_heads * head_dim];
        let width = math::last(&all)?;
        let [batch, length, _] = math::shape(&all)?;
        let cut = |start: i32, heads: i32| -> Result<Array> {
            let part = math::slice(&all, -1, start, start + heads * head_dim)?;
            Ok(part.reshape(&[batch, length, heads, head_dim])?)
        };
        let q = call!(self.q_norm.forward(&cut(0, heads)?))?;
        let k = call!(self.k_norm.forward(&cut(queries, kv_heads)?))?;
        let (q, k) = (self.position.rotate(&q, at)?, self.position.rotate(&k, at)?);
        let v = cut(queries + keys, kv_heads)?;
        let attended = attend(&q, &k, &v, at.mask, &self.score, None)?;
        let attended = tap::named("attended", attended);
        let hidden = self.activation.forward(&math::slice(&all, -1, queries + 2 * keys, width)?)?;
        let y = call!(self.proj_out.forward(&ops::concatenate(&[attended, hidden], -1)?))?;
        m.after(x, &y)
    }
}

/// A pair of streams joined along the tokens, observed as two: `#0` and `#1`.
///
/// Where a model goes on with all tokens as one, references still return the streams.
pub struct Joined {
    /// `[B, L₀ + L₁, D]`.
    pub tokens: Array,
    /// L₀.
    pub first: i32,
}

impl tap::Observed for Joined {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        let length = self.tokens.shape().get(1).copied().unwrap_or(0);
        let parts = (math::slice(&self.tokens, 1, 0, self.first), math::slice(&self.tokens, 1, self.first, length));
        // A pair that does not split is not observed; the slice that follows it reports why.
        let (Ok(first), Ok(second)) = parts else { return self };
        let (first, second) = (offer("#0", first), offer("#1", second));
        let tokens = ops::concatenate(&[first, second], 1).unwrap_or(self.tokens);
        Self { tokens, first: self.first }
    }
}
