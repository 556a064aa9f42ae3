//! ggml's quantised blocks as MLX's affine triplets: value = q × scale + bias, with q packed lowest bits first.
//!
//! Every block holds 32 consecutive elements of a row, so the group is 32. Nothing is rounded: the values that ggml
//! defines are the values that the triplet stands for. A bias is the scale times −8 or −128, a power of two, which is
//! exact in f16 unless it overflows; scales that large (512 and up in Q8_0) belong to damaged files and are refused.

use half::f16;

/// Elements in a block, and in a group of the triplet.
pub(super) const GROUP: usize = 32;

/// A quantised type that is kept as it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Scale `d` in f16, 32 nibbles; value = (q − 8) d.
    Q4_0,
    /// Scale `d` and minimum `m` in f16, 32 nibbles; value = q d + m.
    Q4_1,
    /// Scale `d` in f16, 32 signed bytes; value = q d.
    Q8_0,
}

impl Packing {
    /// Bytes of one block.
    pub fn block(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }

    /// Bits of one packed element.
    pub fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => 4,
            Self::Q8_0 => 8,
        }
    }
}

/// A part of the triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Weight,
    Scales,
    Biases,
}

impl Part {
    /// Bytes of this part that one block gives.
    pub fn bytes(self, packing: Packing) -> usize {
        match self {
            Self::Weight => GROUP * packing.bits() / 8,
            Self::Scales | Self::Biases => 2,
        }
    }
}

/// Writes this part of whole blocks to `out`, which has exactly the space for them.
///
/// # Errors
/// The index of the first block whose scale or bias is not a finite f16.
pub(super) fn repack(packing: Packing, part: Part, raw: &[u8], out: &mut [u8]) -> Result<(), usize> {
    use Packing::{Q4_0, Q4_1, Q8_0};
    match (packing, part) {
        (Q4_0, Part::Weight) => each(raw, out, |[_, _, q @ ..]: &[u8; 18]| Some(nibbles(q))),
        (Q4_1, Part::Weight) => each(raw, out, |[_, _, _, _, q @ ..]: &[u8; 20]| Some(nibbles(q))),
        // q + 128 as an unsigned byte: the sign bit turned.
        (Q8_0, Part::Weight) => each(raw, out, |[_, _, q @ ..]: &[u8; 34]| Some(q.map(|byte: u8| byte ^ 0x80))),
        (Q4_0, Part::Scales) => each(raw, out, |&[a, b, ..]: &[u8; 18]| scaled([a, b], 1.0)),
        (Q4_1, Part::Scales) => each(raw, out, |&[a, b, ..]: &[u8; 20]| scaled([a, b], 1.0)),
        (Q8_0, Part::Scales) => each(raw, out, |&[a, b, ..]: &[u8; 34]| scaled([a, b], 1.0)),
        (Q4_0, Part::Biases) => each(raw, out, |&[a, b, ..]: &[u8; 18]| scaled([a, b], -8.0)),
        (Q4_1, Part::Biases) => each(raw, out, |&[_, _, a, b, ..]: &[u8; 20]| scaled([a, b], 1.0)),
        (Q8_0, Part::Biases) => each(raw, out, |&[a, b, ..]: &[u8; 34]| scaled([a, b], -128.0)),
    }
}

/// Applies `convert` to each block.
fn each<const BLOCK: usize, const OUT: usize>(
    raw: &[u8],
    out: &mut [u8],
    convert: impl Fn(&[u8; BLOCK]) -> Option<[u8; OUT]>,
) -> Result<(), usize> {
    let blocks = raw.as_chunks().0.iter();
    for (index, (block, out)) in blocks.zip(out.as_chunks_mut().0).enumerate() {
        *out = convert(block).ok_or(index)?;
    }
    Ok(())
}

/// An f16 times a power of two, `None` when either is not finite.
fn scaled(bytes: [u8; 2], factor: f32) -> Option<[u8; 2]> {
    let scaled = f16::from_f32(f16::from_le_bytes(bytes).to_f32() * factor);
    scaled.is_finite().then(|| scaled.to_le_bytes())
}

/// ggml keeps elements 0 to 15 in the low halves of the bytes and 16 to 31 in the high ones; MLX has element 2i in the
/// low half of byte i and element 2i + 1 in the high one.
fn nibbles(q: &[u8; 16]) -> [u8; 16] {
    let q = u128::from_le_bytes(*q);
    let low = u128::from(paired(q));
    let high = u128::from(paired(q >> 4));
    (low | high << 64).to_le_bytes()
}

/// The low halves of sixteen bytes, two to a byte.
fn paired(bytes: u128) -> u64 {
    let halves = bytes & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    let pairs = (halves | halves >> 4) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    let pairs = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    let pairs = (pairs | pairs >> 16) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    (pairs | pairs >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ggml's definition of a block's values.
    fn reference(packing: Packing, block: &[u8]) -> Vec<f32> {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let nibble = |from: usize, i: usize| match i {
            0..16 => f32::from(block[from + i] & 15),
            _ => f32::from(block[from + i - 16] >> 4),
        };
        (0..GROUP)
            .map(|i| match packing {
                Packing::Q4_0 => (nibble(2, i) - 8.0) * half(0),
                Packing::Q4_1 => nibble(4, i) * half(0) + half(2),
                Packing::Q8_0 => f32::from(block[2 + i] as i8) * half(0),
            })
            .collect()
    }

    fn parts(packing: Packing, raw: &[u8]) -> Result<[Vec<u8>; 3], usize> {
        let mut parts = [Part::Weight, Part::Scales, Part::Biases].map(|part| (part, Vec::new()));
        for (part, out) in &mut parts {
            out.resize(raw.len() / packing.block() * part.bytes(packing), 0);
            repack(packing, *part, raw, out)?;
        }
        Ok(parts.map(|(_, out)| out))
    }

    /// MLX's definition of a triplet's values.
    fn values(packing: Packing, [weight, scales, biases]: &[Vec<u8>; 3]) -> Vec<f32> {
        let half = |bytes: &[u8], at: usize| f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32();
        let per = 32 / packing.bits();
        (0..weight.len() * 8 / packing.bits())
            .map(|i| {
                let word = &weight[i / per * 4..][..4];
                let word = u32::from_le_bytes(word.try_into().unwrap());
                let q = word >> (i % per * packing.bits()) & ((1 << packing.bits()) - 1);
                q as f32 * half(scales, i / GROUP) + half(biases, i / GROUP)
            })
            .collect()
    }

    #[test]
    fn triplets_stand_for_ggmls_values_exactly() {
        let mut random = fastrand::Rng::with_seed(7);
        for packing in [Packing::Q4_0, Packing::Q4_1, Packing::Q8_0] {
            for _ in 0..200 {
                let mut raw = Vec::new();
                for _ in 0..5 {
                    let mut block: Vec<u8> = (0..packing.block()).map(|_| random.u8(..)).collect();
                    // Any finite f16 below 256, subnormal ones too.
                    for high in [1, 3] {
                        block[high] = block[high] & 0x80 | random.u8(0..0x5c);
                    }
                    raw.extend(block);
                }
                let expected: Vec<f32> =
                    raw.chunks(packing.block()).flat_map(|block| reference(packing, block)).collect();
                assert_eq!(values(packing, &parts(packing, &raw).unwrap()), expected);
            }
        }
    }

    #[test]
    fn nibbles_go_where_mlx_reads_them() {
        let block: [u8; 16] = std::array::from_fn(|i| i as u8 | (15 - i as u8) << 4);
        let packed = nibbles(&block);
        assert_eq!(packed[..3], [0x10, 0x32, 0x54]);
        assert_eq!(packed[8..11], [0xef, 0xcd, 0xab]);
    }

    #[test]
    fn a_scale_or_bias_that_is_not_finite_is_refused_by_its_block() {
        for (packing, largest, too_large) in
            [(Packing::Q4_0, 8188.0, 8192.0), (Packing::Q8_0, 511.75, 512.0), (Packing::Q4_1, 65504.0, f32::INFINITY)]
        {
            let block = |d: f32| {
                let mut block = vec![0; packing.block()];
                block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                block
            };
            assert!(parts(packing, &[block(0.0), block(largest)].concat()).is_ok());
            assert!(parts(packing, &[block(0.0), block(-largest)].concat()).is_ok());
            for d in [too_large, f32::NAN, f32::NEG_INFINITY] {
                assert_eq!(parts(packing, &[block(0.0), block(d)].concat()), Err(1));
            }
        }
    }
}
