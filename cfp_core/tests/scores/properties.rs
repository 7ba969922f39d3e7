//! What holds for any maps: ranks beside float64 singular values, invariances, one result however images are divided.

use cfp_core::{
    matrix_ranks, norms, pairwise_distance, rank, CoreError, Maps, Richness, Similarity, TapAccumulator, TapScores,
};
use faer::Mat;
use proptest::collection::vec;
use proptest::prelude::*;

/// A singular value so close to the threshold, relative to it, may fall on either side.
const TOO_CLOSE: f64 = 1e-3;

/// Fewest and most singular values that may count as above the threshold, by a float64 decomposition.
fn bounds(pixels: &[f32], height: usize, width: usize) -> (u32, u32) {
    let largest = pixels.iter().fold(0.0f32, |largest, pixel| largest.max(pixel.abs()));
    if largest <= 0.0 {
        return (0, 0);
    }
    let matrix =
        Mat::from_fn(height, width, |row, column| f64::from(pixels[row * width + column]) / f64::from(largest));
    let values = matrix.singular_values().expect("finite matrices have singular values");
    let threshold = values[0] * height.max(width) as f64 * f64::from(f32::EPSILON);
    let count = |limit: f64| values.iter().filter(|&&value| value > limit).count() as u32;
    (count(threshold * (1.0 + TOO_CLOSE)), count(threshold * (1.0 - TOO_CLOSE)))
}

/// A pixel: mostly ordinary, often zero, sometimes subnormal, tiny or huge.
fn pixel() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -1.0f32..1.0,
        4 => Just(0.0),
        1 => Just(-0.0),
        2 => (-5i32..6).prop_map(|value| value as f32),
        1 => prop_oneof![Just(1e-45f32), Just(-1e-40), Just(1e-30), Just(1e30), Just(-3e38), Just(f32::MAX)],
    ]
}

fn sized(most: usize) -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    (1..=most, 1..=most).prop_flat_map(|(height, width)| (Just(height), Just(width), vec(pixel(), height * width)))
}

/// A product of thin random factors: any rank from none to full.
fn thin(most: usize) -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    (1..=most, 1..=most, 0..=most).prop_flat_map(|(height, width, inner)| {
        (vec(-3i32..4, height * inner), vec(-3i32..4, inner * width)).prop_map(move |(left, right)| {
            let pixels = (0..height * width).map(|pixel| {
                let terms = (0..inner).map(|k| left[pixel / width * inner + k] * right[k * width + pixel % width]);
                terms.sum::<i32>() as f32
            });
            (height, width, pixels.collect())
        })
    })
}

/// Maps [N, C, H, W] as contiguous data.
fn taps() -> impl Strategy<Value = ([usize; 4], Vec<f32>)> {
    (1usize..6, 1usize..20, 1usize..12, 1usize..12).prop_flat_map(|(images, channels, height, width)| {
        let shape = [images, channels, height, width];
        (Just(shape), vec(prop_oneof![2 => -2.0f32..2.0, 1 => Just(0.0)], images * channels * height * width))
    })
}

fn accumulate(
    shape: [usize; 4],
    data: &[f32],
    criteria: (Similarity, Richness),
    images: &[usize],
) -> Result<TapAccumulator, CoreError> {
    let mut accumulator = TapAccumulator::new(shape[1], criteria.0, Some(criteria.1), Some(4), "tap")?;
    for &image in images {
        let size = shape[1..].iter().product::<usize>();
        let pixels = &data[image * size..(image + 1) * size];
        accumulator.update(&Maps::contiguous(pixels, [1, shape[1], shape[2], shape[3]])?, &[image])?;
    }
    Ok(accumulator)
}

fn assert_same(found: &TapScores, expected: &TapScores) {
    assert_eq!(found.norms, expected.norms);
    assert_eq!(found.richness, expected.richness);
    for (one, other) in found.distance.iter().zip(&expected.distance) {
        assert!((one - other).abs() <= 1e-12 * other.abs() + 1e-15, "{one} {other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rank_of_any_pixels((height, width, pixels) in sized(36)) {
        let (fewest, most) = bounds(&pixels, height, width);
        let found = rank(&pixels, height, width);
        prop_assert!(fewest <= found && found <= most, "{height}x{width}: {found} not in {fewest}..={most}");
    }

    #[test]
    fn rank_of_thin_products((height, width, pixels) in thin(40)) {
        let (fewest, most) = bounds(&pixels, height, width);
        let found = rank(&pixels, height, width);
        prop_assert!(fewest <= found && found <= most, "{height}x{width}: {found} not in {fewest}..={most}");
    }

    #[test]
    fn rank_of_tiny_maps(maps in vec(vec(-1.0f32..1.0, 4), 64)) {
        // Two columns: where the iteration for the largest singular value ends on the root itself.
        let data = maps.concat();
        let found = matrix_ranks(&Maps::contiguous(&data, [1, 64, 2, 2]).unwrap()).unwrap();
        for (map, found) in maps.iter().zip(found) {
            let (fewest, most) = bounds(map, 2, 2);
            prop_assert!(fewest <= found && found <= most, "{map:?}: {found}");
        }
    }

    #[test]
    fn rank_is_that_of_the_transpose_and_of_powers_of_two((height, width, pixels) in thin(36), power in -60i32..60) {
        let expected = rank(&pixels, height, width);
        let turned: Vec<f32> =
            (0..height * width).map(|pixel| pixels[pixel % height * width + pixel / height]).collect();
        prop_assert_eq!(rank(&turned, width, height), expected);
        let scaled: Vec<f32> = pixels.iter().map(|pixel| pixel * 2.0f32.powi(power)).collect();
        prop_assert_eq!(rank(&scaled, height, width), expected);
    }

    #[test]
    fn a_map_s_rank_does_not_depend_on_its_neighbours((shape, data) in taps()) {
        let together = matrix_ranks(&Maps::contiguous(&data, shape).unwrap()).unwrap();
        let [_, _, height, width] = shape;
        for (map, found) in data.chunks_exact(height * width).zip(together) {
            prop_assert_eq!(rank(map, height, width), found);
        }
    }

    #[test]
    fn order_of_memory_changes_no_bit((shape, data) in taps()) {
        let [images, channels, height, width] = shape;
        let mut last = vec![0.0; data.len()];
        let strides = [channels * height * width, 1, width * channels, channels];
        for (index, &pixel) in data.iter().enumerate() {
            let (map, place) = (index / (height * width), index % (height * width));
            last[map / channels * strides[0] + map % channels + place * channels] = pixel;
        }
        let contiguous = Maps::contiguous(&data, shape).unwrap();
        let channels_last = Maps::new(&last, shape, strides).unwrap();
        prop_assert_eq!(norms(&contiguous).unwrap(), norms(&channels_last).unwrap());
        prop_assert_eq!(matrix_ranks(&contiguous).unwrap(), matrix_ranks(&channels_last).unwrap());
        for (_, similarity) in Similarity::ALL {
            let scores = [contiguous, channels_last].map(|maps| {
                let mut accumulator = TapAccumulator::new(channels, similarity, Some(Richness::Entropy), None, "").unwrap();
                accumulator.update(&maps, &(0..images).collect::<Vec<_>>()).unwrap();
                accumulator.finish().unwrap()
            });
            prop_assert_eq!(&scores[0].distance, &scores[1].distance);
            prop_assert_eq!(&scores[0].richness, &scores[1].richness);
        }
    }

    #[test]
    fn shards_merge_to_the_whole(
        (shape, data) in taps(),
        shards in vec(0usize..3, 6),
        similarity in 0usize..3,
        richness in 0usize..4,
        order in Just([0usize, 1, 2]).prop_shuffle(),
    ) {
        let criteria = (Similarity::ALL[similarity].1, Richness::ALL[richness].1);
        let all: Vec<usize> = (0..shape[0]).collect();
        let expected = accumulate(shape, &data, criteria, &all).unwrap().finish().unwrap();
        let mut merged = accumulate(shape, &data, criteria, &[]).unwrap();
        for shard in order {
            let images: Vec<usize> = all.iter().copied().filter(|&image| shards[image] == shard).rev().collect();
            let part = accumulate(shape, &data, criteria, &images).unwrap();
            merged.merge(&TapAccumulator::from_state(part.state()).unwrap()).unwrap();
        }
        assert_same(&merged.finish().unwrap(), &expected);
        if criteria.0 == Similarity::Norm {
            prop_assert_eq!(merged.finish().unwrap().distance, expected.distance);
        }
    }

    #[test]
    fn distances_are_absolute_differences(table in vec(0.0f64..1e6, 1..400), channels in 1usize..40, height in 1usize..300) {
        let images = table.len() / channels;
        let table = &table[..images * channels];
        if images == 0 {
            prop_assert!(pairwise_distance(table, channels, height).is_err());
            return Ok(());
        }
        let found = pairwise_distance(table, channels, height).unwrap();
        let mut next = found.iter();
        for first in 0..channels {
            for second in first + 1..channels {
                let sum: f64 =
                    table.chunks_exact(channels).map(|row| (row[first] - row[second]).abs()).sum();
                let expected = sum / (images * height) as f64;
                let found = *next.next().unwrap();
                prop_assert!((found - expected).abs() <= 1e-12 * expected, "{found} {expected}");
            }
        }
        prop_assert!(next.next().is_none());
    }

    #[test]
    fn what_is_not_finite_is_named_and_changes_nothing(
        (shape, mut data) in taps(),
        place in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        similarity in 0usize..3,
        richness in 0usize..4,
    ) {
        let place = place.index(data.len());
        data[place] = value;
        let map = place / (shape[2] * shape[3]);
        let (image, channel) = (map / shape[1], map % shape[1]);
        let maps = Maps::contiguous(&data, shape).unwrap();
        prop_assert_eq!(norms(&maps).unwrap_err(), CoreError::NotFinite { tap: String::new(), image, channel });
        prop_assert_eq!(matrix_ranks(&maps).unwrap_err(), CoreError::NotFinite { tap: String::new(), image, channel });
        let criteria = (Similarity::ALL[similarity].1, Richness::ALL[richness].1);
        let mut accumulator = TapAccumulator::new(shape[1], criteria.0, Some(criteria.1), Some(4), "conv").unwrap();
        let before = accumulator.state();
        let indices: Vec<usize> = (10..10 + shape[0]).collect();
        let error = accumulator.update(&maps, &indices).unwrap_err();
        prop_assert_eq!(error, CoreError::NotFinite { tap: "tap conv: ".into(), image: 10 + image, channel });
        prop_assert_eq!(accumulator.state(), before);
    }

    #[test]
    fn any_strides_inside_the_data_read_what_they_say(
        shape in [1usize..4, 1usize..6, 1usize..6, 1usize..6],
        strides in [0usize..40, 0usize..20, 0usize..9, 0usize..9],
        seed in 0u32..1000,
    ) {
        let extent = 1 + shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>();
        let data: Vec<f32> = (0..extent).map(|place| ((place as u32 * 31 + seed) % 17) as f32).collect();
        prop_assert!(extent == 1 || Maps::new(&data[1..], shape, strides).is_err());
        let [images, channels, height, width] = shape;
        let mut copy = Vec::new();
        for image in 0..images {
            for channel in 0..channels {
                for row in 0..height {
                    for column in 0..width {
                        let place = [image, channel, row, column];
                        copy.push(data[place.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>()]);
                    }
                }
            }
        }
        let (view, copy) = (Maps::new(&data, shape, strides).unwrap(), Maps::contiguous(&copy, shape).unwrap());
        prop_assert_eq!(norms(&view).unwrap(), norms(&copy).unwrap());
        prop_assert_eq!(matrix_ranks(&view).unwrap(), matrix_ranks(&copy).unwrap());
    }
}
