//! Nonlinearities, element by element.

use super::{
    Kernel, Operand, PARALLEL_FROM,
    exp::{normal, sigmoid},
    operand::unravelled,
};
use pulp::Arch;
use rayon::prelude::*;

/// Of x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonlinearity {
    /// `x σ(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
}

/// `a(x)` of one input, `a(gate) ∘ x` of two of one shape.
pub struct Activate(pub Nonlinearity);

impl Kernel for Activate {
    fn run(&self, inputs: &[Operand<'_>], output: &mut [f32]) {
        match self.0 {
            Nonlinearity::Silu => each(inputs, output, |x| x * sigmoid(x)),
            Nonlinearity::Gelu => each(inputs, output, |x| x * normal(x)),
            // (1 + tanh u) / 2 = σ(2u)
            Nonlinearity::GeluTanh => each(inputs, output, |x| x * sigmoid(1.595_769_1 * (x + 0.044_715 * (x * x * x)))),
            Nonlinearity::QuickGelu => each(inputs, output, |x| x * sigmoid(1.702 * x)),
        }
    }
}

#[inline(always)]
fn each(inputs: &[Operand<'_>], output: &mut [f32], f: impl Fn(f32) -> f32 + Copy + Sync) {
    let flat: Option<Vec<&[f32]>> = inputs.iter().map(Operand::flat).collect();
    let length = match &flat {
        Some(_) => PARALLEL_FROM,
        None => inputs[0].shape().last().copied().unwrap_or(1),
    };
    let part = |(place, out): (usize, &mut [f32])| {
        let mut scratch = [Vec::new(), Vec::new()];
        let rows = inputs.iter().zip(&mut scratch).enumerate().map(|(i, (input, scratch))| match &flat {
            Some(flat) => &flat[i][place * length..][..out.len()],
            None => input.row(&unravelled(place, input.shape()), scratch),
        });
        match *rows.collect::<Vec<_>>() {
            [x] => plain(x, out, f),
            [gate, x] => gated(gate, x, out, f),
            _ => unreachable!("one input or two"),
        }
    };
    if output.len() < PARALLEL_FROM {
        output.chunks_mut(length).enumerate().for_each(part);
    } else {
        let parts = output.par_chunks_mut(length).enumerate();
        parts.with_min_len(PARALLEL_FROM / length.min(PARALLEL_FROM)).for_each(part);
    }
}

#[inline(always)]
fn plain(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in out.iter_mut().zip(x) {
                *y = f(x);
            }
        },
    );
}

#[inline(always)]
fn gated(gate: &[f32], x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((y, &gate), &x) in out.iter_mut().zip(gate).zip(x) {
                *y = f(gate) * x;
            }
        },
    );
}
