//! How the maps of a batch are handed out to threads: neighbouring channels of one image together.

use std::cell::RefCell;

use crate::rank::{load, Ranker};
use crate::{threads, CoreError, Maps};

/// Pixels of a share of work; below it the handing out costs more than it brings.
const PIXELS: usize = 1 << 15;
/// Channels of a share: whole registers of lanes, and few enough that the threads end together.
const FEWEST: usize = 8;
const MOST: usize = 128;
/// Maps with more pixels go through no lanes, and each is work enough for a share.
const ALONE: usize = load::LARGEST * load::LARGEST;

/// Neighbouring channels of one image, and where their values go.
pub(crate) struct Share<'a, T> {
    pub image: usize,
    /// The first channel.
    pub first: usize,
    pub values: &'a mut [T],
}

/// Memory that a thread uses again from share to share: to ask the system for it each time takes longer than many a rank.
#[derive(Default)]
pub(crate) struct Memory {
    pub planes: Vec<f32>,
    pub rounded: Vec<f32>,
    pub ranks: Vec<u32>,
    pub ranker: Ranker,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Number of channels in a share of these maps.
pub(crate) fn share(maps: &Maps) -> usize {
    let [_, channels, height, width] = maps.shape();
    let pixels = height * width;
    // Channels that lie interleaved are copied together, or each cache line would be read once for every channel.
    if pixels > ALONE && maps.in_place() {
        return 1;
    }
    (PIXELS / pixels).next_multiple_of(FEWEST).clamp(FEWEST, MOST).min(channels)
}

/// Do `work` on every share of values \[N * C\], with the thread pool, or here alone where waking it would take longer.
///
/// `work` must not wait for other work of the pool: its thread would begin another share with the same memory.
pub(crate) fn for_each_share<T: Send>(
    values: &mut [T],
    maps: &Maps,
    work: impl Fn(&mut Memory, Share<'_, T>) + Send + Sync,
) -> Result<(), CoreError> {
    let [_, _, height, width] = maps.shape();
    let small = values.len() * height * width <= PIXELS;
    let shares = shares(values, maps);
    let work = |share| MEMORY.with_borrow_mut(|memory| work(memory, share));
    if small {
        shares.into_iter().for_each(work);
        return Ok(());
    }
    threads::for_each(shares, work)
}

/// Divide values \[N * C\] in image-major order.
fn shares<'a, T>(values: &'a mut [T], maps: &Maps) -> Vec<Share<'a, T>> {
    let (size, [_, channels, ..]) = (share(maps), maps.shape());
    let rows = values.chunks_exact_mut(channels).enumerate();
    rows.flat_map(|(image, row)| {
        let parts = row.chunks_mut(size).enumerate();
        parts.map(move |(index, values)| Share { image, first: index * size, values })
    })
    .collect()
}
