//! Tuned lenses as files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD};

use super::{Translator, TunedLens, check_axes};
use crate::checkpoint::{read_arrays, write_arrays};
use crate::error::{Error, Result};
use crate::files::format_error;
use crate::fingerprint::Fingerprint;
use crate::hook::HookPoint;

/// The name of the tensor that says of which model a lens is, 4 × 32 bits as I64.
const FINGERPRINT: &str = "fingerprint";

impl TunedLens {
    /// Writes the translators as a safetensors file, see [`TunedLens`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for another extension than `safetensors`; [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let named = |(point, translator): (&HookPoint, &'_ Translator)| {
            let weight = translator.weight.view().into_dyn();
            [
                (format!("{point}.weight"), weight.into_owned()),
                (format!("{point}.bias"), translator.bias.clone().into_dyn()),
            ]
        };
        let tensors: Vec<(String, ArrayD<f32>)> = self.translators.iter().flat_map(named).collect();
        let views: Vec<(String, ArrayViewD<'_, f32>)> = tensors
            .iter()
            .map(|(name, t)| (name.clone(), t.view()))
            .collect();
        let of = self.of.map(|of| of.to_parts().map(i64::from).to_vec());
        let of: Vec<(&str, Vec<i64>)> = of.map(|parts| (FINGERPRINT, parts)).into_iter().collect();
        write_arrays(path.as_ref(), &views, &of, HashMap::new())
    }

    /// Opens translators, see [`TunedLens`]. [`LogitLens::tuned`](crate::lens::LogitLens::tuned) checks that they fit the
    /// model.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for another file, such as one with a tensor not named by a
    /// hook; [`Error::Tensor`] for one of a wrong shape, without its partner, or with
    /// numbers that are not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let check = |names: &[&str]| names.iter().try_for_each(|name| check_name(path, name));
        let arrays = read_arrays(path, check)?;
        let of = arrays.integers.get(FINGERPRINT);
        let of = of.map(|parts| fingerprint(path, parts)).transpose()?;
        let mut arrays = arrays.floats;
        let mut translators = BTreeMap::new();
        let names: Vec<String> = arrays.keys().cloned().collect();
        for name in names.iter().filter_map(|name| name.strip_suffix(".weight")) {
            let point = name.parse::<HookPoint>()?;
            check_axes(point)?;
            let bias = take(path, &mut arrays, format!("{name}.bias"), &[None])?;
            let d = Some(bias.len());
            let weight = take(path, &mut arrays, format!("{name}.weight"), &[d, d])?;
            translators.insert(point, Translator::from_dyn(weight, bias));
        }
        if let Some(name) = arrays.keys().next() {
            return Err(Error::Tensor {
                path: path.to_path_buf(),
                tensor: name.clone(),
                found: "a tensor without its partner".to_string(),
                expected: "`{hook}.weight` and `{hook}.bias` for each point".to_string(),
            });
        }
        if translators.is_empty() {
            return Err(no_lens(path, "no tensors"));
        }
        Ok(TunedLens { translators, of })
    }
}

/// Checks that a tensor belongs in a lens, before what may be large is read.
fn check_name(path: &Path, name: &str) -> Result<()> {
    let hook = [".weight", ".bias"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    if name == FINGERPRINT || hook.is_some_and(|hook| hook.parse::<HookPoint>().is_ok()) {
        return Ok(());
    }
    Err(no_lens(path, format!("no tuned lens, but tensor `{name}`")))
}

fn fingerprint(path: &Path, parts: &[i64]) -> Result<Fingerprint> {
    let parts: Option<Vec<u32>> = parts.iter().map(|part| u32::try_from(*part).ok()).collect();
    let parts = parts.and_then(|parts| <[u32; 4]>::try_from(parts).ok());
    parts
        .map(Fingerprint::from_parts)
        .ok_or_else(|| Error::Tensor {
            path: path.to_path_buf(),
            tensor: FINGERPRINT.to_string(),
            found: "other numbers".to_string(),
            expected: "4 of 32 bits".to_string(),
        })
}

fn no_lens(path: &Path, found: impl Into<String>) -> Error {
    let expected = "`{hook}.weight` and `{hook}.bias` for each point of a tuned lens";
    format_error(path, found, expected)
}

/// Takes a tensor out, of a shape with these sizes where they are given.
fn take(
    path: &Path,
    arrays: &mut BTreeMap<String, ArrayD<f32>>,
    name: String,
    shape: &[Option<usize>],
) -> Result<ArrayD<f32>> {
    let wrong = |found: String, expected: String| Error::Tensor {
        path: path.to_path_buf(),
        tensor: name.clone(),
        found,
        expected,
    };
    let Some(array) = arrays.remove(&name) else {
        return Err(wrong("nothing".to_string(), "a tensor F32".to_string()));
    };
    let fits = |(found, size): (&usize, &Option<usize>)| size.is_none_or(|size| *found == size);
    if array.ndim() != shape.len() || !array.shape().iter().zip(shape).all(fits) {
        let size = |s: &Option<usize>| s.map_or("d_model".to_string(), |s| s.to_string());
        let sizes: Vec<String> = shape.iter().map(size).collect();
        let expected = format!("shape [{}]", sizes.join(", "));
        return Err(wrong(format!("shape {:?}", array.shape()), expected));
    }
    match array.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(wrong(v.to_string(), "finite numbers".to_string())),
        None => Ok(array),
    }
}
