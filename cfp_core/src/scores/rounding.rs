//! Rounds the pixels of maps to decimals.

use pulp::{Arch, Simd, WithSimd};

/// The factor 10^`decimals` in float32, as `numpy.round` uses it.
pub(crate) fn scale(decimals: u32) -> f32 {
    10f32.powi(decimals.min(38).cast_signed())
}

/// Write the rounded `pixels` to `rounded`, as `numpy.round` does in float32: scale, round half to even, divide by the scale.
///
/// A pixel whose scaled value overflows is already an integer and is not changed.
pub(crate) fn round(pixels: &[f32], scale: f32, rounded: &mut [f32]) {
    Arch::new().dispatch(Round { pixels, scale, rounded });
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
    fn a_pixel_whose_scaled_value_overflows_is_unchanged() {
        let pixels = [3e38, -3e38, 1e30, 1e-40];
        let mut rounded = [0.0; 4];
        round(&pixels, scale(4), &mut rounded);
        assert_eq!([rounded[0].to_bits(), rounded[1].to_bits()], [pixels[0].to_bits(), pixels[1].to_bits()]);
        assert!((rounded[2] / pixels[2] - 1.0).abs() < 1e-6);
        assert_eq!(rounded[3].to_bits(), 0);
    }
}
