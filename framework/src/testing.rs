//! What tests share.

use crate::{Array, math};

/// The largest difference of two arrays of one shape.
pub fn difference(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let worst = math::subtract(a, b).unwrap().abs().unwrap().max(None).unwrap();
    math::read::<f32>(&worst).unwrap()[0]
}
