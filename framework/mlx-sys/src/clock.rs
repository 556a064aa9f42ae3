//! macOS's clock, from which mlx-rs takes its default random seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
