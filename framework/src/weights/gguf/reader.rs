//! A cursor over a GGUF header that knows how long the file is and how much memory it may use.
//!
//! What goes wrong is a sentence without the file's name; whoever knows which key or tensor was being read puts it
//! before.

use std::io::Read;

/// What has been read, or what is wrong with it.
pub(super) type Parsed<T> = Result<T, String>;

/// Memory that a header may take beyond the length of its file.
const SLACK: u64 = 64 << 20;

/// Memory that the allocator may add to a short text.
const ALLOCATION: u64 = 32;

/// Reads little-endian values in order.
pub(super) struct Reader<R> {
    inner: R,
    at: u64,
    length: u64,
    memory: u64,
}

impl<R: Read> Reader<R> {
    /// A reader at the beginning of a file of `length` bytes.
    pub fn new(inner: R, length: u64) -> Self {
        Self { inner, at: 0, length, memory: length.saturating_add(SLACK) }
    }

    /// Position in the file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Notes that `bytes` of memory are about to be used.
    pub fn charge(&mut self, bytes: u64) -> Parsed<()> {
        match self.memory.checked_sub(bytes) {
            Some(left) => {
                self.memory = left;
                Ok(())
            }
            None => Err(format!("at byte {}: would take more memory than a header of this file may", self.at)),
        }
    }

    /// Fails unless `bytes` more bytes are in the file.
    fn expect(&self, bytes: u64) -> Parsed<()> {
        if bytes > self.length.saturating_sub(self.at) {
            return Err(format!(
                "needs {bytes} bytes at byte {}, but the file ends at byte {}: it is damaged or cut short; fetch it \
                 again",
                self.at, self.length
            ));
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Parsed<()> {
        self.expect(buffer.len() as u64)?;
        self.inner.read_exact(buffer).map_err(|error| format!("at byte {}: cannot be read: {error}", self.at))?;
        self.at = self.at.saturating_add(buffer.len() as u64);
        Ok(())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length, at most `longest`, and as many bytes of UTF-8.
    pub fn string(&mut self, longest: u64) -> Parsed<String> {
        let length = self.u64()?;
        let at = self.at;
        self.expect(length)?;
        if length > longest {
            return Err(format!("at byte {at}: {length} bytes, more than the {longest} allowed"));
        }
        self.charge(ALLOCATION)?;
        let mut bytes = self.room(length, 1)?;
        bytes.resize(length as usize, 0);
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_error| {
            format!("at byte {at}: a text of {length} bytes is not UTF-8: the file is damaged or was converted badly")
        })
    }

    /// An empty vector for `count` items that each take at least `stored` bytes of the file.
    pub fn room<T>(&mut self, count: u64, stored: u64) -> Parsed<Vec<T>> {
        self.expect(count.saturating_mul(stored))?;
        self.charge(count.saturating_mul(size_of::<T>() as u64))?;
        let mut items = Vec::new();
        usize::try_from(count)
            .ok()
            .and_then(|count| items.try_reserve_exact(count).ok())
            .ok_or_else(|| format!("at byte {}: {count} items do not fit in memory", self.at))?;
        Ok(items)
    }

    /// `count` numbers of `N` bytes each.
    pub fn numbers<const N: usize, T>(&mut self, count: u64, decode: impl Fn([u8; N]) -> T) -> Parsed<Vec<T>> {
        let mut items = self.room(count, N as u64)?;
        for _ in 0..count {
            items.push(decode(self.array()?));
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_stops_at_the_end() {
        let bytes = b"\x02\0\0\0\0\0\0\0hi\x01\x02\x03\x04\x05";
        let mut reader = Reader::new(&bytes[..], bytes.len() as u64);
        assert_eq!(reader.string(2).unwrap(), "hi");
        assert_eq!(reader.numbers(2, u16::from_le_bytes).unwrap(), [0x201, 0x403]);
        assert_eq!(reader.at(), 14);
        let problem = reader.u32().unwrap_err();
        assert!(problem.contains("needs 4 bytes at byte 14, but the file ends at byte 15"));
        assert_eq!(reader.array::<1>().unwrap(), [5]);
    }

    #[test]
    fn lengths_are_believed_only_when_the_file_has_them() {
        for claim in [9, u64::MAX, 1 << 63, 1 << 40] {
            let bytes = [&claim.to_le_bytes()[..], b"12345678"].concat();
            let reader = || Reader::new(&bytes[..], bytes.len() as u64);
            assert!(reader().string(u64::MAX).unwrap_err().contains("the file ends at byte 16"));
            let mut at_data = reader();
            at_data.u64().unwrap();
            assert!(at_data.numbers(claim, u64::from_le_bytes).is_err());
            assert!(at_data.room::<u8>(claim, 1).is_err());
        }
        assert!(Reader::new(&b"\x01\0\0\0\0\0\0\0\xff"[..], 9).string(9).unwrap_err().contains("not UTF-8"));
        assert!(Reader::new(&b""[..], 8).u64().unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut reader = Reader::new(std::io::empty(), 1000);
        reader.charge(SLACK).unwrap();
        reader.charge(1000).unwrap();
        assert!(reader.charge(1).unwrap_err().contains("more memory"));
    }
}
