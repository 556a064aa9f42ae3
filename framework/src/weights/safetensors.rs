//! One `.safetensors` file: its header is checked in full when it is opened, its tensors are read one at a time.
//!
//! The `safetensors` crate checks a buffer that holds the whole file, keeps the last of two entries of one name, and
//! does not say which tensor is wrong; the format is eight bytes of length, a JSON object and the data, so it is read
//! here, and the crate is what the tests compare with.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};

use super::disk::Disk;
use super::header::{Header, Info, Stored, dimensions};
use super::json::{Unique, malformed, next_name, value_of};
use super::source::Tensors;
use crate::{
    Draft,
    error::{Error, Result},
};

/// Longest JSON header in bytes. The format allows three times that; the longest published one has a tenth.
const LONGEST_HEADER: u64 = 32_000_000;

/// Where the JSON begins: after its length.
const JSON_AT: u64 = 8;

/// The name under which the header keeps what is not a tensor.
const METADATA: &str = "__metadata__";

/// An open `.safetensors` file.
#[derive(Debug)]
pub struct File {
    disk: Disk,
    header: Header,
    /// Position of each tensor's data in the file.
    starts: BTreeMap<String, u64>,
}

impl File {
    /// Opens a file and checks its header against the format and the file's length. Reads no tensor data.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short, or its header is malformed, claims too much, names a tensor twice,
    /// or leaves bytes of the data unclaimed or claimed twice. The message names the tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let disk = Disk::open(path)?;
        let Some(room) = disk.length().checked_sub(JSON_AT) else {
            return Err(disk
                .fault(format!("is {} bytes long, too short for a safetensors file; fetch it again", disk.length())));
        };
        let mut claim = [0; JSON_AT as usize];
        disk.fill(0, &mut claim)?;
        let claim = u64::from_le_bytes(claim);
        if claim > LONGEST_HEADER {
            return Err(disk.fault(format!(
                "its first eight bytes claim a header of {claim} bytes, and {LONGEST_HEADER} are allowed: it is \
                 damaged or not a safetensors file"
            )));
        }
        if claim > room {
            return Err(disk.fault(format!(
                "claims a header of {claim} bytes and has {room} bytes left for it: it is cut short or not a \
                 safetensors file; fetch it again"
            )));
        }
        let json = disk.read(JSON_AT, claim)?;
        let entries: Entries =
            serde_json::from_slice(&json).map_err(|error| disk.fault(malformed("header", &error)))?;
        drop(json);
        Self::arrange(disk, claim + JSON_AT, entries)
    }

    /// Checks that the tensors fill the data from `data_at` to the end of the file exactly.
    fn arrange(disk: Disk, data_at: u64, entries: Entries) -> Result<Self> {
        let room = disk.length().saturating_sub(data_at);
        let mut spans: Vec<(u64, u64, &str)> = Vec::with_capacity(entries.tensors.len());
        for (name, entry) in &entries.tensors {
            let (start, end) = entry.data_offsets;
            let info = &entry.info;
            let expected = info.bytes().ok_or_else(|| disk.fault(format!("tensor {name:?}, {info}, is too large")))?;
            if end.checked_sub(start) != Some(expected as u64) {
                return Err(disk.fault(format!(
                    "tensor {name:?}, {info}, needs {expected} bytes, but its data_offsets are [{start}, {end}]"
                )));
            }
            spans.push((start, end, name));
        }
        spans.sort_unstable();
        let mut reached = 0;
        let mut before = "the header";
        for (start, end, name) in spans {
            if start < reached {
                return Err(disk.fault(format!("tensors {before:?} and {name:?} overlap at byte {start} of the data")));
            }
            if start > reached {
                return Err(disk.fault(format!(
                    "bytes {reached} to {start} of the data, before tensor {name:?}, belong to no tensor"
                )));
            }
            if end > room {
                return Err(disk.fault(format!(
                    "tensor {name:?} ends at byte {end} of the data, but the file has only {room} bytes of data: it \
                     is cut short; fetch it again"
                )));
            }
            (reached, before) = (end, name);
        }
        if reached != room {
            return Err(disk.fault(format!(
                "has {room} bytes of data and tensors for {reached}: it is damaged or two files in one; fetch it again"
            )));
        }
        let mut file = Self {
            disk,
            header: Header { tensors: BTreeMap::new(), metadata: entries.metadata.0 },
            starts: BTreeMap::new(),
        };
        for (name, entry) in entries.tensors {
            let (start, _) = entry.data_offsets;
            // Cannot overflow: the offset is within the file.
            file.starts.insert(name.clone(), data_at.saturating_add(start));
            file.header.tensors.insert(name, entry.info);
        }
        Ok(file)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Size of the file in bytes.
    pub fn length(&self) -> u64 {
        self.disk.length()
    }
}

impl Tensors for File {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read(&self, name: &str) -> Result<(Info, Vec<u8>)> {
        let (Some(info), Some(&start)) = (self.header.tensors.get(name), self.starts.get(name)) else {
            return Err(self.disk.fault(format!("has no tensor {name:?}")));
        };
        let bytes = info.bytes().unwrap_or(usize::MAX) as u64;
        Ok((info.clone(), self.disk.read(start, bytes)?))
    }
}

/// The header as JSON has it.
#[derive(Default)]
struct Entries {
    tensors: BTreeMap<String, Entry>,
    metadata: Unique<String>,
}

/// One tensor of the header.
struct Entry {
    info: Info,
    /// First byte and the byte after the last, from the beginning of the data.
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            #[serde(borrow)]
            dtype: Cow<'a, str>,
            #[serde(deserialize_with = "dimensions")]
            shape: Vec<usize>,
            data_offsets: (u64, u64),
        }

        let fields = Fields::deserialize(deserializer)?;
        let dtype = Stored::named(&fields.dtype).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "dtype {:?} is not supported; use a file in {}",
                fields.dtype,
                Stored::ALL.map(Stored::name).join(", ")
            ))
        })?;
        Ok(Self { info: Info { dtype, shape: fields.shape }, data_offsets: fields.data_offsets })
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                let mut described = false;
                while let Some(name) = next_name(&mut object, entries.tensors.len(), |name| {
                    entries.tensors.contains_key(name) || (described && name == METADATA)
                })? {
                    if name == METADATA {
                        described = true;
                        entries.metadata = value_of(&mut object, &name)?;
                    } else {
                        let entry = value_of(&mut object, &name)?;
                        entries.tensors.insert(name, entry);
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// Writes a `.safetensors` file of these tensors; see [`stream`].
///
/// # Errors
/// As [`stream`].
pub fn write(
    path: &Path,
    tensors: &BTreeMap<String, (Info, Vec<u8>)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let header = Header {
        tensors: tensors.iter().map(|(name, (info, _))| (name.clone(), info.clone())).collect(),
        metadata: metadata.clone(),
    };
    stream(path, &header, |name| {
        let bytes = tensors.get(name).map(|(_, bytes)| bytes.as_slice());
        Ok(Cow::Borrowed(bytes.unwrap_or_default()))
    })
}

/// Writes a `.safetensors` file whose tensors are asked for one at a time, so that only one need be in memory.
///
/// `data` is given each name of the header once, the widest element types first, and returns the elements in row-major
/// order, little endian. The file appears under its name when it is complete; until then a file that was there stays.
///
/// # Errors
/// When `data` fails or returns a wrong number of bytes, a tensor has the reserved name `__metadata__`, or the directory
/// cannot be written. Nothing half-written is left.
pub fn stream<'a>(path: &Path, header: &Header, mut data: impl FnMut(&str) -> Result<Cow<'a, [u8]>>) -> Result<()> {
    let mut tensors: Vec<(&String, &Info)> = header.tensors.iter().collect();
    // Aligned for every element type without padding, and the same order in every run.
    tensors.sort_by_key(|(_, info)| std::cmp::Reverse(info.dtype.bytes()));
    let json = describe(&tensors, &header.metadata)
        .and_then(|json| {
            (json.len() as u64 <= LONGEST_HEADER)
                .then_some(json)
                .ok_or_else(|| "its header would be longer than a reader allows".into())
        })
        .map_err(|problem| Error::file(path, problem))?;

    let unwritten = |error: std::io::Error| {
        Error::file(
            path,
            format!(
                "cannot be written: {error}; free some space or choose another directory (nothing was left behind)"
            ),
        )
    };
    let mut draft = Draft::of(path).map_err(unwritten)?;
    let mut out = BufWriter::with_capacity(1 << 20, draft.file());
    out.write_all(&(json.len() as u64).to_le_bytes()).map_err(unwritten)?;
    out.write_all(&json).map_err(unwritten)?;
    for (name, info) in tensors {
        let bytes = data(name)?;
        if Some(bytes.len()) != info.bytes() {
            return Err(Error::file(
                path,
                format!("cannot be written: tensor {name:?}, {info}, was given {} bytes", bytes.len()),
            ));
        }
        out.write_all(&bytes).map_err(unwritten)?;
    }
    out.flush().map_err(unwritten)?;
    drop(out);
    draft.publish().map_err(unwritten)?;
    Ok(())
}

/// The JSON header of tensors in the order of their data, padded so that the data is aligned.
fn describe(tensors: &[(&String, &Info)], metadata: &BTreeMap<String, String>) -> std::result::Result<Vec<u8>, String> {
    #[derive(serde::Serialize)]
    struct Fields<'a> {
        dtype: Stored,
        shape: &'a [usize],
        data_offsets: (u64, u64),
    }

    let unwritable = |error: serde_json::Error| format!("its header cannot be written: {error}");
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let mut object = serializer.serialize_map(None).map_err(unwritable)?;
    if !metadata.is_empty() {
        object.serialize_entry(METADATA, metadata).map_err(unwritable)?;
    }
    let mut start = 0_u64;
    for &(name, info) in tensors {
        if name == METADATA {
            return Err(format!("a tensor cannot be called {METADATA:?}"));
        }
        let end = info
            .bytes()
            .and_then(|bytes| start.checked_add(bytes as u64))
            .ok_or_else(|| format!("tensor {name:?}, {info}, is too large"))?;
        let fields = Fields { dtype: info.dtype, shape: &info.shape, data_offsets: (start, end) };
        object.serialize_entry(name, &fields).map_err(unwritable)?;
        start = end;
    }
    object.end().map_err(unwritable)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    type Contents = BTreeMap<String, (Info, Vec<u8>)>;

    fn small() -> (Contents, BTreeMap<String, String>) {
        let mut tensors = Contents::new();
        let mut add = |name: &str, dtype: Stored, shape: &[usize]| {
            let info = Info { dtype, shape: shape.to_vec() };
            let bytes = (0..info.bytes().unwrap()).map(|i| i as u8).collect();
            tensors.insert(name.into(), (info, bytes));
        };
        add("b.weight", Stored::BF16, &[3, 5]);
        add("a.weight", Stored::F32, &[2, 3]);
        add("a.bias", Stored::U8, &[3]);
        add("none", Stored::F16, &[0, 7]);
        add("scalar\n\"é\"", Stored::I64, &[]);
        (tensors, BTreeMap::from([("format".into(), "pt".into()), ("b".into(), "\"2\"".into())]))
    }

    /// A file of that header and that many bytes of data, and what opening it says.
    fn opened(json: &str, data: usize) -> Result<File> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        opened_bytes(&bytes)
    }

    fn opened_bytes(bytes: &[u8]) -> Result<File> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        File::open(&path)
    }

    fn entries(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_written_comes_back() {
        let (tensors, metadata) = small();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        fs::write(&path, "what was there before").unwrap();
        write(&path, &tensors, &metadata).unwrap();
        assert_eq!(entries(directory.path()), std::slice::from_ref(&path));
        let file = File::open(&path).unwrap();
        assert_eq!(file.path(), path);
        assert_eq!(file.header().metadata, metadata);
        assert!(file.header().tensors.keys().eq(tensors.keys()));
        for (name, (info, bytes)) in &tensors {
            assert_eq!(file.header().tensors.get(name), Some(info));
            assert_eq!(file.read(name).unwrap(), (info.clone(), bytes.clone()));
        }
        let problem = file.read("a").unwrap_err().to_string();
        assert!(problem.contains("has no tensor \"a\""), "{problem}");

        write(&path, &Contents::new(), &BTreeMap::new()).unwrap();
        assert_eq!(*File::open(&path).unwrap().header(), Header::default());
    }

    #[test]
    fn the_crate_reads_what_we_write_and_we_what_it_writes() {
        use safetensors::tensor::{Dtype, SafeTensors, TensorView};
        let (tensors, metadata) = small();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &tensors, &metadata).unwrap();
        let bytes = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), tensors.len());
        for (name, (info, bytes)) in &tensors {
            let view = theirs.tensor(name).unwrap();
            assert_eq!((view.shape(), view.data()), (&info.shape[..], &bytes[..]));
            assert_eq!(view.dtype().to_string(), info.dtype.name());
        }

        let data = [1, 2, 3, 4, 5, 6];
        let view = TensorView::new(Dtype::BF16, vec![3, 1], &data).unwrap();
        let metadata = std::collections::HashMap::from([("a".to_string(), "b".to_string())]);
        let bytes = safetensors::serialize([("x", view)], Some(metadata)).unwrap();
        let file = opened_bytes(&bytes).unwrap();
        assert_eq!(file.header().metadata.get("a").unwrap(), "b");
        let (info, read) = file.read("x").unwrap();
        assert_eq!((info.to_string().as_str(), read), ("BF16[3,1]", data.to_vec()));
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let (mut tensors, metadata) = small();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        fs::write(&path, "what was there before").unwrap();
        let unharmed = || {
            assert_eq!(entries(directory.path()), std::slice::from_ref(&path));
            assert_eq!(fs::read(&path).unwrap(), b"what was there before");
        };
        let header =
            Header { tensors: BTreeMap::from([("x".into(), tensors["a.bias"].0.clone())]), metadata: metadata.clone() };
        let failed = stream(&path, &header, |name| Err(Error::argument(name, "unknown")));
        assert!(matches!(failed, Err(Error::Argument { .. })));
        unharmed();
        tensors.get_mut("a.bias").unwrap().1.pop();
        let problem = write(&path, &tensors, &metadata).unwrap_err().to_string();
        assert!(problem.contains("\"a.bias\", U8[3], was given 2 bytes"), "{problem}");
        unharmed();
        tensors = Contents::from([(METADATA.into(), tensors["none"].clone())]);
        let problem = write(&path, &tensors, &metadata).unwrap_err().to_string();
        assert!(problem.contains("cannot be called"), "{problem}");
        unharmed();
        let problem = write(&path.join("x"), &Contents::new(), &metadata).unwrap_err().to_string();
        assert!(problem.contains("cannot be written: "), "{problem}");
        unharmed();
    }

    #[test]
    fn a_malformed_file_is_named_and_explained() {
        let tensor = |name: &str, start: usize, end: usize| {
            format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end - start)
        };
        let object = |tensors: &[String]| format!("{{{}}}", tensors.join(","));
        let a = tensor("a", 0, 4);
        let many = ["0"; 9].join(",");
        for (json, data, expected) in [
            (object(std::slice::from_ref(&a)), 3, "tensor \"a\" ends at byte 4 of the data, but the file has only 3"),
            (object(std::slice::from_ref(&a)), 5, "has 5 bytes of data and tensors for 4"),
            (object(&[a.clone(), a.clone()]), 4, "\"a\" occurs twice"),
            (object(&[a.clone(), tensor("b", 3, 8)]), 8, "tensors \"a\" and \"b\" overlap at byte 3"),
            (object(&[a.clone(), tensor("b", 5, 8)]), 8, "bytes 4 to 5 of the data, before tensor \"b\""),
            (object(&[a.clone(), tensor("b", 1 << 60, (1 << 60) + 1)]), 8, "belong to no tensor"),
            (a.clone(), 4, "malformed header: invalid type"),
            (object(&[a.replace("[4]", "[5]")]), 4, "\"a\", U8[5], needs 5 bytes, but its data_offsets are [0, 4]"),
            (object(&[a.replace("[4]", "[4294967296,4294967296]")]), 4, "is too large"),
            (object(&[a.replace("[4]", "[-4]")]), 4, "\"a\": "),
            (object(&[a.replace("[4]", &format!("[{many}]"))]), 4, "more than 8 dimensions"),
            (object(&[a.replace("[0,4]", "[4,0]")]), 4, "data_offsets are [4, 0]"),
            (object(&[a.replace("[0,4]", "[0,18446744073709551616]")]), 4, "malformed header: \"a\": "),
            (
                object(&[a.replace("U8", "F6_E2M3")]),
                4,
                "\"a\": dtype \"F6_E2M3\" is not supported; use a file in F64, ",
            ),
            (object(&[a.replace("dtype", "type")]), 4, "\"a\": unknown field `type`"),
            (object(&[r#""__metadata__":{"a":1}"#.into()]), 0, "\"__metadata__\": \"a\": invalid type"),
            (object(&[r#""__metadata__":{}"#.into(), r#""__metadata__":{}"#.into()]), 0, "occurs twice"),
            ("[]".into(), 0, "an object of tensors"),
            ("{}x".into(), 0, "trailing characters"),
            ("{".into(), 0, "EOF while parsing"),
            (String::new(), 0, "EOF while parsing"),
            ("[".repeat(100_000), 0, "malformed header"),
        ] {
            let problem = opened(&json, data).unwrap_err().to_string();
            assert!(problem.contains("model.safetensors: "), "{problem}");
            assert!(problem.contains(expected), "{json:.200}: {problem}");
        }
        for (bytes, expected) in [
            (&b""[..], "is empty: a download that has not begun"),
            (b"\x02\0\0", "is 3 bytes long, too short"),
            (b"\x03\0\0\0\0\0\0\0{}", "claims a header of 3 bytes and has 2 bytes left"),
            (b"\0\0\0\0\0\x01\0\0{}", "claim a header of 1099511627776 bytes, and 32000000 are allowed"),
        ] {
            let problem = opened_bytes(bytes).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn damage_never_panics() {
        let (tensors, metadata) = small();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &tensors, &metadata).unwrap();
        let valid = fs::read(&path).unwrap();
        let json = valid[0] as usize + 256 * valid[1] as usize;
        let good = super::super::mutate::survive(&valid, json + 8, "m.safetensors", 20_000, |path| {
            let Ok(file) = File::open(path) else {
                return false;
            };
            for (name, info) in &file.header().tensors {
                let (_, bytes) = file.read(name).unwrap();
                assert_eq!(Some(bytes.len()), info.bytes());
            }
            true
        });
        assert!((100..10_000).contains(&good), "{good} damaged files were still good");
    }
}
