//! What all image models share: what may be asked of them, how they run, and what is told meanwhile.

mod capabilities;
mod generator;
mod plan;
mod preview;
mod request;
mod watch;

pub use capabilities::{Capabilities, Conditioning, TextTokens};
pub use generator::{Diffusion, Evaluation, Generator, Velocity};
pub use plan::{Plan, Planned};
pub use preview::Projection;
pub use request::{ImageRequest, InitImage};
pub use watch::{ImageEvent, Observer, Stage, Watch};
