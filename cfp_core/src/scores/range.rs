//! Lowest and highest pixel of the maps of an image.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::maps::Maps;
use crate::shares::share_size;

const LANES: usize = 16;

/// Lowest and highest pixel of all channels of one image. Call it inside the thread pool.
pub(crate) fn range(maps: &Maps, image: usize) -> (f32, f32) {
    let ([_, channels, ..], share) = (maps.shape(), share_size(maps));
    let starts: Vec<usize> = (0..channels).step_by(share).collect();
    starts
        .into_par_iter()
        .map_init(Vec::new, |buffer, first| {
            Arch::new().dispatch(Range(maps.planes(image, first, share.min(channels - first), buffer)))
        })
        .reduce(
            || (f32::INFINITY, f32::NEG_INFINITY),
            |(low, high), (other_low, other_high)| (low.min(other_low), high.max(other_high)),
        )
}

struct Range<'a>(&'a [f32]);

impl WithSimd for Range<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> (f32, f32) {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (blocks, rest) = self.0.as_chunks::<LANES>();
        for block in blocks {
            for ((low, high), &pixel) in low.iter_mut().zip(&mut high).zip(block) {
                *low = if pixel < *low { pixel } else { *low };
                *high = if pixel > *high { pixel } else { *high };
            }
        }
        let low = low.iter().chain(rest).copied().fold(f32::INFINITY, f32::min);
        let high = high.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        (low, high)
    }
}
