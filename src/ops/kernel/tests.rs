use ndarray::{Array1, Array2};

use crate::ops::{linear, linear_parts, matmul, part};

fn noise(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    })
}

fn bits(x: &Array2<f32>) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Straight from the definition: chains of fused multiply-adds, summed in order.
fn by_definition(x: &Array2<f32>, w: &Array2<f32>) -> Array2<f32> {
    Array2::from_shape_fn((x.nrows(), w.ncols()), |(i, j)| {
        let (row, column) = (x.row(i).to_vec(), w.column(j).to_vec());
        let chains = row
            .chunks(super::buffers::CHAIN)
            .zip(column.chunks(super::buffers::CHAIN));
        let chain = |(a, b): (&[f32], &[f32])| {
            let pairs = a.iter().zip(b);
            pairs.fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
        };
        chains.map(chain).reduce(|sum, c| sum + c).unwrap_or(0.0)
    })
}

#[test]
fn every_element_is_its_chains_whatever_the_shape_and_layout() {
    let shapes = [
        (1, 1, 1),
        (1, 768, 70),
        (5, 300, 64),
        (6, 256, 65),
        (7, 257, 16),
        (13, 513, 33),
        (31, 40, 129),
        (63, 700, 130),
        (64, 700, 300),
        (100, 300, 70),
        (300, 20, 3),
        (20, 257, 3200),
        (21, 513, 1100),
        (481, 260, 530),
        (493, 257, 17),
        (1030, 300, 70),
    ];
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build()
            .unwrap()
            .install(|| shapes.iter().for_each(|s| check(*s)));
    }
}

/// All layouts of a product against its definition.
fn check((rows, inner, columns): (usize, usize, usize)) {
    let (x, w) = (noise(rows, inner, 3), noise(inner, columns, 7));
    let expected = bits(&by_definition(&x, &w));
    let (x_t, w_t) = (
        x.t().as_standard_layout().into_owned(),
        w.t().as_standard_layout().into_owned(),
    );
    let wide = noise(inner, 2 * columns, 9);
    let mut strided = wide.clone();
    strided
        .columns_mut()
        .into_iter()
        .step_by(2)
        .zip(w.columns())
        .for_each(|(mut to, c)| to.assign(&c));
    let mut every_other = strided.view();
    every_other.slice_axis_inplace(ndarray::Axis(1), ndarray::Slice::new(0, None, 2));
    let shape = format!("{rows} x {inner} x {columns}");
    assert_eq!(bits(&matmul(x.view(), w.view())), expected, "{shape}");
    assert_eq!(
        bits(&matmul(x.view(), w_t.t())),
        expected,
        "{shape}, w transposed"
    );
    assert_eq!(
        bits(&matmul(x_t.t(), w.view())),
        expected,
        "{shape}, x transposed"
    );
    assert_eq!(
        bits(&matmul(x.view(), every_other)),
        expected,
        "{shape}, w with gaps"
    );
    let bias = Array1::zeros(columns);
    for parts in [1, 2, 3] {
        if columns % parts == 0 {
            let found = linear_parts(x.view(), w.view(), bias.view(), parts);
            let found: Vec<_> = found.iter().map(|part| part.view()).collect();
            let joined = ndarray::concatenate(ndarray::Axis(1), &found).unwrap();
            assert_eq!(bits(&joined), expected, "{shape} in {parts} parts");
        }
    }
}

#[test]
fn the_bias_is_added_last() {
    let (x, w, bias) = (noise(9, 300, 3), noise(300, 100, 7), noise(1, 100, 5));
    let expected = by_definition(&x, &w) + bias.row(0);
    for layout in [
        w.clone(),
        w.t().as_standard_layout().into_owned().reversed_axes(),
    ] {
        let found = linear(x.view(), layout.view(), Some(bias.row(0)));
        assert_eq!(bits(&found), bits(&expected));
        let parts = linear_parts(x.view(), layout.view(), bias.row(0), 2);
        for (found, first) in parts.iter().zip([0, 50]) {
            let own = part(expected.view(), 1, first..first + 50).to_owned();
            assert_eq!(bits(found), bits(&own));
        }
    }
}

#[test]
fn what_a_panel_held_before_does_not_matter() {
    // On one thread, so that all products share its scratch.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let poison = (
        Array2::from_elem((30, 600), f32::NAN),
        Array2::from_elem((600, 64), f32::NAN),
    );
    let poison_t = poison.1.t().as_standard_layout().into_owned();
    pool.unwrap().install(|| {
        for rows in [3, 30] {
            let (x, w) = (noise(rows, 600, 3), noise(600, 17, 7));
            let w_t = w.t().as_standard_layout().into_owned();
            let expected = bits(&by_definition(&x, &w));
            for w in [w.view(), w_t.t()] {
                matmul(poison.0.view(), poison.1.view());
                matmul(poison.0.view(), poison_t.t());
                assert_eq!(bits(&matmul(x.view(), w)), expected);
            }
        }
    });
}
