//! Covariances of channels over the pixels of all images. The state is sums over the pixels.
//!
//! Large maps are smooth, and the products of all their pixels would take longer than the network itself. Of a large map a
//! fixed sample of pixels is used, the same in every image.

use rayon::prelude::*;

use crate::error::CoreError;
use crate::maps::Maps;
use crate::products::{products as products_of, ChannelPanels};
use crate::threads;

/// A variance below this fraction of the mean square is a rounding error of a constant channel.
const CONSTANT: f64 = 1e-12;

/// Largest number of pixels that are used of a map: as many as a map of 32 x 32 has.
const PIXELS: usize = 1024;

/// Number of pixels that are used of a map of `size` pixels.
pub(crate) fn sampled(size: usize) -> usize {
    size.min(PIXELS)
}

/// Positions of the pixels that are used: one in each of equally long runs. Its offset in the run differs from run to run, so
/// that the sample covers all rows and columns of the map.
fn sample(size: usize) -> impl Iterator<Item = usize> {
    let count = sampled(size);
    (0..count).map(move |run| {
        let (start, end) = (run * size / count, (run + 1) * size / count);
        // Multiples of the golden ratio, the upper half of whose bits are spread evenly.
        let shift = (run as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        start + usize::try_from(shift).unwrap_or_default() % (end - start)
    })
}

/// Sums over the pixels of each channel, and of the products of each two channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moments {
    /// Sums of each channel \[C\].
    pub totals: Vec<f64>,
    /// Sums of products \[C * C\]: the upper triangle with the diagonal; zeros below.
    pub products: Vec<f64>,
}

impl Moments {
    /// The sums of no image.
    pub(crate) fn new(channels: usize) -> Self {
        Self { totals: vec![0.0; channels], products: vec![0.0; channels * channels] }
    }

    /// Add the maps of one image.
    pub(crate) fn add(&mut self, maps: &Maps, image: usize) -> Result<(), CoreError> {
        threads::run(|| add_products(maps, image, &mut self.totals, &mut self.products))
    }

    /// Add the sums of other images.
    pub(crate) fn merge(&mut self, other: &Self) {
        let add = |sums: &mut [f64], others: &[f64]| sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        add(&mut self.totals, &other.totals);
        add(&mut self.products, &other.products);
    }

    /// Covariances \[C * C\], where the sums contain `pixels` pixels of each channel.
    pub(crate) fn covariance(&self, pixels: usize) -> Vec<f64> {
        let (channels, count) = (self.totals.len(), pixels as f64);
        let mut covariance = self.products.clone();
        for row in 0..channels {
            for column in row..channels {
                let product = self.products[row * channels + column];
                let mut value = (product - self.totals[row] * self.totals[column] / count) / count;
                if row == column && value <= CONSTANT * product / count {
                    value = 0.0;
                }
                covariance[row * channels + column] = value;
                covariance[column * channels + row] = value;
            }
        }
        covariance
    }
}

/// Add the sampled pixels of one image's channels to `totals` \[C\], and their products to the upper triangle of `products`
/// \[C * C\]. Call it inside the thread pool.
fn add_products(maps: &Maps, image: usize, totals: &mut [f64], products: &mut [f64]) {
    let channels = totals.len();
    let [_, _, height, width] = maps.shape();
    let size = height * width;
    let image = if sampled(size) == size {
        ChannelPanels::new(maps, image)
    } else {
        ChannelPanels::at(maps, image, &sample(size).collect::<Vec<_>>())
    };
    let lanes = image.lanes;
    totals.par_chunks_mut(lanes).enumerate().for_each(|(panel, totals)| {
        for row in image.panel(panel).chunks_exact(lanes) {
            for (total, &pixel) in totals.iter_mut().zip(row) {
                *total += f64::from(pixel);
            }
        }
    });
    products_of(&image).add_to_square(products, channels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pixels_of_a_small_map_are_used() {
        for size in [1, 7, 1023, PIXELS] {
            assert_eq!(sample(size).collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_sample_of_a_large_map_is_spread_over_rows_and_columns() {
        for (height, width) in [(33, 32), (64, 64), (112, 112), (224, 224), (300, 7), (256, 512)] {
            let size = height * width;
            let positions: Vec<usize> = sample(size).collect();
            assert_eq!(positions.len(), PIXELS);
            assert!(positions.windows(2).all(|pair| pair[0] < pair[1]) && positions[PIXELS - 1] < size);
            let count = |parts: usize, part: &dyn Fn(usize) -> usize| {
                let mut counts = vec![0usize; parts];
                for &position in &positions {
                    counts[part(position)] += 1;
                }
                counts
            };
            for counts in [
                count(7, &|position| (position % width) * 7 / width),
                count(7, &|position| (position / width) * 7 / height),
            ] {
                let even = PIXELS as f64 / 7.0;
                assert!(counts.iter().all(|&count| (count as f64 - even).abs() < 0.35 * even), "{size}: {counts:?}");
            }
        }
    }
}
