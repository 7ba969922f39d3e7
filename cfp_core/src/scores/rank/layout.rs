//! Layout of maps in SIMD lanes: one map in each lane, in float64.

use pulp::Simd;

use super::aligned::aligned;

/// The largest height or width of a map in a lane: eight such maps and their Gram matrices fit the second-level cache.
pub(crate) const LARGEST: usize = 64;
/// Number of neighbouring pixels that are loaded at once.
const RUN: usize = 4;

/// The target index of every pixel of a map. The longer side of the map is along the rows; columns are in panels of `panel`
/// neighbouring columns.
///
/// A panel contains its part of every row, one row after another. Zeros fill the last panel. A single panel of all columns is a
/// matrix in row-major order.
#[derive(Default)]
pub(crate) struct Layout {
    shape: (usize, usize),
    /// First pixel and its target index, for runs of pixels whose targets are neighbours.
    runs: Vec<(usize, usize)>,
    /// Pixel and target index of all other pixels.
    singles: Vec<(usize, usize)>,
    size: usize,
}

impl Layout {
    /// Compute the layout of maps of this shape, unless the maps before had the same shape.
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
                let target = (first / panel * rows + row) * panel;
                let inside = panel.min(columns - first);
                // A map that is wider than high is transposed, pixel by pixel.
                let in_runs = if height >= width { inside / RUN * RUN } else { 0 };
                let pixel = |offset| {
                    if height >= width {
                        row * width + first + offset
                    } else {
                        (first + offset) * width + row
                    }
                };
                self.runs.extend((0..in_runs).step_by(RUN).map(|offset| (pixel(offset), target + offset)));
                self.singles.extend((in_runs..inside).map(|offset| (pixel(offset), target + offset)));
            }
        }
    }

    /// Load up to as many maps as there are lanes. Lanes without a map, and padding, become zero.
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
        for &(pixel, index) in &self.runs {
            let pixels: [[f64; RUN]; M] =
                maps.map(|map| std::array::from_fn(|next| f64::from(map[pixel..pixel + RUN][next])));
            for (next, target) in targets[index..index + RUN].iter_mut().enumerate() {
                *target = std::array::from_fn(|lane| pixels[lane][next]);
            }
        }
        for &(pixel, index) in &self.singles {
            // Hides the index from the compiler, which would otherwise use gather instructions, which are far slower.
            let pixel = std::hint::black_box(pixel);
            targets[index] = maps.map(|map| f64::from(map[pixel]));
        }
    }
}

/// The lanes of a register as numbers.
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(register: &S::f64s) -> &[f64] {
    pulp::bytemuck::cast_slice(std::slice::from_ref(register))
}
