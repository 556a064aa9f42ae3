//! What a gated network's first two matrices make of a token, with the nonlinearity between them, in one kernel.

use super::{Call, Constant, Kernel, Matrix, THREADS, source};
use crate::{Activation, Array, Result};

const HIDDEN: Kernel = Kernel {
    name: c"hidden",
    inputs: &[c"x", c"gate", c"gate_scales", c"gate_biases", c"up", c"up_scales", c"up_biases", c"index"],
    outputs: &[c"y"],
    header: source!("warp.cuh", "packed.cuh", "activated.cuh"),
    body: source!("hidden.cu"),
};

/// Rows that a warp makes of both.
const ROWS: i32 = 2;

/// Which networks of a stack rows go through: `chosen` of them each.
pub(crate) struct Chosen<'a> {
    /// The networks' numbers, `[R · chosen]`.
    pub index: &'a Array,
    pub chosen: i32,
}

/// `a(gate x) ∘ up x` for rows `[…, K]`, R of them, and matrices that are alike → `[…, N]`; of several networks a row
/// → `[R · chosen, N]`. Nothing where the two differ.
pub(crate) fn hidden(
    x: &Array,
    [gate, up]: [&Matrix; 2],
    activation: Activation,
    chosen: Option<&Chosen>,
) -> Result<Option<Array>> {
    if !gate.is_like(up) || gate.rows != up.rows {
        return Ok(None);
    }
    let shape = match chosen {
        Some(Chosen { index, .. }) => vec![index.size() as i32, gate.rows],
        None => gate.shape_of(x),
    };
    let rows = shape.iter().rev().skip(1).product();
    let constants = [
        (c"ACTIVATION", Constant::Int(activation as i32)),
        (c"CHOSEN", Constant::Int(chosen.map_or(1, |chosen| chosen.chosen))),
        (c"GATHER", Constant::Bool(chosen.is_some())),
    ];
    let index = chosen.map_or(x, |chosen| chosen.index);
    let [y] = HIDDEN.run(&Call {
        inputs: &[x, &gate.words, &gate.scales, &gate.biases, &up.words, &up.scales, &up.biases, index],
        outputs: [(&shape, x.dtype())],
        blocks: [gate.blocks(ROWS), rows],
        threads: THREADS,
        constants: &[&gate.constants(x.dtype(), ROWS)[..], &constants].concat(),
    })?;
    Ok(Some(y))
}

/// The kernel's numbers of activations.
const _: () = {
    assert!(Activation::Silu as i32 == 0 && Activation::Gelu as i32 == 1 && Activation::GeluTanh as i32 == 2);
    assert!(Activation::QuickGelu as i32 == 3 && Activation::Relu as i32 == 4 && Activation::Relu2 as i32 == 5);
};

#[cfg(test)]
mod tests {
    use crate::{Activation, Dtype, Ffn, Glu, Init, math, memory, on_linears, testing::difference};

    /// Whatever computes it here; on a CPU, MLX adds packed products of 16 bits up in 16 bits.
    #[test]
    fn a_token_goes_through_a_network_in_16_bits_or_fewer_as_in_32() {
        let dtype = if memory::is_on_cpu().unwrap() { Dtype::Float32 } else { Dtype::Bfloat16 };
        for bits in [None, Some(4), Some(8)] {
            let mut init = Init::new(dtype, 9);
            let mut glu = Glu::new(128, 192, Activation::Silu, false, &mut init).unwrap();
            let pack = |bits| on_linears(&mut glu, |_, linear| linear.weight.quantise(64, bits));
            bits.map_or(Ok(()), pack).unwrap();
            let x = init.normal(&[1, 1, 128], 3.0).unwrap().get();
            let y = glu.forward(&x).unwrap();
            assert_eq!((y.shape(), y.dtype()), (&[1, 1, 128][..], dtype));
            on_linears(&mut glu, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
            crate::train::cast(&glu, Dtype::Float32, |_| true).unwrap();
            let wide = glu.forward(&x.as_dtype(Dtype::Float32).unwrap()).unwrap();
            let most = math::read::<f32>(&wide.abs().unwrap().max(None).unwrap()).unwrap()[0];
            assert!(difference(&y.as_dtype(Dtype::Float32).unwrap(), &wide) < 0.01 * most, "{bits:?}");
        }
    }
}
