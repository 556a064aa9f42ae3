//! The transformer block with norms on both sides of its sublayers.

use crate::{
    AnyFfn, AnyModulation, AnyNorm, AnyPosition, At, Attention, Ffn, KvCache, Mod, Modulation, Norm, Position, Result,
    call, within,
};
use mlx_rs::Array;

/// The sandwich-norm transformer block: `x ← x + norm2(attn(norm1(x)))`, then `x ← x + ffn_norm2(ffn(ffn_norm1(x)))`
/// (<https://arxiv.org/abs/2105.13290>), with a modulation around either step, outside both norms, where a condition
/// acts on it (Lumina, Z-Image).
pub struct Sandwich<F = AnyFfn, M = AnyModulation, N = AnyNorm, P = AnyPosition> {
    /// Before attention.
    pub norm1: N,
    /// Tokens exchange.
    pub attn: Attention<N, P>,
    /// After attention.
    pub norm2: N,
    /// Before the feed-forward network.
    pub ffn_norm1: N,
    /// Tokens compute.
    pub ffn: F,
    /// After the feed-forward network.
    pub ffn_norm2: N,
    /// How a condition acts on both: it shifts and scales what `norm1` and `ffn_norm1` return, and gates what `norm2`
    /// and `ffn_norm2` return.
    pub modulation: M,
}
crate::module! {
    impl[F: Ffn, M: Modulation, N: Norm, P: Position] Sandwich<F, M, N, P> {
        norm1, attn, norm2, ffn_norm1, ffn, ffn_norm2, modulation
    }
}

impl<F: Ffn, M: Modulation, N: Norm, P: Position> Sandwich<F, M, N, P> {
    /// `[B, L, D]` → `[B, L, D]`; with a state, earlier calls are seen too.
    pub fn forward(&self, x: &Array, at: &At, state: Option<&mut KvCache>) -> Result<Array> {
        let [outer, inner] = within!(self.modulation => self.modulation.sublayers(at, 2).and_then(Mod::exactly))?;
        let h = outer.before(call!(self.norm1.forward(x))?)?;
        let y = call!(self.norm2.forward(&call!(self.attn.forward(&h, at, state))?))?;
        let x = outer.after(x, &y)?;
        let h = inner.before(call!(self.ffn_norm1.forward(&x))?)?;
        let y = call!(self.ffn_norm2.forward(&call!(self.ffn.forward(&h))?))?;
        inner.after(&x, &y)
    }
}
