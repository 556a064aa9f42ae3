//! Where noise comes from.

use crate::{Array, Dtype, Error, Result};
use mlx_rs::{ops, random};
use std::collections::VecDeque;

/// A source of noise.
pub trait Rng {
    /// Independent standard normal values.
    fn normal(&mut self, shape: &[i32], dtype: Dtype) -> Result<Array>;
}

/// Noise from MLX's random keys, drawn in f32 whatever the dtype, so that precision does not change the picture.
#[derive(Clone, Debug)]
pub struct Seeded {
    keys: Vec<Array>,
}

impl Seeded {
    /// One stream for the whole array.
    pub fn new(seed: u64) -> Result<Self> {
        Ok(Self { keys: vec![random::key(seed)?] })
    }

    /// A stream for each row of the first axis: a row does not depend on which others are drawn with it.
    ///
    /// # Errors
    /// Without seeds.
    pub fn rows(seeds: &[u64]) -> Result<Self> {
        if seeds.is_empty() {
            return Err(Error::argument("seeds", "none; one is needed for each row"));
        }
        let keys = seeds.iter().map(|&seed| random::key(seed));
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }
}

impl Rng for Seeded {
    /// # Errors
    /// When there are seeds for another number of rows.
    fn normal(&mut self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let count = self.keys.len();
        let row = match shape.split_first() {
            _ if count == 1 => shape.to_vec(),
            Some((&rows, rest)) if usize::try_from(rows) == Ok(count) => [&[1], rest].concat(),
            _ => return Err(Error::argument("seeds", format!("{count} seeds for noise of the shape {shape:?}"))),
        };
        let mut drawn = Vec::with_capacity(count);
        for key in &mut self.keys {
            let (next, now) = random::split(&*key, 2)?;
            drawn.push(random::normal::<f32>(&row, None, None, &now)?);
            *key = next;
        }
        Ok(ops::concatenate(&drawn, 0)?.as_dtype(dtype)?)
    }
}

/// Given noise, in order: for comparisons with another implementation.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    noise: VecDeque<Array>,
}

impl Replay {
    /// Gives these arrays, one a draw.
    pub fn new(noise: impl IntoIterator<Item = Array>) -> Self {
        Self { noise: noise.into_iter().collect() }
    }
}

impl Rng for Replay {
    /// # Errors
    /// When all noise is used up, or the next array has another shape.
    fn normal(&mut self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let next = self.noise.pop_front().ok_or_else(|| Error::argument("noise", "all of it is used up"))?;
        if next.shape() != shape {
            let problem = format!("the next array has the shape {:?}, not {shape:?}", next.shape());
            return Err(Error::argument("noise", problem));
        }
        Ok(next.as_dtype(dtype)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math;

    fn draw(rng: &mut dyn Rng, shape: &[i32]) -> Vec<f32> {
        math::read(&rng.normal(shape, Dtype::Float32).unwrap()).unwrap()
    }

    #[test]
    fn a_seed_gives_a_stream() {
        let mut rng = Seeded::new(3).unwrap();
        let (first, second) = (draw(&mut rng, &[4, 500]), draw(&mut rng, &[4, 500]));
        assert_ne!(first, second);
        assert_eq!(first, draw(&mut Seeded::new(3).unwrap(), &[4, 500]));
        assert_ne!(first, draw(&mut Seeded::new(4).unwrap(), &[4, 500]));
        let mean = first.iter().sum::<f32>() / 2000.0;
        let variance = first.iter().map(|x| x * x).sum::<f32>() / 2000.0;
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15, "{mean} {variance}");
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let mut both = Seeded::rows(&[5, 6]).unwrap();
        let mut alone = Seeded::rows(&[6]).unwrap();
        for _ in 0..2 {
            assert_eq!(draw(&mut both, &[2, 3])[3..], draw(&mut alone, &[1, 3]));
        }
        assert!(both.normal(&[3, 3], Dtype::Float32).is_err());
        assert!(Seeded::rows(&[]).is_err());
    }

    #[test]
    fn replayed_noise_runs_out() {
        let mut rng = Replay::new([math::array(&[1f32, 2.0], &[2]).unwrap()]);
        assert_eq!(draw(&mut rng.clone(), &[2]), [1.0, 2.0]);
        assert!(rng.clone().normal(&[1, 2], Dtype::Float32).is_err());
        draw(&mut rng, &[2]);
        assert!(rng.normal(&[2], Dtype::Float32).is_err());
    }
}
