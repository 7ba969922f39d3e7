//! Ranks of as many maps at once as a register has lanes: each lane computes one map.

use pulp::{Simd, WithSimd};

use super::layout::{lanes_of, Layout};

/// A method that counts singular values.
pub(crate) trait Method: Default {
    /// Number of neighbouring columns of a panel in the layout of the maps; `columns` is the length of the shorter side.
    fn panel(columns: usize) -> usize;

    /// The number of singular values above `relative` times the largest, and 1 in the lanes where it is certain, else 0.
    ///
    /// `matrix` contains one map \[rows * columns\] in each lane, rows >= columns.
    fn count<S: Simd>(
        &mut self,
        simd: S,
        matrix: &mut [S::f64s],
        rows: usize,
        columns: usize,
        relative: f64,
    ) -> (S::f64s, S::f64s);
}

/// A method and the memory of the maps, reused from batch to batch.
#[derive(Default)]
pub(crate) struct Scratch<M> {
    layout: Layout,
    maps: Vec<f64>,
    method: M,
}

/// Counts the singular values above `relative` times the largest of each map; `None` where the method is not certain.
pub(crate) struct Batch<'a, M> {
    /// Maps \[height * width\] in row-major order. None is all zero.
    pub maps: &'a [&'a [f32]],
    pub height: usize,
    pub width: usize,
    pub relative: f64,
    pub scratch: &'a mut Scratch<M>,
    pub counts: &'a mut [Option<u32>],
}

impl<M: Method> WithSimd for Batch<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (rows, columns) = (self.height.max(self.width), self.height.min(self.width));
        let Scratch { layout, maps, method } = self.scratch;
        layout.fit(self.height, self.width, M::panel(columns));
        for (group, targets) in self.maps.chunks(S::F64_LANES).zip(self.counts.chunks_mut(S::F64_LANES)) {
            let matrix = layout.load::<S>(group, maps);
            let (counts, certain) = method.count::<S>(simd, matrix, rows, columns, self.relative);
            let lanes = lanes_of::<S>(&counts).iter().zip(lanes_of::<S>(&certain));
            for (target, (&count, &certain)) in targets.iter_mut().zip(lanes) {
                *target = (certain > 0.0).then_some(count as u32);
            }
        }
    }
}
