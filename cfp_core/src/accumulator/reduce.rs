//! Norm and richness of every map of a batch.

use std::cell::RefCell;

use crate::criteria::Richness;
use crate::error::CoreError;
use crate::maps::Maps;
use crate::scores::entropy::entropy;
use crate::scores::norms::norm_of;
use crate::scores::range::range;
use crate::scores::rank::ranks;
use crate::scores::rounding::{round, scale};
use crate::scores::spectrum::{effective_rank, nuclear};
use crate::shares::{for_each_share, Share};
use crate::threads;

/// Norm and richness of one map.
pub(super) type MapScore = (f64, f64);

thread_local! {
    // Each thread reuses its buffers: allocating them for each share takes longer than many a rank.
    static BUFFERS: RefCell<(Vec<f32>, Vec<u32>)> = RefCell::default();
}

/// Norm and richness of every map \[N * C\] in image-major order.
///
/// Where a norm is not finite, the richness of the map and its neighbours is undefined. Without richness it is 0.
pub(super) fn reduce(
    maps: &Maps,
    richness: Option<Richness>,
    decimals: Option<u32>,
) -> Result<Vec<MapScore>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let ranges: Vec<(f32, f32)> = match richness {
        Some(Richness::Entropy) => threads::run(|| (0..images).map(|image| range(maps, image)).collect())?,
        _ => Vec::new(),
    };
    let mut reduced = vec![(0.0, 0.0); images * channels];
    for_each_share(&mut reduced, maps, |Share { image, values, .. }, pixels| {
        for ((norm, _), map) in values.iter_mut().zip(pixels.chunks_exact(height * width)) {
            *norm = norm_of(map);
        }
        if values.iter().any(|(norm, _)| !norm.is_finite()) {
            return;
        }
        let maps = values.iter_mut().zip(pixels.chunks_exact(height * width));
        let Some(richness) = richness else { return };
        match richness {
            Richness::Rank => set_ranks(values, pixels, (height, width), decimals),
            Richness::Entropy => set(maps, |map| entropy(map, ranges[image])),
            Richness::EffectiveRank => set(maps, |map| effective_rank(map, height, width)),
            Richness::Nuclear => set(maps, |map| nuclear(map, height, width)),
        }
    })?;
    Ok(reduced)
}

/// Set the richness of each map to `score` of its pixels.
fn set<'a>(maps: impl Iterator<Item = (&'a mut MapScore, &'a [f32])>, score: impl Fn(&[f32]) -> f64) {
    for ((_, rich), map) in maps {
        *rich = score(map);
    }
}

/// Set the richness of maps to the ranks of the rounded maps.
fn set_ranks(values: &mut [MapScore], pixels: &[f32], (height, width): (usize, usize), decimals: Option<u32>) {
    BUFFERS.with_borrow_mut(|(rounded, found)| {
        let pixels = if let Some(decimals) = decimals {
            rounded.resize(pixels.len(), 0.0);
            round(pixels, scale(decimals), rounded);
            rounded.as_slice()
        } else {
            pixels
        };
        found.resize(values.len(), 0);
        ranks(pixels, height, width, found);
        for ((_, rich), &rank) in values.iter_mut().zip(found.iter()) {
            *rich = f64::from(rank);
        }
    });
}
