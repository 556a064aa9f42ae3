//! What a few kilobytes or gigabytes come down to.

use sha2::{Digest, Sha256};

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a sequence of values, each with its length before it, so that none runs into the next.
#[derive(Clone, Default)]
pub(crate) struct Checksum(Sha256);

impl Checksum {
    /// With one value more.
    pub fn of(mut self, value: &[u8]) -> Self {
        self.add(value);
        self
    }

    /// Adds a value.
    pub fn add(&mut self, value: &[u8]) {
        self.0.update((value.len() as u64).to_le_bytes());
        self.0.update(value);
    }

    /// The bytes of the sum.
    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The sum as people write it.
    pub fn end(self) -> String {
        hex(&self.bytes())
    }
}
