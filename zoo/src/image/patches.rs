//! Latents as a sequence of patches.

use framework::{Array, Result, math};

/// Patches `[B, rows · columns, C · p · p]` → latents `[B, p · rows, p · columns, C]`. A patch has its channels in order, and in
/// each its rows.
pub(crate) fn unpacked(patches: &Array, [rows, columns]: [i32; 2], p: i32) -> Result<Array> {
    let [batch, _, features] = math::shape(patches)?;
    let channels = features / (p * p);
    let apart = patches.reshape(&[batch, rows, columns, channels, p, p])?.transpose_axes(&[0, 1, 4, 2, 5, 3])?;
    Ok(apart.reshape(&[batch, p * rows, p * columns, channels])?)
}

/// Latents `[B, p · rows, p · columns, C]` → patches `[B, rows · columns, C · p · p]`.
pub(crate) fn packed(latents: &Array, p: i32) -> Result<Array> {
    let [batch, height, width, channels] = math::shape(latents)?;
    let (rows, columns) = (height / p, width / p);
    let apart = latents.reshape(&[batch, rows, p, columns, p, channels])?.transpose_axes(&[0, 1, 3, 5, 2, 4])?;
    Ok(apart.reshape(&[batch, rows * columns, channels * p * p])?)
}

/// Where patches stand, axis by axis, `[axes, rows · columns]`: row and column on the last two axes, 0 on those before. A
/// single axis counts the patches row by row.
pub(crate) fn places(axes: usize, [rows, columns]: [i32; 2]) -> Vec<f64> {
    let each = || (0..rows).flat_map(|row| (0..columns).map(move |column| [row, column]));
    let tokens = each().count();
    match axes.checked_sub(2) {
        None => (0..tokens).map(|token| token as f64).collect(),
        Some(before) => {
            let zeros = std::iter::repeat_n(0.0, before.saturating_mul(tokens));
            let rows = each().map(|[row, _]| f64::from(row));
            zeros.chain(rows).chain(each().map(|[_, column]| f64::from(column))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let latents = math::array(&(0..108).collect::<Vec<i32>>(), &[1, 6, 6, 3]).unwrap();
        for (p, shape) in [(1, [1, 36, 3]), (2, [1, 9, 12]), (3, [1, 4, 27])] {
            let patches = packed(&latents, p).unwrap();
            assert_eq!(patches.shape(), shape);
            assert!(unpacked(&patches, [6 / p; 2], p).unwrap().eq_exact(&latents).unwrap());
        }
        // Channel 0 of the patch, then channel 1: the rows of each.
        let first = math::read::<i32>(&packed(&latents, 2).unwrap()).unwrap();
        assert_eq!(first[..6], [0, 3, 18, 21, 1, 4]);
    }

    #[test]
    fn places_count_rows_then_columns() {
        let [rows, columns] = [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]];
        assert_eq!(places(2, [2, 3]), [rows, columns].concat());
        assert_eq!(places(3, [2, 3]), [[0.0; 6], rows, columns].concat());
        assert_eq!(places(1, [2, 3]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}
