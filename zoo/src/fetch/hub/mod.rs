//! Repositories on the Hugging Face Hub, in the cache that Hugging Face's own tools share.
//!
//! `hf-hub` knows where that cache is laid out and where the token lies. It does not download here: it takes a connection
//! that ended early for the end of the file when no length was announced, appends to what is there when a server answers a
//! range with the whole file, checks no checksum, cannot be stopped, and asserts what a server may get wrong.

mod name;
mod needed;
mod remote;

pub use name::Name;

use super::{BLOCK, Event, Observer, Stage, lock, tell};
use crate::{Result, cache::unusable, checksum::hex};
use framework::Draft;
use name::is_plain;
use remote::{Remote, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Bytes that are asked for at once.
const PIECE: u64 = 256 << 20;

/// How often a file may break off before the fetch gives up; what has arrived is kept for the next one.
const CUTS: usize = 3;

/// A server and the cache for what comes from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    root: PathBuf,
    endpoint: String,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

/// A file that is wanted, under the name by which its content is kept.
struct Wanted {
    file: String,
    blob: String,
    bytes: u64,
    sha256: Option<String>,
}

impl Hub {
    /// The cache in a folder, for what comes from an endpoint (`https://huggingface.co`), shown a token if there is one.
    pub fn new(root: impl Into<PathBuf>, endpoint: &str, token: Option<String>) -> Self {
        Self { root: root.into(), endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// As the environment says: the cache in `HF_HUB_CACHE`, in `hub` below `HF_HOME`, or in `~/.cache/huggingface/hub`; the
    /// endpoint `HF_ENDPOINT`; the token `HF_TOKEN`, or the one that `hf auth login` left. Nothing where there is no home.
    pub fn from_environment() -> Option<Self> {
        let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = || Some(PathBuf::from(set("HOME")?).join(".cache/huggingface"));
        let hub = set("HF_HOME").map(PathBuf::from).or_else(home).map(|home| home.join("hub"));
        let token = set("HF_TOKEN").or_else(|| hf_hub::Cache::new(hub.clone()?).token());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Some(Self::new(set("HF_HUB_CACHE").map(PathBuf::from).or(hub)?, &endpoint, token))
    }

    /// The folder of a repository's files, if they are on this machine; nothing is asked of any server.
    ///
    /// Its revision is recorded when all of its files are here, so what was fetched half is not found.
    pub fn snapshot(&self, name: &Name) -> Option<PathBuf> {
        let recorded = fs::read_to_string(self.reference(name)).ok();
        let commit = recorded.as_deref().map_or(name.revision(), str::trim);
        let folder = is_plain(commit).then(|| self.cached(name).pointer_path(commit))?;
        folder.is_dir().then_some(folder)
    }

    /// As [`snapshot`](Self::snapshot).
    ///
    /// # Errors
    /// [`Error::Hub`](crate::Error::Hub) with the command that fetches it.
    pub fn locate(&self, name: &Name) -> Result<PathBuf> {
        self.snapshot(name).ok_or_else(|| {
            name.fault(format!("is not on this machine in {}; fetch it with `zoo fetch {name}`", self.root.display()))
        })
    }

    /// Fetches what a model needs of a repository; returns the folder of its files. What was here stays, and what arrived
    /// before a fetch was stopped is gone on with.
    ///
    /// # Errors
    /// [`Error::Hub`](crate::Error::Hub) when the server refuses, fails, or sends something else than it announced; [`Error::File`](crate::Error::File) when the
    /// cache cannot be written; [`Error::Cancelled`](crate::Error::Cancelled). No file appears under its name before it is whole and checked.
    pub fn fetch(&self, name: &Name, observer: &mut Observer<'_>) -> Result<PathBuf> {
        let remote = Remote::new(&self.endpoint, self.token.as_deref(), name);
        let listing = self.listing(name, &remote)?;
        let licence = listing.tags.iter().find_map(|tag| tag.strip_prefix("license:")).unwrap_or("of its page");
        let url = format!("{}/{}", self.endpoint, name.repository());
        tell(observer, Event::Licence { title: name.repository(), licence, url: &url })?;
        let wanted = wanted(name, &listing)?;

        let folder = self.folder(name);
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs).map_err(|error| unusable(&blobs, &error))?;
        let _lock = lock(&folder)?;
        let total = wanted.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        let mut done = 0_u64;
        let mut here = true;
        for file in &wanted {
            let blob = blobs.join(&file.blob);
            if fs::metadata(&blob).is_ok_and(|found| found.len() == file.bytes) {
                done = done.saturating_add(file.bytes);
                continue;
            }
            here = false;
            let path = format!("{}/resolve/{}/{}", name.repository(), listing.sha, file.file);
            let before = done;
            download(name, &remote, &path, file, &blob, &mut |bytes| {
                done = done.max(before.saturating_add(bytes));
                tell(observer, Event::Bytes { stage: Stage::Download, done, total })
            })?;
        }
        let snapshot = self.cached(name).pointer_path(&listing.sha);
        for file in &wanted {
            link(&blobs, &snapshot, file).map_err(|error| unusable(&snapshot.join(&file.file), &error))?;
        }
        let reference = self.reference(name);
        record(&reference, &listing.sha).map_err(|error| unusable(&reference, &error))?;
        if here {
            tell(observer, Event::Already { path: &snapshot })?;
        }
        Ok(snapshot)
    }

    fn listing(&self, name: &Name, remote: &Remote) -> Result<Listing> {
        // A slash within a revision is not one of the path.
        let revision = name.revision().replace('/', "%2F");
        let text = remote.text(&format!("api/models/{}/revision/{revision}?blobs=true", name.repository()))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|error| {
            name.fault(format!("the server's list of files is not valid ({error}); check HF_ENDPOINT"))
        })?;
        if !is_hash(&listing.sha) {
            return Err(name.fault("the server names no commit; check HF_ENDPOINT"));
        }
        Ok(listing)
    }

    fn cached(&self, name: &Name) -> hf_hub::CacheRepo {
        hf_hub::Cache::new(self.root.clone()).repo(repo(name))
    }

    fn folder(&self, name: &Name) -> PathBuf {
        self.root.join(repo(name).folder_name())
    }

    fn reference(&self, name: &Name) -> PathBuf {
        self.folder(name).join("refs").join(name.revision())
    }
}

fn repo(name: &Name) -> hf_hub::Repo {
    let model = hf_hub::RepoType::Model;
    hf_hub::Repo::with_revision(name.repository().to_owned(), model, name.revision().to_owned())
}

fn is_hash(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// What of a list a model needs, checked before any of it becomes a path.
fn wanted(name: &Name, listing: &Listing) -> Result<Vec<Wanted>> {
    // A model needs no file whose name is unusual.
    let files: Vec<&str> =
        listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).filter(|file| is_plain(file)).collect();
    let needed = needed::needed(&files);
    let is_weights = |file: &&str| file.ends_with(".safetensors") || file.ends_with(".gguf");
    if !needed.iter().any(is_weights) {
        let choices = needed::choices(&files);
        let problem = match choices.len() {
            0 => "holds no `.safetensors` and no `.gguf` file".to_owned(),
            count => format!(
                "holds {count} files of weights ({}, …), and which is meant cannot be told; download one, and name its path",
                choices.first().copied().unwrap_or_default()
            ),
        };
        return Err(name.fault(problem));
    }
    let of = |file: &str| listing.siblings.iter().find(|sibling| sibling.rfilename == file);
    needed
        .into_iter()
        .map(|file| {
            let sibling = of(file);
            let sha256 = sibling.and_then(|sibling| Some(sibling.lfs.as_ref()?.sha256.to_ascii_lowercase()));
            let blob = sha256.clone().or_else(|| sibling?.blob.clone()).filter(|blob| is_hash(blob));
            let (Some(blob), Some(bytes)) = (blob, sibling.and_then(|sibling| sibling.size)) else {
                return Err(name.fault(format!("the server does not say what `{file}` holds; check HF_ENDPOINT")));
            };
            Ok(Wanted { file: file.to_owned(), blob, bytes, sha256 })
        })
        .collect()
}

/// Downloads a file beside its place and puts it there when it is whole; `look` is told how many of its bytes are here.
fn download(
    name: &Name,
    remote: &Remote,
    path: &str,
    wanted: &Wanted,
    place: &Path,
    look: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let draft = place.with_extension("incomplete");
    let refused = |error: io::Error| unusable(&draft, &error);
    let mut file = File::options().read(true).append(true).create(true).open(&draft).map_err(refused)?;
    let mut hash = Sha256::new();
    let mut here = fs::metadata(&draft).map_err(refused)?.len();
    if here > wanted.bytes {
        (here, hash) = begin_again(&file).map_err(refused)?;
    }
    io::copy(&mut file, &mut hash).map_err(refused)?;
    let mut cuts = 0_usize;
    let mut buffer = vec![0; BLOCK];
    while here < wanted.bytes {
        look(here)?;
        let last = here.saturating_add(PIECE).min(wanted.bytes).saturating_sub(1);
        let response = remote.range(path, here, last)?;
        let whole = response.status() == 200;
        let last = if whole { wanted.bytes.saturating_sub(1) } else { last };
        if whole {
            (here, hash) = begin_again(&file).map_err(refused)?;
        } else if header(&response, "content-range") != Some(format!("bytes {here}-{last}/{}", wanted.bytes).as_str()) {
            return Err(
                name.fault(format!("the server sends another part of `{}` than was asked for; try again", wanted.file))
            );
        }
        let mut body = response.into_body().into_reader();
        let (from, mut failure) = (here, None);
        loop {
            let read = match body.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
                Ok(read) => read,
            };
            let Some(block) = buffer.get(..read).filter(|block| !block.is_empty()) else { break };
            here = here.saturating_add(read as u64);
            if here > wanted.bytes {
                drop(fs::remove_file(&draft));
                return Err(
                    name.fault(format!("the server sends more of `{}` than it announced; try again", wanted.file))
                );
            }
            file.write_all(block).map_err(refused)?;
            hash.update(block);
            look(here)?;
        }
        if here <= last || failure.is_some() {
            cuts = cuts.saturating_add(1);
            if cuts > CUTS || here == from {
                let reason = failure.map(|error| format!(" ({error})")).unwrap_or_default();
                return Err(name.fault(format!(
                    "`{}` broke off after {here} of {} bytes{reason}; run the same command, and it goes on there",
                    wanted.file, wanted.bytes
                )));
            }
        }
    }
    let sha256 = hex(&hash.finalize());
    if wanted.sha256.as_ref().is_some_and(|expected| *expected != sha256) {
        drop(fs::remove_file(&draft));
        return Err(name.fault(format!(
            "`{}` has the SHA-256 {sha256} where {} is expected; it was not kept. Run the same command again",
            wanted.file, wanted.blob
        )));
    }
    look(wanted.bytes)?;
    file.sync_all().map_err(refused)?;
    fs::rename(&draft, place).map_err(|error| unusable(place, &error))
}

fn begin_again(file: &File) -> io::Result<(u64, Sha256)> {
    file.set_len(0)?;
    Ok((0, Sha256::new()))
}

/// Shows a file under its name: a relative link, as Hugging Face's tools make them, so that the cache can be moved.
fn link(blobs: &Path, snapshot: &Path, wanted: &Wanted) -> io::Result<()> {
    let place = snapshot.join(&wanted.file);
    let up = "../".repeat(wanted.file.matches('/').count().saturating_add(2));
    let target = Path::new(&up).join("blobs").join(&wanted.blob);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    match symlink(&target, &place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::canonicalize(&place).ok() == fs::canonicalize(blobs.join(&wanted.blob)).ok() {
                return Ok(());
            }
            fs::remove_file(&place)?;
            symlink(&target, &place)
        }
        made => made,
    }
}

/// Records that a revision is here.
fn record(reference: &Path, commit: &str) -> io::Result<()> {
    reference.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut draft = Draft::of(reference)?;
    draft.file().write_all(commit.as_bytes())?;
    draft.publish()
}
