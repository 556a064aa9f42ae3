//! Normalisation: RMSNorm, LayerNorm, GroupNorm.

use crate::{Error, Init, Module, Param, Result, math, tap};
use mlx_rs::{Array, Dtype, fast};

/// The role of a norm in a block: keeps the shape and the dtype of `x`.
pub trait Norm: Module {
    /// Normalises `x`.
    fn forward(&self, x: &Array) -> Result<Array>;
}

/// `y = x / √(mean(x²) + ε) · (w + offset)` over the last axis (<https://arxiv.org/abs/1910.07467>).
///
/// The mean is taken in f32 whatever the dtype of `x`, and so is the sum of the weight and an offset.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[D]`.
    pub weight: Option<Param>,
    /// ε.
    pub eps: f32,
    /// Added to the weight: 0, or 1 where a checkpoint stores the difference from 1 (Gemma).
    pub offset: f32,
}
crate::module! { impl[] RmsNorm { weight } }

impl RmsNorm {
    /// A norm over `dim` features that begins as the identity's direction: weight 1.
    pub fn new(dim: i32, eps: f32, init: &mut Init) -> Result<Self> {
        Ok(Self { weight: Some(init.constant(&[dim], 1.0)?), eps, offset: 0.0 })
    }
}

impl Norm for RmsNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        let weight = match &self.weight {
            Some(weight) if self.offset == 0.0 => Some(weight.get()),
            Some(weight) => Some(math::offset(&weight.get().as_dtype(Dtype::Float32)?, self.offset.into())?),
            None => None,
        };
        Ok(fast::rms_norm(x, weight.as_ref(), self.eps)?.as_dtype(x.dtype())?)
    }
}

/// `y = (x − mean) / √(var + ε) · w + b` over the last axis (<https://arxiv.org/abs/1607.06450>).
#[derive(Debug)]
pub struct LayerNorm {
    /// `[D]`.
    pub weight: Option<Param>,
    /// `[D]`.
    pub bias: Option<Param>,
    /// ε.
    pub eps: f32,
}
crate::module! { impl[] LayerNorm { weight, bias } }

impl LayerNorm {
    /// A norm over `dim` features with weight 1 and bias 0.
    pub fn new(dim: i32, eps: f32, init: &mut Init) -> Result<Self> {
        Ok(Self { weight: Some(init.constant(&[dim], 1.0)?), bias: Some(init.constant(&[dim], 0.0)?), eps })
    }

    /// A norm without parameters, as modulated blocks use.
    pub fn plain(eps: f32) -> Self {
        Self { weight: None, bias: None, eps }
    }
}

impl Norm for LayerNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        let weight = self.weight.as_ref().map(Param::get);
        let bias = self.bias.as_ref().map(Param::get);
        Ok(fast::layer_norm(x, weight.as_ref(), bias.as_ref(), self.eps)?.as_dtype(x.dtype())?)
    }
}

/// LayerNorm over a group of channels and all positions at once (<https://arxiv.org/abs/1803.08494>).
///
/// Channels last: `x` is `[B, …, C]` with any number of spatial axes. Whoever watches sees `input`, `[B, …, G, C / G]`, and
/// may answer with the means and the variances of an image that `x` is a part of, `[2, B, G]`.
#[derive(Debug)]
pub struct GroupNorm {
    /// `[C]`.
    pub weight: Option<Param>,
    /// `[C]`.
    pub bias: Option<Param>,
    /// Into how many groups the channels fall.
    pub groups: i32,
    /// ε.
    pub eps: f32,
}
crate::module! { impl[] GroupNorm { weight, bias } }

impl GroupNorm {
    /// A norm over `channels` with weight 1 and bias 0.
    pub fn new(groups: i32, channels: i32, eps: f32, init: &mut Init) -> Result<Self> {
        let weight = Some(init.constant(&[channels], 1.0)?);
        let bias = Some(init.constant(&[channels], 0.0)?);
        Ok(Self { weight, bias, groups, eps })
    }
}

impl Norm for GroupNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        let shape = x.shape().to_vec();
        let &[batch, ref spatial @ .., channels] = &shape[..] else {
            return Err(Error::argument("x", format!("shape {shape:?} where [B, …, C] is normalised")));
        };
        let by_group = x.reshape(&[&[batch], spatial, &[self.groups, channels / self.groups]].concat())?;
        let positions = by_group.reshape(&[batch, -1, self.groups, channels / self.groups])?;
        let normal = match tap::ask("input", &by_group) {
            Some(moments) => standardised(&positions, &moments, self.eps)?,
            None => {
                let groups = positions.transpose_axes(&[0, 2, 1, 3])?;
                let flat = groups.reshape(&[batch, self.groups, -1])?;
                let normal = fast::layer_norm(&flat, None, None, self.eps)?.reshape(groups.shape())?;
                normal.transpose_axes(&[0, 2, 1, 3])?
            }
        };
        let mut y = normal.reshape(&shape)?;
        if let Some(weight) = &self.weight {
            y = math::multiply(&y, &weight.get())?;
        }
        if let Some(bias) = &self.bias {
            y = math::add(&y, &bias.get())?;
        }
        Ok(y)
    }
}

/// `(x − mean) / √(var + ε)` of `x` `[B, P, G, C / G]` with the moments `[2, B, G]`.
fn standardised(x: &Array, moments: &Array, eps: f32) -> Result<Array> {
    let [_, batch, groups] = math::shape(moments)?;
    let moment =
        |index| -> Result<Array> { Ok(math::slice(moments, 0, index, index + 1)?.reshape(&[batch, 1, groups, 1])?) };
    let deviation = math::offset(&moment(1)?, eps.into())?.sqrt()?;
    let normal = math::divide(&math::subtract(&x.as_dtype(Dtype::Float32)?, &moment(0)?)?, &deviation)?;
    Ok(normal.as_dtype(x.dtype())?)
}

/// A norm over all heads of a query or key at once: `[…, H, D]` is normalised as `[…, H·D]` (Wan, LTX).
///
/// Transparent: the norm adds no segment to the path.
#[derive(Debug)]
pub struct AcrossHeads<N = RmsNorm>(pub N);

impl<N: Norm> Norm for AcrossHeads<N> {
    fn forward(&self, x: &Array) -> Result<Array> {
        let &[ref leading @ .., _, _] = x.shape() else {
            return Err(Error::argument("x", format!("shape {:?} where […, H, D] is normalised", x.shape())));
        };
        let flat = x.reshape(&[leading, &[-1]].concat())?;
        Ok(self.0.forward(&flat)?.reshape(x.shape())?)
    }
}

impl<N: Norm> Module for AcrossHeads<N> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.0.each(f);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.0.each_mut(f);
    }
}

/// A norm chosen by a config.
pub enum AnyNorm {
    /// RMSNorm.
    Rms(RmsNorm),
    /// LayerNorm.
    Layer(LayerNorm),
    /// GroupNorm.
    Group(GroupNorm),
    /// RMSNorm over all heads at once.
    AcrossHeads(AcrossHeads),
    /// The identity.
    None,
    /// One's own.
    Custom(Box<dyn Norm + Send>),
}
crate::module! {
    enum[] AnyNorm { AnyNorm::Rms, AnyNorm::Layer, AnyNorm::Group, AnyNorm::AcrossHeads, AnyNorm::Custom, .. }
}

impl Norm for AnyNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
            Self::Group(norm) => norm.forward(x),
            Self::AcrossHeads(norm) => norm.forward(x),
            Self::None => Ok(x.clone()),
            Self::Custom(norm) => norm.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_norm_keeps_shape_and_dtype() {
        let mut init = Init::default();
        let norms = [
            AnyNorm::Rms(RmsNorm::new(6, 1e-6, &mut init).unwrap()),
            AnyNorm::Layer(LayerNorm::new(6, 1e-6, &mut init).unwrap()),
            AnyNorm::Layer(LayerNorm::plain(1e-6)),
            AnyNorm::Group(GroupNorm::new(3, 6, 1e-6, &mut init).unwrap()),
            AnyNorm::AcrossHeads(AcrossHeads(RmsNorm::new(18, 1e-6, &mut init).unwrap())),
            AnyNorm::None,
        ];
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let x = init.normal(&[2, 5, 3, 6], 1.0).unwrap().get().as_dtype(dtype).unwrap();
            for norm in &norms {
                let y = norm.forward(&x).unwrap();
                assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype));
            }
        }
    }

    #[test]
    fn groups_have_mean_zero() {
        let mut init = Init::default();
        let norm = GroupNorm::new(2, 4, 1e-6, &mut init).unwrap();
        let x = math::offset(&init.normal(&[1, 7, 4], 1.0).unwrap().get(), 3.0).unwrap();
        let y = norm.forward(&x).unwrap();
        let group = math::slice(&y, -1, 0, 2).unwrap().mean(None).unwrap();
        assert!(math::read::<f32>(&group).unwrap()[0].abs() < 1e-5);
    }
}
