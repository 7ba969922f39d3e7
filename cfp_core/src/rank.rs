//! Numerical rank of feature maps.

use faer::Mat;
use rayon::prelude::*;

use crate::{threads, CoreError, Maps};

/// The float32 machine epsilon, 2^-23.
const EPSILON: f64 = f32::EPSILON as f64;

/// Rank of every map, \[N * C\] in image-major order.
///
/// # Errors
/// A map holds NaN or infinity.
pub fn matrix_ranks(maps: &Maps) -> Result<Vec<u32>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let mut found = vec![0; images * channels];
    threads::run(|| {
        found.par_iter_mut().enumerate().try_for_each_init(Vec::new, |buffer, (index, value)| {
            let (image, channel) = (index / channels, index % channels);
            let pixels = maps.plane(image, channel, buffer);
            if pixels.iter().any(|pixel| !pixel.is_finite()) {
                return Err(CoreError::NotFinite { tap: String::new(), image, channel });
            }
            *value = rank(pixels, height, width);
            Ok(())
        })
    })??;
    Ok(found)
}

/// Rank of one map \[H * W\]: the number of singular values above `s_max * max(H, W) * 2^-23`; 0 for an all-zero map.
///
/// This is the default rule of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32, with the singular
/// values taken in float64. The pixels must be finite.
#[must_use]
pub fn rank(pixels: &[f32], height: usize, width: usize) -> u32 {
    let values = singular_values(pixels, height, width);
    let largest = values.first().copied().unwrap_or(0.0);
    let threshold = largest * height.max(width) as f64 * EPSILON;
    values.iter().filter(|&&value| value > threshold).count() as u32
}

/// Singular values in descending order. All-zero rows and columns, of which maps after a `ReLU` have many, are dropped.
pub(crate) fn singular_values(pixels: &[f32], height: usize, width: usize) -> Vec<f64> {
    let rows: Vec<usize> =
        (0..height).filter(|&row| pixels[row * width..(row + 1) * width].iter().any(|&pixel| pixel != 0.0)).collect();
    let columns: Vec<usize> =
        (0..width).filter(|&column| rows.iter().any(|&row| pixels[row * width + column] != 0.0)).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let matrix =
        Mat::from_fn(rows.len(), columns.len(), |row, column| f64::from(pixels[rows[row] * width + columns[column]]));
    // The iteration fails on matrices that are not finite only, which callers exclude.
    matrix.singular_values().unwrap_or_default()
}
