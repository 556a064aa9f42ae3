//! What training reads: pictures with captions.
//!
//! An [`ImageFolder`] holds the pictures of a folder, all of one size.

mod folder;
mod metadata;

pub use folder::ImageFolder;
pub use metadata::Skipped;
