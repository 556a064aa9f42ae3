//! Scores to weights, some keys after the other (<https://arxiv.org/abs/1805.02867>).

use crate::host::exp::{exp, tanh};
use pulp::Arch;

/// Partial results of a reduction, so that it runs on whole vectors.
const LANES: usize = 32;

/// One query's softmax over the keys so far: the highest score, and the sum of all weights as they are below it.
#[derive(Clone, Copy)]
pub struct Softmax {
    most: f32,
    sum: f32,
}

impl Softmax {
    /// Of no key yet, but of the sink.
    pub fn new(sink: Option<f32>) -> Self {
        match sink {
            Some(sink) => Self { most: sink, sum: 1.0 },
            None => Self { most: f32::NEG_INFINITY, sum: 0.0 },
        }
    }

    /// Makes weights of the next scores, and answers what the sum of all that was weighed before is to be multiplied by.
    pub fn weigh(&mut self, scores: &mut [f32], softcap: Option<f32>, mask: Option<&[f32]>) -> f32 {
        let before = *self;
        Arch::new().dispatch(
            #[inline(always)]
            || {
                if let Some(cap) = softcap {
                    for score in &mut *scores {
                        *score = cap * tanh(*score / cap);
                    }
                }
                if let Some(mask) = mask {
                    for (score, mask) in scores.iter_mut().zip(mask) {
                        *score += mask;
                    }
                }
                let most = reduced(scores, before.most, |most, score| if score > most { score } else { most });
                // Where nothing is seen yet, −∞ − −∞ is no number.
                let origin = if most == f32::NEG_INFINITY { 0.0 } else { most };
                for score in &mut *scores {
                    *score = exp(*score - origin);
                }
                let sum = reduced(scores, 0.0, |sum, weight| sum + weight);
                let rest = exp(before.most - origin);
                *self = Self { most, sum: before.sum * rest + sum };
                rest
            },
        )
    }

    /// What the sum of all that was weighed is to be multiplied by in the end.
    pub fn share(&self) -> f32 {
        1.0 / self.sum
    }
}

/// Of `start` and all numbers. `start` may be counted more than once.
#[inline(always)]
fn reduced(numbers: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut parts = [start; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (part, &number) in parts.iter_mut().zip(chunk) {
            *part = join(*part, number);
        }
    }
    let all = parts.into_iter().fold(start, &join);
    rest.iter().fold(all, |all, &number| join(all, number))
}
