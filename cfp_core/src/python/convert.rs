//! Converts `NumPy` arrays to views of the core.

use std::borrow::Cow;

use numpy::ndarray::ArrayViewD;
use numpy::{PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::CoreError;
use crate::maps::Maps;

/// Borrow an array of element type `T` with any strides.
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

/// Feature maps of an array: borrowed, or a copy where strides are negative or leave gaps.
pub(super) struct ArrayMaps<'a> {
    data: Cow<'a, [f32]>,
    shape: [usize; 4],
    strides: [usize; 4],
}

impl ArrayMaps<'_> {
    pub(super) fn maps(&self) -> PyResult<Maps<'_>> {
        Ok(Maps::new(&self.data, self.shape, self.strides)?)
    }
}

/// View an array [N, C, H, W], or [N, C] with maps of one pixel, as maps.
pub(super) fn as_maps<'a>(view: &'a ArrayViewD<'_, f32>, tap: &str) -> PyResult<ArrayMaps<'a>> {
    let mut shape = view.shape().to_vec();
    let mut strides: Vec<usize> = view.strides().iter().map_while(|&stride| usize::try_from(stride).ok()).collect();
    let data = match view.as_slice_memory_order() {
        Some(slice) if strides.len() == shape.len() => Cow::Borrowed(slice),
        _ => {
            strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
            Cow::Owned(view.iter().copied().collect())
        }
    };
    if shape.len() == 2 {
        shape.extend([1, 1]);
        strides.extend([1, 1]);
    }
    match (shape.try_into(), strides.try_into()) {
        (Ok(shape), Ok(strides)) => Ok(ArrayMaps { data, shape, strides }),
        _ => Err(CoreError::Shape {
            tap: if tap.is_empty() { String::new() } else { format!("tap {tap}: ") },
            expected: "maps [N, C, H, W] or [N, C]".into(),
            found: view.shape().to_vec(),
        }
        .into()),
    }
}
