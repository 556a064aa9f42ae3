//! What all image models share: what may be asked of them, how they run, and what is told meanwhile.

mod capabilities;
pub(crate) mod case;
mod core;
mod generator;
pub(crate) mod patches;
mod plan;
mod preview;
mod prompts;
mod reading;
mod request;
mod scheduler;
mod watch;

pub use capabilities::{Capabilities, Conditioning, TextTokens};
pub use core::Core;
pub use generator::{Diffusion, Evaluation, Generator, Velocity};
pub use plan::{Plan, Planned};
pub use preview::Projection;
pub(crate) use preview::bytes;
pub(crate) use prompts::Prompts;
pub use prompts::Tokens;
pub(crate) use reading::Reading;
pub use request::{ImageRequest, InitImage};
pub(crate) use scheduler::Scheduler;
pub use watch::{ImageEvent, Observer, Stage, Watch};
