//! Guidance while a run lasts.

use super::{
    Condition, Guidance, Rule,
    rescale::{dot, rows},
};
use crate::{Array, Dtype, Error, Result, math};
use mlx_rs::ops;

/// A [`Guidance`] in a run of so many steps; what stands between a sampler and a model.
///
/// It owns what APG remembers: a run has a guide of its own, and so has each of two experts that share a run. The step
/// is that of the sampler: one that evaluates twice a step asks twice with the same one.
///
/// ```
/// use framework::sample::{Condition, Flow, Guidance, Guide, Method, Noising, Prediction, Rng, Seeded, Shift};
/// use framework::{Array, Dtype, Result, math};
///
/// /// What stays the same from step to step.
/// struct Scene {
///     towards: Array,
///     away: Array,
/// }
///
/// impl Scene {
///     /// The model's velocity, guided.
///     fn velocity(&self, guide: &mut Guide, step: usize, x: &Array, sigma: f64) -> Result<Array> {
///         guide.predict(step, x, &mut |condition| match condition {
///             Condition::Away => self.evaluate(x, sigma, &self.away),
///             _ => self.evaluate(x, sigma, &self.towards),
///         })
///     }
///
///     fn evaluate(&self, x: &Array, _sigma: f64, text: &Array) -> Result<Array> {
///         math::subtract(x, text)
///     }
/// }
///
/// let text = |value| math::scalar(value, Dtype::Float32);
/// let scene = Scene { towards: text(1.0)?, away: text(-1.0)? };
/// let schedule = Flow::even(Shift::None).schedule::<f64>(4)?;
/// let mut sampler = Method::Euler.sampler::<f64>(Noising::Flow, schedule.steps());
/// let mut guide = Guide::new(Guidance::classifier_free(3.0), schedule.steps());
/// let mut rng = Seeded::new(7)?;
/// let mut x = rng.normal(&[1, 2, 3], Dtype::Float32)?;
/// for (step, (sigma, next)) in schedule.spans().enumerate() {
///     assert_eq!(guide.conditions(step), [Condition::Towards, Condition::Away]);
///     let mut denoise = |x: &Array, sigma: f64| {
///         let velocity = scene.velocity(&mut guide, step, x, sigma)?;
///         Prediction::Flow.denoised(Noising::Flow, &velocity, x, sigma)
///     };
///     x = sampler.step(&mut denoise, &x, sigma, next, &mut rng)?;
/// }
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Guide {
    guidance: Guidance,
    steps: usize,
    /// What [`Rule::Apg`] remembers, `[B, N]`.
    difference: Option<Array>,
}

impl Guide {
    /// A guide for one run of so many steps. The guidance is [valid](Guidance::validate).
    pub fn new(guidance: Guidance, steps: usize) -> Self {
        Self { guidance, steps, difference: None }
    }

    /// What an evaluation in this step, counted from 0, asks the model for: as many calls as there are conditions.
    pub fn conditions(&self, step: usize) -> &'static [Condition] {
        let at = |share: f64| (share * self.steps as f64) as usize;
        match self.guidance.rule {
            Rule::ClassifierFreeZero { zero_init_steps, .. } if step < zero_init_steps => &[],
            _ if (at(self.guidance.start)..at(self.guidance.stop)).contains(&step) => self.guidance.conditions(),
            _ => &[Condition::Towards],
        }
    }

    /// The guided prediction for the sample `x`, in whatever the model predicts. `evaluate` gives the prediction under a
    /// condition, in the shape of `x`, and is called once for each of [`Guide::conditions`].
    ///
    /// # Errors
    /// Those of `evaluate`, and when its predictions differ in shape.
    pub fn predict(
        &mut self,
        step: usize,
        x: &Array,
        evaluate: &mut dyn FnMut(Condition) -> Result<Array>,
    ) -> Result<Array> {
        let conditions = self.conditions(step).iter();
        let predictions = conditions.map(|&condition| evaluate(condition)).collect::<Result<Vec<_>>>()?;
        self.combine(step, x, &predictions)
    }

    /// Combines the predictions of [`Guide::conditions`], `[B, …]` each, in that order: for whoever evaluates them as
    /// one batch. The result has the dtype of the first and was computed in f32, or f64 of f64; it is `predictions[0]`
    /// itself where there is one, and zeros like `x` where there is none.
    ///
    /// # Errors
    /// When there are fewer or more, or they differ in shape.
    pub fn combine(&mut self, step: usize, x: &Array, predictions: &[Array]) -> Result<Array> {
        let conditions = self.conditions(step);
        if predictions.len() != conditions.len() {
            let problem = format!("{} where step {step} needs {conditions:?}", predictions.len());
            return Err(Error::argument("predictions", problem));
        }
        let towards = match predictions {
            [] => return Ok(ops::zeros_like(x)?),
            [towards] => return Ok(towards.clone()),
            [towards, ..] => towards,
        };
        if let Some(other) = predictions.iter().find(|other| other.shape() != towards.shape()) {
            let problem = format!("the shapes {:?} and {:?} differ", towards.shape(), other.shape());
            return Err(Error::argument("predictions", problem));
        }
        let wide = if towards.dtype() == Dtype::Float64 { Dtype::Float64 } else { Dtype::Float32 };
        let flat = predictions.iter().map(|prediction| rows(&prediction.as_dtype(wide)?));
        let guided = self.guided(&flat.collect::<Result<Vec<_>>>()?)?.reshape(towards.shape())?;
        let guided = match self.guidance.rescale {
            Some(rescale) => rescale.apply(&guided, &towards.as_dtype(wide)?)?,
            None => guided,
        };
        Ok(guided.as_dtype(towards.dtype())?)
    }

    /// The rule, on `[B, N]`.
    fn guided(&mut self, predictions: &[Array]) -> Result<Array> {
        match (self.guidance.rule, predictions) {
            (Rule::ClassifierFreeZero { scale, .. }, [towards, away]) => {
                // As in the paper's code.
                let square = math::offset(&dot(away, away)?, 1e-8)?;
                let alpha = math::divide(&dot(towards, away)?, &square)?;
                beyond(&math::multiply(away, &alpha)?, towards, scale)
            }
            (Rule::Apg(apg), [towards, away]) => apg.guided(towards, away, &mut self.difference),
            (Rule::Dual { scale, between: outer }, [towards, between, away]) => {
                let rest = math::scaled(&math::subtract(towards, between)?, scale)?;
                math::add(&beyond(away, between, outer)?, &rest)
            }
            (Rule::ClassifierFree { scale } | Rule::Dual { scale, .. }, [towards, from]) => {
                beyond(from, towards, scale)
            }
            (rule, _) => Err(Error::argument("predictions", format!("{} for {rule:?}", predictions.len()))),
        }
    }
}

/// `from + scale (to − from)`.
fn beyond(from: &Array, to: &Array, scale: f64) -> Result<Array> {
    math::add(from, &math::scaled(&math::subtract(to, from)?, scale)?)
}
