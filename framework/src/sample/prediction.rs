//! What a diffusion model was trained to say.

use super::{
    Noising,
    real::{blend, double},
};
use crate::{Array, Result, math};
use num_traits::Float;
use serde::Deserialize;

/// What a model predicts. The names are those of diffusers' `prediction_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Prediction {
    /// The noise ε.
    #[serde(rename = "epsilon")]
    Epsilon,
    /// `α ε − s x₀` on the unit circle, `α² + s² = 1` (<https://arxiv.org/abs/2202.00512>).
    #[serde(rename = "v_prediction")]
    V,
    /// The velocity `ε − x₀` (<https://arxiv.org/abs/2210.02747>).
    #[serde(rename = "flow_prediction")]
    Flow,
    /// The clean sample x₀.
    #[serde(rename = "sample")]
    Sample,
}

impl Prediction {
    /// The clean sample that an output at σ implies, in the dtype of `x`.
    ///
    /// `x` is the sample in the frame of [`Noising`], not what the model was given; all arrays have one shape. ε says
    /// nothing about x₀ where there is no signal, σ = 1 of [`Noising::Flow`]: the result is not finite there.
    pub fn denoised<F: Float>(self, noising: Noising, output: &Array, x: &Array, sigma: F) -> Result<Array> {
        let signal = noising.signal(sigma);
        let (of_x, of_output) = match self {
            Self::Sample => return Ok(output.as_dtype(x.dtype())?),
            Self::Epsilon => (signal.recip(), -sigma / signal),
            Self::Flow => ((signal + sigma).recip(), -sigma / (signal + sigma)),
            Self::V => {
                let square = signal * signal + sigma * sigma;
                (signal / square, -sigma / square.sqrt())
            }
        };
        blend((of_x, x), &[(of_output, output)])
    }
}

/// `dx/dσ = (x − x₀) / σ`, in either frame of [`Noising`].
pub fn derivative<F: Float>(x: &Array, denoised: &Array, sigma: F) -> Result<Array> {
    math::scaled(&math::subtract(x, denoised)?, double(sigma.recip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f64) -> Array {
        math::scalar(value, crate::Dtype::Float32).unwrap()
    }

    #[test]
    fn every_prediction_of_the_truth_leads_back_to_it() {
        let (clean, noise) = (0.7, -1.3);
        for noising in [Noising::Additive, Noising::Flow] {
            for sigma in [0.2, 0.9] {
                let x = noising.noised(&one(clean), &one(noise), sigma).unwrap();
                let signal: f64 = noising.signal(sigma);
                for (prediction, output) in [
                    (Prediction::Epsilon, noise),
                    (Prediction::V, (signal * noise - sigma * clean) / signal.hypot(sigma)),
                    (Prediction::Flow, noise - clean),
                    (Prediction::Sample, clean),
                ] {
                    let found = prediction.denoised(noising, &one(output), &x, sigma).unwrap();
                    let found = math::read::<f32>(&found).unwrap()[0];
                    assert!((found - clean as f32).abs() < 1e-6, "{noising:?} {prediction:?} {sigma}: {found}");
                }
                let slope = math::read::<f32>(&derivative(&x, &one(clean), sigma).unwrap()).unwrap()[0];
                let truth = if noising == Noising::Flow { noise - clean } else { noise };
                assert!((slope - truth as f32).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_sample_gives_the_dtype() {
        let output = one(1.0).as_dtype(crate::Dtype::Bfloat16).unwrap();
        for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Flow, Prediction::Sample] {
            let found = prediction.denoised(Noising::Flow, &output, &one(1.0), 0.5f32).unwrap();
            assert_eq!(found.dtype(), crate::Dtype::Float32);
        }
    }
}
