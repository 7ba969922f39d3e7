//! Which channels tell most of all others: how much variance those that were chosen before leave unexplained.

use pulp::Arch;

use crate::{threads, CoreError};

/// Below this part of its own variance a channel counts as explained: the rest is rounding.
const EXPLAINED: f64 = 1e-9;
/// Below this part of the whole variance the order of channels tells nothing.
const WHOLE: f64 = 1e-6;
/// Numbers of a matrix below which waking other threads takes longer than its rows.
const ALONE: usize = 1 << 16;

/// For every channel the share of all channels' variance that the channels chosen before it leave unexplained.
///
/// Channels are chosen one after another, each the one with which the linear regression of all channels on those chosen so
/// far explains most: with R the covariances of what is unexplained, the channel j of the largest sum over i of
/// R\[i, j\]^2 / R\[j, j\]. All channels count alike, their variances are scaled to one. The first gets 1, what comes after
/// the variance is explained gets 0, as do channels that do not vary.
///
/// Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for unsupervised
/// learning, Knowledge and Information Systems 2013.
///
/// # Errors
/// `covariance` is not \[C * C\] or holds NaN or infinity.
pub fn explained_variance(covariance: &[f64], channels: usize) -> Result<Vec<f64>, CoreError> {
    if covariance.len() != channels * channels {
        return Err(CoreError::Option(format!(
            "{} covariances are not those of {channels} channels",
            covariance.len()
        )));
    }
    if covariance.iter().any(|value| !value.is_finite()) {
        return Err(CoreError::Option("a covariance is not finite".into()));
    }
    let mut shares = vec![0.0; channels];
    let (mut residual, mut rows) = correlations(covariance, channels);
    let whole: f64 = rows.iter().map(|row| row.own).sum();
    let mut left = whole;
    while left > WHOLE * whole {
        let Some(chosen) = most(&rows) else { break };
        shares[chosen] = left / whole;
        let pivot = residual[chosen * channels..(chosen + 1) * channels].to_vec();
        rows[chosen] = Row::EXPLAINED;
        remove(&mut residual, &mut rows, &pivot, chosen)?;
        left = left.min(rows.iter().map(|row| row.own).sum());
    }
    Ok(shares)
}

/// What one channel has left.
#[derive(Clone, Copy)]
struct Row {
    /// Its own variance.
    own: f64,
    /// Sum of the squares of its covariances.
    squares: f64,
    /// It was chosen, or nothing is left of it.
    done: bool,
}

impl Row {
    const EXPLAINED: Self = Self { own: 0.0, squares: 0.0, done: true };
}

/// The covariances with all variances scaled to one; channels that do not vary keep zeros.
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
        rows.push(Row { own: line[index], squares, done: line[index] <= 0.0 });
    }
    (scaled, rows)
}

/// The channel that explains most; the first of equals.
fn most(rows: &[Row]) -> Option<usize> {
    let gain = |row: &Row| row.squares / row.own;
    let left = rows.iter().enumerate().filter(|(_, row)| !row.done);
    left.reduce(|best, other| if gain(other.1) > gain(best.1) { other } else { best }).map(|(index, _)| index)
}

/// Take from the covariances what the channel `chosen` explains, whose covariances are `pivot`.
fn remove(residual: &mut [f64], rows: &mut [Row], pivot: &[f64], chosen: usize) -> Result<(), CoreError> {
    let channels = pivot.len();
    let lines = residual.chunks_exact_mut(channels).zip(rows).enumerate();
    let work = |(index, (line, row)): (usize, (&mut [f64], &mut Row))| {
        if row.done {
            return;
        }
        let factor = pivot[index] / pivot[chosen];
        row.squares = Arch::new().dispatch(|| subtract(line, factor, pivot));
        row.own = line[index].max(0.0);
        if row.own <= EXPLAINED {
            *row = Row::EXPLAINED;
        }
    };
    if channels * channels <= ALONE {
        lines.for_each(work);
        return Ok(());
    }
    threads::for_each(lines, work)
}

/// `line` - `factor` * `pivot`; gives the sum of squares.
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
        explained_variance(covariance, channels).expect("these are covariances")
    }

    #[test]
    fn independent_channels_explain_themselves_only() {
        assert_eq!(shares(&[4.0, 0.0, 0.0, 0.25], 2), [1.0, 0.5]);
    }

    #[test]
    fn a_copy_tells_nothing_new() {
        assert_eq!(shares(&[1.0, -3.0, -3.0, 9.0], 2), [1.0, 0.0]);
    }

    #[test]
    fn a_sum_of_all_comes_first_and_leaves_less() {
        // The third channel is the sum of the first two, which are independent: it explains half of each.
        let found = shares(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0], 3);
        assert!((found[2] - 1.0).abs() < 1e-12);
        assert!((found[0] - 1.0 / 3.0).abs() < 1e-12);
        assert!(found[1].abs() < 1e-12);
    }

    #[test]
    fn what_does_not_vary_is_not_chosen() {
        assert_eq!(shares(&[0.0, 0.0, 0.0, 2.0], 2), [0.0, 1.0]);
        assert_eq!(shares(&[0.0; 4], 2), [0.0, 0.0]);
        assert_eq!(shares(&[], 0), [0.0; 0]);
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        assert!(matches!(explained_variance(&[1.0; 3], 2), Err(CoreError::Option(_))));
        assert!(matches!(explained_variance(&[f64::NAN], 1), Err(CoreError::Option(_))));
    }
}
