//! Memory for SIMD registers.

/// Float64 numbers of a cache line.
const LINE: usize = 8;

/// So many numbers of `memory`, of any value, from where a cache line begins: registers that span two lines load half as fast.
pub(crate) fn aligned(memory: &mut Vec<f64>, count: usize) -> &mut [f64] {
    memory.resize(count + LINE, 0.0);
    let start = memory.as_ptr().align_offset(LINE * size_of::<f64>()).min(LINE);
    &mut memory[start..start + count]
}
