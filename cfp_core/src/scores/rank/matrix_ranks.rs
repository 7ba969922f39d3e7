//! Ranks of all maps of a batch.

use super::ranker::ranks;
use crate::error::CoreError;
use crate::maps::Maps;
use crate::scores::norms::norm_of;
use crate::shares::{for_each_share, Share};

/// Marks a map that contains NaN or infinity.
const NOT_FINITE: u32 = u32::MAX;

/// Rank of every map, \[N * C\] in image-major order.
///
/// # Errors
/// A map contains NaN or infinity.
pub fn matrix_ranks(maps: &Maps) -> Result<Vec<u32>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let count = images * channels;
    if count == 0 {
        return Ok(Vec::new());
    }
    // A share is part of one image. Many images of one channel are divided like many channels of one image.
    let view = if channels == 1 { maps.swap_images_and_channels() } else { *maps };
    let mut found = vec![0; count];
    for_each_share(&mut found, &view, |Share { values, .. }, pixels| {
        let mut maps = pixels.chunks_exact(height * width);
        if let Some(index) = maps.position(|map| !norm_of(map).is_finite()) {
            values[index] = NOT_FINITE;
        } else {
            ranks(pixels, height, width, values);
        }
    })?;
    match found.iter().position(|&rank| rank == NOT_FINITE) {
        Some(index) => {
            let (image, channel) = (index / channels, index % channels);
            Err(CoreError::NotFinite { tap: String::new(), image, channel })
        }
        None => Ok(found),
    }
}
