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
pub mod array;
pub mod blocks;
pub mod case;
pub mod compare;
mod entry;
mod error;
pub mod fault;
pub mod npy;
mod pipeline;
pub mod report;
pub mod run;
pub mod subject;
pub mod suite;
pub mod tensor;
#[cfg(test)]
mod toy;

pub use error::{Error, Result};
pub use suite::Suite;

/// The suite of everything that this workspace implements: the zoo's models and pipelines and the framework's blocks.
///
/// One's own families join it, or the zoo's alone, and a row of one's own [pipeline](zoo::Pipeline) does in the same way:
///
/// ```
/// use framework::{Init, Linear, weights::WeightMap};
/// use parity::{Suite, suite::Outcome};
/// use zoo::registry::{Layout, entry, json_config};
/// use zoo::{Arguments, Family, Outputs, Result};
///
/// struct Mine;
///
/// #[derive(serde::Deserialize)]
/// struct Config {
///     input: i32,
///     output: i32,
///     bias: bool,
/// }
///
/// impl Family for Mine {
///     const NAMES: &'static [&'static str] = &["Linear"];
///     const IGNORED: &'static [(&'static str, &'static str)] = &[];
///     type Config = Config;
///     type Model = Linear;
///
///     fn build(config: &Config, init: &mut Init) -> framework::Result<Linear> {
///         Linear::new(config.input, config.output, config.bias, init)
///     }
///     fn layouts() -> &'static [Layout<Config>] {
///         &[Layout { name: "mine", config: json_config::<Mine>, map: |_| WeightMap::identity() }]
///     }
///     fn call(model: &Linear, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
///         assert_eq!(method, "forward");
///         Ok(vec![("0".into(), model.forward(&arguments.take("x")?)?)])
///     }
/// }
///
/// let suite = Suite::new(zoo::MODELS).with(entry::<Mine>());
/// let summary = suite.run(&["../fixtures/framework/linear".into()])?;
/// assert!(matches!(summary.cases[0].outcome, Outcome::Passed(_)));
/// # Ok::<(), parity::Error>(())
/// ```
pub fn models() -> Suite {
    let models = Suite::new(zoo::MODELS.iter().chain(blocks::BLOCKS));
    zoo::PIPELINES.iter().fold(models, Suite::with)
}
