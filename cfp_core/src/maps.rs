//! A strided view of feature maps in the caller's memory.

use crate::error::CoreError;

/// Feature maps float32 \[N, C, H, W\] in any memory order with non-negative strides, such as contiguous or channels-last.
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
    /// C, H or W is 0, or the strides reach past the end of `data`.
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

    /// The same maps with images as channels and channels as images.
    pub(crate) fn swap_images_and_channels(&self) -> Self {
        let ([n, c, h, w], [by_image, by_channel, by_row, by_column]) = (self.shape, self.strides);
        Self { data: self.data, shape: [c, n, h, w], strides: [by_channel, by_image, by_row, by_column] }
    }

    /// N, C, H, W.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Whether the pixels of a map are contiguous in memory.
    #[must_use]
    pub(crate) fn in_place(&self) -> bool {
        let ([_, _, height, width], [_, _, by_row, by_column]) = (self.shape, self.strides);
        (by_column == 1 || width == 1) && (by_row == width || height == 1)
    }

    /// The maps of `count` neighbouring channels, one after another in row-major order. Copies them to `buffer` if necessary.
    #[must_use]
    pub(crate) fn planes<'b>(&self, image: usize, first: usize, count: usize, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let [_, _, height, width] = self.shape;
        let [by_image, by_channel, by_row, by_column] = self.strides;
        let size = height * width;
        let start = image * by_image + first * by_channel;
        if self.in_place() && (by_channel == size || count == 1) {
            return &self.data[start..start + count * size];
        }
        buffer.clear();
        buffer.resize(count * size, 0.0);
        for row in 0..height {
            for column in 0..width {
                // Channels innermost: in channels-last order they are neighbours, so that each cache line is read only once.
                let pixel = start + row * by_row + column * by_column;
                let position = row * width + column;
                if by_channel == 1 {
                    let run = &self.data[pixel..pixel + count];
                    for (plane, &value) in buffer.chunks_exact_mut(size).zip(run) {
                        plane[position] = value;
                    }
                } else {
                    for (channel, plane) in buffer.chunks_exact_mut(size).enumerate() {
                        plane[position] = self.data[pixel + channel * by_channel];
                    }
                }
            }
        }
        buffer
    }
}
