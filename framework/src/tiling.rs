//! Images of any size through a network of bounded memory: tile by tile, with seams that blend.

mod pooled;

use crate::{Error, Result, math};
use mlx_rs::{Array, ops};

/// How an image is cut. Lengths are in pixels, for encoders and decoders alike.
///
/// There are as few tiles as possible, all of one size and no larger than needed, and they overlap by at least what is
/// asked. Where two tiles
/// overlap, the middle half fades linearly from one to the other; the quarter at either tile's own edge, which does not
/// know what lies beyond it, is not used. So a network whose outputs see no further than a quarter of the overlap gives
/// the same as without tiles.
///
/// ```
/// use framework::{Array, Dtype, Ratio, Tiling, math};
/// let tiling = Tiling { tile: 64, overlap: 16 };
/// let latent = Array::zeros::<f32>(&[1, 20, 9, 4])?;
/// let mut tiles = 0;
/// let image = tiling.run(&latent, &[1, 2], Ratio::Up(8), &mut |tile| {
///     tiles += 1; // Here progress is told, and an error ends the work.
///     let [batch, height, width, _] = math::shape(tile)?;
///     Ok(Array::zeros::<f32>(&[batch, 8 * height, 8 * width, 3])?)
/// })?;
/// assert_eq!(image.shape(), [1, 160, 72, 3]);
/// assert_eq!(tiles, tiling.count(&latent, &[1, 2], Ratio::Up(8))?);
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Pixels of a tile along an axis.
    pub tile: i32,
    /// Pixels that neighbours share at least.
    pub overlap: i32,
}

/// How many pixels are a latent position, and which of them a network begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ratio {
    /// Latent → so many pixels.
    Up(i32),
    /// So many pixels → latent.
    Down(i32),
}

/// A tiling in positions of the input.
#[derive(Clone, Copy)]
struct Cut {
    tile: i32,
    overlap: i32,
    /// Tiles begin at multiples of it.
    grain: i32,
    ratio: Ratio,
}

impl Ratio {
    /// So many pixels in positions of the input.
    pub(crate) fn input(self, pixels: i32) -> i32 {
        match self {
            Self::Up(factor) => pixels / factor.max(1),
            Self::Down(_) => pixels,
        }
    }

    /// A position of the input in positions of the output.
    fn apply(self, place: i32) -> i32 {
        match self {
            Self::Up(factor) => place.saturating_mul(factor),
            Self::Down(factor) => place / factor.max(1),
        }
    }
}

impl Tiling {
    /// Applies `f` to tiles of `x` along `axes`, and joins what it gives. A shorter `x` is one tile.
    ///
    /// Each tile is evaluated before the next is begun: memory is that of one tile and of what is finished.
    ///
    /// # Errors
    /// When the tile is not longer than the overlap, either is no multiple of the ratio, or `f` gives another length
    /// than the ratio says; and what `f` returns.
    pub fn run(
        &self,
        x: &Array,
        axes: &[i32],
        ratio: Ratio,
        f: &mut dyn FnMut(&Array) -> Result<Array>,
    ) -> Result<Array> {
        self.cut(ratio)?.run(x, axes, f)
    }

    /// How often [`run`](Self::run) calls its function.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn count(&self, x: &Array, axes: &[i32], ratio: Ratio) -> Result<usize> {
        let cut = self.cut(ratio)?;
        axes.iter().try_fold(1usize, |tiles, &axis| Ok(tiles.saturating_mul(cut.tiles(length(x, axis)?).len())))
    }

    fn cut(&self, ratio: Ratio) -> Result<Cut> {
        let (Ratio::Up(factor) | Ratio::Down(factor)) = ratio;
        if factor < 1 || self.overlap < 0 || self.tile <= self.overlap {
            let problem = format!("a tile of {} pixels is not longer than the overlap, {}", self.tile, self.overlap);
            return Err(Error::argument("tile", problem));
        }
        if self.tile % factor != 0 || self.overlap % factor != 0 {
            let problem = format!("{} and {} pixels are not multiples of {factor}", self.tile, self.overlap);
            return Err(Error::argument("tile", problem));
        }
        Ok(match ratio {
            Ratio::Up(_) => Cut { tile: ratio.input(self.tile), overlap: ratio.input(self.overlap), grain: 1, ratio },
            Ratio::Down(_) => Cut { tile: self.tile, overlap: self.overlap, grain: factor, ratio },
        })
    }
}

impl Cut {
    fn run(self, x: &Array, axes: &[i32], f: &mut dyn FnMut(&Array) -> Result<Array>) -> Result<Array> {
        let Some((&axis, rest)) = axes.split_first() else {
            let y = f(x)?;
            y.eval()?;
            return Ok(y);
        };
        let mut joined = Joined { axis, done: Vec::new(), open: None };
        for (start, end) in self.tiles(length(x, axis)?) {
            let y = self.run(&math::slice(x, axis, start, end)?, rest, f)?;
            let (start, end) = (self.ratio.apply(start), self.ratio.apply(end));
            if length(&y, axis)? != end - start {
                let problem = format!("gave {:?}, where axis {axis} should have {} positions", y.shape(), end - start);
                return Err(Error::argument("f", problem));
            }
            joined.push(y, start)?;
        }
        joined.finish()
    }

    /// From where to where each tile goes. What is less than a grain at the end belongs to the last tile.
    fn tiles(self, length: i32) -> Vec<(i32, i32)> {
        let (grains, tile) = (length / self.grain, self.tile / self.grain);
        if grains <= tile {
            return vec![(0, length)];
        }
        let overlap = self.overlap / self.grain;
        let last = (grains - tile).saturating_add(tile - overlap - 1) / (tile - overlap);
        // As many tiles as are needed, and no larger than they need be.
        let tile = (i64::from(grains) + i64::from(last) * i64::from(overlap) + i64::from(last)) / (i64::from(last) + 1);
        let tile = tile as i32;
        let start = |i: i32| (i64::from(grains - tile) * i64::from(i) / i64::from(last)) as i32 * self.grain;
        let end = |i: i32| if i == last { length } else { start(i) + tile * self.grain };
        (0..=last).map(|i| (start(i), end(i))).collect()
    }
}

/// Tiles joined along an axis, as far as they are done.
struct Joined {
    axis: i32,
    done: Vec<Array>,
    /// The newest, from its start on the whole; its end may still fade.
    open: Option<(Array, i32)>,
}

impl Joined {
    fn push(&mut self, tile: Array, start: i32) -> Result<()> {
        let Some((open, open_start)) = self.open.take() else {
            self.open = Some((tile, start));
            return Ok(());
        };
        let (cut, shared) = (start - open_start, open_start + length(&open, self.axis)? - start);
        if shared == 0 {
            self.done.push(open);
            self.open = Some((tile, start));
            return Ok(());
        }
        self.done.push(math::slice(&open, self.axis, 0, cut)?);
        let before = math::slice(&open, self.axis, cut, cut + shared)?;
        let after = math::slice(&tile, self.axis, 0, shared)?;
        let rest = math::slice(&tile, self.axis, shared, length(&tile, self.axis)?)?;
        let faded = fade(&before, &after, self.axis)?;
        self.open = Some((ops::concatenate(&[faded, rest], self.axis)?, start));
        Ok(())
    }

    fn finish(mut self) -> Result<Array> {
        self.done.extend(self.open.map(|(open, _)| open));
        let y = ops::concatenate(&self.done, self.axis)?;
        y.eval()?;
        Ok(y)
    }
}

/// From `before` to `after`: linearly over the middle half, with neither's own edge.
fn fade(before: &Array, after: &Array, axis: i32) -> Result<Array> {
    let shared = length(before, axis)?;
    let edge = shared / 4;
    let ramp = (shared - 2 * edge) as f32;
    let weight = |place: i32| ((place - edge) as f32 + 0.5).max(0.0).min(ramp) / ramp.max(1.0);
    let weights: Vec<f32> = (0..shared).map(weight).collect();
    let mut shape = vec![1; before.ndim()];
    if let Some(along) = shape.get_mut(axis as usize) {
        *along = shared;
    }
    let weights = math::array(&weights, &shape)?;
    math::add(before, &math::multiply(&math::subtract(after, before)?, &weights)?)
}

fn length(x: &Array, axis: i32) -> Result<i32> {
    let length = usize::try_from(axis).ok().and_then(|axis| x.shape().get(axis));
    length.copied().ok_or_else(|| Error::argument("axes", format!("axis {axis} of shape {:?}", x.shape())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv, Init, Pad, Upsample, Window, testing::difference};
    use proptest::prelude::*;

    /// Doubles an image; an output sees latents at a distance of at most 2.
    struct Doubling {
        conv_in: Conv,
        upsample: Upsample,
    }

    impl Doubling {
        fn new() -> Self {
            let mut init = Init::default();
            let mut conv = |output| Conv::new(3, output, &[Window::same(3); 2], &mut init).unwrap();
            Self { conv_in: conv(3), upsample: Upsample { conv: conv(2), factors: vec![2, 2] } }
        }
        fn forward(&self, x: &Array) -> Result<Array> {
            self.upsample.forward(&self.conv_in.forward(x)?)
        }
    }

    fn noise(shape: &[i32]) -> Array {
        Init::default().normal(shape, 1.0).unwrap().get()
    }

    #[test]
    fn what_sees_no_further_than_a_quarter_of_the_overlap_needs_no_tiles() {
        let decoder = Doubling::new();
        let tiling = Tiling { tile: 32, overlap: 16 };
        for (height, width) in [(40, 23), (17, 16), (9, 50), (5, 3), (33, 32)] {
            let x = noise(&[2, height, width, 3]);
            let mut longest = 0;
            let tiled = tiling.run(&x, &[1, 2], Ratio::Up(2), &mut |tile| {
                longest = longest.max(tile.shape()[1]).max(tile.shape()[2]);
                decoder.forward(tile)
            });
            assert!(difference(&tiled.unwrap(), &decoder.forward(&x).unwrap()) < 1e-5, "{height} × {width}");
            assert!(longest <= 16);
        }
    }

    #[test]
    fn encoders_too() {
        let half = Window { stride: 2, pad: Pad::Explicit(0, 1), ..Window::same(3) };
        let conv = Conv::new(3, 2, &[half; 2], &mut Init::default()).unwrap();
        let tiling = Tiling { tile: 16, overlap: 8 };
        for (height, width) in [(40, 23), (17, 16), (9, 51), (5, 2)] {
            let x = noise(&[1, height, width, 3]);
            let tiled = tiling.run(&x, &[1, 2], Ratio::Down(2), &mut |tile| conv.forward(tile)).unwrap();
            assert!(difference(&tiled, &conv.forward(&x).unwrap()) < 1e-5, "{height} × {width}");
        }
    }

    #[test]
    fn seams_fade() {
        let tiling = Tiling { tile: 16, overlap: 8 };
        let mut tiles = 0;
        // Every tile is as bright as its number.
        let y = tiling.run(&Array::zeros::<f32>(&[1, 30, 1]).unwrap(), &[1], Ratio::Up(1), &mut |tile| {
            tiles += 1;
            math::offset(tile, f64::from(tiles))
        });
        assert_eq!(tiles, 3);
        let y = math::read::<f32>(&y.unwrap()).unwrap();
        let steps: Vec<f32> = y.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|&step| (0.0..=0.26).contains(&step)), "{y:?}");
        assert_eq!((y[0], y[29]), (1.0, 3.0));
    }

    #[test]
    fn the_dtype_is_kept() {
        let x = noise(&[1, 40, 1]).as_dtype(mlx_rs::Dtype::Bfloat16).unwrap();
        let y = Tiling { tile: 16, overlap: 8 }.run(&x, &[1], Ratio::Up(1), &mut |tile| Ok(tile.clone())).unwrap();
        assert_eq!(y.dtype(), x.dtype());
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let x = noise(&[1, 40, 1]);
        let mut same = |tile: &Array| Ok(tile.clone());
        let mut run = |tile, overlap, ratio| Tiling { tile, overlap }.run(&x, &[1], ratio, &mut same);
        assert!(run(8, 8, Ratio::Up(1)).is_err(), "no progress");
        assert!(run(8, -1, Ratio::Up(1)).is_err(), "a gap");
        assert!(run(9, 4, Ratio::Up(2)).is_err(), "half a latent");
        assert!(run(16, 4, Ratio::Up(0)).is_err(), "nothing");
        assert!(run(16, 4, Ratio::Up(2)).is_err(), "another length than promised");
        assert!(run(16, 4, Ratio::Up(1)).is_ok());
        let stop = &mut |_: &Array| Err(Error::Cancelled);
        let stopped = Tiling { tile: 16, overlap: 4 }.run(&x, &[1], Ratio::Up(1), stop);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert!(Tiling { tile: 16, overlap: 4 }.run(&x, &[7], Ratio::Up(1), &mut |tile| Ok(tile.clone())).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tiles_cover_any_length_and_overlap_enough(length in 1..400, tile in 1..40, overlap in 0..39, factor in 1..5) {
            prop_assume!(overlap < tile);
            let tiling = Tiling { tile: tile * factor, overlap: overlap * factor };
            for ratio in [Ratio::Up(factor), Ratio::Down(factor)] {
                let cut = tiling.cut(ratio).unwrap();
                let tiles = cut.tiles(length);
                prop_assert_eq!((tiles[0].0, tiles[tiles.len() - 1].1), (0, length));
                for pair in tiles.windows(2) {
                    prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 - pair[1].0 >= cut.overlap);
                }
                prop_assert!(tiles.iter().all(|(start, end)| start % cut.grain == 0 && end - start < cut.tile + cut.grain));
            }
            let x = noise(&[1, length, 1]);
            let y = tiling.run(&x, &[1], Ratio::Up(1), &mut |tile| Ok(tile.clone())).unwrap();
            prop_assert!(difference(&x, &y) < 1e-5);
        }
    }
}
