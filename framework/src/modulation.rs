//! Modulation: how a condition (the time step, a pooled prompt) acts on a block.

use crate::{AnyNorm, At, Error, Init, LayerNorm, Linear, Module, Norm, Param, Result, call, fused::fused, math};
use mlx_rs::{Array, ops};

/// The condition that a call lends to modulated blocks.
#[derive(Clone, Copy, Debug)]
pub enum Cond<'a> {
    /// `[B, C]`, or by token `[B, L, C]`, activated once by the model: each block projects it.
    Vector(&'a Array),
    /// `[B, 1 or L, n, D]`, projected once by the model for all blocks: see [`chunks`]. Where a model makes the chunks
    /// of all blocks at once, it lends each block its own.
    Chunks(&'a Array),
}

/// A projection `[B, n·D]`, or by token `[B, L, n·D]`, as n chunks `[B, 1 or L, n, D]` for [`Cond::Chunks`].
///
/// # Errors
/// When it has another number of axes, or its features do not fall into n chunks.
///
/// ```
/// use framework::{Init, Linear, chunks};
/// let mut init = Init::default();
/// let projection = Linear::new(8, 6 * 16, true, &mut init)?;
/// let cond = init.normal(&[2, 8], 1.0)?.get();
/// assert_eq!(chunks(&projection.forward(&cond)?, 6)?.shape(), [2, 1, 6, 16]);
/// # Ok::<(), framework::Error>(())
/// ```
pub fn chunks(projected: &Array, count: usize) -> Result<Array> {
    let n = count as i32;
    match *projected.shape() {
        [batch, features] if features.checked_rem(n) == Some(0) => {
            Ok(projected.reshape(&[batch, 1, n, features / n])?)
        }
        [batch, length, features] if features.checked_rem(n) == Some(0) => {
            Ok(projected.reshape(&[batch, length, n, features / n])?)
        }
        ref shape => Err(Error::argument("cond", format!("a projection of shape {shape:?} for {count} chunks"))),
    }
}

/// What a modulation does around one sublayer: `shift` and `scale` before it, `gate` after it; each `[B, 1 or L, D]`.
/// What is absent is the identity.
#[derive(Clone, Debug, Default)]
pub struct Mod {
    /// Added to the normalised input.
    pub shift: Option<Array>,
    /// The normalised input is multiplied by 1 + scale.
    pub scale: Option<Array>,
    /// The sublayer's output is multiplied by it.
    pub gate: Option<Array>,
}

impl Mod {
    /// `x · (1 + scale) + shift`, before the sublayer.
    pub fn before(&self, x: Array) -> Result<Array> {
        let stretch = |x: &Array, scale: &Array| math::multiply(x, &math::offset(scale, 1.0)?);
        match (&self.scale, &self.shift) {
            (Some(scale), Some(shift)) => {
                fused(0, move |[x, scale, shift]| math::add(&stretch(x, scale)?, shift), [&x, scale, shift])
            }
            (Some(scale), None) => fused(0, move |[x, scale]| stretch(x, scale), [&x, scale]),
            (None, Some(shift)) => math::add(&x, shift),
            (None, None) => Ok(x),
        }
    }

    /// `residual + gate · y`, after it.
    pub fn after(&self, residual: &Array, y: &Array) -> Result<Array> {
        match &self.gate {
            Some(gate) => {
                fused(0, |[residual, gate, y]| math::add(residual, &math::multiply(y, gate)?), [residual, gate, y])
            }
            None => math::add(residual, y),
        }
    }

    /// One step of a block: the sublayer on the normalised input, and back to the residual.
    pub fn around(
        &self,
        residual: &Array,
        normal: Array,
        sublayer: impl FnOnce(&Array) -> Result<Array>,
    ) -> Result<Array> {
        self.after(residual, &sublayer(&self.before(normal)?)?)
    }

    /// The parts of a block that has N sublayers.
    pub(crate) fn exactly<const N: usize>(mods: Vec<Self>) -> Result<[Self; N]> {
        let wrong = |mods: Vec<Self>| {
            Error::argument("modulation", format!("it makes {} parts, and the block has {N} sublayers", mods.len()))
        };
        mods.try_into().map_err(wrong)
    }
}

/// The role of a modulation in a block.
pub trait Modulation: Module {
    /// What to do around each of `count` sublayers, from what the call lends.
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>>;
}

/// The condition that blocks project themselves.
///
/// # Errors
/// When the call lends another, or none.
fn vector<'a>(at: &At<'a>) -> Result<&'a Array> {
    match at.cond {
        Some(Cond::Vector(vector)) => Ok(vector),
        _ => Err(Error::argument("at.cond", "this block projects the condition itself; lend it as `Cond::Vector`")),
    }
}

/// The condition that the model has projected.
///
/// # Errors
/// When the call lends another, or none.
fn ready<'a>(at: &At<'a>) -> Result<&'a Array> {
    match at.cond {
        Some(Cond::Chunks(chunks)) => Ok(chunks),
        _ => Err(Error::argument("at.cond", "this block takes what the model projects; lend it as `Cond::Chunks`")),
    }
}

/// `[B, 1 or L, n, D]` as `count` chunks `[B, 1 or L, D]`.
fn cut(chunks: &Array, count: usize) -> Result<Vec<Array>> {
    match *chunks.shape() {
        [_, _, n, _] if n == count as i32 => {
            chunks.split_equal(n, 2)?.iter().map(|chunk| Ok(chunk.squeeze_axes(&[2])?)).collect()
        }
        ref shape => {
            let problem = format!("chunks of shape {shape:?} where [B, 1 or L, {count}, D] modulates this block");
            Err(Error::argument("at.cond", problem))
        }
    }
}

/// `[B, 1 or L, 3·n, D]` as shift, scale and gate of each of n sublayers.
fn shift_scale_gate(chunks: &Array, count: usize) -> Result<Vec<Mod>> {
    let parts = |part: &[Array]| {
        let [shift, scale, gate] = [0, 1, 2].map(|i| part.get(i).cloned());
        Mod { shift, scale, gate }
    };
    Ok(cut(chunks, count.saturating_mul(3))?.chunks(3).map(parts).collect())
}

/// A block's own projection of the condition into chunks: shift, scale, gate of the first sublayer, then of the next
/// (adaLN-Zero, <https://arxiv.org/abs/2212.09748>). It takes a [`Cond::Vector`].
pub struct AdaLnZero {
    /// `[3·n·D, C]`.
    pub linear: Linear,
}
crate::module! { impl[] AdaLnZero { linear } }

impl AdaLnZero {
    /// For `sublayers` of width `dim` under a condition of width `cond`.
    pub fn new(cond: i32, dim: i32, sublayers: i32, init: &mut Init) -> Result<Self> {
        Ok(Self { linear: Linear::new(cond, 3 * sublayers * dim, true, init)? })
    }
}

impl Modulation for AdaLnZero {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        let projected = call!(self.linear.forward(vector(at)?))?;
        shift_scale_gate(&chunks(&projected, count.saturating_mul(3))?, count)
    }
}

/// The model's projection as it is, the same for all blocks: shift, scale, gate of the first sublayer, then of the next
/// (FLUX.2, ERNIE-Image). It takes [`Cond::Chunks`].
pub struct Shared;
crate::module! { impl[] Shared {} }

impl Modulation for Shared {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        shift_scale_gate(ready(at)?, count)
    }
}

/// The model's projection plus a table of the block: shift, scale, gate of the first sublayer, then of the next
/// (adaLN-single, <https://arxiv.org/abs/2310.00426>; PixArt, Wan, LTX). It takes [`Cond::Chunks`].
///
/// The sum has the wider dtype of the two, so that a model that computes it in f32 lends its chunks in f32.
pub struct Table {
    /// `[3·n, D]`.
    pub scale_shift_table: Param,
}
crate::module! { impl[] Table { scale_shift_table } }

impl Table {
    /// For `sublayers` of width `dim`; begins normal with deviation 1/√D.
    pub fn new(dim: i32, sublayers: i32, init: &mut Init) -> Result<Self> {
        let deviation = (dim.max(1) as f32).sqrt().recip();
        Ok(Self { scale_shift_table: init.normal(&[3 * sublayers, dim], deviation)? })
    }
}

impl Modulation for Table {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        let (table, chunks) = (self.scale_shift_table.get(), ready(at)?);
        if !chunks.shape().ends_with(table.shape()) {
            let problem = format!("chunks of shape {:?} for a table of shape {:?}", chunks.shape(), table.shape());
            return Err(Error::argument("at.cond", problem));
        }
        shift_scale_gate(&chunks.add(table)?, count)
    }
}

/// A block's own projection of the condition into chunks: scale and gate of the first sublayer, then of the next; tanh
/// bounds the gates to ±1 (Lumina, <https://arxiv.org/abs/2503.21758>; Z-Image). It takes a [`Cond::Vector`].
///
/// Its place is a [`Sandwich`](crate::Sandwich), where the gate multiplies the normalised output.
pub struct TanhGated {
    /// `[2·n·D, C]`.
    pub linear: Linear,
}
crate::module! { impl[] TanhGated { linear } }

impl TanhGated {
    /// For `sublayers` of width `dim` under a condition of width `cond`.
    pub fn new(cond: i32, dim: i32, sublayers: i32, init: &mut Init) -> Result<Self> {
        Ok(Self { linear: Linear::new(cond, 2 * sublayers * dim, true, init)? })
    }
}

impl Modulation for TanhGated {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        let projected = call!(self.linear.forward(vector(at)?))?;
        let count = count.saturating_mul(2);
        let parts = |part: &[Array]| -> Result<Mod> {
            let gate = part.get(1).map(ops::tanh).transpose()?;
            Ok(Mod { shift: None, scale: part.first().cloned(), gate })
        };
        cut(&chunks(&projected, count)?, count)?.chunks(2).map(parts).collect()
    }
}

/// A modulation chosen by a config.
pub enum AnyModulation {
    /// A projection of its own.
    AdaLnZero(AdaLnZero),
    /// The model's projection.
    Shared(Shared),
    /// The model's projection plus a table of its own.
    Table(Table),
    /// A projection of its own to scales and bounded gates.
    TanhGated(TanhGated),
    /// None: the plain transformer.
    None,
    /// One's own.
    Custom(Box<dyn Modulation + Send>),
}
crate::module! {
    enum[] AnyModulation {
        AnyModulation::AdaLnZero, AnyModulation::Shared, AnyModulation::Table, AnyModulation::TanhGated,
        AnyModulation::Custom, ..
    }
}

impl Modulation for AnyModulation {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        match self {
            Self::AdaLnZero(modulation) => modulation.sublayers(at, count),
            Self::Shared(modulation) => modulation.sublayers(at, count),
            Self::Table(modulation) => modulation.sublayers(at, count),
            Self::TanhGated(modulation) => modulation.sublayers(at, count),
            Self::None => Ok(vec![Mod::default(); count]),
            Self::Custom(modulation) => modulation.sublayers(at, count),
        }
    }
}

/// A norm whose scale and shift, in that order, are projections of the condition, a [`Cond::Vector`]: the last norm of a
/// DiT (<https://arxiv.org/abs/2212.09748>).
pub struct AdaLnContinuous<N = AnyNorm> {
    /// `[2·D, C]`.
    pub linear: Linear,
    /// Usually without parameters.
    pub norm: N,
}
crate::module! { impl[N: Norm] AdaLnContinuous<N> { linear, norm } }

impl AdaLnContinuous {
    /// Over `dim` features under a condition of width `cond`.
    pub fn new(cond: i32, dim: i32, eps: f32, init: &mut Init) -> Result<Self> {
        Ok(Self { linear: Linear::new(cond, 2 * dim, true, init)?, norm: AnyNorm::Layer(LayerNorm::plain(eps)) })
    }
}

impl<N: Norm> AdaLnContinuous<N> {
    /// `x` `[B, L, D]` → `[B, L, D]`.
    pub fn forward(&self, x: &Array, at: &At) -> Result<Array> {
        let projected = call!(self.linear.forward(vector(at)?))?;
        let mut parts = cut(&chunks(&projected, 2)?, 2)?.into_iter();
        let (scale, shift) = (parts.next(), parts.next());
        Mod { scale, shift, gate: None }.before(call!(self.norm.forward(x))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lowered;
    use mlx_rs::Dtype;

    fn at(cond: Option<Cond>) -> At {
        At { angles: None, mask: &Lowered::None, cond }
    }

    fn normal(shape: &[i32]) -> Array {
        Init::default().normal(shape, 1.0).unwrap().get()
    }

    fn values(x: Option<&Array>) -> Vec<f32> {
        math::read(x.unwrap()).unwrap()
    }

    #[test]
    fn nothing_is_the_identity() {
        let x = normal(&[1, 2, 4]);
        let identity = Mod::default();
        assert!(identity.before(x.clone()).unwrap().eq_exact(&x).unwrap());
        let twice = identity.after(&x, &x).unwrap();
        assert!(twice.eq_exact(math::scaled(&x, 2.0).unwrap()).unwrap());
    }

    #[test]
    fn a_condition_may_differ_by_token() {
        let mut init = Init::default();
        let own = AdaLnZero::new(3, 4, 2, &mut init).unwrap();
        let gated = TanhGated::new(3, 4, 2, &mut init).unwrap();
        let table = Table::new(4, 2, &mut init).unwrap();
        for (vector, projected, shape) in
            [(vec![2, 3], vec![2, 24], [2, 1, 4]), (vec![2, 5, 3], vec![2, 5, 24], [2, 5, 4])]
        {
            let (vector, projected) = (normal(&vector), chunks(&normal(&projected), 6).unwrap());
            let (vector, projected) = (at(Some(Cond::Vector(&vector))), at(Some(Cond::Chunks(&projected))));
            let all: [(&dyn Modulation, At); 4] =
                [(&own, vector), (&gated, vector), (&Shared, projected), (&table, projected)];
            for (modulation, at) in all {
                let [_, inner] = Mod::exactly(modulation.sublayers(&at, 2).unwrap()).unwrap();
                assert_eq!(inner.scale.unwrap().shape(), shape);
                assert_eq!(inner.gate.unwrap().shape(), shape);
            }
        }
    }

    #[test]
    fn chunks_are_in_order_and_a_table_is_added() {
        let all = math::array(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[1, 6]).unwrap();
        let all = chunks(&all, 6).unwrap();
        let at = at(Some(Cond::Chunks(&all)));
        let tens = Table { scale_shift_table: Param::new(math::scaled(&all, 10.0).unwrap().reshape(&[6, 1]).unwrap()) };
        for (modulation, factor) in [(&Shared as &dyn Modulation, 1.0), (&tens, 11.0)] {
            let mods = modulation.sublayers(&at, 2).unwrap();
            for (i, m) in mods.iter().enumerate() {
                let first = 3.0 * i as f32;
                let order = [&m.shift, &m.scale, &m.gate].map(|part| values(part.as_ref())[0] / factor);
                assert_eq!(order, [first + 1.0, first + 2.0, first + 3.0]);
            }
        }
    }

    #[test]
    fn a_gate_is_bounded() {
        let mut gated = TanhGated::new(1, 2, 1, &mut Init::default()).unwrap();
        gated.linear.bias = Some(Param::new(math::array(&[90.0f32; 4], &[4]).unwrap()));
        let zero = Array::zeros::<f32>(&[1, 1]).unwrap();
        let m = gated.sublayers(&at(Some(Cond::Vector(&zero))), 1).unwrap().remove(0);
        assert!(m.shift.is_none());
        assert_eq!((values(m.scale.as_ref()), values(m.gate.as_ref())), (vec![90.0; 2], vec![1.0; 2]));
    }

    #[test]
    fn wide_chunks_make_a_narrow_table_wide() {
        let table = Table::new(4, 1, &mut Init::new(Dtype::Bfloat16, 0)).unwrap();
        for dtype in [Dtype::Bfloat16, Dtype::Float32] {
            let chunks = normal(&[1, 1, 3, 4]).as_dtype(dtype).unwrap();
            let mods = table.sublayers(&at(Some(Cond::Chunks(&chunks))), 1).unwrap();
            assert_eq!(mods[0].gate.as_ref().unwrap().dtype(), dtype);
        }
    }

    #[test]
    fn a_missing_condition_or_one_of_the_other_kind_is_an_error() {
        let mut init = Init::default();
        let (vector, ready) = (normal(&[1, 3]), normal(&[1, 1, 6, 4]));
        let (vector, ready) = (Cond::Vector(&vector), Cond::Chunks(&ready));
        let own = AdaLnZero::new(3, 4, 2, &mut init).unwrap();
        let gated = TanhGated::new(3, 4, 2, &mut init).unwrap();
        let table = Table::new(4, 2, &mut init).unwrap();
        let all: [(&dyn Modulation, Cond, &str); 4] = [
            (&own, ready, "Vector"),
            (&gated, ready, "Vector"),
            (&Shared, vector, "Chunks"),
            (&table, vector, "Chunks"),
        ];
        for (modulation, other, needed) in all {
            for cond in [None, Some(other)] {
                let error = modulation.sublayers(&at(cond), 2).unwrap_err().to_string();
                assert!(error.contains("at.cond") && error.contains(needed), "{error}");
            }
        }
    }

    #[test]
    fn a_wrong_number_of_chunks_is_an_error() {
        let mut init = Init::default();
        let (table, vector) = (Table::new(4, 1, &mut init).unwrap(), normal(&[1, 3]));
        let own = AdaLnZero::new(3, 4, 1, &mut init).unwrap();
        for count in [1, 2, 4, 6] {
            let wrong = normal(&[1, 1, count, 4]);
            for modulation in [&Shared as &dyn Modulation, &table] {
                let error = modulation.sublayers(&at(Some(Cond::Chunks(&wrong))), 1).unwrap_err().to_string();
                assert!(error.contains("at.cond"), "{error}");
            }
        }
        let error = own.sublayers(&at(Some(Cond::Vector(&vector))), 5).unwrap_err().to_string();
        assert!(error.contains("15 chunks"), "{error}");
        assert!(chunks(&normal(&[4]), 2).is_err() && chunks(&normal(&[1, 4]), 0).is_err());
        let error = Mod::exactly::<2>(vec![Mod::default()]).unwrap_err().to_string();
        assert!(error.contains("1 parts"), "{error}");
    }
}
