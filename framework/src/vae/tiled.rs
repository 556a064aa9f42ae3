//! Encoding and decoding in tiles: less memory, the same numbers.

use super::{Decoder, Encoder, KlVae};
use crate::{Down, Error, Layers, Module, Norm, Ratio, Result, Tiling, Up, call, math, memory, tap, within};
use mlx_rs::Array;

/// Hears how many of how many tiles are computed; an error from it ends the work.
pub type Told<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// A part of a network, computed in tiles or whole. What lies between two parts is held whole.
struct Part<'a> {
    tiles: Option<(Tiling, Ratio)>,
    run: Box<Run<'a>>,
}

type Run<'a> = dyn Fn(&Array) -> Result<Array> + 'a;

impl<N: Norm> Decoder<N> {
    /// As [`forward`](Self::forward), with the stages above the lowest computed in tiles of about so many pixels.
    ///
    /// Group norms see the whole image ([`Tiling::run_pooled`]), so tiles change memory and time, and of the image no more
    /// than its rounding. Stages with attention are not cut.
    ///
    /// # Errors
    /// When `tile` is less than 1, and those of `told`.
    pub fn forward_tiled(&self, z: &Array, tile: i32, told: &mut Told) -> Result<Array> {
        run(z, &self.parts(tile)?, self.style.rank, told)
    }

    fn parts(&self, tile: i32) -> Result<Vec<Part<'_>>> {
        let before = std::iter::once(None).chain(self.up_blocks.iter().map(Some));
        let parts = self.up_blocks.iter().zip(before).enumerate().map(|(i, (up, before))| {
            let finer = self.up_blocks.len() - 1 - i;
            let tiling = before.map(|_| tiling(tile, finer, &up.layers)).transpose()?.flatten();
            let tiles = tiling.map(|tiling| (tiling, Ratio::Up(2)));
            Ok(Part { tiles, run: Box::new(move |x| self.stage(i, up, before, x)) })
        });
        parts.collect()
    }

    /// From the upsampling of the stage before, or the beginning, to the last layer of stage i, or the very end.
    fn stage(&self, i: usize, up: &Up<N>, before: Option<&Up<N>>, x: &Array) -> Result<Array> {
        let x = match before {
            Some(before) => within!(self.up_blocks[i - 1] => before.upsampled(x))?,
            None => self.lowest(x)?,
        };
        let x = within!(self.up_blocks[i] => up.layers.forward(&x, None))?;
        if i + 1 == self.up_blocks.len() { self.finish(&x) } else { Ok(x) }
    }
}

impl<N: Norm> Encoder<N> {
    /// As [`forward`](Self::forward), with the stages above the lowest computed in tiles of about so many pixels; see
    /// [`Decoder::forward_tiled`].
    ///
    /// # Errors
    /// When `tile` is less than 1, and those of `told`.
    pub fn forward_tiled(&self, image: &Array, tile: i32, told: &mut Told) -> Result<Array> {
        run(image, &self.parts(tile)?, self.style.rank, told)
    }

    fn parts(&self, tile: i32) -> Result<Vec<Part<'_>>> {
        let parts = self.down_blocks.iter().enumerate().map(|(i, down)| {
            let inner = i + 1 < self.down_blocks.len();
            let tiling = inner.then(|| tiling(tile, i, &down.layers)).transpose()?.flatten();
            let tiles = tiling.map(|tiling| (tiling, Ratio::Down(2)));
            Ok(Part { tiles, run: Box::new(move |x| self.stage(i, down, x)) })
        });
        parts.collect()
    }

    /// Stage i with what stands before the first and after the last.
    fn stage(&self, i: usize, down: &Down<N>, x: &Array) -> Result<Array> {
        let x = if i == 0 { call!(self.conv_in.forward(x))? } else { x.clone() };
        let x = within!(self.down_blocks[i] => down.forward(&x, None).map(tap::offer))?;
        if i + 1 == self.down_blocks.len() { self.finish(&x) } else { Ok(x) }
    }
}

impl<N: Norm> KlVae<N> {
    /// As [`encode`](Self::encode), in tiles of about so many pixels; see [`Decoder::forward_tiled`].
    ///
    /// # Errors
    /// As [`Encoder::forward_tiled`].
    pub fn encode_tiled(&self, image: &Array, tile: i32, told: &mut Told) -> Result<Array> {
        let parameters = within!(self.encoder => self.encoder.forward_tiled(image, tile, told))?;
        match &self.quant_conv {
            Some(quant_conv) => call!(quant_conv.forward(&parameters)),
            None => Ok(parameters),
        }
    }

    /// As [`decode`](Self::decode), in tiles of about so many pixels; see [`Decoder::forward_tiled`].
    ///
    /// # Errors
    /// As [`Decoder::forward_tiled`].
    pub fn decode_tiled(&self, z: &Array, tile: i32, told: &mut Told) -> Result<Array> {
        let z = match &self.post_quant_conv {
            Some(post_quant_conv) => call!(post_quant_conv.forward(z))?,
            None => z.clone(),
        };
        within!(self.decoder => self.decoder.forward_tiled(&z, tile, told))
    }

    /// What [`encode_tiled`](Self::encode_tiled) needs at once beside the parameters, in bytes; see [`memory::working`].
    ///
    /// # Errors
    /// As [`Encoder::forward_tiled`].
    pub fn encode_working(&self, image: &Array, tile: i32) -> Result<u64> {
        working(&self.encoder, image, &self.encoder.parts(tile)?, self.encoder.style.rank)
    }

    /// What [`decode_tiled`](Self::decode_tiled) needs at once beside the parameters, in bytes; see [`memory::working`].
    ///
    /// # Errors
    /// As [`Decoder::forward_tiled`].
    pub fn decode_working(&self, z: &Array, tile: i32) -> Result<u64> {
        working(&self.decoder, z, &self.decoder.parts(tile)?, self.decoder.style.rank)
    }
}

/// What the part that needs most needs: a tile, and what goes in and comes out whole.
fn working(model: &dyn Module, x: &Array, parts: &[Part], rank: usize) -> Result<u64> {
    let (mut x, mut most) = (x.clone(), 0);
    for Part { tiles, run } in parts {
        let mut tile = x.clone();
        if let Some((tiling, ratio)) = tiles {
            for axis in axes(rank) {
                let length = tile.shape().get(axis as usize).copied().unwrap_or(0);
                tile = math::slice(&tile, axis, 0, length.min(ratio.input(tiling.tile)))?;
            }
        }
        let y = run(&x)?;
        let needed = memory::working(model, || run(&tile))?.saturating_add((x.nbytes() + y.nbytes()) as u64);
        (x, most) = (y, most.max(needed));
    }
    Ok(most)
}

/// How a stage is cut that is `halvings` below the image. Its outputs see `2 · blocks + 2` positions far: two convolutions a
/// block, the one of the resampling, and the network's first or last.
fn tiling<N: Norm>(tile: i32, halvings: usize, layers: &Layers<N>) -> Result<Option<Tiling>> {
    if tile < 1 {
        return Err(Error::argument("tile", format!("{tile} pixels are not 1 or more")));
    }
    let overlap = (4 * (2 * layers.resnets.len() + 2)) as i32;
    let side = tile.checked_shr(halvings as u32).unwrap_or(0) / 2 * 2;
    let tiling = Tiling { tile: side.max(2 * overlap), overlap };
    Ok(layers.attentions.is_empty().then_some(tiling))
}

/// The spatial axes.
fn axes(rank: usize) -> Vec<i32> {
    (1..=rank as i32).collect()
}

fn run(x: &Array, parts: &[Part], rank: usize, told: &mut Told) -> Result<Array> {
    let axes = axes(rank);
    let mut total = 0usize;
    // Nothing is computed here: the graph alone says how large everything is.
    let mut shape_of = x.clone();
    for Part { tiles, run } in parts {
        total += match tiles {
            Some((tiling, ratio)) => tiling.count_pooled(&shape_of, &axes, *ratio, &mut |x| run(x))?,
            None => 1,
        };
        shape_of = run(&shape_of)?;
    }
    let mut done = 0;
    let mut tell = || {
        done += 1;
        told(done, total)
    };
    let mut x = x.clone();
    for Part { tiles, run } in parts {
        match tiles {
            Some((tiling, ratio)) => x = tiling.run_pooled(&x, &axes, *ratio, &mut |x| run(x), &mut tell)?,
            None => {
                x = run(&x)?;
                x.eval()?;
                tell()?;
            }
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::super::{
        Gaussian, Stages,
        tests::{of, stages},
    };
    use crate::{Array, Error, Init, testing::difference};

    fn three_stages() -> Stages {
        Stages { channels: vec![4, 4, 6], attention: vec![false; 3], ..stages() }
    }

    #[test]
    fn tiles_change_nothing() {
        for quant in [false, true] {
            let vae = of(&three_stages(), quant);
            let image = Init::default().normal(&[2, 70, 112, 3], 1.0).unwrap().get();
            let mut calls = Vec::new();
            let mut told = |done, total| {
                calls.push((done, total));
                Ok(())
            };
            let parameters = vae.encode(&image).unwrap();
            assert!(difference(&vae.encode_tiled(&image, 32, &mut told).unwrap(), &parameters) < 1e-4);
            let z = Gaussian::new(&parameters).unwrap().mode();
            let whole = vae.decode(&z).unwrap();
            assert!(difference(&vae.decode_tiled(&z, 32, &mut told).unwrap(), &whole) < 1e-4);
            let ends: Vec<_> = calls.iter().filter(|(done, total)| done == total).collect();
            assert_eq!(ends.len(), 2, "{calls:?}");
            assert!(calls.len() > 20 && calls.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1 || pair[1].0 == 1));
        }
    }

    #[test]
    fn attention_is_not_cut() {
        let vae = of(&Stages { attention: vec![true; 3], ..three_stages() }, false);
        let z = Init::default().normal(&[1, 9, 12, 4], 1.0).unwrap().get();
        let mut tiles = 0;
        let tiled = vae.decode_tiled(&z, 32, &mut |done, _| {
            tiles = done;
            Ok(())
        });
        assert!(difference(&tiled.unwrap(), &vae.decode(&z).unwrap()) < 1e-5);
        assert_eq!(tiles, 3);
    }

    #[test]
    fn a_tile_of_nothing_and_a_stop_are_errors() {
        let vae = of(&three_stages(), false);
        let z = Array::zeros::<f32>(&[1, 9, 9, 4]).unwrap();
        assert!(vae.decode_tiled(&z, 0, &mut |_, _| Ok(())).unwrap_err().to_string().contains("tile"));
        let stop = &mut |_, _| Err(Error::Cancelled);
        assert!(matches!(vae.decode_tiled(&z, 64, stop), Err(Error::Cancelled)));
    }
}
