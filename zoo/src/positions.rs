//! Position ids of a call by name, read to the host.

use framework::{Array, Dtype, Positions, Result, math};

/// Ids of text `[B, L]`.
pub fn rows(ids: &Array) -> Result<Positions> {
    by_axis(&ids.expand_dims(0)?)
}

/// Ids of a grid `[L, axes]`, the same for every row of a batch.
pub fn grid(ids: &Array) -> Result<Positions> {
    by_axis(&ids.transpose()?.expand_dims(1)?)
}

/// Ids by axis, row and column `[axes, B, L]`.
pub fn by_axis(ids: &Array) -> Result<Positions> {
    let [axes, batch, length] = math::shape::<3>(ids)?.map(|length| length as usize);
    let values = if matches!(ids.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) {
        math::read::<f32>(&ids.as_dtype(Dtype::Float32)?)?.into_iter().map(f64::from).collect()
    } else {
        math::read::<i64>(&ids.as_dtype(Dtype::Int64)?)?.into_iter().map(|position| position as f64).collect()
    };
    Positions::new(values, axes, batch, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_says_the_same() {
        let expected = Positions::new(vec![4.0, 5.0, 6.0, 1.0, 2.0, 3.0], 2, 1, 3).unwrap();
        let by_token = math::array(&[4f32, 1.0, 5.0, 2.0, 6.0, 3.0], &[3, 2]).unwrap();
        assert_eq!(grid(&by_token).unwrap(), expected);
        let integers = math::array(&[4i64, 5, 6, 1, 2, 3], &[2, 1, 3]).unwrap();
        assert_eq!(by_axis(&integers).unwrap(), expected);
        let text = math::array(&[7i32, 8], &[1, 2]).unwrap();
        assert_eq!(rows(&text).unwrap(), Positions::new(vec![7.0, 8.0], 1, 1, 2).unwrap());
        assert!(rows(&Array::zeros::<i32>(&[1, 1, 1]).unwrap()).is_err());
    }
}
