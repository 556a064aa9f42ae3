//! Elementary functions without a branch or a call, so that a loop over them runs on whole vectors.

/// eˣ within 2 units in the last place: 0 for −∞, ∞ from 88.73 on, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it leaves a rounded integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has few bits: its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];
    // Beyond these bounds the result is 0 or ∞; a NaN is not less than anything and stays.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let octaves = shifted - ROUND;
    let r = x - octaves * LN_2[0] - octaves * LN_2[1];
    // The series of eʳ for |r| ≤ ln 2 / 2.
    let rest = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * (1.0 / 6.0 + r * rest)));
    // 2ⁿ in two factors, since n goes further than an exponent does on either side.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2ⁿ for −127 < n < 128.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh, within 4 units in the last place.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    // Fitted to (tanh x − x) / x³ for |x| ≤ 0.65, to 7·10⁻⁹ of tanh.
    let z = x * x;
    let fitted = -0.333_332_63
        + z * (0.133_308_99 + z * (-0.053_692_963 + z * (0.020_483_306 + z * -0.005_528_624_6)));
    let near = x + x * (z * fitted);
    let far = (1.0 - 2.0 / (1.0 + exp(2.0 * size))).copysign(x);
    if size < 0.625 { near } else { far }
}

/// Φ, the normal distribution: 3 units in the last place for x ≥ −1, and below as precise as `x²` is.
#[inline(always)]
pub fn normal(x: f32) -> f32 {
    // Φ(−x) = e^{−x²/2} t G(t) with t = 1 / (1 + 0.35 x), the form of Abramowitz and Stegun, 26.2.17; G is fitted to a
    // relative 4·10⁻⁸ for x ≤ 13.5.
    const G: [f32; 9] = [
        0.139_621_57,
        0.139_859_08,
        0.119_852_44,
        0.105_432_93,
        -0.022_937_113,
        0.158_929_27,
        -0.255_504_58,
        0.143_872_26,
        -0.029_125_877,
    ];
    let size = x.abs();
    let t = 1.0 / (1.0 + 0.35 * size);
    let mut fitted = G[8];
    for place in (0..8).rev() {
        fitted = fitted * t + G[place];
    }
    let below = exp(-0.5 * size * size) * t * fitted;
    if x > 0.0 { 1.0 - below } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every float from −∞ to ∞, at a distance of some hundreds of thousands.
    fn everywhere() -> impl Iterator<Item = f32> {
        (0..u32::MAX).step_by(99_991).map(f32::from_bits)
    }

    /// The distance in units in the last place of the nearer to 0, at least those of the smallest normal number.
    fn apart(found: f32, expected: f64) -> f64 {
        let rounded = (expected as f32).abs();
        if found.to_bits() == (expected as f32).to_bits() || (found.is_nan() && expected.is_nan()) {
            return 0.0;
        }
        let rounded = rounded.clamp(f32::MIN_POSITIVE, f32::MAX);
        let unit = f64::from(rounded) - f64::from(f32::from_bits(rounded.to_bits() - 1));
        (f64::from(found) - expected).abs() / unit
    }

    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, inputs: impl Iterator<Item = f32>) -> f64 {
        inputs.map(|x| apart(f(x), exact(x.into()))).fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_within_two_units() {
        let close = (-110_000..95_000).map(|x| x as f32 * 1e-3);
        assert!(worst(exp, f64::exp, close.chain(everywhere())) < 2.0);
        assert_eq!([f32::NEG_INFINITY, -1e30, 0.0, -0.0, f32::INFINITY].map(exp), [0.0, 0.0, 1.0, 1.0, f32::INFINITY]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_four_units() {
        let close = (-10_000..10_000).map(|x| x as f32 * 1e-3);
        assert!(worst(tanh, f64::tanh, close.chain(everywhere())) < 4.0);
        assert_eq!([0.0, f32::INFINITY, f32::NEG_INFINITY].map(tanh), [0.0, 1.0, -1.0]);
    }

    #[test]
    fn sigmoids_end_at_0_and_1() {
        let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst(sigmoid, exact, (-80_000..80_000).map(|x| x as f32 * 1e-3)) < 4.0);
        assert_eq!([f32::NEG_INFINITY, 0.0, f32::INFINITY].map(sigmoid), [0.0, 0.5, 1.0]);
    }

    /// By tables of the normal distribution.
    #[test]
    fn the_normal_distribution_is_precise_in_its_tail() {
        for (x, expected) in [
            (-8.0, 6.220_960_574_271_785e-16),
            (-3.0, 1.349_898_031_630_094_6e-3),
            (-1.0, 0.158_655_253_931_457_05),
            (-0.1, 0.460_172_162_722_971),
            (0.0, 0.5),
            (0.1, 0.539_827_837_277_029),
            (1.0, 0.841_344_746_068_542_9),
            (3.0, 0.998_650_101_968_369_9),
        ] {
            let units = if x < -5.0 { 32.0 } else { 8.0 };
            assert!(apart(normal(x), expected) < units, "{x}: {}", normal(x));
        }
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(normal), [0.0, 1.0]);
        assert!(normal(f32::NAN).is_nan());
    }
}
