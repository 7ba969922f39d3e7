//! Explained variance: greedy selection of the channels that explain most of the variance of all channels.

use pulp::Arch;

use crate::error::CoreError;
use crate::threads;

/// A channel counts as explained when less than this fraction of its variance remains: the rest is rounding error.
const EXPLAINED: f64 = 1e-9;
/// Selection ends when less than this fraction of the total variance remains: the order of further channels is arbitrary.
const NEGLIGIBLE: f64 = 1e-6;
/// Up to this number of entries, one thread is faster than several.
const ALONE: usize = 1 << 16;

/// For each channel, the fraction of the variance of all channels that the channels selected before it do not explain.
///
/// Channels are selected one after another. The next channel is the one that lets the linear regression of all channels on the
/// selected channels explain most: with R the covariance matrix of the regression residuals, the channel j with the largest sum
/// over i of R\[i, j\]^2 / R\[j, j\]. All variances are first scaled to one. The first channel gets 1; constant channels, and
/// channels left when the variance is explained, get 0.
///
/// Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for unsupervised
/// learning, Knowledge and Information Systems 2013.
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
    let (mut residual, mut rows) = correlations(covariance, channels);
    let total: f64 = rows.iter().map(|row| row.variance).sum();
    let mut remaining = total;
    while remaining > NEGLIGIBLE * total {
        let Some(chosen) = best(&rows) else { break };
        shares[chosen] = remaining / total;
        let pivot = residual[chosen * channels..(chosen + 1) * channels].to_vec();
        rows[chosen] = Row::EXPLAINED;
        remove(&mut residual, &mut rows, &pivot, chosen)?;
        remaining = remaining.min(rows.iter().map(|row| row.variance).sum());
    }
    Ok(shares)
}

/// The unexplained part of one channel.
#[derive(Clone, Copy)]
struct Row {
    /// Its variance.
    variance: f64,
    /// Sum of the squares of its covariances.
    squares: f64,
    /// It was selected, or it is explained.
    done: bool,
}

impl Row {
    const EXPLAINED: Self = Self { variance: 0.0, squares: 0.0, done: true };
}

/// The correlation matrix; zeros for constant channels.
fn correlations(covariance: &[f64], channels: usize) -> (Vec<f64>, Vec<Row>) {
    let scale: Vec<f64> = (0..channels)
        .map(|channel| covariance[channel * (channels + 1)])
        .map(|variance| if variance > f64::MIN_POSITIVE { variance.sqrt().recip() } else { 0.0 })
        .collect();
    let mut scaled = covariance.to_vec();
    let mut rows = Vec::with_capacity(channels);
    for (index, line) in scaled.chunks_exact_mut(channels.max(1)).enumerate() {
        for (value, other) in line.iter_mut().zip(&scale) {
            *value *= scale[index] * other;
        }
        let squares = line.iter().map(|value| value * value).sum();
        rows.push(Row { variance: line[index], squares, done: line[index] <= 0.0 });
    }
    (scaled, rows)
}

/// The channel that explains most; the first one in a tie.
fn best(rows: &[Row]) -> Option<usize> {
    let gain = |row: &Row| row.squares / row.variance;
    let open = rows.iter().enumerate().filter(|(_, row)| !row.done);
    open.reduce(|best, other| if gain(other.1) > gain(best.1) { other } else { best }).map(|(index, _)| index)
}

/// Subtract from the covariances the part that channel `chosen` explains. `pivot` is its row.
fn remove(residual: &mut [f64], rows: &mut [Row], pivot: &[f64], chosen: usize) -> Result<(), CoreError> {
    let channels = pivot.len();
    let lines = residual.chunks_exact_mut(channels).zip(rows).enumerate();
    let work = |(index, (line, row)): (usize, (&mut [f64], &mut Row))| {
        if row.done {
            return;
        }
        let factor = pivot[index] / pivot[chosen];
        row.squares = Arch::new().dispatch(|| subtract(line, factor, pivot));
        row.variance = line[index].max(0.0);
        if row.variance <= EXPLAINED {
            *row = Row::EXPLAINED;
        }
    };
    if channels * channels <= ALONE {
        lines.for_each(work);
        return Ok(());
    }
    threads::for_each(lines, work)
}

/// Subtract `factor` * `pivot` from `line`; returns the sum of squares.
#[inline(always)]
fn subtract(line: &mut [f64], factor: f64, pivot: &[f64]) -> f64 {
    const LANES: usize = 16;
    let mut squares = [0.0; LANES];
    let (lines, line_rest) = line.as_chunks_mut::<LANES>();
    let (pivots, pivot_rest) = pivot.as_chunks::<LANES>();
    for (line, pivot) in lines.iter_mut().zip(pivots) {
        for lane in 0..LANES {
            line[lane] -= factor * pivot[lane];
            squares[lane] += line[lane] * line[lane];
        }
    }
    for (value, pivot) in line_rest.iter_mut().zip(pivot_rest) {
        *value -= factor * pivot;
        squares[0] += *value * *value;
    }
    squares.iter().sum()
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
        assert_eq!(shares(&[4.0, 0.0, 0.0, 0.25], 2), [1.0, 0.5]);
    }

    #[test]
    fn a_copy_explains_nothing_more() {
        assert_eq!(shares(&[1.0, -3.0, -3.0, 9.0], 2), [1.0, 0.0]);
    }

    #[test]
    fn a_sum_of_channels_is_selected_first() {
        // The third channel is the sum of the first two, which are independent: it explains half of each.
        let shares = shares(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0], 3);
        assert!((shares[2] - 1.0).abs() < 1e-12);
        assert!((shares[0] - 1.0 / 3.0).abs() < 1e-12);
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
