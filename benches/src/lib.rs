//! What measurements share.

pub mod flux;

use framework::{Array, Leaf, Module, walk};
use mlx_rs::{memory, transforms};
use std::time::{Duration, Instant};

/// Gives every parameter its random value.
pub fn settle(module: &dyn Module) -> framework::Result<()> {
    let mut outcome = Ok(());
    walk(module, &mut |_, leaf| {
        if let (Leaf::Param(param), Ok(())) = (leaf, &outcome) {
            outcome = param.get().eval();
        }
    });
    Ok(outcome?)
}

/// Times of `samples` runs after two that warm up, each evaluated inside the time.
pub fn times(samples: usize, mut run: impl FnMut() -> framework::Result<Array>) -> framework::Result<Vec<Duration>> {
    for _ in 0..2 {
        run()?.eval()?;
    }
    memory::reset_peak_memory()?;
    (0..samples)
        .map(|_| {
            let begin = Instant::now();
            transforms::eval([&run()?])?;
            Ok(begin.elapsed())
        })
        .collect()
}

/// The median, the least and the most, in milliseconds.
pub fn spread(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    [at(times.len() / 2), at(0), at(times.len().saturating_sub(1))]
}
