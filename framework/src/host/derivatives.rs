//! What tests of kernels share.

use crate::{Array, Result, closure::Closure, math, testing::difference};
use mlx_rs::transforms::{jvp, vjp};
use std::sync::Arc;

/// Holds that two functions of arrays have the same derivatives at `inputs`, in both directions and also compiled; up to
/// `apart`.
pub fn same_derivatives<F, G>(f: F, g: G, inputs: &[Array], apart: f32)
where
    F: Fn(&[Array]) -> Result<Array> + Copy,
    G: Fn(&[Array]) -> Result<Array> + Copy,
{
    let at_output = math::scaled(&g(inputs).unwrap(), 0.7).unwrap();
    // Compiled functions take no arrays from outside that are yet to be computed.
    at_output.eval().unwrap();
    let along: Vec<Array> = inputs.iter().map(|x| math::offset(x, 0.3).unwrap()).collect();
    let (f, g) = (move |x: &[Array]| vec![f(x).unwrap()], move |x: &[Array]| vec![g(x).unwrap()]);
    let back = |x: &[Array]| Ok(vjp(f, x, std::slice::from_ref(&at_output))?.1);
    let expected = vjp(g, inputs, std::slice::from_ref(&at_output)).unwrap().1;
    let compiled = Closure::new(Arc::default(), back).unwrap().compiled().unwrap();
    let forth = jvp(f, inputs, &along).unwrap().1;
    let pairs = [
        (back(inputs).unwrap(), expected.clone()),
        (compiled.apply(inputs).unwrap(), expected),
        (forth, jvp(g, inputs, &along).unwrap().1),
    ];
    for (found, expected) in pairs {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(difference(found, expected) <= apart);
        }
    }
}
