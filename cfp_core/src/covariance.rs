//! Covariances of channels over all pixels of all images, of which only sums are kept.

use rayon::prelude::*;

use crate::similarity::{grams, Image};
use crate::{threads, CoreError, Maps};

/// A variance below this part of the mean square is what rounding makes of a channel that does not vary.
const CONSTANT: f64 = 1e-12;

/// Sums over the pixels of maps, and over products of pixels of two channels at the same place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moments {
    /// Sums of each channel \[C\].
    pub totals: Vec<f64>,
    /// Sums of products \[C * C\], those of a channel with itself and with later ones; the rest is zero.
    pub products: Vec<f64>,
}

impl Moments {
    /// Of `channels` channels, without any image.
    pub(crate) fn new(channels: usize) -> Self {
        Self { totals: vec![0.0; channels], products: vec![0.0; channels * channels] }
    }

    /// Add the maps of one image.
    pub(crate) fn add(&mut self, maps: &Maps, image: usize) -> Result<(), CoreError> {
        threads::run(|| add_products(maps, image, &mut self.totals, &mut self.products))
    }

    /// Add those of other images.
    pub(crate) fn merge(&mut self, other: &Self) {
        let add = |sums: &mut [f64], others: &[f64]| sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        add(&mut self.totals, &other.totals);
        add(&mut self.products, &other.products);
    }

    /// Covariances \[C * C\] of channels over `pixels` pixels each.
    pub(crate) fn covariance(&self, pixels: usize) -> Vec<f64> {
        let (channels, count) = (self.totals.len(), pixels as f64);
        let mut found = self.products.clone();
        for row in 0..channels {
            for column in row..channels {
                let product = self.products[row * channels + column];
                let mut value = (product - self.totals[row] * self.totals[column] / count) / count;
                if row == column && value <= CONSTANT * product / count {
                    value = 0.0;
                }
                found[row * channels + column] = value;
                found[column * channels + row] = value;
            }
        }
        found
    }
}

/// Add the pixels of one image's channels to `totals` \[C\], and the products of all pairs of channels, of a channel with
/// itself too, to `products` \[C * C\], whose rows hold the later channels. To be called inside the thread pool.
fn add_products(maps: &Maps, image: usize, totals: &mut [f64], products: &mut [f64]) {
    let channels = totals.len();
    let image = Image::new(maps, image);
    let lanes = image.lanes;
    totals.par_chunks_mut(lanes).enumerate().for_each(|(panel, totals)| {
        for row in image.panel(panel).chunks_exact(lanes) {
            for (total, &pixel) in totals.iter_mut().zip(row) {
                *total += f64::from(pixel);
            }
        }
    });
    let lines = products.par_chunks_mut(channels * lanes).zip(grams(&image)).enumerate();
    lines.for_each(|(panel, (lines, gram))| {
        let first = panel * lanes;
        for (row, line) in lines.chunks_exact_mut(channels).enumerate() {
            for (index, tile) in gram.chunks_exact(lanes * lanes).enumerate() {
                let tile = &tile[row * lanes..(row + 1) * lanes];
                for (other, &product) in (first + index * lanes..channels).zip(tile) {
                    if other >= first + row {
                        line[other] += product;
                    }
                }
            }
        }
    });
}
