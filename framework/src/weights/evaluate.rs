//! Runs an [`Expr`] on MLX: the bridge from stored bytes to arrays and back.

use crate::{
    Error, Result, math,
    weights::{
        expr::{BatchNorm, Expr, Fold, RowOrder},
        header::{Info, Stored},
    },
};
use mlx_rs::{Array, Dtype, ops};

/// The element type that MLX has for a stored one.
///
/// # Errors
/// For the 8-bit floats, which MLX has no arrays of.
pub fn dtype(stored: Stored) -> Result<Dtype> {
    Ok(match stored {
        Stored::F64 => Dtype::Float64,
        Stored::F32 => Dtype::Float32,
        Stored::F16 => Dtype::Float16,
        Stored::BF16 => Dtype::Bfloat16,
        Stored::I64 => Dtype::Int64,
        Stored::I32 => Dtype::Int32,
        Stored::I16 => Dtype::Int16,
        Stored::I8 => Dtype::Int8,
        Stored::U64 => Dtype::Uint64,
        Stored::U32 => Dtype::Uint32,
        Stored::U16 => Dtype::Uint16,
        Stored::U8 => Dtype::Uint8,
        Stored::Bool => Dtype::Bool,
        Stored::F8E4M3 | Stored::F8E5M2 => {
            let problem = format!("{} has no array type in MLX; convert the file to BF16", stored.name());
            return Err(Error::argument("dtype", problem));
        }
    })
}

/// How an MLX element type is stored.
///
/// # Errors
/// For complex numbers, which weight files do not hold.
pub fn stored(dtype: Dtype) -> Result<Stored> {
    Ok(match dtype {
        Dtype::Float64 => Stored::F64,
        Dtype::Float32 => Stored::F32,
        Dtype::Float16 => Stored::F16,
        Dtype::Bfloat16 => Stored::BF16,
        Dtype::Int64 => Stored::I64,
        Dtype::Int32 => Stored::I32,
        Dtype::Int16 => Stored::I16,
        Dtype::Int8 => Stored::I8,
        Dtype::Uint64 => Stored::U64,
        Dtype::Uint32 => Stored::U32,
        Dtype::Uint16 => Stored::U16,
        Dtype::Uint8 => Stored::U8,
        Dtype::Bool => Stored::Bool,
        other => return Err(Error::argument("dtype", format!("{other:?} cannot be stored"))),
    })
}

/// What a file says of an array.
///
/// # Errors
/// As [`stored`].
pub fn info(x: &Array) -> Result<Info> {
    Ok(Info { dtype: stored(x.dtype())?, shape: x.shape().iter().map(|&length| length as usize).collect() })
}

/// An array from stored bytes, row-major and little endian.
pub fn from_bytes(info: &Info, bytes: &[u8]) -> Result<Array> {
    if info.bytes() != Some(bytes.len()) {
        return Err(Error::argument(
            "bytes",
            format!("{} bytes for {} {:?}", bytes.len(), info.dtype.name(), info.shape),
        ));
    }
    let shape = lengths(&info.shape)?;
    // SAFETY: the length was checked against the shape and the element type; MLX copies the bytes.
    Ok(unsafe { Array::from_raw_data(bytes.as_ptr().cast(), &shape, dtype(info.dtype)?) })
}

/// The bytes of an array as a file stores them, and what they are.
pub fn to_bytes(x: &Array) -> Result<(Info, Vec<u8>)> {
    let info = info(x)?;
    let flat = x.contiguous()?.reshape(&[-1])?;
    Ok((info, math::read::<u8>(&flat.view_dtype(Dtype::Uint8)?)?))
}

/// Shapes count in i32 inside MLX.
fn lengths(shape: &[usize]) -> Result<Vec<i32>> {
    let narrow = |&length| i32::try_from(length).ok();
    let lengths: Option<Vec<i32>> = shape.iter().map(narrow).collect();
    lengths.ok_or_else(|| Error::argument("shape", format!("{shape:?} is larger than MLX's 2³¹ − 1 an axis")))
}

/// The value of an expression, given the arrays of its sources.
pub fn evaluate(expr: &Expr, source: &mut dyn FnMut(&str) -> Result<Array>) -> Result<Array> {
    let arguments = expr.arguments().into_iter().map(|of| evaluate(of, source)).collect::<Result<Vec<_>>>()?;
    let one = || arguments.first().ok_or_else(|| Error::argument("expression", "it has no argument"));
    match expr {
        Expr::Source(name) => source(name),
        Expr::Slice { axis, start, end, .. } => math::slice(one()?, *axis as i32, *start as i32, *end as i32),
        Expr::Concat { axis, .. } => Ok(ops::concatenate(&arguments, *axis as i32)?),
        Expr::Stack { .. } => Ok(ops::stack(&arguments, 0)?),
        Expr::Index { index, .. } => {
            let index = *index as i32;
            Ok(math::slice(one()?, 0, index, index + 1)?.squeeze_axes(&[0])?)
        }
        Expr::Transpose { axes, .. } => Ok(one()?.transpose_axes(&lengths(axes)?)?),
        Expr::Reshape { shape, .. } => Ok(one()?.reshape(&lengths(shape)?)?),
        Expr::Rows { order, .. } => rows(one()?, *order),
        Expr::WeightNorm { axis, .. } => match &arguments[..] {
            [g, v] => weight_norm(g, v, *axis),
            _ => Err(Error::argument("expression", "weight norm takes g and v")),
        },
        Expr::BatchNorm(norm) => batch_norm(norm, source),
    }
}

fn rows(x: &Array, order: RowOrder) -> Result<Array> {
    let shape = x.shape().to_vec();
    let heads = order.heads() as i32;
    let grouped = match order {
        RowOrder::InterleavedToHalf { .. } => [heads, -1, 2],
        RowOrder::HalfToInterleaved { .. } => [heads, 2, shape.first().copied().unwrap_or(0) / (2 * heads.max(1))],
    };
    let rest = shape.get(1..).unwrap_or_default();
    let grouped = x.reshape(&[&grouped[..], rest].concat())?;
    Ok(grouped.swap_axes(1, 2)?.reshape(&shape)?)
}

fn weight_norm(g: &Array, v: &Array, axis: usize) -> Result<Array> {
    let others: Vec<i32> = (0..v.ndim() as i32).filter(|&other| other != axis as i32).collect();
    let wide = v.as_dtype(Dtype::Float32)?;
    let norm = wide.square()?.sum_axes(&others, true)?.sqrt()?;
    let g = g.as_dtype(Dtype::Float32)?.reshape(norm.shape())?;
    Ok(wide.multiply(g.divide(norm)?)?.as_dtype(v.dtype())?)
}

fn batch_norm(norm: &BatchNorm, source: &mut dyn FnMut(&str) -> Result<Array>) -> Result<Array> {
    let mean = evaluate(&norm.mean, source)?;
    let mut wide = |expr: &Expr| -> Result<Array> { Ok(evaluate(expr, source)?.as_dtype(Dtype::Float32)?) };
    let mut scale = math::offset(&wide(&norm.variance)?, norm.eps)?.rsqrt()?;
    if let Some(weight) = &norm.weight {
        scale = scale.multiply(wide(weight)?)?;
    }
    let folded = match norm.part {
        Fold::Scale => scale,
        Fold::Shift => {
            let shift = scale.multiply(mean.as_dtype(Dtype::Float32)?)?.negative()?;
            match &norm.bias {
                Some(bias) => shift.add(wide(bias)?)?,
                None => shift,
            }
        }
    };
    Ok(folded.as_dtype(mean.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Header, WeightMap};

    /// Evaluates a map's only result over named arrays.
    fn run(map: WeightMap, sources: &[(&str, Array)]) -> Array {
        let find = |name: &str| sources.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        let mut header = Header::default();
        for (name, array) in sources {
            header.tensors.insert((*name).into(), to_bytes(array).unwrap().0);
        }
        let forward = map.forward(&header).unwrap();
        assert!(forward.coverage.is_empty(), "{}", forward.coverage);
        let produced = forward.produced.values().next().unwrap();
        let value = evaluate(&produced.expr, &mut |name| Ok(find(name))).unwrap();
        assert_eq!(value.shape().iter().map(|&n| n as usize).collect::<Vec<_>>(), produced.info.shape);
        value
    }

    fn numbers(shape: &[i32]) -> Array {
        let count: i32 = shape.iter().product();
        math::array(&(0..count).map(|n| n as f32).collect::<Vec<_>>(), shape).unwrap()
    }

    fn read(x: &Array) -> Vec<f32> {
        math::read::<f32>(x).unwrap()
    }

    #[test]
    fn bytes_go_there_and_back_in_every_dtype() {
        for stored in [Stored::F32, Stored::F16, Stored::BF16, Stored::I64, Stored::U32, Stored::U8, Stored::Bool] {
            let info = Info { dtype: stored, shape: vec![2, 3] };
            let bytes: Vec<u8> = (0..6 * stored.bytes()).map(|i| (i % 2) as u8).collect();
            let array = from_bytes(&info, &bytes).unwrap();
            assert_eq!(to_bytes(&array).unwrap(), (info, bytes));
        }
        let half = Info { dtype: Stored::F32, shape: vec![3] };
        assert!(from_bytes(&half, &[0; 8]).is_err());
        let scalar = Array::from_f32(2.0);
        assert_eq!(to_bytes(&scalar).unwrap().1, 2f32.to_le_bytes());
    }

    #[test]
    fn rows_of_each_head_are_regrouped() {
        // Two heads of four rows: pairs x0 y0 x1 y1 become x0 x1 y0 y1.
        let map = WeightMap::default().permute_rows("w.{p:*}", "w.{p:*}", RowOrder::InterleavedToHalf { heads: 2 });
        let found = read(&run(map, &[("w.bias", numbers(&[8]))]));
        assert_eq!(found, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let map = WeightMap::default().permute_rows("w.{p:*}", "w.{p:*}", RowOrder::HalfToInterleaved { heads: 2 });
        let back = run(map, &[("w.bias", math::array(&found, &[8]).unwrap())]);
        assert_eq!(read(&back), read(&numbers(&[8])));
    }

    #[test]
    fn joins_stacks_and_transposes() {
        let (a, b) = (numbers(&[1, 3]), numbers(&[2, 3]));
        let joined = run(WeightMap::default().concat(["a", "b"], "ab", 0), &[("a", a), ("b", b)]);
        assert_eq!(read(&joined), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let stacked =
            run(WeightMap::default().stack("e.{*e}.w", "e.w"), &[("e.0.w", numbers(&[2])), ("e.1.w", numbers(&[2]))]);
        assert_eq!(stacked.shape(), [2, 2]);
        let flipped = run(WeightMap::default().transpose("w", "w", [1, 0]), &[("w", numbers(&[2, 2]))]);
        assert_eq!(read(&flipped), [0.0, 2.0, 1.0, 3.0]);
    }

    #[test]
    fn weight_norm_gives_rows_their_length() {
        let v = math::array(&[3f32, 4.0, 0.0, 2.0], &[2, 2]).unwrap();
        let g = math::array(&[10f32, 1.0], &[2, 1]).unwrap();
        let map = WeightMap::default().weight_norm("g", "v", "w", 0);
        let w = read(&run(map, &[("g", g), ("v", v)]));
        for (found, expected) in w.iter().zip([6.0, 8.0, 0.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }
}
