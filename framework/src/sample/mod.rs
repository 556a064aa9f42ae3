//! From a model's output to a decision: the next token, or the next latents.
//!
//! Diffusion and flow matching are three parts that do not know each other. A [`Schedule`] says which noise levels are
//! visited, a [`Prediction`] turns the model's output into the clean sample, a [`Sampler`] moves from one level to the
//! next. They share the meaning of `sigma` alone: [`Noising`]. A [`Guide`] stands before the model and makes several of
//! its predictions one.
//!
//! ```
//! use framework::sample::{Flow, Method, Noising, Prediction, Rng, Seeded, Shift};
//! use framework::{Array, Dtype};
//!
//! let schedule = Flow::even(Shift::Algebraic { shift: 3.0 }).schedule::<f32>(4)?;
//! let mut sampler = Method::Euler.sampler::<f32>(Noising::Flow, schedule.steps());
//! let mut rng = Seeded::new(7)?;
//! let mut x = rng.normal(&[1, 2, 3], Dtype::Float32)?;
//! for (sigma, next) in schedule.spans() {
//!     let mut denoise = |x: &Array, sigma: f32| {
//!         let output = x; // the model's, conditioned on schedule.timestep(sigma)
//!         Prediction::Flow.denoised(Noising::Flow, output, x, sigma)
//!     };
//!     x = sampler.step(&mut denoise, &x, sigma, next, &mut rng)?;
//! }
//! # Ok::<(), framework::Error>(())
//! ```

mod guidance;
mod noising;
mod prediction;
mod real;
mod rng;
mod sampler;
mod schedule;
mod token;

pub use guidance::{Anchor, Apg, Condition, Guidance, Guide, Rescale, Rule};
pub use noising::Noising;
pub use prediction::{Prediction, derivative};
pub use rng::{Replay, Rng, Seeded};
pub use sampler::{Bh, Denoise, Method, Sampler};
pub use schedule::{
    AnySchedule, BetaKind, Betas, Clock, Curve, Discrete, Fixed, Flow, LogitNormal, Resolution, Schedule, Shift,
    Spacing,
};
pub use token::{History, TokenGenerator, TokenSampler};
