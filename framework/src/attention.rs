//! Attention: one struct for every model, one function for every score.

use crate::{
    AnyNorm, AnyPosition, Cond, Error, Init, KvCache, Linear, Lowered, Module, Norm, Param, Position, Result, call,
    cuda::Matrix, host, math, memory, position::Angles, tap,
};
use mlx_rs::{Array, fast, ops};

/// What a call lends to every layer: where the tokens stand and what they may see.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The rope's tables for the queries of this call.
    pub angles: Option<&'a Angles>,
    /// The mask of this call.
    pub mask: &'a Lowered,
    /// The condition of this call for modulated blocks.
    pub cond: Option<Cond<'a>>,
}

/// What tokens attend to beside themselves: a text, an image.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// `[B, S, C]`.
    pub tokens: &'a Array,
    /// Which of them a token sees.
    pub mask: &'a Lowered,
}

/// Where queries, keys and values come from; a checkpoint's grouping is kept, because it is what its adapters name.
pub enum Qkv {
    /// Three projections.
    Separate {
        /// `[H·D, in]`.
        q: Linear,
        /// `[Hkv·D, in]`.
        k: Linear,
        /// `[Hkv·D, in]`.
        v: Linear,
    },
    /// One projection, cut after the product: queries, keys, values.
    Fused {
        /// `[(H + 2·Hkv)·D, in]`.
        qkv: Linear,
    },
    /// Queries, and one projection for keys and values.
    KeyValue {
        /// `[H·D, in]`.
        q: Linear,
        /// `[2·Hkv·D, in]`.
        kv: Linear,
    },
    /// Keys are values.
    KeyIsValue {
        /// `[H·D, in]`.
        q: Linear,
        /// `[Hkv·D, in]`.
        k: Linear,
    },
    /// Keys and values are another layer's: its state holds them.
    Shared {
        /// `[H·D, in]`.
        q: Linear,
    },
}

crate::module! {
    fields[] Qkv { Separate { q, k, v }, Fused { qkv }, KeyValue { q, kv }, KeyIsValue { q, k }, Shared { q } }
}

/// Queries, and keys and values unless another layer has them: `[B, L, H·D]` each.
pub(crate) struct Projected {
    pub q: Array,
    pub kv: Option<(Array, Array)>,
}

/// Queries `[B, L, H, D]` and keys `[B, L, Hkv, D]` after their norms and rotation; observed as `rotated#q`, `#k`.
struct Rotated {
    q: Array,
    k: Array,
}
crate::observed! { Rotated { q, k } }

impl Qkv {
    /// Three separate projections.
    pub fn separate(sizes: &Heads, input: i32, bias: bool, init: &mut Init) -> Result<Self> {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        Ok(Self::Separate {
            q: Linear::new(input, queries, bias, init)?,
            k: Linear::new(input, keys, bias, init)?,
            v: Linear::new(input, keys, bias, init)?,
        })
    }

    pub(crate) fn project(&self, x: &Array, context: &Array, sizes: &Heads) -> Result<Projected> {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        match self {
            Self::Separate { q, k, v } => {
                if let Some([q, k, v]) = of_one_token([q, k, v], x, context)? {
                    return Ok(Projected { q, kv: Some((k, v)) });
                }
                let q = call!(q.forward(x))?;
                let k = call!(k.forward(context))?;
                Ok(Projected { q, kv: Some((k, call!(v.forward(context))?)) })
            }
            Self::Fused { qkv } => {
                let all = call!(qkv.forward(x))?;
                let cut = |start, length| math::slice(&all, -1, start, start + length);
                let kv = (cut(queries, keys)?, cut(queries + keys, keys)?);
                Ok(Projected { q: cut(0, queries)?, kv: Some(kv) })
            }
            Self::KeyValue { q, kv } => {
                let q = call!(q.forward(x))?;
                Ok(Projected { q, kv: Some(math::halves(&call!(kv.forward(context))?)?) })
            }
            Self::KeyIsValue { q, k } => {
                let q = call!(q.forward(x))?;
                let k = call!(k.forward(context))?;
                Ok(Projected { q, kv: Some((k.clone(), k)) })
            }
            Self::Shared { q } => Ok(Projected { q: call!(q.forward(x))?, kv: None }),
        }
    }
}

/// What three layers make of one token, where there is a kernel for that.
fn of_one_token(layers: [&Linear; 3], x: &Array, context: &Array) -> Result<Option<[Array; 3]>> {
    if !std::ptr::eq(x, context) {
        return Ok(None);
    }
    match Linear::matrices_for_row(layers, x)? {
        Some([q, k, v]) if q.is_like(&k) && q.is_like(&v) => Matrix::products(x, [&q, &k, &v]).map(Some),
        _ => Ok(None),
    }
}

/// How many heads of what size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries, H.
    pub heads: i32,
    /// Heads of keys and values, Hkv, which divides H: grouped-query attention.
    pub kv_heads: i32,
    /// Features a head, D.
    pub head_dim: i32,
}

/// `softmax(q kᵀ · scale + mask) v` over heads, with everything around it that models differ in
/// (<https://arxiv.org/abs/1706.03762>; grouped queries <https://arxiv.org/abs/2305.13245>).
pub struct Attention<N = AnyNorm, P = AnyPosition> {
    /// The projections in.
    pub qkv: Qkv,
    /// The projection out, `[out, H·D]`.
    pub o: Linear,
    /// On queries `[B, L, H, D]`.
    pub q_norm: N,
    /// On keys `[B, L, Hkv, D]`.
    pub k_norm: N,
    /// On queries and keys after the norms.
    pub position: P,
    /// `[H]`: a learned score that no key has, which takes a share of the softmax (<https://arxiv.org/abs/2309.17453>).
    pub sinks: Option<Param>,
    /// The sizes of the heads.
    pub sizes: Heads,
    /// What scores are multiplied by and bounded to.
    pub score: Score,
}

impl<N: Norm, P: Position> Module for Attention<N, P> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.qkv.each(f);
        f("o", &self.o);
        f("q_norm", &self.q_norm);
        f("k_norm", &self.k_norm);
        f("position", &self.position);
        f("sinks", &self.sinks);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.qkv.each_mut(f);
        f("o", &mut self.o);
        f("q_norm", &mut self.q_norm);
        f("k_norm", &mut self.k_norm);
        f("position", &mut self.position);
        f("sinks", &mut self.sinks);
    }
}

impl Attention {
    /// Separate projections from and to `dim` features, all with a bias or none; neither norms nor positions; scores
    /// scaled by `1/√D`. What differs is set afterwards: `Attention { position, ..Attention::plain(…)? }`.
    pub fn plain(sizes: Heads, dim: i32, bias: bool, init: &mut Init) -> Result<Self> {
        Ok(Self {
            qkv: Qkv::separate(&sizes, dim, bias, init)?,
            o: Linear::new(sizes.heads * sizes.head_dim, dim, bias, init)?,
            q_norm: AnyNorm::None,
            k_norm: AnyNorm::None,
            position: AnyPosition::None,
            sinks: None,
            sizes,
            score: Score::of(sizes.head_dim),
        })
    }
}

impl<N: Norm, P: Position> Attention<N, P> {
    /// Self-attention: `x` `[B, L, in]` → `[B, L, out]`. With a state, keys and values of earlier calls are seen too.
    pub fn forward(&self, x: &Array, at: &At, state: Option<&mut KvCache>) -> Result<Array> {
        let heads = self.heads(x, x, at, state)?;
        self.gather(heads, at.mask)
    }

    /// Cross-attention: `x` `[B, L, in]` asks a context of its own width → `[B, L, out]`. Neither is rotated, since one
    /// table of positions does not serve both.
    ///
    /// # Errors
    /// When queries and keys are one projection, or there is a rope.
    pub fn cross(&self, x: &Array, context: &Context) -> Result<Array> {
        if let Qkv::Fused { .. } = self.qkv {
            let problem = "one projection for queries and keys cannot attend to a context; project them separately";
            return Err(Error::argument("qkv", problem));
        }
        let at = At { angles: None, mask: context.mask, cond: None };
        let heads = self.heads(x, context.tokens, &at, None)?;
        self.gather(heads, context.mask)
    }

    /// Attends and projects out.
    fn gather(&self, [q, k, v]: [Array; 3], mask: &Lowered) -> Result<Array> {
        let sinks = self.sinks.as_ref().map(Param::get);
        let y = attend(&q, &k, &v, mask, &self.score, sinks.as_ref())?;
        call!(self.o.forward(&tap::named("attended", y)))
    }

    /// Queries `[B, L, H, D]`, keys and values `[B, S, Hkv, D]`, normalised, rotated and joined with the state: what
    /// joint attention gathers from several streams.
    pub fn heads(&self, x: &Array, context: &Array, at: &At, state: Option<&mut KvCache>) -> Result<[Array; 3]> {
        let Projected { q, kv } = self.qkv.project(x, context, &self.sizes)?;
        let q = call!(self.q_norm.forward(&split_heads(&q, self.sizes.heads)?))?;
        let q = self.position.rotate(&q, at)?;
        let Some((k, v)) = kv else {
            let (k, v) = KvCache::borrowed(state)?;
            return Ok([q, k, v]);
        };
        let k = call!(self.k_norm.forward(&split_heads(&k, self.sizes.kv_heads)?))?;
        let k = self.position.rotate(&k, at)?;
        let Rotated { q, k } = tap::named("rotated", Rotated { q, k });
        let v = split_heads(&v, self.sizes.kv_heads)?;
        let (k, v) = match state {
            Some(state) => state.update(k, v)?,
            None => (k, v),
        };
        Ok([q, k, v])
    }
}

/// `[B, L, H·D]` → `[B, L, H, D]`.
fn split_heads(x: &Array, heads: i32) -> Result<Array> {
    let [batch, length, _] = math::shape(x)?;
    Ok(x.reshape(&[batch, length, heads, -1])?)
}

/// What happens to scores before the softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// What `q kᵀ` is multiplied by, `1/√D` in the paper.
    pub scale: f32,
    /// `c tanh(score / c)` bounds scores to ±c (<https://arxiv.org/abs/2408.00118>).
    pub softcap: Option<f32>,
}

impl Score {
    /// `1/√D`, not bounded.
    pub fn of(head_dim: i32) -> Self {
        Self { scale: (head_dim as f32).sqrt().recip(), softcap: None }
    }
}

/// `softmax(q kᵀ · scale + mask) v`: queries `[B, L, H, D]`, keys and values `[B, S, Hkv, D]` → `[B, L, H·D]`.
///
/// `sinks` `[H]` are scores of a key without a value. A query that sees no key gets a finite value.
///
/// # Errors
/// When shapes do not fit, or Hkv does not divide H.
pub fn attend(q: &Array, k: &Array, v: &Array, mask: &Lowered, score: &Score, sinks: Option<&Array>) -> Result<Array> {
    match host::attend([q, k, v], mask, score, sinks)? {
        Some(y) => Ok(y),
        None => plain(q, k, v, mask, score, sinks),
    }
}

/// The same in MLX's own operations.
pub(crate) fn plain(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: &Lowered,
    score: &Score,
    sinks: Option<&Array>,
) -> Result<Array> {
    let [q, k, v] = [q, k, v].map(|x| x.transpose_axes(&[0, 2, 1, 3]));
    let (q, k, v) = (q?, k?, v?);
    let y = by_rows(&q, &k, &v, mask, score, sinks, rows_at_once(&q, &k, score)?)?;
    let [batch, _, length, _] = math::shape(&y)?;
    Ok(y.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, length, -1])?)
}

/// Scores that are held at once where no fused kernel spares them: 1 GiB in f32.
const SCORES: i64 = 1 << 28;
/// The largest head that MLX's fused kernels take.
const FUSED_HEAD: i32 = 256;

/// How many queries are answered at once; heads first. Whoever watches sees the scores that are held, as `scores`.
fn rows_at_once(q: &Array, k: &Array, score: &Score) -> Result<i32> {
    let [batch, heads, queries, dim] = math::shape(q)?;
    let [_, _, keys, _] = math::shape(k)?;
    let row = i64::from(batch).saturating_mul(heads.into()).saturating_mul(keys.into());
    if score.softcap.is_none() && dim <= FUSED_HEAD && !memory::is_on_cpu()? {
        return Ok(queries);
    }
    let rows = (SCORES / row.max(1)).clamp(1, queries.max(1).into()) as i32;
    tap::ask("scores", &ops::zeros_dtype(&[batch, heads, rows.min(queries), keys], q.dtype())?);
    Ok(rows)
}

/// Attention of so many queries after the other, which bounds the memory of their scores; heads first.
fn by_rows(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: &Lowered,
    score: &Score,
    sinks: Option<&Array>,
    rows: i32,
) -> Result<Array> {
    let [_, _, queries, _] = math::shape(q)?;
    if queries <= rows {
        return whole(q, k, v, mask, score, sinks);
    }
    let [_, _, keys, _] = math::shape(k)?;
    let mut parts = Vec::new();
    for start in (0..queries).step_by(rows.max(1) as usize) {
        let end = (start + rows).min(queries);
        let (mask, seen) = mask.rows(start..end, queries, keys)?;
        let [k, v] = [k, v].map(|x| math::slice(x, 2, 0, seen));
        parts.push(whole(&math::slice(q, 2, start, end)?, &k?, &v?, &mask, score, sinks)?);
    }
    Ok(ops::concatenate(&parts, 2)?)
}

/// Attention of all queries at once; heads first.
fn whole(q: &Array, k: &Array, v: &Array, mask: &Lowered, score: &Score, sinks: Option<&Array>) -> Result<Array> {
    match score.softcap {
        None => {
            let sinks = sinks.map(|sinks| sinks.as_dtype(q.dtype())).transpose()?;
            Ok(fast::scaled_dot_product_attention(q, k, v, score.scale, mask.for_sdpa(), sinks.as_ref())?)
        }
        Some(cap) => bounded(q, k, v, mask, score.scale, cap, sinks),
    }
}

/// The same with bounded scores, which MLX's fused kernels do not have; heads first.
fn bounded(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: &Lowered,
    scale: f32,
    cap: f32,
    sinks: Option<&Array>,
) -> Result<Array> {
    let [batch, heads, queries, dim] = math::shape(q)?;
    let [_, kv_heads, keys, _] = math::shape(k)?;
    let shape = [batch, kv_heads, heads / kv_heads.max(1), queries, dim];
    let grouped = math::scaled(q, scale.into())?.reshape(&shape)?;
    let scores = grouped.matmul(k.expand_dims(2)?.transpose_axes(&[0, 1, 2, 4, 3])?)?;
    let mut scores = math::bounded(&scores, cap.into())?.reshape(&[batch, heads, queries, keys])?;
    if let Some(mask) = mask.additive(queries, keys, q.dtype())? {
        scores = math::add(&scores, &mask)?;
    }
    if let Some(sinks) = sinks {
        let sinks = sinks.as_dtype(q.dtype())?.reshape(&[1, heads, 1, 1])?;
        scores = ops::concatenate(&[ops::broadcast_to(sinks, &[batch, heads, queries, 1])?, scores], -1)?;
    }
    let mut weights = ops::softmax_axis(&scores, -1, true)?;
    if sinks.is_some() {
        weights = math::slice(&weights, -1, 1, keys + 1)?;
    }
    let weights = weights.reshape(&[batch, kv_heads, heads / kv_heads.max(1), queries, keys])?;
    Ok(weights.matmul(v.expand_dims(2)?)?.reshape(&[batch, heads, queries, -1])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mask, testing::difference};
    use mlx_rs::Dtype;

    fn qkv(heads: i32, kv_heads: i32) -> [Array; 3] {
        let mut init = Init::default();
        [(3, heads), (5, kv_heads), (5, kv_heads)]
            .map(|(length, heads)| init.normal(&[2, length, heads, 8], 1.0).unwrap().get())
    }

    #[test]
    fn a_distant_cap_changes_nothing() {
        let [q, k, v] = qkv(6, 2);
        let sinks = Init::default().normal(&[6], 1.0).unwrap().get();
        for mask in [Mask::none(), Mask::causal(), Mask::sliding(2)] {
            let mask = mask.lower(3, 5, Dtype::Float32).unwrap();
            for sinks in [None, Some(&sinks)] {
                let free = Score::of(8);
                let capped = Score { softcap: Some(1e4), ..free };
                let free = attend(&q, &k, &v, &mask, &free, sinks).unwrap();
                let capped = attend(&q, &k, &v, &mask, &capped, sinks).unwrap();
                assert!(difference(&free, &capped) < 1e-5);
            }
        }
    }

    #[test]
    fn queries_are_answered_a_few_at_a_time() {
        let [q, k, v] = qkv(6, 2).map(|x| x.transpose_axes(&[0, 2, 1, 3]).unwrap());
        let sinks = Init::default().normal(&[6], 1.0).unwrap().get();
        let padding = math::array(&[true, true, false, true, true, true, true, true, true, false], &[2, 5]).unwrap();
        let masks = [Mask::none(), Mask::causal(), Mask::sliding(2), Mask::none().keys(padding)];
        for mask in masks.map(|mask| mask.lower(3, 5, Dtype::Float32).unwrap()) {
            for softcap in [None, Some(2.0)] {
                let score = Score { softcap, ..Score::of(8) };
                let rows = |rows| by_rows(&q, &k, &v, &mask, &score, Some(&sinks), rows).unwrap();
                for few in [1, 2] {
                    assert!(difference(&rows(few), &rows(3)) < 1e-6, "{mask:?}");
                }
            }
        }
    }

    #[test]
    fn scores_are_bounded_where_they_are_held() {
        let of = |queries, keys, dim| {
            let x = |length| Array::zeros::<f32>(&[2, 4, length, dim]).unwrap();
            rows_at_once(&x(queries), &x(keys), &Score::of(dim)).unwrap().min(queries)
        };
        assert_eq!(of(100, 1000, 8), 100);
        assert_eq!(of(1000, 1000, 8), 1000);
        assert_eq!(of(65536, 65536, 512), 512);
    }

    #[test]
    fn a_query_that_sees_nothing_gets_a_finite_value() {
        let [q, k, v] = qkv(2, 2);
        let nothing = Array::zeros::<bool>(&[3, 5]).unwrap();
        let mask = Mask::none().visible(nothing).lower(3, 5, Dtype::Float32).unwrap();
        for softcap in [None, Some(30.0)] {
            let score = Score { softcap, ..Score::of(8) };
            let y = attend(&q, &k, &v, &mask, &score, None).unwrap();
            assert!(math::is_finite(&y).unwrap());
        }
    }

    #[test]
    fn what_cannot_attend_to_a_context_says_so() {
        let mut init = Init::default();
        let sizes = Heads { heads: 2, kv_heads: 2, head_dim: 8 };
        let x = init.normal(&[1, 3, 16], 1.0).unwrap().get();
        let context = Context { tokens: &x, mask: &Lowered::None };
        let qkv = Qkv::Fused { qkv: Linear::new(16, 48, false, &mut init).unwrap() };
        let fused = Attention { qkv, ..Attention::plain(sizes, 16, false, &mut init).unwrap() };
        let position = AnyPosition::Rope(crate::Rope::new(8, 100.0, crate::Layout::HalfSplit));
        let rotating = Attention { position, ..Attention::plain(sizes, 16, false, &mut init).unwrap() };
        for (attention, expected) in [(fused, "separately"), (rotating, "rope")] {
            let error = attention.cross(&x, &context).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn fused_projections_equal_separate_ones() {
        let mut init = Init::default();
        let sizes = Heads { heads: 4, kv_heads: 2, head_dim: 8 };
        let separate = Qkv::separate(&sizes, 16, false, &mut init).unwrap();
        let Qkv::Separate { q, k, v } = &separate else { panic!("separate") };
        let weight = |linear: &Linear| crate::params(linear)["weight"].get();
        let dense = |parts: &[Array]| {
            let mut linear = Linear::new(1, 1, false, &mut Init::default()).unwrap();
            linear.weight = crate::Weight::Dense(Param::new(ops::concatenate(parts, 0).unwrap()));
            linear
        };
        let fused = Qkv::Fused { qkv: dense(&[weight(q), weight(k), weight(v)]) };
        let key_value = Qkv::KeyValue { q: dense(&[weight(q)]), kv: dense(&[weight(k), weight(v)]) };
        let x = init.normal(&[1, 3, 16], 1.0).unwrap().get();
        let expected = separate.project(&x, &x, &sizes).unwrap();
        for other in [fused, key_value] {
            let found = other.project(&x, &x, &sizes).unwrap();
            assert!(difference(&expected.q, &found.q) < 1e-6);
            let ((k, v), (other_k, other_v)) = (expected.kv.as_ref().unwrap(), found.kv.as_ref().unwrap());
            assert!(difference(k, other_k) < 1e-6 && difference(v, other_v) < 1e-6);
        }
    }
}
