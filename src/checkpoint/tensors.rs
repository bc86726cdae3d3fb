//! Files of named arrays: safetensors that hold no model, such as activations and lenses.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};

use super::source::{Source, tensor_error};
use crate::error::{Error, Result};
use crate::files::{parse_error, write_atomically};

/// Named arrays of a safetensors file.
#[derive(Debug, Default)]
pub(crate) struct NamedArrays {
    /// F32 tensors.
    pub floats: BTreeMap<String, ArrayD<f32>>,
    /// I64 tensors of one axis.
    pub integers: BTreeMap<String, Vec<i64>>,
}

/// Writes F32 tensors, I64 vectors and metadata; an existing file is replaced in one step.
///
/// # Errors
/// [`Error::Invalid`] for another extension than `safetensors`, by which other programs know the
/// format; [`Error::Io`].
pub(crate) fn write_arrays(
    path: &Path,
    floats: &[(String, ArrayViewD<'_, f32>)],
    integers: &[(&str, Vec<i64>)],
    metadata: HashMap<String, String>,
) -> Result<()> {
    if path
        .extension()
        .is_none_or(|extension| extension != "safetensors")
    {
        let what = format!("extension of {}", path.display());
        let found = path.extension().unwrap_or_default().to_string_lossy();
        return Err(Error::invalid(what, format!("`{found}`"), "`safetensors`"));
    }
    let floats = floats.iter().map(|(name, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name.clone(), Dtype::F32, values.shape().to_vec(), bytes)
    });
    let integers = integers.iter().map(|(name, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name.to_string(), Dtype::I64, vec![values.len()], bytes)
    });
    let data: Vec<_> = floats.chain(integers).collect();
    let wrong = |e: safetensors::SafeTensorError| parse_error(path, e, "tensors");
    let views = data.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(wrong)?;
        Ok((name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let bytes = serialize(views, Some(metadata)).map_err(wrong)?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// Reads what [`write_arrays`] wrote, or any safetensors file of F32 tensors and I64 vectors, whose
/// names are checked before anything large is read.
///
/// # Errors
/// What `check` says of the names; [`Error::Io`]; [`Error::Format`] for what is no safetensors file;
/// [`Error::Tensor`] for a
/// tensor of another type.
pub(crate) fn read_arrays(
    path: &Path,
    check: impl Fn(&[&str]) -> Result<()>,
) -> Result<NamedArrays> {
    let mut source = Source::open(path)?;
    let tensors = source.tensors.clone();
    let wrong = |name: &str, found: String| {
        tensor_error(path, name, found, "dtype F32, or I64 with one axis")
    };
    check(&tensors.keys().map(String::as_str).collect::<Vec<_>>())?;
    for (name, info) in &tensors {
        if !matches!(
            (info.dtype, &info.shape[..]),
            (Dtype::F32, _) | (Dtype::I64, [_])
        ) {
            let found = format!("dtype {:?}, shape {:?}", info.dtype, info.shape);
            return Err(wrong(name, found));
        }
    }
    let mut arrays = NamedArrays::default();
    for (name, info) in tensors {
        let bytes = source.bytes(&name)?;
        if info.dtype == Dtype::I64 {
            let (chunks, _) = bytes.as_chunks::<8>();
            let values = chunks.iter().map(|b| i64::from_le_bytes(*b)).collect();
            arrays.integers.insert(name, values);
            continue;
        }
        let (chunks, _) = bytes.as_chunks::<4>();
        let mut values = source.room(&name, chunks.len())?;
        values.extend(chunks.iter().map(|b| f32::from_le_bytes(*b)));
        let array = ArrayD::from_shape_vec(&info.shape[..], values);
        let array = array.map_err(|e| wrong(&name, format!("shape {:?}: {e}", info.shape)))?;
        arrays.floats.insert(name, array);
    }
    Ok(arrays)
}
