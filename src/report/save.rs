//! Files: which extension means which format, and writing that never leaves half a file.

use std::io::Write as _;
use std::path::Path;

use ndarray::Dimension as _;

use super::absent::Absent;
use super::label::legible;
use super::labelled::Labelled;
use crate::error::{Error, Result};
use crate::files::{parse_error, read_bytes, write_atomically};

/// A result of 10 million cells with their errors has some 300 MB.
const MAX_JSON: u64 = 1 << 30;

/// A format: its extension and its encoder.
pub(crate) type Format<T> = (&'static str, fn(&T) -> Result<Vec<u8>>);

const FORMATS: &[Format<Labelled>] = &[
    #[cfg(feature = "pictures")]
    ("svg", |of| of.to_svg().map(String::into_bytes)),
    #[cfg(feature = "pictures")]
    ("png", Labelled::to_png),
    ("html", |of| of.to_html().map(String::into_bytes)),
    ("csv", |of| of.to_csv().map(String::into_bytes)),
    ("json", |of| of.to_json().map(String::into_bytes)),
    ("npy", |of| Ok(of.to_npy())),
];

impl Labelled {
    /// Writes a file in the format of its extension: `.svg`, `.png`, `.html`, `.csv`, `.json` or
    /// `.npy`. An existing file is replaced in one step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another extension, or an array too large for a picture;
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_as(self, FORMATS, path.as_ref())
    }

    /// Reads what [`Labelled::save`] wrote as `.json`; equal to what was saved.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for anything but a result, with the place and the reason.
    pub fn open_json(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_bytes(path, MAX_JSON)?;
        serde_json::from_slice(&text).map_err(|error| {
            let expected = "a result as `Labelled::save` writes it";
            parse_error(path, error, expected)
        })
    }

    /// The JSON text: [`About`](super::About)'s fields, `axes`, `shape`, and `values`,
    /// `std_error` and `texts` flat in row-major order, with `null` for NaN and `"inf"`, `"-inf"`;
    /// `absent` has the flat indices of the values that are `null`, by reason (see
    /// [`Absent`](super::Absent)).
    ///
    /// # Errors
    /// [`Error::Render`] from the encoder.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|e| encoder("json", e))
    }

    /// One row per cell: a column per axis with its legible labels, then `value`, and `std_error`
    /// and `text` where there are such. A value that was computed as NaN is `NaN`; one that is
    /// absent is empty, and a column `absent` says why. A label that a spreadsheet would run as a
    /// formula gets a leading `'`.
    ///
    /// # Errors
    /// [`Error::Render`] from the encoder.
    pub fn to_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let names = self.axes().iter().map(|axis| harmless(&axis.name));
        let mut header: Vec<String> = names.chain(["value".to_string()]).collect();
        header.extend(self.std_error().map(|_| "std_error".to_string()));
        header.extend(self.texts().map(|_| "text".to_string()));
        let reasons = self.absent();
        let any = reasons.iter().any(Option::is_some);
        header.extend(any.then(|| "absent".to_string()));
        writer
            .write_record(&header)
            .map_err(|e| encoder("csv", e))?;
        for (index, value) in self.values().indexed_iter() {
            let labels = self.labels_at(index.slice()).into_iter().map(harmless);
            let reason = reasons[&index];
            let number = |value: f32| match reason {
                None | Some(Absent::NotANumber) => value.to_string(),
                Some(_) => String::new(),
            };
            let mut record: Vec<String> = labels.chain([number(*value)]).collect();
            record.extend(self.std_error().map(|errors| number(errors[&index])));
            record.extend(self.texts().map(|texts| harmless(&texts[&index])));
            let reason = reason.map(|reason| reason.to_string());
            record.extend(any.then(|| reason.unwrap_or_default()));
            writer
                .write_record(&record)
                .map_err(|e| encoder("csv", e))?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|e| encoder("csv", e.into_error()))?;
        String::from_utf8(bytes).map_err(|e| encoder("csv", e))
    }

    /// NumPy's format 1.0, `<f4` in C order.
    ///
    /// Written here because `ndarray-npy` needs a C compiler through `pest` 2.9.
    /// Source: NumPy's NEP 1.
    pub fn to_npy(&self) -> Vec<u8> {
        let dims: Vec<String> = self.values().shape().iter().map(usize::to_string).collect();
        // A Python tuple of one element needs its comma.
        let comma = if dims.len() == 1 { "," } else { "" };
        let shape = dims.join(", ") + comma;
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
        // Magic, version, length and header together are a multiple of 64 and end with a newline.
        let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
        header = format!("{header:<0$}\n", padded - 1);
        // At most 20 digits per dimension, and arrays have few: far below 65536.
        let length = (padded as u16).to_le_bytes();
        let values = self
            .values()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>();
        [
            b"\x93NUMPY\x01\x00".as_slice(),
            &length,
            header.as_bytes(),
            &values,
        ]
        .concat()
    }
}

/// A label that no spreadsheet takes for a formula (OWASP, "CSV Injection"); numbers stay.
fn harmless(label: &str) -> String {
    let shown = legible(label);
    if shown.starts_with(['=', '+', '-', '@']) && shown.parse::<f64>().is_err() {
        format!("'{shown}")
    } else {
        shown
    }
}

/// Encodes with the format of the path's extension, then writes.
pub(crate) fn save_as<T>(of: &T, formats: &[Format<T>], path: &Path) -> Result<()> {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let format = formats
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(extension));
    let (_, encode) = format.ok_or_else(|| {
        let names: Vec<String> = formats
            .iter()
            .map(|(name, _)| format!("`.{name}`"))
            .collect();
        let without = ". (`.svg` and `.png` need the feature `pictures`)";
        let note = if cfg!(feature = "pictures") {
            ""
        } else {
            without
        };
        let what = format!("extension of {}", path.display());
        Error::invalid(what, format!("`{extension}`"), names.join(", ") + note)
    })?;
    let bytes = encode(of)?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// An error of an encoder, which has no file yet.
pub(super) fn encoder(
    format: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::render(format, error)
}
