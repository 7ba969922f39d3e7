//! One sum for each pair of channels, computed tile by tile.
//!
//! One thread computes each tile in one order, so that the number of threads does not change a bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::channels::ChannelPanels;
use super::condensed::{rows, Rows};
use super::panels::{panels_at_once, panels_from};
use super::registers::lanes;
use super::tile::{add_product, load, store};

/// Pixels of one block of products. A panel of a block fits the first-level cache.
const BLOCK: usize = 512;

/// A computation on one tile of pairs.
pub(crate) trait TileKernel {
    /// Compute the pairs of the M channels of panel `first` with the channels of the N panels from `panel` on.
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, first: usize, panel: usize);
}

/// Run a kernel on the tiles of panel `first` with itself and all later ones of `panels` panels.
pub(crate) fn for_each_tile(kernel: impl TileKernel, first: usize, panels: usize) {
    Arch::new().dispatch(Sweep { kernel, first, panels });
}

struct Sweep<K> {
    kernel: K,
    first: usize,
    panels: usize,
}

impl<K: TileKernel> WithSimd for Sweep<K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F64_LANES {
            8 => self.run::<S, 8>(simd),
            4 => self.run::<S, 4>(simd),
            2 => self.run::<S, 2>(simd),
            _ => self.run::<S, 1>(simd),
        }
    }
}

impl<K: TileKernel> Sweep<K> {
    #[inline(always)]
    fn run<S: Simd, const M: usize>(mut self, simd: S) {
        let mut panel = self.first;
        while panel < self.panels {
            let count = (self.panels - panel).min(panels_at_once::<S, M>());
            match count {
                1 => self.kernel.tile::<S, M, 1>(simd, self.first, panel),
                2 => self.kernel.tile::<S, M, 2>(simd, self.first, panel),
                _ => self.kernel.tile::<S, M, 3>(simd, self.first, panel),
            }
            panel += count;
        }
    }
}

/// One value for each pair of channels: for each panel, its tiles \[lanes * lanes\] with itself and all later panels.
#[derive(Clone, Debug)]
pub(crate) struct PairTiles {
    rows: Vec<Vec<f64>>,
    lanes: usize,
}

impl PairTiles {
    /// Zeros for the pairs of all channels of `panels` panels.
    pub(crate) fn zeros(panels: usize, lanes: usize) -> Self {
        Self { rows: (0..panels).map(|panel| vec![0.0; (panels - panel) * lanes * lanes]).collect(), lanes }
    }

    /// Call `work`(panel, its tiles) for every panel, in parallel. Call it inside the thread pool.
    pub(crate) fn for_each_panel(&mut self, work: impl Fn(usize, &mut [f64]) + Sync) {
        self.rows.par_iter_mut().enumerate().for_each(|(panel, tiles)| work(panel, tiles));
    }

    /// Each panel and its tiles.
    pub(crate) fn panels_mut(&mut self) -> impl Iterator<Item = (usize, &mut [f64])> {
        self.rows.iter_mut().map(Vec::as_mut_slice).enumerate()
    }

    /// Add `value`(channel, other channel, value of the pair) to condensed sums. Call it inside the thread pool.
    pub(crate) fn add_to(&self, sums: &mut [f64], channels: usize, value: impl Fn(usize, usize, f64) -> f64 + Sync) {
        rows(sums, channels, self.lanes).into_par_iter().zip(&self.rows).for_each(|(mut rows, tiles)| {
            self.add_panel(&mut rows, tiles, &value);
        });
    }

    fn add_panel(&self, rows: &mut Rows, tiles: &[f64], value: impl Fn(usize, usize, f64) -> f64) {
        let first = rows.first;
        for (index, tile) in tiles.chunks_exact(self.lanes * self.lanes).enumerate() {
            for (lane, values) in tile.chunks_exact(self.lanes).enumerate() {
                rows.update(first + lane, first + index * self.lanes, values, |sum, other, new| {
                    *sum += value(first + lane, other, new);
                });
            }
        }
    }

    /// Add the values of other tiles of the same channels.
    pub(crate) fn add(&mut self, other: &Self) {
        for (values, others) in self.rows.iter_mut().flatten().zip(other.rows.iter().flatten()) {
            *values += others;
        }
    }

    /// The symmetric matrix \[C * C\] of all pairs. Call it inside the thread pool.
    pub(crate) fn matrix(&self, channels: usize) -> Vec<f64> {
        let lanes = self.lanes;
        let mut matrix = vec![0.0; channels * channels];
        matrix.par_chunks_mut(lanes * channels).enumerate().for_each(|(panel, lines)| {
            for (lane, line) in lines.chunks_exact_mut(channels).enumerate() {
                // Only the pairs with row <= column are always set.
                let (earlier, later) = line.split_at_mut(panel * lanes + lane);
                for (other, values) in earlier.chunks_mut(lanes).enumerate() {
                    let tile = &self.rows[other][(panel - other) * lanes * lanes..];
                    for (value, &pair) in values.iter_mut().zip(tile[lane..].iter().step_by(lanes)) {
                        *value = pair;
                    }
                }
                let (own, later) = later.split_at_mut(later.len().min(lanes - lane));
                own.copy_from_slice(&self.rows[panel][lane * lanes + lane..][..own.len()]);
                let tiles = self.rows[panel].chunks_exact(lanes * lanes).skip(1);
                for (values, tile) in later.chunks_mut(lanes).zip(tiles) {
                    values.copy_from_slice(&tile[lane * lanes..][..values.len()]);
                }
            }
        });
        matrix
    }

    /// The value of a pair of channels, `row` <= `column`.
    pub(crate) fn get(&self, row: usize, column: usize) -> f64 {
        let (panel, index) = self.position(row, column);
        self.rows[panel][index]
    }

    /// Set the value of a pair of channels, `row` <= `column`.
    pub(crate) fn set(&mut self, row: usize, column: usize, value: f64) {
        let (panel, index) = self.position(row, column);
        self.rows[panel][index] = value;
    }

    fn position(&self, row: usize, column: usize) -> (usize, usize) {
        let lanes = self.lanes;
        let (panel, tile) = (row / lanes, column / lanes - row / lanes);
        (panel, (tile * lanes + row % lanes) * lanes + column % lanes)
    }
}

/// The products of all pairs of channels, summed over pixels in float64. Call it inside the thread pool.
pub(crate) fn products(image: &ChannelPanels) -> PairTiles {
    let (panels, lanes) = (image.panels(), image.lanes);
    let mut sums = PairTiles::zeros(panels, lanes);
    let mut block = vec![0.0; panels * BLOCK.min(image.pixels) * lanes];
    for first in (0..image.pixels).step_by(BLOCK) {
        let rows = BLOCK.min(image.pixels - first);
        let block = &mut block[..panels * rows * lanes];
        block.par_chunks_exact_mut(rows * lanes).enumerate().for_each(|(panel, target)| {
            let source = &image.panel(panel)[first * lanes..(first + rows) * lanes];
            for (target, &pixel) in target.iter_mut().zip(source) {
                *target = f64::from(pixel);
            }
        });
        sums.for_each_panel(|panel, tiles| add_products(block, rows, panel, tiles));
    }
    sums
}

/// Add to the tiles of one panel its products with itself and all later ones, summed over the rows of panels.
pub(crate) fn add_products(panels: &[f64], rows: usize, panel: usize, tiles: &mut [f64]) {
    let count = panels.len() / (rows * lanes());
    for_each_tile(Products { block: panels, rows, sums: tiles }, panel, count);
}

/// Adds the products of one block of pixels.
struct Products<'a> {
    /// Panels of `rows` pixels.
    block: &'a [f64],
    rows: usize,
    sums: &'a mut [f64],
}

impl TileKernel for Products<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, first: usize, panel: usize) {
        let left = &self.block[first * self.rows * M..(first + 1) * self.rows * M];
        let right: [&[S::f64s]; N] = panels_from(S::as_simd_f64s(self.block).0, self.rows, panel);
        let memory = &mut S::as_mut_simd_f64s(self.sums).0[(panel - first) * M..];
        let sums = add_product::<S, M, N>(simd, load(simd, memory), left, right);
        store::<S, M, N>(&sums, memory);
    }
}
