//! Attention.

use super::primitive;
use crate::{Array, Dtype, Error, Lowered, Result, Score, attention};
use mlx_rs::ops;
use mlx_sys::host;

/// [`attend`](crate::attend) of queries, keys and values; nothing where no kernel of ours computes it, or where shapes do
/// not fit.
pub(crate) fn attend(
    [q, k, v]: [&Array; 3],
    mask: &Lowered,
    score: &Score,
    sinks: Option<&Array>,
) -> Result<Option<Array>> {
    let (&[batch, queries, heads, dim], &[_, keys, kv_heads, _], &[.., width]) = (q.shape(), k.shape(), v.shape())
    else {
        return Ok(None);
    };
    let shapes = [k.shape() == [batch, keys, kv_heads, dim], v.shape() == [batch, keys, kv_heads, width]];
    let fit = shapes == [true; 2] && sinks.is_none_or(|sinks| sinks.shape() == [heads]);
    if !fit || kv_heads == 0 || heads % kv_heads != 0 || !primitive::takes(&[q, k, v])? {
        return Ok(None);
    }
    let mask_of_all = match mask {
        Lowered::Additive(mask) => match ops::broadcast_to(mask, &[batch, heads, queries, keys]) {
            Ok(mask) => Some(mask),
            Err(_) => return Ok(None),
        },
        Lowered::None | Lowered::Causal => None,
    };
    let others: Vec<&Array> = mask_of_all.iter().chain(sinks).collect();
    if others.iter().any(|x| x.dtype() != Dtype::Float32) {
        return Ok(None);
    }
    let causal = matches!(mask, Lowered::Causal);
    let Score { scale, softcap } = *score;
    let kernel = host::Attend { scale, softcap, causal, masked: mask_of_all.is_some(), sinks: sinks.is_some() };
    let shape = [batch, queries, heads * width];
    let inputs = [vec![q, k, v], others].concat();
    primitive::apply(kernel, &inputs, &shape, move |inputs| plain(&kernel, inputs)).map(Some)
}

/// The same in MLX's own operations.
fn plain(kernel: &host::Attend, inputs: &[Array]) -> Result<Array> {
    let [q, k, v, rest @ ..] = inputs else {
        return Err(Error::argument("inputs", "queries, keys and values are missing"));
    };
    let (mask, rest) = match rest {
        [mask, rest @ ..] if kernel.masked => (Lowered::Additive(mask.clone()), rest),
        _ if kernel.causal => (Lowered::Causal, rest),
        _ => (Lowered::None, rest),
    };
    let score = Score { scale: kernel.scale, softcap: kernel.softcap };
    attention::plain(q, k, v, &mask, &score, rest.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Mask, host::derivatives::same_derivatives, math, testing::difference};

    /// Lengths of queries and keys, heads, heads of keys, features of keys and of values.
    type Sizes = [i32; 6];

    fn qkv([queries, keys, heads, kv_heads, dim, width]: Sizes) -> [Array; 3] {
        let mut init = Init::default();
        [[2, queries, heads, dim], [2, keys, kv_heads, dim], [2, keys, kv_heads, width]]
            .map(|shape| init.normal(&shape, 1.0).unwrap().get())
    }

    fn masks([queries, keys, heads, ..]: Sizes) -> Vec<Lowered> {
        let mut init = Init::default();
        let lower = |mask: Mask| mask.lower(queries, keys, Dtype::Float32).unwrap();
        let bias = |shape: &[i32], init: &mut Init| Lowered::Additive(init.normal(shape, 1.0).unwrap().get());
        let padding: Vec<bool> = (0..2 * keys).map(|at| at % 3 > 0 || at >= keys).collect();
        let mut masks = vec![
            Lowered::None,
            Lowered::Causal,
            lower(Mask::sliding(2)),
            lower(Mask::none().keys(math::array(&padding, &[2, keys]).unwrap())),
            lower(Mask::none().visible(Array::zeros::<bool>(&[queries, keys]).unwrap())),
            bias(&[queries, 1], &mut init),
            bias(&[heads, 1, keys], &mut init),
        ];
        let transposed = init.normal(&[2, heads, keys, queries], 1.0).unwrap().get();
        masks.push(Lowered::Additive(transposed.transpose_axes(&[0, 1, 3, 2]).unwrap()));
        masks
    }

    fn both([q, k, v]: &[Array; 3], mask: &Lowered, score: &Score, sinks: Option<&Array>) -> [Array; 2] {
        let ours = attend([q, k, v], mask, score, sinks).unwrap().expect("a kernel of ours");
        [ours, attention::plain(q, k, v, mask, score, sinks).unwrap()]
    }

    #[test]
    fn every_mask_and_shape_is_the_same_attention() {
        for sizes in [
            [3, 5, 6, 2, 8, 8],
            [1, 9, 6, 2, 7, 5],
            [1, 700, 6, 3, 33, 17],
            [1, 40, 40, 1, 4, 4],
            [9, 9, 2, 2, 1, 1],
            [9, 5, 2, 1, 4, 4],
            [301, 333, 3, 1, 5, 9],
            [130, 130, 2, 1, 64, 64],
            [150, 2500, 1, 1, 3, 3],
        ] {
            let sinks = Init::default().normal(&[sizes[2]], 1.0).unwrap().get();
            for mask in masks(sizes) {
                for (softcap, sinks) in
                    [(None, None), (None, Some(&sinks)), (Some(1.5), None), (Some(1.5), Some(&sinks))]
                {
                    let score = Score { softcap, ..Score::of(sizes[4]) };
                    let [ours, plain] = both(&qkv(sizes), &mask, &score, sinks);
                    let apart = difference(&ours, &plain);
                    assert!(apart < 2e-6, "{apart} {sizes:?} {softcap:?} {} {mask:?}", sinks.is_some());
                }
            }
        }
    }

    /// As a cache or a projection of all has them, backwards, and repeated.
    #[test]
    fn every_layout_is_the_same_attention() {
        let [q, k, v] = qkv([20, 300, 4, 2, 8, 8]);
        let heads_first = |x: &Array| {
            let x = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
            let values = math::read::<f32>(&x.contiguous().unwrap()).unwrap();
            math::array(&values, x.shape()).unwrap().transpose_axes(&[0, 2, 1, 3]).unwrap()
        };
        let cut = |x: &Array| math::slice(&ops::concatenate(&[x, x, x], -1).unwrap(), -1, 5, 13).unwrap();
        let same = |x: &Array| x.clone();
        let repeated = |x: &Array| ops::broadcast_to(math::slice(x, 2, 0, 1).unwrap(), x.shape()).unwrap();
        let ways: [&dyn Fn(&Array) -> Array; 4] = [&same, &heads_first, &cut, &repeated];
        for few in [1, 5, 20] {
            let q = math::slice(&q, 1, 0, few).unwrap();
            for (i, way) in ways.iter().enumerate() {
                let inputs = [ways[(i + 1) % 4](&q), way(&k), ways[(i + 2) % 4](&v)];
                let [ours, plain] = both(&inputs, &Lowered::Causal, &Score::of(8), None);
                assert!(difference(&ours, &plain) < 2e-6, "{few} {i}");
            }
        }
    }

    /// More than a task holds scores of.
    #[test]
    fn many_keys_are_the_same_attention() {
        for sizes in [[40, 9000, 2, 1, 4, 4], [1, 140_000, 4, 2, 4, 4]] {
            let sinks = math::array(&vec![0.5f32; sizes[2] as usize], &[sizes[2]]).unwrap();
            // The first keys are hidden, so that none is seen in the first part.
            let late: Vec<f32> =
                (0..sizes[1]).map(|key| if key < sizes[1] - 20 { f32::NEG_INFINITY } else { 0.0 }).collect();
            let late = Lowered::Additive(math::array(&late, &[sizes[1]]).unwrap());
            for (mask, sinks) in [(Lowered::Causal, None), (late.clone(), None), (late, Some(&sinks))] {
                let [ours, plain] = both(&qkv(sizes), &mask, &Score::of(4), sinks);
                assert!(difference(&ours, &plain) < 2e-6, "{sizes:?} {mask:?}");
            }
        }
    }

    #[test]
    fn no_numbers_and_infinities_are_passed_on() {
        let [q, k, v] = qkv([20, 30, 2, 2, 8, 8]);
        let all = math::array(&[f32::NEG_INFINITY; 30], &[30]).unwrap();
        let [ours, plain] = both(&[q.clone(), k.clone(), v.clone()], &Lowered::Additive(all), &Score::of(8), None);
        for y in [ours, plain] {
            assert!(math::read::<f32>(&y).unwrap().iter().all(|y| y.is_nan()));
        }
        let broken = math::scaled(&q, f64::NAN).unwrap();
        let [ours, _] = both(&[broken, k, v], &Lowered::Causal, &Score::of(8), None);
        assert!(math::read::<f32>(&ours).unwrap().iter().all(|y| y.is_nan()));
    }

    #[test]
    fn derivatives_are_those_of_mlx() {
        let mut init = Init::default();
        let [q, k, v] = qkv([11, 13, 4, 2, 8, 6]);
        let [bias, sinks] = [&[1, 4, 11, 13][..], &[4]].map(|shape| init.normal(shape, 1.0).unwrap().get());
        let inputs = [q, k, v, bias, sinks];
        for softcap in [None, Some(2.0)] {
            let score = Score { softcap, ..Score::of(8) };
            let of = |inputs: &[Array], attend: fn(&[&Array], &Lowered, &Score) -> Result<Array>| {
                let all: Vec<&Array> = inputs.iter().collect();
                attend(&all, &Lowered::Additive(inputs[3].clone()), &score)
            };
            let ours = |inputs: &[Array]| {
                of(inputs, |x, mask, score| Ok(attend([x[0], x[1], x[2]], mask, score, Some(x[4]))?.expect("a kernel")))
            };
            let plain = |inputs: &[Array]| {
                of(inputs, |x, mask, score| attention::plain(x[0], x[1], x[2], mask, score, Some(x[4])))
            };
            same_derivatives(ours, plain, &inputs, 1e-5);
        }
    }
}
