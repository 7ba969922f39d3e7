//! The channels of one image in panels.

use rayon::prelude::*;

use super::registers::lanes;
use crate::maps::Maps;

/// The channels of one image in panels: in each panel all pixels, and for each pixel the values of the panel's channels.
pub(crate) struct ChannelPanels {
    values: Vec<f32>,
    /// Number of pixels of a channel.
    pub pixels: usize,
    /// Number of channels of a panel.
    pub lanes: usize,
}

impl ChannelPanels {
    /// All pixels. Call it inside the thread pool.
    pub(crate) fn new(maps: &Maps, image: usize) -> Self {
        let [_, channels, height, width] = maps.shape();
        let (lanes, pixels) = (lanes(), height * width);
        let mut values = vec![0.0f32; channels.div_ceil(lanes) * pixels * lanes];
        values.par_chunks_exact_mut(pixels * lanes).enumerate().for_each_init(Vec::new, |buffer, (panel, target)| {
            let first = panel * lanes;
            let planes = maps.planes(image, first, lanes.min(channels - first), buffer);
            for (lane, plane) in planes.chunks_exact(pixels).enumerate() {
                for (target, &pixel) in target.iter_mut().skip(lane).step_by(lanes).zip(plane) {
                    *target = pixel;
                }
            }
        });
        Self { values, pixels, lanes }
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.values.len() / (self.pixels * self.lanes)
    }

    /// The values of one panel \[pixels * lanes\].
    pub(crate) fn panel(&self, panel: usize) -> &[f32] {
        &self.values[panel * self.pixels * self.lanes..(panel + 1) * self.pixels * self.lanes]
    }
}
