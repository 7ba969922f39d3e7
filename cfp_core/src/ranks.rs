//! Ranks of all maps of a batch.

use crate::prepare::plane_norm;
use crate::shares::{for_each_share, Memory, Share};
use crate::{CoreError, Maps};

/// Stands for the rank of a map that has none.
const NOT_FINITE: u32 = u32::MAX;

/// Rank of every map, \[N * C\] in image-major order.
///
/// # Errors
/// A map holds NaN or infinity.
pub fn matrix_ranks(maps: &Maps) -> Result<Vec<u32>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let count = images * channels;
    if count == 0 {
        return Ok(Vec::new());
    }
    // Many images of one channel are reduced together like many channels of one image.
    let whole = if channels == 1 { maps.swap_images_and_channels() } else { *maps };
    let mut found = vec![0; count];
    for_each_share(&mut found, &whole, |Memory { planes, ranker, .. }, Share { image, first, values }| {
        let pixels = whole.planes(image, first, values.len(), planes);
        let mut maps = pixels.chunks_exact(height * width);
        if let Some(index) = maps.position(|plane| !plane_norm(plane).is_finite()) {
            values[index] = NOT_FINITE;
        } else {
            ranker.ranks(pixels, height, width, values);
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
