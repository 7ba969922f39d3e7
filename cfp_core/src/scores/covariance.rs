//! Covariances of channels over samples. The state is sums over the samples.

use crate::error::CoreError;
use crate::products::{add_products, lanes, panels_of_rows, PairTiles};
use crate::threads;

/// A variance below this fraction of the mean square is a rounding error of a constant channel.
const CONSTANT: f64 = 1e-12;
/// Number of samples that are added to the products together. A panel of them fits the first-level cache.
const BLOCK: usize = 128;
/// Up to this number of channels, waking other threads takes longer than the products of a block.
const ALONE: usize = 48;
/// The largest number of channels: the products of its pairs take 4 GiB.
const MOST_CHANNELS: usize = 1 << 15;

/// Accumulates the covariances of channels.
///
/// The products of float32 numbers are exact in float64, and only their sums are rounded. The samples are added in blocks, so
/// that the division into calls of `update` does not change a bit.
#[derive(Clone, Debug)]
pub struct CovarianceAccumulator {
    channels: usize,
    /// Number of samples that `totals` and `products` contain.
    added: usize,
    totals: Vec<f64>,
    products: PairTiles,
    /// Samples \[rows * C\] of the next block.
    waiting: Vec<f32>,
}

/// Everything that a `CovarianceAccumulator` contains, as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct CovarianceState {
    /// Number of channels C.
    pub channels: usize,
    /// Number of samples in the sums.
    pub added: usize,
    /// Sums of each channel \[C\].
    pub totals: Vec<f64>,
    /// Sums of products of channels \[C (C + 1) / 2\]: the upper triangle with the diagonal, row by row.
    pub products: Vec<f64>,
    /// Samples \[rows * C\] that are not yet in the sums.
    pub waiting: Vec<f32>,
}

impl CovarianceAccumulator {
    /// An accumulator without samples.
    ///
    /// # Errors
    /// The number of channels is 0 or above 32,768.
    pub fn new(channels: usize) -> Result<Self, CoreError> {
        if channels == 0 || channels > MOST_CHANNELS {
            return Err(CoreError::Option(format!("cannot use {channels} channels; use 1 to {MOST_CHANNELS}")));
        }
        let products = PairTiles::zeros(channels.div_ceil(lanes()), lanes());
        Ok(Self { channels, added: 0, totals: vec![0.0; channels], products, waiting: Vec::new() })
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Number of samples so far.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.added + self.waiting.len() / self.channels
    }

    /// Add samples \[S * C\] in row-major order.
    ///
    /// # Errors
    /// The length is not a multiple of C, or a value is NaN or infinite. The accumulator is then unchanged.
    pub fn update(&mut self, samples: &[f32]) -> Result<(), CoreError> {
        if !samples.len().is_multiple_of(self.channels) {
            return Err(CoreError::Option(format!(
                "{} values do not fit {} channels; give samples [S, C]",
                samples.len(),
                self.channels
            )));
        }
        if samples.iter().any(|value| !value.is_finite()) {
            return Err(CoreError::Option("a sample is not finite; check the feature maps".into()));
        }
        let block = BLOCK * self.channels;
        let mut rest = samples;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(block - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            if self.waiting.len() == block {
                self.add_waiting()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Add the waiting samples to the sums.
    fn add_waiting(&mut self) -> Result<(), CoreError> {
        let rows = self.waiting.len() / self.channels;
        if rows == 0 {
            return Ok(());
        }
        let samples: Vec<f64> = self.waiting.iter().map(|&value| f64::from(value)).collect();
        for row in samples.chunks_exact(self.channels) {
            for (total, value) in self.totals.iter_mut().zip(row) {
                *total += value;
            }
        }
        let panels = panels_of_rows(&samples, self.channels);
        let work = |(panel, tiles): (usize, &mut [f64])| add_products(&panels, rows, panel, tiles);
        threads::for_each_unless(self.channels <= ALONE, self.products.panels_mut(), work)?;
        self.added += rows;
        self.waiting.clear();
        Ok(())
    }

    /// Add the samples of another accumulator of the same channels.
    ///
    /// # Errors
    /// The numbers of channels differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), CoreError> {
        if self.channels != other.channels {
            let reason = "the numbers of channels differ".into();
            return Err(CoreError::Merge { tap: String::new(), reason });
        }
        for (total, value) in self.totals.iter_mut().zip(&other.totals) {
            *total += value;
        }
        self.products.add(&other.products);
        self.added += other.added;
        self.update(&other.waiting)
    }

    /// Covariances \[C * C\] over all samples so far.
    ///
    /// # Errors
    /// There are no samples.
    pub fn covariance(&self) -> Result<Vec<f64>, CoreError> {
        if self.samples() == 0 {
            return Err(CoreError::Option("no samples yet; call update first".into()));
        }
        let mut all = self.clone();
        all.add_waiting()?;
        let (channels, count) = (all.channels, all.added as f64);
        let mut covariance = threads::run(|| all.products.matrix(channels))?;
        threads::for_each(covariance.chunks_exact_mut(channels).enumerate(), |(row, line)| {
            let product = line[row];
            for (value, total) in line.iter_mut().zip(&all.totals) {
                *value = (*value - all.totals[row] * total / count) / count;
            }
            if line[row] <= CONSTANT * product / count {
                line[row] = 0.0;
            }
        })?;
        Ok(covariance)
    }

    /// A copy of everything that the accumulator contains, as plain data.
    #[must_use]
    pub fn state(&self) -> CovarianceState {
        let pairs = (0..self.channels).flat_map(|row| (row..self.channels).map(move |column| (row, column)));
        CovarianceState {
            channels: self.channels,
            added: self.added,
            totals: self.totals.clone(),
            products: pairs.map(|(row, column)| self.products.get(row, column)).collect(),
            waiting: self.waiting.clone(),
        }
    }

    /// The accumulator with this state.
    ///
    /// # Errors
    /// The parts of the state do not fit together.
    pub fn from_state(state: CovarianceState) -> Result<Self, CoreError> {
        let CovarianceState { channels, added, totals, products, waiting } = state;
        let mut accumulator = Self::new(channels)?;
        let fits = totals.len() == channels
            && products.len() == channels * (channels + 1) / 2
            && waiting.len().is_multiple_of(channels)
            && waiting.len() < BLOCK * channels;
        if !fits {
            return Err(CoreError::Option(
                "the parts of the state do not fit together; use what `state` returned".into(),
            ));
        }
        let pairs = (0..channels).flat_map(|row| (row..channels).map(move |column| (row, column)));
        for ((row, column), value) in pairs.zip(products) {
            accumulator.products.set(row, column, value);
        }
        (accumulator.added, accumulator.totals, accumulator.waiting) = (added, totals, waiting);
        Ok(accumulator)
    }
}
