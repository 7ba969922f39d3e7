//! The errors of the core.

use thiserror::Error;

/// An error, with the values that explain it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CoreError {
    /// A wrong shape.
    #[error("{tap}expected {expected}, got shape {found:?}")]
    Shape {
        /// Prefix of the message that names the tap.
        tap: String,
        /// The expected shape, in words.
        expected: String,
        /// The shape of the argument.
        found: Vec<usize>,
    },
    /// A map contains NaN or infinity.
    #[error("{tap}image {image}, channel {channel} holds NaN or infinity; check the weights and the images")]
    NotFinite {
        /// Prefix of the message that names the tap.
        tap: String,
        /// Index of the image in the run.
        image: usize,
        /// Index of the channel.
        channel: usize,
    },
    /// An image index that was added before.
    #[error("{tap}image {image} was added before; give each image once")]
    Repeated {
        /// Prefix of the message that names the tap.
        tap: String,
        /// Index of the image in the run.
        image: usize,
    },
    /// Two accumulators that cannot be merged.
    #[error("{tap}cannot merge: {reason}")]
    Merge {
        /// Prefix of the message that names the tap.
        tap: String,
        /// The difference between them.
        reason: String,
    },
    /// An argument outside its range or choices.
    #[error("{0}")]
    Option(String),
    /// An accumulator without images.
    #[error("{tap}no images yet; call update first")]
    Empty {
        /// Prefix of the message that names the tap.
        tap: String,
    },
}
