//! Bytes of a checkpoint to f32.

use half::{bf16, f16};
use safetensors::Dtype;

/// The types of numbers that weights may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(super) fn new(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Float::F32),
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub(super) fn size(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// Converts `values.len()` numbers; all three types convert exactly.
    pub(super) fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Float::F32 => convert(bytes, values, f32::from_le_bytes),
            Float::F16 => convert(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
            Float::Bf16 => convert(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn convert<const N: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (value, &chunk) in values.iter_mut().zip(chunks) {
        *value = number(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_by_hand() {
        let mut values = [0.0; 2];
        Float::F32.decode(&[0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc1], &mut values);
        assert_eq!(values, [1.0, -10.0]);
        // The smallest subnormal of F16 is 2^-24.
        Float::F16.decode(&[0x00, 0x3c, 0x01, 0x00], &mut values);
        assert_eq!(values, [1.0, 2.0_f32.powi(-24)]);
        Float::Bf16.decode(&[0x80, 0x3f, 0x20, 0xc1], &mut values);
        assert_eq!(values, [1.0, -10.0]);
    }
}
