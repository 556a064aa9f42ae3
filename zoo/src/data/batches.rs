//! Which examples every step of training sees.

use crate::{Error, Result, checksum::Checksum};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

/// The largest batch.
const LARGEST: usize = 1 << 16;

/// An endless stream of batches: every epoch has each picture once, in an order of its own, and a batch that reaches the
/// end of one goes on with the next.
///
/// Everything is a function of the seed and the number of the step, so that resuming needs no state.
///
/// ```
/// use zoo::data::Batches;
/// let batches = Batches::new(5, 3, 7)?.dropping(0.1)?.flipping(0.5)?;
/// let mut epoch = [batches.at(0), batches.at(1)].concat();
/// epoch.truncate(5);
/// epoch.sort();
/// assert_eq!(epoch, [0, 1, 2, 3, 4]);
/// # Ok::<(), zoo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batches {
    len: u32,
    batch: usize,
    seed: u64,
    drop: f64,
    flip: f64,
}

/// A picture of a batch, and how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example {
    /// The picture's place.
    pub picture: u32,
    /// Which caption: an even choice among all numbers, whose remainder by how many captions there are says which.
    pub caption: u32,
    /// Whether the empty caption stands in its place.
    pub dropped: bool,
    /// Whether left and right are exchanged.
    pub flipped: bool,
}

impl Batches {
    /// Batches of `batch` out of `len` pictures, which may be fewer; no caption is dropped and no picture flipped.
    ///
    /// # Errors
    /// When there are no pictures or more than 2³² − 1; when a batch has none or more than 65536.
    pub fn new(len: usize, batch: usize, seed: u64) -> Result<Self> {
        let len = u32::try_from(len).ok().filter(|&len| len > 0);
        let len = len.ok_or_else(|| Error::argument("len", "there must be from 1 to 2³² − 1 pictures"))?;
        if !(1..=LARGEST).contains(&batch) {
            return Err(Error::argument("batch", format!("{batch} pictures; it must be from 1 to {LARGEST}")));
        }
        Ok(Self { len, batch, seed, drop: 0.0, flip: 0.0 })
    }

    /// The same, with captions dropped with this probability.
    ///
    /// # Errors
    /// When it is not from 0 to 1.
    pub fn dropping(self, drop: f64) -> Result<Self> {
        Ok(Self { drop: probability("drop", drop)?, ..self })
    }

    /// The same, with pictures flipped with this probability.
    ///
    /// # Errors
    /// When it is not from 0 to 1.
    pub fn flipping(self, flip: f64) -> Result<Self> {
        Ok(Self { flip: probability("flip", flip)?, ..self })
    }

    /// The pictures of a step; the first is 0.
    pub fn at(&self, step: u64) -> Vec<u32> {
        let len = u64::from(self.len);
        let mut position = step.saturating_mul(self.batch as u64);
        let mut pictures = Vec::with_capacity(self.batch);
        while pictures.len() < self.batch {
            let epoch = self.epoch(position / len).into_iter().skip((position % len) as usize);
            let before = pictures.len();
            pictures.extend(epoch.take(self.batch - before));
            position = position.saturating_add((pictures.len() - before) as u64);
        }
        pictures
    }

    /// The pictures of a step and how they are shown. Neither probability changes what the other draws.
    pub fn examples(&self, step: u64) -> Vec<Example> {
        let mut rng = self.rng("examples", step);
        let mut example = |picture| Example {
            picture,
            caption: rng.random(),
            dropped: rng.random::<f64>() < self.drop,
            flipped: rng.random::<f64>() < self.flip,
        };
        self.at(step).into_iter().map(&mut example).collect()
    }

    /// The order of the pictures in an epoch.
    fn epoch(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len).collect();
        order.shuffle(&mut self.rng("epoch", epoch));
        order
    }

    /// Random numbers of their own for every purpose and number.
    fn rng(&self, purpose: &str, number: u64) -> Pcg64 {
        let sum = Checksum::default().of(purpose.as_bytes()).of(&self.seed.to_le_bytes()).of(&number.to_le_bytes());
        Pcg64::from_seed(sum.bytes())
    }
}

fn probability(name: &str, value: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(Error::argument(name, format!("{value} is no probability; it must be from 0 to 1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(batches: &Batches, steps: u64) -> Vec<u32> {
        (0..steps).flat_map(|step| batches.at(step)).collect()
    }

    #[test]
    fn the_order_is_that_of_earlier_versions() {
        let batches = Batches::new(10, 4, 1).unwrap().dropping(0.5).unwrap().flipping(0.5).unwrap();
        assert_eq!(stream(&batches, 5), [5, 6, 7, 0, 1, 4, 2, 8, 3, 9, 4, 7, 3, 6, 9, 2, 0, 1, 5, 8]);
        let shown = |example: Example| (example.picture, example.caption, example.dropped, example.flipped);
        assert_eq!(
            batches.examples(3).into_iter().map(shown).collect::<Vec<_>>(),
            [
                (3, 3_433_199_017, false, false),
                (6, 189_025_604, false, false),
                (9, 3_423_091_866, false, true),
                (2, 1_731_905_458, false, false),
            ]
        );
    }

    #[test]
    fn captions_are_dropped_and_pictures_flipped_as_often_as_asked() {
        let plain = Batches::new(7, 100, 3).unwrap();
        let both = plain.dropping(0.2).unwrap().flipping(0.7).unwrap();
        let seen: Vec<Example> = (0..100).flat_map(|step| both.examples(step)).collect();
        let share = |of: &dyn Fn(&Example) -> bool| seen.iter().filter(|e| of(e)).count() as f64 / seen.len() as f64;
        for (share, expected) in [
            (share(&|e| e.dropped), 0.2),
            (share(&|e| e.flipped), 0.7),
            (share(&|e| e.dropped && e.flipped), 0.14),
            (share(&|e| e.caption % 3 == 0), 1.0 / 3.0),
            (share(&|e| e.dropped && e.caption % 2 == 1), 0.1),
        ] {
            assert!((share - expected).abs() < 0.02, "{share} is not {expected}");
        }
        let other = both.dropping(1.0).unwrap().examples(9);
        assert!(other.iter().all(|example| example.dropped));
        let as_before = |(a, b): (&Example, Example)| (a.caption, a.flipped) == (b.caption, b.flipped);
        assert!(other.iter().zip(both.examples(9)).all(as_before));
        assert!(plain.examples(9).iter().all(|example| !example.dropped && !example.flipped));
    }

    #[test]
    fn seeds_and_epochs_differ() {
        let one = Batches::new(50, 50, 1).unwrap();
        assert_ne!(one.at(0), one.at(1));
        assert_ne!(one.at(0), Batches::new(50, 50, 2).unwrap().at(0));
        assert_ne!(one.examples(0)[0].caption, one.examples(1)[0].caption);
    }

    #[test]
    fn what_makes_no_batches_is_refused() {
        let says = |result: Result<Batches>| result.unwrap_err().to_string();
        assert!(says(Batches::new(0, 1, 0)).contains("`len`"));
        assert!(says(Batches::new(1 << 32, 1, 0)).contains("`len`"));
        assert!(says(Batches::new(1, 0, 0)).contains("`batch`: 0 pictures"));
        let batches = Batches::new(1, 1, 0).unwrap();
        assert!(says(batches.dropping(f64::NAN)).contains("`drop`: NaN"));
        assert!(says(batches.flipping(1.5)).contains("`flip`: 1.5"));
        assert_eq!(batches.at(u64::MAX), [0]);
    }

    proptest! {
        #[test]
        fn every_epoch_has_every_picture_once(len in 1..40usize, batch in 1..100usize, seed: u64) {
            let batches = Batches::new(len, batch, seed).unwrap();
            let stream = stream(&batches, 5);
            prop_assert_eq!(stream.len(), 5 * batch);
            for epoch in stream.chunks_exact(len) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert!(epoch.into_iter().eq(0..len as u32));
            }
        }
    }
}
