//! Scores to weights.

use crate::host::exp::{exp, tanh};
use pulp::Arch;

/// Partial results of a reduction, so that it runs on whole vectors.
const LANES: usize = 32;

/// Makes weights of one query's scores, of which it sees so many: what they are to be multiplied by to add up to 1, with the
/// share of the sink. A query that sees none weighs all alike.
pub fn weigh(scores: &mut [f32], seen: usize, softcap: Option<f32>, mask: Option<&[f32]>, sink: Option<f32>) -> f32 {
    let seen = if seen == 0 {
        scores.fill(f32::MIN);
        scores.len()
    } else {
        seen.min(scores.len())
    };
    let (scores, hidden) = scores.split_at_mut(seen);
    hidden.fill(0.0);
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
            let most = reduced(scores, sink.unwrap_or(f32::NEG_INFINITY), |most, score| if score > most { score } else { most });
            for score in &mut *scores {
                *score = exp(*score - most);
            }
            let sum = reduced(scores, 0.0, |sum, weight| sum + weight);
            1.0 / (sum + sink.map_or(0.0, |sink| exp(sink - most)))
        },
    )
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
