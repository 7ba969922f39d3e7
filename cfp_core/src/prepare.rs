//! The passes over the pixels of a map that scores begin with: its norm, its pixels rounded.

use pulp::{Arch, Simd, WithSimd};

/// Frobenius norm of one map in float64; NaN or infinite if and only if a pixel is, since squares of float32 fit in float64.
pub(crate) fn plane_norm(pixels: &[f32]) -> f64 {
    Arch::new().dispatch(Norm(pixels))
}

/// The factor 10^`decimals` in float32, as `numpy.round` uses it.
pub(crate) fn scale(decimals: u32) -> f32 {
    10f32.powi(decimals.min(38).cast_signed())
}

/// Round `pixels` to `rounded` as `numpy.round` does in float32: scale, round half to even, scale back.
///
/// A pixel whose scaled value overflows is an integer already and stays as it is.
pub(crate) fn round(pixels: &[f32], scale: f32, rounded: &mut [f32]) {
    Arch::new().dispatch(Round { pixels, scale, rounded });
}

struct Norm<'a>(&'a [f32]);

impl WithSimd for Norm<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        match S::F64_LANES {
            8 => norm::<S, 1>(simd, self.0),
            4 => norm::<S, 2>(simd, self.0),
            2 => norm::<S, 4>(simd, self.0),
            _ => norm::<S, 8>(simd, self.0),
        }
    }
}

/// `N` registers hold 8 numbers.
#[inline(always)]
fn norm<S: Simd, const N: usize>(simd: S, pixels: &[f32]) -> f64 {
    // Which sum takes which pixel does not depend on the instruction set, so that all give the same bits.
    let mut sums = [[simd.splat_f64s(0.0); N]; 4];
    let (blocks, rest) = pixels.as_chunks::<8>();
    let (fours, blocks) = blocks.as_chunks::<4>();
    for four in fours {
        for (sums, block) in sums.iter_mut().zip(four) {
            add_squares(simd, sums, block);
        }
    }
    for (sums, block) in sums.iter_mut().zip(blocks) {
        add_squares(simd, sums, block);
    }
    let squares: &[f64] = pulp::bytemuck::cast_slice(sums.as_flattened());
    let tail: f64 = rest.iter().map(|&pixel| f64::from(pixel) * f64::from(pixel)).sum();
    (squares.iter().sum::<f64>() + tail).sqrt()
}

#[inline(always)]
fn add_squares<S: Simd, const N: usize>(simd: S, sums: &mut [S::f64s; N], block: &[f32; 8]) {
    let pixels = block.map(f64::from);
    for (sum, &pixel) in sums.iter_mut().zip(S::as_simd_f64s(&pixels).0) {
        *sum = simd.add_f64s(*sum, simd.mul_f64s(pixel, pixel));
    }
}

struct Round<'a> {
    pixels: &'a [f32],
    scale: f32,
    rounded: &'a mut [f32],
}

impl WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (target, &pixel) in self.rounded.iter_mut().zip(self.pixels) {
            let scaled = pixel * self.scale;
            let value = scaled.round_ties_even() / self.scale;
            *target = if scaled.abs() <= f32::MAX { value } else { pixel };
        }
    }
}

/// Whether a pixel is not zero.
pub(crate) fn is_live(pixels: &[f32]) -> bool {
    pixels.iter().any(|&pixel| pixel != 0.0)
}

#[cfg(test)]
mod tests {
    use super::{round, scale};

    #[test]
    fn rounds_half_to_even_in_float32() {
        let pixels = [0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 3.4, f32::MIN_POSITIVE];
        let mut rounded = [1.0; 8];
        round(&pixels, scale(0), &mut rounded);
        let expected: [f32; 8] = [0.0, -0.0, 0.0, 2.0, 2.0, -2.0, 3.0, 0.0];
        assert_eq!(rounded.map(f32::to_bits), expected.map(f32::to_bits));
    }

    #[test]
    fn a_scaled_value_that_overflows_stays_as_it_is() {
        let pixels = [3e38, -3e38, 1e30, 1e-40];
        let mut rounded = [0.0; 4];
        round(&pixels, scale(4), &mut rounded);
        assert_eq!([rounded[0].to_bits(), rounded[1].to_bits()], [pixels[0].to_bits(), pixels[1].to_bits()]);
        assert!((rounded[2] / pixels[2] - 1.0).abs() < 1e-6);
        assert_eq!(rounded[3].to_bits(), 0);
    }
}
