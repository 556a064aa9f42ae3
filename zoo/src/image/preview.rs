//! What latents will look like, without decoding them.

use crate::Result;
use framework::{Array, Dtype, math, vae::KlVae};
use mlx_rs::{Stream, linalg, ops, with_stream};

/// The side of the image of noise that the projection is learned from, in latents.
pub(super) const SIDE: i32 = 16;
/// Noise is alike over so many latents, as pictures are.
const ALIKE: i32 = 2;

/// A linear projection from latents to colours, by least squares over what the model's own autoencoder decodes.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `[C + 1, 3]`; the last row is the colour of nothing.
    matrix: Array,
}

impl Projection {
    /// Learns the projection from one small decoding.
    ///
    /// # Errors
    /// When the autoencoder cannot decode.
    pub fn of(vae: &KlVae, dtype: Dtype) -> Result<Self> {
        let channels = vae.channels();
        let key = mlx_rs::random::key(0)?;
        let coarse = SIDE / ALIKE;
        let noise = mlx_rs::random::normal::<f32>(&[1, coarse, 1, coarse, 1, channels], None, None, &key)?;
        let alike = ops::broadcast_to(&noise, &[1, coarse, ALIKE, coarse, ALIKE, channels])?;
        let latents = alike.reshape(&[1, SIDE, SIDE, channels])?;
        let image = vae.decode(&vae.latents.denormalise(&latents)?.as_dtype(dtype)?)?.as_dtype(Dtype::Float32)?;
        let factor = vae.factor();
        let pixels = image.reshape(&[SIDE, factor, SIDE, factor, 3])?.mean_axes(&[1, 3], false)?;
        let given = with_one(&latents.reshape(&[-1, channels])?)?;
        let inverse = with_stream(&Stream::cpu(), || linalg::pinv(&given))?;
        let matrix = inverse.matmul(&pixels.reshape(&[-1, 3])?)?;
        matrix.eval()?;
        Ok(Self { matrix })
    }

    /// Latents `[B, h, w, C]`, as the diffusion model has them → `[B, h, w, 3]`, bytes.
    ///
    /// # Errors
    /// When there is another number of channels.
    pub fn apply(&self, latents: &Array) -> Result<Array> {
        let [batch, height, width, channels] = math::shape(latents)?;
        let flat = latents.as_dtype(Dtype::Float32)?.reshape(&[-1, channels])?;
        bytes(&with_one(&flat)?.matmul(&self.matrix)?.reshape(&[batch, height, width, 3])?)
    }
}

/// `[N, C]` → `[N, C + 1]`, with ones.
fn with_one(x: &Array) -> Result<Array> {
    let [rows, _] = math::shape(x)?;
    Ok(ops::concatenate(&[x, &Array::ones::<f32>(&[rows, 1])?], -1)?)
}

/// Colours in −1..1 as bytes.
pub(crate) fn bytes(image: &Array) -> Result<Array> {
    let unit = math::offset(&math::scaled(image, 0.5)?, 0.5)?;
    let bytes = math::scaled(&ops::clip(&unit, (0.0, 1.0))?, 255.0)?.round(None)?.as_dtype(Dtype::Uint8)?;
    bytes.eval()?;
    Ok(bytes)
}
