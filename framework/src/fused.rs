//! Elementwise arithmetic in one pass over memory.

use crate::{Array, Error, Result, closure::Closure, memory};
use std::{any::TypeId, cell::RefCell, collections::HashMap, sync::Arc};

/// A function, and the variant of it.
type Key = (TypeId, u32);

thread_local! {
    /// What was compiled. It is never freed: MLX keeps what belongs to it for as long as the thread lives.
    static COMPILED: RefCell<HashMap<Key, &'static Closure<'static>>> = RefCell::default();
}

/// `f` of arrays: one kernel on a GPU, which takes one for each operation otherwise. A CPU computes one operation after
/// the other, because MLX fuses there with a compiler that would have to be installed.
///
/// `f` works on elements: it may read dtypes, and no shapes. What it captures is told by `variant`.
pub(crate) fn fused<const N: usize, F>(variant: u32, f: F, inputs: [&Array; N]) -> Result<Array>
where
    F: Fn([&Array; N]) -> Result<Array> + 'static,
{
    if memory::is_on_cpu()? {
        return f(inputs);
    }
    let results = compiled(variant, f)?.apply(&inputs.map(Array::clone))?;
    results.into_iter().next().ok_or_else(|| Error::argument("f", "it has no result"))
}

fn compiled<const N: usize, F>(variant: u32, f: F) -> Result<&'static Closure<'static>>
where
    F: Fn([&Array; N]) -> Result<Array> + 'static,
{
    let key = (TypeId::of::<F>(), variant);
    if let Some(known) = COMPILED.with_borrow(|all| all.get(&key).copied()) {
        return Ok(known);
    }
    let of_list = move |inputs: &[Array]| {
        let inputs: &[Array; N] =
            inputs.try_into().map_err(|_| Error::argument("inputs", format!("they are not {N}")))?;
        Ok(vec![f(inputs.each_ref())?])
    };
    let new = Closure::new(Arc::default(), of_list)?.compiled_for_any_shape()?;
    let new: &'static Closure<'static> = Box::leak(Box::new(new));
    COMPILED.with_borrow_mut(|all| all.insert(key, new));
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Init, math, testing::difference};

    fn product_and_sum([a, b, c]: [&Array; 3]) -> Result<Array> {
        math::add(&math::multiply(a, b)?, c)
    }

    fn random(shape: &[i32], dtype: Dtype) -> Array {
        Init::new(dtype, shape.iter().sum::<i32>() as u64).normal(shape, 1.0).unwrap().get()
    }

    /// Up to what a product and a sum in one rounding differ by.
    #[test]
    fn what_is_compiled_is_the_same_arithmetic_in_every_shape() {
        let shapes = [[&[2, 3][..], &[2, 3], &[3]], [&[5, 3], &[1, 3], &[3]], [&[4, 1, 2, 3], &[1, 7, 1, 1], &[2, 3]]];
        for (dtype, apart) in [(Dtype::Float32, 1e-6), (Dtype::Bfloat16, 0.04)] {
            for shapes in shapes {
                let inputs = shapes.map(|shape| random(shape, dtype));
                let fused = compiled(0, product_and_sum).unwrap().apply(&inputs).unwrap();
                let plain = product_and_sum(inputs.each_ref()).unwrap();
                assert_eq!(fused[0].dtype(), dtype);
                let [fused, plain] = [&fused[0], &plain].map(|x| x.as_dtype(Dtype::Float32).unwrap());
                assert!(difference(&fused, &plain) < apart, "{shapes:?} {dtype:?}");
            }
        }
    }

    #[test]
    fn variants_are_told_apart() {
        let x = random(&[3], Dtype::Float32);
        for factor in [2, 3, 2] {
            let times = move |[x]: [&Array; 1]| math::scaled(x, factor.into());
            let y = compiled(factor, times).unwrap().apply(std::slice::from_ref(&x)).unwrap();
            assert_eq!(difference(&y[0], &math::scaled(&x, factor.into()).unwrap()), 0.0);
        }
    }

    #[test]
    fn what_goes_wrong_inside_is_reported() {
        let one = [random(&[2], Dtype::Float32)];
        let error = compiled(0, product_and_sum).unwrap().apply(&one).unwrap_err().to_string();
        assert!(error.contains("they are not 3"), "{error}");
    }
}
