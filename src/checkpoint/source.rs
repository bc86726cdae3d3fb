//! One safetensors file (or bytes in memory): its header, checked, and the reading of its tensors.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;

use super::decode::Float;
use crate::error::{Error, Result};
use crate::files::{UniqueKeys, format_error, open};

/// Real headers have about 120 bytes per tensor, 15 kB for GPT-2 small; a parsed header may take
/// several times its size.
const MAX_HEADER: u64 = 16 << 20;
/// How many numbers are read at once.
const PIECE: usize = 1 << 18;

/// What a file and bytes in memory have in common.
pub(super) trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// An open safetensors file.
pub(super) struct Source<'a> {
    pub(super) path: PathBuf,
    /// By their names in the file; every byte range lies within the file.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    reader: Box<dyn ReadSeek + 'a>,
    data_start: u64,
}

impl Source<'static> {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, size) = open(path)?;
        Self::new(path, Box::new(file), size)
    }
}

impl<'a> Source<'a> {
    /// Reads and checks the header of `size` bytes of safetensors.
    pub(super) fn new(path: &Path, mut reader: Box<dyn ReadSeek + 'a>, size: u64) -> Result<Self> {
        let length = header_length(path, &mut reader, size)?;
        let mut header = vec![0; length as usize];
        reader.read_exact(&mut header).map_err(Error::io(path))?;
        let tensors: UniqueKeys<TensorInfo> = serde_json::from_slice(&header).map_err(|error| {
            let found = format!("header with {error}");
            let expected = "a JSON object of tensors with dtype, shape and data_offsets";
            format_error(path, found, expected).caused_by(error)
        })?;
        check_layout(path, &tensors.0, size - 8 - length)?;
        Ok(Source {
            path: path.to_path_buf(),
            tensors: tensors.0,
            reader,
            data_start: 8 + length,
        })
    }

    /// An [`Error::Tensor`] about a tensor of this file.
    pub(super) fn error(&self, tensor: &str, found: String, expected: impl Into<String>) -> Error {
        tensor_error(&self.path, tensor, found, expected)
    }

    /// Reads tensor `name`, which must have `values.len()` numbers, into `values`.
    pub(super) fn read_into(&mut self, name: &str, values: &mut [f32]) -> Result<()> {
        let mut pieces = self.pieces(name, values.len())?;
        values
            .chunks_mut(PIECE)
            .try_for_each(|piece| pieces.next_into(piece))
    }

    /// Reads tensor `name`, which must have `other.len()` numbers, up to the first number that is
    /// not `other`'s to the bit, and returns its index.
    pub(super) fn first_difference(&mut self, name: &str, other: &[f32]) -> Result<Option<usize>> {
        let mut pieces = self.pieces(name, other.len())?;
        let mut buffer = vec![0.0; PIECE.min(other.len())];
        for (i, other) in other.chunks(PIECE).enumerate() {
            let values = &mut buffer[..other.len()];
            pieces.next_into(values)?;
            let unlike = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(j) = values.iter().zip(other).position(unlike) {
                return Ok(Some(i * PIECE + j));
            }
        }
        Ok(None)
    }

    /// The bytes of tensor `name`, as they stand in the file.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let (start, end) = self.tensors[name].data_offsets;
        let mut bytes = self.room(name, end - start)?;
        let position = SeekFrom::Start(self.data_start + start as u64);
        let moved = self.reader.seek(position);
        let mut tensor = (&mut self.reader).take((end - start) as u64);
        let read = moved.and_then(|_| tensor.read_to_end(&mut bytes));
        if read.map_err(Error::io(&self.path))? < end - start {
            let ended = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::io(&self.path)(ended));
        }
        Ok(bytes)
    }

    /// Memory for so many values of a tensor, an error where there is none.
    pub(super) fn room<T>(&self, name: &str, count: usize) -> Result<Vec<T>> {
        let mut values = Vec::new();
        match values.try_reserve_exact(count) {
            Ok(()) => Ok(values),
            Err(_) => {
                let found = format!("{count} values");
                Err(self.error(name, found, "as many as there is memory for"))
            }
        }
    }

    /// Goes to the first byte of a tensor of `count` numbers.
    fn pieces<'s>(&'s mut self, name: &'s str, count: usize) -> Result<Pieces<'s>> {
        let Some(info) = self.tensors.get(name) else {
            return Err(self.error(name, "nothing".to_string(), "a tensor"));
        };
        let Some(float) = Float::new(info.dtype) else {
            return Err(self.dtype_error(name, info));
        };
        let (start, end) = info.data_offsets;
        if end - start != count * float.size() {
            let expected = format!("{count} values");
            return Err(self.error(name, format!("shape {:?}", info.shape), expected));
        }
        let position = SeekFrom::Start(self.data_start + start as u64);
        let moved = self.reader.seek(position);
        moved.map_err(Error::io(&self.path))?;
        Ok(Pieces {
            path: &self.path,
            name,
            shape: &info.shape,
            float,
            reader: &mut self.reader,
            buffer: vec![0; PIECE.min(count) * float.size()],
            done: 0,
        })
    }

    pub(super) fn dtype_error(&self, name: &str, info: &TensorInfo) -> Error {
        self.error(
            name,
            format!("dtype {:?}", info.dtype),
            "dtype F32, F16 or BF16",
        )
    }
}

/// A tensor that is being read.
struct Pieces<'s> {
    path: &'s Path,
    name: &'s str,
    shape: &'s [usize],
    float: Float,
    reader: &'s mut dyn Read,
    buffer: Vec<u8>,
    /// How many numbers have been read.
    done: usize,
}

impl Pieces<'_> {
    /// Reads the next `values.len()` numbers, at most [`PIECE`], and checks that they are finite.
    fn next_into(&mut self, values: &mut [f32]) -> Result<()> {
        let bytes = &mut self.buffer[..values.len() * self.float.size()];
        self.reader
            .read_exact(bytes)
            .map_err(Error::io(self.path))?;
        self.float.decode(bytes, values);
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            let at = unravel(self.done + i, self.shape);
            let found = format!("{} at {at:?}", values[i]);
            return Err(tensor_error(self.path, self.name, found, "finite numbers"));
        }
        self.done += values.len();
        Ok(())
    }
}

/// An [`Error::Tensor`].
pub(super) fn tensor_error(
    path: &Path,
    tensor: &str,
    found: String,
    expected: impl Into<String>,
) -> Error {
    Error::Tensor {
        path: path.to_path_buf(),
        tensor: tensor.to_string(),
        found,
        expected: expected.into(),
    }
}

/// Reads the first 8 bytes, the header's length, and checks it before anyone allocates that much.
fn header_length(path: &Path, reader: &mut impl Read, size: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    if size < 8 {
        let found = format!("a file of {size} bytes");
        return Err(format_error(
            path,
            found,
            "a safetensors file, 8 bytes or more",
        ));
    }
    reader.read_exact(&mut bytes).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(bytes);
    if length > size - 8 {
        let found = format!("a header length of {length} bytes in a file of {size} bytes");
        let expected = "a header within the file (is it truncated, or not safetensors?)";
        return Err(format_error(path, found, expected));
    }
    if length > MAX_HEADER {
        let found = format!("a header length of {length} bytes");
        return Err(format_error(
            path,
            found,
            format!("at most {MAX_HEADER} bytes"),
        ));
    }
    Ok(length)
}

/// Checks that the tensors fill the data exactly: each byte range as long as dtype and shape say,
/// one after another without holes, from the first byte to the last.
fn check_layout(path: &Path, tensors: &BTreeMap<String, TensorInfo>, data: u64) -> Result<()> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by_key(|(_, info)| info.data_offsets);
    let mut previous = 0;
    for (name, info) in ordered {
        let (start, end) = info.data_offsets;
        let found = format!("data at bytes {start}..{end}");
        if end as u64 > data {
            let expected = format!("to end within the {data} bytes of data (truncated file?)");
            return Err(tensor_error(path, name, found, expected));
        }
        if start != previous {
            let expected = format!("to start at byte {previous}, where the previous tensor ends");
            return Err(tensor_error(path, name, found, expected));
        }
        let length = byte_length(info);
        if length.is_none() || end.checked_sub(start) != length {
            let expected = match length {
                Some(length) => format!("{length} bytes"),
                None => "a whole number of bytes that fits in memory".to_string(),
            };
            let expected = format!("{expected} for {:?} of shape {:?}", info.dtype, info.shape);
            return Err(tensor_error(path, name, found, expected));
        }
        previous = end;
    }
    if previous as u64 != data {
        let found = format!("{data} bytes of data");
        let expected = format!("{previous} bytes, as the header says");
        return Err(format_error(path, found, expected));
    }
    Ok(())
}

/// The bytes that dtype and shape demand, if that is a whole number without overflow.
fn byte_length(info: &TensorInfo) -> Option<usize> {
    let bits = info
        .shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The index along each axis of the value at `flat` in row-major order.
pub(super) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (place, &size) in index.iter_mut().zip(shape).rev() {
        *place = flat % size;
        flat /= size;
    }
    index
}
