//! One `.gguf` file, version 2 or 3: metadata and tensor infos are checked in full when it is opened, tensors are read
//! one at a time. Quantised tensors keep their packing, as MLX's affine triplets.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod blocks;
mod metadata;
mod reader;

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;

pub use self::metadata::{Array, Metadata, Value};

use self::blocks::{GROUP, Packing, Part};
use self::reader::{Parsed, Reader};
use super::disk::Disk;
use super::header::{Header, Info, Stored};
use super::json::LONGEST_NAME;
use super::source::Tensors;
use crate::error::Result;

/// What every file begins with.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of the data when the metadata says none.
const ALIGNMENT: u64 = 32;

/// Most dimensions of a tensor, as the format prescribes.
const MOST_DIMENSIONS: u32 = 4;

/// Memory of one tensor beyond its name: shapes, infos, and its share of the maps, all of it three times if quantised.
const ENTRY: u64 = 1000;

/// Longest text in bytes that the header repeats from the metadata.
const LONGEST_TEXT: usize = 1000;

/// Blocks that are converted at a time: a buffer of about a hundred kilobytes, which stays in the cache.
const BLOCKS: u64 = 4096;

/// An open `.gguf` file.
///
/// Tensors have GGUF's names and row-major shapes, the reverse of how the file lists dimensions. A quantised
/// `x.weight` of shape `[…, out, in]` appears as `x.weight`, U32 `[…, out, in × bits / 32]`, and `x.scales` and
/// `x.biases`, F16 `[…, out, in / 32]`; `bits` is 4 for Q4_0 and Q4_1 and 8 for Q8_0.
#[derive(Debug)]
pub struct File {
    disk: Disk,
    metadata: Metadata,
    header: Header,
    places: BTreeMap<String, Place>,
}

/// The part of a triplet that a tensor of the header is.
type Packed = (Packing, Part);

/// Where a tensor of the header comes from.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    bytes: u64,
    packed: Option<Packed>,
}

/// A tensor as the file lists it.
struct Entry {
    name: String,
    /// Row-major.
    shape: Vec<usize>,
    kind: Kind,
    /// From the beginning of the data.
    start: u64,
}

/// How the elements of a listed tensor are encoded.
#[derive(Clone, Copy)]
enum Kind {
    Plain(Stored),
    Packed(Packing),
    Unsupported(u32),
}

impl File {
    /// Opens a file and checks its metadata and tensor infos against the format and the file's length. Reads no tensor
    /// data.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short or malformed, is one part of several, or holds tensors of a type that
    /// is not supported. The message names the key or the tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let disk = Disk::open(path)?;
        let buffered = BufReader::with_capacity(1 << 20, disk.file());
        let mut reader = Reader::new(buffered, disk.length());
        let (metadata, header, places) = parse(&mut reader, disk.length()).map_err(|problem| disk.fault(problem))?;
        Ok(Self { disk, metadata, header, places })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// The model's configuration, tokenizer and chat template.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// One part of a quantised tensor, converted piece by piece.
    fn repacked(&self, name: &str, place: Place, packing: Packing, part: Part) -> Result<Vec<u8>> {
        let block = packing.block() as u64;
        let part_bytes = part.bytes(packing);
        let total = place.bytes / block;
        let mut out = self.disk.buffer(total.saturating_mul(part_bytes as u64))?;
        let mut raw = self.disk.buffer(total.min(BLOCKS) * block)?;
        let mut done = 0;
        for piece in out.chunks_mut(BLOCKS as usize * part_bytes) {
            raw.truncate(piece.len() / part_bytes * packing.block());
            self.disk.fill(place.start + done * block, &mut raw)?;
            blocks::repack(packing, part, &raw, piece).map_err(|index| {
                let index = done + index as u64;
                self.disk.fault(format!(
                    "tensor {name:?}: block {index} of {total}, at byte {}, has a scale that is not a finite number: \
                     the file is damaged; fetch it again",
                    place.start + index * block
                ))
            })?;
            done += BLOCKS;
        }
        Ok(out)
    }
}

impl Tensors for File {
    /// Tensors as described on [`File`]; the metadata without its lists and long texts.
    fn header(&self) -> &Header {
        &self.header
    }

    fn read(&self, name: &str) -> Result<(Info, Vec<u8>)> {
        let (Some(info), Some(&place)) = (self.header.tensors.get(name), self.places.get(name)) else {
            return Err(self.disk.fault(format!("has no tensor {name:?}")));
        };
        let bytes = match place.packed {
            Some((packing, part)) => self.repacked(name, place, packing, part)?,
            None => self.disk.read(place.start, place.bytes)?,
        };
        Ok((info.clone(), bytes))
    }
}

/// Everything before the data.
fn parse<R: Read>(reader: &mut Reader<R>, length: u64) -> Parsed<(Metadata, Header, BTreeMap<String, Place>)> {
    if reader.array()? != MAGIC {
        return Err("does not begin with `GGUF`: it is not a GGUF file or is damaged".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        1 => return Err("is GGUF version 1; convert it to version 3 with llama.cpp".into()),
        version if matches!(version.swap_bytes(), 2 | 3) => {
            return Err("is big endian; use the little-endian file".into());
        }
        version => {
            return Err(format!(
                "is GGUF version {version}, and versions 2 and 3 are supported: it is damaged or newer than this \
                 program"
            ));
        }
    }
    let tensors = reader.u64()?;
    let keys = reader.u64()?;
    let metadata = Metadata::read(reader, keys)?;
    let key = |key, default| match metadata.has(key) {
        true => metadata.u64(key).map_err(|error| error.to_string()),
        false => Ok(default),
    };
    let parts = key("split.count", 1)?;
    if parts > 1 {
        return Err(format!("is one of {parts} parts; join them with `llama-gguf-split --merge`"));
    }
    let alignment = key("general.alignment", ALIGNMENT)?;
    if !alignment.is_power_of_two() {
        return Err(format!("metadata key \"general.alignment\": {alignment} is not a power of two"));
    }

    let mut entries = Vec::new();
    for index in 0..tensors {
        let name =
            reader.string(LONGEST_NAME as u64).map_err(|problem| format!("tensor {index} of {tensors}: {problem}"))?;
        let entry = Entry::read(reader, &name, alignment).map_err(|problem| format!("tensor {name:?}: {problem}"))?;
        entries.push(entry);
    }
    supported(&entries)?;
    let data_at = reader.at().checked_next_multiple_of(alignment).ok_or("the alignment is too large")?;
    let mut header = Header::default();
    for (key, value) in metadata.iter() {
        let long = match value {
            Value::String(text) => text.len() > LONGEST_TEXT,
            other => matches!(other, Value::Array(_)),
        };
        if !long {
            reader.charge(ENTRY.saturating_add(key.len() as u64))?;
            header.metadata.insert(key.into(), value.to_string());
        }
    }
    let places = place(&entries, data_at, length, &mut header)?;
    Ok((metadata, header, places))
}

impl Entry {
    fn read<R: Read>(reader: &mut Reader<R>, name: &str, alignment: u64) -> Parsed<Self> {
        // A quantised tensor has three names in the header.
        reader.charge(ENTRY.saturating_add((name.len() as u64).saturating_mul(6)))?;
        let count = reader.u32()?;
        if count > MOST_DIMENSIONS {
            return Err(format!("has {count} dimensions, and the format allows {MOST_DIMENSIONS}"));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            let dimension = reader.u64()?;
            shape
                .push(usize::try_from(dimension).map_err(|_error| format!("a dimension of {dimension} is too large"))?);
        }
        let kind = Kind::of(reader.u32()?);
        let start = reader.u64()?;
        if !start.is_multiple_of(alignment) {
            return Err(format!(
                "begins at byte {start} of the data, which is not a multiple of the alignment {alignment}"
            ));
        }
        let innermost = shape.first().copied().unwrap_or(1);
        if matches!(kind, Kind::Packed(_)) && !innermost.is_multiple_of(GROUP) {
            return Err(format!("is quantised in blocks of {GROUP}, but has rows of {innermost} elements"));
        }
        shape.reverse();
        Ok(Self { name: name.to_owned(), shape, kind, start })
    }

    /// Bytes of the tensor in the file.
    fn bytes(&self) -> Option<u64> {
        let info = |dtype| Info { dtype, shape: self.shape.clone() };
        let bytes = match self.kind {
            Kind::Plain(stored) => info(stored).bytes()?,
            // Whole blocks: the rows are.
            Kind::Packed(packing) => (info(Stored::U8).bytes()? / GROUP).checked_mul(packing.block())?,
            Kind::Unsupported(_) => return None,
        };
        Some(bytes as u64)
    }

    /// The tensors of the header that this one becomes.
    fn appear(&self) -> Vec<(String, Info, Option<Packed>)> {
        let packing = match self.kind {
            Kind::Plain(dtype) => {
                let info = Info { dtype, shape: self.shape.clone() };
                return vec![(self.name.clone(), info, None)];
            }
            Kind::Packed(packing) => packing,
            Kind::Unsupported(_) => return Vec::new(),
        };
        let last = |divide: &dyn Fn(usize) -> usize| {
            let mut shape = self.shape.clone();
            if let Some(innermost) = shape.last_mut() {
                *innermost = divide(*innermost);
            }
            shape
        };
        // Divided first: the product might overflow.
        let words = last(&|elements| elements / GROUP * packing.bits());
        let groups = last(&|elements| elements / GROUP);
        let stem = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        [
            (self.name.clone(), Stored::U32, words, Part::Weight),
            (format!("{stem}.scales"), Stored::F16, groups.clone(), Part::Scales),
            (format!("{stem}.biases"), Stored::F16, groups, Part::Biases),
        ]
        .map(|(name, dtype, shape, part)| (name, Info { dtype, shape }, Some((packing, part))))
        .into()
    }
}

impl Kind {
    fn of(code: u32) -> Self {
        match code {
            0 => Self::Plain(Stored::F32),
            1 => Self::Plain(Stored::F16),
            2 => Self::Packed(Packing::Q4_0),
            3 => Self::Packed(Packing::Q4_1),
            8 => Self::Packed(Packing::Q8_0),
            24 => Self::Plain(Stored::I8),
            25 => Self::Plain(Stored::I16),
            26 => Self::Plain(Stored::I32),
            27 => Self::Plain(Stored::I64),
            28 => Self::Plain(Stored::F64),
            30 => Self::Plain(Stored::BF16),
            other => Self::Unsupported(other),
        }
    }
}

/// ggml's names of the types that are not supported; 4, 5, 31 to 33 and 36 to 38 were withdrawn.
fn type_name(code: u32) -> Option<&'static str> {
    Some(match code {
        4 => "Q4_2",
        5 => "Q4_3",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

/// Refuses a file with tensors of a type that is not supported.
fn supported(entries: &[Entry]) -> Parsed<()> {
    let mut refused = entries.iter().filter_map(|entry| match entry.kind {
        Kind::Unsupported(code) => Some((&entry.name, code)),
        _ => None,
    });
    let Some((name, code)) = refused.next() else {
        return Ok(());
    };
    let kind = match type_name(code) {
        Some(name) => name.to_owned(),
        None => format!("number {code}, which is unknown"),
    };
    let others = match refused.count() {
        0 => String::new(),
        count => format!(" ({count} more tensors are not supported either)"),
    };
    Err(format!("tensor {name:?} has the type {kind}{others}; use a file in F32, F16, BF16, Q8_0, Q4_1 or Q4_0"))
}

/// Finds every tensor in the file and enters it in the header.
fn place(entries: &[Entry], data_at: u64, length: u64, header: &mut Header) -> Parsed<BTreeMap<String, Place>> {
    let mut places = BTreeMap::new();
    let mut spans = Vec::with_capacity(entries.len());
    for entry in entries {
        let named = |problem: String| format!("tensor {:?}: {problem}", entry.name);
        let (bytes, start) =
            entry.bytes().zip(data_at.checked_add(entry.start)).ok_or_else(|| named("is too large".into()))?;
        let end = start.checked_add(bytes).filter(|&end| end <= length || bytes == 0).ok_or_else(|| {
            named(format!(
                "needs {bytes} bytes at byte {start}, but the file ends at byte {length}: it is damaged or cut \
                     short; fetch it again"
            ))
        })?;
        spans.push((start, end, &entry.name));
        for (name, info, packed) in entry.appear() {
            let place = Place { start, bytes, packed };
            if places.insert(name.clone(), place).is_some() {
                return Err(named(format!("the name {name:?} occurs twice")));
            }
            header.tensors.insert(name, info);
        }
    }
    spans.sort_unstable();
    let (mut reached, mut before) = (data_at, "");
    for (start, end, name) in spans {
        if start == end {
            continue;
        }
        if start < reached {
            return Err(format!("tensors {before:?} and {name:?} overlap at byte {start}"));
        }
        (reached, before) = (end, name);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::source::{Config, Source};
    use std::fs;

    /// The bytes of a GGUF file, piece by piece.
    #[derive(Clone)]
    struct Builder {
        version: u32,
        keys: Vec<Vec<u8>>,
        tensors: Vec<(String, Vec<u64>, u32, u64)>,
        data: Vec<u8>,
        alignment: usize,
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    impl Builder {
        fn new() -> Self {
            Self { version: 3, keys: Vec::new(), tensors: Vec::new(), data: Vec::new(), alignment: 32 }
        }

        fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
            self.keys.push([&text(key), &kind.to_le_bytes()[..], value].concat());
            self
        }

        fn list(self, key: &str, kind: u32, count: u64, items: &[u8]) -> Self {
            let value = [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat();
            self.key(key, 9, &value)
        }

        /// A tensor after the others; dimensions innermost first.
        fn tensor(self, name: &str, dimensions: &[u64], kind: u32, data: &[u8]) -> Self {
            let start = self.data.len().next_multiple_of(self.alignment);
            let mut placed = self.placed(name, dimensions, kind, start as u64);
            placed.data.resize(start, 0);
            placed.data.extend(data);
            placed
        }

        /// A tensor without data of its own.
        fn placed(mut self, name: &str, dimensions: &[u64], kind: u32, start: u64) -> Self {
            self.tensors.push((name.into(), dimensions.into(), kind, start));
            self
        }

        /// Everything before the data.
        fn header(&self) -> Vec<u8> {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(self.version.to_le_bytes());
            bytes.extend((self.tensors.len() as u64).to_le_bytes());
            bytes.extend((self.keys.len() as u64).to_le_bytes());
            bytes.extend(self.keys.concat());
            for (name, dimensions, kind, start) in &self.tensors {
                bytes.extend(text(name));
                bytes.extend((dimensions.len() as u32).to_le_bytes());
                bytes.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
                bytes.extend(kind.to_le_bytes());
                bytes.extend(start.to_le_bytes());
            }
            bytes
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = self.header();
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&self.data);
            bytes
        }

        fn open(&self) -> Result<File> {
            open(&self.bytes())
        }
    }

    fn open(bytes: &[u8]) -> Result<File> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.gguf");
        fs::write(&path, bytes).unwrap();
        File::open(&path)
    }

    fn problem(builder: &Builder) -> String {
        builder.open().unwrap_err().to_string()
    }

    /// Blocks whose first two bytes are the f16 0.5 and whose others count.
    fn packed(block: usize, blocks: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..block * blocks).map(|i| i as u8).collect();
        for block in bytes.chunks_mut(block) {
            block[..2].copy_from_slice(&[0, 0x38]);
            block[2..4].copy_from_slice(&[1, 0x10]);
        }
        bytes
    }

    /// One of everything.
    fn small() -> Builder {
        Builder::new()
            .key("general.architecture", 8, &text("llama"))
            .key("llama.block_count", 4, &30_u32.to_le_bytes())
            .key("llama.rope.freq_base", 6, &1e5_f32.to_le_bytes())
            .key("tokenizer.ggml.add_bos_token", 7, &[1])
            .key("wide", 12, &0.5_f64.to_le_bytes())
            .key("small", 1, &[0xff])
            .list("tokenizer.ggml.tokens", 8, 2, &[text("a"), text("é")].concat())
            .list("tokenizer.ggml.token_type", 5, 2, &[1, 0, 0, 0, 3, 0, 0, 0])
            .list("flags", 7, 2, &[0, 1])
            .list("lists", 9, 1, &[&2_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[5, 0]].concat())
            .tensor("norm.weight", &[3], 0, &[1; 12])
            .tensor("half", &[2, 3], 1, &[2; 12])
            .tensor("brain", &[1, 2, 3], 30, &[3; 12])
            .tensor("index", &[3], 26, &[4; 12])
            .tensor("one", &[], 27, &[5; 8])
            .tensor("q40.weight", &[64, 3], 2, &packed(18, 6))
            .tensor("q41.weight", &[32, 2, 2], 3, &packed(20, 4))
            .tensor("q80", &[32], 8, &packed(34, 1))
    }

    #[test]
    fn a_file_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.gguf");
        for (version, alignment) in [(2, 32), (3, 32), (3, 8), (3, 4096)] {
            let mut builder = Builder { version, alignment, ..small() };
            if alignment != 32 {
                // Placed anew at the other alignment.
                let tensors = std::mem::take(&mut builder.tensors);
                let data = std::mem::take(&mut builder.data);
                builder = builder.key("general.alignment", 4, &(alignment as u32).to_le_bytes());
                for (i, (name, dimensions, kind, start)) in tensors.iter().enumerate() {
                    let end = tensors.get(i + 1).map_or(data.len(), |next| next.3 as usize);
                    builder = builder.tensor(name, dimensions, *kind, &data[*start as usize..end]);
                }
            }
            fs::write(&path, builder.bytes()).unwrap();
            // By its directory: it is the only file there.
            let source = Source::open(directory.path()).unwrap();
            let Config::Gguf(metadata) = source.config().unwrap() else {
                panic!("a GGUF file has metadata");
            };
            assert_eq!(metadata.str("general.architecture").unwrap(), "llama");
            assert_eq!(metadata.usize("llama.block_count").unwrap(), 30);
            assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), 1e5);
            assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "é"]);
            assert_eq!(metadata.integers("tokenizer.ggml.token_type").unwrap(), [1, 3]);
            let list = Array::Array(vec![Array::U16(vec![5])]);
            assert_eq!(metadata.get("lists"), Some(&Value::Array(list)));

            let header = source.header();
            assert_eq!(header.metadata["llama.block_count"], "30");
            assert!(!header.metadata.contains_key("tokenizer.ggml.tokens"));
            let infos: Vec<String> = header.tensors.iter().map(|(name, info)| format!("{name} {info}")).collect();
            assert_eq!(
                infos,
                [
                    "brain BF16[3,2,1]",
                    "half F16[3,2]",
                    "index I32[3]",
                    "norm.weight F32[3]",
                    "one I64[]",
                    "q40.biases F16[3,2]",
                    "q40.scales F16[3,2]",
                    "q40.weight U32[3,8]",
                    "q41.biases F16[2,2,1]",
                    "q41.scales F16[2,2,1]",
                    "q41.weight U32[2,2,4]",
                    "q80 U32[8]",
                    "q80.biases F16[1]",
                    "q80.scales F16[1]",
                ]
            );
            for (name, info) in &header.tensors {
                let (read, bytes) = source.read(name).unwrap();
                assert_eq!((&read, Some(bytes.len())), (info, info.bytes()));
            }
            assert_eq!(source.read("brain").unwrap().1, [3; 12]);
            assert_eq!(source.read("q40.scales").unwrap().1, [0, 0x38].repeat(6));
            assert_eq!(source.read("q40.biases").unwrap().1, [0, 0xc4].repeat(6));
            assert_eq!(source.read("q41.biases").unwrap().1, [1, 0x10].repeat(4));
            assert_eq!(source.read("q80.biases").unwrap().1, [0, 0xd4]);
            // Bytes 4 to 7 of the block are elements 2 to 5.
            assert_eq!(source.read("q80").unwrap().1[..6], [0x81, 0x90, 0x84, 0x85, 0x86, 0x87]);
            assert_eq!(source.gguf().unwrap().path(), path);
            let problem = source.read("q80.weight").unwrap_err().to_string();
            assert!(problem.contains("has no tensor \"q80.weight\""), "{problem}");
        }
    }

    #[test]
    fn a_tensor_longer_than_one_piece_is_converted_whole() {
        let blocks = 2 * BLOCKS as usize + 3;
        let raw = packed(34, blocks);
        let file = Builder::new().tensor("x.weight", &[32, blocks as u64], 8, &raw).open().unwrap();
        let expected: Vec<u8> = raw.chunks(34).flat_map(|block| block[2..].iter().map(|byte| byte ^ 0x80)).collect();
        assert_eq!(file.read("x.weight").unwrap().1, expected);
        assert_eq!(file.read("x.scales").unwrap().1, [0, 0x38].repeat(blocks));
    }

    #[test]
    fn a_damaged_scale_is_found_when_it_is_read() {
        let mut raw = packed(18, 5000);
        raw[18 * 4500 + 1] = 0x7c;
        let file = Builder::new().tensor("x.weight", &[32, 5000], 2, &raw).open().unwrap();
        for part in ["x.scales", "x.biases"] {
            let problem = file.read(part).unwrap_err().to_string();
            assert!(problem.contains("block 4500 of 5000, at byte 81"), "{problem}");
        }
    }

    #[test]
    fn an_unsupported_type_is_named() {
        let with = |kind| Builder::new().placed("blk.0.up.weight", &[256], kind, 0);
        for (kind, name) in [(12, "Q4_K"), (14, "Q6_K"), (16, "IQ2_XXS"), (39, "MXFP4"), (6, "Q5_0")] {
            let problem = problem(&with(kind));
            let expected = format!(
                "m.gguf: tensor \"blk.0.up.weight\" has the type {name}; use a file in F32, F16, BF16, Q8_0, Q4_1 or Q4_0"
            );
            assert!(problem.ends_with(&expected), "{problem}");
        }
        assert!(problem(&with(99)).contains("has the type number 99, which is unknown"));
        let several = with(12).placed("b", &[1], 14, 0).placed("c", &[1], 0, 0);
        assert!(problem(&several).contains("Q4_K (1 more tensors"));
    }

    #[test]
    fn a_malformed_file_is_named_and_explained() {
        let new = Builder::new;
        let huge = 1_u64 << 40;
        let nested = |depth: u32| {
            let mut items = vec![1];
            let mut kind = 0_u32;
            for _ in 0..depth {
                items = [&kind.to_le_bytes()[..], &1_u64.to_le_bytes(), &items].concat();
                kind = 9;
            }
            new().list("deep", kind, 1, &items)
        };
        assert!(nested(3).open().is_ok());
        for (builder, expected) in [
            (Builder { version: 1, ..new() }, "is GGUF version 1"),
            (Builder { version: 4, ..new() }, "is GGUF version 4"),
            (Builder { version: 3 << 24, ..new() }, "is big endian"),
            (nested(4), "metadata key \"deep\": at byte"),
            (new().key("a", 4, &[0; 4]).key("a", 4, &[0; 4]), "metadata key \"a\": occurs twice"),
            (new().key("a", 13, &[]), "metadata key \"a\": value type 13 is unknown"),
            (new().list("a", 13, 1, &[]), "value type 13 is unknown"),
            (new().key("a", 7, &[2]), "metadata key \"a\": 2 is not a boolean"),
            (new().list("a", 7, 1, &[9]), "9 is not a boolean"),
            (new().key("a", 8, &huge.to_le_bytes()), "metadata key \"a\": needs 1099511627776 bytes at byte"),
            (new().key("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "is not UTF-8"),
            (new().list("a", 10, huge, &[]), "metadata key \"a\": needs 8796093022208 bytes"),
            (new().list("a", 8, u64::MAX, &[]), "metadata key \"a\": needs 18446744073709551615 bytes"),
            (new().list("a", 9, huge, &[]), "metadata key \"a\": needs"),
            (new().key(&"k".repeat(70_000), 7, &[0]), "70000 bytes, more than the 65535 allowed"),
            (new().placed(&"n".repeat(1025), &[1], 0, 0), "tensor 0 of 1: at byte 32: 1025 bytes, more than the 1024"),
            (new().key("general.alignment", 4, &[0; 4]), "0 is not a power of two"),
            (new().key("general.alignment", 4, &[24, 0, 0, 0]), "24 is not a power of two"),
            (new().key("general.alignment", 8, &text("x")), "`general.alignment`: is a text in"),
            (new().key("split.count", 2, &[3, 0]), "is one of 3 parts; join them"),
            (new().placed("x", &[1; 5], 0, 0), "tensor \"x\": has 5 dimensions"),
            (new().placed("x", &[31], 2, 0), "tensor \"x\": is quantised in blocks of 32, but has rows of 31"),
            (new().placed("x", &[], 8, 0), "rows of 1 elements"),
            (new().placed("x", &[1], 0, 4), "tensor \"x\": begins at byte 4 of the data, which is not a multiple"),
            (new().placed("x", &[huge, huge], 0, 0), "tensor \"x\": is too large"),
            (new().placed("x", &[1 << 62], 0, 0), "tensor \"x\": is too large"),
            (new().placed("x", &[32, 1 << 59], 8, 0), "tensor \"x\": is too large"),
            (new().placed("x", &[1], 0, u64::MAX - 31), "tensor \"x\": "),
            (new().placed("x", &[huge], 0, 0), "tensor \"x\": needs 4398046511104 bytes at byte"),
            (
                new().tensor("x", &[3], 0, &[0; 12]).placed("y", &[3], 0, 32),
                "tensor \"y\": needs 12 bytes at byte 128, but the file ends at byte",
            ),
            (
                new().tensor("x", &[9], 0, &[0; 36]).placed("empty", &[0], 0, 0).placed("y", &[1], 0, 32),
                "tensors \"x\" and \"y\" overlap at byte",
            ),
            (new().tensor("x", &[9], 0, &[0; 36]).placed("x", &[1], 0, 0), "tensor \"x\": the name \"x\" occurs twice"),
            (
                new().tensor("x.weight", &[32], 8, &packed(34, 1)).tensor("x.scales", &[1], 0, &[0; 4]),
                "tensor \"x.scales\": the name \"x.scales\" occurs twice",
            ),
        ] {
            let problem = problem(&builder);
            assert!(problem.contains("m.gguf: "), "{problem}");
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
        let none = [&MAGIC[..], &3_u32.to_le_bytes(), &[0xff; 16]].concat();
        assert!(open(&none).unwrap_err().to_string().contains("metadata key 0 of"));
        assert!(open(b"GGML0000").unwrap_err().to_string().contains("does not begin with `GGUF`"));
        assert!(new().open().unwrap().header().tensors.is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = small().bytes();
        for length in 0..bytes.len() {
            let problem = open(&bytes[..length]).unwrap_err().to_string();
            assert!(problem.contains("cut short") || length == 0, "{length}: {problem}");
        }
        assert!(open(&bytes).is_ok());
    }

    #[test]
    fn damage_never_panics() {
        let builder = small();
        let header = builder.header().len();
        let good = super::super::mutate::survive(&builder.bytes(), header, "m.gguf", 20_000, |path| {
            let Ok(file) = File::open(path) else {
                return false;
            };
            for (name, info) in &file.header().tensors {
                if let Ok((_, bytes)) = file.read(name) {
                    assert_eq!(Some(bytes.len()), info.bytes());
                }
            }
            true
        });
        assert!((1000..15_000).contains(&good), "{good} damaged files were still good");
    }
}
