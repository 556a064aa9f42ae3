//! `.npy` files: a header that is checked before anything is allocated, then the elements in C order.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use npyz::{DType, Deserialize, NpyFile, NpyHeader, Order, TypeChar, WriterBuilder};

use crate::tensor::{Data, Dtype, Tensor, elements};
use crate::{Error, Result};

/// NumPy pads its headers to a multiple of 64 bytes; a plain array needs about a hundred.
const LONGEST_HEADER: u64 = 1 << 16;

/// A `.npy` file whose header has been read and found true to the file's size. Its elements are read on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where the file is.
    pub file: PathBuf,
    /// The extent of each axis.
    pub shape: Vec<usize>,
    /// The element type of the tensor that the file stands for: the file's own, or a narrower float that was widened.
    pub dtype: Dtype,
}

impl Stored {
    /// Reads the header alone.
    ///
    /// # Errors
    /// When the file cannot be read, is not an `.npy` file of plain numbers or booleans, or has not the size that its header states.
    pub fn open(file: impl Into<PathBuf>) -> Result<Self> {
        let file = file.into();
        let (_, header) = begin(&file)?;
        Ok(Self { shape: header.shape, dtype: header.dtype, file })
    }

    /// Reads the elements.
    ///
    /// # Errors
    /// As [`Stored::open`], and when a boolean is neither 0 nor 1.
    pub fn read(&self) -> Result<Tensor> {
        Ok(Tensor { dtype: self.dtype, ..read(&self.file)? })
    }

    /// Takes the file for one of `dtype`: the type that it has, or a 16-bit float stored in 32 bits. Says whether it can.
    pub(crate) fn stands_for(&mut self, dtype: Dtype) -> bool {
        let widened = matches!(dtype, Dtype::Float16 | Dtype::Bfloat16) && self.dtype == Dtype::Float32;
        if widened {
            self.dtype = dtype;
        }
        widened || self.dtype == dtype
    }
}

struct Header {
    shape: Vec<usize>,
    dtype: Dtype,
    npy: NpyHeader,
}

/// Reads a `.npy` file of floats (16, 32 or 64 bits), integers or booleans, of either byte order and either axis order.
///
/// Memory is bounded by the file: at most eight times its size, for 8-bit integers, which are widened to 64 bits.
///
/// # Errors
/// When the file cannot be read, is malformed, holds another element type, or has not the size that its header states.
pub fn read(file: &Path) -> Result<Tensor> {
    let (reader, Header { shape, dtype, npy }) = begin(file)?;
    let order = npy.order();
    let body = NpyFile::with_header(npy, reader);
    let data = match dtype {
        Dtype::Bool => Data::Bool(body.into_vec().map_err(|e| bad(file, e))?),
        Dtype::Int8 => Data::I64(widened::<i8, _, _>(file, body)?),
        Dtype::Int16 => Data::I64(widened::<i16, _, _>(file, body)?),
        Dtype::Int32 => Data::I64(widened::<i32, _, _>(file, body)?),
        Dtype::Int64 => Data::I64(widened::<i64, _, _>(file, body)?),
        Dtype::Uint8 => Data::U64(widened::<u8, _, _>(file, body)?),
        Dtype::Uint16 => Data::U64(widened::<u16, _, _>(file, body)?),
        Dtype::Uint32 => Data::U64(widened::<u32, _, _>(file, body)?),
        Dtype::Uint64 => Data::U64(widened::<u64, _, _>(file, body)?),
        Dtype::Float16 => Data::F32(widened::<f16, _, _>(file, body)?),
        Dtype::Float32 | Dtype::Bfloat16 => Data::F32(widened::<f32, _, _>(file, body)?),
        Dtype::Float64 => Data::F64(widened::<f64, _, _>(file, body)?),
    };
    let tensor = Tensor::new(shape, dtype, data).map_err(|e| bad(file, e))?;
    Ok(match order {
        Order::C => tensor,
        Order::Fortran => tensor.into_c_order(),
    })
}

/// Writes a tensor in C order, little-endian; `bfloat16`, which NumPy lacks, as `float32`.
///
/// # Errors
/// When the file cannot be written, or an integer does not fit the tensor's element type.
pub fn write(file: &Path, tensor: &Tensor) -> Result<()> {
    match (&tensor.data, tensor.dtype) {
        (Data::Bool(v), Dtype::Bool) => stream(file, &tensor.shape, v.iter().copied().map(Some)),
        (Data::I64(v), Dtype::Int8) => stream(file, &tensor.shape, v.iter().map(|&x| i8::try_from(x).ok())),
        (Data::I64(v), Dtype::Int16) => stream(file, &tensor.shape, v.iter().map(|&x| i16::try_from(x).ok())),
        (Data::I64(v), Dtype::Int32) => stream(file, &tensor.shape, v.iter().map(|&x| i32::try_from(x).ok())),
        (Data::I64(v), Dtype::Int64) => stream(file, &tensor.shape, v.iter().copied().map(Some)),
        (Data::U64(v), Dtype::Uint8) => stream(file, &tensor.shape, v.iter().map(|&x| u8::try_from(x).ok())),
        (Data::U64(v), Dtype::Uint16) => stream(file, &tensor.shape, v.iter().map(|&x| u16::try_from(x).ok())),
        (Data::U64(v), Dtype::Uint32) => stream(file, &tensor.shape, v.iter().map(|&x| u32::try_from(x).ok())),
        (Data::U64(v), Dtype::Uint64) => stream(file, &tensor.shape, v.iter().copied().map(Some)),
        (Data::F32(v), Dtype::Float16) => stream(file, &tensor.shape, v.iter().map(|&x| Some(f16::from_f32(x)))),
        (Data::F32(v), Dtype::Float32 | Dtype::Bfloat16) => stream(file, &tensor.shape, v.iter().copied().map(Some)),
        (Data::F64(v), Dtype::Float64) => stream(file, &tensor.shape, v.iter().copied().map(Some)),
        (_, dtype) => Err(bad(file, format!("these elements are not stored as {dtype}"))),
    }
}

fn bad(file: &Path, problem: impl ToString) -> Error {
    Error::file(file, problem.to_string())
}

fn widened<T, W, R>(file: &Path, body: NpyFile<R>) -> Result<Vec<W>>
where
    T: Deserialize,
    W: From<T>,
    R: Read,
{
    let values = body.data::<T>().map_err(|e| bad(file, e))?;
    values.map(|value| value.map(W::from).map_err(|e| bad(file, e))).collect()
}

fn stream<T: npyz::AutoSerialize>(file: &Path, shape: &[usize], values: impl Iterator<Item = Option<T>>) -> Result<()> {
    let io = |e| Error::io(file, e);
    let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
    let out = BufWriter::new(File::create(file).map_err(io)?);
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(out).begin_nd().map_err(io)?;
    for value in values {
        npy.push(&value.ok_or_else(|| bad(file, "an integer does not fit its element type"))?).map_err(io)?;
    }
    npy.finish().map_err(io)
}

/// Opens a file at its first element, its header read and checked against the file's size.
fn begin(file: &Path) -> Result<(BufReader<File>, Header)> {
    let io = |e| Error::io(file, e);
    let mut reader = BufReader::new(File::open(file).map_err(io)?);
    let size = reader.get_ref().metadata().map_err(io)?.len();
    let start = vet(file, &mut reader, size)?;
    reader.seek(SeekFrom::Start(0)).map_err(io)?;
    let npy = NpyHeader::from_reader(&mut reader).map_err(|e| bad(file, e))?;
    let dtype = dtype(&npy.dtype()).ok_or_else(|| {
        bad(
            file,
            format!(
                "elements of type {}; floats of 16 to 64 bits, integers and booleans are read",
                npy.dtype().descr()
            ),
        )
    })?;
    let shape: Option<Vec<usize>> = npy.shape().iter().map(|&extent| extent.try_into().ok()).collect();
    let bytes = shape.as_deref().and_then(elements).and_then(|n| n.checked_mul(npy.dtype().num_bytes()?));
    match (shape, bytes) {
        (Some(shape), Some(bytes)) if bytes as u64 == size - start => Ok((reader, Header { shape, dtype, npy })),
        _ => Err(bad(
            file,
            format!("the header states shape {:?} of {dtype}, which {} bytes do not hold", npy.shape(), size - start),
        )),
    }
}

/// Refuses what the header parser cannot be trusted with, before it runs: a header longer than the file, nesting that no plain
/// array needs, numbers whose product overflows. Returns where the elements begin.
fn vet(file: &Path, reader: &mut impl Read, size: u64) -> Result<u64> {
    let truncated = |_| bad(file, "the file ends inside its header");
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(truncated)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(bad(file, "not an .npy file: the magic bytes are missing"));
    }
    let (prefix, length) = if start[6] == 1 {
        let mut length = [0; 2];
        reader.read_exact(&mut length).map_err(truncated)?;
        (10, u64::from(u16::from_le_bytes(length)))
    } else {
        let mut length = [0; 4];
        reader.read_exact(&mut length).map_err(truncated)?;
        (12, u64::from(u32::from_le_bytes(length)))
    };
    if length > LONGEST_HEADER || prefix + length > size {
        return Err(bad(file, format!("the header claims {length} bytes; the file has {size}")));
    }
    let mut text = Vec::new();
    reader.take(length).read_to_end(&mut text).map_err(|e| Error::io(file, e))?;
    if !plain(&text) {
        return Err(bad(file, "the header is not that of a plain array"));
    }
    Ok(prefix + length)
}

/// Whether a header is flat (a dictionary with one tuple) and its numbers are decimal, with a product that fits 64 bits.
fn plain(header: &[u8]) -> bool {
    let mut depth = 0i32;
    let mut product = 1u64;
    let mut number: Option<u64> = None;
    for &byte in header.iter().chain(b" ") {
        match byte {
            b'0'..=b'9' => {
                let digit = u64::from(byte - b'0');
                let Some(next) = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit)) else {
                    return false;
                };
                number = Some(next);
                continue;
            }
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth -= 1,
            b'[' => return false,
            b'_' | b'a'..=b'z' | b'A'..=b'Z' if number.is_some() => return false,
            _ => {}
        }
        if !(0..=2).contains(&depth) {
            return false;
        }
        match product.checked_mul(number.take().unwrap_or(1).max(1)) {
            Some(next) => product = next,
            None => return false,
        }
    }
    depth == 0
}

fn dtype(dtype: &DType) -> Option<Dtype> {
    let DType::Plain(element) = dtype else {
        return None;
    };
    Some(match (element.type_char(), element.size_field()) {
        (TypeChar::Bool, 1) => Dtype::Bool,
        (TypeChar::Int, 1) => Dtype::Int8,
        (TypeChar::Int, 2) => Dtype::Int16,
        (TypeChar::Int, 4) => Dtype::Int32,
        (TypeChar::Int, 8) => Dtype::Int64,
        (TypeChar::Uint, 1) => Dtype::Uint8,
        (TypeChar::Uint, 2) => Dtype::Uint16,
        (TypeChar::Uint, 4) => Dtype::Uint32,
        (TypeChar::Uint, 8) => Dtype::Uint64,
        (TypeChar::Float, 2) => Dtype::Float16,
        (TypeChar::Float, 4) => Dtype::Float32,
        (TypeChar::Float, 8) => Dtype::Float64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    /// An `.npy` file of version 1 with this header and body.
    fn raw(dir: &Path, header: &str, body: &[u8]) -> PathBuf {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(body);
        let file = dir.join("raw.npy");
        std::fs::write(&file, bytes).unwrap();
        file
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn every_type_survives_the_round_trip() {
        let dir = scratch();
        let file = dir.path().join("x.npy");
        let integers = [Dtype::Int8, Dtype::Int16, Dtype::Int32, Dtype::Int64];
        let naturals = [Dtype::Uint8, Dtype::Uint16, Dtype::Uint32, Dtype::Uint64];
        let mut tensors = vec![
            Tensor::new(vec![2], Dtype::Bool, Data::Bool(vec![true, false])).unwrap(),
            Tensor::new(vec![2, 1], Dtype::Float16, Data::F32(vec![0.5, f32::INFINITY])).unwrap(),
            Tensor::new(vec![1, 2], Dtype::Float32, Data::F32(vec![0.1, -0.0])).unwrap(),
            Tensor::new(vec![2], Dtype::Float64, Data::F64(vec![0.1, 1e300])).unwrap(),
            Tensor::new(vec![], Dtype::Float32, Data::F32(vec![3.0])).unwrap(),
            Tensor::new(vec![0, 3], Dtype::Float32, Data::F32(vec![])).unwrap(),
        ];
        tensors.extend(integers.map(|t| Tensor::new(vec![2], t, Data::I64(vec![-3, 100])).unwrap()));
        tensors.extend(naturals.map(|t| Tensor::new(vec![2], t, Data::U64(vec![3, 200])).unwrap()));
        for tensor in tensors {
            write(&file, &tensor).unwrap();
            let stored = Stored::open(&file).unwrap();
            assert_eq!((&stored.shape, stored.dtype), (&tensor.shape, tensor.dtype));
            assert_eq!(stored.read().unwrap(), tensor);
        }
    }

    #[test]
    fn brain_floats_are_stored_in_full() {
        let dir = scratch();
        let file = dir.path().join("x.npy");
        let tensor = Tensor::new(vec![1], Dtype::Bfloat16, Data::F32(vec![1.5])).unwrap();
        write(&file, &tensor).unwrap();
        assert_eq!(read(&file).unwrap(), Tensor { dtype: Dtype::Float32, ..tensor });
    }

    #[test]
    fn a_widened_float_keeps_its_name() {
        let dir = scratch();
        let file = dir.path().join("x.npy");
        let tensor = Tensor::new(vec![1], Dtype::Bfloat16, Data::F32(vec![1.5])).unwrap();
        write(&file, &tensor).unwrap();
        let mut stored = Stored::open(&file).unwrap();
        assert!(!stored.stands_for(Dtype::Int32));
        assert!(stored.stands_for(Dtype::Bfloat16));
        assert_eq!(stored.read().unwrap(), tensor);
    }

    #[test]
    fn an_integer_that_does_not_fit_is_refused() {
        let dir = scratch();
        let tensor = Tensor::new(vec![1], Dtype::Int8, Data::I64(vec![128])).unwrap();
        assert!(write(&dir.path().join("x.npy"), &tensor).is_err());
    }

    #[test]
    fn fortran_order_and_big_endian_are_read() {
        let dir = scratch();
        let body: Vec<u8> = [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].iter().flat_map(|x| x.to_be_bytes()).collect();
        let tensor = read(&raw(dir.path(), &header(">f4", "True", "(2, 3)"), &body)).unwrap();
        assert_eq!(tensor.shape, [2, 3]);
        assert_eq!(tensor.data, Data::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let body: Vec<u8> = [258i16, -2].iter().flat_map(|x| x.to_be_bytes()).collect();
        let tensor = read(&raw(dir.path(), &header(">i2", "False", "(2,)"), &body)).unwrap();
        assert_eq!(tensor.data, Data::I64(vec![258, -2]));
    }

    #[test]
    fn hostile_headers_are_errors() {
        let dir = scratch();
        let deep = "(".repeat(60_000);
        let hostile = [
            header("<f4", "False", "(1099511627776,)"),
            header("<f4", "False", "(4294967296, 4294967296, 4294967296)"),
            header("<f4", "False", "(99999999999999999999999,)"),
            header("<f4", "False", "(0, 18446744073709551615, 2)"),
            header("<f4", "False", "(0xFFFFFFFFFFFFFFFF, 0xFF)"),
            header("<f4", "False", "(-1,)"),
            header("<f4", "False", "(1.5,)"),
            header("<f4", "False", "7"),
            header("<f4", "maybe", "(1,)"),
            header("<c8", "False", "(1,)"),
            header("|O", "False", "(1,)"),
            header("|V4", "False", "(1,)"),
            header("<f16", "False", "(1,)"),
            header("🦀", "False", "(1,)"),
            deep,
            "{".into(),
            String::new(),
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}".into(),
        ];
        for header in hostile {
            let file = raw(dir.path(), &header, &[0; 4]);
            let error = read(&file).expect_err(&header);
            assert!(matches!(error, Error::File { .. }), "{error}");
            assert!(Stored::open(&file).is_err());
        }
    }

    #[test]
    fn bodies_of_the_wrong_size_are_errors() {
        let dir = scratch();
        for bytes in [0, 7, 9] {
            assert!(read(&raw(dir.path(), &header("<f4", "False", "(2,)"), &vec![0; bytes])).is_err());
        }
        assert!(read(&raw(dir.path(), &header("|b1", "False", "(1,)"), &[2])).is_err());
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let dir = scratch();
        let file = dir.path().join("x.npy");
        write(&file, &Tensor::new(vec![2], Dtype::Float32, Data::F32(vec![1.0, 2.0])).unwrap()).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(read(&file).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn one_changed_byte_never_panics() {
        let dir = scratch();
        let file = dir.path().join("x.npy");
        write(&file, &Tensor::new(vec![2], Dtype::Float32, Data::F32(vec![1.0, 2.0])).unwrap()).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            for value in [0, b'(', b'9', b'_', 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                std::fs::write(&file, bytes).unwrap();
                let _ = read(&file);
            }
        }
    }
}
