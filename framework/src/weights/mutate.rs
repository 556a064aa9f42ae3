//! Damage to valid files, for the tests of the readers: whatever a reader is given, it answers.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Hands `read` a file of that name `rounds` times, each time with `valid` damaged in another way: bytes changed (the
/// first `header` bytes far more often than the rest), numbers replaced by extreme ones, pieces cut out, doubled or cut
/// off. The same damage in every run. Returns how often `read` said that the file was still good.
pub(super) fn survive(valid: &[u8], header: usize, name: &str, rounds: u64, read: impl Fn(&Path) -> bool) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let file = fs::File::create(&path).unwrap();
    let mut good = 0;
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = valid.to_vec();
        for _ in 0..random.usize(1..4) {
            let reach = if random.u8(..) < 230 { header.min(bytes.len()) } else { bytes.len() };
            if reach == 0 {
                break;
            }
            let at = random.usize(..reach);
            let span = at..(at + random.usize(1..24)).min(bytes.len());
            match random.u8(..8) {
                0 | 1 => bytes[at] = random.u8(..),
                2 => bytes[at] ^= 1 << random.u8(..8),
                3 => {
                    let extreme = [0, 1, u64::MAX, 1 << 63, 1 << 40, u32::MAX.into(), 1 << 31];
                    let value = extreme[random.usize(..extreme.len())].to_le_bytes();
                    let width = [1, 4, 8][random.usize(..3)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&value[..width]);
                }
                4 => bytes.truncate(at),
                5 => drop(bytes.drain(span)),
                6 => {
                    let piece = bytes[span].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    // Digits and punctuation of a text header.
                    let signs = b"0123456789-,:[]{}\"\\e.";
                    bytes[at] = signs[random.usize(..signs.len())];
                }
            }
        }
        // Never emptied in between: some file systems flush a file that is, every time.
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        good += u64::from(read(&path));
    }
    good
}
