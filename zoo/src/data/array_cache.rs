//! What an encoder makes of the data, computed once.

use crate::{Error, Result, checksum::Checksum, error::finite};
use framework::{
    Module,
    train::Named,
    weights::{
        Header, Info, Tensors,
        evaluate::{from_bytes, info, to_bytes},
        safetensors,
    },
};
use std::{
    collections::BTreeMap,
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// What arrays were computed from, by names of the caller's: digests of the data and of the encoder, options.
pub type Key = BTreeMap<String, String>;

/// Where a file keeps its key, as JSON.
const KEY: &str = "key";
/// Where a file keeps the SHA-256 of its arrays.
const SHA256: &str = "sha256";

/// Arrays with a row for each example, in a folder of `.safetensors` files that say what they were computed from.
///
/// A file appears when it is complete.
#[derive(Clone, Debug)]
pub struct ArrayCache {
    folder: PathBuf,
}

/// How arrays were had; prints as the end of a sentence about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from the file.
    Read,
    /// Computed, and written to a file.
    Computed,
    /// Computed, though there was a file.
    Recomputed {
        /// Why the file was of no use.
        why: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => write!(f, "read from the cache"),
            Self::Computed => write!(f, "computed"),
            Self::Recomputed { why } => write!(f, "computed again: {why}"),
        }
    }
}

impl ArrayCache {
    /// A cache in a folder, which is made when something is written.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The arrays of `rows` examples, `[rows, …]` each: from the file of that name if it was computed from the same key,
    /// or from `compute`, which is given at most `batch` examples after the other and returns `[batch, …]` under the same
    /// names each time.
    ///
    /// They are evaluated. Beside them, at most the bytes of all arrays are in memory.
    ///
    /// # Errors
    /// When the name is no plain one, there are no rows or a batch has none; when `compute` fails, or returns other arrays
    /// than before, or some that are not finite; when they do not fit into memory or on the disk. The file that was there
    /// stays then.
    pub fn get(
        &self,
        name: &str,
        key: &Key,
        rows: usize,
        batch: usize,
        compute: &mut dyn FnMut(Range<usize>) -> Result<Named>,
    ) -> Result<(Named, Origin)> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Error::argument("name", format!("{name:?}; use letters, digits, `-` and `_`")));
        }
        if rows == 0 || batch == 0 {
            return Err(Error::argument("rows", format!("{rows} in batches of {batch}; both must be at least 1")));
        }
        let path = self.folder.join(format!("{name}.safetensors"));
        let origin = if path.exists() {
            match read(&path, key, rows) {
                Ok(arrays) => return Ok((arrays, Origin::Read)),
                Err(why) => Origin::Recomputed { why },
            }
        } else {
            Origin::Computed
        };
        let mut computed = Rows { name, rows, arrays: BTreeMap::new() };
        for start in (0..rows).step_by(batch) {
            let range = start..start.saturating_add(batch).min(rows);
            computed.extend(&range, compute(range.clone())?)?;
        }
        fs::create_dir_all(&self.folder).map_err(|error| framework::Error::io(&self.folder, error))?;
        Ok((computed.write(&path, key)?, origin))
    }
}

/// The arrays of a file, or why it is of no use.
fn read(path: &Path, key: &Key, rows: usize) -> Result<Named, String> {
    let said = |error: framework::Error| error.to_string();
    let file = safetensors::File::open(path).map_err(said)?;
    let Header { tensors, metadata } = file.header();
    let of: Option<Key> = metadata.get(KEY).and_then(|text| serde_json::from_str(text).ok());
    let of = of.ok_or_else(|| format!("{}: does not say what it was computed from", path.display()))?;
    let names = key.keys().chain(of.keys().filter(|part| !key.contains_key(*part)));
    let other: Vec<&str> = names.filter(|part| key.get(*part) != of.get(*part)).map(String::as_str).collect();
    if !other.is_empty() {
        return Err(format!("{}: was computed with another `{}`", path.display(), other.join("`, `")));
    }
    let mut sum = Checksum::default();
    let mut arrays = Named::new();
    for (name, info) in tensors {
        if info.shape.first() != Some(&rows) {
            return Err(format!("{}: `{name}` is {info}, where {rows} rows are wanted", path.display()));
        }
        let (info, bytes) = file.read(name).map_err(said)?;
        sum = with(sum, name, &info, &bytes);
        arrays.insert(name.clone(), from_bytes(&info, &bytes).map_err(said)?);
    }
    if metadata.get(SHA256) != Some(&sum.end()) {
        return Err(format!("{}: is damaged", path.display()));
    }
    Ok(arrays)
}

/// A checksum with an array more.
fn with(sum: Checksum, name: &str, info: &Info, bytes: &[u8]) -> Checksum {
    sum.of(name.as_bytes()).of(info.to_string().as_bytes()).of(bytes)
}

/// Arrays that grow by batches, as bytes.
struct Rows<'a> {
    name: &'a str,
    rows: usize,
    arrays: BTreeMap<String, (Info, Vec<u8>)>,
}

impl Rows<'_> {
    fn extend(&mut self, range: &Range<usize>, batch: Named) -> Result<()> {
        let refused = |problem| Err(Error::argument(self.name, problem));
        if batch.is_empty() || (range.start > 0 && !batch.keys().eq(self.arrays.keys())) {
            let (now, before) = (batch.keys().collect::<Vec<_>>(), self.arrays.keys().collect::<Vec<_>>());
            return refused(format!("rows {range:?} are arrays named {now:?}, and those before {before:?}"));
        }
        for (name, array) in batch {
            finite(&array, &format!("`{name}` of rows {range:?} of `{}`", self.name))?;
            let mut now = info(&array)?;
            match now.shape.first_mut() {
                Some(rows) if *rows == range.len() => *rows = self.rows,
                _ => return refused(format!("`{name}` is {now}, where rows {range:?} are wanted")),
            }
            if range.start == 0 {
                let mut bytes = Vec::new();
                if bytes.try_reserve_exact(now.bytes().unwrap_or(usize::MAX)).is_err() {
                    return refused(format!("`{name}`, {now}, does not fit into memory"));
                }
                self.arrays.insert(name.clone(), (now.clone(), bytes));
            }
            match self.arrays.get_mut(&name) {
                Some((before, bytes)) if *before == now => bytes.extend(to_bytes(&array)?.1),
                before => {
                    let before = before.map(|(info, _)| info.to_string()).unwrap_or_default();
                    return refused(format!(
                        "`{name}` amounts to {now} by rows {range:?}, and to {before} by those before"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Writes the file, and turns the bytes into arrays.
    fn write(self, path: &Path, key: &Key) -> Result<Named> {
        let sum =
            self.arrays.iter().fold(Checksum::default(), |sum, (name, (info, bytes))| with(sum, name, info, bytes));
        let key = serde_json::json!(key).to_string();
        let metadata = BTreeMap::from([(KEY.to_owned(), key), (SHA256.to_owned(), sum.end())]);
        safetensors::write(path, &self.arrays, &metadata)?;
        let array = |(name, (info, bytes)): (String, (Info, Vec<u8>))| Ok((name, from_bytes(&info, &bytes)?));
        self.arrays.into_iter().map(array).collect()
    }
}

/// The SHA-256 of a model's parameters, their paths, dtypes and shapes: a key for what it computes.
///
/// # Errors
/// When a parameter cannot be evaluated.
pub fn weights_digest(model: &dyn Module) -> Result<String> {
    let mut sum = Checksum::default();
    for (path, param) in framework::params(model) {
        let (info, bytes) = to_bytes(&param.get())?;
        sum = with(sum, &path, &info, &bytes);
    }
    Ok(sum.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::{Array, Dtype, Init, Linear, math};
    use tempfile::{TempDir, tempdir};

    const ROWS: usize = 5;

    fn key(encoder: &str) -> Key {
        [("data", "d"), ("encoder", encoder)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Means, `[n, 2]` bf16, and ids, `[n]` u32.
    fn encode(range: Range<usize>) -> Result<Named> {
        let numbers: Vec<u32> = range.clone().map(|row| row as u32).collect();
        let means: Vec<f32> = range.clone().flat_map(|row| [row as f32, row as f32 / 2.0]).collect();
        let rows = range.len() as i32;
        let means = math::array(&means, &[rows, 2])?.as_dtype(Dtype::Bfloat16)?;
        Ok(Named::from([("ids".into(), math::array(&numbers, &[rows])?), ("means".into(), means)]))
    }

    /// What the cache gives, and which rows were computed for it.
    fn get(folder: &TempDir, key: &Key, batch: usize) -> (Named, Origin, Vec<Range<usize>>) {
        let mut ranges = Vec::new();
        let (arrays, origin) = ArrayCache::new(folder.path().join("cache"))
            .get("latents", key, ROWS, batch, &mut |range| {
                ranges.push(range.clone());
                encode(range)
            })
            .unwrap();
        assert_eq!(math::read::<u32>(&arrays["ids"]).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!((arrays["means"].shape(), arrays["means"].dtype()), (&[5, 2][..], Dtype::Bfloat16));
        let means = math::read::<f32>(&arrays["means"].as_dtype(Dtype::Float32).unwrap()).unwrap();
        assert_eq!(means, [0.0, 0.0, 1.0, 0.5, 2.0, 1.0, 3.0, 1.5, 4.0, 2.0]);
        (arrays, origin, ranges)
    }

    fn why(origin: &Origin) -> String {
        match origin {
            Origin::Recomputed { why } => why.clone(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn arrays_are_computed_once() {
        let folder = tempdir().unwrap();
        let (_, origin, ranges) = get(&folder, &key("e"), 2);
        assert_eq!((origin, ranges), (Origin::Computed, vec![0..2, 2..4, 4..5]));
        for batch in [2, 9] {
            let (_, origin, ranges) = get(&folder, &key("e"), batch);
            assert_eq!((origin, ranges), (Origin::Read, vec![]));
        }
        let names: Vec<_> =
            fs::read_dir(folder.path().join("cache")).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(names, ["latents.safetensors"]);
    }

    #[test]
    fn a_file_of_another_key_is_replaced_and_told() {
        let folder = tempdir().unwrap();
        get(&folder, &key("e"), 9);
        let (_, origin, ranges) = get(&folder, &key("f"), 9);
        assert!(why(&origin).contains("was computed with another `encoder`"), "{origin}");
        assert_eq!(ranges.into_iter().map(|range| range.len()).collect::<Vec<_>>(), [5]);
        let more = [key("f"), Key::from([("side".into(), "128".into())])].into_iter().flatten().collect();
        assert!(why(&get(&folder, &more, 9).1).contains("another `side`"));
        assert!(why(&get(&folder, &key("g"), 9).1).contains("another `encoder`, `side`"));
        assert_eq!(get(&folder, &key("g"), 9).1, Origin::Read);
    }

    #[test]
    fn a_damaged_file_is_replaced_and_told() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("cache/latents.safetensors");
        get(&folder, &key("e"), 9);
        let whole = fs::read(&path).unwrap();
        for cut in [0, 7, 50, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(why(&get(&folder, &key("e"), 9).1).contains("latents.safetensors"));
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(why(&get(&folder, &key("e"), 9).1).contains("is damaged"));
        let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
        safetensors::write(&path, &BTreeMap::new(), &metadata).unwrap();
        assert!(why(&get(&folder, &key("e"), 9).1).contains("does not say what it was computed from"));
        assert_eq!(fs::read(&path).unwrap(), whole);

        let cache = ArrayCache::new(path.parent().unwrap());
        let (_, origin) = cache.get("latents", &key("e"), 3, 3, &mut encode).unwrap();
        assert!(why(&origin).contains("where 3 rows are wanted"), "{origin}");
    }

    #[test]
    fn what_cannot_be_computed_leaves_what_was_there() {
        let folder = tempdir().unwrap();
        get(&folder, &key("e"), 9);
        let path = folder.path().join("cache/latents.safetensors");
        let whole = fs::read(&path).unwrap();
        let cache = ArrayCache::new(path.parent().unwrap());
        let fails = |compute: &mut dyn FnMut(Range<usize>) -> Result<Named>, says: &[&str]| {
            let error = cache.get("latents", &key("f"), ROWS, 2, compute).unwrap_err().to_string();
            assert!(says.iter().all(|says| error.contains(says)), "{error}");
            assert_eq!(fs::read(&path).unwrap(), whole);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        };
        fails(&mut |_| Err(Error::Cancelled), &["cancelled"]);
        fails(&mut |range| encode(range.start..range.end + 1), &["`ids` is U32[3]", "rows 0..2"]);
        fails(&mut |range| if range.start > 0 { Ok(Named::new()) } else { encode(range) }, &["rows 2..4", "\"means\""]);
        let of = |array: Array| Ok(Named::from([("x".to_owned(), array)]));
        let one = |value: f32| math::array(&[1.0, value], &[2]).unwrap();
        fails(&mut |range| of(one(if range.start > 0 { f32::NAN } else { 0.0 })), &["`x` of rows 2..4", "NaN"]);
        fails(
            &mut |range| of(one(0.0).as_dtype(if range.start > 0 { Dtype::Float16 } else { Dtype::Float32 }).unwrap()),
            &["`x` amounts to F16[5]", "F32[5]"],
        );
        fails(&mut |_| of(Array::from_f32(1.0)), &["`x` is F32[]"]);
        fails(&mut |_| Ok(Named::new()), &["[]"]);
        for name in ["", "a/b", "..", "a.b"] {
            assert!(cache.get(name, &key("e"), 1, 1, &mut encode).unwrap_err().to_string().contains("`name`"));
        }
        for (rows, batch) in [(0, 1), (1, 0)] {
            assert!(
                cache.get("a", &key("e"), rows, batch, &mut encode).unwrap_err().to_string().contains("at least 1")
            );
        }
        let file = ArrayCache::new(&path).get("a", &key("e"), 1, 1, &mut encode).unwrap_err().to_string();
        assert!(file.contains("latents.safetensors"), "{file}");
    }

    #[test]
    fn a_digest_of_weights_tells_models_apart() {
        let digest = |bias, dtype, seed| {
            let linear = Linear::new(3, 2, bias, &mut Init::new(dtype, seed)).unwrap();
            weights_digest(&linear).unwrap()
        };
        let first = digest(true, Dtype::Float32, 1);
        assert_eq!((first.len(), &first), (64, &digest(true, Dtype::Float32, 1)));
        for other in
            [digest(true, Dtype::Float32, 2), digest(false, Dtype::Float32, 1), digest(true, Dtype::Float16, 1)]
        {
            assert_ne!(first, other);
        }
    }
}
