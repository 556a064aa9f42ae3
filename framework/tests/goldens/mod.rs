//! What every comparison with the goldens of sampling needs.

use mlx_rs::ArrayElement;
use num_traits::Float;
use serde::de::DeserializeOwned;
use std::{fmt::Debug, path::PathBuf};

/// A scalar of the host that MLX has too.
pub trait Scalar: Float + ArrayElement + Debug + 'static {
    /// How far from diffusers a value may be, of the largest in its row.
    const TOLERANCE: f64;
}
impl Scalar for f32 {
    const TOLERANCE: f64 = 1e-5;
}
impl Scalar for f64 {
    const TOLERANCE: f64 = 1e-9;
}

/// A file of `fixtures/sampling`.
pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/sampling");
    serde_json::from_str(&std::fs::read_to_string(folder.join(name).with_extension("json")).unwrap()).unwrap()
}

/// The largest difference, of the largest value; `None` of the reference is NaN, which nothing is compared with.
pub fn apart<F: Float>(found: &[F], reference: &[Option<f64>]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let peak = reference.iter().flatten().fold(f64::MIN_POSITIVE, |peak, value| peak.max(value.abs()));
    let pairs = found.iter().zip(reference).filter_map(|(found, reference)| Some((found, (*reference)?)));
    pairs.fold(0.0, |most, (found, reference)| most.max((found.to_f64().unwrap() - reference).abs() / peak))
}
