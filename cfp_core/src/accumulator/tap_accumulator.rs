//! Accumulates the scores of one tap batch by batch: keeps a row of numbers for each image, and no map.

use std::collections::BTreeMap;

use super::reduce::reduce;
use crate::criteria::{Richness, Similarity};
use crate::error::CoreError;
use crate::maps::Maps;
use crate::products::pairs;
use crate::scores::cosine::add_cosine;
use crate::scores::distance::pairwise_distance;
use crate::scores::ssim::add_ssim;
use crate::threads;

/// Scores of one tap over all its images.
#[derive(Clone, Debug)]
pub struct TapScores {
    /// Frobenius norms \[N * C\], in the order of image indices.
    pub norms: Vec<f64>,
    /// Condensed distances \[C (C - 1) / 2\].
    pub distance: Vec<f64>,
    /// Richness of every channel \[C\], the mean over the images; `None` if it was not asked for.
    pub richness: Option<Vec<f64>>,
    /// Number of images N.
    pub images: usize,
    /// Height and width of a map in pixels.
    pub size: (usize, usize),
    /// Whether the distances of all pairs are equal. A single pair is saturated at distance 0.
    pub saturated_similarity: bool,
    /// Whether the richness of all channels is equal.
    pub saturated_richness: bool,
}

/// Accumulates the scores of one tap.
///
/// Memory is two numbers for each image and channel, and one number for each pair of channels with `ssim` or `cosine`. The
/// numbers of an image do not depend on its batch, on the number of threads or on the order of images.
/// The sums of `ssim` and `cosine` distances depend on the order of merging in their last bits.
#[derive(Clone, Debug)]
pub struct TapAccumulator {
    pub(super) name: String,
    pub(super) channels: usize,
    pub(super) similarity: Similarity,
    pub(super) richness: Option<Richness>,
    pub(super) decimals: Option<u32>,
    pub(super) size: Option<(usize, usize)>,
    pub(super) rows: BTreeMap<usize, Row>,
    /// Sums over the images of the condensed distances; empty for `norm`, which needs only the norms.
    pub(super) sums: Vec<f64>,
}

/// The widest tap: the distances of all pairs of its channels take 4 GiB.
const MOST_CHANNELS: usize = 1 << 15;

/// Norms \[C\] and richness \[C\] of one image; without richness the second is empty.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub norms: Vec<f64>,
    pub richness: Vec<f64>,
}

impl TapAccumulator {
    /// An accumulator for maps of `channels` channels.
    ///
    /// * `richness`: `None` computes only norms and distances.
    /// * `decimals`: maps are rounded to this number of decimals, half to even, before their rank is computed.
    /// * `name`: the tap, for messages.
    ///
    /// # Errors
    /// There are no channels, or more than 32,768.
    pub fn new(
        channels: usize,
        similarity: Similarity,
        richness: Option<Richness>,
        decimals: Option<u32>,
        name: &str,
    ) -> Result<Self, CoreError> {
        if channels == 0 {
            return Err(CoreError::Option("a tap needs at least one channel".into()));
        }
        if channels > MOST_CHANNELS {
            return Err(CoreError::Option(format!(
                "a tap of {channels} channels is too wide; at most {MOST_CHANNELS}"
            )));
        }
        let sums = if similarity == Similarity::Norm { Vec::new() } else { vec![0.0; pairs(channels)] };
        let name = name.to_owned();
        Ok(Self { name, channels, similarity, richness, decimals, size: None, rows: BTreeMap::new(), sums })
    }

    /// Number of images so far.
    #[must_use]
    pub fn images(&self) -> usize {
        self.rows.len()
    }

    /// Prefix of messages that names the tap.
    pub(super) fn tap(&self) -> String {
        if self.name.is_empty() {
            String::new()
        } else {
            format!("tap {}: ", self.name)
        }
    }

    /// Index of the image after the last one.
    #[must_use]
    pub fn next_image(&self) -> usize {
        self.rows.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    /// Add the maps \[N, C, H, W\] of the images with these indices in the run.
    ///
    /// # Errors
    /// The number of channels or images or the size of the maps is wrong, a map contains NaN or infinity, or an image was added
    /// before. After an error the accumulator is unchanged.
    pub fn update(&mut self, maps: &Maps, indices: &[usize]) -> Result<(), CoreError> {
        let [images, channels, ..] = maps.shape();
        let size = self.check(maps.shape(), indices)?;
        let reduced = reduce(maps, self.richness, self.decimals)?;
        self.check_norms(reduced.iter().map(|&(norm, _)| norm), indices)?;
        self.size = Some(size);
        for (row, &image) in reduced.chunks_exact(channels).zip(indices) {
            let norms = row.iter().map(|&(norm, _)| norm).collect();
            let richness = row.iter().map(|&(_, richness)| richness).filter(|_| self.richness.is_some()).collect();
            self.rows.insert(image, Row { norms, richness });
        }
        let sums = &mut self.sums;
        match self.similarity {
            Similarity::Norm => Ok(()),
            Similarity::Ssim => threads::run(|| (0..images).for_each(|image| add_ssim(maps, image, sums))),
            Similarity::Cosine => threads::run(|| (0..images).for_each(|image| add_cosine(maps, image, sums))),
        }
    }

    /// Add the norms \[N * C\] of maps \[N, C, H, W\] that were reduced elsewhere, such as on a GPU.
    ///
    /// # Errors
    /// Those of `update`, or the accumulator computes more than norms and their distances.
    pub fn update_norms(&mut self, norms: &[f64], shape: [usize; 4], indices: &[usize]) -> Result<(), CoreError> {
        if self.similarity != Similarity::Norm || self.richness.is_some() {
            return Err(CoreError::Option(format!(
                "{}only similarity norm without richness can be computed from norms; call update with maps",
                self.tap()
            )));
        }
        let size = self.check(shape, indices)?;
        let [images, channels, ..] = shape;
        if norms.len() != images * channels {
            return Err(CoreError::Option(format!("{} norms do not fit [{images}, {channels}]", norms.len())));
        }
        self.check_norms(norms.iter().copied(), indices)?;
        self.size = Some(size);
        for (norms, &image) in norms.chunks_exact(channels).zip(indices) {
            self.rows.insert(image, Row { norms: norms.to_vec(), richness: Vec::new() });
        }
        Ok(())
    }

    /// Height and width of maps \[N, C, H, W\], if they and the indices of their images fit the accumulator.
    fn check(&self, shape: [usize; 4], indices: &[usize]) -> Result<(usize, usize), CoreError> {
        let [images, channels, height, width] = shape;
        let size = self.size.unwrap_or((height, width));
        if channels != self.channels || size != (height, width) || images != indices.len() {
            let count = if images == indices.len() { "N".into() } else { indices.len().to_string() };
            return Err(CoreError::Shape {
                tap: self.tap(),
                expected: match self.size {
                    Some((height, width)) => format!("maps [{count}, {}, {height}, {width}]", self.channels),
                    None => format!("maps [{count}, {}, H, W]", self.channels),
                },
                found: shape.to_vec(),
            });
        }
        let mut sorted = indices.to_vec();
        sorted.sort_unstable();
        let repeated = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        if let Some(image) = repeated.or_else(|| sorted.into_iter().find(|image| self.rows.contains_key(image))) {
            return Err(CoreError::Repeated { tap: self.tap(), image });
        }
        Ok(size)
    }

    /// Refuse norms \[N * C\] that are NaN or infinite.
    fn check_norms(&self, mut norms: impl Iterator<Item = f64>, indices: &[usize]) -> Result<(), CoreError> {
        let Some(wrong) = norms.position(|norm| !norm.is_finite()) else { return Ok(()) };
        let (image, channel) = (indices[wrong / self.channels], wrong % self.channels);
        Err(CoreError::NotFinite { tap: self.tap(), image, channel })
    }

    /// Add the images of another accumulator of the same tap.
    ///
    /// # Errors
    /// The two differ in channels, criteria, decimals or map size, or both contain the same image.
    pub fn merge(&mut self, other: &Self) -> Result<(), CoreError> {
        let differs = |reason: &str| Err(CoreError::Merge { tap: self.tap(), reason: reason.into() });
        if self.channels != other.channels {
            return differs("the numbers of channels differ");
        }
        if (self.similarity, self.richness, self.decimals) != (other.similarity, other.richness, other.decimals) {
            return differs("the criteria differ");
        }
        if self.size.is_some() && other.size.is_some() && self.size != other.size {
            return differs("the sizes of the maps differ");
        }
        if let Some(&image) = other.rows.keys().find(|image| self.rows.contains_key(image)) {
            return Err(CoreError::Repeated { tap: self.tap(), image });
        }
        self.size = self.size.or(other.size);
        self.rows.extend(other.rows.iter().map(|(&image, row)| (image, row.clone())));
        for (sum, value) in self.sums.iter_mut().zip(&other.sums) {
            *sum += value;
        }
        Ok(())
    }

    /// The scores over all images so far.
    ///
    /// # Errors
    /// There are no images.
    pub fn finish(&self) -> Result<TapScores, CoreError> {
        let Some(size) = self.size.filter(|_| !self.rows.is_empty()) else {
            return Err(CoreError::Empty { tap: self.tap() });
        };
        let norms: Vec<f64> = self.rows.values().flat_map(|row| row.norms.iter().copied()).collect();
        let count = self.rows.len() as f64;
        let distance = match self.similarity {
            Similarity::Norm => pairwise_distance(&norms, self.channels, size.0)?,
            Similarity::Ssim | Similarity::Cosine => self.sums.iter().map(|sum| sum / count).collect(),
        };
        let richness = self.richness.map(|_| self.mean_richness());
        let saturated_similarity = match distance.as_slice() {
            [] => false,
            [only] => *only <= 0.0,
            several => all_equal(several),
        };
        let saturated_richness = self.channels > 1 && richness.as_deref().is_some_and(all_equal);
        let images = self.rows.len();
        Ok(TapScores { norms, distance, richness, images, size, saturated_similarity, saturated_richness })
    }

    fn mean_richness(&self) -> Vec<f64> {
        let mut richness = vec![0.0; self.channels];
        for row in self.rows.values() {
            for (sum, value) in richness.iter_mut().zip(&row.richness) {
                *sum += value;
            }
        }
        let count = self.rows.len() as f64;
        richness.into_iter().map(|sum| sum / count).collect()
    }
}

/// Whether all values are equal, so that they do not distinguish channels.
fn all_equal(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
}
