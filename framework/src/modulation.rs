//! Modulation: how a condition (the time step, a pooled prompt) acts on a block.

use crate::{AnyNorm, At, Error, Init, LayerNorm, Linear, Module, Norm, Result, call, math};
use mlx_rs::Array;

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
        let x = match &self.scale {
            Some(scale) => math::multiply(&x, &math::offset(scale, 1.0)?)?,
            None => x,
        };
        match &self.shift {
            Some(shift) => math::add(&x, shift),
            None => Ok(x),
        }
    }

    /// `residual + gate · y`, after it.
    pub fn after(&self, residual: &Array, y: &Array) -> Result<Array> {
        match &self.gate {
            Some(gate) => math::add(residual, &math::multiply(y, gate)?),
            None => math::add(residual, y),
        }
    }
}

/// The role of a modulation in a block.
pub trait Modulation: Module {
    /// What to do around each of `count` sublayers, from what the call lends.
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>>;
}

/// The condition that a call lends to modulations.
///
/// # Errors
/// When the call lends none.
fn condition<'a>(at: &At<'a>) -> Result<&'a Array> {
    at.cond.ok_or_else(|| Error::argument("at.cond", "a modulated block needs the condition of this call"))
}

/// A linear layer's output `[B, n·D]` or `[B, L, n·D]` as n chunks `[B, 1 or L, D]`.
fn chunks(x: &Array, count: usize) -> Result<Vec<Array>> {
    let tokens = if x.ndim() == 2 { x.expand_dims(1)? } else { x.clone() };
    Ok(tokens.split_equal(count as i32, -1)?)
}

/// A block's own projection of the condition into shift, scale and gate of each sublayer, in that order
/// (adaLN-Zero, <https://arxiv.org/abs/2212.09748>).
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
        let all = chunks(&call!(self.linear.forward(condition(at)?))?, 3 * count)?;
        let parts = |part: &[Array]| {
            let [shift, scale, gate] = [0, 1, 2].map(|i| part.get(i).cloned());
            Mod { shift, scale, gate }
        };
        Ok(all.chunks(3).map(parts).collect())
    }
}

/// A modulation chosen by a config.
pub enum AnyModulation {
    /// A projection of its own.
    AdaLnZero(AdaLnZero),
    /// None: the plain transformer.
    None,
    /// One's own.
    Custom(Box<dyn Modulation + Send>),
}

impl Modulation for AnyModulation {
    fn sublayers(&self, at: &At, count: usize) -> Result<Vec<Mod>> {
        match self {
            Self::AdaLnZero(modulation) => modulation.sublayers(at, count),
            Self::None => Ok(vec![Mod::default(); count]),
            Self::Custom(modulation) => modulation.sublayers(at, count),
        }
    }
}

impl Module for AnyModulation {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        match self {
            Self::AdaLnZero(modulation) => modulation.each(f),
            Self::None => {}
            Self::Custom(modulation) => modulation.each(f),
        }
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        match self {
            Self::AdaLnZero(modulation) => modulation.each_mut(f),
            Self::None => {}
            Self::Custom(modulation) => modulation.each_mut(f),
        }
    }
}

/// A norm whose scale and shift, in that order, are projections of the condition: the last norm of a DiT
/// (<https://arxiv.org/abs/2212.09748>).
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
        let mut parts = chunks(&call!(self.linear.forward(condition(at)?))?, 2)?.into_iter();
        let (scale, shift) = (parts.next(), parts.next());
        Mod { scale, shift, gate: None }.before(call!(self.norm.forward(x))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lowered;

    fn at<'a>(cond: Option<&'a Array>) -> At<'a> {
        At { angles: None, mask: &Lowered::None, cond }
    }

    #[test]
    fn nothing_is_the_identity() {
        let x = Init::default().normal(&[1, 2, 4], 1.0).unwrap().get();
        let identity = Mod::default();
        assert!(identity.before(x.clone()).unwrap().eq_exact(&x).unwrap());
        let twice = identity.after(&x, &x).unwrap();
        assert!(twice.eq_exact(math::scaled(&x, 2.0).unwrap()).unwrap());
    }

    #[test]
    fn a_condition_may_differ_by_token() {
        let mut init = Init::default();
        let modulation = AdaLnZero::new(3, 4, 2, &mut init).unwrap();
        for (cond, shape) in [(vec![2, 3], [2, 1, 4]), (vec![2, 5, 3], [2, 5, 4])] {
            let cond = init.normal(&cond, 1.0).unwrap().get();
            let mods = modulation.sublayers(&at(Some(&cond)), 2).unwrap();
            assert_eq!(mods.len(), 2);
            assert_eq!(mods[1].gate.as_ref().unwrap().shape(), shape);
        }
    }

    #[test]
    fn a_missing_condition_is_an_error() {
        let modulation = AdaLnZero::new(3, 4, 2, &mut Init::default()).unwrap();
        assert!(modulation.sublayers(&at(None), 2).unwrap_err().to_string().contains("cond"));
    }
}
