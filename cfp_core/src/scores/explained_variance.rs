//! Explained variance: greedy selection of the channels that explain most of the variance of all channels.
//!
//! The residual E of the covariances is updated in blocks. Within a block, the sums of squares that the selection needs follow
//! from one product of E with a vector for each selected channel, for which float32 is enough. The matrix itself is updated once
//! for the whole block, in float64.

use pulp::{Arch, Simd, WithSimd};

use crate::error::CoreError;
use crate::products::{accumulate, Tile};
use crate::threads;

/// A channel counts as explained when less than this fraction of its own variance remains: the rest is rounding error.
const EXPLAINED: f64 = 1e-9;
/// Selection ends when less than this fraction of the total variance remains: the order of further channels is arbitrary.
const NEGLIGIBLE: f64 = 1e-6;
/// Up to this number of entries, one thread is faster than several.
const ALONE: usize = 1 << 16;
/// Selected channels of a block.
const BLOCK: usize = 32;
/// A block also ends when the variance has fallen to this fraction, before differences of large numbers lose digits.
const SHRUNK: f64 = 0.125;
/// The matrix is copied without closed channels when at most this fraction of its rows is open.
const OPEN: f64 = 0.75;
/// Rows of the matrix that one thread multiplies by a vector at a time.
const TOGETHER: usize = 64;
/// Rows and registers of a tile of the update of the matrix.
const ROWS: usize = 4;
const WIDTH: usize = 2;
/// A multiple of the lanes of `WIDTH` registers of every instruction set.
const ALIGNED: usize = 16;

/// For each channel, the fraction of the variance of all channels that the channels selected before it do not explain.
///
/// Channels are selected one after another. The next channel is the one that lets the linear regression of all channels on the
/// selected channels explain most: with R the covariance matrix of the regression residuals, the channel j with the largest sum
/// over i of R\[i, j\]^2 / R\[j, j\]. A channel that hardly varies counts as little as it varies. The first channel gets 1; constant
/// channels, and channels left when the variance is explained, get 0.
///
/// Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for unsupervised
/// learning, Knowledge and Information Systems 2013, whose recursion for the sums of squares is used.
///
/// # Errors
/// `covariance` is not \[C * C\], or it contains NaN or infinity.
pub fn explained_variance(covariance: &[f64], channels: usize) -> Result<Vec<f64>, CoreError> {
    if covariance.len() != channels * channels {
        return Err(CoreError::Option(format!(
            "{} covariances do not fit {channels} channels; give [C, C]",
            covariance.len()
        )));
    }
    if covariance.iter().any(|value| !value.is_finite()) {
        return Err(CoreError::Option("a covariance is not finite; check the feature maps".into()));
    }
    let mut shares = vec![0.0; channels];
    let mut residual = Residual::of(covariance, channels);
    let total = residual.remaining();
    let mut remaining = total;
    while remaining > NEGLIGIBLE * total {
        let Some(row) = residual.best() else { break };
        shares[residual.rows[row].channel] = remaining / total;
        residual.select(row)?;
        remaining = remaining.min(residual.remaining());
        if residual.factors.len() == BLOCK || remaining < SHRUNK * residual.at_start {
            residual.end_block()?;
            remaining = remaining.min(residual.remaining());
        }
    }
    Ok(shares)
}

/// The unexplained part of one channel.
#[derive(Clone, Copy)]
struct Row {
    /// Index of the channel.
    channel: usize,
    /// Its variance.
    variance: f64,
    /// Its variance before any channel was selected.
    whole: f64,
    /// Sum of the squares of its covariances.
    squares: f64,
    /// It was selected, or it is explained.
    closed: bool,
}

impl Row {
    fn close(&mut self) {
        (self.variance, self.squares, self.closed) = (0.0, 0.0, true);
    }

    fn is_explained(&self) -> bool {
        self.variance <= EXPLAINED * self.whole
    }
}

/// The covariances of the residuals of the regression on the selected channels.
struct Residual {
    /// One row for each channel that was open when the matrix was copied.
    rows: Vec<Row>,
    /// The matrix \[rows * stride\] at the start of the block. Zeros fill its columns.
    matrix: Vec<f64>,
    /// The matrix in float32, for the products with vectors: reading it takes most of the time.
    rounded: Vec<f32>,
    stride: usize,
    /// The matrix now is `matrix` minus the outer product of each factor \[stride\] with itself.
    factors: Vec<Vec<f64>>,
    /// Variance at the start of the block.
    at_start: f64,
}

impl Residual {
    /// The covariances of the channels that vary, in units of the largest variance, which float32 can hold.
    fn of(covariance: &[f64], channels: usize) -> Self {
        let variance = |channel: usize| covariance[channel * (channels + 1)];
        let largest = (0..channels).map(variance).fold(0.0, f64::max);
        let varying: Vec<usize> =
            (0..channels).filter(|&channel| variance(channel) > NEGLIGIBLE * EXPLAINED * largest).collect();
        let scale = largest.recip();
        let stride = varying.len().next_multiple_of(ALIGNED);
        let mut matrix = vec![0.0; varying.len() * stride];
        let mut rows = Vec::with_capacity(varying.len());
        for (line, &channel) in matrix.chunks_exact_mut(stride.max(1)).zip(&varying) {
            for (value, &other) in line.iter_mut().zip(&varying) {
                *value = covariance[channel * channels + other] * scale;
            }
            let (squares, variance) = (sum_of_squares(line), line[rows.len()]);
            rows.push(Row { channel, variance, whole: variance, squares, closed: false });
        }
        let at_start = rows.iter().map(|row| row.variance).sum();
        let rounded = matrix.iter().map(|&value| value as f32).collect();
        Self { rows, matrix, rounded, stride, factors: Vec::new(), at_start }
    }

    /// The variance of all channels that is not explained.
    fn remaining(&self) -> f64 {
        self.rows.iter().map(|row| row.variance).sum()
    }

    /// The row of the channel that explains most; the first one in a tie.
    fn best(&self) -> Option<usize> {
        let gain = |row: &Row| row.squares / row.variance;
        let open = self.rows.iter().enumerate().filter(|(_, row)| !row.closed);
        open.reduce(|best, other| if gain(other.1) > gain(best.1) { other } else { best }).map(|(index, _)| index)
    }

    /// Select a channel: subtract what it explains from the variances and sums of squares.
    fn select(&mut self, chosen: usize) -> Result<(), CoreError> {
        // A column of the matrix now, divided by the root of its diagonal entry: the outer product of this factor with itself is
        // the part of the covariances that the channel explains.
        let mut factor = self.matrix[chosen * self.stride..(chosen + 1) * self.stride].to_vec();
        for earlier in &self.factors {
            subtract(&mut factor, earlier[chosen], earlier);
        }
        if factor[chosen] <= 0.0 {
            self.rows[chosen].close();
            return Ok(());
        }
        let scale = factor[chosen].sqrt().recip();
        for value in &mut factor {
            *value *= scale;
        }
        let mut product = self.times(&factor)?;
        for earlier in &self.factors {
            subtract(&mut product, dot(earlier, &factor), earlier);
        }
        let square = dot(&factor, &factor);
        for ((row, &value), &product) in self.rows.iter_mut().zip(&factor).zip(&product) {
            row.squares = (row.squares + value * (square * value - 2.0 * product)).max(0.0);
            row.variance -= value * value;
            if row.closed || row.is_explained() {
                row.close();
            }
        }
        self.rows[chosen].close();
        self.factors.push(factor);
        Ok(())
    }

    /// The product of the matrix at the start of the block with a vector, in the open rows.
    fn times(&self, vector: &[f64]) -> Result<Vec<f64>, CoreError> {
        let mut product = vec![0.0; self.stride];
        let vector: Vec<f32> = vector.iter().map(|&value| value as f32).collect();
        let lines = self.rounded.chunks(TOGETHER * self.stride);
        let lines = lines.zip(self.rows.chunks(TOGETHER)).zip(product.chunks_mut(TOGETHER));
        let work = |((lines, rows), product): ((&[f32], &[Row]), &mut [f64])| {
            for ((line, row), product) in lines.chunks_exact(self.stride).zip(rows).zip(product) {
                if !row.closed {
                    *product = f64::from(dot_rounded(line, &vector));
                }
            }
        };
        threads::for_each_unless(self.rounded.len() <= ALONE, lines, work)?;
        Ok(product)
    }

    /// Update the matrix by all factors of the block, and compute variances and sums of squares anew.
    fn end_block(&mut self) -> Result<(), CoreError> {
        let (stride, factors) = (self.stride, std::mem::take(&mut self.factors));
        let size = self.matrix.len();
        let lines = self.matrix.chunks_mut(ROWS * stride).zip(self.rounded.chunks_mut(ROWS * stride));
        let lines = lines.zip(self.rows.chunks_mut(ROWS)).enumerate();
        threads::for_each_unless(size <= ALONE, lines, |(index, ((lines, rounded), rows))| {
            if rows.iter().all(|row| row.closed) {
                return;
            }
            Arch::new().dispatch(Update { lines, first: index * ROWS, factors: &factors });
            for (rounded, &value) in rounded.iter_mut().zip(&*lines) {
                *rounded = value as f32;
            }
            for (offset, (line, row)) in lines.chunks_exact(stride).zip(rows).enumerate() {
                if !row.closed {
                    row.variance = line[index * ROWS + offset];
                    row.squares = sum_of_squares(line);
                    if row.is_explained() {
                        row.close();
                    }
                }
            }
        })?;
        let open = self.rows.iter().filter(|row| !row.closed).count();
        if open as f64 <= OPEN * self.rows.len() as f64 {
            self.drop_closed();
        }
        self.at_start = self.remaining();
        Ok(())
    }

    /// Copy the matrix without the rows and columns of closed channels, which are zero.
    fn drop_closed(&mut self) {
        let open: Vec<usize> = (0..self.rows.len()).filter(|&row| !self.rows[row].closed).collect();
        let stride = open.len().next_multiple_of(ALIGNED);
        let mut matrix = vec![0.0; open.len() * stride];
        for (line, &row) in matrix.chunks_exact_mut(stride.max(1)).zip(&open) {
            let source = &self.matrix[row * self.stride..(row + 1) * self.stride];
            for (value, &column) in line.iter_mut().zip(&open) {
                *value = source[column];
            }
        }
        self.rows = open.iter().map(|&row| self.rows[row]).collect();
        self.rounded = matrix.iter().map(|&value| value as f32).collect();
        (self.matrix, self.stride) = (matrix, stride);
    }
}

/// Subtracts the outer products of all factors from neighbouring lines of the matrix.
struct Update<'a> {
    lines: &'a mut [f64],
    /// Index of the first line.
    first: usize,
    factors: &'a [Vec<f64>],
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Some(stride) = self.factors.first().map(Vec::len) else { return };
        let mut left = [[0.0; ROWS]; BLOCK];
        for (left, factor) in left.iter_mut().zip(self.factors) {
            for (left, &value) in left.iter_mut().zip(&factor[self.first..]) {
                *left = value;
            }
        }
        let mut right: [&[S::f64s]; BLOCK] = [&[]; BLOCK];
        for (right, factor) in right.iter_mut().zip(self.factors) {
            *right = S::as_simd_f64s(factor).0;
        }
        let (left, right) = (&left[..self.factors.len()], &right[..self.factors.len()]);
        let width = stride / S::F64_LANES;
        let lines = S::as_mut_simd_f64s(self.lines).0;
        let rows = lines.len() / width;
        for column in (0..width).step_by(WIDTH) {
            let mut tile: Tile<S, ROWS, WIDTH> = [[simd.splat_f64s(0.0); WIDTH]; ROWS];
            for (row, tile) in tile.iter_mut().enumerate().take(rows) {
                tile.copy_from_slice(&lines[row * width + column..row * width + column + WIDTH]);
            }
            let columns = |index: usize| std::array::from_fn(|offset| right[index][column + offset]);
            let tile = accumulate::<S, f64, ROWS, WIDTH>(tile, left, columns, |sum, left, right| {
                simd.negate_mul_add_f64s(simd.splat_f64s(left), right, sum)
            });
            for (row, tile) in tile.iter().enumerate().take(rows) {
                lines[row * width + column..row * width + column + WIDTH].copy_from_slice(tile);
            }
        }
    }
}

/// Lanes of independent sums, more than the longest latency of an addition needs.
const LANES: usize = 32;

fn dot(one: &[f64], other: &[f64]) -> f64 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [0.0; LANES];
            let ((ones, one_rest), (others, other_rest)) = (one.as_chunks::<LANES>(), other.as_chunks::<LANES>());
            for (one, other) in ones.iter().zip(others) {
                for lane in 0..LANES {
                    sums[lane] += one[lane] * other[lane];
                }
            }
            for (sum, (one, other)) in sums.iter_mut().zip(one_rest.iter().zip(other_rest)) {
                *sum += one * other;
            }
            sums.iter().sum()
        },
    )
}

fn dot_rounded(one: &[f32], other: &[f32]) -> f32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [0.0f32; 2 * LANES];
            let ((ones, one_rest), (others, other_rest)) =
                (one.as_chunks::<{ 2 * LANES }>(), other.as_chunks::<{ 2 * LANES }>());
            for (one, other) in ones.iter().zip(others) {
                for lane in 0..2 * LANES {
                    sums[lane] += one[lane] * other[lane];
                }
            }
            for (sum, (one, other)) in sums.iter_mut().zip(one_rest.iter().zip(other_rest)) {
                *sum += one * other;
            }
            sums.iter().sum()
        },
    )
}

fn sum_of_squares(line: &[f64]) -> f64 {
    dot(line, line)
}

/// Subtract `factor` * `other` from `line`.
fn subtract(line: &mut [f64], factor: f64, other: &[f64]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (value, other) in line.iter_mut().zip(other) {
                *value -= factor * other;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::explained_variance;
    use crate::CoreError;

    fn shares(covariance: &[f64], channels: usize) -> Vec<f64> {
        explained_variance(covariance, channels).expect("the matrix fits")
    }

    #[test]
    fn independent_channels_explain_themselves_only() {
        assert_eq!(shares(&[4.0, 0.0, 0.0, 1.0], 2), [1.0, 0.2]);
        assert_eq!(shares(&[1.0, 0.0, 0.0, 4.0], 2), [0.2, 1.0]);
    }

    #[test]
    fn a_copy_explains_nothing_more() {
        assert_eq!(shares(&[1.0, -3.0, -3.0, 9.0], 2), [1.0, 0.0]);
        assert_eq!(shares(&[1.0, -1.0, -1.0, 1.0], 2), [1.0, 0.0]);
    }

    #[test]
    fn a_sum_of_channels_is_selected_first() {
        // The third channel is the sum of the first two, which are independent: it explains half of each. Of the variance of 4,
        // 1 remains.
        let shares = shares(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0], 3);
        assert!((shares[2] - 1.0).abs() < 1e-12);
        assert!((shares[0] - 1.0 / 4.0).abs() < 1e-12);
        assert!(shares[1].abs() < 1e-12);
    }

    #[test]
    fn constant_channels_are_not_selected() {
        assert_eq!(shares(&[0.0, 0.0, 0.0, 2.0], 2), [0.0, 1.0]);
        assert_eq!(shares(&[0.0; 4], 2), [0.0, 0.0]);
        assert_eq!(shares(&[], 0), [0.0; 0]);
    }

    #[test]
    fn other_shapes_and_nan_are_refused() {
        assert!(matches!(explained_variance(&[1.0; 3], 2), Err(CoreError::Option(_))));
        assert!(matches!(explained_variance(&[f64::NAN], 1), Err(CoreError::Option(_))));
    }
}
