//! From bytes of pictures to arrays.

use crate::{
    Result,
    data::{Example, ImageFolder},
};
use framework::{Array, Dtype, math};

/// A picture as it is.
pub(super) fn plain(picture: u32) -> Example {
    Example { picture, caption: 0, dropped: false, flipped: false }
}

/// The pictures of a batch as they are shown, `[B, side, side, 3]` bytes.
pub(super) fn pixels(pictures: &ImageFolder, examples: &[Example]) -> Result<Array> {
    let side = pictures.side() as usize;
    let (row, size) = (side * 3, side * side * 3);
    let mut bytes = Vec::with_capacity(examples.len() * size);
    for example in examples {
        let begin = example.picture as usize * size;
        let picture = pictures.pixels().get(begin..begin + size).unwrap_or_default();
        if example.flipped {
            bytes.extend(picture.chunks(row).flat_map(|row| row.chunks(3).rev().flatten()));
        } else {
            bytes.extend_from_slice(picture);
        }
    }
    let side = side as i32;
    Ok(math::array(&bytes, &[examples.len() as i32, side, side, 3])?)
}

/// Bytes `[B, H, W, 3]` as an autoencoder sees them: from −1 to 1.
pub(super) fn seen(bytes: &Array, dtype: Dtype) -> framework::Result<Array> {
    Ok(math::offset(&math::scaled(&bytes.as_dtype(Dtype::Float32)?, 2.0 / 255.0)?, -1.0)?.as_dtype(dtype)?)
}
