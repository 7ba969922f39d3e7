//! Frobenius norms of feature maps.

use crate::prepare::plane_norm;
use crate::shares::{for_each_share, Memory, Share};
use crate::{CoreError, Maps};

/// Frobenius norm of every map, \[N * C\] in image-major order, summed in float64.
///
/// # Errors
/// A map holds NaN or infinity.
pub fn norms(maps: &Maps) -> Result<Vec<f64>, CoreError> {
    let [images, channels, height, width] = maps.shape();
    let mut found = vec![0.0; images * channels];
    for_each_share(&mut found, maps, |Memory { planes, .. }, Share { image, first, values }| {
        let pixels = maps.planes(image, first, values.len(), planes);
        for (norm, map) in values.iter_mut().zip(pixels.chunks_exact(height * width)) {
            *norm = plane_norm(map);
        }
    })?;
    match found.iter().position(|norm| !norm.is_finite()) {
        Some(index) => {
            let (image, channel) = (index / channels, index % channels);
            Err(CoreError::NotFinite { tap: String::new(), image, channel })
        }
        None => Ok(found),
    }
}
