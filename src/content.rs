//! What a number depends on, bit by bit, as a hash under which a journal finds it again.

use std::collections::HashMap;
use std::fmt;

use ndarray::ArrayViewD;
use twox_hash::XxHash3_128;

use crate::fingerprint::Fingerprint;

/// A hash (XXH3, 128 bits) of everything that a number depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u128);

impl Key {
    /// The key that [`Key`]'s `Display` has written.
    pub fn parse(text: &str) -> Option<Self> {
        let key = u128::from_str_radix(text, 16).ok().map(Key);
        key.filter(|key| key.to_string() == text)
    }
}

/// As 32 hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Collects what a number depends on. Every part is written with its length, so that no two lists
/// of parts come to the same bytes.
#[derive(Default)]
pub(crate) struct Content<'a> {
    bytes: Vec<u8>,
    /// Hashes of arrays that were met, by place and length in memory: cells share their values.
    arrays: HashMap<(usize, usize), Key>,
    /// The arrays stay where they are as long as this lives.
    borrowed: std::marker::PhantomData<&'a f32>,
}

impl<'a> Content<'a> {
    /// A part that is a name or a text.
    pub fn text(&mut self, text: &str) {
        self.number(text.len());
        self.bytes.extend(text.as_bytes());
    }

    pub fn number(&mut self, n: usize) {
        self.bytes.extend((n as u64).to_le_bytes());
    }

    pub fn numbers(&mut self, list: impl IntoIterator<Item = usize>) {
        let at = self.bytes.len();
        self.number(0);
        let mut n = 0_u64;
        for number in list {
            self.number(number);
            n += 1;
        }
        self.bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
    }

    pub fn tokens(&mut self, tokens: &[u32]) {
        self.numbers(tokens.iter().map(|token| *token as usize));
    }

    pub fn float(&mut self, value: f32) {
        self.bytes.extend(value.to_bits().to_le_bytes());
    }

    pub fn key(&mut self, key: Key) {
        self.bytes.extend(key.0.to_le_bytes());
    }

    pub fn fingerprint(&mut self, of: Fingerprint) {
        self.text(&of.to_string());
    }

    /// An array's shape and values; hashed once, however often it is met.
    pub fn array(&mut self, array: ArrayViewD<'a, f32>) {
        self.numbers(array.shape().iter().copied());
        let key = match array.to_slice() {
            Some(values) => {
                let place = (values.as_ptr() as usize, values.len());
                *self.arrays.entry(place).or_insert_with(|| hash(values))
            }
            None => hash(&array.iter().copied().collect::<Vec<_>>()),
        };
        self.key(key);
    }

    /// The key of the parts since the last one.
    pub fn take_key(&mut self) -> Key {
        let key = Key(XxHash3_128::oneshot(&self.bytes));
        self.bytes.clear();
        key
    }
}

fn hash(values: &[f32]) -> Key {
    let mut hasher = twox_hash::xxhash3_128::Hasher::new();
    let mut bytes = [0; 4 * 256];
    for piece in values.chunks(256) {
        for (to, value) in bytes.chunks_exact_mut(4).zip(piece) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        hasher.write(&bytes[..4 * piece.len()]);
    }
    Key(hasher.finish_128())
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, Slice, arr2};

    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |parts: &[&str]| {
            let mut content = Content::default();
            parts.iter().for_each(|part| content.text(part));
            content.take_key()
        };
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
    }

    #[test]
    fn arrays_count_by_shape_and_bits_wherever_they_lie() {
        let arrays = [
            arr2(&[[0.0, 1.0]]),
            arr2(&[[0.0, 1.0]]),
            arr2(&[[0.0], [1.0]]),
            arr2(&[[-0.0, 1.0]]),
        ];
        let wide = arr2(&[[0.0, 9.0, 1.0, 9.0]]);
        let mut content = Content::default();
        let mut key = |array| {
            content.array(array);
            content.take_key()
        };
        let [row, again, column, negative] = [0, 1, 2, 3].map(|i| key(arrays[i].view().into_dyn()));
        assert_eq!(row, again);
        assert_ne!(row, column);
        assert_ne!(row, negative);
        let strided = wide.slice_axis(Axis(1), Slice::new(0, None, 2));
        assert_eq!(row, key(strided.into_dyn()));
    }

    #[test]
    fn a_key_reads_what_it_writes() {
        let mut content = Content::default();
        content.float(1.5);
        let key = content.take_key();
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        assert_eq!(Key::parse("12"), None);
    }
}
