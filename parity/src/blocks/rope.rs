//! Rotary position embedding.

use framework::{
    Angle, Array, At, Axes, Dtype, Error, Init, Layout, Lowered, Position, Positions, Rope, Scaling, math,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use zoo::{Arguments, Result};

use super::Twin;

#[derive(Clone, Deserialize)]
pub struct Rotary {
    dims: i32,
    layout: Layout,
    theta: f64,
    scaling: Option<Map<String, Value>>,
    max_position_embeddings: Option<f64>,
    axes: Option<Vec<i32>>,
    sections: Option<Vec<i32>>,
    sections_interleaved: Option<bool>,
}

impl Rotary {
    /// The rope; its angles are double, as the twin's.
    pub fn rope(&self) -> framework::Result<Rope> {
        let axes = match (&self.axes, &self.sections, self.sections_interleaved) {
            (None, None, None) => Axes::One,
            (Some(dims), None, None) => Axes::Each(dims.clone()),
            (None, Some(sections), Some(false)) => Axes::Sections(sections.clone()),
            (None, Some(sections), Some(true)) => Axes::InterleavedSections(sections.clone()),
            _ => return Err(Error::config("sections", "needs `sections_interleaved`, and no `axes`")),
        };
        let scaling = match (self.scaling.clone(), self.max_position_embeddings) {
            (None, None) => Scaling::Default,
            (None, Some(_)) => return Err(Error::config("max_position_embeddings", "belongs to a `scaling`")),
            (Some(mut keys), context) => {
                keys.extend(context.map(|context| ("max_position_embeddings".to_owned(), context.into())));
                Scaling::deserialize(Value::Object(keys)).map_err(|e| Error::config("scaling", e.to_string()))?
            }
        };
        let rope = Rope { scaling, axes, angle: Angle::Double, ..Rope::new(self.dims, self.theta, self.layout) };
        rope.validate()?;
        Ok(rope)
    }
}

/// Positions on the host: `[L]` or `[B, L]`, `[L, axes]` where each axis has features of its own, `[axes, B, L]` where the
/// axes share them.
pub fn positions(axes: &Axes, array: &Array) -> Result<Positions> {
    let (array, shape) = match (axes, array.shape()) {
        (Axes::One, &[length]) => (array.clone(), [1, 1, length]),
        (Axes::One, &[batch, length]) => (array.clone(), [1, batch, length]),
        (Axes::Each(_), &[length, axes]) => (array.transpose()?, [axes, 1, length]),
        (Axes::Sections(_) | Axes::InterleavedSections(_), &[axes, batch, length]) => {
            (array.clone(), [axes, batch, length])
        }
        (axes, shape) => return Err(zoo::Error::argument("positions", format!("shape {shape:?} for {axes:?}"))),
    };
    let values = math::read::<i64>(&array.as_dtype(Dtype::Int64)?)?;
    let [axes, batch, length] = shape.map(|length| length as usize);
    Ok(Positions::new(values.into_iter().map(|position| position as f64).collect(), axes, batch, length)?)
}

impl Twin for Rope {
    const NAMES: &'static [&'static str] = &["framework.Rope"];
    type Config = Rotary;

    fn build(config: &Rotary, _: &mut Init) -> framework::Result<Self> {
        config.rope()
    }

    fn forward(&self, _: &Rotary, inputs: &mut Arguments) -> Result<Array> {
        let angles = self.angles(&positions(&self.axes, &inputs.take("positions")?)?)?;
        Ok(self.rotate(&inputs.take("x")?, &At { angles: Some(&angles), mask: &Lowered::None, cond: None })?)
    }
}
