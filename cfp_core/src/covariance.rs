//! Covariances of channels over the pixels of all images, of which only sums are kept.
//!
//! Large maps are smooth and their products would take longer than the network itself, so of each a fixed sample of pixels
//! counts, the same in every image.

use rayon::prelude::*;

use crate::similarity::{grams, Image};
use crate::{threads, CoreError, Maps};

/// A variance below this part of the mean square is what rounding makes of a channel that does not vary.
const CONSTANT: f64 = 1e-12;

/// Most pixels of a map that count: those of maps of 32 x 32.
const PIXELS: usize = 1024;

/// How many pixels of a map of `size` pixels count.
pub(crate) fn counted(size: usize) -> usize {
    size.min(PIXELS)
}

/// The pixels that count: one in each of equally long runs, at a place that shifts from run to run, so that no column or
/// row of the map is left out.
fn sample(size: usize) -> impl Iterator<Item = usize> {
    let count = counted(size);
    (0..count).map(move |run| {
        let (start, end) = (run * size / count, (run + 1) * size / count);
        // Multiples of the golden ratio, the upper half of whose bits are spread evenly.
        let shift = (run as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        start + usize::try_from(shift).unwrap_or_default() % (end - start)
    })
}

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

/// Add the counted pixels of one image's channels to `totals` \[C\], and the products of all pairs of channels, of a channel with
/// itself too, to `products` \[C * C\], whose rows hold the later channels. To be called inside the thread pool.
fn add_products(maps: &Maps, image: usize, totals: &mut [f64], products: &mut [f64]) {
    let channels = totals.len();
    let [_, _, height, width] = maps.shape();
    let size = height * width;
    let image = if counted(size) == size {
        Image::new(maps, image)
    } else {
        Image::at(maps, image, &sample(size).collect::<Vec<_>>())
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_of_a_small_map_counts() {
        for size in [1, 7, 1023, PIXELS] {
            assert_eq!(sample(size).collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_sample_of_a_large_map_is_spread_over_rows_and_columns() {
        for (height, width) in [(33, 32), (64, 64), (112, 112), (224, 224), (300, 7), (256, 512)] {
            let size = height * width;
            let found: Vec<usize> = sample(size).collect();
            assert_eq!(found.len(), PIXELS);
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]) && found[PIXELS - 1] < size);
            let count = |parts: usize, part: &dyn Fn(usize) -> usize| {
                let mut counts = vec![0usize; parts];
                for &place in &found {
                    counts[part(place)] += 1;
                }
                counts
            };
            for counts in
                [count(7, &|place| (place % width) * 7 / width), count(7, &|place| (place / width) * 7 / height)]
            {
                let even = PIXELS as f64 / 7.0;
                assert!(counts.iter().all(|&count| (count as f64 - even).abs() < 0.35 * even), "{size}: {counts:?}");
            }
        }
    }
}
