//! Values of all pairs of channels in `SciPy`'s condensed order: (0, 1), (0, 2), ..., (1, 2), ...

/// Number of pairs of `channels`.
pub(crate) fn pairs(channels: usize) -> usize {
    channels * channels.saturating_sub(1) / 2
}

/// The rows of some neighbouring channels, a part of the condensed values that one thread may write.
pub(crate) struct Rows<'a> {
    /// The first channel.
    pub first: usize,
    channels: usize,
    values: &'a mut [f64],
}

/// Divide condensed values into rows of `size` channels each.
pub(crate) fn rows(condensed: &mut [f64], channels: usize, size: usize) -> Vec<Rows<'_>> {
    let mut parts = Vec::with_capacity(channels.div_ceil(size));
    let mut rest = condensed;
    for first in (0..channels).step_by(size) {
        let length: usize = (first..channels.min(first + size)).map(|channel| channels - 1 - channel).sum();
        let (values, others) = rest.split_at_mut(length);
        parts.push(Rows { first, channels, values });
        rest = others;
    }
    parts
}

impl Rows<'_> {
    /// For the channel `row` and those from `column` on: `change` what is kept with a value of `given`.
    ///
    /// What lies on or below the diagonal, or past the last channel, is left out.
    pub(crate) fn change(&mut self, row: usize, column: usize, given: &[f64], change: impl Fn(&mut f64, usize, f64)) {
        if row + 1 >= self.channels {
            return;
        }
        let skipped: usize = (self.first..row).map(|channel| self.channels - 1 - channel).sum();
        let line = &mut self.values[skipped..skipped + self.channels - 1 - row];
        for (other, &value) in (column..self.channels).zip(given) {
            if other > row {
                change(&mut line[other - row - 1], other, value);
            }
        }
    }
}
