//! Group norms that see the whole image although a network sees tiles.

use super::{Cut, Ratio, Tiling, length};
use crate::{Array, Dtype, Error, Result, math, tap};

/// From where to where a tile goes along an axis, and which part of that no other tile answers for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    start: i32,
    end: i32,
    own: (i32, i32),
}

impl Tiling {
    /// As [`run`](Self::run), with the statistics of every group norm taken over the whole image: where the network sees
    /// no further than a quarter of the overlap, the tiles are what the whole would be.
    ///
    /// The norms are taken one after the other, each in a pass over all tiles that goes as far as that norm; then the
    /// tiles themselves are computed. With n norms that is `n + 1` passes, of which the average one does about half the
    /// work. `told` hears of every tile of every pass; an error from it ends the work.
    ///
    /// # Errors
    /// As [`run`](Self::run), and those of `told`.
    pub fn run_pooled(
        &self,
        x: &Array,
        axes: &[i32],
        ratio: Ratio,
        f: &mut dyn FnMut(&Array) -> Result<Array>,
        told: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Array> {
        let cut = self.cut(ratio)?;
        let tiles = product(axes.iter().map(|&axis| Ok(cut.spans(length(x, axis)?))).collect::<Result<_>>()?);
        let norms = if tiles.len() > 1 { norms(x, f)? } else { 0 };
        let mut known: Vec<Array> = Vec::with_capacity(norms);
        for _ in 0..norms {
            let mut pool = Pool::default();
            for tile in &tiles {
                let part = axes
                    .iter()
                    .zip(tile)
                    .try_fold(x.clone(), |part, (&axis, span)| math::slice(&part, axis, span.start, span.end))?;
                pool.add(&moments(&part, axes, tile, &known, f)?)?;
                told()?;
            }
            known.push(pool.moments()?);
        }
        let mut tile = |tile: &Array| {
            let y = if norms > 0 { given(&known, || f(tile))? } else { f(tile)? };
            y.eval()?;
            told()?;
            Ok(y)
        };
        cut.run(x, axes, &mut tile)
    }

    /// How often [`run_pooled`](Self::run_pooled) calls `told`. Computes nothing.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn count_pooled(
        &self,
        x: &Array,
        axes: &[i32],
        ratio: Ratio,
        f: &mut dyn FnMut(&Array) -> Result<Array>,
    ) -> Result<usize> {
        match self.count(x, axes, ratio)? {
            1 => Ok(1),
            tiles => Ok(tiles.saturating_mul(norms(x, f)?.saturating_add(1))),
        }
    }
}

impl Cut {
    fn spans(self, length: i32) -> Vec<Span> {
        let tiles = self.tiles(length);
        let middle = |before: (i32, i32), after: (i32, i32)| (before.1 + after.0) / 2 / self.grain * self.grain;
        let span = |(i, &(start, end)): (usize, &(i32, i32))| {
            let own_start =
                i.checked_sub(1).and_then(|i| tiles.get(i)).map_or(0, |&before| middle(before, (start, end)));
            let own_end = tiles.get(i + 1).map_or(length, |&after| middle((start, end), after));
            Span { start, end, own: (own_start - start, own_end - start) }
        };
        tiles.iter().enumerate().map(span).collect()
    }
}

/// Every choice of one from each.
fn product(choices: Vec<Vec<Span>>) -> Vec<Vec<Span>> {
    choices.into_iter().fold(vec![Vec::new()], |chosen, next| {
        let extended =
            |before: &Vec<Span>| next.iter().map(|&span| [&before[..], &[span]].concat()).collect::<Vec<_>>();
        chosen.iter().flat_map(extended).collect()
    })
}

/// How many group norms `f` asks for their moments.
fn norms(x: &Array, f: &mut dyn FnMut(&Array) -> Result<Array>) -> Result<usize> {
    let mut norms = 0;
    let mut sink = |path: &str, _: &Array| {
        norms += usize::from(is_norm(path));
        None
    };
    tap::answering(&mut sink, || f(x))?;
    Ok(norms)
}

fn is_norm(path: &str) -> bool {
    path.ends_with("?input")
}

/// Runs `f`, whose first norms get the moments that are known.
fn given<T>(known: &[Array], f: impl FnOnce() -> T) -> T {
    let mut known = known.iter();
    let mut sink = |path: &str, _: &Array| is_norm(path).then(|| known.next().cloned()).flatten();
    tap::answering(&mut sink, f)
}

/// The moments of a part of an image by row and group, and over how many numbers each.
struct Moments {
    mean: Vec<f32>,
    variance: Vec<f32>,
    shape: [i32; 2],
    count: f64,
}

/// What the first norm that is not known would take its statistics from, over what the tile answers for.
fn moments(
    part: &Array,
    axes: &[i32],
    tile: &[Span],
    known: &[Array],
    f: &mut dyn FnMut(&Array) -> Result<Array>,
) -> Result<Moments> {
    let mut input = None;
    let mut given = known.iter();
    let mut sink = |path: &str, x: &Array| {
        if !is_norm(path) {
            return None;
        }
        let answer = given.next().cloned();
        if answer.is_none() && input.is_none() {
            input = Some(x.clone());
        }
        answer
    };
    tap::answering(&mut sink, || f(part))?;
    let mut own = input.ok_or_else(|| Error::argument("f", "another number of norms than before"))?;
    for (&axis, span) in axes.iter().zip(tile) {
        // The norm may stand at another resolution than the tile.
        let (found, tile) = (i64::from(length(&own, axis)?), i64::from(span.end - span.start));
        let place = |place: i32| (i64::from(place) * found / tile) as i32;
        own = math::slice(&own, axis, place(span.own.0), place(span.own.1))?;
    }
    let &[batch, .., groups, features] = own.shape() else {
        return Err(Error::argument("f", format!("a norm over {:?}", own.shape())));
    };
    let own = own.as_dtype(Dtype::Float32)?.reshape(&[batch, -1, groups, features])?;
    let mean = own.mean_axes(&[1, 3], true)?;
    let variance = math::subtract(&own, &mean)?.square()?.mean_axes(&[1, 3], true)?;
    let count = own.size() as f64 / f64::from(batch) / f64::from(groups);
    Ok(Moments { mean: math::read(&mean)?, variance: math::read(&variance)?, shape: [batch, groups], count })
}

/// Moments of parts, merged in f64.
#[derive(Default)]
struct Pool {
    count: f64,
    mean: Vec<f64>,
    /// The sum of squared distances from the mean.
    squares: Vec<f64>,
    shape: [i32; 2],
}

impl Pool {
    fn add(&mut self, part: &Moments) -> Result<()> {
        if self.count == 0.0 {
            *self = Self {
                count: 0.0,
                mean: vec![0.0; part.mean.len()],
                squares: vec![0.0; part.mean.len()],
                shape: part.shape,
            };
        }
        let count = self.count + part.count;
        let parts = part.mean.iter().zip(&part.variance);
        for ((mean, squares), (&part_mean, &variance)) in self.mean.iter_mut().zip(&mut self.squares).zip(parts) {
            let apart = f64::from(part_mean) - *mean;
            *mean += apart * part.count / count;
            *squares += f64::from(variance) * part.count + apart * apart * self.count * part.count / count;
        }
        self.count = count;
        Ok(())
    }

    /// Means, then variances, `[2, B, G]`.
    fn moments(&self) -> Result<Array> {
        let variances = self.squares.iter().map(|squares| squares / self.count);
        let both: Vec<f32> = self.mean.iter().copied().chain(variances).map(|value| value as f32).collect();
        let [batch, groups] = self.shape;
        math::array(&both, &[2, batch, groups])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Init, Layers, Style, Upsample, Window, testing::difference};

    /// An image whose parts differ: dark and flat on the left, bright and rough on the right.
    fn uneven(shape: &[i32]) -> Array {
        let noise = Init::default().normal(shape, 1.0).unwrap().get();
        let slope: Vec<f32> = (0..shape[2]).map(|x| x as f32 / 4.0).collect();
        let slope = math::array(&slope, &[1, 1, shape[2], 1]).unwrap();
        math::multiply(&math::offset(&noise, 1.0).unwrap(), &slope).unwrap()
    }

    #[test]
    fn tiles_are_what_the_whole_is() {
        let style = Style { rank: 2, groups: 2, eps: 1e-6, activation: Activation::Silu };
        let mut init = Init::default();
        let conv = crate::Conv::new(4, 4, &[Window::same(3); 2], &mut init).unwrap();
        let upsample = Upsample { conv, factors: vec![2, 2] };
        let layers = Layers::new(4, 6, 2, 0, &style, &mut init).unwrap();
        let network = |x: &Array| layers.forward(&upsample.forward(x)?, None);
        let tiling = Tiling { tile: 48, overlap: 24 };
        for (height, width) in [(40, 23), (25, 57), (24, 12)] {
            let x = uneven(&[2, height, width, 4]);
            let (mut told, ratio) = (0, Ratio::Up(2));
            let expected = tiling.count_pooled(&x, &[1, 2], ratio, &mut |x| network(x)).unwrap();
            let mut tell = || {
                told += 1;
                Ok(())
            };
            let pooled = tiling.run_pooled(&x, &[1, 2], ratio, &mut |x| network(x), &mut tell).unwrap();
            let whole = network(&x).unwrap();
            assert!(difference(&pooled, &whole) < 1e-4, "{height} × {width}: {}", difference(&pooled, &whole));
            assert_eq!(told, expected);
            if expected > 1 {
                let own = tiling.run(&x, &[1, 2], ratio, &mut |x| network(x)).unwrap();
                let apart = difference(&own, &whole);
                assert!(apart > 1e3 * difference(&pooled, &whole).max(1e-6), "statistics of tiles matter: {apart}");
            }
        }
    }

    #[test]
    fn it_stops_when_told() {
        let x = uneven(&[1, 40, 40, 4]);
        let norm = crate::GroupNorm::new(2, 4, 1e-6, &mut Init::default()).unwrap();
        let tiling = Tiling { tile: 16, overlap: 4 };
        let total = tiling.count_pooled(&x, &[1, 2], Ratio::Up(1), &mut |x| crate::Norm::forward(&norm, x)).unwrap();
        assert_eq!(total, 2 * 9);
        for stop in [1, 7, total] {
            let mut told = 0;
            let mut tell = || {
                told += 1;
                if told == stop { Err(Error::Cancelled) } else { Ok(()) }
            };
            let norm = &mut |x: &Array| crate::Norm::forward(&norm, x);
            let stopped = tiling.run_pooled(&x, &[1, 2], Ratio::Up(1), norm, &mut tell);
            assert!(matches!(stopped, Err(Error::Cancelled)));
            assert_eq!(told, stop);
        }
    }

    #[test]
    fn every_place_is_one_tiles_own() {
        for (length, grain) in [(100, 1), (64, 2), (41, 4), (7, 1)] {
            let cut = Cut { tile: 16, overlap: 8, grain, ratio: Ratio::Up(1) };
            let spans = cut.spans(length);
            let own: Vec<(i32, i32)> = spans.iter().map(|s| (s.start + s.own.0, s.start + s.own.1)).collect();
            assert_eq!((own[0].0, own[own.len() - 1].1), (0, length));
            assert!(own.windows(2).all(|pair| pair[0].1 == pair[1].0), "{own:?}");
            assert!(spans.iter().all(|s| 0 <= s.own.0 && s.own.0 < s.own.1 && s.own.1 <= s.end - s.start));
        }
    }
}
