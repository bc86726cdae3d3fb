//! The largest of some numbers.

/// The indices of the `n` largest of `len` values (of all, if there are fewer), largest first;
/// equal ones by rising index.
///
/// The order is [`f64::total_cmp`]'s: 0 above −0, and NaN above infinity (below −∞ where its sign
/// is set), so callers for whom NaN is no value leave it out.
pub(crate) fn largest(len: usize, n: usize, value: impl Fn(usize) -> f64) -> Vec<usize> {
    let falling = |a: &usize, b: &usize| value(*b).total_cmp(&value(*a)).then(a.cmp(b));
    let mut order: Vec<usize> = (0..len).collect();
    if 0 < n && n < len {
        order.select_nth_unstable_by(n - 1, falling);
    }
    order.truncate(n);
    order.sort_unstable_by(falling);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_nan_have_an_order() {
        let values = [1.0, f64::NAN, 3.0, -0.0, 3.0, f64::INFINITY, 0.0, -f64::NAN];
        let of = |n| largest(values.len(), n, |i| values[i]);
        assert_eq!(of(9), [1, 5, 2, 4, 0, 6, 3, 7]);
        for n in 0..values.len() {
            assert_eq!(of(n), of(9)[..n]);
        }
    }
}
