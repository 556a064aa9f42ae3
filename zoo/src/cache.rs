//! The directory in which fetched models lie, and how a wish becomes a path.

use crate::{
    Error, Result,
    fetch::hub::{Hub, Name},
    published::{Pip, Published, Source, find, published},
    shipped,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

/// The directory in which fetched models lie, `<root>/<id>/<file>`, and the cache of Hugging Face's tools beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
    hub: Option<Hub>,
}

/// The path of a model: an existing path is itself, an id or a repository is its files in the cache.
///
/// # Errors
/// As [`Cache::locate`].
pub fn locate(id_or_path: impl AsRef<OsStr>) -> Result<PathBuf> {
    let wish = id_or_path.as_ref();
    match existing(Path::new(wish))? {
        Some(path) if !is_shipped(wish)? => Ok(path),
        _ => Cache::from_environment()?.locate(wish),
    }
}

impl Cache {
    /// `$ZOO_CACHE`, else the platform's cache directory: `$XDG_CACHE_HOME/zoo` or `~/.cache/zoo`, and on a Mac
    /// `~/Library/Caches/zoo`.
    ///
    /// # Errors
    /// None of these variables is set.
    pub fn from_environment() -> Result<Self> {
        let cache = Self::from_variables(|name| env::var_os(name)).ok_or_else(|| {
            Error::argument("ZOO_CACHE", "there is no home directory to keep models in; set ZOO_CACHE to a directory")
        })?;
        Ok(Self { hub: Hub::from_environment(), ..cache })
    }

    /// An empty variable counts as unset, and so does a relative XDG_CACHE_HOME, as its specification asks.
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let xdg = || set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("zoo"));
        let home = || set("HOME").map(|path| path.join(HOME_CACHE));
        set("ZOO_CACHE").or_else(xdg).or_else(home).map(Self::at)
    }

    /// The cache in a directory, which need not exist yet; without what comes from the Hub.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), hub: None }
    }

    /// The cache for repositories of the Hub.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn hub(&self) -> Result<&Hub> {
        let none = || {
            Error::argument("HF_HOME", "there is no home directory to keep repositories in; set HF_HOME to a directory")
        };
        self.hub.as_ref().ok_or_else(none)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file of a model lies, or will lie; nothing for a model that comes from the Hub.
    pub fn model_path(&self, model: &Published) -> Option<PathBuf> {
        let Source::Pip(pip) = &model.source else {
            return None;
        };
        Some(self.root.join(&model.id).join(Path::new(&pip.file).file_name()?))
    }

    /// Where a fetch of the model works; it exists only while one runs, or after one was killed.
    pub(crate) fn staging(&self, model: &Published) -> PathBuf {
        self.root.join(format!("{}.partial", model.id))
    }

    /// The models whose files are here, whole.
    ///
    /// # Errors
    /// As [`published`].
    pub fn fetched(&self) -> Result<Vec<&'static Published>> {
        Ok(published()?.iter().filter(|model| matches!(self.file_of(model), Ok(Some(_)))).collect())
    }

    /// The path of a model: an existing path is itself, an id is its file or folder in the cache, and so is a repository that
    /// is named `hf:owner/name[@revision]`.
    ///
    /// # Errors
    /// [`Error::NotFetched`] or [`Error::Hub`] with the command that fetches it, [`Error::UnknownModel`], or [`Error::File`] for a path
    /// where nothing is, a file of the wrong size, and a fetch that has not finished.
    pub fn locate(&self, id_or_path: impl AsRef<OsStr>) -> Result<PathBuf> {
        let wish = id_or_path.as_ref();
        let path = Path::new(wish);
        if is_shipped(wish)? {
            return shipped::unpack(self.root.join(wish));
        }
        if let Some(path) = existing(path)? {
            return Ok(path);
        }
        let name = wish.to_string_lossy();
        if let Some(name) = Name::of(&name)? {
            return self.hub()?.locate(&name);
        }
        if is_written_as_path(path) && !published()?.iter().any(|model| model.repository == name) {
            return Err(Error::file(path, "there is no such file or directory"));
        }
        let model = find(&name).map_err(Error::or_a_path)?;
        self.file_of(model)?.ok_or_else(|| model.not_fetched())
    }

    /// The file of a model if it is here; a half-finished one is an error.
    fn file_of(&self, model: &Published) -> Result<Option<PathBuf>> {
        if model.source == Source::Shipped {
            return Ok(Some(self.root.join(&model.id)));
        }
        let (Source::Pip(pip), Some(path)) = (&model.source, self.model_path(model)) else {
            return Ok(self.hub.as_ref().and_then(|hub| hub.snapshot(&Name::main(&model.repository))));
        };
        match has_size_of(&path, pip) {
            Ok(true) => Ok(Some(path)),
            Ok(false) => {
                let problem = format!(
                    "this is not the whole file of {} bytes: a download or a copy stopped half-way; fetch it again with \
                     `{}`",
                    pip.bytes,
                    model.how_to_get()
                );
                Err(Error::file(path, problem))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let staging = self.staging(model);
                if staging.exists() {
                    let problem = format!(
                        "a download of `{}` is not finished: if no `{command}` is running, it stopped half-way; run \
                         `{command}` again",
                        model.id,
                        command = model.how_to_get()
                    );
                    return Err(Error::file(staging, problem));
                }
                Ok(None)
            }
            Err(error) => Err(unusable(&path, &error)),
        }
    }
}

const HOME_CACHE: &str = if cfg!(target_os = "macos") { "Library/Caches/zoo" } else { ".cache/zoo" };

/// Whether there is a file, of the size that the row says.
pub(crate) fn has_size_of(path: &Path, pip: &Pip) -> io::Result<bool> {
    let found = fs::metadata(path)?;
    Ok(found.is_file() && found.len() == pip.bytes)
}

/// Whether that is the id of a model that is in the program; a folder of that name is `./name`.
fn is_shipped(wish: &OsStr) -> Result<bool> {
    Ok(published()?.iter().any(|model| model.source == Source::Shipped && wish == model.id.as_str()))
}

fn existing(path: &Path) -> Result<Option<PathBuf>> {
    match path.try_exists() {
        Ok(exists) => Ok(exists.then(|| path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(Error::file(path, format!("this path cannot be read ({error})"))),
    }
}

fn is_written_as_path(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    path.components().count() > 1 || path.is_absolute() || matches!(ending, Some("gguf" | "safetensors"))
}

/// Why a file or a directory of the cache cannot be used, and what to do about it.
pub(crate) fn unusable(path: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::{
        AlreadyExists, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let advice = match error.kind() {
        PermissionDenied | ReadOnlyFilesystem => {
            "this place cannot be written; make it writable, or set ZOO_CACHE to a directory that is"
        }
        StorageFull | QuotaExceeded => {
            "the disk is full; free some space, or set ZOO_CACHE to a directory on another disk"
        }
        NotADirectory | AlreadyExists => {
            "a file lies where a directory should be; remove it, or set ZOO_CACHE to a directory"
        }
        _ => "this place cannot be used; check it, or set ZOO_CACHE to another directory",
    };
    Error::file(path, format!("{advice} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    const ID: &str = "smollm2-135m-instruct";

    fn message(cache: &Cache, wish: &str) -> String {
        cache.locate(wish).unwrap_err().to_string()
    }

    /// A file of the given length that takes no space.
    fn sparse(path: &Path, bytes: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn variables_in_their_order() {
        let cache = |variables: &[(&str, &str)]| {
            let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            Cache::from_variables(of).map(|cache| cache.root)
        };
        let home = ("HOME", "/h");
        assert_eq!(cache(&[("ZOO_CACHE", "here"), ("XDG_CACHE_HOME", "/x"), home]), Some("here".into()));
        assert_eq!(cache(&[("ZOO_CACHE", ""), ("XDG_CACHE_HOME", "/x"), home]), Some("/x/zoo".into()));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "relative"), home]), Some(Path::new("/h").join(HOME_CACHE)));
        assert_eq!(cache(&[("HOME", "")]), None);
    }

    #[test]
    fn an_existing_path_is_itself() {
        let folder = tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        fs::write(&file, "x").unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        assert_eq!(cache.locate(&file).unwrap(), file);
        assert_eq!(cache.locate(folder.path()).unwrap(), folder.path());
        assert_eq!(locate(&file).unwrap(), file);
    }

    #[test]
    fn an_id_is_its_file_once_that_is_whole() {
        let folder = tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let model = find(ID).unwrap();
        let path = cache.model_path(model).unwrap();
        assert!(path.ends_with("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"));
        assert!(matches!(cache.locate(ID), Err(Error::NotFetched { .. })));
        assert!(message(&cache, ID).contains("`zoo fetch smollm2-135m-instruct`"));

        fs::create_dir_all(cache.staging(model)).unwrap();
        let half = message(&cache, ID);
        assert!(half.contains("stopped half-way; run `zoo fetch smollm2-135m-instruct` again"), "{half}");
        fs::remove_dir(cache.staging(model)).unwrap();

        sparse(&path, 5);
        let short = message(&cache, ID);
        assert!(short.contains("not the whole file of 98362432 bytes") && short.contains("zoo fetch"), "{short}");
        let here = || cache.fetched().unwrap().iter().map(|model| model.id.as_str()).collect::<Vec<_>>();
        assert_eq!(here(), ["pocket"], "what ships is always here");

        sparse(&path, 98_362_432);
        assert_eq!(cache.locate(ID).unwrap(), path);
        assert_eq!(here(), ["pocket", ID]);
    }

    #[test]
    fn a_wish_that_nothing_answers() {
        let folder = tempdir().unwrap();
        let cache = Cache::at(folder.path());
        assert!(message(&cache, "some/where.gguf").ends_with("there is no such file or directory"));
        for path in ["./nothing", "models/smollm2-135m-instruct", "smollm2-135m-instruct.gguf"] {
            assert!(message(&cache, path).ends_with("there is no such file or directory"), "{path}");
        }
        assert!(message(&cache, "smollm2-135m").contains("did you mean `smollm2-135m-instruct`?"));
        assert!(message(&cache, "HuggingFaceTB/SmolLM2-135M-Instruct").contains("did you mean"));
        assert!(message(&cache, "whisper").contains("no model is called `whisper`"));
        assert!(message(&cache, "llama-2-7b").contains("`zoo fetch llama-2-7b`"));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let say = |kind: io::ErrorKind| unusable(Path::new("/c"), &kind.into()).to_string();
        assert!(say(io::ErrorKind::PermissionDenied).contains("make it writable, or set ZOO_CACHE"));
        assert!(say(io::ErrorKind::ReadOnlyFilesystem).contains("make it writable, or set ZOO_CACHE"));
        assert!(say(io::ErrorKind::StorageFull).contains("the disk is full"));
        assert!(say(io::ErrorKind::NotADirectory).contains("a file lies where a directory should be"));
    }
}
