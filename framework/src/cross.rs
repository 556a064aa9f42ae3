//! The transformer block whose tokens also attend to a context.

use crate::{
    AnyFfn, AnyModulation, AnyNorm, AnyPosition, At, Attention, Context, Ffn, Mod, Modulation, Norm, Position, Result,
    call, math, within,
};
use mlx_rs::{Array, Dtype};

/// Tokens attend to themselves, then to a context, then compute: `x ← x + attn1(norm1(x))`,
/// `x ← x + attn2(norm2(x), context)`, `x ← x + ffn(norm3(x))` (<https://arxiv.org/abs/1706.03762>, the decoder's), with
/// a modulation around the first step and the last where a condition acts on them (PixArt, Wan, LTX; without one, the
/// UNets').
pub struct Cross<F = AnyFfn, M = AnyModulation, N = AnyNorm, P = AnyPosition> {
    /// Before self-attention.
    pub norm1: N,
    /// Tokens exchange.
    pub attn1: Attention<N, P>,
    /// Before cross-attention.
    pub norm2: N,
    /// Tokens ask the context; its keys and values are projected from the context's width.
    pub attn2: Attention<N>,
    /// Before the feed-forward network.
    pub norm3: N,
    /// Tokens compute.
    pub ffn: F,
    /// How a condition acts on self-attention and the feed-forward network.
    pub modulation: M,
    /// In what norms, modulation and residuals are computed, where that is wider than the tokens: Wan's f32. What
    /// attention and the feed-forward network take, and the tokens after each step, are rounded.
    pub accumulate: Option<Dtype>,
}
crate::module! {
    impl[F: Ffn, M: Modulation, N: Norm, P: Position] Cross<F, M, N, P> {
        norm1, attn1, norm2, attn2, norm3, ffn, modulation
    }
}

impl<F: Ffn, M: Modulation, N: Norm, P: Position> Cross<F, M, N, P> {
    /// `x` `[B, L, D]` → `[B, L, D]`; positions, mask and condition in `at` are those of `x`.
    pub fn forward(&self, x: &Array, context: &Context, at: &At) -> Result<Array> {
        let [outer, inner] = within!(self.modulation => self.modulation.sublayers(at, 2).and_then(Mod::exactly))?;
        let dtype = x.dtype();
        let wide = self.accumulate.unwrap_or(dtype);
        let [widen, narrow] = [wide, dtype].map(|dtype| move |x: &Array| x.as_dtype(dtype));

        let x = widen(x)?;
        let h = outer.before(call!(self.norm1.forward(&x))?)?;
        let y = call!(self.attn1.forward(&narrow(&h)?, at, None))?;
        let x = widen(&narrow(&outer.after(&x, &widen(&y)?)?)?)?;

        let h = call!(self.norm2.forward(&x))?;
        let y = call!(self.attn2.cross(&narrow(&h)?, context))?;
        let x = widen(&narrow(&math::add(&x, &y)?)?)?;

        let h = inner.before(call!(self.norm3.forward(&x))?)?;
        let y = call!(self.ffn.forward(&narrow(&h)?))?;
        Ok(narrow(&inner.after(&x, &widen(&y)?)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Cond, Heads, Init, LayerNorm, Linear, Lowered, Mlp, Qkv, Table, tap};

    fn block(init: &mut Init) -> Cross {
        let sizes = Heads { heads: 2, kv_heads: 2, head_dim: 8 };
        let mut attn2 = Attention::plain(sizes, 16, true, init).unwrap();
        let [k, v] = [(); 2].map(|()| Linear::new(6, 16, true, init).unwrap());
        attn2.qkv = Qkv::Separate { q: Linear::new(16, 16, true, init).unwrap(), k, v };
        Cross {
            norm1: AnyNorm::Layer(LayerNorm::plain(1e-6)),
            attn1: Attention::plain(sizes, 16, true, init).unwrap(),
            norm2: AnyNorm::None,
            attn2,
            norm3: AnyNorm::Layer(LayerNorm::plain(1e-6)),
            ffn: AnyFfn::Mlp(Mlp::new(16, 32, Activation::GeluTanh, true, init).unwrap()),
            modulation: AnyModulation::Table(Table::new(16, 2, init).unwrap()),
            accumulate: None,
        }
    }

    #[test]
    fn only_norms_modulation_and_residuals_are_wide() {
        let mut init = Init::new(Dtype::Bfloat16, 0);
        let mut block = block(&mut init);
        let [x, text, chunks] =
            [&[2, 5, 16][..], &[2, 3, 6], &[2, 5, 6, 16]].map(|shape| init.normal(shape, 1.0).unwrap().get());
        let chunks = chunks.as_dtype(Dtype::Float32).unwrap();
        let at = At { angles: None, mask: &Lowered::None, cond: Some(Cond::Chunks(&chunks)) };
        for (accumulate, inside) in [(None, Dtype::Bfloat16), (Some(Dtype::Float32), Dtype::Float32)] {
            block.accumulate = accumulate;
            let mut seen = vec![];
            let mut sink = |path: &str, x: &Array| {
                seen.extend((!path.contains('.')).then(|| (path.to_owned(), x.dtype())));
                None
            };
            let context = Context { tokens: &text, mask: &Lowered::None };
            let y = tap::with(&mut sink, || block.forward(&x, &context, &at)).unwrap();
            assert_eq!((y.shape(), y.dtype()), (x.shape(), Dtype::Bfloat16));
            let norms = ["norm1", "norm2", "norm3"].map(|path| (path.to_owned(), inside));
            let parts = ["attn1", "attn2", "ffn"].map(|path| (path.to_owned(), Dtype::Bfloat16));
            let expected: Vec<_> = norms.into_iter().zip(parts).flat_map(|(norm, part)| [norm, part]).collect();
            assert_eq!(seen, expected);
        }
    }
}
