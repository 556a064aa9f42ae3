//! One file, read at positions that are checked against its length, into buffers no longer than itself.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A regular file opened for reading.
#[derive(Debug)]
pub(super) struct Disk {
    file: fs::File,
    path: PathBuf,
    length: u64,
}

impl Disk {
    /// Opens a file that is not empty.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: to open a named pipe waits for its writer.
        let kind = fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if !kind.is_file() {
            return Err(Error::file(path, "is not a file"));
        }
        let file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let length = file.metadata().map_err(|error| Error::io(path, error))?.len();
        if length == 0 {
            return Err(Error::file(path, "is empty: a download that has not begun or has failed; fetch it again"));
        }
        Ok(Self { file, path: path.to_path_buf(), length })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The open file, whose cursor stands at the beginning until someone moves it.
    pub fn file(&self) -> &fs::File {
        &self.file
    }

    /// An error about this file.
    pub fn fault(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }

    /// A buffer of `bytes` zeros, at most as long as the file.
    pub fn buffer(&self, bytes: u64) -> Result<Vec<u8>> {
        let too_large =
            || self.fault(format!("{bytes} bytes of it do not fit in memory ({} bytes in the file)", self.length));
        let bytes = usize::try_from(bytes).ok().filter(|_| bytes <= self.length).ok_or_else(too_large)?;
        let mut buffer = Vec::new();
        // A sparse file may claim any length; running out of memory must not abort.
        buffer.try_reserve_exact(bytes).map_err(|_out_of_memory| too_large())?;
        buffer.resize(bytes, 0);
        Ok(buffer)
    }

    /// Fills `buffer` from `offset` on.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.fault(format!(
                "ends before byte {}, although it was {} bytes long when it was opened: it has been changed; \
                     fetch it again and start over",
                offset.saturating_add(buffer.len() as u64),
                self.length
            )),
            _ => Error::io(&self.path, error),
        })
    }

    /// `bytes` bytes from `offset` on.
    pub fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut buffer = self.buffer(bytes)?;
        self.fill(offset, &mut buffer)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_it_is_told_and_never_past_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digits");
        fs::write(&path, "0123456789").unwrap();
        let disk = Disk::open(&path).unwrap();
        assert_eq!(disk.read(3, 4).unwrap(), b"3456");
        assert_eq!(disk.read(10, 0).unwrap(), b"");
        assert!(disk.read(8, 3).unwrap_err().to_string().contains("ends before byte 11"));
        assert!(disk.read(0, 11).unwrap_err().to_string().contains("do not fit"));
    }

    #[test]
    fn an_enormous_sparse_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        let claim = 1_u64 << 43;
        if fs::File::create(&path).unwrap().set_len(claim).is_err() {
            return; // this file system has no such files
        }
        let disk = Disk::open(&path).unwrap();
        let mut buffer = Vec::<u8>::new();
        if buffer.try_reserve_exact(claim as usize).is_err() {
            assert!(disk.buffer(claim).unwrap_err().to_string().contains("do not fit"));
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let problem = |path: &Path| Disk::open(path).unwrap_err().to_string();
        assert!(problem(directory.path()).contains("is not a file"));
        assert!(problem(Path::new("/dev/zero")).contains("is not a file"));
        assert!(matches!(Disk::open(&directory.path().join("none")), Err(Error::Io { .. })));
        let empty = directory.path().join("empty");
        fs::write(&empty, "").unwrap();
        assert!(problem(&empty).contains("is empty"));
    }
}
