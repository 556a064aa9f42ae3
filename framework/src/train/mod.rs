//! Training: gradients of selected parameters, optimisers, losses of diffusion and flow matching, and checkpoints.
//!
//! A transform of MLX (gradients, compilation, recomputation) takes an array that its function captured for a constant:
//! a compiled step that captures a parameter never changes it, a recomputed block that captures one gives it a gradient
//! of zero, and nothing says so. Here a [`Trainable`] puts the transform's own arrays into the module while the function
//! runs, and a [`Step`] hands everything that changes, parameters, optimiser, average, batch and random key, in and out.
//!
//! ```
//! use framework::sample::{Noising, Prediction, Shift};
//! use framework::train::{Adam, Loss, Named, Objective, Rate, Settings, State, Step, Timesteps, Trainable, Weighting};
//! use framework::{Array, Init, Linear, math};
//!
//! let model = Linear::new(4, 4, true, &mut Init::default())?;
//! let objective =
//!     Objective { noising: Noising::Flow, prediction: Prediction::Flow, weighting: Weighting::Uniform };
//! let timesteps = Timesteps::LogitNormal { mean: 0.0, deviation: 1.0, shift: Shift::None };
//!
//! let trainable = Trainable::new(&model, |path| path.ends_with("weight"))?;
//! let settings = Settings::new(Rate::Constant { rate: 1e-3, warm_up: 0 });
//! let mut step = Step::new(trainable, Adam::decoupled(0.01), settings, |_, batch, key| {
//!     let noised = objective.noised(&batch["clean"], &timesteps, key)?;
//!     Ok(Loss::of(objective.loss(&model.forward(&noised.input)?, &noised)?))
//! })?;
//! let mut state = State::begin(&step, 7)?;
//! let batch = Named::from([("clean".to_owned(), Array::ones::<f32>(&[8, 4])?)]);
//! let report = step.run(&mut state, &[batch])?;
//! assert!(report.loss.is_finite() && state.step == 1);
//! step.trainable().assign(&state.params)?; // What was learned, into the model.
//! # Ok::<(), framework::Error>(())
//! ```

mod adam;
mod average;
pub mod checkpoint;
mod clip;
mod gradient;
mod objective;
mod optimiser;
mod rate;
mod recompute;
mod state;
mod step;
mod timesteps;
mod trainable;
mod weighting;

pub use adam::{Adam, Choice, Decay};
pub use average::{Average, WarmUp};
pub use clip::{clipped, global_norm};
pub use gradient::Loss;
pub use objective::{Noised, Objective};
pub use optimiser::Optimiser;
pub use rate::Rate;
pub use state::{Named, State};
pub use step::{Report, Settings, Step};
pub use timesteps::{Levels, Timesteps};
pub use trainable::{Trainable, cast};
pub use weighting::Weighting;
