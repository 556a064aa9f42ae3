//! Activations.

use super::primitive;
use crate::{Activation, Array, Error, Result};
use mlx_sys::host::{self, Nonlinearity};

/// `a(x)`, or `a(gate) ∘ x`, as `plain` is; nothing where no kernel of ours computes it.
pub(crate) fn activate<const N: usize>(
    a: Activation,
    inputs: [&Array; N],
    plain: impl Fn([&Array; N]) -> Result<Array> + 'static,
) -> Result<Option<Array>> {
    let nonlinearity = match a {
        Activation::Silu => Nonlinearity::Silu,
        Activation::Gelu => Nonlinearity::Gelu,
        Activation::GeluTanh => Nonlinearity::GeluTanh,
        Activation::QuickGelu => Nonlinearity::QuickGelu,
        Activation::Relu | Activation::Relu2 => return Ok(None),
    };
    let Some(shape) = inputs.first().map(|x| x.shape()) else { return Ok(None) };
    if inputs.iter().any(|x| x.shape() != shape) || !primitive::takes(&inputs)? {
        return Ok(None);
    }
    let of_list = move |inputs: &[Array]| {
        let inputs: &[Array; N] =
            inputs.try_into().map_err(|_| Error::argument("inputs", format!("they are not {N}")))?;
        plain(inputs.each_ref())
    };
    primitive::apply(host::Activate(nonlinearity), &inputs, shape, of_list).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Init, host::derivatives::same_derivatives, math, testing::difference};
    use statrs::function::erf::erfc;

    const ALL: [Activation; 6] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Relu2,
    ];

    fn exact(a: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match a {
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Activation::GeluTanh => x * sigmoid((8.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Relu => x.max(0.0),
            Activation::Relu2 => x.max(0.0) * x.max(0.0),
        }
    }

    #[test]
    fn values_are_exact_to_rounding() {
        let mut inputs: Vec<f32> = (-20_000..=20_000).map(|x| x as f32 * 1e-3).collect();
        inputs.extend([0.0, -0.0, 1e-30, -1e-30, 100.0, -100.0, 1e30, -1e30, f32::INFINITY]);
        let x = math::array(&inputs, &[inputs.len() as i32]).unwrap();
        for a in ALL {
            let found = math::read::<f32>(&a.forward(&x).unwrap()).unwrap();
            for (&x, found) in inputs.iter().zip(found) {
                let expected = exact(a, x.into()) as f32;
                // What a sum of large and small, as of the cubic in tanh, is rounded to.
                let bound = (expected.abs() * 6e-7).max(1e-7 * x.abs().min(1.0));
                assert!(
                    found == expected || (found - expected).abs() <= bound,
                    "{a:?} of {x}: {found}, not {expected}"
                );
            }
        }
    }

    /// As MLX's: −∞ · 0 is NaN.
    #[test]
    fn what_is_no_number_stays_so() {
        let x = math::array(&[f32::NAN, f32::NEG_INFINITY], &[2]).unwrap();
        for a in ALL.into_iter().take(4) {
            assert!(math::read::<f32>(&a.forward(&x).unwrap()).unwrap().iter().all(|y| y.is_nan()), "{a:?}");
        }
    }

    /// Those of one row, of rows apart, of features apart, repeated, and of nothing.
    fn layouts() -> Vec<[Array; 2]> {
        let wide = Init::default().normal(&[3, 70, 600], 2.0).unwrap().get();
        let row = math::slice(&wide, 1, 4, 5).unwrap();
        let of = |x: &Array| [math::slice(x, -1, 7, 311).unwrap(), math::slice(x, -1, 290, 594).unwrap()];
        vec![
            of(&wide),
            of(&wide.transpose_axes(&[1, 0, 2]).unwrap()),
            [wide.transpose().unwrap(), math::scaled(&wide, 0.5).unwrap().transpose().unwrap()],
            [mlx_rs::ops::broadcast_to(&row, &[3, 70, 600]).unwrap(), wide.clone()],
            [math::scalar(0.3, Dtype::Float32).unwrap(), math::scalar(-2.0, Dtype::Float32).unwrap()],
            [Array::zeros::<f32>(&[2, 0]).unwrap(), Array::zeros::<f32>(&[2, 0]).unwrap()],
        ]
    }

    #[test]
    fn every_layout_is_the_same_arithmetic() {
        for [gate, x] in layouts() {
            let copies = [&gate, &x].map(|x| {
                let values: Vec<f32> = math::read(&x.contiguous().unwrap()).unwrap();
                math::array(&values, x.shape()).unwrap()
            });
            for a in ALL {
                let y = a.gated(&gate, &x).unwrap();
                assert_eq!(y.shape(), x.shape());
                let expected = a.gated(&copies[0], &copies[1]).unwrap();
                let [plain, alone] = [&copies[0], &gate].map(|x| a.forward(x).unwrap());
                if x.size() > 0 {
                    assert_eq!(difference(&y, &expected), 0.0);
                    assert_eq!(difference(&plain, &alone), 0.0);
                    assert!(difference(&y, &math::multiply(&plain, &x).unwrap()) < 1e-6);
                }
            }
        }
    }

    #[test]
    fn shapes_that_differ_are_left_to_mlx() {
        let mut init = Init::default();
        let (gate, x) = (init.normal(&[2, 1], 1.0).unwrap().get(), init.normal(&[2, 5], 1.0).unwrap().get());
        let y = Activation::Silu.gated(&gate, &x).unwrap();
        let gate = mlx_rs::ops::broadcast_to(&gate, &[2, 5]).unwrap();
        assert!(difference(&y, &Activation::Silu.gated(&gate, &x).unwrap()) < 1e-6);
    }

    #[test]
    fn derivatives_are_those_of_mlx() {
        let mut init = Init::default();
        let inputs = [0; 2].map(|_| init.normal(&[3, 50], 1.0).unwrap().get());
        for (a, plain) in [
            (Activation::Silu, math::silu as fn(&Array) -> Result<Array>),
            (Activation::Gelu, math::gelu),
            (Activation::GeluTanh, math::gelu_tanh),
            (Activation::QuickGelu, math::quick_gelu),
        ] {
            let ours = |inputs: &[Array]| a.gated(&inputs[0], &inputs[1]);
            same_derivatives(ours, |inputs| math::multiply(&plain(&inputs[0])?, &inputs[1]), &inputs, 1e-6);
            same_derivatives(|inputs| a.forward(&inputs[0]), |inputs| plain(&inputs[0]), &inputs[..1], 1e-6);
        }
    }
}
