//! Residual convolutional blocks, and the stages of encoders, decoders and UNets that they make up.

use crate::{
    Activation, AnyNorm, AnyPosition, At, Attention, Conv, Error, GroupNorm, Heads, Init, Linear, Lowered, Module,
    Norm, Qkv, Result, Score, Window, call, math,
};
use mlx_rs::{Array, ops};

/// What the blocks of a network have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// Spatial axes: 2 for images.
    pub rank: usize,
    /// Groups of the norms.
    pub groups: i32,
    /// ε of the norms.
    pub eps: f32,
    /// Between a norm and a convolution.
    pub activation: Activation,
}

impl Style {
    pub(crate) fn norm(&self, channels: i32, init: &mut Init) -> Result<AnyNorm> {
        if channels < 1 || channels.checked_rem(self.groups) != Some(0) {
            let problem = format!("{channels} channels do not fall into {} groups", self.groups);
            return Err(Error::argument("groups", problem));
        }
        Ok(AnyNorm::Group(GroupNorm::new(self.groups, channels, self.eps, init)?))
    }

    pub(crate) fn conv(&self, input: i32, output: i32, size: i32, init: &mut Init) -> Result<Conv> {
        Conv::new(input, output, &vec![Window::same(size); self.rank], init)
    }
}

/// `y = s(x) + conv2(a(norm2(conv1(a(norm1(x))) + t)))`, where t is a projection of the time embedding and s the
/// identity or a 1-wide convolution (<https://arxiv.org/abs/1512.03385>, with group norms and time as in
/// <https://arxiv.org/abs/2006.11239>).
pub struct ResnetBlock<N = AnyNorm> {
    /// On `in` channels.
    pub norm1: N,
    /// `in` → `out` channels.
    pub conv1: Conv,
    /// The time embedding, activated, to `out` channels.
    pub time_emb_proj: Option<Linear>,
    /// On `out` channels.
    pub norm2: N,
    /// `out` → `out` channels.
    pub conv2: Conv,
    /// `in` → `out` channels, where they differ.
    pub conv_shortcut: Option<Conv>,
    /// a.
    pub activation: Activation,
}
crate::module! {
    impl[N: Norm] ResnetBlock<N> { norm1, conv1, time_emb_proj, norm2, conv2, conv_shortcut }
}

impl ResnetBlock {
    /// A block with 3-wide convolutions; `time` is the width of the time embedding, if there is one.
    ///
    /// # Errors
    /// When the groups of the norms do not divide the channels.
    pub fn new(input: i32, output: i32, time: Option<i32>, style: &Style, init: &mut Init) -> Result<Self> {
        Ok(Self {
            norm1: style.norm(input, init)?,
            conv1: style.conv(input, output, 3, init)?,
            time_emb_proj: time.map(|time| Linear::new(time, output, true, init)).transpose()?,
            norm2: style.norm(output, init)?,
            conv2: style.conv(output, output, 3, init)?,
            conv_shortcut: (input != output).then(|| style.conv(input, output, 1, init)).transpose()?,
            activation: style.activation,
        })
    }
}

impl<N: Norm> ResnetBlock<N> {
    /// `x` `[B, spatial…, in]`, the time embedding `[B, T]` if the block has a projection for it →
    /// `[B, spatial…, out]`.
    ///
    /// # Errors
    /// When the block has a projection of the time embedding and there is none.
    pub fn forward(&self, x: &Array, time: Option<&Array>) -> Result<Array> {
        let h = self.activation.forward(&call!(self.norm1.forward(x))?)?;
        let mut h = call!(self.conv1.forward(&h))?;
        if let Some(time_emb_proj) = &self.time_emb_proj {
            let time = time.ok_or_else(|| Error::argument("time", "this block needs the time embedding"))?;
            let shift = call!(time_emb_proj.forward(&self.activation.forward(time)?))?;
            let axes: Vec<i32> = (1..h.ndim().saturating_sub(1) as i32).collect();
            h = math::add(&h, &shift.expand_dims_axes(&axes)?)?;
        }
        let h = self.activation.forward(&call!(self.norm2.forward(&h))?)?;
        let h = call!(self.conv2.forward(&h))?;
        match &self.conv_shortcut {
            Some(conv_shortcut) => math::add(&call!(conv_shortcut.forward(x))?, &h),
            None => math::add(x, &h),
        }
    }
}

/// `y = x + attn(group_norm(x))`: every position of an image sees every other
/// (<https://arxiv.org/abs/1805.08318>).
pub struct Spatial<N = AnyNorm> {
    /// Before attention.
    pub group_norm: N,
    /// Over positions.
    pub attn: Attention<N>,
}
crate::module! { impl[N: Norm] Spatial<N> { group_norm, attn } }

impl Spatial {
    /// Attention of one head over `channels`, with biases.
    ///
    /// # Errors
    /// When the groups of the norm do not divide the channels.
    pub fn new(channels: i32, style: &Style, init: &mut Init) -> Result<Self> {
        let sizes = Heads { heads: 1, kv_heads: 1, head_dim: channels };
        Ok(Self {
            group_norm: style.norm(channels, init)?,
            attn: Attention {
                qkv: Qkv::separate(&sizes, channels, true, init)?,
                o: Linear::new(channels, channels, true, init)?,
                q_norm: AnyNorm::None,
                k_norm: AnyNorm::None,
                position: AnyPosition::None,
                sinks: None,
                sizes,
                score: Score::of(channels),
            },
        })
    }
}

impl<N: Norm> Spatial<N> {
    /// `[B, spatial…, C]` → the same.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let &[batch, .., channels] = x.shape() else {
            return Err(Error::argument("x", format!("shape {:?} where [B, …, C] is attended", x.shape())));
        };
        let h = call!(self.group_norm.forward(&x.reshape(&[batch, -1, channels])?))?;
        let at = At { angles: None, mask: &Lowered::None, cond: None };
        let h = call!(self.attn.forward(&h, &at, None))?;
        math::add(x, &h.reshape(x.shape())?)
    }
}

/// Half as many positions an axis, by a convolution of stride 2.
pub struct Downsample {
    /// Its windows have a stride.
    pub conv: Conv,
}
crate::module! { impl[] Downsample { conv } }

impl Downsample {
    /// `[B, spatial…, C]` → `[B, half of spatial…, C]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        call!(self.conv.forward(x))
    }
}

/// More positions an axis: each is repeated, then a convolution smooths.
pub struct Upsample {
    /// At the higher resolution.
    pub conv: Conv,
    /// How often a position is repeated along each spatial axis.
    pub factors: Vec<i32>,
}
crate::module! { impl[] Upsample { conv } }

impl Upsample {
    /// `[B, spatial…, C]` → `[B, factors · spatial…, C]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        call!(self.conv.forward(&nearest(x, &self.factors)?))
    }
}

/// `[B, spatial…, C]` with each position repeated so often along each spatial axis.
fn nearest(x: &Array, factors: &[i32]) -> Result<Array> {
    let shape = x.shape();
    let &[batch, ref spatial @ .., channels] = shape else {
        return Err(Error::argument("x", "a shape without channels"));
    };
    if spatial.len() != factors.len() {
        return Err(Error::argument("x", format!("shape {shape:?} where {} axes are repeated", factors.len())));
    }
    // Each axis gets a neighbour of length 1, which is broadcast and merged with it.
    let (mut split, mut wide, mut merged) = (vec![batch], vec![batch], vec![batch]);
    for (&length, &factor) in spatial.iter().zip(factors) {
        split.extend([length, 1]);
        wide.extend([length, factor]);
        merged.push(length.saturating_mul(factor));
    }
    split.push(channels);
    wide.push(channels);
    merged.push(channels);
    Ok(ops::broadcast_to(x.reshape(&split)?, &wide)?.reshape(&merged)?)
}

/// ResNet blocks in a row, each with attention after it as far as there is any: the middle of a network, and the body
/// of its stages.
pub struct Layers<N = AnyNorm> {
    /// The blocks.
    pub resnets: Vec<ResnetBlock<N>>,
    /// After the blocks, from the first on.
    pub attentions: Vec<Spatial<N>>,
}
crate::module! { impl[N: Norm] Layers<N> { resnets, attentions } }

impl Layers {
    /// `blocks` blocks from `input` to `output` channels, the first `attentions` of them with attention after them.
    ///
    /// # Errors
    /// When the groups of the norms do not divide the channels.
    pub fn new(
        input: i32,
        output: i32,
        blocks: usize,
        attentions: usize,
        style: &Style,
        init: &mut Init,
    ) -> Result<Self> {
        let from = |block| if block == 0 { input } else { output };
        let resnet = |block| ResnetBlock::new(from(block), output, None, style, init);
        let resnets = (0..blocks).map(resnet).collect::<Result<_>>()?;
        let attentions = (0..attentions).map(|_| Spatial::new(output, style, init)).collect::<Result<_>>()?;
        Ok(Self { resnets, attentions })
    }
}

impl<N: Norm> Layers<N> {
    /// `[B, spatial…, in]` → `[B, spatial…, out]`; the time embedding is `[B, T]`.
    pub fn forward(&self, x: &Array, time: Option<&Array>) -> Result<Array> {
        let mut x = x.clone();
        for i in 0..self.resnets.len() {
            x = call!(self.resnets[i].forward(&x, time))?;
            if i < self.attentions.len() {
                x = call!(self.attentions[i].forward(&x))?;
            }
        }
        Ok(x)
    }
}

/// A stage towards fewer positions. The names of the layers are the stage's own.
pub struct Down<N = AnyNorm> {
    /// At the stage's resolution.
    pub layers: Layers<N>,
    /// To the next stage.
    pub downsample: Option<Downsample>,
}

impl<N: Norm> Module for Down<N> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.layers.each(f);
        f("downsample", &self.downsample);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.layers.each_mut(f);
        f("downsample", &mut self.downsample);
    }
}

impl<N: Norm> Down<N> {
    /// `[B, spatial…, in]` → `[B, half of spatial…, out]`; the time embedding is `[B, T]`.
    pub fn forward(&self, x: &Array, time: Option<&Array>) -> Result<Array> {
        let x = self.layers.forward(x, time)?;
        match &self.downsample {
            Some(downsample) => call!(downsample.forward(&x)),
            None => Ok(x),
        }
    }
}

/// A stage towards more positions. The names of the layers are the stage's own.
pub struct Up<N = AnyNorm> {
    /// At the stage's resolution.
    pub layers: Layers<N>,
    /// To the next stage.
    pub upsample: Option<Upsample>,
}

impl<N: Norm> Module for Up<N> {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.layers.each(f);
        f("upsample", &self.upsample);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.layers.each_mut(f);
        f("upsample", &mut self.upsample);
    }
}

impl<N: Norm> Up<N> {
    /// `[B, spatial…, in]` → `[B, twice spatial…, out]`; the time embedding is `[B, T]`.
    pub fn forward(&self, x: &Array, time: Option<&Array>) -> Result<Array> {
        self.upsampled(&self.layers.forward(x, time)?)
    }

    /// What the stage does after its layers.
    pub(crate) fn upsampled(&self, x: &Array) -> Result<Array> {
        match &self.upsample {
            Some(upsample) => call!(upsample.forward(x)),
            None => Ok(x.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { rank: 2, groups: 2, eps: 1e-6, activation: Activation::Silu };

    fn x(shape: &[i32]) -> Array {
        Init::default().normal(shape, 1.0).unwrap().get()
    }

    fn equal(a: &Array, b: &Array) -> bool {
        math::read::<f32>(a).unwrap() == math::read::<f32>(b).unwrap()
    }

    #[test]
    fn the_time_embedding_matters_and_is_needed() {
        let block = ResnetBlock::new(4, 6, Some(5), &STYLE, &mut Init::default()).unwrap();
        let (x, time) = (x(&[2, 3, 5, 4]), x(&[2, 5]));
        let y = block.forward(&x, Some(&time)).unwrap();
        assert_eq!(y.shape(), [2, 3, 5, 6]);
        let other = block.forward(&x, Some(&math::scaled(&time, 2.0).unwrap())).unwrap();
        assert!(!equal(&y, &other));
        assert!(block.forward(&x, None).is_err());
    }

    #[test]
    fn blocks_have_any_rank() {
        for (rank, shape) in [(1, &[1, 6, 4][..]), (3, &[1, 2, 3, 4, 4])] {
            let style = Style { rank, ..STYLE };
            let layers = Layers::new(4, 6, 2, 1, &style, &mut Init::default()).unwrap();
            let y = layers.forward(&x(shape), None).unwrap();
            assert_eq!(y.shape()[..=rank], shape[..=rank]);
            assert_eq!(y.shape()[rank + 1], 6);
        }
    }

    #[test]
    fn attention_sees_every_position() {
        let spatial = Spatial::new(4, &STYLE, &mut Init::default()).unwrap();
        let x = x(&[1, 3, 5, 4]);
        let y = math::subtract(&spatial.forward(&x).unwrap(), &x).unwrap();
        // The same positions in another order give the same in that order.
        let turned = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
        let other = math::subtract(&spatial.forward(&turned).unwrap(), &turned).unwrap();
        let back = other.transpose_axes(&[0, 2, 1, 3]).unwrap();
        let worst = math::subtract(&y, &back).unwrap().abs().unwrap().max(None).unwrap();
        assert!(math::read::<f32>(&worst).unwrap()[0] < 1e-5);
    }

    #[test]
    fn nearest_repeats_each_axis_by_its_own_factor() {
        let x = math::array(&[1f32, 2.0, 3.0, 4.0], &[1, 2, 2, 1]).unwrap();
        let y = nearest(&x, &[1, 2]).unwrap();
        assert_eq!(y.shape(), [1, 2, 4, 1]);
        assert_eq!(math::read::<f32>(&y).unwrap(), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        let y = nearest(&x, &[2, 1]).unwrap();
        assert_eq!(math::read::<f32>(&y).unwrap(), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        assert!(nearest(&x, &[2]).is_err());
    }

    #[test]
    fn groups_must_divide_the_channels() {
        assert!(ResnetBlock::new(3, 4, None, &STYLE, &mut Init::default()).is_err());
        assert!(ResnetBlock::new(4, 5, None, &STYLE, &mut Init::default()).is_err());
        let none = Style { groups: 0, ..STYLE };
        assert!(Spatial::new(4, &none, &mut Init::default()).is_err());
    }
}
