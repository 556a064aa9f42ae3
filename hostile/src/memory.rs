//! How much is allocated at once.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator, and how many bytes it has handed out. What C++ allocates inside MLX is not seen.
pub struct Counting {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Counting {
    /// Nothing is allocated yet.
    pub const fn new() -> Self {
        Self { live: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    fn take(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(live, Relaxed);
    }

    fn give(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Relaxed);
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call goes to the system's allocator with the arguments that it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.give(layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist at once.
        self.take(size);
        let moved = unsafe { System.realloc(at, layout, size) };
        self.give(if moved.is_null() { size } else { layout.size() });
        moved
    }
}

/// What `work` gives, and the most bytes that it held at once beyond those that were held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = crate::ALLOCATOR.live.load(Relaxed);
    crate::ALLOCATOR.peak.store(before, Relaxed);
    let result = work();
    (result, crate::ALLOCATOR.peak.load(Relaxed).saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let ((), peak) = peak_of(|| {
            drop(vec![0_u8; 3 << 20]);
            drop(vec![0_u8; 5 << 20]);
        });
        assert!((5 << 20..6 << 20).contains(&peak), "{peak}");
    }
}
