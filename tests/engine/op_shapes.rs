//! t4: public operations on shapes that do not fit panic with both shapes, where they once computed
//! a part of the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ndarray::{Array1, Array2};
use patchlens::config::Activation;
use patchlens::ops;

/// The message of a panic.
fn message(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("shapes that do not fit");
    *payload.downcast::<String>().expect("a formatted message")
}

#[test]
fn t4_shapes_that_do_not_fit_panic_with_both() {
    let x = || Array2::<f32>::ones((2, 4));
    let (short, right) = (Array1::<f32>::ones(3), Array1::<f32>::ones(4));
    let (short, right) = (short.view(), right.view());
    let low = Array2::<f32>::ones((1, 4));
    let narrow = Array2::<f32>::ones((2, 3));
    let scale = Array2::<f32>::ones((2, 1));
    let long = Array1::<f32>::ones(5);
    type Case<'c> = (&'c str, Box<dyn FnOnce() + 'c>, [&'c str; 2]);
    let cases: Vec<Case<'_>> = vec![
        (
            "affine's weight",
            Box::new(|| drop(ops::affine(x().view(), short, right))),
            ["[3]", "[4]"],
        ),
        (
            "affine's bias",
            Box::new(|| drop(ops::affine(x().view(), right, long.view()))),
            ["[5]", "[4]"],
        ),
        (
            "layer_norm_affine's weight",
            Box::new(|| drop(ops::layer_norm_affine(x().view(), short, right, 1e-5))),
            ["[3]", "[4]"],
        ),
        (
            "layer_norm_affine's bias",
            Box::new(|| drop(ops::layer_norm_affine(x().view(), right, short, 1e-5))),
            ["[3]", "[4]"],
        ),
        (
            "layer_norm's scales",
            Box::new(|| {
                ops::layer_norm(x().view(), 1e-5, |scale| *scale = Array2::ones((3, 1)));
            }),
            ["[3, 1]", "[2, 1]"],
        ),
        (
            "layer_norm_backward's gradient",
            Box::new(|| {
                let (x, scale) = (x(), scale.view());
                ops::layer_norm_backward(x.view(), scale, 1e-5, narrow.view());
            }),
            ["[2, 3]", "[2, 4]"],
        ),
        (
            "layer_norm_backward's scale",
            Box::new(|| {
                let x = x();
                ops::layer_norm_backward(x.view(), narrow.view(), 1e-5, x.view());
            }),
            ["[2, 3]", "[2, 1]"],
        ),
        (
            "layer_norm_scale_backward's gradient",
            Box::new(|| {
                ops::layer_norm_scale_backward(x().view(), scale.view(), low.view());
            }),
            ["[1, 4]", "[2, 4]"],
        ),
        (
            "affine_backward's weight",
            Box::new(|| ops::affine_backward(x().view_mut(), short)),
            ["[3]", "[4]"],
        ),
        (
            "softmax_backward_row",
            Box::new(|| ops::softmax_backward_row(&[0.5, 0.5], &mut [1.0, 2.0, 3.0])),
            ["[3]", "[2]"],
        ),
        (
            "sum_rows",
            Box::new(|| drop(ops::sum_rows(x().view(), Some(low.view())))),
            ["[1, 4]", "[2, 4]"],
        ),
        (
            "activate_backward",
            Box::new(|| {
                let mut gradient = narrow.clone();
                ops::activate_backward(Activation::GeluNew, x().view(), gradient.view_mut());
            }),
            ["[2, 3]", "[2, 4]"],
        ),
        (
            "matmul",
            Box::new(|| drop(ops::matmul(x().view(), narrow.view()))),
            ["(2, 4, 3)", "(2, 2, 3)"],
        ),
    ];
    for (name, run, shapes) in cases {
        let message = message(run);
        assert!(
            shapes.iter().all(|shape| message.contains(shape)),
            "{name}: {message}"
        );
    }
}

/// Whatever fits still runs, an empty matrix included.
#[test]
fn t4_shapes_that_fit_run() {
    for rows in [0, 2] {
        let x = Array2::<f32>::ones((rows, 4));
        let ones = Array1::<f32>::ones(4);
        let affine = ops::affine(x.view(), ones.view(), ones.view());
        assert!(affine.dim() == (rows, 4) && affine.iter().all(|v| *v == 2.0));
        let normed = ops::layer_norm_affine(x.view(), ones.view(), ones.view(), 1e-5);
        assert!(normed.dim() == (rows, 4) && normed.iter().all(|v| *v == 1.0));
        let sum = ops::sum_rows(x.view(), Some(x.view()));
        assert_eq!(sum, Array1::from_elem(4, rows as f32));
    }
}
