//! The scores as a user of the crate gets them. One program, so that the linear algebra is linked once.

mod oracles;
mod properties;
