//! Structural distance between channels by the norms of their maps.

use pulp::{Arch, Simd, WithSimd};

use crate::condensed::{pairs, rows, Rows};
use crate::panels::{self, at_once, panels_from};
use crate::tile::{add_differences, zeros, Tile};
use crate::{threads, CoreError};

/// Condensed distances d(i, j) = mean over n of |norm(n, i) - norm(n, j)| / height, for all i < j in `SciPy`'s order.
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
    if channels == 0 || norms.is_empty() || !norms.len().is_multiple_of(channels) || height == 0 {
        return Err(CoreError::Shape {
            tap: String::new(),
            expected: "norms [N, C] with N, C and height at least 1".into(),
            found: vec![norms.len(), channels, height],
        });
    }
    let images = norms.len() / channels;
    let lanes = panels::lanes();
    let panels = panels::of_rows(norms, channels);
    let scale = 1.0 / (images as f64 * height as f64);
    let mut distances = vec![0.0; pairs(channels)];
    threads::for_each(rows(&mut distances, channels, lanes), |rows| {
        Arch::new().dispatch(Differences { panels: &panels, images, scale, rows });
    })?;
    Ok(distances)
}

/// The distances of one panel of channels from all later ones.
struct Differences<'a> {
    panels: &'a [f64],
    images: usize,
    scale: f64,
    rows: Rows<'a>,
}

impl WithSimd for Differences<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F64_LANES {
            8 => self.all::<S, 8>(simd),
            4 => self.all::<S, 4>(simd),
            2 => self.all::<S, 2>(simd),
            _ => self.all::<S, 1>(simd),
        }
    }
}

impl Differences<'_> {
    #[inline(always)]
    fn all<S: Simd, const M: usize>(&mut self, simd: S) {
        let count = self.panels.len() / (self.images * M);
        let mut panel = self.rows.first / M;
        while panel < count {
            panel += match (count - panel).min(at_once::<S, M>()) {
                1 => self.tile::<S, M, 1>(simd, panel),
                2 => self.tile::<S, M, 2>(simd, panel),
                _ => self.tile::<S, M, 3>(simd, panel),
            };
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, panel: usize) -> usize {
        let first = self.rows.first;
        let left = &self.panels[first * self.images..(first + M) * self.images];
        let right = panels_from(S::as_simd_f64s(self.panels).0, self.images, panel);
        let tile: Tile<S, M, N> = add_differences(simd, zeros(simd), left, right);
        let scale = self.scale;
        for (row, values) in tile.iter().enumerate() {
            let values = pulp::bytemuck::cast_slice(values);
            self.rows.change(first + row, panel * M, values, |kept, _, sum| *kept = sum * scale);
        }
        N
    }
}
