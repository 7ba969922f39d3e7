//! Singular values of feature maps, and the richness scores computed from them.

use faer::Mat;
use pulp::{Arch, Simd, WithSimd};

/// Remove the all-zero rows and columns of a map. Maps after a `ReLU` have many, and without them only zeros are missing among
/// the singular values.
///
/// Returns the pixels in row-major order, and the numbers of rows and columns. Copies to `buffer` only if it removes a line.
pub(crate) fn drop_zeros<'a>(
    pixels: &'a [f32],
    height: usize,
    width: usize,
    buffer: &'a mut Vec<f32>,
) -> (&'a [f32], usize, usize) {
    let mut columns = vec![0u32; width];
    let mut rows = Vec::with_capacity(height);
    Arch::new().dispatch(Occupied { pixels, columns: &mut columns, rows: &mut rows });
    let kept: Vec<usize> = (0..width).filter(|&column| columns[column] != 0).collect();
    if rows.len() == height && kept.len() == width {
        return (pixels, height, width);
    }
    buffer.clear();
    for &row in &rows {
        let line = &pixels[row * width..(row + 1) * width];
        buffer.extend(kept.iter().map(|&column| line[column]));
    }
    (buffer, rows.len(), kept.len())
}

/// Finds the rows and columns that are not all zero: sets `columns` to nonzero numbers, and pushes indices to `rows`.
struct Occupied<'a> {
    pixels: &'a [f32],
    columns: &'a mut [u32],
    rows: &'a mut Vec<usize>,
}

impl WithSimd for Occupied<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (row, line) in self.pixels.chunks_exact(self.columns.len()).enumerate() {
            let mut any = 0;
            for (column, &pixel) in self.columns.iter_mut().zip(line) {
                // All bits except the sign: minus zero is zero too.
                let bits = pixel.to_bits() << 1;
                *column |= bits;
                any |= bits;
            }
            if any != 0 {
                self.rows.push(row);
            }
        }
    }
}

/// Singular values in descending order, in float64. The pixels must be finite.
pub(crate) fn singular_values(pixels: &[f32], height: usize, width: usize) -> Vec<f64> {
    let mut buffer = Vec::new();
    let (dense, rows, columns) = drop_zeros(pixels, height, width, &mut buffer);
    singular_values_of(dense, rows, columns)
}

/// As `singular_values`, for a matrix without all-zero rows and columns.
pub(crate) fn singular_values_of(pixels: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    if rows == 0 {
        return Vec::new();
    }
    // Scale to a largest magnitude of 1, so that squares neither overflow nor underflow.
    let largest = pixels.iter().fold(0.0f32, |largest, pixel| largest.max(pixel.abs()));
    let scale = f64::from(largest);
    let matrix = Mat::from_fn(rows, columns, |row, column| f64::from(pixels[row * columns + column]) / scale);
    let values = matrix.singular_values().expect("the singular values of a finite matrix converge");
    values.into_iter().map(|value| value * scale).collect()
}

/// exp of the Shannon entropy of the singular values divided by their sum; 0 for an all-zero map.
///
/// Source: Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality.
pub(crate) fn effective_rank(pixels: &[f32], height: usize, width: usize) -> f64 {
    let values = singular_values(pixels, height, width);
    let sum: f64 = values.iter().sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let shares = values.iter().map(|value| value / sum).filter(|&share| share > 0.0);
    (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
}

/// Sum of the singular values over sqrt(min(H, W)) times the Frobenius norm, between 0 and 1; 0 for an all-zero map.
pub(crate) fn nuclear(pixels: &[f32], height: usize, width: usize) -> f64 {
    let values = singular_values(pixels, height, width);
    let square: f64 = values.iter().map(|value| value * value).sum();
    if square <= 0.0 {
        return 0.0;
    }
    values.iter().sum::<f64>() / (square * height.min(width) as f64).sqrt()
}
