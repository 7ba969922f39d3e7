//! Cosine distances of all pairs of channels of one image.

use crate::maps::Maps;
use crate::products::{products, ChannelPanels};

/// Add the distances 1 - <a, b> / (|a| |b|) of one image's channels to condensed `sums`. Call it inside the thread pool.
///
/// The distance between two all-zero maps is 0, between an all-zero map and another one 1.
pub(crate) fn add_cosine(maps: &Maps, image: usize, sums: &mut [f64]) {
    let channels = maps.shape()[1];
    let products = products(&ChannelPanels::new(maps, image));
    let squares: Vec<f64> = (0..channels).map(|channel| products.get(channel, channel)).collect();
    products.add_to(sums, channels, |channel, other, product| {
        let (one, two) = (squares[channel], squares[other]);
        match (one > 0.0, two > 0.0) {
            (true, true) => (1.0 - product / (one * two).sqrt()).max(0.0),
            (false, false) => 0.0,
            _ => 1.0,
        }
    });
}
