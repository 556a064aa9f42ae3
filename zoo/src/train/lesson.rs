//! What a kind of training brings to the loop that all share.

use crate::{Result, picture::Picture};
use framework::{
    Array, Module,
    train::{Loss, Named},
};
use std::path::Path;

/// A model, its examples and its loss.
pub(super) trait Lesson {
    /// What is trained.
    fn module(&self) -> &dyn Module;

    /// The names of what [`loss`](Self::loss) reports beside the loss.
    fn parts(&self) -> &[&'static str];

    /// The examples of the step after so many, in `parts` equal batches.
    fn batches(&self, done: u64, parts: usize) -> Result<Vec<Named>>;

    /// The loss of a batch, by the module as it is now.
    fn loss(&self, batch: &Named, key: &Array) -> framework::Result<Loss>;

    /// Writes the module as it is now into an empty folder, as a snapshot that can be opened.
    fn export(&self, folder: &Path) -> Result<()>;

    /// What the snapshot makes.
    fn samples(&self, snapshot: &Path) -> Result<Picture>;
}
