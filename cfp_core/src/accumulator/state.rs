//! The state of an accumulator as plain data.

use super::tap_accumulator::{Row, TapAccumulator};
use crate::criteria::{Richness, Similarity};
use crate::error::CoreError;

/// Everything that an accumulator contains, as plain data that can be sent to another process.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Number of channels C.
    pub channels: usize,
    /// Distance between channels.
    pub similarity: Similarity,
    /// Richness of a channel.
    pub richness: Option<Richness>,
    /// Maps are rounded to this number of decimals before their rank is computed.
    pub decimals: Option<u32>,
    /// Name of the tap, for messages.
    pub name: String,
    /// Height and width of a map in pixels; `None` before the first image.
    pub size: Option<(usize, usize)>,
    /// Indices of the images N, ascending.
    pub images: Vec<usize>,
    /// Frobenius norms \[N * C\].
    pub norms: Vec<f64>,
    /// Richness \[N * C\]; empty without richness.
    pub rich: Vec<f64>,
    /// Sums over the images of the condensed distances \[C (C - 1) / 2\]; empty for `norm`, which needs only the norms.
    pub sums: Vec<f64>,
}

impl TapAccumulator {
    /// A copy of everything that the accumulator contains, as plain data.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            channels: self.channels,
            similarity: self.similarity,
            richness: self.richness,
            decimals: self.decimals,
            name: self.name.clone(),
            size: self.size,
            images: self.rows.keys().copied().collect(),
            norms: self.rows.values().flat_map(|row| row.norms.iter().copied()).collect(),
            rich: self.rows.values().flat_map(|row| row.richness.iter().copied()).collect(),
            sums: self.sums.clone(),
        }
    }

    /// The accumulator with this state.
    ///
    /// # Errors
    /// The parts of the state do not fit together.
    pub fn from_state(state: State) -> Result<Self, CoreError> {
        let State { channels, similarity, richness, decimals, name, size, images, norms, rich, sums } = state;
        let mut accumulator = Self::new(channels, similarity, richness, decimals, &name)?;
        let table = images.len() * channels;
        let ascending = images.windows(2).all(|pair| pair[0] < pair[1]);
        let sizes = [
            (norms.len(), table),
            (rich.len(), if richness.is_some() { table } else { 0 }),
            (sums.len(), accumulator.sums.len()),
        ];
        let fits = sizes.iter().all(|(size, expected)| size == expected);
        if !fits || !ascending || size.is_none() != images.is_empty() {
            return Err(CoreError::Option(format!(
                "{}the parts of the state do not fit together; use what `state` returned",
                accumulator.tap()
            )));
        }
        let mut rich = rich.chunks_exact(channels);
        let rows = norms
            .chunks_exact(channels)
            .map(|norms| Row { norms: norms.to_vec(), richness: rich.next().map(<[f64]>::to_vec).unwrap_or_default() });
        accumulator.rows = images.into_iter().zip(rows).collect();
        (accumulator.size, accumulator.sums) = (size, sums);
        Ok(accumulator)
    }
}
