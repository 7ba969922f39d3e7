//! How the maps of a batch are handed out to threads: neighbouring channels of one image together.

use rayon::prelude::*;

use crate::{threads, CoreError};

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

/// Do `work` on every share of values \[N * C\], in the thread pool, or here where waking the threads would take longer.
///
/// Each thread has memory made by `memory`.
pub(crate) fn for_each_share<T: Send, M>(
    values: &mut [T],
    channels: usize,
    pixels: usize,
    memory: impl Fn() -> M + Send + Sync,
    work: impl Fn(&mut M, Share<'_, T>) + Send + Sync,
) -> Result<(), CoreError> {
    let small = values.len() * pixels <= PIXELS;
    let shares = shares(values, channels, pixels);
    if small {
        let mut memory = memory();
        for share in shares {
            work(&mut memory, share);
        }
        return Ok(());
    }
    threads::run(|| shares.into_par_iter().for_each_init(memory, work))
}

/// Divide values \[N * C\] in image-major order.
fn shares<T>(values: &mut [T], channels: usize, pixels: usize) -> Vec<Share<'_, T>> {
    let size = share(channels, pixels);
    let rows = values.chunks_exact_mut(channels).enumerate();
    rows.flat_map(|(image, row)| {
        let parts = row.chunks_mut(size).enumerate();
        parts.map(move |(index, values)| Share { image, first: index * size, values })
    })
    .collect()
}
