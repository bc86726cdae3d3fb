//! The JSON form: flat values in row-major order beside the axes, checked when read back.

use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use super::label::Axis;
use super::labelled::{About, Labelled};
use crate::error::Error;
use crate::number::Number;

/// What a `.json` file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Document {
    #[serde(flatten)]
    about: About,
    axes: Vec<Axis>,
    shape: Vec<usize>,
    values: Vec<Number>,
    std_error: Option<Vec<Number>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<String>>,
}

impl From<Labelled> for Document {
    fn from(of: Labelled) -> Self {
        let cells = |array: ndarray::ArrayViewD<'_, f32>| array.iter().map(|&v| v.into()).collect();
        Document {
            axes: of.axes().to_vec(),
            shape: of.values().shape().to_vec(),
            values: cells(of.values()),
            std_error: of.std_error().map(cells),
            texts: of.texts().map(|texts| texts.iter().cloned().collect()),
            about: of.about,
        }
    }
}

impl TryFrom<Document> for Labelled {
    type Error = Error;

    fn try_from(document: Document) -> Result<Self, Error> {
        let shape = document.shape;
        let array = |name: &str, cells: Vec<Number>| {
            let found = format!("{} numbers", cells.len());
            ArrayD::from_shape_vec(IxDyn(&shape), cells.into_iter().map(f32::from).collect())
                .map_err(|_| Error::invalid(name, found, format!("the shape {shape:?}")))
        };
        let values = array("values", document.values)?;
        let mut result = Labelled::new(values, document.axes, document.about)?;
        if let Some(cells) = document.std_error {
            result = result.with_std_error(array("std_error", cells)?)?;
        }
        let Some(texts) = document.texts else {
            return Ok(result);
        };
        let found = format!("{} texts", texts.len());
        let texts = ArrayD::from_shape_vec(IxDyn(&shape), texts)
            .map_err(|_| Error::invalid("texts", found, format!("the shape {shape:?}")))?;
        result.with_texts(texts)
    }
}
