//! Saving, in the layout of Hugging Face's `GPT2LMHeadModel.save_pretrained`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use ndarray::{ArrayViewD, CowArray, IxDyn};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::names::prefixed;
use super::transformer_lens::renamed;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{Staged, parse_error, read_bytes};
use crate::parameters::Parameters;

impl Parameters {
    /// Writes `config.json` and `model.safetensors` into the folder `dir`, which is made if
    /// needed; [`Parameters::load`] reads them back to the bit, and so does Hugging Face's
    /// transformers (which has no place for [`Parameters::lm_head_bias`] and ignores it). What is
    /// not a GPT-2 has the fields and the names of TransformerLens.
    ///
    /// Both files are written beside their places, flushed and then renamed. If that is cut short,
    /// the folder has the old checkpoint or the new one; between the renames, where the config
    /// changes, it has no `config.json`. Never does it have weights beside another model's config:
    /// the folder is locked meanwhile, where folders can be, which two processes that save at once
    /// and [`Parameters::load`] respect.
    ///
    /// # Errors
    /// Same as [`Parameters::check`]; [`Error::Io`] if a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>, config: &Config) -> Result<()> {
        self.check(config)?;
        let dir = dir.as_ref();
        let path = dir.join("model.safetensors");
        let own = self.tensors();
        let own: Vec<(String, CowArray<'_, f32, IxDyn>)> = own
            .iter()
            .map(|(name, values)| (name.clone(), values.as_standard_layout()))
            .collect();
        let mut tensors = if config.is_gpt2() {
            let each = own.iter();
            each.map(|(name, values)| (prefixed(name), values.view()))
                .collect()
        } else {
            renamed(&own, config)
        };
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let header = header(&path, &tensors)?;
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let _held = hold(dir, File::lock);
        let weights = Staged::new(&path, |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            tensors.iter().try_for_each(|(_, t)| write_values(file, t))
        })?;
        let (path, json) = (dir.join("config.json"), config.to_json());
        let unchanged = read_bytes(&path, 1 << 20).is_ok_and(|old| old == json.as_bytes());
        if unchanged {
            return weights.commit();
        }
        let config = Staged::new(&path, |file| file.write_all(json.as_bytes()))?;
        // Whoever reads between the two sees no checkpoint rather than weights of one model with
        // the config of another.
        config.clear_place()?;
        weights.commit()?;
        config.commit()
    }
}

/// Holds a folder until the file is dropped, so that no other process saves there, and none reads a
/// config of one save and the weights of the next. Where folders cannot be locked (Windows, some
/// network file systems), the order of the renames has to do.
pub(super) fn hold(dir: &Path, lock: impl FnOnce(&File) -> io::Result<()>) -> Option<File> {
    let folder = File::open(dir).ok()?;
    lock(&folder).ok()?;
    Some(folder)
}

/// The header's JSON, padded with spaces to a multiple of 8 bytes so that the data are aligned.
fn header(path: &Path, tensors: &[(String, ArrayViewD<'_, f32>)]) -> Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = end;
        end += 4 * tensor.len();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: tensor.shape().to_vec(),
            data_offsets: (start, end),
        };
        (name.clone(), info)
    });
    // Without the format, transformers refuses to read the file.
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let expected = "tensors that safetensors can hold";
    let metadata = Metadata::new(Some(format), infos.collect())
        .map_err(|error| parse_error(path, error, expected))?;
    let mut json =
        serde_json::to_vec(&metadata).map_err(|error| parse_error(path, error, expected))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

/// Writes the values in row-major order, whatever the memory layout.
fn write_values(file: &mut impl Write, tensor: &ArrayViewD<'_, f32>) -> io::Result<()> {
    tensor
        .iter()
        .try_for_each(|value| file.write_all(&value.to_le_bytes()))
}
