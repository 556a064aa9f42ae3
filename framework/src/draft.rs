//! Files that appear whole or not at all.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// A file that is being written, beside its final place and under another name; dropped, it is gone.
///
/// ```
/// use framework::Draft;
/// use std::{fs, io::Write};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("answer.txt");
/// let mut draft = Draft::of(&path)?;
/// draft.file().write_all(b"42")?;
/// assert!(!path.exists());
/// draft.publish()?;
/// assert_eq!(fs::read(&path)?, b"42");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Draft {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Draft {
    /// Begins the file that will be at `path`, with the mode that the umask gives.
    ///
    /// # Errors
    /// When its folder is missing or cannot be written.
    pub fn of(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // In the same folder, so that a rename suffices.
        let temporary = tempfile::Builder::new()
            .prefix(".")
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// Where to write.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Puts what is written in its place, on the disk; a file that was there is replaced.
    ///
    /// # Errors
    /// When the disk is full or the place is taken by a folder. What was there stays.
    pub fn publish(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(self.path).map_err(|failed| failed.error)?;
        Ok(())
    }
}
