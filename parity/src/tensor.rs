//! A tensor in host memory, in C order: what cases store and what comparisons read.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The element type that a tensor has, or had before it was widened for storage. Named as in NumPy and PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float16,
    Bfloat16,
    Float32,
    Float64,
}

impl Dtype {
    /// The name as NumPy and PyTorch write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
        }
    }

    /// Whether two element types hold the same kind of value: booleans, integers of any width, or floats of any width.
    pub fn same_kind(self, other: Self) -> bool {
        self.kind() == other.kind()
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        self.kind() == 2
    }

    fn kind(self) -> u8 {
        match self {
            Self::Bool => 0,
            Self::Float16 | Self::Bfloat16 | Self::Float32 | Self::Float64 => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The elements of a tensor, widened to the nearest type that holds them exactly.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    U64(Vec<u64>),
    Bool(Vec<bool>),
}

/// Runs the same expression on the vector inside whichever variant it is.
macro_rules! each {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::F32($v) => $body,
            Data::F64($v) => $body,
            Data::I64($v) => $body,
            Data::U64($v) => $body,
            Data::Bool($v) => $body,
        }
    };
}

impl Data {
    /// The number of elements.
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index` as a double: exact for floats, booleans as 0 and 1, integers rounded beyond 2⁵³.
    pub fn f64(&self, index: usize) -> Option<f64> {
        match self {
            Self::F32(v) => v.get(index).map(|&x| f64::from(x)),
            Self::F64(v) => v.get(index).copied(),
            Self::I64(v) => v.get(index).map(|&x| x as f64),
            Self::U64(v) => v.get(index).map(|&x| x as f64),
            Self::Bool(v) => v.get(index).map(|&x| f64::from(u8::from(x))),
        }
    }

    /// The element at `index` as an integer, exact; `None` for floats.
    pub fn integer(&self, index: usize) -> Option<i128> {
        match self {
            Self::F32(_) | Self::F64(_) => None,
            Self::I64(v) => v.get(index).map(|&x| x.into()),
            Self::U64(v) => v.get(index).map(|&x| x.into()),
            Self::Bool(v) => v.get(index).map(|&x| x.into()),
        }
    }

    /// Makes every element one.
    pub(crate) fn fill_with_ones(&mut self) {
        match self {
            Self::F32(v) => v.fill(1.0),
            Self::F64(v) => v.fill(1.0),
            Self::I64(v) => v.fill(1),
            Self::U64(v) => v.fill(1),
            Self::Bool(v) => v.fill(true),
        }
    }

    /// Moves the elements up by so many, the first ones to the end.
    pub(crate) fn roll(&mut self, by: usize) {
        let by = by % self.len().max(1);
        match self {
            Self::F32(v) => v.rotate_left(by),
            Self::F64(v) => v.rotate_left(by),
            Self::I64(v) => v.rotate_left(by),
            Self::U64(v) => v.rotate_left(by),
            Self::Bool(v) => v.rotate_left(by),
        }
    }

    fn none_of(&self) -> Self {
        match self {
            Self::F32(_) => Self::F32(Vec::new()),
            Self::F64(_) => Self::F64(Vec::new()),
            Self::I64(_) => Self::I64(Vec::new()),
            Self::U64(_) => Self::U64(Vec::new()),
            Self::Bool(_) => Self::Bool(Vec::new()),
        }
    }

    /// Appends a range of another tensor's elements; refuses a different variant or a range that is not there.
    fn append(&mut self, other: &Self, range: Range<usize>) -> Option<()> {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a.extend_from_slice(b.get(range)?),
            (Self::F64(a), Self::F64(b)) => a.extend_from_slice(b.get(range)?),
            (Self::I64(a), Self::I64(b)) => a.extend_from_slice(b.get(range)?),
            (Self::U64(a), Self::U64(b)) => a.extend_from_slice(b.get(range)?),
            (Self::Bool(a), Self::Bool(b)) => a.extend_from_slice(b.get(range)?),
            _ => return None,
        }
        Some(())
    }

    /// The same values in the variant of `other`, floats rounded; `None` between floats and the rest.
    fn like(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::F64(v), Self::F32(_)) => Self::F32(v.iter().map(|&x| x as f32).collect()),
            (Self::F32(v), Self::F64(_)) => Self::F64(v.iter().map(|&x| x.into()).collect()),
            (Self::I64(v), Self::U64(_)) => Self::U64(v.iter().map(|&x| x.try_into().ok()).collect::<Option<_>>()?),
            (Self::U64(v), Self::I64(_)) => Self::I64(v.iter().map(|&x| x.try_into().ok()).collect::<Option<_>>()?),
            (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => a.clone(),
            _ => return None,
        })
    }
}

/// Shape, element type and elements in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The extent of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// The element type of the tensor that this one stands for.
    pub dtype: Dtype,
    /// The elements.
    pub data: Data,
}

impl Tensor {
    /// A tensor of these elements.
    ///
    /// # Errors
    /// When the shape does not hold exactly as many elements as there are.
    pub fn new(shape: Vec<usize>, dtype: Dtype, data: Data) -> Result<Self> {
        match elements(&shape) {
            Some(n) if n == data.len() => Ok(Self { shape, dtype, data }),
            _ => Err(Error::Tensor(format!("{} elements do not fill the shape {shape:?}", data.len()))),
        }
    }

    /// The part `columns` of the last axis.
    ///
    /// # Errors
    /// When the last axis is missing or too short.
    pub fn columns(&self, columns: Range<usize>) -> Result<Self> {
        let refuse = || Error::Tensor(format!("columns {columns:?} of a tensor of shape {:?}", self.shape));
        let (&width, rows) = self.shape.split_last().ok_or_else(refuse)?;
        if columns.start > columns.end || columns.end > width {
            return Err(refuse());
        }
        let mut data = self.data.none_of();
        for row in 0..rows.iter().product() {
            let at = row * width;
            data.append(&self.data, at + columns.start..at + columns.end).ok_or_else(refuse)?;
        }
        let mut shape = rows.to_vec();
        shape.push(columns.len());
        Self::new(shape, self.dtype, data)
    }

    /// This tensor with `patch` written over the columns of the last axis that begin at `start`, rounded to this tensor's type.
    ///
    /// # Errors
    /// When the patch does not fit.
    pub fn with_columns(&self, start: usize, patch: &Self) -> Result<Self> {
        let width = self.shape.last().copied().unwrap_or(0);
        let end = start + patch.shape.last().copied().unwrap_or(0);
        let (left, right) = (self.columns(0..start)?, self.columns(end..width)?);
        Self::joined(&[&left, &patch.cast_like(self)?, &right])
    }

    /// The parts side by side along the last axis; the element type is the first part's.
    ///
    /// # Errors
    /// When there is no part, or the parts differ in more than the last axis.
    pub fn joined(parts: &[&Self]) -> Result<Self> {
        let refuse = || {
            let shapes: Vec<_> = parts.iter().map(|part| &part.shape).collect();
            Error::Tensor(format!("shapes {shapes:?} do not join along the last axis"))
        };
        let first = parts.first().ok_or_else(refuse)?;
        let (_, rows) = first.shape.split_last().ok_or_else(refuse)?;
        let mut widths = Vec::new();
        for part in parts {
            match part.shape.split_last() {
                Some((&width, outside)) if outside == rows => widths.push(width),
                _ => return Err(refuse()),
            }
        }
        let mut data = first.data.none_of();
        for row in 0..rows.iter().product::<usize>() {
            for (part, width) in parts.iter().zip(&widths) {
                data.append(&part.data, row * width..(row + 1) * width).ok_or_else(refuse)?;
            }
        }
        let mut shape = rows.to_vec();
        shape.push(widths.iter().sum());
        Self::new(shape, first.dtype, data)
    }

    /// `[B, C, …]` as `[B, …, C]`; tensors of fewer than three axes have no channels to move and stay as they are.
    pub fn channels_last(&self) -> Self {
        self.with_axis_moved(|rank| (1, rank - 1))
    }

    /// `[B, …, C]` as `[B, C, …]`; the inverse of [`Tensor::channels_last`].
    pub fn channels_first(&self) -> Self {
        self.with_axis_moved(|rank| (rank - 1, 1))
    }

    /// `[B, H, L, D]` as `[B, L, H, D]`, and back; a tensor of another rank stays as it is.
    pub fn heads_beside_channels(&self) -> Self {
        if self.shape.len() == 4 { self.permuted(&[0, 2, 1, 3]) } else { self.clone() }
    }

    fn with_axis_moved(&self, axes: impl FnOnce(usize) -> (usize, usize)) -> Self {
        if self.shape.len() < 3 {
            return self.clone();
        }
        let (from, to) = axes(self.shape.len());
        let mut order: Vec<usize> = (0..self.shape.len()).collect();
        let axis = order.remove(from);
        order.insert(to, axis);
        self.permuted(&order)
    }

    /// The axes in another order; `order` must name each axis once.
    fn permuted(&self, order: &[usize]) -> Self {
        let strides = strides(&self.shape);
        let shape: Vec<usize> = order.iter().map(|&axis| self.shape[axis]).collect();
        let steps: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
        let indices = walk(&shape, &steps);
        let data = match &self.data {
            Data::F32(v) => Data::F32(indices.map(|i| v[i]).collect()),
            Data::F64(v) => Data::F64(indices.map(|i| v[i]).collect()),
            Data::I64(v) => Data::I64(indices.map(|i| v[i]).collect()),
            Data::U64(v) => Data::U64(indices.map(|i| v[i]).collect()),
            Data::Bool(v) => Data::Bool(indices.map(|i| v[i]).collect()),
        };
        Self { shape, dtype: self.dtype, data }
    }

    /// The elements of Fortran order put into C order; `self.data` is read as if the first axis ran fastest.
    pub(crate) fn into_c_order(self) -> Self {
        let reversed = Self { shape: self.shape.iter().rev().copied().collect(), ..self };
        let order: Vec<usize> = (0..reversed.shape.len()).rev().collect();
        reversed.permuted(&order)
    }

    /// The same values with the element type of `other`, as far as the host holds it: 16-bit floats stay in 32 bits here and
    /// are rounded where the tensor is uploaded.
    ///
    /// # Errors
    /// Between floats and integers or booleans, and when a negative integer meets an unsigned type.
    pub fn cast_like(&self, other: &Self) -> Result<Self> {
        let refuse = || Error::Tensor(format!("{} does not become {}", self.dtype, other.dtype));
        let data = self.data.like(&other.data).ok_or_else(refuse)?;
        Ok(Self { shape: self.shape.clone(), dtype: other.dtype, data })
    }
}

/// The number of elements of a shape; `None` when it does not fit in memory.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The flat source index of every element of `shape` in C order, when a step along axis `a` moves by `steps[a]`.
fn walk<'a>(shape: &'a [usize], steps: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let count: usize = shape.iter().product();
    (0..count).map(move |flat| {
        let split = shape
            .iter()
            .zip(steps)
            .rev()
            .fold((flat, 0), |(rest, at), (&extent, &step)| (rest / extent, at + rest % extent * step));
        split.1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::new(shape.to_vec(), Dtype::Float32, Data::F32((0..n).map(|i| i as f32).collect())).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        (0..tensor.data.len()).map(|i| tensor.data.f64(i).unwrap()).collect()
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused() {
        assert!(Tensor::new(vec![2, 3], Dtype::Float32, Data::F32(vec![0.0; 5])).is_err());
        assert!(Tensor::new(vec![usize::MAX, 2], Dtype::Float32, Data::F32(vec![])).is_err());
        assert!(Tensor::new(vec![], Dtype::Float32, Data::F32(vec![1.0])).is_ok());
    }

    #[test]
    fn columns_are_cut_and_put_back() {
        let all = counting(&[2, 2, 5]);
        let part = all.columns(1..3).unwrap();
        assert_eq!(part.shape, [2, 2, 2]);
        assert_eq!(values(&part), [1.0, 2.0, 6.0, 7.0, 11.0, 12.0, 16.0, 17.0]);
        assert_eq!(all.with_columns(1, &part).unwrap(), all);
        assert!(all.columns(3..6).is_err());
        assert!(all.with_columns(4, &part).is_err());
        assert!(counting(&[]).columns(0..1).is_err());
    }

    #[test]
    fn joining_inverts_cutting() {
        let all = counting(&[2, 3, 4]);
        let (cut, rest) = (all.columns(0..1).unwrap(), all.columns(1..4).unwrap());
        assert_eq!(Tensor::joined(&[&cut, &rest]).unwrap(), all);
        assert!(Tensor::joined(&[&counting(&[2, 3]), &counting(&[3, 3])]).is_err());
        assert!(Tensor::joined(&[&counting(&[])]).is_err());
        assert!(Tensor::joined(&[]).is_err());
    }

    #[test]
    fn channels_move_and_come_back() {
        let nchw = counting(&[1, 2, 2, 3]);
        let nhwc = nchw.channels_last();
        assert_eq!(nhwc.shape, [1, 2, 3, 2]);
        assert_eq!(&values(&nhwc)[..4], [0.0, 6.0, 1.0, 7.0]);
        assert_eq!(nhwc.channels_first(), nchw);
        assert_eq!(counting(&[2, 3]).channels_last(), counting(&[2, 3]));
    }

    #[test]
    fn heads_move_and_come_back() {
        let heads_first = counting(&[1, 2, 3, 2]);
        let ours = heads_first.heads_beside_channels();
        assert_eq!(ours.shape, [1, 3, 2, 2]);
        assert_eq!(&values(&ours)[..6], [0.0, 1.0, 6.0, 7.0, 2.0, 3.0]);
        assert_eq!(ours.heads_beside_channels(), heads_first);
        assert_eq!(counting(&[2, 3]).heads_beside_channels(), counting(&[2, 3]));
    }

    #[test]
    fn casts_keep_values_or_refuse() {
        let wide = Tensor::new(vec![1], Dtype::Float64, Data::F64(vec![0.5])).unwrap();
        assert_eq!(wide.cast_like(&counting(&[1])).unwrap().data, Data::F32(vec![0.5]));
        let negative = Tensor::new(vec![1], Dtype::Int64, Data::I64(vec![-1])).unwrap();
        let unsigned = Tensor::new(vec![1], Dtype::Uint32, Data::U64(vec![1])).unwrap();
        assert!(negative.cast_like(&unsigned).is_err());
        assert!(negative.cast_like(&wide).is_err());
        assert_eq!(unsigned.cast_like(&negative).unwrap().data, Data::I64(vec![1]));
    }
}
