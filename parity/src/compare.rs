//! How far a tensor is from the reference's, in double precision, and whether that is near enough.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::tensor::{Data, Dtype, Tensor, elements};

/// Max-abs over the peak may be this many times the bound on relative L2.
const PEAK_ALLOWANCE: f64 = 10.0;
/// How far a pixel may be off: one of the 255 steps of a byte, and what an f32 makes of it.
const PIXEL: f64 = 1.0 / 255.0 + f32::EPSILON as f64;

/// What became of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within every bound.
    Pass,
    /// The shapes differ; nothing was compared.
    Shape,
    /// The mask does not fit the tensor's leading axes; nothing was compared.
    Mask,
    /// The mask leaves nothing of a tensor that has elements.
    AllIgnored,
    /// NaN or infinity in one of the two, or a different one in each, first at this flat index.
    NonFinite(usize),
    /// Integers or booleans differ, in so many places.
    Inexact(usize),
    /// Relative L2 or max-abs over the peak is out of tolerance.
    Tolerance,
    /// Everything is near, but the element type is another.
    Dtype,
}

impl Verdict {
    /// Whether the comparison passed.
    pub fn passes(self) -> bool {
        self == Self::Pass
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.pad("ok"),
            Self::Shape => f.pad("another shape"),
            Self::Mask => f.pad("the mask does not fit"),
            Self::AllIgnored => f.pad("every row is ignored"),
            Self::NonFinite(at) => f.pad(&format!("not finite alike, first at {at}")),
            Self::Inexact(count) => f.pad(&format!("{count} values differ")),
            Self::Tolerance => f.pad("out of tolerance"),
            Self::Dtype => f.pad("another dtype"),
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Distances between a tensor and the reference's over the elements that are compared, and the verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The shape here.
    pub shape: Vec<usize>,
    /// The reference's shape.
    pub expected_shape: Vec<usize>,
    /// The element type here.
    pub dtype: Dtype,
    /// The reference's element type; `float64` is that of a double-precision twin, which any float may be held against.
    pub expected_dtype: Dtype,
    /// How many elements were compared.
    pub compared: usize,
    /// How many elements lie in ignored rows.
    pub ignored: usize,
    /// The largest absolute difference.
    pub max_abs: f64,
    /// The largest absolute difference over the reference's peak; over 1 where the reference is zero throughout.
    pub max_over_peak: f64,
    /// The norm of the difference over the norm of the reference; over 1 where the reference is zero throughout.
    pub relative_l2: f64,
    /// The cosine of the angle between the two; 1 when both are zero, 0 when one is. It never decides.
    pub cosine: f64,
    /// The bound on relative L2, or of pictures that on the largest difference.
    pub tolerance: f64,
    /// Whether it passes, or why not.
    pub verdict: Verdict,
}

/// Compares `got` with `want`.
///
/// Shapes must be equal; integers and booleans equal; values that are not finite the same at the same places; relative L2 within
/// `tolerance` and max-abs over the reference's peak within ten times that. The element type must be the reference's: the same
/// float unless the reference is `float64`, any integer for an integer.
///
/// `mask` has the leading axes of the tensor, `[B, L]` for `[B, L, …]`; where it is zero, the row is not compared. A mask longer
/// in its last axis speaks of earlier positions too: its last columns are taken.
pub fn compare(got: &Tensor, want: &Tensor, mask: Option<&Tensor>, tolerance: f64) -> Comparison {
    let mut comparison = Comparison {
        shape: got.shape.clone(),
        expected_shape: want.shape.clone(),
        dtype: got.dtype,
        expected_dtype: want.dtype,
        compared: 0,
        ignored: 0,
        max_abs: f64::NAN,
        max_over_peak: f64::NAN,
        relative_l2: f64::NAN,
        cosine: f64::NAN,
        tolerance,
        verdict: Verdict::Shape,
    };
    if got.shape != want.shape {
        return comparison;
    }
    let indices: Vec<usize> = match mask {
        None => (0..want.data.len()).collect(),
        Some(mask) => match kept(mask, &want.shape) {
            Some(indices) => indices,
            None => {
                return Comparison { verdict: Verdict::Mask, ..comparison };
            }
        },
    };
    comparison.compared = indices.len();
    comparison.ignored = want.data.len() - indices.len();
    if indices.is_empty() && comparison.ignored > 0 {
        return Comparison { verdict: Verdict::AllIgnored, ..comparison };
    }
    let distances = Distances::between(&got.data, &want.data, &indices);
    comparison.max_abs = distances.max_abs;
    comparison.max_over_peak = distances.max_abs / distances.scale();
    comparison.relative_l2 = distances.relative_l2();
    comparison.cosine = distances.cosine();
    let same_dtype = match want.dtype {
        Dtype::Float64 => got.dtype.is_float(),
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => got.dtype == want.dtype,
        _ => got.dtype.same_kind(want.dtype),
    };
    let exact = !want.dtype.is_float() && !got.dtype.is_float();
    let near = comparison.relative_l2 <= tolerance && comparison.max_over_peak <= PEAK_ALLOWANCE * tolerance;
    comparison.verdict = match distances {
        Distances { not_finite: Some(at), .. } => Verdict::NonFinite(at),
        Distances { differing, .. } if exact && differing > 0 => Verdict::Inexact(differing),
        _ if !exact && !near => Verdict::Tolerance,
        _ if !same_dtype => Verdict::Dtype,
        _ => Verdict::Pass,
    };
    comparison
}

/// Compares pictures, `[B, H, W, 3]` or one alone `[H, W, 3]`: integers from 0 to 255 or floats from 0 to 1 on either side.
/// No pixel may be off by more than one 255th.
pub fn compare_pixels(got: &Tensor, want: &Tensor, mask: Option<&Tensor>) -> Comparison {
    let of_units = compare(&units(got), &units(want), mask, PIXEL);
    let verdict = match of_units.verdict {
        Verdict::Pass | Verdict::Tolerance if of_units.max_abs <= PIXEL => Verdict::Pass,
        Verdict::Pass => Verdict::Tolerance,
        other => other,
    };
    let (shape, expected_shape) = (got.shape.clone(), want.shape.clone());
    Comparison { shape, expected_shape, dtype: got.dtype, expected_dtype: want.dtype, verdict, ..of_units }
}

/// A picture's values from 0 to 1.
fn units(picture: &Tensor) -> Tensor {
    let unit = if picture.dtype.is_float() { 1.0 } else { 255.0 };
    let values = (0..picture.data.len()).map(|at| picture.data.f64(at).unwrap_or(f64::NAN) / unit).collect();
    let shape = match &picture.shape[..] {
        [1, one @ ..] if one.len() == 3 => one.to_vec(),
        all => all.to_vec(),
    };
    Tensor { shape, dtype: Dtype::Float64, data: Data::F64(values) }
}

/// The flat indices of the elements whose row the mask keeps; `None` when the mask does not fit.
fn kept(mask: &Tensor, shape: &[usize]) -> Option<Vec<usize>> {
    let (&columns, batch) = mask.shape.split_last()?;
    let axes = shape.get(..mask.shape.len())?;
    let (&length, leading) = axes.split_last()?;
    if leading != batch || length > columns {
        return None;
    }
    let width = elements(&shape[mask.shape.len()..])?;
    let mut indices = Vec::new();
    for row in 0..elements(batch)? {
        for column in 0..length {
            let at = row * columns + columns - length + column;
            if mask.data.f64(at)? != 0.0 {
                let start = (row * length + column) * width;
                indices.extend(start..start + width);
            }
        }
    }
    Some(indices)
}

/// Sums over the finite elements, scaled by the largest magnitude so that no square overflows.
struct Distances {
    max_abs: f64,
    peak: f64,
    /// The largest magnitude on either side.
    unit: f64,
    difference: f64,
    got: f64,
    want: f64,
    product: f64,
    differing: usize,
    not_finite: Option<usize>,
}

impl Distances {
    fn between(got: &Data, want: &Data, indices: &[usize]) -> Self {
        let value = |data: &Data, at| data.f64(at).unwrap_or(f64::NAN);
        let pairs = || indices.iter().map(|&at| (value(got, at), value(want, at)));
        let finite = || pairs().filter(|(a, b)| a.is_finite() && b.is_finite());
        let alike = |(a, b): (f64, f64)| (a.is_finite() && b.is_finite()) || a == b || (a.is_nan() && b.is_nan());
        let peak = finite().fold(0.0, |peak: f64, (_, b)| peak.max(b.abs()));
        let unit = finite().fold(peak, |unit, (a, _)| unit.max(a.abs()));
        let unit = if unit > 0.0 { unit } else { 1.0 };
        let mut it = Self {
            max_abs: 0.0,
            peak,
            unit,
            difference: 0.0,
            got: 0.0,
            want: 0.0,
            product: 0.0,
            differing: indices.iter().filter(|&&at| got.integer(at) != want.integer(at)).count(),
            not_finite: pairs().position(|pair| !alike(pair)).and_then(|at| indices.get(at).copied()),
        };
        for (a, b) in finite() {
            it.max_abs = it.max_abs.max((a - b).abs());
            let (a, b) = (a / unit, b / unit);
            it.difference += (a - b) * (a - b);
            it.got += a * a;
            it.want += b * b;
            it.product += a * b;
        }
        it
    }

    /// What max-abs is measured against.
    fn scale(&self) -> f64 {
        if self.peak > 0.0 { self.peak } else { 1.0 }
    }

    fn relative_l2(&self) -> f64 {
        match self.want > 0.0 {
            true => (self.difference / self.want).sqrt(),
            false => self.difference.sqrt() * self.unit,
        }
    }

    fn cosine(&self) -> f64 {
        match (self.got > 0.0, self.want > 0.0) {
            (true, true) => self.product / (self.got.sqrt() * self.want.sqrt()),
            (false, false) => 1.0,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f64]) -> Tensor {
        let data = Data::F32(values.iter().map(|&x| x as f32).collect());
        Tensor::new(shape.to_vec(), Dtype::Float32, data).unwrap()
    }

    fn integers(values: &[i64]) -> Tensor {
        Tensor::new(vec![values.len()], Dtype::Int64, Data::I64(values.to_vec())).unwrap()
    }

    #[test]
    fn pictures_of_bytes_and_of_floats_are_compared_by_pixel() {
        let bytes = |values: [i64; 3]| Tensor::new(vec![1, 1, 1, 3], Dtype::Uint8, Data::I64(values.into())).unwrap();
        let units = |values: [f64; 3]| floats(&[1, 1, 3], &values.map(|value| value / 255.0));
        let verdict = |got: &Tensor, want: &Tensor| compare_pixels(got, want, None).verdict;
        let got = bytes([0, 100, 255]);
        for near in [bytes([1, 99, 255]), units([0.5, 100.9, 254.0]), units([0.0, 101.0, 255.0])] {
            assert_eq!(verdict(&got, &near), Verdict::Pass);
            assert_eq!(verdict(&near, &got), Verdict::Pass);
        }
        for far in [bytes([2, 100, 255]), units([0.0, 100.0, 253.9])] {
            assert_eq!(verdict(&got, &far), Verdict::Tolerance);
        }
        assert_eq!(verdict(&got, &units([0.0, f64::NAN, 255.0])), Verdict::NonFinite(1));
        assert_eq!(verdict(&got, &floats(&[3, 1, 1], &[0.0; 3])), Verdict::Shape);
        let comparison = compare_pixels(&got, &units([0.0, 100.0, 255.0]), None);
        assert_eq!((comparison.shape.len(), comparison.expected_dtype), (4, Dtype::Float32));
    }

    fn verdict(got: &Tensor, want: &Tensor) -> Verdict {
        compare(got, want, None, 1e-5).verdict
    }

    #[test]
    fn the_metrics_are_those_of_the_definitions() {
        let c = compare(&floats(&[2], &[3.0, 4.0]), &floats(&[2], &[3.0, -4.0]), None, 1e-5);
        assert_eq!(c.max_abs, 8.0);
        assert_eq!(c.max_over_peak, 2.0);
        assert!((c.relative_l2 - 8.0 / 5.0).abs() < 1e-15);
        assert!((c.cosine - (9.0 - 16.0) / 25.0).abs() < 1e-15);
        assert_eq!(c.verdict, Verdict::Tolerance);
    }

    #[test]
    fn both_bounds_must_hold() {
        let want = floats(&[4], &[1.0; 4]);
        assert_eq!(verdict(&floats(&[4], &[1.000008; 4]), &want), Verdict::Pass);
        assert_eq!(verdict(&floats(&[4], &[1.00002; 4]), &want), Verdict::Tolerance);
        // One element of a million is off by a two-thousandth of the peak: relative L2 alone would pass.
        let mut values = vec![1.0; 1_000_000];
        let want = floats(&[1_000_000], &values);
        values[7] = 1.0005;
        let c = compare(&floats(&[1_000_000], &values), &want, None, 1e-5);
        assert!(c.relative_l2 < 1e-5);
        assert_eq!(c.verdict, Verdict::Tolerance);
    }

    #[test]
    fn a_high_cosine_alone_never_passes() {
        let c = compare(&floats(&[2], &[2.0, 4.0]), &floats(&[2], &[1.0, 2.0]), None, 1e-5);
        assert!((c.cosine - 1.0).abs() < 1e-12);
        assert_eq!(c.verdict, Verdict::Tolerance);
    }

    #[test]
    fn shapes_must_be_equal() {
        assert_eq!(verdict(&floats(&[2, 1], &[1.0; 2]), &floats(&[2], &[1.0; 2])), Verdict::Shape);
    }

    #[test]
    fn integers_and_booleans_are_exact() {
        let big = i64::MAX;
        assert_eq!(verdict(&integers(&[1, big]), &integers(&[1, big])), Verdict::Pass);
        assert_eq!(verdict(&integers(&[1, big - 1]), &integers(&[1, big])), Verdict::Inexact(1));
        let unsigned = Tensor::new(vec![1], Dtype::Uint32, Data::U64(vec![5])).unwrap();
        assert_eq!(verdict(&unsigned, &integers(&[5])), Verdict::Pass);
        let flag = |x| Tensor::new(vec![1], Dtype::Bool, Data::Bool(vec![x])).unwrap();
        assert_eq!(verdict(&flag(true), &flag(false)), Verdict::Inexact(1));
        assert_eq!(verdict(&flag(true), &integers(&[1])), Verdict::Dtype);
        assert_eq!(verdict(&floats(&[1], &[5.0]), &integers(&[5])), Verdict::Dtype);
    }

    #[test]
    fn the_element_type_must_be_the_reference_s() {
        let single = floats(&[1], &[0.5]);
        let brain = Tensor { dtype: Dtype::Bfloat16, ..single.clone() };
        assert_eq!(verdict(&single, &brain), Verdict::Dtype);
        assert_eq!(verdict(&brain, &brain), Verdict::Pass);
        let double = Tensor::new(vec![1], Dtype::Float64, Data::F64(vec![0.5])).unwrap();
        assert_eq!(verdict(&single, &double), Verdict::Pass);
    }

    #[test]
    fn values_that_are_not_finite_are_alike_or_wrong() {
        let want = floats(&[3], &[f64::NAN, f64::NEG_INFINITY, 2.0]);
        assert_eq!(verdict(&want, &want), Verdict::Pass);
        assert_eq!(compare(&want, &want, None, 1e-5).max_abs, 0.0);
        let got = floats(&[3], &[f64::NAN, f64::INFINITY, 2.0]);
        assert_eq!(verdict(&got, &want), Verdict::NonFinite(1));
        let got = floats(&[3], &[f64::NAN, f64::NEG_INFINITY, f64::NAN]);
        assert_eq!(verdict(&got, &want), Verdict::NonFinite(2));
        assert_eq!(verdict(&want, &floats(&[3], &[1.0; 3])), Verdict::NonFinite(0));
    }

    #[test]
    fn a_zero_reference_is_compared_absolutely() {
        let zero = floats(&[2], &[0.0; 2]);
        assert_eq!(verdict(&zero, &zero), Verdict::Pass);
        assert_eq!(compare(&zero, &zero, None, 1e-5).cosine, 1.0);
        assert_eq!(verdict(&floats(&[2], &[1e-6; 2]), &zero), Verdict::Pass);
        let c = compare(&floats(&[2], &[3e-3, 4e-3]), &zero, None, 1e-5);
        assert!((c.relative_l2 - 5e-3).abs() < 1e-9);
        assert_eq!((c.cosine, c.verdict), (0.0, Verdict::Tolerance));
    }

    #[test]
    fn equality_is_asked_for_by_a_zero_bound() {
        let one = floats(&[1], &[1.0]);
        assert_eq!(compare(&one, &one, None, 0.0).verdict, Verdict::Pass);
        assert_eq!(compare(&floats(&[1], &[1.0000001]), &one, None, 0.0).verdict, Verdict::Tolerance);
    }

    #[test]
    fn great_numbers_do_not_overflow() {
        let wide = |x| Tensor::new(vec![2], Dtype::Float64, Data::F64(vec![x, -x])).unwrap();
        let c = compare(&wide(1e300), &wide(1e300), None, 1e-5);
        assert_eq!((c.relative_l2, c.verdict), (0.0, Verdict::Pass));
        assert!((c.cosine - 1.0).abs() < 1e-12);
        assert_eq!(verdict(&wide(1e-320), &wide(1e-320)), Verdict::Pass);
    }

    #[test]
    fn empty_tensors_are_equal() {
        let empty = floats(&[2, 0], &[]);
        let c = compare(&empty, &empty, None, 1e-5);
        assert_eq!((c.verdict, c.max_abs, c.relative_l2, c.cosine), (Verdict::Pass, 0.0, 0.0, 1.0));
    }

    #[test]
    fn ignored_rows_are_not_compared() {
        let want = floats(&[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
        let got = floats(&[2, 2, 1], &[f64::NAN, 2.0, 3.0, 4.0]);
        let mask = Tensor::new(vec![2, 2], Dtype::Int64, Data::I64(vec![0, 1, 1, 1])).unwrap();
        let c = compare(&got, &want, Some(&mask), 1e-5);
        assert_eq!((c.verdict, c.compared, c.ignored), (Verdict::Pass, 3, 1));
        let late = floats(&[2, 2, 1], &[1.0, 2.0, 3.0, f64::NAN]);
        assert_eq!(compare(&late, &want, Some(&mask), 1e-5).verdict, Verdict::NonFinite(3));
    }

    #[test]
    fn a_longer_mask_gives_its_last_columns() {
        let mask = Tensor::new(vec![2, 3], Dtype::Bool, Data::Bool(vec![false, false, true, true, true, false]));
        let mask = mask.unwrap();
        let want = floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let got = floats(&[2, 1, 2], &[1.0, 2.0, 0.0, 0.0]);
        let c = compare(&got, &want, Some(&mask), 1e-5);
        assert_eq!((c.verdict, c.compared, c.ignored), (Verdict::Pass, 2, 2));
    }

    #[test]
    fn masks_that_do_not_fit_or_hide_everything_fail() {
        let want = floats(&[2, 2], &[1.0; 4]);
        let mask = |shape: &[usize]| {
            let n = shape.iter().product();
            Tensor::new(shape.to_vec(), Dtype::Int64, Data::I64(vec![0; n])).unwrap()
        };
        for shape in [&[2, 1][..], &[3, 2], &[2, 2, 2], &[]] {
            assert_eq!(compare(&want, &want, Some(&mask(shape)), 1e-5).verdict, Verdict::Mask, "{shape:?}");
        }
        assert_eq!(compare(&want, &want, Some(&mask(&[2, 2])), 1e-5).verdict, Verdict::AllIgnored);
    }
}
