//! What is done to stored tensors to make one parameter, as data: shapes and element types are known before any is
//! read.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::weights::header::{Header, Info};

/// An expression over the tensors of a checkpoint. Cloning it clones handles.
///
/// Axes count from 0, outermost first, and refer to the tensor as it is stored: for packed quantised weights in
/// `u32` words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Expr {
    /// A tensor as the checkpoint names it.
    Source(Arc<str>),
    /// `start..end` of one axis; the axis stays.
    Slice {
        /// The whole.
        of: Arc<Expr>,
        /// Axis that is cut.
        axis: usize,
        /// First index that is kept.
        start: usize,
        /// First index that is not.
        end: usize,
    },
    /// Tensors one after the other along an axis they have.
    Concat {
        /// The parts in order.
        parts: Arc<[Expr]>,
        /// Axis along which they are joined.
        axis: usize,
    },
    /// Tensors of one shape along a new axis 0.
    Stack {
        /// The members in order.
        parts: Arc<[Expr]>,
    },
    /// One member of axis 0, which goes away.
    Index {
        /// The stack.
        of: Arc<Expr>,
        /// Which member.
        index: usize,
    },
    /// Axis `n` of the result is axis `axes[n]` of the argument, as in NumPy.
    Transpose {
        /// The argument.
        of: Arc<Expr>,
        /// A permutation of its axes.
        axes: Arc<[usize]>,
    },
    /// The same elements in row-major order under another shape.
    Reshape {
        /// The argument.
        of: Arc<Expr>,
        /// Shape of the result.
        shape: Arc<[usize]>,
    },
    /// The rows (axis 0) in another order.
    Rows {
        /// The argument.
        of: Arc<Expr>,
        /// From which order to which.
        order: RowOrder,
    },
    /// Weight normalisation undone: `g v / ‖v‖`, with the norm over every axis but `axis`
    /// ([Salimans and Kingma, 2016](https://arxiv.org/abs/1602.07868)).
    WeightNorm {
        /// Magnitudes, one for each index of `axis`: of rank 1, or of the rank of `v` with 1 at every other axis.
        g: Arc<Expr>,
        /// Directions; the result has their shape.
        v: Arc<Expr>,
        /// The axis that keeps its own magnitudes; 0 in PyTorch unless said otherwise.
        axis: usize,
    },
    /// One of the two vectors that a batch norm at inference comes to, `y = x · scale + shift`
    /// ([Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167)).
    BatchNorm(Arc<BatchNorm>),
}

/// Arguments of [`Expr::BatchNorm`]: vectors of one length, and which of the two results is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm {
    /// `running_mean`.
    pub mean: Expr,
    /// `running_var`.
    pub variance: Expr,
    /// `weight`; 1 when there is none.
    pub weight: Option<Expr>,
    /// `bias`; 0 when there is none.
    pub bias: Option<Expr>,
    /// Added to the variance under the root.
    pub eps: f64,
    /// Which result.
    pub part: Fold,
}

/// The results of folding a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// `weight / √(variance + eps)`.
    Scale,
    /// `bias − mean · scale`.
    Shift,
}

/// A permutation of the rows of each head of a query or key projection, by which the two layouts of rotary
/// embeddings differ.
///
/// Interleaved rows are `x₀ y₀ x₁ y₁ …`, where (xᵢ, yᵢ) is the pair that is rotated together; half-split ones are
/// `x₀ x₁ … y₀ y₁ …`. Hugging Face's Llama is half-split; llama.cpp's converter stores the rows of `attn_q` and
/// `attn_k` interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Reshape the rows to `[heads, d/2, 2]`, swap the last two axes, and flatten.
    InterleavedToHalf {
        /// Number of heads: of key-value heads for keys.
        heads: usize,
    },
    /// Reshape the rows to `[heads, 2, d/2]`, swap the last two axes, and flatten.
    HalfToInterleaved {
        /// Number of heads: of key-value heads for keys.
        heads: usize,
    },
}

impl RowOrder {
    /// The permutation that undoes this one.
    pub fn inverse(self) -> Self {
        match self {
            Self::InterleavedToHalf { heads } => Self::HalfToInterleaved { heads },
            Self::HalfToInterleaved { heads } => Self::InterleavedToHalf { heads },
        }
    }

    /// Number of heads.
    pub fn heads(self) -> usize {
        match self {
            Self::InterleavedToHalf { heads } | Self::HalfToInterleaved { heads } => heads,
        }
    }
}

impl Expr {
    /// The tensor of that name.
    pub fn source(name: &str) -> Self {
        Self::Source(name.into())
    }

    /// Shape and element type of the result over this checkpoint, or why there is none.
    pub fn info(&self, header: &Header) -> Result<Info, String> {
        match self {
            Self::Source(name) => {
                header.tensors.get(name.as_ref()).cloned().ok_or_else(|| format!("`{name}` is not in the file"))
            }
            Self::Slice { of, axis, start, end } => {
                let mut info = of.info(header)?;
                let text = info.to_string();
                let size = axis_mut(&mut info, *axis)?;
                if start > end || *end > *size {
                    return Err(format!("{start}..{end} of axis {axis} is outside {text}"));
                }
                *size = end - start;
                Ok(info)
            }
            Self::Concat { parts, axis } => {
                let (mut info, rest) = first(parts, header)?;
                for part in rest {
                    let part = part.info(header)?;
                    let size = size(&part, *axis)?;
                    let mut same = part.clone();
                    *axis_mut(&mut same, *axis)? = self::size(&info, *axis)?;
                    if same != info {
                        return Err(format!("{info} and {part} do not join along axis {axis}"));
                    }
                    let sum = axis_mut(&mut info, *axis)?;
                    *sum = sum.checked_add(size).ok_or("the sizes overflow")?;
                }
                Ok(info)
            }
            Self::Stack { parts } => {
                let (mut info, rest) = first(parts, header)?;
                for part in rest {
                    let part = part.info(header)?;
                    if part != info {
                        return Err(format!("{info} and {part} do not stack"));
                    }
                }
                info.shape.insert(0, parts.len());
                Ok(info)
            }
            Self::Index { of, index } => {
                let mut info = of.info(header)?;
                if *index >= size(&info, 0)? {
                    return Err(format!("index {index} is outside {info}"));
                }
                info.shape.remove(0);
                Ok(info)
            }
            Self::Transpose { of, axes } => {
                let info = of.info(header)?;
                if !is_permutation(axes) || axes.len() != info.shape.len() {
                    return Err(format!("{axes:?} does not permute the axes of {info}"));
                }
                let shape = axes.iter().map(|&axis| size(&info, axis));
                Ok(Info { shape: shape.collect::<Result<_, _>>()?, ..info })
            }
            Self::Reshape { of, shape } => {
                let info = of.info(header)?;
                let reshaped = Info { shape: shape.to_vec(), ..info.clone() };
                if info.elements().is_none() || info.elements() != reshaped.elements() {
                    return Err(format!("{info} does not reshape to {shape:?}"));
                }
                Ok(reshaped)
            }
            Self::Rows { of, order } => {
                let info = of.info(header)?;
                let rows = size(&info, 0)?;
                let heads = order.heads();
                let unit = heads.checked_mul(2).filter(|&unit| unit > 0);
                if unit.is_none_or(|unit| !rows.is_multiple_of(unit)) {
                    return Err(format!("the rows of {info} are not {heads} heads of pairs"));
                }
                Ok(info)
            }
            Self::WeightNorm { g, v, axis } => {
                let (g, v) = (g.info(header)?, v.info(header)?);
                let kept = size(&v, *axis)?;
                let column = (0..v.shape.len()).map(|n| if n == *axis { kept } else { 1 });
                if g.shape != [kept] && !g.shape.iter().copied().eq(column) {
                    return Err(format!("magnitudes {g} do not fit directions {v} along axis {axis}"));
                }
                floats(&[&g, &v])?;
                Ok(v)
            }
            Self::BatchNorm(norm) => {
                let mean = norm.mean.info(header)?;
                let others = [Some(&norm.variance), norm.weight.as_ref(), norm.bias.as_ref()];
                for other in others.into_iter().flatten() {
                    let other = other.info(header)?;
                    if mean.shape.len() != 1 || other.shape != mean.shape {
                        return Err(format!("{mean} and {other} are not vectors of one length"));
                    }
                    floats(&[&mean, &other])?;
                }
                Ok(mean)
            }
        }
    }

    /// Names of the tensors that it reads, each once, in the order in which they stand.
    pub fn sources(&self) -> Vec<&str> {
        let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
        self.each_source(&mut |name| {
            if seen.insert(name) {
                names.push(name);
            }
        });
        names
    }

    fn each_source<'a>(&'a self, f: &mut dyn FnMut(&'a str)) {
        if let Self::Source(name) = self {
            f(name);
        }
        for argument in self.arguments() {
            argument.each_source(f);
        }
    }

    /// The expressions directly inside this one.
    pub fn arguments(&self) -> Vec<&Expr> {
        match self {
            Self::Source(_) => Vec::new(),
            Self::Slice { of, .. }
            | Self::Index { of, .. }
            | Self::Transpose { of, .. }
            | Self::Reshape { of, .. }
            | Self::Rows { of, .. } => vec![of],
            Self::Concat { parts, .. } | Self::Stack { parts } => parts.iter().collect(),
            Self::WeightNorm { g, v, .. } => vec![g, v],
            Self::BatchNorm(norm) => [Some(&norm.mean), Some(&norm.variance)]
                .into_iter()
                .chain([norm.weight.as_ref(), norm.bias.as_ref()])
                .flatten()
                .collect(),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |f: &mut fmt::Formatter, parts: &[Expr]| {
            for (n, part) in parts.iter().enumerate() {
                write!(f, "{}{part}", if n == 0 { "" } else { ", " })?;
            }
            Ok(())
        };
        match self {
            Self::Source(name) => f.write_str(name),
            Self::Slice { of, axis, start, end } => write!(f, "slice({of}, axis {axis}, {start}..{end})"),
            Self::Concat { parts, axis } => {
                f.write_str("concat(")?;
                list(f, parts)?;
                write!(f, ", axis {axis})")
            }
            Self::Stack { parts } => {
                f.write_str("stack(")?;
                list(f, parts)?;
                f.write_str(")")
            }
            Self::Index { of, index } => write!(f, "index({of}, {index})"),
            Self::Transpose { of, axes } => write!(f, "transpose({of}, {axes:?})"),
            Self::Reshape { of, shape } => write!(f, "reshape({of}, {shape:?})"),
            Self::Rows { of, order } => write!(f, "rows({of}, {order:?})"),
            Self::WeightNorm { g, v, axis } => write!(f, "weight_norm({g}, {v}, axis {axis})"),
            Self::BatchNorm(norm) => write!(f, "batch_norm({}, {}, {:?})", norm.mean, norm.variance, norm.part),
        }
    }
}

/// Whether the axes are 0, 1, … in some order.
pub(crate) fn is_permutation(axes: &[usize]) -> bool {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..axes.len())
}

/// Size of one axis, or that there is none.
pub(crate) fn size(info: &Info, axis: usize) -> Result<usize, String> {
    info.shape.get(axis).copied().ok_or_else(|| format!("{info} has no axis {axis}"))
}

fn axis_mut(info: &mut Info, axis: usize) -> Result<&mut usize, String> {
    size(info, axis)?;
    info.shape.get_mut(axis).ok_or_else(|| format!("no axis {axis}"))
}

fn first<'a>(parts: &'a [Expr], header: &Header) -> Result<(Info, &'a [Expr]), String> {
    let (first, rest) = parts.split_first().ok_or("nothing to join")?;
    Ok((first.info(header)?, rest))
}

fn floats(infos: &[&Info]) -> Result<(), String> {
    match infos.iter().find(|info| !info.dtype.is_float()) {
        Some(info) => Err(format!("{info} is not floating point")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::weights::header::Stored;

    /// A tensor of the tests: dense, row-major.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Tensor {
        pub shape: Vec<usize>,
        pub data: Vec<f64>,
    }

    pub fn info(dtype: Stored, shape: &[usize]) -> Info {
        Info { dtype, shape: shape.to_vec() }
    }

    /// A header of `f32` tensors.
    pub fn header<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Header {
        let tensors = tensors.into_iter().map(|(name, shape)| (name.into(), info(Stored::F32, shape)));
        Header { tensors: tensors.collect(), ..Header::default() }
    }

    impl Tensor {
        /// Elements `first`, `first + 1`, ….
        pub fn count(shape: &[usize], first: usize) -> Self {
            let size: usize = shape.iter().product();
            Self { shape: shape.to_vec(), data: (first..first + size).map(|n| n as f64).collect() }
        }

        fn at(&self, index: &[usize]) -> f64 {
            let place = self.shape.iter().zip(index).fold(0, |place, (size, n)| place * size + n);
            self.data[place]
        }

        fn build(shape: Vec<usize>, value: impl Fn(&[usize]) -> f64) -> Self {
            let size = shape.iter().product();
            let data = (0..size).map(|place: usize| {
                let mut rest = place;
                let mut index = vec![0; shape.len()];
                for (n, size) in index.iter_mut().zip(&shape).rev() {
                    *n = rest % size;
                    rest /= size;
                }
                value(&index)
            });
            Self { data: data.collect(), shape }
        }
    }

    /// Evaluates an expression the slow and obvious way.
    pub fn evaluate(expr: &Expr, tensors: &BTreeMap<String, Tensor>) -> Tensor {
        let eval = |expr: &Expr| evaluate(expr, tensors);
        match expr {
            Expr::Source(name) => tensors[name.as_ref()].clone(),
            Expr::Slice { of, axis, start, end } => {
                let of = eval(of);
                let mut shape = of.shape.clone();
                shape[*axis] = end - start;
                Tensor::build(shape, |index| {
                    let mut index = index.to_vec();
                    index[*axis] += start;
                    of.at(&index)
                })
            }
            Expr::Concat { parts, axis } => {
                let parts: Vec<_> = parts.iter().map(eval).collect();
                let mut shape = parts[0].shape.clone();
                shape[*axis] = parts.iter().map(|part| part.shape[*axis]).sum();
                Tensor::build(shape, |index| {
                    let mut index = index.to_vec();
                    for part in &parts {
                        if index[*axis] < part.shape[*axis] {
                            return part.at(&index);
                        }
                        index[*axis] -= part.shape[*axis];
                    }
                    f64::NAN
                })
            }
            Expr::Stack { parts } => {
                let parts: Vec<_> = parts.iter().map(eval).collect();
                let shape = [&[parts.len()], parts[0].shape.as_slice()].concat();
                Tensor::build(shape, |index| parts[index[0]].at(&index[1..]))
            }
            Expr::Index { of, index: n } => {
                let of = eval(of);
                Tensor::build(of.shape[1..].to_vec(), |index| of.at(&[&[*n], index].concat()))
            }
            Expr::Transpose { of, axes } => {
                let of = eval(of);
                let shape = axes.iter().map(|&axis| of.shape[axis]).collect();
                Tensor::build(shape, |index| {
                    let mut back = vec![0; index.len()];
                    for (&axis, &n) in axes.iter().zip(index) {
                        back[axis] = n;
                    }
                    of.at(&back)
                })
            }
            Expr::Reshape { of, shape } => Tensor { shape: shape.to_vec(), ..eval(of) },
            Expr::Rows { of, order } => {
                let of = eval(of);
                let head = of.shape[0] / order.heads();
                Tensor::build(of.shape.clone(), |index| {
                    let mut index = index.to_vec();
                    let (first, row) = (index[0] / head * head, index[0] % head);
                    index[0] = first
                        + match order {
                            RowOrder::InterleavedToHalf { .. } => row % (head / 2) * 2 + row / (head / 2),
                            RowOrder::HalfToInterleaved { .. } => row % 2 * (head / 2) + row / 2,
                        };
                    of.at(&index)
                })
            }
            Expr::WeightNorm { g, v, axis } => {
                let (g, v) = (eval(g), eval(v));
                let norms: Vec<f64> =
                    (0..v.shape[*axis])
                        .map(|n| {
                            let same = Tensor::build(v.shape.clone(), |index| {
                                if index[*axis] == n { v.at(index).powi(2) } else { 0.0 }
                            });
                            same.data.iter().sum::<f64>().sqrt()
                        })
                        .collect();
                Tensor::build(v.shape.clone(), |index| {
                    let n = index[*axis];
                    g.data[n] * v.at(index) / norms[n]
                })
            }
            Expr::BatchNorm(norm) => {
                let (mean, variance) = (eval(&norm.mean), eval(&norm.variance));
                let or = |expr: &Option<Expr>, n: usize, other| expr.as_ref().map_or(other, |e| eval(e).data[n]);
                Tensor::build(mean.shape.clone(), |index| {
                    let n = index[0];
                    let scale = or(&norm.weight, n, 1.0) / (variance.data[n] + norm.eps).sqrt();
                    match norm.part {
                        Fold::Scale => scale,
                        Fold::Shift => or(&norm.bias, n, 0.0) - mean.data[n] * scale,
                    }
                })
            }
        }
    }

    /// One expression of each kind over the tensors `a` `[4, 6]` and `b` `[4, 2]`.
    fn examples() -> Vec<(Expr, Vec<usize>)> {
        let (a, b) = (Arc::new(Expr::source("a")), Arc::new(Expr::source("b")));
        let parts: Arc<[Expr]> = [Expr::source("a"), Expr::source("b")].into();
        let twins: Arc<[Expr]> = [Expr::source("a"), Expr::source("a")].into();
        let row = |n| Expr::Index { of: b.clone(), index: n };
        let norm = |part| {
            Expr::BatchNorm(Arc::new(BatchNorm {
                mean: row(0),
                variance: row(1),
                weight: Some(row(2)),
                bias: None,
                eps: 1e-5,
                part,
            }))
        };
        vec![
            (Expr::source("a"), vec![4, 6]),
            (Expr::Slice { of: a.clone(), axis: 1, start: 2, end: 5 }, vec![4, 3]),
            (Expr::Concat { parts, axis: 1 }, vec![4, 8]),
            (Expr::Stack { parts: twins }, vec![2, 4, 6]),
            (Expr::Index { of: a.clone(), index: 3 }, vec![6]),
            (Expr::Transpose { of: a.clone(), axes: [1, 0].into() }, vec![6, 4]),
            (Expr::Reshape { of: a.clone(), shape: [2, 12].into() }, vec![2, 12]),
            (Expr::Rows { of: a, order: RowOrder::InterleavedToHalf { heads: 2 } }, vec![4, 6]),
            (Expr::WeightNorm { g: Arc::new(row(0)), v: b.clone(), axis: 1 }, vec![4, 2]),
            (norm(Fold::Scale), vec![2]),
            (norm(Fold::Shift), vec![2]),
        ]
    }

    #[test]
    fn shapes_are_those_of_the_values() {
        let header = header([("a", &[4, 6][..]), ("b", &[4, 2])]);
        let tensors = [("a", Tensor::count(&[4, 6], 1)), ("b", Tensor::count(&[4, 2], 100))];
        let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor)).into();
        for (expr, shape) in examples() {
            assert_eq!(expr.info(&header), Ok(info(Stored::F32, &shape)), "{expr}");
            assert_eq!(evaluate(&expr, &tensors).shape, shape, "{expr}");
            assert!(expr.sources().iter().all(|name| ["a", "b"].contains(name)));
        }
    }

    #[test]
    fn an_expression_that_does_not_fit_says_why() {
        let mut header = header([("a", &[4, 6][..]), ("b", &[3]), ("huge", &[usize::MAX, 2]), ("s", &[])]);
        header.tensors.insert("i".into(), info(Stored::I32, &[3]));
        let of = |name: &str| Arc::new(Expr::source(name));
        let parts = |names: &[&str]| names.iter().map(|name| Expr::source(name)).collect::<Arc<[Expr]>>();
        let norm = |mean: &str, variance: &str| {
            Expr::BatchNorm(Arc::new(BatchNorm {
                mean: Expr::source(mean),
                variance: Expr::source(variance),
                weight: None,
                bias: None,
                eps: 0.0,
                part: Fold::Scale,
            }))
        };
        for (expr, expected) in [
            (Expr::source("c"), "`c` is not in the file"),
            (Expr::Slice { of: of("a"), axis: 2, start: 0, end: 0 }, "no axis 2"),
            (Expr::Slice { of: of("a"), axis: 1, start: 3, end: 7 }, "3..7 of axis 1 is outside"),
            (Expr::Slice { of: of("a"), axis: 1, start: 3, end: 2 }, "outside"),
            (Expr::Concat { parts: parts(&[]), axis: 0 }, "nothing to join"),
            (Expr::Concat { parts: parts(&["a", "b"]), axis: 0 }, "do not join along axis 0"),
            (Expr::Concat { parts: parts(&["b", "i"]), axis: 0 }, "do not join along axis 0"),
            (Expr::Concat { parts: parts(&["s", "s"]), axis: 0 }, "no axis 0"),
            (Expr::Concat { parts: parts(&["huge", "huge"]), axis: 0 }, "overflow"),
            (Expr::Stack { parts: parts(&["a", "b"]) }, "do not stack"),
            (Expr::Index { of: of("a"), index: 4 }, "index 4 is outside"),
            (Expr::Index { of: of("s"), index: 0 }, "no axis 0"),
            (Expr::Transpose { of: of("a"), axes: [0].into() }, "does not permute"),
            (Expr::Transpose { of: of("a"), axes: [1, 1].into() }, "does not permute"),
            (Expr::Reshape { of: of("a"), shape: [5].into() }, "does not reshape to [5]"),
            (Expr::Reshape { of: of("huge"), shape: [2, usize::MAX].into() }, "does not reshape"),
            (Expr::Rows { of: of("b"), order: RowOrder::InterleavedToHalf { heads: 2 } }, "not 2 heads of pairs"),
            (Expr::Rows { of: of("b"), order: RowOrder::HalfToInterleaved { heads: usize::MAX } }, "heads of pairs"),
            (Expr::WeightNorm { g: of("b"), v: of("a"), axis: 0 }, "do not fit directions"),
            (Expr::WeightNorm { g: of("i"), v: of("b"), axis: 0 }, "not floating point"),
            (norm("b", "a"), "not vectors of one length"),
            (norm("b", "i"), "not floating point"),
        ] {
            let problem = expr.info(&header).unwrap_err();
            assert!(problem.contains(expected), "{expr}: {problem}");
        }
    }

    #[test]
    fn magnitudes_come_with_or_without_unit_axes() {
        let header = header([("g", &[1, 3, 1][..]), ("flat", &[3]), ("v", &[2, 3, 5])]);
        for g in ["g", "flat"] {
            let expr = Expr::WeightNorm { g: Arc::new(Expr::source(g)), v: Arc::new(Expr::source("v")), axis: 1 };
            assert_eq!(expr.info(&header).unwrap().shape, [2, 3, 5]);
        }
    }

    #[test]
    fn the_row_order_of_llama_cpp_is_undone() {
        // Two heads of size 6. The converter reshapes to [heads, 2, 3], swaps and flattens.
        let stored = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(f64::from);
        let stored = Tensor { shape: vec![12], data: stored.to_vec() };
        let order = RowOrder::InterleavedToHalf { heads: 2 };
        let loaded = Expr::Rows { of: Arc::new(Expr::source("q")), order };
        let saved = Expr::Rows { of: Arc::new(loaded.clone()), order: order.inverse() };
        let tensors = [("q".to_string(), stored.clone())].into();
        assert_eq!(evaluate(&loaded, &tensors), Tensor::count(&[12], 0));
        assert_eq!(evaluate(&saved, &tensors), stored);
    }

    #[test]
    fn sources_come_once_and_in_order() {
        let [a, b] = ["a", "b"].map(Expr::source);
        let expr = Expr::Concat { parts: [b.clone(), a, b].into(), axis: 0 };
        assert_eq!(expr.sources(), ["b", "a"]);
        assert_eq!(expr.to_string(), "concat(b, a, b, axis 0)");
    }
}
