//! What the harness asks of a model under test, and where the reference's modules are found in it.

use std::ops::Range;

use framework::weights::ActivationLayout;

use crate::Result;
use crate::arguments::Value;
use crate::case::{Case, Reference};
use crate::tensor::Tensor;

/// Something that can be built from a case: one family of models, or one block.
pub trait Family: Send + Sync {
    /// Whether this family implements the class that the reference ran.
    fn answers(&self, reference: &Reference) -> bool;

    /// Builds it from the case's configuration and loads the case's weights. State begins empty.
    ///
    /// # Errors
    /// When the configuration or the weights do not fit; see [`Error::subject`](crate::Error::subject).
    fn open(&self, case: &Case) -> Result<Box<dyn Subject>>;
}

/// A model under test. State, such as a cache, lives from call to call.
pub trait Subject {
    /// Where the output of the reference's module at `path` is found here.
    fn locate(&self, path: &str) -> Location;

    /// Calls a method with upstream's arguments, all of which must be used, and gives every observed output to the tap.
    ///
    /// # Errors
    /// When the method is unknown, an argument is not taken, or the computation fails.
    fn call(&mut self, method: &str, arguments: &Value, tap: &mut Tap<'_>) -> Result<Outputs>;
}

/// What a method returned, by upstream's names.
pub type Outputs = Vec<(String, Tensor)>;

/// Sees an observed output under its path here, such as `layers.0.attn` or `blocks.1#0`; what it returns takes the output's
/// place, in the output's element type. The second argument copies the output to host memory, which is not done for outputs
/// that nobody asks for.
pub type Tap<'a> = dyn FnMut(&str, &dyn Fn() -> Result<Tensor>) -> Option<Tensor> + 'a;

/// Where the output of a reference's module is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The place.
    pub place: Place,
    /// The order of the reference's axes.
    pub layout: ActivationLayout,
}

/// The modules here that stand for one module of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One module, output for output.
    Same(String),
    /// Columns of one output's last axis.
    Slice {
        /// The module here.
        path: String,
        /// Its columns.
        columns: Range<usize>,
    },
    /// These outputs side by side along the last axis.
    Join(Vec<String>),
    /// The outputs here that are the reference's, in the reference's order.
    Alias(Vec<String>),
    /// Nothing here stands for it, for this reason.
    Unobserved(String),
    /// Nothing follows about it.
    Unknown {
        /// Why not.
        because: String,
        /// The nearest path that is known.
        nearest: Option<String>,
    },
}
