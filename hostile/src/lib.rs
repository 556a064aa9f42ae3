//! Damaged and hostile files for every reader of this workspace.
//!
//! Whatever bytes a reader is given, it answers: it does not panic, does not abort, and allocates no more than the bytes'
//! length and [`SLACK`]. [`TARGETS`] holds one function a format, which takes bytes and says whether they were accepted;
//! [`mutate`](mutate::mutate) damages valid files, [`Campaign`] runs many of them in a process of their own, and `fuzz/`
//! gives the same functions to `cargo fuzz`.
//!
//! ```
//! use hostile::{Bench, target};
//! let bench = Bench::new()?;
//! let npy = target("npy").unwrap();
//! assert!(!npy.reads(&bench, b"\x93NUMPY\x01\x00"));
//! # Ok::<(), std::io::Error>(())
//! ```

mod bench;
mod campaign;
mod memory;
pub mod mutate;
mod seeds;
mod tally;
mod targets;

pub use bench::Bench;
pub use campaign::Campaign;
pub use memory::{Counting, peak_of};
pub use tally::{Tally, run};
pub use targets::{TARGETS, Target, target};

/// What a reader may allocate beyond the length of what it reads, in bytes.
pub const SLACK: usize = 64 << 20;

/// Everything that Rust code allocates in a process of this crate is counted.
#[global_allocator]
static ALLOCATOR: Counting = Counting::new();
