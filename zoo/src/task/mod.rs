//! What models are used for: one small trait a task.

mod causal_lm;

pub use causal_lm::CausalLm;
