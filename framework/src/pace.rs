//! How far ahead of a device its work is begun.

use crate::{Array, Result, cuda, math, tap};
use mlx_rs::transforms::async_eval;

/// Tokens from which on a layer holds memory that counts.
const MANY: usize = 32;

/// Keeps CUDA, which computes long after it was told to, at most a layer behind: what is to be computed keeps its memory,
/// unpacked matrices above all.
#[derive(Default)]
pub struct Pace {
    before: Option<Array>,
}

impl Pace {
    /// Begins to compute the output of a layer, `[B, L, D]`, and waits for that of the layer before. Elsewhere than on CUDA,
    /// for few tokens, and where outputs are traced or observed, it does nothing.
    ///
    /// # Errors
    /// Those of the computation.
    pub fn follow(&mut self, x: &Array) -> Result<()> {
        let tokens = x.size() / math::last(x)?.max(1) as usize;
        if tokens >= MANY && cuda::is_usable()? && !tap::is_watched() {
            self.step(x)?;
        }
        Ok(())
    }

    fn step(&mut self, x: &Array) -> Result<()> {
        async_eval([x])?;
        if let Some(before) = self.before.replace(x.clone()) {
            before.eval()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;

    #[test]
    fn layers_one_after_the_other_are_computed_as_at_once() {
        let mut x = Init::default().normal(&[1, 40, 8], 1.0).unwrap().get();
        let (mut pace, mut expected) = (Pace::default(), x.clone());
        for _ in 0..5 {
            x = x.square().unwrap();
            pace.step(&x).unwrap();
            expected = expected.square().unwrap();
        }
        assert_eq!(math::read::<f32>(&x).unwrap(), math::read::<f32>(&expected).unwrap());
    }
}
