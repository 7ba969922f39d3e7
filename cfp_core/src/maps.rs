//! A strided view of feature maps, as they lie in the memory of whoever made them.

use crate::CoreError;

/// Feature maps float32 \[N, C, H, W\] in any order of memory with non-negative strides, such as contiguous or channels-last.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    data: &'a [f32],
    shape: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Maps<'a> {
    /// View `data` with a shape and strides in elements.
    ///
    /// # Errors
    /// A map has no pixels, there are no channels, or the strides reach past the end of `data`.
    pub fn new(data: &'a [f32], shape: [usize; 4], strides: [usize; 4]) -> Result<Self, CoreError> {
        let wrong =
            |expected: &str| CoreError::Shape { tap: String::new(), expected: expected.into(), found: shape.to_vec() };
        if shape[1..].contains(&0) {
            return Err(wrong("maps [N, C, H, W] with C, H and W at least 1"));
        }
        if shape[0] > 0 {
            let last: usize = shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum();
            if last >= data.len() {
                return Err(wrong("strides that stay inside the data"));
            }
        }
        Ok(Self { data, shape, strides })
    }

    /// View contiguous `data`.
    ///
    /// # Errors
    /// As `new`.
    pub fn contiguous(data: &'a [f32], shape: [usize; 4]) -> Result<Self, CoreError> {
        let [_, channels, height, width] = shape;
        Self::new(data, shape, [channels * height * width, height * width, width, 1])
    }

    /// N, C, H, W.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// One map's pixels in row-major order, either in place or copied into `buffer`.
    #[must_use]
    pub fn plane<'b>(&self, image: usize, channel: usize, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let [_, _, height, width] = self.shape;
        let [by_image, by_channel, by_row, by_column] = self.strides;
        let start = image * by_image + channel * by_channel;
        if (by_column == 1 || width == 1) && (by_row == width || height == 1) {
            return &self.data[start..start + height * width];
        }
        buffer.clear();
        buffer.reserve(height * width);
        for row in 0..height {
            let line = start + row * by_row;
            buffer.extend((0..width).map(|column| self.data[line + column * by_column]));
        }
        buffer
    }
}
