//! Shannon entropy of the pixels of a map.

const BINS: usize = 256;

/// Entropy in bits of the histogram of 256 equal bins over the value range of the tap on one image.
///
/// Each bin includes its left edge, the last one both edges, as in `numpy.histogram`. The entropy of a range of width 0 is 0.
/// Source of the measure: Shannon 1948, A mathematical theory of communication.
pub(crate) fn entropy(pixels: &[f32], (low, high): (f32, f32)) -> f64 {
    let (low, high) = (f64::from(low), f64::from(high));
    if high <= low {
        return 0.0;
    }
    let mut histogram = [0u32; BINS];
    let edge = |bin: usize| if bin == BINS { high } else { low + bin as f64 * ((high - low) / BINS as f64) };
    for &pixel in pixels {
        let value = f64::from(pixel);
        let mut bin = (((value - low) / (high - low) * BINS as f64) as usize).min(BINS - 1);
        // Rounding may put a value on the wrong side of an edge.
        if value < edge(bin) {
            bin -= 1;
        } else if bin + 1 < BINS && value >= edge(bin + 1) {
            bin += 1;
        }
        histogram[bin] += 1;
    }
    let count = pixels.len() as f64;
    let shares = histogram.iter().filter(|&&pixels| pixels > 0).map(|&pixels| f64::from(pixels) / count);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}
