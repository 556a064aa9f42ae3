//! The zoo's pipelines as families of the harness: a case's components run together, and what they make on the way to a
//! picture is what is compared.

use std::path::PathBuf;

use framework::weights::{ActivationLayout, Packed};
use zoo::{OpenOptions, Pipeline};

use crate::arguments::Value;
use crate::array::mlx;
use crate::case::{Case, Reference};
use crate::compare::{Comparison, compare, compare_pixels};
use crate::entry::{given, read};
use crate::subject::{Family, Location, Outputs, Place, Subject, Tap};
use crate::tensor::{Data, Dtype, Tensor};
use crate::{Error, Result};

/// A row answers to the classes that it names.
impl Family for Pipeline {
    fn answers(&self, reference: &Reference) -> bool {
        self.names.contains(&reference.class.as_str())
    }

    fn open(&self, case: &Case) -> Result<Box<dyn Subject>> {
        if !case.is_pipeline() {
            return Err(Error::file(&case.dir, "has no components, which a pipeline runs"));
        }
        let options = OpenOptions { dtype: mlx(case.meta.reference.dtype), packed: Packed::Keep };
        Ok(Box::new(Assembly { pipeline: *self, components: case.dir.join("components"), options }))
    }
}

/// A pipeline and the folder of its components.
struct Assembly {
    pipeline: Pipeline,
    components: PathBuf,
    options: OpenOptions,
}

impl Subject for Assembly {
    fn locate(&self, _: &str) -> Location {
        let because = "the modules inside a pipeline are not observed".into();
        Location { place: Place::Unknown { because, nearest: None }, layout: ActivationLayout::ChannelsLast }
    }

    fn call(&mut self, method: &str, arguments: &Value, _: &mut Tap<'_>) -> Result<Outputs> {
        let outputs = self.pipeline.call(&self.components, self.options, method, &mut given(arguments)?);
        read(&outputs.map_err(Error::subject)?)
    }
}

/// How far levels may be from the reference's, which computes them in f32 on the host as we do.
const LEVELS: f64 = 1e-6;

/// Compares what a pipeline made, each by what it is: pixels, flags, levels, or numbers.
pub(crate) fn compared(name: &str, got: &Tensor, want: &Tensor, mask: Option<&Tensor>, bound: f64) -> Comparison {
    match name.trim_start_matches("negative_") {
        "image" => compare_pixels(got, want, mask),
        name if name.starts_with("mask") => compare(&flags(got), &flags(want), mask, bound),
        "sigmas" => compare(got, &last(want, got, 1.0), mask, bound.min(LEVELS)),
        "timesteps" => compare(got, &last(want, got, 1000.0), mask, bound.min(LEVELS)),
        _ => compare(got, want, mask, bound),
    }
}

/// A mask of booleans as one of integers.
fn flags(mask: &Tensor) -> Tensor {
    match &mask.data {
        Data::Bool(flags) => {
            let data = Data::I64(flags.iter().map(|&flag| flag.into()).collect());
            Tensor { dtype: Dtype::Int64, data, ..mask.clone() }
        }
        _ => mask.clone(),
    }
}

/// The reference's levels where it holds those of the steps that are made; the last, as many as there are here, where it holds
/// all from the highest on, though a picture to begin from leaves some out.
fn last(levels: &Tensor, here: &Tensor, highest: f64) -> Tensor {
    match (&levels.shape[..], &here.shape[..]) {
        (&[all], &[some]) if some < all && levels.data.f64(0) == Some(highest) => {
            levels.columns(all - some..all).unwrap_or_else(|_| levels.clone())
        }
        _ => levels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Verdict;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::new(vec![values.len()], Dtype::Float32, Data::F32(values.to_vec())).unwrap()
    }

    fn verdict(name: &str, got: &Tensor, want: &Tensor) -> Verdict {
        compared(name, got, want, None, 1e-4).verdict
    }

    #[test]
    fn a_mask_is_of_booleans_or_of_integers() {
        let flags = Tensor::new(vec![2], Dtype::Bool, Data::Bool(vec![true, false])).unwrap();
        let mask = |values: [i64; 2]| Tensor::new(vec![2], Dtype::Int64, Data::I64(values.into())).unwrap();
        for name in ["mask", "mask_2", "negative_mask_2"] {
            assert_eq!(verdict(name, &flags, &mask([1, 0])), Verdict::Pass);
            assert_eq!(verdict(name, &flags, &mask([1, 1])), Verdict::Inexact(1));
            assert_eq!(verdict(name, &flags, &flags), Verdict::Pass);
        }
        assert_eq!(verdict("tokens", &flags, &mask([1, 0])), Verdict::Dtype);
    }

    #[test]
    fn levels_may_be_those_of_all_steps() {
        let made = floats(&[0.5, 0.25, 0.0]);
        assert_eq!(verdict("sigmas", &made, &floats(&[1.0, 0.75, 0.5, 0.25, 0.0])), Verdict::Pass);
        assert_eq!(verdict("sigmas", &made, &floats(&[1.0, 0.75, 0.4, 0.2, 0.0])), Verdict::Tolerance);
        assert_eq!(verdict("sigmas", &made, &floats(&[0.75, 0.5, 0.25, 0.0])), Verdict::Shape);
        assert_eq!(verdict("timesteps", &floats(&[250.0]), &floats(&[1000.0, 250.0])), Verdict::Pass);
        assert_eq!(verdict("latents.0", &made, &floats(&[1.0, 0.5, 0.25, 0.0])), Verdict::Shape);
    }
}
