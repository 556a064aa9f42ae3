//! What became of many inputs.

use crate::{Bench, SLACK, Target, memory::peak_of, mutate::mutate};
use std::{
    io,
    ops::{AddAssign, Range},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How many inputs ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken for good files.
    pub accepted: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Answered with a panic.
    pub panics: u64,
    /// That ended the process or kept it longer than anyone waits.
    pub aborts: u64,
    /// For which more was allocated than their length and [`SLACK`].
    pub greedy: u64,
    /// The most bytes that were held at once.
    pub peak: u64,
}

impl Tally {
    /// How many inputs there were.
    pub fn inputs(&self) -> u64 {
        self.accepted + self.refused + self.panics + self.aborts
    }

    /// How many were not answered as they should be.
    pub fn faults(&self) -> u64 {
        self.panics + self.aborts + self.greedy
    }

    pub(crate) fn fields(&self) -> [u64; 6] {
        [self.accepted, self.refused, self.panics, self.aborts, self.greedy, self.peak]
    }

    pub(crate) fn of_fields([accepted, refused, panics, aborts, greedy, peak]: [u64; 6]) -> Self {
        Self { accepted, refused, panics, aborts, greedy, peak }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let peak = self.peak.max(other.peak);
        let (own, others) = (self.fields(), other.fields());
        *self = Self::of_fields(std::array::from_fn(|i| own[i] + others[i]));
        self.peak = peak;
    }
}

/// Gives the inputs of these numbers to a target, and calls `each` before every one and after the last, with the number of
/// the next.
///
/// # Errors
/// When the fixtures cannot be read, and those of `each`.
pub fn run(
    target: &Target,
    bench: &Bench,
    numbers: Range<u64>,
    each: &mut dyn FnMut(u64, &Tally) -> io::Result<()>,
) -> io::Result<Tally> {
    let seeds = target.seeds()?;
    let mut tally = Tally::default();
    for number in numbers.clone() {
        each(number, &tally)?;
        let input = mutate(&seeds, target.kind, number);
        let (outcome, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| target.reads(bench, &input))));
        match outcome {
            Ok(true) => tally.accepted += 1,
            Ok(false) => tally.refused += 1,
            Err(_) => tally.panics += 1,
        }
        tally.greedy += u64::from(peak > input.len() + SLACK);
        tally.peak = tally.peak.max(peak as u64);
    }
    each(numbers.end, &tally)?;
    Ok(tally)
}
