//! Layer-by-layer comparison of models with their reference implementations.
//!
//! A [`Case`](case::Case) is what the reference computed: its configuration, weights, inputs, the activations of its modules and
//! its outputs, in a directory that `parity/reference/dump.py` wrote in the format of `fixtures/README.md`. A
//! [`Family`](subject::Family) builds the model under test from it, and [`check`](run::check) runs that twice: free, and forced,
//! where every observed output is compared and then replaced by the reference's, so that an error is charged to the module that
//! made it. The [`Report`](report::Report) has a row for every activation and headlines the first one out of tolerance.
//!
//! `cargo test -p parity` runs every committed case; `cargo run -p parity -- check DIR…` runs any.

#![warn(missing_docs)]

pub mod arguments;
pub mod case;
pub mod compare;
mod error;
pub mod fault;
pub mod npy;
pub mod report;
pub mod run;
pub mod subject;
pub mod suite;
pub mod tensor;
#[cfg(test)]
mod toy;

pub use error::{Error, Result};
pub use suite::Suite;

/// The suite of everything that this workspace implements.
pub fn models() -> Suite {
    Suite::default()
}
