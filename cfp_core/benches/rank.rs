//! Ranks of maps as a VGG-16 gives them at 224 pixels: `cargo bench --no-default-features`.

use cfp_core::{matrix_ranks, Maps};
use divan::{black_box, counter::ItemsCount, Bencher};

/// Rectified smooth random maps [count, side, side]: of nearly full rank, with one dominant direction.
fn maps(count: usize, side: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.4
    };
    let mut pixels = vec![0.0f32; count * side * side];
    let mut before = 0.0;
    for pixel in &mut pixels {
        before = 0.7 * before + noise();
        *pixel = before.max(0.0);
    }
    pixels
}

#[divan::bench(args = [(224, 16), (112, 64), (56, 128), (28, 256), (14, 512), (7, 512)])]
fn ranks(bencher: Bencher, (side, count): (usize, usize)) {
    let pixels = maps(count, side);
    let view = Maps::contiguous(&pixels, [1, count, side, side]).expect("the shape fits");
    bencher.counter(ItemsCount::new(count)).bench(|| matrix_ranks(black_box(&view)).expect("finite maps"));
}

fn main() {
    divan::main();
}
