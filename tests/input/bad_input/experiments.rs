//! Grids, metrics and sweeps that cannot work.

use ndarray::ArrayView2;
use patchlens::metric::{kl_divergence, logit_diffs, rank};
use patchlens::patching::ActivationPatching;
use patchlens::sweep::Cell;
use patchlens::{
    Base, Edit, Error, Grid, Intervention, Metric, Prompts, Selection, Site, Sweep,
    activation_patching, logit_diff,
};

use super::{Case, model, prompt};

fn patch(clean: &[u32], corrupted: &[u32], grid: Grid, metric: &Metric) -> Result<(), Error> {
    activation_patching(&model(), &prompt(clean), &prompt(corrupted), grid, metric).map(|_| ())
}

pub fn cases() -> Vec<Case> {
    let z = Grid::Heads(Site::Z);
    let diff = logit_diff(1, 2);
    let two = Prompts::new([[1, 2], [3, 4]]).unwrap();
    let zero: Vec<Cell> = vec![vec![Intervention::new(Site::ResidPre.at(0), Edit::Zero)]];
    let sweep = |metric: &Metric| {
        let model = model();
        let sweep = Sweep::new(&model, &two).unwrap();
        sweep.run(&zero, metric).map(|_| ())
    };
    let known = ndarray::arr2(&[[0.0, 1.0]]);
    let small = {
        let model = model();
        Sweep::new(&model, &two)
            .unwrap()
            .memory_limit(10)
            .run(&zero, &diff)
            .map(|_| ())
    };
    let uneven = {
        let ragged = Prompts::new([vec![1, 2], vec![3]]).unwrap();
        activation_patching(
            &model(),
            &ragged,
            &ragged,
            Grid::Positions(Site::MlpOut),
            &diff,
        )
        .map(|_| ())
    };
    vec![
        (
            "pair of two lengths",
            patch(&[1, 2], &[1], z, &diff),
            &["corrupted prompt 0", "1 tokens", "expected 2"],
        ),
        (
            "number of prompts",
            ActivationPatching::new(&model(), &two, &prompt(&[1])).map(|_| ()),
            &["corrupted prompts", "found 1", "2"],
        ),
        (
            "position axis over lengths",
            uneven,
            &[
                "clean prompt 1",
                "1 tokens",
                "2 as prompt 0",
                "position axis",
            ],
        ),
        (
            "heads of the MLP",
            patch(&[1], &[2], Grid::Heads(Site::MlpOut), &diff),
            &["hook_mlp_out", "[pos, d_model]", "a site with a head axis"],
        ),
        (
            "positions of heads",
            patch(&[1], &[2], Grid::Positions(Site::Q), &diff),
            &["attn.hook_q", "without a head axis"],
        ),
        (
            "metric's token",
            patch(&[1], &[2], z, &logit_diff(1, 53)),
            &["logit difference of prompt 0", "token 53", "0..53"],
        ),
        (
            "metric's position",
            sweep(&logit_diff(1, 2).at_position(2)),
            &["pos 2", "0..2"],
        ),
        (
            "number of targets",
            sweep(&logit_diffs(&[(1, 2), (1, 2), (1, 2)])),
            &["number of targets", "found 3", "1 or 2"],
        ),
        ("rank's token", sweep(&rank(&[99])), &["rank", "token 99"]),
        (
            "KL without reference",
            sweep(&kl_divergence()),
            &["no reference"],
        ),
        (
            "KL by hand without reference",
            kl_divergence()
                .evaluate(0, ArrayView2::from(&[[0.0, 1.0]]))
                .map(|_| ()),
            &["no reference"],
        ),
        (
            "KL's position after its reference",
            sweep(
                &kl_divergence()
                    .with_reference(&[known.view()])
                    .unwrap()
                    .at_position(0),
            ),
            &["no reference", "after `at_position`"],
        ),
        (
            "KL of another vocabulary",
            sweep(&kl_divergence().with_reference(&[known.view()]).unwrap()),
            &["logits of the reference", "found 2", "53"],
        ),
        (
            "reference of a metric that has none",
            logit_diff(1, 2).with_reference(&[known.view()]).map(|_| ()),
            &["metric with a reference", "found logit difference", "KL"],
        ),
        (
            "reference without the position",
            kl_divergence()
                .at_position(7)
                .with_reference(&[known.view()])
                .map(|_| ()),
            &["KL divergence", "pos 7 is out of range"],
        ),
        (
            "targets by hand",
            logit_diffs(&[(0, 1), (0, 1)])
                .evaluate(2, known.view())
                .map(|_| ()),
            &["number of targets", "found 2", "prompt 2"],
        ),
        (
            "a closure's position",
            sweep(&Metric::from_fn("mine", |_, _| 0.0).at_position(1)),
            &["mine", "at_position(1)", "all positions"],
        ),
        (
            "no memory",
            small,
            &["memory limit in bytes", "found 10", "at least"],
        ),
        (
            "base of other prompts",
            other_base(),
            &["base cache 0", "[5, 6]", "[1, 2]"],
        ),
    ]
}

fn other_base() -> Result<(), Error> {
    let model = model();
    let everything = Selection::everything(model.config());
    let (_, cache) = model.run_with_cache([5, 6], &everything)?;
    Base::given(&model, &prompt(&[1, 2]), &[cache]).map(|_| ())
}
