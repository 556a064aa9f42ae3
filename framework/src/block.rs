//! Transformer blocks.

use crate::{
    AnyFfn, AnyModulation, AnyNorm, AnyPosition, At, Attention, Ffn, KvCache, Mod, Modulation, Norm, Position, Result,
    call, within,
};
use mlx_rs::Array;

/// The pre-norm transformer block: `x ← x + attn(norm1(x))`, then `x ← x + ffn(norm2(x))`
/// (<https://arxiv.org/abs/2002.04745>), with a modulation around either step where a condition acts on it.
///
/// ```
/// use framework::*;
/// let mut init = Init::default();
/// let sizes = Heads { heads: 4, kv_heads: 2, head_dim: 8 };
/// let rope = Rope::new(8, 10_000.0, Layout::HalfSplit);
/// let block: Block = Block {
///     norm1: AnyNorm::Rms(RmsNorm::new(32, 1e-6, &mut init)?),
///     attn: Attention {
///         qkv: Qkv::separate(&sizes, 32, false, &mut init)?,
///         o: Linear::new(32, 32, false, &mut init)?,
///         q_norm: AnyNorm::None,
///         k_norm: AnyNorm::None,
///         position: AnyPosition::Rope(rope.clone()),
///         sinks: None,
///         sizes,
///         score: Score::of(8),
///     },
///     norm2: AnyNorm::Rms(RmsNorm::new(32, 1e-6, &mut init)?),
///     ffn: AnyFfn::Glu(Glu::new(32, 64, Activation::Silu, false, &mut init)?),
///     modulation: AnyModulation::None,
/// };
/// let x = init.normal(&[1, 5, 32], 1.0)?.get();
/// let angles = rope.angles(&Positions::range(0, 5))?;
/// let mask = Mask::causal().lower(5, 5, x.dtype())?;
/// let y = block.forward(&x, &At { angles: Some(&angles), mask: &mask, cond: None }, None)?;
/// assert_eq!(y.shape(), [1, 5, 32]);
/// # Ok::<(), framework::Error>(())
/// ```
pub struct Block<F = AnyFfn, M = AnyModulation, N = AnyNorm, P = AnyPosition> {
    /// Before attention.
    pub norm1: N,
    /// Tokens exchange.
    pub attn: Attention<N, P>,
    /// Before the feed-forward network.
    pub norm2: N,
    /// Tokens compute.
    pub ffn: F,
    /// How a condition acts on both.
    pub modulation: M,
}
crate::module! {
    impl[F: Ffn, M: Modulation, N: Norm, P: Position] Block<F, M, N, P> { norm1, attn, norm2, ffn, modulation }
}

impl<F: Ffn, M: Modulation, N: Norm, P: Position> Block<F, M, N, P> {
    /// `[B, L, D]` → `[B, L, D]`; with a state, earlier calls are seen too.
    pub fn forward(&self, x: &Array, at: &At, state: Option<&mut KvCache>) -> Result<Array> {
        let [outer, inner] = within!(self.modulation => self.modulation.sublayers(at, 2).and_then(Mod::exactly))?;
        let x = outer.around(x, call!(self.norm1.forward(x))?, |h| call!(self.attn.forward(h, at, state)))?;
        inner.around(&x, call!(self.norm2.forward(&x))?, |h| call!(self.ffn.forward(h)))
    }
}
