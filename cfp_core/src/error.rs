//! Everything that can be wrong with what the core is given.

use thiserror::Error;

/// A failure, with the values that explain it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CoreError {
    /// Sizes that do not fit.
    #[error("{tap}expected {expected}, got shape {found:?}")]
    Shape {
        /// The tap that was fed, as a prefix of the message.
        tap: String,
        /// What would fit.
        expected: String,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// A map holds NaN or infinity.
    #[error("{tap}image {image}, channel {channel} holds NaN or infinity; check the weights and the images")]
    NotFinite {
        /// The tap that was fed, as a prefix of the message.
        tap: String,
        /// Index of the image in the whole run.
        image: usize,
        /// Index of the channel.
        channel: usize,
    },
    /// An image index that an accumulator has seen before.
    #[error("{tap}image {image} was given twice")]
    Repeated {
        /// The tap that was fed, as a prefix of the message.
        tap: String,
        /// Index of the image in the whole run.
        image: usize,
    },
    /// Two accumulators that measure different things.
    #[error("{tap}cannot merge: {reason}")]
    Merge {
        /// The tap, as a prefix of the message.
        tap: String,
        /// What differs.
        reason: String,
    },
    /// A name or number outside its choices.
    #[error("{0}")]
    Option(String),
    /// Scores were asked for before any image was seen.
    #[error("{tap}no images yet; call update first")]
    Empty {
        /// The tap, as a prefix of the message.
        tap: String,
    },
}
