//! Products of channels: sums over pixels or images of a function of two channels, for all pairs of channels.
//!
//! Channels lie in panels, as many neighbouring channels as a SIMD register has float64 lanes. One tile kernel keeps the sums
//! of some channels with some panels in registers.

mod channels;
mod condensed;
mod pairs;
mod panels;
mod registers;
mod tile;

pub(crate) use channels::ChannelPanels;
pub(crate) use condensed::{pairs, rows, Rows};
pub(crate) use pairs::{add_products, for_each_tile, products, PairTiles, TileKernel};
pub(crate) use panels::{panels_at_once, panels_from, panels_of_rows};
pub use registers::simd_level;
pub(crate) use registers::{lanes, registers};
pub(crate) use tile::{accumulate, add_differences, add_product, load, store, subtract_product, zeros, Tile};
