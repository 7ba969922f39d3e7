//! From `NumPy` arrays to the core's views.

use numpy::ndarray::ArrayViewD;
use numpy::{PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::{CoreError, Maps};

/// Borrow a float array of type `T`, whatever its strides.
pub(super) fn borrow<'py, T: numpy::Element>(
    value: &Bound<'py, PyAny>,
    what: &str,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    value.extract::<PyReadonlyArrayDyn<'py, T>>().map_err(|_| {
        let found = match value.cast::<PyUntypedArray>() {
            Ok(array) => format!("an array of {}", array.dtype()),
            Err(_) => value.get_type().to_string(),
        };
        PyValueError::new_err(format!("{what} must be a NumPy array of {}, got {found}", type_name::<T>()))
    })
}

fn type_name<T>() -> &'static str {
    if size_of::<T>() == size_of::<f32>() {
        "float32"
    } else {
        "float64"
    }
}

/// View an array as maps: [N, C, H, W], or [N, C] as maps of one pixel.
pub(super) fn maps<'a>(view: &'a ArrayViewD<'_, f32>, tap: &str) -> PyResult<Maps<'a>> {
    let prefix = if tap.is_empty() { String::new() } else { format!("tap {tap}: ") };
    let wrong = |expected: &str| CoreError::Shape {
        tap: prefix.clone(),
        expected: expected.into(),
        found: view.shape().to_vec(),
    };
    let (mut shape, mut strides) = (view.shape().to_vec(), Vec::with_capacity(4));
    for &stride in view.strides() {
        strides.push(usize::try_from(stride).map_err(|_| wrong("an array without negative strides"))?);
    }
    if shape.len() == 2 {
        shape.extend([1, 1]);
        strides.extend([1, 1]);
    }
    let (Ok(shape), Ok(strides)) = (<[usize; 4]>::try_from(shape), <[usize; 4]>::try_from(strides)) else {
        return Err(wrong("maps [N, C, H, W] or [N, C]").into());
    };
    let extent = if shape.contains(&0) {
        0
    } else {
        1 + shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>()
    };
    // SAFETY: the strides are not negative, so the array's elements lie in the `extent` elements from its first one on,
    // which NumPy keeps alive and, through the borrow that `view` comes from, unwritten while the slice lives.
    let data = unsafe { std::slice::from_raw_parts(view.as_ptr(), extent) };
    Ok(Maps::new(data, shape, strides)?)
}
