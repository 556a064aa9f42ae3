//! Where weights come from: a `.safetensors` file, a `.gguf` file, or the directory of a Hugging Face snapshot. One
//! header over all files, checked against the index before any tensor is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::header::{Header, Info};
use super::json::{Unique, malformed};
use super::map::WeightMap;
use super::{gguf, safetensors};
use crate::error::{Error, Result};

/// Names under which transformers and diffusers publish a component's weights; an index has `.index.json` after it.
const PUBLISHED: [&str; 2] = ["model.safetensors", "diffusion_pytorch_model.safetensors"];

/// What downloaders append to the name of a file that is not complete.
const UNFINISHED: [&str; 3] = ["incomplete", "part", "aria2"];

/// Longest `config.json` in bytes; a parsed one may take a hundred times that in memory.
const LONGEST_CONFIG: u64 = 600_000;

/// A snapshot's own map from its names to the model's, beside its weights.
const MAP: &str = "weights.toml";

/// Longest map in bytes; published families have a few thousand.
const LONGEST_MAP: u64 = 100_000;

/// Longest index in bytes. The longest published one has two thirds of that.
const LONGEST_INDEX: u64 = 32_000_000;

/// Memory that the entries of one tensor take in all maps of a sharded checkpoint.
const ENTRY: u64 = 600;

/// Memory that these entries may take beyond the length of the files.
const SLACK: u64 = 64 << 20;

/// Named tensors that can be read one at a time.
pub trait Tensors: Send + Sync {
    /// Names, shapes and dtypes of all tensors.
    fn header(&self) -> &Header;

    /// Reads one tensor: its elements in row-major order, little endian.
    ///
    /// # Errors
    /// When there is no tensor of that name, or the file cannot be read or is damaged there.
    fn read(&self, name: &str) -> Result<(Info, Vec<u8>)>;

    /// What the tensors are called in a model, where they came with rules of their own.
    fn map(&self) -> Option<&WeightMap> {
        None
    }
}

/// The configuration that came with the weights.
#[derive(Debug)]
pub enum Config<'a> {
    /// A snapshot's `config.json`.
    Json(serde_json::Value),
    /// A GGUF file's metadata.
    Gguf(&'a gguf::Metadata),
    /// There is none: a single file, whose shapes must tell.
    None,
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    files: Files,
    map: Option<WeightMap>,
}

#[derive(Debug)]
enum Files {
    Gguf(gguf::File),
    Single(safetensors::File),
    Sharded(Sharded),
}

/// The shards of an index as one.
#[derive(Debug)]
struct Sharded {
    header: Header,
    shards: Vec<safetensors::File>,
    /// The shard of each tensor.
    owners: BTreeMap<String, usize>,
}

impl Source {
    /// Opens a file or a snapshot's directory. Reads headers only.
    ///
    /// In a directory an index (`model.safetensors.index.json` or `diffusion_pytorch_model.safetensors.index.json`)
    /// comes first, then the single file of one of these names, then the only `.safetensors` or `.gguf` file. Its
    /// `weights.toml`, if there is one, takes the place of the map that the model's family has for such files.
    ///
    /// # Errors
    /// When there is nothing to open, more than one thing, or something else than weights; when a download is not
    /// complete; when index and shards disagree; when the map is malformed. The message names the file and tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let (files, map) = match fs::metadata(path) {
            Ok(kind) if kind.is_dir() => (open_directory(path)?, map_in(path)?),
            Ok(_) => (open_file(path)?, None),
            Err(error) => return Err(missing(path, error)),
        };
        Ok(Self { path: path.to_path_buf(), files, map })
    }

    /// What was opened: a file or a directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that holds the weights and what was published with them.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            _ if self.path.is_dir() => &self.path,
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The GGUF file, when it is one: it carries the tokenizer too.
    pub fn gguf(&self) -> Option<&gguf::File> {
        match &self.files {
            Files::Gguf(file) => Some(file),
            _ => None,
        }
    }

    /// The configuration: a GGUF file's metadata, the `config.json` beside the weights, or none for a file that has
    /// none beside it.
    ///
    /// # Errors
    /// When the `config.json` of a snapshot is missing, is not JSON, or is too long to be one.
    pub fn config(&self) -> Result<Config<'_>> {
        if let Some(file) = self.gguf() {
            return Ok(Config::Gguf(file.metadata()));
        }
        let path = self.directory().join("config.json");
        if !path.exists() {
            if !self.path.is_dir() {
                return Ok(Config::None);
            }
            return Err(Error::file(
                path,
                "is missing: the model's configuration is published beside the weights; fetch the whole snapshot",
            ));
        }
        let text = read_text(&path, LONGEST_CONFIG)?;
        serde_json::from_slice(&text)
            .map(Config::Json)
            .map_err(|error| Error::file(path, format!("is not valid JSON: {error}; fetch it again")))
    }

    fn tensors(&self) -> &dyn Tensors {
        match &self.files {
            Files::Gguf(file) => file,
            Files::Single(file) => file,
            Files::Sharded(shards) => shards,
        }
    }
}

impl Tensors for Source {
    fn header(&self) -> &Header {
        self.tensors().header()
    }

    fn read(&self, name: &str) -> Result<(Info, Vec<u8>)> {
        self.tensors().read(name)
    }

    fn map(&self) -> Option<&WeightMap> {
        self.map.as_ref()
    }
}

impl Tensors for Sharded {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read(&self, name: &str) -> Result<(Info, Vec<u8>)> {
        self.owners
            .get(name)
            .and_then(|&shard| self.shards.get(shard))
            .ok_or_else(|| Error::argument("name", format!("no shard has a tensor {name:?}")))?
            .read(name)
    }
}

/// Opens one file by what it holds, or by its name when its contents say nothing.
fn open_file(path: &Path) -> Result<Files> {
    // aria2 sets the length first, so that the file looks complete.
    let control = with_suffix(path, "aria2");
    if control.exists() {
        return Err(Error::file(path, unfinished(&control)));
    }
    let opened = match kind_of(path)? {
        Kind::Gguf => gguf::File::open(path).map(Files::Gguf),
        Kind::Safetensors => safetensors::File::open(path).map(Files::Single),
        Kind::Other(problem) => Err(Error::file(path, problem)),
    };
    opened.map_err(|error| explain(path, error))
}

/// What a file holds.
enum Kind {
    Gguf,
    Safetensors,
    /// Neither, and what to do about it.
    Other(&'static str),
}

fn kind_of(path: &Path) -> Result<Kind> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if !path.is_file() {
        return Ok(Kind::Other("is neither a file nor a directory"));
    }
    let mut start = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut start))
        .map_err(|error| Error::io(path, error))?;
    Ok(match (start.as_slice(), extension) {
        ([], _) => Kind::Other("is empty: a download that has not begun or has failed; fetch it again"),
        (start, _) if start.starts_with(b"version https://") => {
            Kind::Other("is a Git LFS pointer, not the weights themselves; run `git lfs pull` where it was cloned")
        }
        (start, _) if start.starts_with(&gguf::MAGIC) => Kind::Gguf,
        (_, Some("gguf")) => Kind::Gguf,
        (_, Some("safetensors")) => Kind::Safetensors,
        (_, Some("pth" | "pt" | "bin" | "ckpt" | "pkl")) => Kind::Other(
            "is a PyTorch pickle, which can run code when it is read; use the `.safetensors` file of the same model",
        ),
        (_, Some("incomplete" | "part" | "aria2")) => {
            Kind::Other("is a download that is not complete; finish it or fetch it again")
        }
        // A header begins after its length; a Hugging Face cache keeps files under names without an extension.
        ([_, _, _, _, _, _, _, _, b'{', ..], _) => Kind::Safetensors,
        _ => Kind::Other("is neither a `.safetensors` nor a `.gguf` file"),
    })
}

/// Finds and opens the weights in a directory.
fn open_directory(directory: &Path) -> Result<Files> {
    let indices: Vec<PathBuf> = PUBLISHED
        .iter()
        .map(|name| directory.join(format!("{name}.index.json")))
        .filter(|path| path.exists())
        .collect();
    let singles: Vec<PathBuf> =
        PUBLISHED.iter().map(|name| directory.join(name)).filter(|path| path.exists()).collect();
    match (indices.as_slice(), singles.as_slice()) {
        ([index], singles) => Sharded::open(directory, index, singles).map(Files::Sharded),
        ([], [single]) => open_file(single),
        ([], []) => open_only(directory),
        (several, _) if several.len() > 1 => Err(ambiguous(directory, several)),
        (_, several) => Err(ambiguous(directory, several)),
    }
}

/// Opens the only file of weights in a directory that follows no convention.
fn open_only(directory: &Path) -> Result<Files> {
    let mut found = Vec::new();
    let mut pickles = false;
    for entry in fs::read_dir(directory).map_err(|error| Error::io(directory, error))? {
        let path = entry.map_err(|error| Error::io(directory, error))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors" | "gguf") => found.push(path),
            Some("pth" | "pt" | "bin" | "ckpt") => pickles = true,
            _ => {}
        }
    }
    found.sort();
    match found.as_slice() {
        [only] => open_file(only),
        [] => Err(Error::file(
            directory,
            match (partial_in(directory), pickles) {
                (Some(partial), _) => format!("holds no complete weights; {}", unfinished(&partial)),
                (None, true) => {
                    "holds weights as PyTorch pickles only, which can run code when they are read; fetch the \
                     `.safetensors` files of the model"
                        .into()
                }
                (None, false) => "holds no `.safetensors` and no `.gguf` file".into(),
            },
        )),
        several if several.iter().all(|path| path.to_string_lossy().contains("-of-")) => Err(Error::file(
            directory,
            format!(
                "holds {} shards and no index: `{}.index.json` is missing; fetch the whole snapshot",
                several.len(),
                PUBLISHED.join(".index.json` or `")
            ),
        )),
        several => Err(ambiguous(directory, several)),
    }
}

impl Sharded {
    /// Opens the shards of an index and checks that they hold what it says; `singles` are files beside it that it should
    /// not ignore.
    fn open(directory: &Path, index: &Path, singles: &[PathBuf]) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: Unique<String>,
        }

        let text = read_text(index, LONGEST_INDEX)?;
        let Index { weight_map } =
            serde_json::from_slice(&text).map_err(|error| Error::file(index, malformed("index", &error)))?;
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, shard) in &weight_map.0 {
            // A plain name: an index must not reach out of its directory.
            let mut parts = Path::new(shard).components();
            let plain = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(part)), None) if part == shard.as_str()
            );
            if !plain {
                return Err(Error::file(
                    index,
                    format!(
                        "puts tensor {tensor:?} into {shard:?}, which is not the name of a file beside it: the index \
                         is damaged or hostile"
                    ),
                ));
            }
            names.insert(shard, 0);
        }
        if let Some(single) = singles.iter().find(|single| {
            !single.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains_key(name))
        }) {
            return Err(ambiguous(directory, &[index.to_path_buf(), single.clone()]));
        }

        if let Some(shard) = unnamed(directory, &names) {
            let problem = format!(
                "does not name the shard {shard:?} beside it: it belongs to another version; fetch the whole snapshot"
            );
            return Err(Error::file(index, problem));
        }

        let mut sharded =
            Self { header: Header::default(), shards: Vec::with_capacity(names.len()), owners: BTreeMap::new() };
        let mut files: Vec<&str> = Vec::with_capacity(names.len());
        let mut bytes = 0_u64;
        for (position, (name, number)) in names.iter_mut().enumerate() {
            *number = position;
            let path = directory.join(name);
            if let Err(error) = fs::metadata(&path) {
                let reason = match partial_beside(&path) {
                    Some(partial) => unfinished(&partial),
                    None => format!("{error}; fetch the whole snapshot"),
                };
                return Err(Error::file(index, format!("names the shard {name:?}, which is missing: {reason}")));
            }
            let Files::Single(shard) = open_file(&path)? else {
                return Err(Error::file(index, format!("names the shard {name:?}, which is not a safetensors file")));
            };
            sharded.take(index, &weight_map.0, &files, name, shard.header())?;
            bytes = bytes.saturating_add(shard.length());
            let tensors = sharded.owners.len() as u64;
            if tensors.saturating_mul(ENTRY) > bytes.saturating_add(SLACK) {
                return Err(Error::file(
                    index,
                    format!("lists {tensors} tensors in {bytes} bytes of shards, which is not believable"),
                ));
            }
            sharded.shards.push(shard);
            files.push(name);
        }
        let absent: Vec<&str> = weight_map
            .0
            .iter()
            .filter(|(tensor, _)| !sharded.owners.contains_key(*tensor))
            .map(|(tensor, _)| tensor.as_str())
            .collect();
        if let Some(shard) = absent.first().and_then(|tensor| weight_map.0.get(*tensor)) {
            return Err(Error::file(
                index,
                format!(
                    "puts tensor {} into {shard:?}, which does not hold it: index and shards are of different \
                     versions; fetch the whole snapshot",
                    listed(&absent)
                ),
            ));
        }
        Ok(sharded)
    }

    /// Enters the tensors of the next shard, `name`, checking each against the index; `files` are those before it.
    fn take(
        &mut self,
        index: &Path,
        weight_map: &BTreeMap<String, String>,
        files: &[&str],
        name: &str,
        header: &Header,
    ) -> Result<()> {
        let mut unlisted = Vec::new();
        for (tensor, info) in &header.tensors {
            if let Some(&earlier) = self.owners.get(tensor) {
                let earlier = files.get(earlier).copied().unwrap_or_default();
                return Err(Error::file(
                    index,
                    format!("tensor {tensor:?} is in two shards, {earlier:?} and {name:?}"),
                ));
            }
            match weight_map.get(tensor) {
                None => unlisted.push(tensor.as_str()),
                // Its own shard may still turn out to hold it too; either way this one should not.
                Some(shard) if shard != name => {
                    return Err(Error::file(
                        index,
                        format!("puts tensor {tensor:?} into {shard:?}, but it is in {name:?}"),
                    ));
                }
                Some(_) => {}
            }
            self.owners.insert(tensor.clone(), files.len());
            self.header.tensors.insert(tensor.clone(), info.clone());
        }
        if !unlisted.is_empty() {
            return Err(Error::file(
                index,
                format!(
                    "does not list tensor {} of {name:?}: index and shards are of different versions; fetch the whole \
                     snapshot",
                    listed(&unlisted)
                ),
            ));
        }
        for (key, value) in &header.metadata {
            self.header.metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Ok(())
    }
}

/// A file beside the shards that is called like one of them, `…-00002-of-00003.safetensors`, and is not among them.
fn unnamed(directory: &Path, names: &BTreeMap<&str, usize>) -> Option<String> {
    let series = |name: &str| {
        let (stem, count) = name.rsplit_once("-of-")?;
        Some((stem.trim_end_matches(|digit: char| digit.is_ascii_digit()).to_owned(), count.to_owned()))
    };
    let known: BTreeSet<_> = names.keys().filter_map(|name| series(name)).collect();
    let beside = fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    beside
        .filter(|name| !names.contains_key(name.as_str()))
        .filter(|name| series(name).is_some_and(|own| known.contains(&own)))
        .min()
}

/// The first names and how many more there are.
fn listed(names: &[&str]) -> String {
    let first: Vec<String> = names.iter().take(3).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(first.len()) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A whole text file of at most `longest` bytes.
fn read_text(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let disk = super::disk::Disk::open(path)?;
    if disk.length() > longest {
        return Err(disk.fault(format!("is {} bytes long; more than {longest} is not believable", disk.length())));
    }
    disk.read(0, disk.length())
}

/// The rules that a directory has of its own.
fn map_in(directory: &Path) -> Result<Option<WeightMap>> {
    let path = directory.join(MAP);
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_text(&path, LONGEST_MAP)?)
        .map_err(|_| Error::file(&path, "is not text in UTF-8; save it as that"))?;
    WeightMap::from_toml(&text).map(Some).map_err(|error| Error::file(path, error.to_string()))
}

fn ambiguous(directory: &Path, found: &[PathBuf]) -> Error {
    let names: Vec<String> =
        found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Error::file(directory, format!("holds more than one set of weights: {}; name the file to open", listed(&names)))
}

/// `path` with a further extension.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The traces of an unfinished download of this very file.
fn partial_beside(path: &Path) -> Option<PathBuf> {
    UNFINISHED.iter().map(|suffix| with_suffix(path, suffix)).find(|partial| partial.exists())
}

/// The traces of any unfinished download into this directory, also where Hugging Face's tools keep them: in a hidden
/// directory within, or among the blobs that a cache's snapshots link to.
fn partial_in(directory: &Path) -> Option<PathBuf> {
    [directory.to_path_buf(), directory.join(".cache/huggingface/download"), directory.join("../../blobs")]
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| UNFINISHED.contains(&extension))
        })
}

fn unfinished(partial: &Path) -> String {
    format!(
        "a download is not complete, as {} shows; finish it, or delete it and fetch the file again",
        partial.display()
    )
}

/// The error about a path where there is nothing.
fn missing(path: &Path, error: std::io::Error) -> Error {
    match partial_beside(path) {
        Some(partial) => Error::file(path, unfinished(&partial)),
        None => Error::io(path, error),
    }
}

/// Adds to an error about a file that its download was not complete, if there are traces of that.
fn explain(path: &Path, error: Error) -> Error {
    match (error, partial_beside(path)) {
        (Error::File { file, problem }, Some(partial)) => {
            Error::File { file, problem: format!("{problem} ({})", unfinished(&partial)) }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::header::Stored;

    /// Files of a directory by name.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(self, name: &str, text: &str) -> Self {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), text).unwrap();
            self
        }

        /// A file of one-element tensors that count from 1.
        fn shard(self, name: &str, tensors: &[&str]) -> Self {
            let info = Info { dtype: Stored::U8, shape: vec![1] };
            let tensors =
                tensors.iter().zip(1..).map(|(name, value)| (name.to_string(), (info.clone(), vec![value]))).collect();
            let metadata = BTreeMap::from([("format".to_string(), name.to_string())]);
            safetensors::write(&self.path(name), &tensors, &metadata).unwrap();
            self
        }

        fn index(self, tensors: &[(&str, &str)]) -> Self {
            let map: BTreeMap<_, _> = tensors.iter().copied().collect();
            let text = serde_json::json!({"metadata": {"total_size": 3}, "weight_map": map});
            self.text("model.safetensors.index.json", &text.to_string())
        }

        fn open(&self) -> Result<Source> {
            Source::open(self.0.path())
        }

        fn problem(&self) -> String {
            self.open().unwrap_err().to_string()
        }
    }

    /// Two shards and their index.
    fn sharded() -> Fixture {
        Fixture::new().shard("1.safetensors", &["a", "b"]).shard("2.safetensors", &["c"]).index(&[
            ("a", "1.safetensors"),
            ("b", "1.safetensors"),
            ("c", "2.safetensors"),
        ])
    }

    #[test]
    fn shards_are_one() {
        let fixture = sharded().text("config.json", r#"{"model_type": "llama"}"#);
        let source = fixture.open().unwrap();
        assert!(source.header().tensors.keys().eq(["a", "b", "c"]));
        assert_eq!(source.header().metadata["format"], "1.safetensors");
        assert_eq!(source.read("b").unwrap().1, [2]);
        assert_eq!(source.read("c").unwrap().1, [1]);
        assert!(source.read("d").unwrap_err().to_string().contains("\"d\""));
        assert_eq!((source.path(), source.directory()), (fixture.0.path(), fixture.0.path()));
        let Config::Json(config) = source.config().unwrap() else {
            panic!("a snapshot's config is JSON");
        };
        assert_eq!(config["model_type"], "llama");
    }

    #[test]
    fn what_the_index_and_the_shards_disagree_on_is_named() {
        let map = [("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors")];
        for (fixture, expected) in [
            (
                sharded().index(&[map[0], map[1], map[2], ("d", "3.safetensors")]),
                "names the shard \"3.safetensors\", which is missing: No such file",
            ),
            (
                sharded().index(&[map[0], map[1], map[2], ("d", "3.safetensors")]).text("3.safetensors.incomplete", ""),
                "which is missing: a download is not complete",
            ),
            (
                sharded().index(&[map[0], map[1], map[2], ("d", "2.safetensors")]),
                "puts tensor \"d\" into \"2.safetensors\", which does not hold it",
            ),
            (
                Fixture::new()
                    .shard("m-1-of-2.safetensors", &["a"])
                    .shard("m-2-of-2.safetensors", &["b"])
                    .index(&[("a", "m-1-of-2.safetensors")]),
                "does not name the shard \"m-2-of-2.safetensors\" beside it",
            ),
            (sharded().index(&[map[0], map[2]]), "does not list tensor \"b\" of \"1.safetensors\""),
            (
                sharded().shard("2.safetensors", &["b", "c"]),
                "tensor \"b\" is in two shards, \"1.safetensors\" and \"2.safetensors\"",
            ),
            (
                sharded().index(&[map[0], ("b", "2.safetensors"), map[2]]),
                "puts tensor \"b\" into \"2.safetensors\", but it is in \"1.safetensors\"",
            ),
            (
                sharded().index(&[("a", "../1.safetensors")]),
                "into \"../1.safetensors\", which is not the name of a file",
            ),
            (sharded().index(&[("a", "/1.safetensors")]), "not the name of a file"),
            (sharded().index(&[("a", "..")]), "not the name of a file"),
            (sharded().index(&[("a", "")]), "not the name of a file"),
            (sharded().index(&[("a", "x/1.safetensors")]), "not the name of a file"),
            (sharded().index(&[("a", "1.safetensors/")]), "not the name of a file"),
            (
                sharded().shard("model.safetensors", &["a"]),
                "holds more than one set of weights: \"model.safetensors.index.json\", \"model.safetensors\"",
            ),
            (sharded().text("diffusion_pytorch_model.safetensors.index.json", "{}"), "more than one set of weights"),
            (sharded().text("2.safetensors", ""), "2.safetensors: is empty"),
            (sharded().text("model.safetensors.index.json", "{"), "malformed index: EOF"),
            (
                sharded().text("model.safetensors.index.json", r#"{"weight_map": {"a": "x", "a": "x"}}"#),
                "\"a\" occurs twice",
            ),
            (sharded().text("model.safetensors.index.json", r#"{"weight_map": {"a": 1}}"#), "\"a\": invalid type"),
        ] {
            let problem = fixture.problem();
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }

    #[test]
    fn an_index_of_more_tensors_than_its_files_can_hold_is_refused() {
        let names: Vec<String> = (0..130_000).map(|i| format!("{i:x}")).collect();
        let map = names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>();
        let empty = Info { dtype: Stored::U8, shape: vec![0] };
        let tensors = names.iter().map(|name| (name.clone(), (empty.clone(), Vec::new()))).collect();
        let fixture = Fixture::new().index(&map);
        safetensors::write(&fixture.path("1"), &tensors, &BTreeMap::new()).unwrap();
        assert!(fixture.problem().contains("lists 130000 tensors in"), "{}", fixture.problem());
    }

    #[test]
    fn a_directory_opens_by_convention() {
        for name in ["model", "diffusion_pytorch_model", "flux1-dev"] {
            let fixture = Fixture::new().shard(&format!("{name}.safetensors"), &["a"]);
            assert_eq!(fixture.open().unwrap().read("a").unwrap().1, [1]);
        }
        let both = Fixture::new().shard("model.safetensors", &["a"]).shard("model.fp16.safetensors", &["b"]);
        assert!(both.open().unwrap().header().tensors.contains_key("a"));
        let indexed = Fixture::new().shard("model.safetensors", &["a"]).index(&[("a", "model.safetensors")]);
        assert!(indexed.open().unwrap().header().tensors.contains_key("a"));
    }

    #[test]
    fn a_directory_without_one_set_of_weights_says_what_it_holds() {
        for (fixture, expected) in [
            (Fixture::new(), "holds no `.safetensors` and no `.gguf` file"),
            (Fixture::new().text("pytorch_model.bin", "x"), "as PyTorch pickles only"),
            (Fixture::new().text("model.gguf.part", ""), "holds no complete weights; a download is not complete"),
            (
                Fixture::new().text(".cache/huggingface/download/abc.incomplete", ""),
                "holds no complete weights; a download is not complete",
            ),
            (
                Fixture::new().shard("a.safetensors", &["a"]).shard("b.safetensors", &["a"]),
                "more than one set of weights: \"a.safetensors\", \"b.safetensors\"; name the file",
            ),
            (
                Fixture::new()
                    .shard("model-00001-of-00002.safetensors", &["a"])
                    .shard("model-00002-of-00002.safetensors", &["a"]),
                "holds 2 shards and no index: `model.safetensors.index.json` or",
            ),
            (
                Fixture::new().shard("model.safetensors", &["a"]).shard("diffusion_pytorch_model.safetensors", &["a"]),
                "more than one set of weights",
            ),
        ] {
            let problem = fixture.problem();
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }

    #[test]
    fn a_file_opens_by_its_contents() {
        let fixture = Fixture::new()
            .shard("0f3a", &["a"])
            .text("m.safetensors", "12345678")
            .text("m.gguf", "GGUX0000")
            .text("m.bin", "x")
            .text("m.txt", "x")
            .text("none.gguf", "")
            .text("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\n")
            .text("late.safetensors.part", "")
            .text("early.gguf.part", "");
        let source = Source::open(&fixture.path("0f3a")).unwrap();
        assert_eq!(source.read("a").unwrap().1, [1]);
        assert_eq!(source.directory(), fixture.0.path());
        assert!(source.gguf().is_none());
        assert!(matches!(source.config().unwrap(), Config::None));
        for (name, expected) in [
            ("m.safetensors", "claim a header of"),
            ("m.gguf", "does not begin with `GGUF`"),
            ("m.bin", "is a PyTorch pickle"),
            ("m.txt", "is neither a `.safetensors` nor a `.gguf` file"),
            ("none.gguf", "is empty: a download"),
            ("lfs.safetensors", "is a Git LFS pointer"),
            ("late.safetensors.part", "is empty"),
            ("late.safetensors", "a download is not complete, as "),
            ("early.gguf", "a download is not complete, as "),
            ("nothing", "No such file"),
        ] {
            let problem = Source::open(&fixture.path(name)).unwrap_err().to_string();
            assert!(problem.contains(&format!("{name}: ")), "{problem}");
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
        let device = Source::open(Path::new("/dev/null")).unwrap_err();
        assert!(device.to_string().contains("neither a file nor a directory"));
    }

    #[test]
    fn an_unfinished_download_is_called_that() {
        let fixture = Fixture::new().shard("model.safetensors", &["a"]).text("model.safetensors.aria2", "");
        assert!(fixture.problem().contains("a download is not complete"));
        let stale = Fixture::new().shard("model.safetensors", &["a"]).text("model.safetensors.incomplete", "");
        assert!(stale.open().is_ok(), "a complete file is not spoilt by what lies beside it");
        let cut = stale.text("model.safetensors", "\x7f\0\0\0\0\0\0\0{");
        let problem = cut.problem();
        assert!(problem.contains("cut short") && problem.contains("a download is not complete"), "{problem}");
    }

    #[test]
    fn a_directory_may_have_a_map_of_its_own() {
        let with = |map: &str| Fixture::new().shard("model.safetensors", &["a"]).text("weights.toml", map);
        let rule = "[[rule]]\nverb = \"rename\"\nfrom = \"a\"\nto = \"b.weight\"\n";
        let opened = with(rule).open().unwrap();
        assert!(opened.map().unwrap().forward(opened.header()).unwrap().produced.contains_key("b.weight"));
        assert!(Fixture::new().shard("model.safetensors", &["a"]).open().unwrap().map().is_none());
        for (map, expected) in [
            ("[[rule]]\nverb = \"rename\"\n", "weights.toml: "),
            ("rule = 3", "weights.toml: "),
            ("", "weights.toml: is empty"),
            (&"#".repeat(100_001), "more than 100000 is not believable"),
        ] {
            let problem = with(map).problem();
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }

    #[test]
    fn a_config_is_read_with_care() {
        for (text, expected) in [
            ("{", "is not valid JSON: EOF"),
            ("", "is empty"),
            (&"[".repeat(1000), "recursion limit"),
            (&" ".repeat(600_001), "more than 600000 is not believable"),
        ] {
            let fixture = Fixture::new().shard("model.safetensors", &["a"]).text("config.json", text);
            let problem = fixture.open().unwrap().config().unwrap_err().to_string();
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }
}
