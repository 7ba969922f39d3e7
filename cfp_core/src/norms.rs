//! Frobenius norms of feature maps.

use rayon::prelude::*;

use crate::{threads, CoreError, Maps};

/// Frobenius norm of every map, \[N * C\] in image-major order, summed in float64.
///
/// # Errors
/// A map holds NaN or infinity.
pub fn norms(maps: &Maps) -> Result<Vec<f64>, CoreError> {
    let [images, channels, ..] = maps.shape();
    let mut found = vec![0.0; images * channels];
    threads::run(|| {
        found.par_iter_mut().enumerate().try_for_each_init(Vec::new, |buffer, (index, norm)| {
            let (image, channel) = (index / channels, index % channels);
            *norm = plane_norm(maps.plane(image, channel, buffer));
            if norm.is_finite() {
                Ok(())
            } else {
                Err(CoreError::NotFinite { tap: String::new(), image, channel })
            }
        })
    })??;
    Ok(found)
}

/// Frobenius norm of one map; NaN or infinite if and only if a pixel is, since squares of float32 fit in float64.
pub(crate) fn plane_norm(pixels: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let blocks = pixels.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (sum, &pixel) in sums.iter_mut().zip(block) {
            *sum += f64::from(pixel) * f64::from(pixel);
        }
    }
    let tail: f64 = rest.iter().map(|&pixel| f64::from(pixel) * f64::from(pixel)).sum();
    (sums.iter().sum::<f64>() + tail).sqrt()
}
