//! Autoencoders into a latent space (<https://arxiv.org/abs/1312.6114>, as in <https://arxiv.org/abs/2112.10752>).

mod tiled;

pub use tiled::Told;

use crate::{
    AnyNorm, Conv, Down, Downsample, Error, Init, Layers, Norm, Pad, Result, Style, Up, Upsample, Window, call, math,
};
use mlx_rs::{Array, ops};

/// The sizes of an encoder or a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    /// Channels of each stage, from the image inwards; between two stages the resolution halves.
    pub channels: Vec<i32>,
    /// Whether a stage's blocks have attention after them, from the image inwards.
    pub attention: Vec<bool>,
    /// ResNet blocks a stage.
    pub blocks: usize,
    /// Whether there is attention in the middle.
    pub mid_attention: bool,
    /// What the blocks have in common.
    pub style: Style,
}

impl Stages {
    /// The first and the last stage's channels.
    fn outer_inner(&self) -> Result<(i32, i32)> {
        match (self.channels.first(), self.channels.last()) {
            (Some(&outer), Some(&inner)) if self.channels.len() == self.attention.len() => Ok((outer, inner)),
            _ => Err(Error::argument("channels", "there is no stage, or not one `attention` for each")),
        }
    }

    fn mid(&self, channels: i32, init: &mut Init) -> Result<Layers> {
        Layers::new(channels, channels, 2, usize::from(self.mid_attention), &self.style, init)
    }

    fn layers(&self, input: i32, output: i32, blocks: usize, attention: bool, init: &mut Init) -> Result<Layers> {
        Layers::new(input, output, blocks, if attention { blocks } else { 0 }, &self.style, init)
    }
}

/// Image → what the posterior's parameters are made of.
pub struct Encoder<N = AnyNorm> {
    /// From the image.
    pub conv_in: Conv,
    /// From the image inwards.
    pub down_blocks: Vec<Down<N>>,
    /// At the lowest resolution.
    pub mid_block: Layers<N>,
    /// Before the last convolution.
    pub conv_norm_out: N,
    /// To the parameters.
    pub conv_out: Conv,
    /// What the blocks have in common.
    pub style: Style,
}
crate::module! { impl[N: Norm] Encoder<N> { conv_in, down_blocks, mid_block, conv_norm_out, conv_out } }

impl Encoder {
    /// From `input` to `output` channels.
    ///
    /// # Errors
    /// When there is no stage, or the groups of the norms do not divide a stage's channels.
    pub fn new(input: i32, output: i32, stages: &Stages, init: &mut Init) -> Result<Self> {
        let (outer, inner) = stages.outer_inner()?;
        let style = stages.style;
        let conv_in = style.conv(input, outer, 3, init)?;
        let mut down_blocks = Vec::new();
        let mut previous = outer;
        for (i, (&channels, &attention)) in stages.channels.iter().zip(&stages.attention).enumerate() {
            let layers = stages.layers(previous, channels, stages.blocks, attention, init)?;
            // The reference pads the ends only, so that the windows of an even image end with it.
            let half = vec![Window { stride: 2, pad: Pad::Explicit(0, 1), ..Window::same(3) }; style.rank];
            let halved = (i + 1 < stages.channels.len()).then(|| Conv::new(channels, channels, &half, init));
            down_blocks.push(Down { layers, downsample: halved.transpose()?.map(|conv| Downsample { conv }) });
            previous = channels;
        }
        Ok(Self {
            conv_in,
            down_blocks,
            mid_block: stages.mid(inner, init)?,
            conv_norm_out: style.norm(inner, init)?,
            conv_out: style.conv(inner, output, 3, init)?,
            style,
        })
    }
}

impl<N: Norm> Encoder<N> {
    /// `[B, H, W, in]` → `[B, H / 2ⁿ, W / 2ⁿ, out]` after n + 1 stages.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let mut x = call!(self.conv_in.forward(x))?;
        for i in 0..self.down_blocks.len() {
            x = call!(self.down_blocks[i].forward(&x, None))?;
        }
        self.finish(&x)
    }

    /// What follows the stages.
    fn finish(&self, x: &Array) -> Result<Array> {
        let x = call!(self.mid_block.forward(x, None))?;
        let x = self.style.activation.forward(&call!(self.conv_norm_out.forward(&x))?)?;
        call!(self.conv_out.forward(&x))
    }
}

/// Latent → image.
pub struct Decoder<N = AnyNorm> {
    /// From the latent.
    pub conv_in: Conv,
    /// At the lowest resolution.
    pub mid_block: Layers<N>,
    /// Towards the image.
    pub up_blocks: Vec<Up<N>>,
    /// Before the last convolution.
    pub conv_norm_out: N,
    /// To the image.
    pub conv_out: Conv,
    /// What the blocks have in common.
    pub style: Style,
}
crate::module! { impl[N: Norm] Decoder<N> { conv_in, mid_block, up_blocks, conv_norm_out, conv_out } }

impl Decoder {
    /// From `input` to `output` channels. Every stage has one block more than an encoder's.
    ///
    /// # Errors
    /// When there is no stage, or the groups of the norms do not divide a stage's channels.
    pub fn new(input: i32, output: i32, stages: &Stages, init: &mut Init) -> Result<Self> {
        let (outer, inner) = stages.outer_inner()?;
        let style = stages.style;
        let conv_in = style.conv(input, inner, 3, init)?;
        let mid_block = stages.mid(inner, init)?;
        let mut up_blocks = Vec::new();
        let mut previous = inner;
        for (i, (&channels, &attention)) in stages.channels.iter().zip(&stages.attention).enumerate().rev() {
            let layers = stages.layers(previous, channels, stages.blocks.saturating_add(1), attention, init)?;
            let doubled = (i > 0).then(|| style.conv(channels, channels, 3, init)).transpose()?;
            let upsample = doubled.map(|conv| Upsample { conv, factors: vec![2; style.rank] });
            up_blocks.push(Up { layers, upsample });
            previous = channels;
        }
        Ok(Self {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out: style.norm(outer, init)?,
            conv_out: style.conv(outer, output, 3, init)?,
            style,
        })
    }
}

impl<N: Norm> Decoder<N> {
    /// `[B, h, w, in]` → `[B, 2ⁿ h, 2ⁿ w, out]` after n + 1 stages.
    pub fn forward(&self, z: &Array) -> Result<Array> {
        let mut x = self.lowest(z)?;
        for i in 0..self.up_blocks.len() {
            x = call!(self.up_blocks[i].forward(&x, None))?;
        }
        self.finish(&x)
    }

    /// What precedes the stages.
    fn lowest(&self, z: &Array) -> Result<Array> {
        let x = call!(self.conv_in.forward(z))?;
        call!(self.mid_block.forward(&x, None))
    }

    /// What follows them.
    fn finish(&self, x: &Array) -> Result<Array> {
        let x = self.style.activation.forward(&call!(self.conv_norm_out.forward(x))?)?;
        call!(self.conv_out.forward(&x))
    }
}

/// A normal distribution with independent elements: an encoder's answer.
#[derive(Clone, Debug)]
pub struct Gaussian {
    /// `[B, h, w, C]`.
    pub mean: Array,
    /// ln σ², `[B, h, w, C]`.
    pub log_variance: Array,
}

impl Gaussian {
    /// From parameters `[B, h, w, 2 C]`: means, then ln σ², which is held within −30 and 20.
    pub fn new(parameters: &Array) -> Result<Self> {
        let (mean, log_variance) = math::halves(parameters)?;
        let bound = |value| math::scalar(value, log_variance.dtype());
        let log_variance = ops::minimum(ops::maximum(&log_variance, bound(-30.0)?)?, bound(20.0)?)?;
        Ok(Self { mean, log_variance })
    }

    /// The most likely latent.
    pub fn mode(&self) -> Array {
        self.mean.clone()
    }

    /// `mean + σ · noise`, with standard normal noise of the mean's shape.
    pub fn sample(&self, noise: &Array) -> Result<Array> {
        let deviation = math::scaled(&self.log_variance, 0.5)?.exp()?;
        math::add(&self.mean, &math::multiply(&deviation, noise)?)
    }
}

/// Between the latents of an autoencoder, z, and those that a diffusion model sees, which have about unit variance:
/// `x = (z − shift) · scale`. One number for all channels, or one each.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentSpace {
    /// Subtracted.
    pub shift: Vec<f32>,
    /// Multiplied by after that.
    pub scale: Vec<f32>,
}

impl LatentSpace {
    /// z `[B, h, w, C]` → what the diffusion model sees.
    pub fn normalise(&self, z: &Array) -> Result<Array> {
        math::multiply(&math::subtract(z, &channelwise(&self.shift)?)?, &channelwise(&self.scale)?)
    }

    /// What the diffusion model gives, `[B, h, w, C]` → z.
    pub fn denormalise(&self, x: &Array) -> Result<Array> {
        math::add(&math::divide(x, &channelwise(&self.scale)?)?, &channelwise(&self.shift)?)
    }
}

fn channelwise(values: &[f32]) -> Result<Array> {
    math::array(values, &[values.len() as i32])
}

/// An autoencoder whose encoder gives a distribution.
pub struct KlVae<N = AnyNorm> {
    /// Image → parameters.
    pub encoder: Encoder<N>,
    /// Latent → image.
    pub decoder: Decoder<N>,
    /// On the parameters.
    pub quant_conv: Option<Conv>,
    /// On the latent.
    pub post_quant_conv: Option<Conv>,
    /// What a diffusion model makes of its latents.
    pub latents: LatentSpace,
}
crate::module! { impl[N: Norm] KlVae<N> { encoder, decoder, quant_conv, post_quant_conv } }

impl<N: Norm> KlVae<N> {
    /// Image `[B, H, W, 3]` in −1..1 → the parameters of the latent's distribution, `[B, h, w, 2 C]`; see
    /// [`Gaussian`].
    pub fn encode(&self, image: &Array) -> Result<Array> {
        let parameters = call!(self.encoder.forward(image))?;
        match &self.quant_conv {
            Some(quant_conv) => call!(quant_conv.forward(&parameters)),
            None => Ok(parameters),
        }
    }

    /// Latent z `[B, h, w, C]` → image `[B, H, W, 3]`, about −1..1.
    pub fn decode(&self, z: &Array) -> Result<Array> {
        match &self.post_quant_conv {
            Some(post_quant_conv) => {
                let z = call!(post_quant_conv.forward(z))?;
                call!(self.decoder.forward(&z))
            }
            None => call!(self.decoder.forward(z)),
        }
    }

    /// Channels of a latent.
    pub fn channels(&self) -> i32 {
        let first = self.post_quant_conv.as_ref().unwrap_or(&self.decoder.conv_in);
        first.weight.shape().last().copied().unwrap_or(0)
    }

    /// Pixels a latent position stands for, along each axis.
    pub fn factor(&self) -> i32 {
        let doublings = self.decoder.up_blocks.iter().filter(|up| up.upsample.is_some()).count();
        1i32.checked_shl(doublings as u32).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, params};

    pub(super) fn stages() -> Stages {
        let style = Style { rank: 2, groups: 2, eps: 1e-6, activation: Activation::Silu };
        Stages { channels: vec![4, 6], attention: vec![false, true], blocks: 1, mid_attention: false, style }
    }

    fn vae(quant: bool) -> KlVae {
        of(&stages(), quant)
    }

    pub(super) fn of(stages: &Stages, quant: bool) -> KlVae {
        let mut init = Init::default();
        let conv = |channels, init: &mut Init| Conv::new(channels, channels, &[Window::same(1); 2], init).unwrap();
        KlVae {
            encoder: Encoder::new(3, 8, stages, &mut init).unwrap(),
            decoder: Decoder::new(4, 3, stages, &mut init).unwrap(),
            quant_conv: quant.then(|| conv(8, &mut init)),
            post_quant_conv: quant.then(|| conv(4, &mut init)),
            latents: LatentSpace { shift: vec![0.1], scale: vec![0.5] },
        }
    }

    #[test]
    fn an_image_goes_in_and_comes_out() {
        for quant in [false, true] {
            let vae = vae(quant);
            let image = Init::default().normal(&[2, 7, 10, 3], 1.0).unwrap().get();
            let parameters = vae.encode(&image).unwrap();
            assert_eq!(parameters.shape(), [2, 3, 5, 8], "an odd end is dropped");
            let latent = Gaussian::new(&parameters).unwrap().mode();
            assert_eq!(vae.factor(), 2);
            assert_eq!(vae.decode(&latent).unwrap().shape(), [2, 6, 10, 3]);
            assert_eq!(params(&vae).contains_key("quant_conv.weight"), quant);
            assert!(params(&vae).contains_key("encoder.down_blocks.1.attentions.0.attn.q.weight"));
            assert!(!params(&vae).contains_key("encoder.mid_block.attentions.0.attn.q.weight"));
        }
    }

    #[test]
    fn samples_follow_the_bounded_variance() {
        let parameters = math::array(&[1f32, 2.0, -100.0, 100.0], &[1, 1, 1, 4]).unwrap();
        let posterior = Gaussian::new(&parameters).unwrap();
        assert_eq!(math::read::<f32>(&posterior.log_variance).unwrap(), [-30.0, 20.0]);
        let sample = posterior.sample(&Array::ones::<f32>(&[1, 1, 1, 2]).unwrap()).unwrap();
        let sample = math::read::<f32>(&sample).unwrap();
        assert!((sample[0] - 1.0).abs() < 1e-6);
        assert!((sample[1] - 2.0 - 10f32.exp()).abs() < 0.1);
    }

    #[test]
    fn the_latent_space_goes_both_ways() {
        let z = Init::default().normal(&[1, 2, 3, 2], 1.0).unwrap().get();
        for (shift, scale) in [(vec![0.1159], vec![0.3611]), (vec![0.5, -1.0], vec![2.0, 0.1])] {
            let latents = LatentSpace { shift, scale };
            let back = latents.denormalise(&latents.normalise(&z).unwrap()).unwrap();
            let error = math::subtract(&back, &z).unwrap().abs().unwrap().max(None).unwrap();
            assert!(math::read::<f32>(&error).unwrap()[0] < 1e-5);
        }
        let flux = LatentSpace { shift: vec![0.1159], scale: vec![0.3611] };
        let one = flux.normalise(&Array::ones::<f32>(&[1]).unwrap()).unwrap();
        assert!((math::read::<f32>(&one).unwrap()[0] - 0.8841 * 0.3611).abs() < 1e-6);
    }

    #[test]
    fn stages_that_cannot_be_are_errors() {
        let mut init = Init::default();
        let without = |change: fn(&mut Stages)| {
            let mut stages = stages();
            change(&mut stages);
            stages
        };
        for stages in [
            without(|stages| stages.channels.clear()),
            without(|stages| stages.attention.clear()),
            without(|stages| stages.style.groups = 5),
            without(|stages| stages.channels = vec![0, 6]),
        ] {
            assert!(Encoder::new(3, 8, &stages, &mut init).is_err());
            assert!(Decoder::new(4, 3, &stages, &mut init).is_err());
        }
    }
}
