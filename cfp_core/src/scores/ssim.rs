//! Structural similarity (SSIM) of all pairs of channels of one image.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::range::range;
use crate::maps::Maps;
use crate::products::{
    add_product, for_each_tile, load, panels_from, store, zeros, ChannelPanels, PairTiles, Tile, TileKernel,
};

/// Side and stride of the windows in pixels.
const WINDOW: usize = 8;
const STRIDE: usize = 4;
/// The constants of SSIM: C1 = (K1 L)^2, C2 = (K2 L)^2.
const K1: f64 = 0.01;
const K2: f64 = 0.03;
/// Numbers in one batch of windows, so that the batch fits the caches.
const BATCH_NUMBERS: usize = 1 << 17;

/// Add the distances 1 - mean SSIM of one image's channels to condensed `sums`. Call it inside the thread pool.
///
/// Windows are uniform and of 8 x 8 pixels at stride 4. The last one ends at the border; a side below 8 pixels has one window.
/// Variances and covariances divide by the number of pixels. L is the range of all pixels of the tap on the image; where it
/// is 0, all distances are 0.
///
/// Source: Wang, Bovik, Sheikh and Simoncelli 2004, Image quality assessment: from error visibility to structural similarity.
pub(crate) fn add_ssim(maps: &Maps, image: usize, sums: &mut [f64]) {
    let [_, channels, height, width] = maps.shape();
    let (low, high) = range(maps, image);
    let range = f64::from(high) - f64::from(low);
    if range <= 0.0 {
        return;
    }
    let image = ChannelPanels::new(maps, image);
    let (panels, lanes) = (image.panels(), image.lanes);
    let window = (WINDOW.min(height), WINDOW.min(width));
    let positions: Vec<usize> = starts(height)
        .into_iter()
        .flat_map(|row| starts(width).into_iter().map(move |column| row * width + column))
        .collect();
    let pixels = window.0 * window.1;
    let batch = (BATCH_NUMBERS / (pixels * panels * lanes)).max(4).min(positions.len());
    let mut similarities = PairTiles::zeros(panels, lanes);
    let mut centred = vec![0.0; panels * batch * pixels * lanes];
    let mut moments = vec![0.0; panels * batch * 2 * lanes];
    for positions in positions.chunks(batch) {
        let count = positions.len();
        let centred = &mut centred[..panels * count * pixels * lanes];
        let moments = &mut moments[..panels * count * 2 * lanes];
        centred
            .par_chunks_exact_mut(count * pixels * lanes)
            .zip(moments.par_chunks_exact_mut(count * 2 * lanes))
            .enumerate()
            .for_each(|(panel, (centred, moments))| {
                let pixels = image.panel(panel);
                Arch::new().dispatch(Centre { pixels, positions, window, width, centred, moments });
            });
        let windows = Windows { centred, moments, pixels, count, c1: (K1 * range).powi(2), c2: (K2 * range).powi(2) };
        similarities.for_each_panel(|panel, sums| for_each_tile(Similarities { windows, sums }, panel, panels));
    }
    let scale = 1.0 / positions.len() as f64;
    similarities.add_to(sums, channels, |_, _, sum| 1.0 - sum * scale);
}

/// First pixels of the windows along a side.
fn starts(side: usize) -> Vec<usize> {
    let last = side.saturating_sub(WINDOW);
    let mut starts: Vec<usize> = (0..=last).step_by(STRIDE).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

/// Writes the windows that start at `positions`, in float64 and minus their means, and their means and variances.
struct Centre<'a> {
    pixels: &'a [f32],
    positions: &'a [usize],
    window: (usize, usize),
    width: usize,
    centred: &'a mut [f64],
    moments: &'a mut [f64],
}

impl WithSimd for Centre<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = S::F64_LANES;
        let (tall, wide) = self.window;
        let scale = simd.splat_f64s(1.0 / (tall * wide) as f64);
        let moments = S::as_mut_simd_f64s(self.moments).0.chunks_exact_mut(2);
        for ((&position, centred), moments) in
            self.positions.iter().zip(self.centred.chunks_exact_mut(tall * wide * lanes)).zip(moments)
        {
            for (row, centred) in centred.chunks_exact_mut(wide * lanes).enumerate() {
                let start = (position + row * self.width) * lanes;
                for (target, &pixel) in centred.iter_mut().zip(&self.pixels[start..start + wide * lanes]) {
                    *target = f64::from(pixel);
                }
            }
            let centred = S::as_mut_simd_f64s(centred).0;
            let mut sum = simd.splat_f64s(0.0);
            for &value in centred.iter() {
                sum = simd.add_f64s(sum, value);
            }
            let mean = simd.mul_f64s(sum, scale);
            let mut square = simd.splat_f64s(0.0);
            for value in centred {
                *value = simd.sub_f64s(*value, mean);
                square = simd.mul_add_f64s(*value, *value, square);
            }
            moments[0] = mean;
            moments[1] = simd.mul_f64s(square, scale);
        }
    }
}

/// One batch of windows, and the constants of SSIM.
#[derive(Clone, Copy)]
struct Windows<'a> {
    /// For each panel and window the pixels minus their mean.
    centred: &'a [f64],
    /// For each panel and window the means and the variances.
    moments: &'a [f64],
    /// Number of pixels of a window.
    pixels: usize,
    /// Number of windows.
    count: usize,
    c1: f64,
    c2: f64,
}

/// Adds the SSIM of every window.
struct Similarities<'a> {
    windows: Windows<'a>,
    sums: &'a mut [f64],
}

impl TileKernel for Similarities<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, first: usize, panel: usize) {
        let Windows { centred, moments, pixels, count, .. } = self.windows;
        let height = pixels * count;
        let left = &centred[first * height * M..(first + 1) * height * M];
        let right: [&[S::f64s]; N] = panels_from(S::as_simd_f64s(centred).0, height, panel);
        let own_moments = &moments[first * 2 * count * M..(first + 1) * 2 * count * M];
        let moments: [&[S::f64s]; N] = panels_from(S::as_simd_f64s(moments).0, 2 * count, panel);
        let memory = &mut S::as_mut_simd_f64s(self.sums).0[(panel - first) * M..];
        let mut sums: Tile<S, M, N> = load(simd, memory);
        for (window, own_moments) in own_moments.chunks_exact(2 * M).enumerate() {
            let rows = window * pixels..(window + 1) * pixels;
            let products: Tile<S, M, N> = add_product(
                simd,
                zeros(simd),
                &left[rows.start * M..rows.end * M],
                right.map(|panel| &panel[rows.clone()]),
            );
            let means = moments.map(|panel| panel[2 * window]);
            let variances = moments.map(|panel| panel[2 * window + 1]);
            add_similarity(simd, &mut sums, &products, own_moments, means, variances, self.windows);
        }
        store::<S, M, N>(&sums, memory);
    }
}

/// Add SSIM = (2 m n + C1)(2 cov + C2) / ((m^2 + n^2 + C1)(v + w + C2)) of one window to a tile of pairs.
#[inline(always)]
fn add_similarity<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut Tile<S, M, N>,
    products: &Tile<S, M, N>,
    own: &[f64],
    means: [S::f64s; N],
    variances: [S::f64s; N],
    windows: Windows,
) {
    let (c1, c2) = (simd.splat_f64s(windows.c1), simd.splat_f64s(windows.c2));
    let twice = simd.splat_f64s(2.0);
    let twice_share = simd.splat_f64s(2.0 / windows.pixels as f64);
    let (own_means, own_variances) = own.split_at(M);
    let own = own_means.iter().zip(own_variances);
    for ((sums, products), (&mean, &variance)) in sums.iter_mut().zip(products).zip(own) {
        let (mean, variance) = (simd.splat_f64s(mean), simd.splat_f64s(variance));
        let square = simd.mul_add_f64s(mean, mean, c1);
        let spread = simd.add_f64s(variance, c2);
        let double = simd.mul_f64s(mean, twice);
        for index in 0..N {
            let (other, other_variance) = (means[index], variances[index]);
            let above = simd
                .mul_f64s(simd.mul_add_f64s(double, other, c1), simd.mul_add_f64s(products[index], twice_share, c2));
            let below = simd.mul_f64s(simd.mul_add_f64s(other, other, square), simd.add_f64s(spread, other_variance));
            sums[index] = simd.add_f64s(sums[index], simd.div_f64s(above, below));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::starts;

    #[test]
    fn windows_cover_a_side_and_end_flush() {
        assert_eq!(starts(1), [0]);
        assert_eq!(starts(7), [0]);
        assert_eq!(starts(8), [0]);
        assert_eq!(starts(9), [0, 1]);
        assert_eq!(starts(14), [0, 4, 6]);
        assert_eq!(starts(16), [0, 4, 8]);
        assert_eq!(starts(224).len(), 55);
    }
}
