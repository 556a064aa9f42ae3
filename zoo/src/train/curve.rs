//! The loss over the steps, as a picture.

use super::Entry;
use crate::{Error, Result, picture::Picture};
use plotters::{
    prelude::{BitMapBackend, ChartBuilder, IntoDrawingArea, IntoLogRange, LineSeries, RGBColor, WHITE},
    style::{FontStyle, register_font},
};
use std::{path::Path, sync::Once};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 540;
const EVERY: RGBColor = RGBColor(178, 200, 222);
const SMOOTH: RGBColor = RGBColor(28, 84, 140);

/// Draws the loss of every step, and its running mean above it; the axis of the loss is logarithmic.
pub(super) fn draw(entries: &[Entry], path: &Path) -> Result<()> {
    let points: Vec<(f64, f64)> = entries
        .iter()
        .filter(|entry| entry.loss.is_finite() && entry.loss > 0.0)
        .map(|entry| (entry.step as f64, entry.loss))
        .collect();
    let Some(last) = points.last() else { return Ok(()) };
    let least = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let range = (least * 0.95..most * 1.05).log_scale();
    let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
    let failed = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be drawn: {error}"));
    fonts();
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..last.0.max(1.0), range)
            .map_err(|error| failed(&error))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("step").y_desc("loss").label_style(("sans-serif", 14)).axis_desc_style(("sans-serif", 16));
        mesh.x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|loss| format!("{loss:.3}"))
            .y_labels(8);
        mesh.draw().map_err(|error| failed(&error))?;
        chart.draw_series(LineSeries::new(points.iter().copied(), &EVERY)).map_err(|error| failed(&error))?;
        chart.draw_series(LineSeries::new(smooth(&points), &SMOOTH)).map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Picture::new(WIDTH, HEIGHT, pixels)?.write(path, &serde_json::Value::Null)
}

/// A running mean over about a fiftieth of all points.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let share = 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let mut mean = points.first().map_or(0.0, |point| point.1);
    let mut follow = |&(step, loss): &(f64, f64)| {
        mean += share * (loss - mean);
        (step, mean)
    };
    points.iter().map(&mut follow).collect()
}

/// Letters for the axes: a machine need not have any.
fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A font that is refused leaves a curve without numbers.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}
