//! Computes ranks with the fastest method that is certain of the result.

use std::cell::RefCell;

use pulp::Arch;

use super::bidiagonal::{self, Bidiagonals};
use super::gram::Grams;
use super::inertia::{self, Inertia};
use super::layout;
use super::map_in_each_lane::{Batch, Method, Scratch};
use crate::scores::spectrum::{drop_zeros, singular_values_of};

/// The float32 machine epsilon, 2^-23.
pub(super) const EPSILON: f64 = f32::EPSILON as f64;

/// Rank of one map \[H * W\]: the number of singular values above `s_max * max(H, W) * 2^-23`; 0 for an all-zero map.
///
/// This is the default rule of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32, with singular values
/// in float64. All pixels must be finite.
#[must_use]
pub fn rank(pixels: &[f32], height: usize, width: usize) -> u32 {
    let mut rank = [0];
    Ranker::default().ranks(pixels, height, width, &mut rank);
    rank[0]
}

thread_local! {
    // Each thread reuses the memory of its ranker: allocating it for each map takes longer than many a rank.
    static RANKER: RefCell<Ranker> = RefCell::default();
}

/// Write the ranks of maps \[count * H * W\] that lie one after another to `ranks`. All pixels must be finite.
pub(crate) fn ranks(pixels: &[f32], height: usize, width: usize, ranks: &mut [u32]) {
    RANKER.with_borrow_mut(|ranker| ranker.ranks(pixels, height, width, ranks));
}

/// Computes ranks; reuses its memory from map to map.
#[derive(Default)]
struct Ranker {
    gram: Scratch<Grams>,
    bidiagonal: Scratch<Bidiagonals>,
    inertia: inertia::Scratch,
    dense: Vec<f32>,
}

impl Ranker {
    /// Tries the methods in order of speed: Gram matrices of many maps at once; then bidiagonal forms of small maps, or the
    /// inertia of one large map at a time; then singular values. Each method leaves the maps it is not sure of to the next.
    fn ranks(&mut self, pixels: &[f32], height: usize, width: usize, ranks: &mut [u32]) {
        let relative = height.max(width) as f64 * EPSILON;
        let map = |index: usize| &pixels[index * height * width..(index + 1) * height * width];
        ranks.fill(0);
        let mut open: Vec<usize> =
            (0..ranks.len()).filter(|&index| map(index).iter().any(|&pixel| pixel != 0.0)).collect();
        if height.max(width) <= layout::LARGEST {
            count_in_lanes(&mut self.gram, &mut open, map, (height, width), ranks);
        }
        if height.max(width) <= bidiagonal::LARGEST {
            count_in_lanes(&mut self.bidiagonal, &mut open, map, (height, width), ranks);
        }
        for index in open {
            ranks[index] = self.one(map(index), height, width, relative);
        }
    }

    fn one(&mut self, pixels: &[f32], height: usize, width: usize, relative: f64) -> u32 {
        let (dense, rows, columns) = drop_zeros(pixels, height, width, &mut self.dense);
        let scratch = &mut self.inertia;
        Arch::new()
            .dispatch(Inertia { pixels: dense, rows, columns, relative, scratch })
            .unwrap_or_else(|| by_singular_values(dense, rows, columns, relative))
    }
}

/// Compute the ranks of the open maps with one method. Maps whose rank it leaves in doubt stay open.
fn count_in_lanes<'a, M: Method>(
    scratch: &mut Scratch<M>,
    open: &mut Vec<usize>,
    map: impl Fn(usize) -> &'a [f32],
    (height, width): (usize, usize),
    ranks: &mut [u32],
) {
    let relative = height.max(width) as f64 * EPSILON;
    let maps: Vec<&[f32]> = open.iter().map(|&index| map(index)).collect();
    let mut counts = vec![None; maps.len()];
    Arch::new().dispatch(Batch { maps: &maps, height, width, relative, scratch, counts: &mut counts });
    let mut counts = counts.into_iter();
    open.retain(|&index| match counts.next().flatten() {
        Some(count) => {
            ranks[index] = count;
            false
        }
        None => true,
    });
}

/// The slow method, for maps with a singular value too close to the threshold for the others.
pub(super) fn by_singular_values(pixels: &[f32], height: usize, width: usize, relative: f64) -> u32 {
    let values = singular_values_of(pixels, height, width);
    let largest = values.first().copied().unwrap_or(0.0);
    values.iter().filter(|&&value| value > largest * relative).count() as u32
}
