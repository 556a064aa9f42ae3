//! The transformer inside a UNet.

use crate::{
    AnyFfn, AnyModulation, AnyNorm, AnyPosition, At, Context, Cross, Error, Ffn, Linear, Lowered, Modulation, Norm,
    Position, Result, call, math,
};
use mlx_rs::Array;

/// Blocks over the positions of an image, which also see a context: `x + proj_out(blocks(proj_in(norm(x))))`
/// (<https://arxiv.org/abs/2112.10752>). A projection that a checkpoint stores as a 1-wide convolution is the same
/// matrix.
pub struct SpatialTransformer<F = AnyFfn, M = AnyModulation, N = AnyNorm, P = AnyPosition> {
    /// On C channels: a group norm.
    pub norm: N,
    /// `[D, C]`.
    pub proj_in: Linear,
    /// Of width D.
    pub transformer_blocks: Vec<Cross<F, M, N, P>>,
    /// `[C, D]`.
    pub proj_out: Linear,
}
crate::module! {
    impl[F: Ffn, M: Modulation, N: Norm, P: Position] SpatialTransformer<F, M, N, P> {
        norm, proj_in, transformer_blocks, proj_out
    }
}

impl<F: Ffn, M: Modulation, N: Norm, P: Position> SpatialTransformer<F, M, N, P> {
    /// `[B, spatial…, C]` → the same.
    pub fn forward(&self, x: &Array, context: &Context) -> Result<Array> {
        let &[batch, .., channels] = x.shape() else {
            return Err(Error::argument("x", format!("shape {:?} where [B, …, C] is transformed", x.shape())));
        };
        let at = At { angles: None, mask: &Lowered::None, cond: None };
        let h = call!(self.norm.forward(x))?.reshape(&[batch, -1, channels])?;
        let mut h = call!(self.proj_in.forward(&h))?;
        for i in 0..self.transformer_blocks.len() {
            h = call!(self.transformer_blocks[i].forward(&h, context, &at))?;
        }
        let y = call!(self.proj_out.forward(&h))?;
        math::add(x, &y.reshape(x.shape())?)
    }
}
