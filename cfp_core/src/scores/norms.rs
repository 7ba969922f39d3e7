//! Frobenius norms of feature maps.

use pulp::{Arch, Simd, WithSimd};

use crate::error::CoreError;
use crate::maps::Maps;
use crate::shares::{for_each_share, Share};

/// Frobenius norm of every map, \[N * C\] in image-major order, summed in float64.
///
/// # Errors
/// A map contains NaN or infinity.
pub fn norms(maps: &Maps) -> Result<Vec<f64>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let mut norms = vec![0.0; images * channels];
    for_each_share(&mut norms, maps, |Share { values, .. }, pixels| {
        for (norm, map) in values.iter_mut().zip(pixels.chunks_exact(height * width)) {
            *norm = norm_of(map);
        }
    })?;
    match norms.iter().position(|norm| !norm.is_finite()) {
        Some(index) => {
            let (image, channel) = (index / channels, index % channels);
            Err(CoreError::NotFinite { tap: String::new(), image, channel })
        }
        None => Ok(norms),
    }
}

/// Frobenius norm of one map in float64.
///
/// It is NaN or infinite if and only if a pixel is: squares of float32 numbers never overflow in float64.
pub(crate) fn norm_of(pixels: &[f32]) -> f64 {
    Arch::new().dispatch(Norm(pixels))
}

struct Norm<'a>(&'a [f32]);

impl WithSimd for Norm<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        match S::F64_LANES {
            8 => norm_in_registers::<S, 1>(simd, self.0),
            4 => norm_in_registers::<S, 2>(simd, self.0),
            2 => norm_in_registers::<S, 4>(simd, self.0),
            _ => norm_in_registers::<S, 8>(simd, self.0),
        }
    }
}

/// `N` registers together contain 8 numbers.
#[inline(always)]
fn norm_in_registers<S: Simd, const N: usize>(simd: S, pixels: &[f32]) -> f64 {
    // The assignment of pixels to sums is the same for every instruction set, so that the result is equal bit for bit.
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
