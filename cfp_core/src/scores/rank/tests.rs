//! The fast methods against singular values, with every instruction set of this machine.

use std::marker::PhantomData;

use proptest::prelude::*;
use pulp::{Arch, Scalar, Simd, WithSimd};

use super::bidiagonal::Bidiagonals;
use super::gram::Grams;
use super::inertia;
use super::map_in_each_lane::{Batch, Method, Scratch};
use super::ranker::{by_singular_values, EPSILON};

/// Run `work` with each instruction set.
fn with_each<Op: WithSimd>(work: impl Fn() -> Op) -> Vec<Op::Output> {
    let mut outputs = vec![Arch::new().dispatch(work()), Scalar.vectorize(work())];
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        outputs.push(Simd::vectorize(simd, work()));
    }
    outputs
}

struct ByInertia<'a>(&'a [f32], usize, usize);

impl WithSimd for ByInertia<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<u32> {
        let Self(pixels, rows, columns) = self;
        let (relative, scratch) = (rows.max(columns) as f64 * EPSILON, &mut inertia::Scratch::default());
        inertia::Inertia { pixels, rows, columns, relative, scratch }.with_simd(simd)
    }
}

struct InLanes<'a, M>(&'a [&'a [f32]], usize, usize, PhantomData<M>);

impl<M: Method> WithSimd for InLanes<'_, M> {
    type Output = Vec<Option<u32>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Option<u32>> {
        let Self(maps, height, width, _) = self;
        let relative = height.max(width) as f64 * EPSILON;
        let mut counts = vec![None; maps.len()];
        let scratch = &mut Scratch::<M>::default();
        Batch { maps, height, width, relative, scratch, counts: &mut counts }.with_simd(simd);
        counts
    }
}

fn in_lanes<M: Method>(maps: &[&[f32]], height: usize, width: usize) -> Vec<Vec<Option<u32>>> {
    with_each(|| InLanes::<M>(maps, height, width, PhantomData))
}

fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A map of a kind that networks produce: dense, rectified, of low rank, smooth, repeated.
fn map(kind: usize, height: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut random = noise(seed);
    let mut pixels: Vec<f32> = (0..height * width).map(|_| random()).collect();
    match kind % 5 {
        0 => {}
        1 => pixels.iter_mut().for_each(|pixel| *pixel = pixel.max(0.0)),
        2 => {
            let inner = 1 + height.min(width) / 3;
            let left: Vec<f32> = (0..height * inner).map(|_| random()).collect();
            let right: Vec<f32> = (0..inner * width).map(|_| random()).collect();
            for (position, pixel) in pixels.iter_mut().enumerate() {
                let (row, column) = (position / width, position % width);
                *pixel = (0..inner).map(|k| left[row * inner + k] * right[k * width + column]).sum();
            }
        }
        3 => {
            for position in 1..pixels.len() {
                pixels[position] = 0.9 * pixels[position - 1] + 0.1 * pixels[position] + 0.02;
            }
            for pixel in &mut pixels {
                *pixel = (*pixel * 1e4).round_ties_even() / 1e4;
            }
        }
        _ => {
            for position in width..pixels.len() {
                if !(position / width).is_multiple_of(3) {
                    pixels[position] = pixels[position - width];
                }
            }
        }
    }
    pixels
}

/// The map with some rows and columns of zeros, as after a `ReLU`.
fn with_dead_lines(mut pixels: Vec<f32>, width: usize, seed: u64) -> Vec<f32> {
    let dead = |line: usize, salt: u64| (seed ^ salt).rotate_left(line as u32 % 64).is_multiple_of(8);
    for (position, pixel) in pixels.iter_mut().enumerate() {
        if dead(position / width, 0x51) || dead(position % width, 0x9e) {
            *pixel = 0.0;
        }
    }
    pixels
}

fn relative(height: usize, width: usize) -> f64 {
    height.max(width) as f64 * EPSILON
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn inertia_is_correct_or_none(
        kind in 0usize..5, height in 1usize..70, width in 33usize..70, seed in any::<u64>()
    ) {
        let pixels = map(kind, height, width, seed);
        prop_assume!(pixels.iter().any(|&pixel| pixel != 0.0));
        let expected = by_singular_values(&pixels, height, width, relative(height, width));
        for found in with_each(|| ByInertia(&pixels, height, width)) {
            prop_assert!(found.is_none_or(|found| found == expected), "{found:?} for {expected}");
        }
    }

    #[test]
    fn gram_matrices_are_correct_or_none(
        kind in 0usize..5, height in 1usize..=64, width in 1usize..=64, count in 1usize..20, seed in any::<u64>()
    ) {
        let maps: Vec<Vec<f32>> =
            (0..count).map(|index| with_dead_lines(map(kind + index, height, width, seed ^ index as u64), width, seed)).collect();
        let live: Vec<&[f32]> =
            maps.iter().filter(|map| map.iter().any(|&pixel| pixel != 0.0)).map(Vec::as_slice).collect();
        let expected: Vec<u32> =
            live.iter().map(|map| by_singular_values(map, height, width, relative(height, width))).collect();
        for found in in_lanes::<Grams>(&live, height, width) {
            for (found, &expected) in found.iter().zip(&expected) {
                prop_assert!(found.is_none_or(|found| found == expected), "{found:?} for {expected}");
            }
        }
    }

    #[test]
    fn bidiagonal_forms_are_correct(
        kind in 0usize..5, height in 1usize..=16, width in 1usize..=16, count in 1usize..20, seed in any::<u64>()
    ) {
        let maps: Vec<Vec<f32>> =
            (0..count).map(|index| map(kind + index, height, width, seed ^ index as u64)).collect();
        let live: Vec<&[f32]> =
            maps.iter().filter(|map| map.iter().any(|&pixel| pixel != 0.0)).map(Vec::as_slice).collect();
        let expected: Vec<Option<u32>> =
            live.iter().map(|map| Some(by_singular_values(map, height, width, relative(height, width)))).collect();
        for found in in_lanes::<Bidiagonals>(&live, height, width) {
            prop_assert_eq!(&found, &expected);
        }
    }
}

#[test]
fn inertia_finds_the_rank_of_ordinary_maps() {
    for kind in 0..5 {
        for (height, width) in [(56, 56), (112, 64), (64, 112), (100, 100)] {
            let pixels = map(kind, height, width, 7);
            for found in with_each(|| ByInertia(&pixels, height, width)) {
                assert!(found.is_some(), "kind {kind}, {height} x {width}");
            }
        }
    }
}

#[test]
fn gram_matrices_find_the_rank_of_ordinary_maps() {
    for side in [7, 14, 28, 40, 56] {
        // Noise has full rank; a dead column reduces it by one.
        let mut maps: Vec<Vec<f32>> = (0..11).map(|index| map(0, side, side, index)).collect();
        maps[3].iter_mut().step_by(side).for_each(|pixel| *pixel = 0.0);
        let maps: Vec<&[f32]> = maps.iter().map(Vec::as_slice).collect();
        let mut expected = vec![Some(side as u32); maps.len()];
        expected[3] = Some(side as u32 - 1);
        for found in in_lanes::<Grams>(&maps, side, side) {
            assert_eq!(found, expected, "{side}");
        }
    }
}

#[test]
fn inertia_is_none_for_a_singular_value_at_the_threshold() {
    let side = 64;
    let mut pixels = vec![0.0f32; side * side];
    pixels[0] = 1.0;
    for index in 1..side {
        // All but the largest are equal to the threshold, which does not count.
        pixels[index * side + index] = relative(side, side) as f32;
    }
    assert_eq!(super::rank(&pixels, side, side), 1);
    for found in with_each(|| ByInertia(&pixels, side, side)) {
        assert_eq!(found, None);
    }
}

#[test]
fn extreme_float32_values_do_not_change_the_rank() {
    for side in [5, 40] {
        for factor in [1e-44f32, 1e-38, 1e30, 1e38] {
            let pixels: Vec<f32> = map(0, side, side, 3).iter().map(|pixel| pixel * factor).collect();
            let expected = by_singular_values(&pixels, side, side, relative(side, side));
            assert_eq!(super::rank(&pixels, side, side), expected, "{side} times {factor}");
        }
    }
}
