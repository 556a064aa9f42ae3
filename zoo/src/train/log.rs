//! `log.jsonl`: a line a step.

use super::Entry;
use crate::{Error, Result};
use framework::Draft;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

/// A log that is appended to.
pub(super) struct Log {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Log {
    /// Opens the log of a folder; lines of steps after `step`, which a checkpoint did not see, are removed.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join("log.jsonl");
        let refused = |error: io::Error| Error::file(&path, error.to_string());
        let kept: Vec<Entry> = read(&path)?.into_iter().filter(|entry| entry.step <= step).collect();
        let mut draft = Draft::of(&path).map_err(refused)?;
        for entry in &kept {
            writeln!(draft.file(), "{}", line(entry)?).map_err(refused)?;
        }
        draft.publish().map_err(refused)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(refused)?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    /// Adds a step.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        let line = line(entry)?;
        writeln!(self.file, "{line}").map_err(|error| Error::file(&self.path, error.to_string()))
    }

    /// Has everything on disk, and reads it back.
    pub fn entries(&mut self) -> Result<Vec<Entry>> {
        self.file.flush().map_err(|error| Error::file(&self.path, error.to_string()))?;
        read(&self.path)
    }
}

fn line(entry: &Entry) -> Result<String> {
    serde_json::to_string(entry).map_err(|error| Error::argument("log", error.to_string()))
}

/// The entries of a log; a last line that was cut off is none.
fn read(path: &Path) -> Result<Vec<Entry>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| Error::file(path, error.to_string()))?,
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    Ok(lines.filter_map(|line| serde_json::from_str(&line).ok()).collect())
}
