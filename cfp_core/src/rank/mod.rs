//! Numerical rank of a map, or of many of one size at once.

mod aligned;
mod bidiagonal;
mod gram;
mod inertia;
pub(crate) mod load;

use pulp::Arch;

use crate::prepare::is_live;
use crate::spectrum::{drop_zeros, singular_values_of};

/// The float32 machine epsilon, 2^-23.
const EPSILON: f64 = f32::EPSILON as f64;

/// Relative width to which the largest eigenvalue of a Gram matrix is enclosed by power steps: the threshold, which goes
/// with its root, is then right to five digits.
const ENCLOSED: f64 = 1e-5;

/// A pivot below so many units of rounding of the largest eigenvalue leaves the sign of later ones in doubt.
const DOUBT: f64 = 8192.0 * f64::EPSILON;

/// Rank of one map \[H * W\]: the number of singular values above `s_max * max(H, W) * 2^-23`; 0 for an all-zero map.
///
/// This is the default rule of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32, with the singular
/// values taken in float64. The pixels must be finite.
#[must_use]
pub fn rank(pixels: &[f32], height: usize, width: usize) -> u32 {
    let mut found = [0];
    Ranker::default().ranks(pixels, height, width, &mut found);
    found[0]
}

/// Counts ranks, with memory that is used again from map to map.
#[derive(Default)]
pub(crate) struct Ranker {
    gram: gram::Scratch,
    bidiagonal: bidiagonal::Scratch,
    inertia: inertia::Scratch,
    dense: Vec<f32>,
}

impl Ranker {
    /// Ranks of maps \[count * H * W\] that follow one another; all pixels are finite.
    ///
    /// Each way answers for the maps it is sure of and leaves the others to the next: eliminations of many Gram matrices at
    /// once, then bidiagonal forms of the small maps and one inertia at a time of the large, then singular values.
    pub(crate) fn ranks(&mut self, pixels: &[f32], height: usize, width: usize, ranks: &mut [u32]) {
        let relative = height.max(width) as f64 * EPSILON;
        let map = |index: usize| &pixels[index * height * width..(index + 1) * height * width];
        ranks.fill(0);
        let mut open: Vec<usize> = (0..ranks.len()).filter(|&index| is_live(map(index))).collect();
        if height.max(width) <= load::LARGEST {
            settle(&mut open, map, ranks, |maps, counts| {
                let scratch = &mut self.gram;
                Arch::new().dispatch(gram::Grams { maps, height, width, relative, scratch, counts });
            });
        }
        if height.max(width) <= bidiagonal::LARGEST {
            settle(&mut open, map, ranks, |maps, counts| {
                let scratch = &mut self.bidiagonal;
                Arch::new().dispatch(bidiagonal::Bidiagonals { maps, height, width, relative, scratch, counts });
            });
        }
        for index in open {
            ranks[index] = self.one(map(index), height, width, relative);
        }
    }

    fn one(&mut self, pixels: &[f32], height: usize, width: usize, relative: f64) -> u32 {
        let (dense, rows, columns) = drop_zeros(pixels, height, width, &mut self.dense);
        let scratch = &mut self.inertia;
        Arch::new()
            .dispatch(inertia::Inertia { pixels: dense, rows, columns, relative, scratch })
            .unwrap_or_else(|| by_singular_values(dense, rows, columns, relative))
    }
}

/// Let one way count the ranks of the open maps; those that it leaves in doubt stay open.
fn settle<'a>(
    open: &mut Vec<usize>,
    map: impl Fn(usize) -> &'a [f32],
    ranks: &mut [u32],
    count: impl FnOnce(&[&[f32]], &mut [Option<u32>]),
) {
    let maps: Vec<&[f32]> = open.iter().map(|&index| map(index)).collect();
    let mut counts = vec![None; maps.len()];
    count(&maps, &mut counts);
    let mut counts = counts.into_iter();
    open.retain(|&index| match counts.next().flatten() {
        Some(count) => {
            ranks[index] = count;
            false
        }
        None => true,
    });
}

/// The slow way, for what is too close to call.
fn by_singular_values(pixels: &[f32], height: usize, width: usize, relative: f64) -> u32 {
    let values = singular_values_of(pixels, height, width);
    let largest = values.first().copied().unwrap_or(0.0);
    values.iter().filter(|&&value| value > largest * relative).count() as u32
}

#[cfg(test)]
mod tests;
