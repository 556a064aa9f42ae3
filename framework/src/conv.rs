//! Convolution over any number of axes, channels last.

use crate::{Error, Init, Param, Result, math};
use mlx_rs::{Array, ops};

/// `y[p] = b + Σₖ W[k] x[stride · p + dilation · k − before]`: `[B, spatial…, in]` → `[B, spatial…, out]`.
///
/// One struct for images, time and video: the number of windows is the number of spatial axes, and what the windows
/// say of their ends is all that separates an image model from a causal one.
///
/// ```
/// use framework::{Conv, Init, Pad, Window};
/// let mut init = Init::default();
/// // Halves both axes of an image; one zero after each axis.
/// let half = Window { stride: 2, pad: Pad::Explicit(0, 1), ..Window::same(3) };
/// let conv = Conv::new(8, 16, &[half; 2], &mut init)?;
/// let x = init.normal(&[1, 10, 7, 8], 1.0)?.get();
/// assert_eq!(conv.forward(&x)?.shape(), [1, 5, 3, 16]);
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv {
    /// `[out, sizes…, in / groups]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// How the kernel moves, an axis each.
    pub windows: Vec<Window>,
    /// Into how many groups the channels fall that do not see each other.
    pub groups: i32,
}
crate::module! { impl[] Conv { weight, bias } }

/// One axis of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Positions that an output sees.
    pub size: i32,
    /// Steps from an output to the next.
    pub stride: i32,
    /// Steps from a position that is seen to the next.
    pub dilation: i32,
    /// How far the input is extended at its ends.
    pub pad: Pad,
    /// What it is extended with.
    pub fill: Fill,
}

impl Window {
    /// Keeps the length, with zeros around.
    pub const fn same(size: i32) -> Self {
        Self { size, stride: 1, dilation: 1, pad: Pad::Same, fill: Fill::Zeros }
    }

    /// Keeps the length, and an output sees nothing behind it, with zeros in front.
    pub const fn causal(size: i32) -> Self {
        Self { pad: Pad::Causal, ..Self::same(size) }
    }

    /// From the first to the last position that is seen.
    fn reach(&self) -> i32 {
        self.dilation.saturating_mul(self.size.saturating_sub(1))
    }

    /// By how much the input grows before and after.
    fn ends(&self) -> (i32, i32) {
        let reach = self.reach();
        match self.pad {
            Pad::Same => (reach / 2, reach - reach / 2),
            Pad::Causal => (reach, 0),
            Pad::Explicit(before, after) => (before, after),
        }
    }
}

/// How far an axis is extended before a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// On both sides alike, so that stride 1 keeps the length; an odd one goes behind.
    Same,
    /// In front only: time.
    Causal,
    /// So many before and after.
    Explicit(i32, i32),
}

/// What an axis is extended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// 0.
    Zeros,
    /// The first and the last position, again and again.
    Replicate,
    /// The positions before the end, mirrored; the end itself is not repeated.
    Reflect,
    /// The positions from the other end.
    Circular,
}

impl Conv {
    /// A convolution with a bias that begins as PyTorch's: uniform in ±1/√(in · ∏ sizes).
    ///
    /// # Errors
    /// When a channel count, a size, a stride or a dilation is not positive, or a pad is negative.
    pub fn new(input: i32, output: i32, windows: &[Window], init: &mut Init) -> Result<Self> {
        Self::grouped(input, output, 1, windows, init)
    }

    /// As [`new`](Self::new), with channels in groups that do not see each other.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the groups do not divide both channel counts.
    pub fn grouped(input: i32, output: i32, groups: i32, windows: &[Window], init: &mut Init) -> Result<Self> {
        let split = |channels: i32| channels > 0 && channels.checked_rem(groups) == Some(0);
        if groups < 1 || !split(input) || !split(output) {
            let problem = format!("{input} and {output} channels do not fall into {groups} groups");
            return Err(Error::argument("channels", problem));
        }
        let least = |window: &Window| window.size.min(window.stride).min(window.dilation);
        let cut = |window: &Window| window.ends().0.min(window.ends().1) < 0;
        if let Some(window) = windows.iter().find(|window| least(window) < 1 || cut(window)) {
            return Err(Error::argument("window", format!("{window:?} has a number that is too small")));
        }
        let mut shape = vec![output];
        shape.extend(windows.iter().map(|window| window.size));
        shape.push(input / groups);
        let seen: f32 = shape.iter().skip(1).map(|&length| length as f32).product();
        let bound = seen.sqrt().recip();
        Ok(Self {
            weight: init.uniform(&shape, bound)?,
            bias: Some(init.uniform(&[output], bound)?),
            windows: windows.to_vec(),
            groups,
        })
    }

    /// `[B, spatial…, in]` → `[B, spatial…, out]`.
    ///
    /// # Errors
    /// When `x` has another number of axes or channels, or is shorter than a window.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let rank = self.windows.len();
        if x.ndim() != rank + 2 {
            let problem = format!("shape {:?} where {rank} spatial axes stand between batch and channels", x.shape());
            return Err(Error::argument("x", problem));
        }
        let mut x = x.clone();
        let mut zeros = vec![(0, 0); rank + 2];
        for ((axis, window), zeros) in (1..).zip(&self.windows).zip(zeros.iter_mut().skip(1)) {
            let (before, after) = window.ends();
            match window.fill {
                Fill::Zeros => *zeros = (before, after),
                fill => x = extended(&x, axis, before, after, fill)?,
            }
        }
        // The kernel of a convolution pads by itself where both sides are alike, without a copy.
        let mut padding: Vec<i32> = zeros.iter().skip(1).take(rank).map(|&(before, _)| before).collect();
        if zeros.iter().any(|(before, after)| before != after) {
            x = ops::pad(&x, &zeros[..], None, None)?;
            padding.fill(0);
        }
        let strides: Vec<i32> = self.windows.iter().map(|window| window.stride).collect();
        let dilations: Vec<i32> = self.windows.iter().map(|window| window.dilation).collect();
        let weight = self.weight.get();
        let y =
            ops::conv_general(x, weight, &strides[..], &padding[..], &dilations[..], None, Some(self.groups), None)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| math::add(&y, &bias.get()))
    }
}

/// `x` with positions of its own before and after an axis.
fn extended(x: &Array, axis: i32, before: i32, after: i32, fill: Fill) -> Result<Array> {
    if (before, after) == (0, 0) {
        return Ok(x.clone());
    }
    let length = x.shape().get(axis as usize).copied().unwrap_or(0);
    let longest = match fill {
        Fill::Zeros | Fill::Replicate if length > 0 => i32::MAX - length,
        Fill::Circular => length,
        _ => length - 1,
    };
    if before < 0 || after < 0 || before.max(after) > longest {
        let problem = format!("axis {axis} of length {length} cannot be extended by ({before}, {after}) with {fill:?}");
        return Err(Error::argument("x", problem));
    }
    let own = |place: i32| match fill {
        Fill::Zeros | Fill::Replicate => place.clamp(0, length - 1),
        Fill::Reflect if place < 0 => -place,
        Fill::Reflect if place >= length => 2 * (length - 1) - place,
        Fill::Reflect => place,
        Fill::Circular => place.rem_euclid(length),
    };
    let places: Vec<i32> = (-before..length.saturating_add(after)).map(own).collect();
    let count = places.len() as i32;
    Ok(x.take_axis(math::array(&places, &[count])?, axis)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILLS: [Fill; 4] = [Fill::Zeros, Fill::Replicate, Fill::Reflect, Fill::Circular];

    /// Row-major places of an array of this shape.
    fn places(shape: &[i32]) -> Vec<Vec<i32>> {
        shape.iter().fold(vec![vec![]], |places, &length| {
            let longer = |place: &Vec<i32>| {
                let place = place.clone();
                (0..length).map(move |next| [&place[..], &[next]].concat()).collect::<Vec<_>>()
            };
            places.iter().flat_map(longer).collect()
        })
    }

    fn at(shape: &[i32], place: &[i32]) -> usize {
        shape.iter().zip(place).fold(0, |offset, (&length, &place)| offset * length as usize + place as usize)
    }

    /// Where a position outside `0..length` takes its value from; walks there step by step.
    fn source(mut place: i32, length: i32, fill: Fill) -> Option<i32> {
        while !(0..length).contains(&place) {
            place = match (fill, place < 0) {
                (Fill::Zeros, _) => return None,
                (Fill::Replicate, true) => 0,
                (Fill::Replicate, false) => length - 1,
                (Fill::Reflect, true) => -place,
                (Fill::Reflect, false) => 2 * length - 2 - place,
                (Fill::Circular, true) => place + length,
                (Fill::Circular, false) => place - length,
            };
        }
        Some(place)
    }

    /// The definition, element by element.
    fn naive(conv: &Conv, x: &Array) -> (Vec<i32>, Vec<f32>) {
        let rank = conv.windows.len();
        let (input, kernel) = (x.shape().to_vec(), conv.weight.shape());
        let data = math::read::<f32>(x).unwrap();
        let weight = math::read::<f32>(&conv.weight.get()).unwrap();
        let bias = math::read::<f32>(&conv.bias.as_ref().unwrap().get()).unwrap();
        let (outputs, inner) = (kernel[0], kernel[rank + 1]);
        let mut shape = vec![input[0]];
        for (window, length) in conv.windows.iter().zip(&input[1..]) {
            let (before, after) = window.ends();
            shape.push((length + before + after - window.dilation * (window.size - 1) - 1) / window.stride + 1);
        }
        shape.push(outputs);
        let value = |place: &Vec<i32>| {
            let output = place[rank + 1];
            let group = output / (outputs / conv.groups);
            let mut sum = f64::from(bias[output as usize]);
            for tap in places(&kernel[1..]) {
                let from = (0..rank).map(|axis| {
                    let window = conv.windows[axis];
                    let seen = place[axis + 1] * window.stride + tap[axis] * window.dilation - window.ends().0;
                    source(seen, input[axis + 1], window.fill)
                });
                let Some(from) = from.collect::<Option<Vec<i32>>>() else { continue };
                let from = [&[place[0]], &from[..], &[group * inner + tap[rank]]].concat();
                let weight = weight[at(&kernel, &[&[output], &tap[..]].concat())];
                sum += f64::from(weight) * f64::from(data[at(&input, &from)]);
            }
            sum as f32
        };
        let values = places(&shape).iter().map(value).collect();
        (shape, values)
    }

    fn agree(conv: &Conv, x: &Array) {
        let y = conv.forward(x).unwrap();
        let (shape, expected) = naive(conv, x);
        assert_eq!(y.shape(), shape, "{:?}", conv.windows);
        for (found, expected) in math::read::<f32>(&y).unwrap().iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}: {:?}", conv.windows);
        }
    }

    #[test]
    fn every_pad_and_fill_of_every_rank_is_the_definition() {
        let mut init = Init::default();
        for shape in [&[2, 7, 4][..], &[2, 6, 5, 4], &[1, 5, 4, 3, 4]] {
            let x = init.normal(shape, 1.0).unwrap().get();
            let rank = shape.len() - 2;
            for pad in [Pad::Same, Pad::Causal, Pad::Explicit(0, 1), Pad::Explicit(2, 0), Pad::Explicit(0, 0)] {
                for fill in FILLS {
                    for stride in [1, 2] {
                        let window = Window { stride, pad, fill, ..Window::same(3) };
                        agree(&Conv::new(4, 3, &vec![window; rank], &mut init).unwrap(), &x);
                    }
                }
            }
        }
    }

    #[test]
    fn axes_differ() {
        // A video's: time is causal and repeats the first frame, space is surrounded by zeros.
        let mut init = Init::default();
        let time = Window { fill: Fill::Replicate, ..Window::causal(3) };
        let windows = [time, Window::same(3), Window { stride: 2, pad: Pad::Explicit(0, 1), ..Window::same(2) }];
        let x = init.normal(&[1, 4, 3, 5, 2], 1.0).unwrap().get();
        agree(&Conv::new(2, 3, &windows, &mut init).unwrap(), &x);
    }

    #[test]
    fn a_causal_output_does_not_see_what_follows() {
        let mut init = Init::default();
        let conv = Conv::new(1, 1, &[Window { dilation: 2, ..Window::causal(3) }], &mut init).unwrap();
        let x = init.normal(&[1, 9, 1], 1.0).unwrap().get();
        let whole = math::read::<f32>(&conv.forward(&x).unwrap()).unwrap();
        let start = math::read::<f32>(&conv.forward(&math::slice(&x, 1, 0, 4).unwrap()).unwrap()).unwrap();
        assert_eq!(whole[..4], start);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut init = Init::default();
        assert!(Conv::new(0, 3, &[Window::same(3)], &mut init).is_err());
        assert!(Conv::new(4, 3, &[Window::same(0)], &mut init).is_err());
        assert!(Conv::new(4, 3, &[Window { pad: Pad::Explicit(0, -1), ..Window::same(3) }], &mut init).is_err());
        assert!(Conv::grouped(4, 3, 2, &[Window::same(3)], &mut init).is_err());
        assert!(Conv::grouped(4, 4, 0, &[Window::same(3)], &mut init).is_err());
        let conv = |window| Conv::new(2, 2, &[window], &mut Init::default()).unwrap();
        let reflect = conv(Window { fill: Fill::Reflect, ..Window::same(5) });
        let open = conv(Window { pad: Pad::Explicit(0, 0), ..Window::same(5) });
        let circular = conv(Window { fill: Fill::Circular, ..Window::causal(5) });
        for conv in [reflect, open, circular] {
            assert!(conv.forward(&Array::zeros::<f32>(&[1, 2, 2]).unwrap()).is_err(), "too short");
            assert!(conv.forward(&Array::zeros::<f32>(&[1, 9, 3]).unwrap()).is_err(), "channels");
            assert!(conv.forward(&Array::zeros::<f32>(&[1, 9, 9, 2]).unwrap()).is_err(), "axes");
            assert!(conv.forward(&Array::zeros::<f32>(&[1, 9, 2]).unwrap()).is_ok());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_window_is_the_definition(
            size in 1..4, stride in 1..4, dilation in 1..3, before in 0..3, after in 0..3, fill in 0usize..4,
            groups in 1..3, height in 5..9, width in 5..9,
        ) {
            let pad = Pad::Explicit(before, after);
            let window = Window { size, stride, dilation, pad, fill: FILLS[fill] };
            let mut init = Init::default();
            let conv = Conv::grouped(2, 4, groups, &[window, Window::same(3)], &mut init).unwrap();
            agree(&conv, &init.normal(&[1, height, width, 2], 1.0).unwrap().get());
        }
    }
}
