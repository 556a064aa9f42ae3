//! Rotary positions: the tables of a call, and turning queries with them.

use crate::suite::Suite;
use criterion::Throughput;
use framework::{At, Axes, Init, Layout, Lowered, Position, Positions, Result, Rope};

const LENGTH: i32 = 512;

pub fn measure(suite: &mut Suite) -> Result<()> {
    let x = Init::default().normal(&[1, LENGTH, 16, 128], 1.0)?.get();
    for (name, layout) in [("half-split", Layout::HalfSplit), ("interleaved", Layout::Interleaved)] {
        let rope = Rope::new(128, 1e6, layout);
        let angles = rope.angles(&Positions::range(0, LENGTH))?;
        let at = At { angles: Some(&angles), mask: &Lowered::None, cond: None };
        suite.elementwise("rope", &format!("rotate, {name}, {LENGTH}"), &[&x], || rope.rotate(&x, &at));
    }
    let text = Rope::new(128, 1e6, Layout::HalfSplit);
    let positions = Positions::range(0, LENGTH);
    suite.any("rope", "tables of text, 512", Throughput::Elements(LENGTH as u64), || text.angles(&positions));
    // FLUX.1's picture of 1024 × 1024 pixels.
    let image = Rope { axes: Axes::Each(vec![16, 56, 56]), ..Rope::new(128, 1e4, Layout::Interleaved) };
    let place = |i: usize, axis: usize| [0, i / 64, i % 64][axis] as f64;
    let places = Positions::new((0..3).flat_map(|axis| (0..4096).map(move |i| place(i, axis))).collect(), 3, 1, 4096)?;
    suite.any("rope", "tables of a picture, 4096", Throughput::Elements(4096), || image.angles(&places));
    Ok(())
}
