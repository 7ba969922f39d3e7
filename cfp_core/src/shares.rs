//! Divides the maps of a batch among threads: a share is some neighbouring channels of one image.

use std::cell::RefCell;

use crate::error::CoreError;
use crate::maps::Maps;
use crate::threads;

/// Pixels of a share. Handing out smaller shares costs more than it saves.
const PIXELS: usize = 1 << 15;
/// Channels of a share: enough to fill the lanes of a register, and few enough that all threads finish together.
const FEWEST: usize = 8;
const MOST: usize = 128;
/// A larger map is a share of its own.
const LARGE: usize = 64 * 64;

/// Neighbouring channels of one image, and where their values go.
pub(crate) struct Share<'a, T> {
    /// Index of the image in the batch.
    pub image: usize,
    /// Index of the first channel.
    pub first: usize,
    /// One value for each channel.
    pub values: &'a mut [T],
}

thread_local! {
    // Each thread reuses its buffer: allocating one for each share takes longer than many of the scores.
    static PLANES: RefCell<Vec<f32>> = RefCell::default();
}

/// Number of channels in a share of these maps.
pub(crate) fn share_size(maps: &Maps) -> usize {
    let [_, channels, height, width] = maps.shape();
    let pixels = height * width;
    // Copy channels-last channels together: otherwise each cache line is read once for every channel.
    if pixels > LARGE && maps.in_place() {
        return 1;
    }
    (PIXELS / pixels).next_multiple_of(FEWEST).clamp(FEWEST, MOST).min(channels)
}

/// Call `work`(share, its maps one after another) for every share of the values \[N * C\].
///
/// Uses the thread pool, or only this thread where waking the others would take longer. `work` must not wait for other work
/// of the pool: its thread would start another share while it still uses the buffer of the maps.
pub(crate) fn for_each_share<T: Send>(
    values: &mut [T],
    maps: &Maps,
    work: impl Fn(Share<'_, T>, &[f32]) + Send + Sync,
) -> Result<(), CoreError> {
    let [_, _, height, width] = maps.shape();
    let small = values.len() * height * width <= PIXELS;
    let shares = shares(values, maps);
    let work = |share: Share<'_, T>| {
        PLANES.with_borrow_mut(|buffer| {
            let pixels = maps.planes(share.image, share.first, share.values.len(), buffer);
            work(share, pixels);
        });
    };
    threads::for_each_unless(small, shares, work)
}

/// Divide values \[N * C\] in image-major order.
fn shares<'a, T>(values: &'a mut [T], maps: &Maps) -> Vec<Share<'a, T>> {
    let (size, [_, channels, ..]) = (share_size(maps), maps.shape());
    let rows = values.chunks_exact_mut(channels).enumerate();
    rows.flat_map(|(image, row)| {
        let parts = row.chunks_mut(size).enumerate();
        parts.map(move |(index, values)| Share { image, first: index * size, values })
    })
    .collect()
}
