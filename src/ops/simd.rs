//! Vectorised building blocks. Plain loops over fixed-size lanes, compiled for the widest vector
//! unit at hand by `pulp`; the number of lanes in a sum is fixed, so bits do not depend on it.

use std::sync::LazyLock;

use pulp::Arch;

/// The widest vector unit at hand. Tests of narrower ones are built with `PATCHLENS_VECTORS` set
/// to `8` (AVX2, no AVX-512) or `none`: see `variants` in `.ci/run`.
pub(super) static ARCH: LazyLock<Arch> = LazyLock::new(|| match option_env!("PATCHLENS_VECTORS") {
    None => Arch::new(),
    Some("none") => Arch::Scalar,
    #[cfg(target_arch = "x86_64")]
    Some("8") => Arch::V3(pulp::x86::V3::try_new().expect("built for vectors of 8")),
    Some(other) => panic!("built with PATCHLENS_VECTORS={other}; expected 8 or none"),
});

/// The name of the vector unit in use: `AVX-512`, `AVX2`, `NEON`, `scalar`.
pub(crate) fn vector_unit() -> &'static str {
    match *ARCH {
        Arch::Scalar => "scalar",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(_) => "NEON",
        _ => "other vectors",
    }
}

/// Number of partial sums in every reduction.
pub(super) const LANES: usize = 16;

/// Runs `f` compiled for the machine's vector unit. `f` and what it calls must be
/// `inline(always)`: what is not inlined is compiled for the least machine, where every `mul_add`
/// is a function call.
#[inline]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// `exp(x)` by range reduction and a polynomial of degree 6: relative error below 2.5e-7 on
/// [-87, 88]; exactly 0 below -87, so that masked scores vanish; saturated above 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer.
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts, so that n * ln 2 loses nothing.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.388_888_9e-3_f32;
    p = p.mul_add(r, 8.333_334e-3);
    p = p.mul_add(r, 4.166_666_6e-2);
    p = p.mul_add(r, 1.666_666_7e-1);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    let exponent =
        (shifted.to_bits().wrapping_sub(SHIFT.to_bits()) << 23).wrapping_add(0x3f80_0000);
    let y = p * f32::from_bits(exponent);
    // NaN stays NaN: the comparison is false and `clamp` keeps it.
    if x < -87.0 { 0.0 } else { y }
}

/// Folds a slice into [`LANES`] partial results, index modulo lanes, then those pairwise.
#[inline(always)]
pub(super) fn reduce(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *v);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane = f(*lane, *v);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of a slice.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    reduce(x, 0.0, |a, b| a + b)
}

/// The product of two slices, in [`LANES`] partial sums.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let ((a_chunks, a_tail), (b_chunks, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane = a.mul_add(*b, *lane);
    }
    sum(&lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_stays_within_its_stated_error() {
        let mut worst = 0.0_f64;
        for i in 0..=1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.5e-7, "worst relative error {worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn trailing_zeros_do_not_change_a_sum() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 * 0.37).sin().abs()).collect();
        let mut padded = x.clone();
        padded.resize(64, 0.0);
        assert_eq!(sum(&x).to_bits(), sum(&padded).to_bits());
    }
}
