//! Structural distance between channels by the norms of their maps.

use pulp::Simd;

use crate::error::CoreError;
use crate::products::{
    add_differences, for_each_tile, lanes, pairs, panels_from, panels_of_rows, rows, zeros, Rows, Tile, TileKernel,
};
use crate::threads;

/// Condensed distances d(i, j) = mean over n of |norm(n, i) - norm(n, j)| / height, for all i < j in `SciPy`'s order.
///
/// Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity of feature maps.
///
/// * `norms`: Frobenius norms \[N * C\] in image-major order.
/// * `channels`: C.
/// * `height`: height of a map in pixels.
///
/// # Errors
/// There is no image or no channel, the number of norms is not a multiple of `channels`, or `height` is 0.
pub fn pairwise_distance(norms: &[f64], channels: usize, height: usize) -> Result<Vec<f64>, CoreError> {
    if channels == 0 || norms.is_empty() || !norms.len().is_multiple_of(channels) || height == 0 {
        return Err(CoreError::Shape {
            tap: String::new(),
            expected: "norms [N, C] with N, C and height at least 1".into(),
            found: vec![norms.len(), channels, height],
        });
    }
    let images = norms.len() / channels;
    let lanes = lanes();
    let panels = panels_of_rows(norms, channels);
    let scale = 1.0 / (images as f64 * height as f64);
    let mut distances = vec![0.0; pairs(channels)];
    threads::for_each(rows(&mut distances, channels, lanes), |rows| {
        let first = rows.first / lanes;
        for_each_tile(Differences { panels: &panels, images, scale, rows }, first, channels.div_ceil(lanes));
    })?;
    Ok(distances)
}

/// Writes the distances of one panel of channels from all later channels.
struct Differences<'a> {
    panels: &'a [f64],
    images: usize,
    scale: f64,
    rows: Rows<'a>,
}

impl TileKernel for Differences<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, first: usize, panel: usize) {
        let left = &self.panels[first * self.images * M..(first + 1) * self.images * M];
        let right = panels_from(S::as_simd_f64s(self.panels).0, self.images, panel);
        let tile: Tile<S, M, N> = add_differences(simd, zeros(simd), left, right);
        let scale = self.scale;
        for (row, values) in tile.iter().enumerate() {
            let sums = pulp::bytemuck::cast_slice(values);
            self.rows.update(first * M + row, panel * M, sums, |distance, _, sum| *distance = sum * scale);
        }
    }
}
