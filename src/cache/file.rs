//! Caches as safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ndarray::{Array2, ArrayD, ArrayViewD};

use super::{ActivationCache, Entry};
use crate::checkpoint::{NamedArrays, read_arrays, write_arrays};
use crate::error::{Error, Result};
use crate::files::format_error;
use crate::hook::{Axes, HookPoint};

/// The names that are no hooks.
const TOKENS: &str = "tokens";
const POSITIONS: &str = "positions";

impl ActivationCache {
    /// Writes all activations as a safetensors file under their hook names, F32, with the axes
    /// of [`HookPoint::axes`]; beside them `tokens` `[pos]` and `positions` `[kept pos]`, I64.
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
        let version = env!("CARGO_PKG_VERSION").to_string();
        write_arrays(
            path.as_ref(),
            &floats,
            &[(TOKENS, tokens), (POSITIONS, positions)],
            HashMap::from([("patchlens".to_string(), version)]),
        )
    }

    /// Opens what [`ActivationCache::save`] wrote, equal to the bit.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a file that is no cache; [`Error::UnknownHook`] for a
    /// tensor that is no hook; [`Error::Tensor`] for a shape that does not fit the positions.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let arrays = read_arrays(path)?;
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

fn tensor_error(path: &Path, name: &str, found: String, expected: impl Into<String>) -> Error {
    Error::Tensor {
        path: path.to_path_buf(),
        tensor: name.to_string(),
        found,
        expected: expected.into(),
    }
}

/// A vector of numbers that are not negative.
fn integers<T: TryFrom<i64>>(path: &Path, arrays: &NamedArrays, name: &str) -> Result<Vec<T>> {
    let Some(values) = arrays.integers.get(name) else {
        let found = format!("no I64 tensor `{name}`");
        return Err(format_error(
            path,
            found,
            "a file of `ActivationCache::save`",
        ));
    };
    let number = |v: &i64| {
        T::try_from(*v).map_err(|_| tensor_error(path, name, v.to_string(), "a number from 0 on"))
    };
    values.iter().map(number).collect()
}
