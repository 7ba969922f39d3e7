//! Structural distance between channels by the norms of their maps.

use rayon::prelude::*;

use crate::{threads, CoreError};

/// Condensed distances d(i, j) = mean over n of |norm(n, i) - norm(n, j)| / height, for all i < j in SciPy's order.
///
/// Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity of feature maps.
///
/// * `norms`: Frobenius norms \[N * C\] in image-major order.
/// * `channels`: C.
/// * `height`: height of a map in pixels.
///
/// # Errors
/// There is no image or no channel, the sizes do not fit, or the height is zero.
pub fn pairwise_distance(norms: &[f64], channels: usize, height: usize) -> Result<Vec<f64>, CoreError> {
    if channels == 0 || norms.is_empty() || norms.len() % channels != 0 || height == 0 {
        return Err(CoreError::Shape {
            tap: String::new(),
            expected: "norms [N, C] with N, C and height at least 1".into(),
            found: vec![norms.len(), channels, height],
        });
    }
    let images = norms.len() / channels;
    // Channel-major, so that a pair reads two runs of memory.
    let mut columns = vec![0.0; norms.len()];
    for (image, row) in norms.chunks_exact(channels).enumerate() {
        for (channel, &norm) in row.iter().enumerate() {
            columns[channel * images + image] = norm;
        }
    }
    let mut distances = vec![0.0; channels * (channels - 1) / 2];
    let mut rows = Vec::with_capacity(channels);
    let mut rest = distances.as_mut_slice();
    for first in 0..channels {
        let (row, others) = rest.split_at_mut(channels - 1 - first);
        rows.push((first, row));
        rest = others;
    }
    let scale = 1.0 / (images as f64 * height as f64);
    threads::run(|| {
        rows.into_par_iter().for_each(|(first, row)| {
            let one = &columns[first * images..(first + 1) * images];
            for (offset, distance) in row.iter_mut().enumerate() {
                let second = first + 1 + offset;
                *distance = sum_of_differences(one, &columns[second * images..(second + 1) * images]) * scale;
            }
        });
    })?;
    Ok(distances)
}

fn sum_of_differences(one: &[f64], other: &[f64]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let blocks = one.chunks_exact(LANES).zip(other.chunks_exact(LANES));
    for (a, b) in blocks {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (a - b).abs();
        }
    }
    let start = one.len() / LANES * LANES;
    let tail: f64 = one[start..].iter().zip(&other[start..]).map(|(a, b)| (a - b).abs()).sum();
    sums.iter().sum::<f64>() + tail
}
