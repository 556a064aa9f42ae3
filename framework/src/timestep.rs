//! The time step as a vector.

use crate::{Activation, Ffn, Init, Mlp, Result, call, math};
use mlx_rs::{Array, Dtype, ops};

/// `[cos(t ω₀) … cos(t ωₙ), sin(t ω₀) … sin(t ωₙ)]` with ωᵢ from 1 down to 1/10000
/// (<https://arxiv.org/abs/2006.11239>, cosines first).
///
/// `t` `[B]` → `[B, dims]`, in f32. Exponents are rounded to f32 on the way, as the references do: at `t` in the
/// thousands the last bit of a frequency is seen in its angle.
pub fn sinusoid(t: &Array, dims: i32) -> Result<Array> {
    let half = dims / 2;
    let frequency = |i: i32| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
        f64::from(exponent).exp() as f32
    };
    let frequencies = math::array(&(0..half).map(frequency).collect::<Vec<_>>(), &[1, half])?;
    let angles = t.as_dtype(Dtype::Float32)?.expand_dims(-1)?.multiply(frequencies)?;
    Ok(ops::concatenate(&[angles.cos()?, angles.sin()?], -1)?)
}

/// A scalar of the call (time step, guidance) as a vector: a sinusoid, then a network.
pub struct TimestepEmbedding {
    /// SiLU between two layers.
    pub mlp: Mlp,
    /// Features of the sinusoid.
    pub dims: i32,
}
crate::module! { impl[] TimestepEmbedding { mlp } }

impl TimestepEmbedding {
    /// From `dims` features of the sinusoid to `output`.
    pub fn new(dims: i32, output: i32, init: &mut Init) -> Result<Self> {
        let up = crate::Linear::new(dims, output, true, init)?;
        let down = crate::Linear::new(output, output, true, init)?;
        Ok(Self { mlp: Mlp { up, down, activation: Activation::Silu }, dims })
    }

    /// `t` `[B]` → `[B, output]`, in `dtype`.
    pub fn forward(&self, t: &Array, dtype: Dtype) -> Result<Array> {
        call!(self.mlp.forward(&sinusoid(t, self.dims)?.as_dtype(dtype)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_come_first() {
        let t = math::array(&[0f32, 2.0], &[2]).unwrap();
        let y = math::read::<f32>(&sinusoid(&t, 4).unwrap()).unwrap();
        let expected = [1.0, 1.0, 0.0, 0.0, 2f32.cos(), 0.02f32.cos(), 2f32.sin(), 0.02f32.sin()];
        for (y, expected) in y.iter().zip(expected) {
            assert!((y - expected).abs() < 1e-6);
        }
    }
}
