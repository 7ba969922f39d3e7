//! Distances between all pairs of channels of one image that need the maps themselves: SSIM and cosine.
//!
//! Both are sums over pixels of products of channels, that is Gram matrices of channels, computed tile by tile. Each tile
//! of pairs is summed by one thread in one order, so that the number of threads does not change a bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::condensed::{rows, Rows};
use crate::panels::{self, at_once, panels_from};
use crate::range::range;
use crate::tile::{add_product, zeros, Tile};
use crate::Maps;

/// Pixels of one block of the cosine's products; a panel of it stays in the nearest caches.
const BLOCK: usize = 512;
/// Side and stride of SSIM's windows in pixels.
const WINDOW: usize = 8;
const STRIDE: usize = 4;
/// The constants of SSIM: C1 = (K1 L)^2, C2 = (K2 L)^2.
const K1: f64 = 0.01;
const K2: f64 = 0.03;
/// Numbers in one batch of windows, so that it stays in the caches.
const WINDOW_NUMBERS: usize = 1 << 17;

/// The channels of one image in panels: all pixels of a panel's channels, channels innermost.
pub(crate) struct Image {
    pixels: Vec<f32>,
    /// Pixels of a channel.
    count: usize,
    /// Channels of a panel.
    pub lanes: usize,
}

impl Image {
    pub(crate) fn new(maps: &Maps, image: usize) -> Self {
        let [_, channels, height, width] = maps.shape();
        let (lanes, count) = (panels::lanes(), height * width);
        let mut pixels = vec![0.0f32; channels.div_ceil(lanes) * count * lanes];
        pixels.par_chunks_exact_mut(count * lanes).enumerate().for_each_init(Vec::new, |buffer, (panel, target)| {
            let first = panel * lanes;
            let planes = maps.planes(image, first, lanes.min(channels - first), buffer);
            for (lane, plane) in planes.chunks_exact(count).enumerate() {
                for (target, &pixel) in target.iter_mut().skip(lane).step_by(lanes).zip(plane) {
                    *target = pixel;
                }
            }
        });
        Self { pixels, count, lanes }
    }

    /// Only the pixels with the numbers `places`, in row-major order.
    pub(crate) fn at(maps: &Maps, image: usize, places: &[usize]) -> Self {
        let channels = maps.shape()[1];
        let (lanes, count) = (panels::lanes(), places.len());
        let mut pixels = vec![0.0f32; channels.div_ceil(lanes) * count * lanes];
        pixels.par_chunks_exact_mut(count * lanes).enumerate().for_each(|(panel, target)| {
            let first = panel * lanes;
            for (target, &place) in target.chunks_exact_mut(lanes).zip(places) {
                for (target, channel) in target.iter_mut().zip(first..channels) {
                    *target = maps.pixel(image, channel, place);
                }
            }
        });
        Self { pixels, count, lanes }
    }

    pub(crate) fn panel(&self, panel: usize) -> &[f32] {
        &self.pixels[panel * self.count * self.lanes..(panel + 1) * self.count * self.lanes]
    }

    fn panels(&self) -> usize {
        self.pixels.len() / (self.count * self.lanes)
    }
}

/// Products of all pairs of channels, summed over pixels: for each panel its tiles with itself and all later panels.
///
/// To be called inside the thread pool.
pub(crate) fn grams(image: &Image) -> Vec<Vec<f64>> {
    let (panels, lanes) = (image.panels(), image.lanes);
    let mut grams: Vec<Vec<f64>> = (0..panels).map(|panel| vec![0.0; (panels - panel) * lanes * lanes]).collect();
    let mut block = vec![0.0; panels * BLOCK.min(image.count) * lanes];
    for first in (0..image.count).step_by(BLOCK) {
        let rows = BLOCK.min(image.count - first);
        let block = &mut block[..panels * rows * lanes];
        block.par_chunks_exact_mut(rows * lanes).enumerate().for_each(|(panel, target)| {
            let source = &image.panel(panel)[first * lanes..(first + rows) * lanes];
            for (target, &pixel) in target.iter_mut().zip(source) {
                *target = f64::from(pixel);
            }
        });
        let block = &*block;
        grams.par_iter_mut().enumerate().for_each(|(first, gram)| {
            Arch::new().dispatch(Products { columns: block, rows, first, gram, windows: None });
        });
    }
    grams
}

/// Add to `sums` the distances 1 - <a, b> / (|a| |b|) of one image's channels: 0 between two all-zero maps, 1 between an
/// all-zero map and another. To be called inside the thread pool.
pub(crate) fn add_cosine(maps: &Maps, image: usize, sums: &mut [f64]) {
    let channels = maps.shape()[1];
    let image = Image::new(maps, image);
    let (grams, lanes) = (grams(&image), image.lanes);
    let squares: Vec<f64> = (0..channels).map(|c| grams[c / lanes][(c % lanes) * lanes + c % lanes]).collect();
    rows(sums, channels, lanes).into_par_iter().zip(&grams).for_each(|(mut rows, gram)| {
        let first = rows.first;
        add_rows(&mut rows, gram, lanes, |row, other, product| {
            let (one, two) = (squares[first + row], squares[other]);
            match (one > 0.0, two > 0.0) {
                (true, true) => (1.0 - product / (one * two).sqrt()).max(0.0),
                (false, false) => 0.0,
                _ => 1.0,
            }
        });
    });
}

/// Add to `sums` the distances 1 - mean SSIM of one image's channels. To be called inside the thread pool.
///
/// Source: Wang et al. 2004, Image quality assessment: from error visibility to structural similarity, with uniform windows
/// of 8 x 8 pixels at stride 4, the last flush with the border, one window where the map is smaller; variances and
/// covariances divide by the number of pixels. L is the range of all the tap's pixels on the image; where it is 0 all
/// channels are alike.
pub(crate) fn add_ssim(maps: &Maps, image: usize, sums: &mut [f64]) {
    let [_, channels, height, width] = maps.shape();
    let (low, high) = range(maps, image);
    let range = f64::from(high) - f64::from(low);
    if range <= 0.0 {
        return;
    }
    let image = Image::new(maps, image);
    let (panels, lanes) = (image.panels(), image.lanes);
    let (tall, wide) = (WINDOW.min(height), WINDOW.min(width));
    let places: Vec<usize> = starts(height)
        .into_iter()
        .flat_map(|row| starts(width).into_iter().map(move |column| row * width + column))
        .collect();
    let size = tall * wide;
    let batch = (WINDOW_NUMBERS / (size * panels * lanes)).max(4).min(places.len());
    let mut grams: Vec<Vec<f64>> = (0..panels).map(|panel| vec![0.0; (panels - panel) * lanes * lanes]).collect();
    let mut columns = vec![0.0; panels * batch * size * lanes];
    let mut moments = vec![0.0; panels * batch * 2 * lanes];
    for places in places.chunks(batch) {
        let count = places.len();
        let columns = &mut columns[..panels * count * size * lanes];
        let moments = &mut moments[..panels * count * 2 * lanes];
        columns
            .par_chunks_exact_mut(count * size * lanes)
            .zip(moments.par_chunks_exact_mut(count * 2 * lanes))
            .enumerate()
            .for_each(|(panel, (columns, moments))| {
                let pixels = image.panel(panel);
                Arch::new().dispatch(Centre { pixels, places, window: (tall, wide), width, columns, moments });
            });
        let (columns, moments) = (&*columns, &*moments);
        grams.par_iter_mut().enumerate().for_each(|(first, gram)| {
            let windows = Some(Windows { moments, count, c1: (K1 * range).powi(2), c2: (K2 * range).powi(2) });
            Arch::new().dispatch(Products { columns, rows: size, first, gram, windows });
        });
    }
    let scale = 1.0 / places.len() as f64;
    rows(sums, channels, lanes)
        .into_par_iter()
        .zip(&grams)
        .for_each(|(mut rows, gram)| add_rows(&mut rows, gram, lanes, |_, _, sum| 1.0 - sum * scale));
}

/// Where windows begin along a side.
fn starts(side: usize) -> Vec<usize> {
    let last = side.saturating_sub(WINDOW);
    let mut starts: Vec<usize> = (0..=last).step_by(STRIDE).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

/// Add to the condensed rows of one panel the `distance`(row in the panel, other channel, value) of its tiles.
fn add_rows(rows: &mut Rows, tiles: &[f64], lanes: usize, distance: impl Fn(usize, usize, f64) -> f64) {
    let first = rows.first;
    for (index, tile) in tiles.chunks_exact(lanes * lanes).enumerate() {
        for (row, values) in tile.chunks_exact(lanes).enumerate() {
            rows.change(first + row, first + index * lanes, values, |sum, other, value| {
                *sum += distance(row, other, value);
            });
        }
    }
}

/// The windows at `places` as float64 columns less their means, with the means and variances.
struct Centre<'a> {
    pixels: &'a [f32],
    places: &'a [usize],
    window: (usize, usize),
    width: usize,
    columns: &'a mut [f64],
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
        for ((&place, columns), moments) in
            self.places.iter().zip(self.columns.chunks_exact_mut(tall * wide * lanes)).zip(moments)
        {
            for (row, columns) in columns.chunks_exact_mut(wide * lanes).enumerate() {
                let start = (place + row * self.width) * lanes;
                for (target, &pixel) in columns.iter_mut().zip(&self.pixels[start..start + wide * lanes]) {
                    *target = f64::from(pixel);
                }
            }
            let columns = S::as_mut_simd_f64s(columns).0;
            let mut sum = simd.splat_f64s(0.0);
            for &value in columns.iter() {
                sum = simd.add_f64s(sum, value);
            }
            let mean = simd.mul_f64s(sum, scale);
            let mut square = simd.splat_f64s(0.0);
            for value in columns {
                *value = simd.sub_f64s(*value, mean);
                square = simd.mul_add_f64s(*value, *value, square);
            }
            moments[0] = mean;
            moments[1] = simd.mul_f64s(square, scale);
        }
    }
}

/// What turns the products of a window into SSIM.
#[derive(Clone, Copy)]
struct Windows<'a> {
    /// For each panel and window the means and the variances.
    moments: &'a [f64],
    count: usize,
    c1: f64,
    c2: f64,
}

/// Adds to `gram` the products of panel `first` with itself and all later ones, or the SSIM of every window.
struct Products<'a> {
    columns: &'a [f64],
    /// Rows of a panel, or of one window in it.
    rows: usize,
    first: usize,
    gram: &'a mut [f64],
    windows: Option<Windows<'a>>,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F64_LANES {
            8 => self.all::<S, 8>(simd),
            4 => self.all::<S, 4>(simd),
            2 => self.all::<S, 2>(simd),
            _ => self.all::<S, 1>(simd),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn all<S: Simd, const M: usize>(mut self, simd: S) {
        let height = self.rows * self.windows.map_or(1, |windows| windows.count);
        let count = self.columns.len() / (height * M);
        let mut panel = self.first;
        while panel < count {
            panel += match (count - panel).min(at_once::<S, M>()) {
                1 => self.tile::<S, M, 1>(simd, height, panel),
                2 => self.tile::<S, M, 2>(simd, height, panel),
                _ => self.tile::<S, M, 3>(simd, height, panel),
            };
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, height: usize, panel: usize) -> usize {
        let left = &self.columns[self.first * height * M..(self.first + 1) * height * M];
        let right: [&[S::f64s]; N] = panels_from(S::as_simd_f64s(self.columns).0, height, panel);
        let gram = S::as_mut_simd_f64s(self.gram).0;
        let start = (panel - self.first) * M;
        let mut sums: Tile<S, M, N> = zeros(simd);
        for (row, sums) in sums.iter_mut().enumerate() {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = gram[start + index * M + row];
            }
        }
        if let Some(windows) = self.windows {
            let moments: [&[S::f64s]; N] = panels_from(S::as_simd_f64s(windows.moments).0, 2 * windows.count, panel);
            let own = &windows.moments[self.first * 2 * windows.count * M..(self.first + 1) * 2 * windows.count * M];
            for (window, own) in own.chunks_exact(2 * M).enumerate() {
                let rows = window * self.rows..(window + 1) * self.rows;
                let products: Tile<S, M, N> = add_product(
                    simd,
                    zeros(simd),
                    &left[rows.start * M..rows.end * M],
                    right.map(|panel| &panel[rows.clone()]),
                );
                let means = moments.map(|panel| panel[2 * window]);
                let variances = moments.map(|panel| panel[2 * window + 1]);
                add_similarity(simd, &mut sums, &products, own, means, variances, self.rows, windows);
            }
        } else {
            sums = add_product(simd, sums, left, right);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (index, &sum) in sums.iter().enumerate() {
                gram[start + index * M + row] = sum;
            }
        }
        N
    }
}

/// Add SSIM = (2 m n + C1)(2 cov + C2) / ((m^2 + n^2 + C1)(v + w + C2)) of one window of a tile of pairs.
#[expect(clippy::too_many_arguments, reason = "the formula has so many quantities")]
#[inline(always)]
fn add_similarity<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut Tile<S, M, N>,
    products: &Tile<S, M, N>,
    own: &[f64],
    means: [S::f64s; N],
    variances: [S::f64s; N],
    size: usize,
    windows: Windows,
) {
    let (c1, c2) = (simd.splat_f64s(windows.c1), simd.splat_f64s(windows.c2));
    let twice = simd.splat_f64s(2.0);
    let twice_share = simd.splat_f64s(2.0 / size as f64);
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
