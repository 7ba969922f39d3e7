//! How the maps of a batch are handed out to threads: neighbouring channels of one image together.

/// Pixels of a share of work; below it the handing out costs more than it brings.
const PIXELS: usize = 1 << 15;
/// Channels of a share: whole registers of lanes, and few enough that the threads end together.
const FEWEST: usize = 8;
const MOST: usize = 128;

/// Neighbouring channels of one image, and where their values go.
pub(crate) struct Share<'a, T> {
    pub image: usize,
    /// The first channel.
    pub first: usize,
    pub values: &'a mut [T],
}

/// Number of channels in a share of maps of so many pixels.
pub(crate) fn share(channels: usize, pixels: usize) -> usize {
    (PIXELS / pixels).next_multiple_of(FEWEST).clamp(FEWEST, MOST).min(channels)
}

/// Divide values \[N * C\] in image-major order.
pub(crate) fn shares<T>(values: &mut [T], channels: usize, pixels: usize) -> Vec<Share<'_, T>> {
    let size = share(channels, pixels);
    let rows = values.chunks_exact_mut(channels).enumerate();
    rows.flat_map(|(image, row)| {
        let parts = row.chunks_mut(size).enumerate();
        parts.map(move |(index, values)| Share { image, first: index * size, values })
    })
    .collect()
}
