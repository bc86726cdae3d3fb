//! Caches as safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ndarray::{Array2, ArrayD, ArrayViewD};

use super::{ActivationCache, Entry, Provenance, RunKind};
use crate::checkpoint::{NamedArrays, read_arrays, write_arrays};
use crate::error::{Error, Result};
use crate::files::format_error;
use crate::fingerprint::Fingerprint;
use crate::hook::{Axes, HookPoint};

/// The names that are no hooks.
const TOKENS: &str = "tokens";
const POSITIONS: &str = "positions";
const FINGERPRINT: &str = "fingerprint";
const KIND: &str = "run_kind";

impl ActivationCache {
    /// Writes all activations as a safetensors file under their hook names, F32, with the axes
    /// of [`HookPoint::axes`]; beside them, I64, `tokens` `[pos]`, `positions` `[kept pos]`, the
    /// model's
    /// `fingerprint` `[4]`, 32 bits each, and `run_kind` `[1]` (0 a plain run, 1 one that hooks
    /// changed, 2 gradients).
    ///
    /// In Python: `safetensors.torch.load_file(path)["blocks.0.hook_resid_post"]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another extension than `safetensors`; [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let named = |point: HookPoint| Ok((point.to_string(), self.get(point)?));
        let floats: Vec<(String, ArrayViewD<'_, f32>)> =
            self.points().map(named).collect::<Result<_>>()?;
        let positions = self.positions.iter().map(|p| *p as i64).collect();
        let tokens = self.tokens.iter().map(|t| i64::from(*t)).collect();
        let mut integers = vec![(TOKENS, tokens), (POSITIONS, positions)];
        if let (Some(model), Some(kind)) = (self.fingerprint(), self.run_kind()) {
            let kinds = RunKind::ALL.iter();
            let code = kinds.take_while(|known| **known != kind).count() as i64;
            integers.push((FINGERPRINT, model.to_parts().map(i64::from).to_vec()));
            integers.push((KIND, vec![code]));
        }
        let version = env!("CARGO_PKG_VERSION").to_string();
        write_arrays(
            path.as_ref(),
            &floats,
            &integers,
            HashMap::from([("patchlens".to_string(), version)]),
        )
    }

    /// Opens what [`ActivationCache::save`] wrote, equal to the bit. Files of older versions do not
    /// say which model and run they are of: their values can be read, but whatever checks that
    /// rejects them, see [`ActivationCache::assume_plain_run_of`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a file that is no cache; [`Error::UnknownHook`] for a
    /// tensor that is no hook; [`Error::Tensor`] for a shape that does not fit the positions.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let arrays = read_arrays(path, |names| check_names(path, names))?;
        let tokens = integers(path, &arrays, TOKENS)?;
        let positions: Vec<usize> = integers(path, &arrays, POSITIONS)?;
        let ascending = positions.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || positions.last().is_some_and(|p| *p >= tokens.len()) {
            let expected = format!("ascending, below {} tokens", tokens.len());
            return Err(tensor_error(
                path,
                POSITIONS,
                format!("{positions:?}"),
                expected,
            ));
        }
        let mut cache = ActivationCache {
            tokens,
            positions,
            provenance: provenance(path, &arrays)?,
            entries: BTreeMap::new(),
        };
        for (name, values) in arrays.floats {
            let point: HookPoint = name.parse()?;
            let entry = cache.entry(path, point, values)?;
            cache.entries.insert(point, entry);
        }
        Ok(cache)
    }

    /// An activation read from a file, if its shape is one that these positions have.
    fn entry(&self, path: &Path, point: HookPoint, values: ArrayD<f32>) -> Result<Entry> {
        let (axes, shape) = (point.axes(), values.shape().to_vec());
        let (kept, n) = (self.positions.len(), self.tokens.len());
        let fits = shape.len() == axes.names().len()
            && shape[axes.pos_axis()] == kept
            && (axes != Axes::Attention || shape[2] == n)
            && (axes != Axes::Scale || shape[1] == 1);
        if !fits {
            let names = axes.names().join(", ");
            let expected = format!("[{names}] with {kept} positions kept of {n}");
            return Err(tensor_error(
                path,
                &point.to_string(),
                format!("{shape:?}"),
                expected,
            ));
        }
        let rows = match axes {
            Axes::Attention => shape[0] * shape[1],
            _ => kept,
        };
        let width = values.len().checked_div(rows).unwrap_or(0);
        let (data, _) = values.into_raw_vec_and_offset();
        let data = Array2::from_shape_vec((rows, width), data).map_err(|error| {
            tensor_error(path, &point.to_string(), error.to_string(), "a whole array")
        })?;
        Ok(Entry::owned(data, shape))
    }
}

/// What a file says of model and run, if it does.
fn provenance(path: &Path, arrays: &NamedArrays) -> Result<Option<Provenance>> {
    if [FINGERPRINT, KIND]
        .iter()
        .all(|name| !arrays.integers.contains_key(*name))
    {
        return Ok(None);
    }
    let wrong = |name, found: String, expected| tensor_error(path, name, found, expected);
    let parts: Vec<u32> = integers(path, arrays, FINGERPRINT)?;
    let parts = <[u32; 4]>::try_from(parts)
        .map_err(|parts| wrong(FINGERPRINT, format!("{} numbers", parts.len()), "4"))?;
    let codes: Vec<usize> = integers(path, arrays, KIND)?;
    let kind = match codes[..] {
        [code] => RunKind::ALL.get(code),
        _ => None,
    };
    let kind = kind.ok_or_else(|| wrong(KIND, format!("{codes:?}"), "[0], [1] or [2]"))?;
    Ok(Some(Provenance {
        model: Fingerprint::from_parts(parts).into(),
        kind: *kind,
    }))
}

fn tensor_error(path: &Path, name: &str, found: String, expected: impl Into<String>) -> Error {
    Error::Tensor {
        path: path.to_path_buf(),
        tensor: name.to_string(),
        found,
        expected: expected.into(),
    }
}

/// Checks that tensors are those of a cache, before what may be large is read.
fn check_names(path: &Path, names: &[&str]) -> Result<()> {
    let known = [TOKENS, POSITIONS, FINGERPRINT, KIND];
    if let Some(name) = [TOKENS, POSITIONS]
        .iter()
        .find(|name| !names.contains(name))
    {
        return Err(no_cache(path, name));
    }
    let mut hooks = names.iter().filter(|name| !known.contains(name));
    hooks.try_for_each(|name| name.parse::<HookPoint>().map(|_| ()))
}

fn no_cache(path: &Path, lacks: &str) -> Error {
    let found = format!("no I64 tensor `{lacks}`");
    format_error(path, found, "a file of `ActivationCache::save`")
}

/// A vector of numbers that are not negative.
fn integers<T: TryFrom<i64>>(path: &Path, arrays: &NamedArrays, name: &str) -> Result<Vec<T>> {
    let values = arrays.integers.get(name);
    let values = values.ok_or_else(|| no_cache(path, name))?;
    let number = |v: &i64| {
        T::try_from(*v).map_err(|_| tensor_error(path, name, v.to_string(), "a number from 0 on"))
    };
    values.iter().map(number).collect()
}
