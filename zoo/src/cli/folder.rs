//! A folder to write into, all or nothing.

use crate::{Error, Result};
use std::{fs, io, path::Path};

/// An empty folder. It is as it was before when this ends, with what was put there gone, unless it is kept.
pub struct Folder<'a> {
    path: &'a Path,
    /// The outermost folder that had to be made.
    made: Option<&'a Path>,
    kept: bool,
}

impl<'a> Folder<'a> {
    /// Takes an empty folder, or makes one.
    ///
    /// # Errors
    /// When it holds something, is no folder, or cannot be made.
    pub fn new(path: &'a Path) -> Result<Self> {
        let refused = |error: io::Error| unwritten(path, &error);
        let absent = path.ancestors().take_while(|place| !place.as_os_str().is_empty() && !place.exists());
        let made = absent.last();
        fs::create_dir_all(path).map_err(refused)?;
        match fs::read_dir(path).map_err(refused)?.next() {
            Some(_) => Err(Error::file(path, "holds something already; name an empty folder")),
            None => Ok(Self { path, made, kept: false }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Leaves it with what is in it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Nobody is left to be told of a failure.
        let _ = fs::remove_dir_all(self.made.unwrap_or(self.path));
        if self.made.is_none() {
            let _ = fs::create_dir(self.path);
        }
    }
}

/// Why a file cannot be written, and what to do about it.
pub fn unwritten(path: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, NotADirectory, QuotaExceeded, StorageFull};
    let advice = match error.kind() {
        AlreadyExists | NotADirectory => "a file lies where a folder should be; name another place",
        StorageFull | QuotaExceeded => "the disk is full; free some space, or name a place on another disk",
        _ => "this place cannot be written; name another",
    };
    Error::file(path, format!("{advice} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_it_was_unless_it_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new/er"));
        fs::create_dir(&old).unwrap();
        for path in [&old, &new] {
            let folder = Folder::new(path).unwrap();
            fs::write(folder.path().join("half"), "half").unwrap();
            drop(folder);
        }
        assert_eq!(fs::read_dir(&old).unwrap().count(), 0);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);

        let folder = Folder::new(&new).unwrap();
        fs::write(folder.path().join("whole"), "whole").unwrap();
        folder.keep();
        assert!(new.join("whole").exists());
        assert!(Folder::new(&new).is_err_and(|error| error.to_string().contains("holds something already")));
        assert!(Folder::new(&new.join("whole")).is_err_and(|error| error.to_string().contains("a file lies where")));
        assert!(new.join("whole").exists());
    }
}
