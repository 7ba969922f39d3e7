//! Maps in SIMD lanes: one map in each, as float64.

use pulp::Simd;

use super::aligned::aligned;

/// The largest height or width that goes through the lanes: eight such maps and their Gram matrices fit the second cache.
pub(crate) const LARGEST: usize = 64;
/// Neighbouring pixels that are loaded at once.
const RUN: usize = 4;

/// Where the pixels of a map go: the longer side along the rows, in panels of `panel` neighbouring columns.
///
/// A panel holds its part of every row, one row after the other; the last one is filled up. As many columns in a panel as
/// there are make a matrix in row-major order.
#[derive(Default)]
pub(crate) struct Layout {
    shape: (usize, usize),
    /// First pixel and first place of runs that keep their order, and pixel and place of the other pixels.
    runs: Vec<(usize, usize)>,
    singles: Vec<(usize, usize)>,
    size: usize,
}

impl Layout {
    /// The layout of maps of this shape; that of the maps before is used again.
    pub(crate) fn fit(&mut self, height: usize, width: usize, panel: usize) {
        if self.shape == (height, width) {
            return;
        }
        let (rows, columns) = (height.max(width), height.min(width));
        self.shape = (height, width);
        self.size = columns.next_multiple_of(panel) * rows;
        self.runs.clear();
        self.singles.clear();
        for row in 0..rows {
            for first in (0..columns).step_by(panel) {
                let place = (first / panel * rows + row) * panel;
                let inside = panel.min(columns - first);
                // A map that is wider than high lies across, pixel by pixel.
                let in_runs = if height >= width { inside / RUN * RUN } else { 0 };
                let pixel = |offset| {
                    if height >= width {
                        row * width + first + offset
                    } else {
                        (first + offset) * width + row
                    }
                };
                self.runs.extend((0..in_runs).step_by(RUN).map(|offset| (pixel(offset), place + offset)));
                self.singles.extend((in_runs..inside).map(|offset| (pixel(offset), place + offset)));
            }
        }
    }

    /// Up to as many maps as there are lanes; lanes without a map and what fills a panel up become zero.
    #[inline(always)]
    pub(crate) fn load<'a, S: Simd>(&self, group: &[&[f32]], target: &'a mut Vec<f64>) -> &'a mut [S::f64s] {
        let target = aligned(target, self.size * S::F64_LANES);
        if self.shape.0 * self.shape.1 < self.size {
            target.fill(0.0);
        }
        match S::F64_LANES {
            8 => self.load_lanes::<8>(group, target),
            4 => self.load_lanes::<4>(group, target),
            2 => self.load_lanes::<2>(group, target),
            _ => self.load_lanes::<1>(group, target),
        }
        S::as_mut_simd_f64s(target).0
    }

    #[inline(always)]
    fn load_lanes<const M: usize>(&self, group: &[&[f32]], target: &mut [f64]) {
        const DEAD: &[f32] = &[0.0; LARGEST * LARGEST];
        let targets = target.as_chunks_mut::<M>().0;
        let maps: [&[f32]; M] = std::array::from_fn(|lane| group.get(lane).copied().unwrap_or(DEAD));
        for &(pixel, place) in &self.runs {
            let pixels: [[f64; RUN]; M] =
                maps.map(|map| std::array::from_fn(|next| f64::from(map[pixel..pixel + RUN][next])));
            for (next, target) in targets[place..place + RUN].iter_mut().enumerate() {
                *target = std::array::from_fn(|lane| pixels[lane][next]);
            }
        }
        for &(pixel, place) in &self.singles {
            // Unknown to the compiler, which would else gather from many pixels at once, far more slowly.
            let pixel = std::hint::black_box(pixel);
            targets[place] = maps.map(|map| f64::from(map[pixel]));
        }
    }
}

/// A register's lanes as numbers.
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(register: &S::f64s) -> &[f64] {
    pulp::bytemuck::cast_slice(std::slice::from_ref(register))
}
