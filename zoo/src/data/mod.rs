//! What training reads: pictures with captions, and what is computed from them once.
//!
//! An [`ImageFolder`] holds the pictures of a folder, all of one size, and [`Captions`] their captions as token ids;
//! [`Batches`] says which of them every step sees. What an encoder makes of them is computed once and kept by an
//! [`ArrayCache`]. [`bpe`] makes a tokenizer from captions.

mod array_cache;
mod batches;
pub mod bpe;
mod captions;
mod folder;
mod metadata;

pub use array_cache::{ArrayCache, Key, Origin, weights_digest};
pub use batches::{Batches, Example};
pub use captions::Captions;
pub use folder::{ImageFolder, texts};
pub use metadata::Skipped;
