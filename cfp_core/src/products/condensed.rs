//! One value for each pair of channels in `SciPy`'s condensed order: (0, 1), (0, 2), ..., (1, 2), ...

/// Number of pairs of `channels` channels.
pub(crate) fn pairs(channels: usize) -> usize {
    channels * channels.saturating_sub(1) / 2
}

/// The condensed values of some neighbouring channels with all later channels: the part that one thread writes.
pub(crate) struct Rows<'a> {
    /// Index of the first of these channels.
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
    /// Call `update`(stored value, other channel, new value) for the pairs of channel `row` with the channels from `column` on.
    ///
    /// Skips pairs on or below the diagonal and pairs past the last channel.
    pub(crate) fn update(&mut self, row: usize, column: usize, new: &[f64], update: impl Fn(&mut f64, usize, f64)) {
        if row + 1 >= self.channels {
            return;
        }
        let skipped: usize = (self.first..row).map(|channel| self.channels - 1 - channel).sum();
        let line = &mut self.values[skipped..skipped + self.channels - 1 - row];
        for (other, &value) in (column..self.channels).zip(new) {
            if other > row {
                update(&mut line[other - row - 1], other, value);
            }
        }
    }
}
