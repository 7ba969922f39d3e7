//! Maps in SIMD lanes: one map in each, as float64.

use pulp::Simd;

use super::aligned::aligned;

/// Where the pixels of a map go: the longer side along the rows, in panels of `panel` neighbouring columns.
///
/// A panel holds its part of every row, one row after the other; the last one is filled up. As many columns in a panel as
/// there are make a matrix in row-major order.
#[derive(Default)]
pub(crate) struct Layout {
    shape: (usize, usize),
    places: Vec<usize>,
    size: usize,
}

impl Layout {
    /// The layout of maps of this shape; that of the maps before is used again.
    pub(crate) fn fit(&mut self, height: usize, width: usize, panel: usize) {
        if self.shape == (height, width) {
            return;
        }
        let (rows, columns) = (height.max(width), height.min(width));
        let place = |row: usize, column: usize| (column / panel * rows + row) * panel + column % panel;
        self.shape = (height, width);
        self.size = columns.next_multiple_of(panel) * rows;
        self.places.clear();
        for y in 0..height {
            self.places.extend((0..width).map(|x| if height >= width { place(y, x) } else { place(x, y) }));
        }
    }

    /// Up to as many maps as there are lanes; lanes without a map and what fills a panel up become zero.
    #[inline(always)]
    pub(crate) fn load<'a, S: Simd>(&self, group: &[&[f32]], target: &'a mut Vec<f64>) -> &'a mut [S::f64s] {
        let target = aligned(target, self.size * S::F64_LANES);
        if self.places.len() < self.size {
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
        let (targets, _) = target.as_chunks_mut::<M>();
        if group.len() == M {
            let maps: [&[f32]; M] = std::array::from_fn(|lane| group[lane]);
            for (pixel, &place) in self.places.iter().enumerate() {
                // Unknown to the compiler, which would else gather from many pixels at once, far more slowly.
                let pixel = std::hint::black_box(pixel);
                targets[place] = maps.map(|map| f64::from(map[pixel]));
            }
            return;
        }
        for (pixel, &place) in self.places.iter().enumerate() {
            for (lane, target) in targets[place].iter_mut().enumerate() {
                *target = group.get(lane).map_or(0.0, |map| f64::from(map[pixel]));
            }
        }
    }
}

/// A register's lanes as numbers.
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(register: &S::f64s) -> &[f64] {
    pulp::bytemuck::cast_slice(std::slice::from_ref(register))
}
