//! Subspaces of the last axis.

use ndarray::{Array2, ArrayViewMutD};
use patchlens::intervention::Subspace;
use patchlens::{ActivationCache, Hooks, Visit, hook_fn};

use super::*;

/// Three directions of eight dimensions.
fn directions() -> Array2<f32> {
    Array2::from_shape_fn((8, 3), |(i, j)| {
        ((i * i + 3 * j + i * j) as f32 * 0.7).sin()
    })
}

fn unit(columns: &[usize], width: usize) -> Subspace {
    let one = |(i, j): (usize, usize)| f32::from(columns[j] == i);
    Subspace::new(Array2::from_shape_fn((width, columns.len()), one)).unwrap()
}

struct Runs {
    model: Transformer,
    prompts: Prompts,
    donors: Vec<ActivationCache>,
}

const POINT: HookPoint = HookPoint::Block(0, Site::ResidPost);

impl Runs {
    fn new() -> Self {
        let (model, prompts) = (small(), ragged());
        let others = [vec![7, 2, 9, 1], vec![1, 3, 2, 4, 5, 6], vec![9, 8, 7]];
        let others = Base::new(&model, Prompts::new(others).unwrap()).unwrap();
        Runs {
            donors: others.caches([POINT]).unwrap().to_vec(),
            model: model.clone(),
            prompts,
        }
    }

    fn logits(&self, hooks: impl Hooks) -> Vec<f32> {
        let output = self.model.run(&self.prompts, hooks, &Run::default());
        output.unwrap().logits.iter().flatten().copied().collect()
    }

    fn with(&self, target: Target, edit: Edit) -> Vec<f32> {
        self.logits(Interventions::new(vec![Intervention::new(target, edit)]))
    }

    fn patch(&self) -> Edit {
        Edit::patch(&self.donors, POINT).unwrap()
    }
}

/// `h' = h + s·(h_src − h)·P` with the projection `P` as a matrix, by hand.
#[test]
fn a_patch_in_a_subspace_is_its_formula() {
    let runs = Runs::new();
    let subspace = Subspace::spanned_by(&directions()).unwrap();
    let basis = subspace.basis().mapv(f64::from);
    let inside = basis.dot(&basis.t());
    let outside = Array2::eye(8) - &inside;
    for (projection, of) in [(inside, subspace.clone()), (outside, subspace.complement())] {
        for strength in [1.0, -0.5] {
            let target = Target::new(POINT).in_subspace(of.clone().strength(strength).unwrap());
            for edit in [runs.patch(), Edit::Zero, Edit::Scale(3.0)] {
                let by_hand = |at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>| {
                    let mut h = activation.into_dimensionality().unwrap();
                    let h64 = h.mapv(f64::from);
                    let source = match edit {
                        Edit::Zero => Array2::zeros(h64.dim()),
                        Edit::Scale(_) => 3.0 * &h64,
                        _ => runs.donors[at.sequence]
                            .get(POINT)
                            .unwrap()
                            .mapv(f64::from)
                            .into_dimensionality()
                            .unwrap(),
                    };
                    let new = &h64 + f64::from(strength) * (source - &h64).dot(&projection);
                    h.assign(&new.mapv(|v| v as f32));
                };
                let found = runs.with(target.clone(), edit.clone());
                let expected = runs.logits(hook_fn(POINT, by_hand));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
                }
            }
        }
    }
}

/// All dimensions are a plain patch, unit vectors are columns, and of nothing else anything stays.
#[test]
fn special_subspaces() {
    let runs = Runs::new();
    let patched = |target: Target| runs.with(target, runs.patch());
    let at = || Target::new(POINT).at_positions([0, -1]);
    let all = unit(&[0, 1, 2, 3, 4, 5, 6, 7], 8);
    assert_eq!(bits(&patched(at().in_subspace(all))), bits(&patched(at())));
    let columns = [1, 4, 6];
    let some = unit(&columns, 8);
    let found = patched(at().in_subspace(some.clone()));
    assert_eq!(bits(&found), bits(&patched(at().at_columns(columns))));
    let others = patched(at().in_subspace(some.clone().complement()));
    assert_eq!(
        bits(&others),
        bits(&patched(at().at_columns([0, 2, 3, 5, 7])))
    );
    assert_eq!(some.clone().complement().complement(), some);
    // What is removed and what is kept make the whole.
    let row = |of: Subspace| {
        let selection = Selection::points([POINT]);
        let edit = Intervention::new(Target::new(POINT).in_subspace(of), Edit::Zero);
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let hooks = Interventions::new(vec![edit]);
        let output = runs.model.run(&runs.prompts, hooks, &run).unwrap();
        output.caches[1].get(POINT).unwrap().to_owned()
    };
    let subspace = Subspace::spanned_by(&directions()).unwrap();
    let (removed, kept) = (row(subspace.clone()), row(subspace.clone().complement()));
    let base = Base::new(&runs.model, &runs.prompts).unwrap();
    let whole = base.caches([POINT]).unwrap()[1]
        .get(POINT)
        .unwrap()
        .to_owned();
    assert!((&removed + &kept - &whole).iter().all(|v| v.abs() < 1e-6));
    let kept: Array2<f32> = kept.into_dimensionality().unwrap();
    let (inside, basis) = (kept.dot(&subspace.basis()), subspace.basis());
    assert!(
        (inside.dot(&basis.t()) - kept)
            .iter()
            .all(|v| v.abs() < 1e-6)
    );
    let removed: Array2<f32> = removed.into_dimensionality().unwrap();
    assert!(removed.dot(&basis).iter().all(|v| v.abs() < 1e-6));
}

/// At every point, in sweeps with the bits of full runs.
#[test]
fn subspaces_in_sweeps() {
    let runs = Runs::new();
    let sweep = Sweep::new(&runs.model, &runs.prompts).unwrap();
    let attention = patchlens::hook::Axes::Attention;
    for point in HookPoint::all(2).filter(|at| at.axes() != attention) {
        let width = *point.axes().shape(runs.model.config(), 1).last().unwrap();
        let rank = width.min(2);
        let vectors =
            Array2::from_shape_fn((width, rank), |(i, j)| (1.0 + (i + 5 * j) as f32).cos());
        let subspace = Subspace::spanned_by(&vectors).unwrap();
        let cells = [subspace.clone(), subspace.complement()]
            .into_iter()
            .flat_map(|of| {
                let target = Target::new(point).at_positions(-1).in_subspace(of);
                [
                    Edit::Zero,
                    Edit::Noise { std: 0.5, seed: 1 },
                    Edit::Set(Values::scalar(0.5)),
                ]
                .map(|edit| vec![Intervention::new(target.clone(), edit)])
            });
        let cells: Vec<Cell> = cells.collect();
        assert_same(&sweep, &cells, &logit_diff(3, 5), &point.to_string());
    }
    // Nothing changes, not even the sign of a zero: nothing runs.
    let zeros = vec![
        Intervention::new(POINT, Edit::Set(Values::scalar(-0.0))),
        Intervention::new(
            Target::new(POINT).in_subspace(unit(&[1], 8)),
            Edit::Set(Values::scalar(0.0)),
        ),
    ];
    let mut hooks = Interventions::new(zeros);
    runs.model
        .run(&runs.prompts, &mut hooks, &Run::default())
        .unwrap();
    assert_eq!(hooks.receipt().fired[1].changed_rows, 0);
}

#[test]
fn bases_and_targets_that_do_not_fit() {
    let basis = |rows: &[[f32; 2]]| message(Subspace::new(arr2(rows)));
    for (found, expected) in [
        (
            basis(&[[1.0, 0.6], [0.0, 0.8], [0.0, 0.0]]),
            "basis of a subspace: product of its vectors 0 and 1: found 0.6000000238418579; expected \
             0 within 0.0001: an orthonormal basis",
        ),
        (
            basis(&[[1.0, 0.0], [0.0, 1.1]]),
            "basis of a subspace: product of its vectors 1 and 1: found 1.210000052452088; expected \
             1 within 0.0001: an orthonormal basis",
        ),
        (
            basis(&[[1.0, 0.0]]),
            "basis of a subspace: found shape [1, 2]; expected [1, k], a vector per column, 1 to 1 \
             of them",
        ),
        (
            basis(&[[1.0, f32::NAN], [0.0, 1.0]]),
            "basis of a subspace: found NaN; expected finite numbers",
        ),
        (
            message(Subspace::spanned_by(&arr2(&[[1.0, 2.0], [2.0, 4.0]]))),
            "vector 1 of those that span a subspace: found length 0e0 outside of the span of those \
             before it; expected more than a millionth of its own, 4.47213595499958e0",
        ),
        (
            message(unit(&[0], 2).strength(f32::INFINITY)),
            "strength in a subspace: found inf; expected a finite factor",
        ),
    ] {
        assert_eq!(found, expected);
    }
    // What rounding to f32 leaves is no fault.
    let spanned = Subspace::spanned_by(&directions()).unwrap();
    assert!(Subspace::new(spanned.basis().to_owned()).is_ok());

    let model = small();
    let run = |target: Target, edit: Edit| {
        let list = vec![Intervention::new(target, edit)];
        message(model.run_with_hooks([1, 2, 3], Interventions::new(list)))
    };
    let three = || unit(&[0, 1], 3);
    let eight = || unit(&[0, 1], 8);
    for (found, expected) in [
        (
            run(Target::new(POINT).in_subspace(three()), Edit::Zero),
            "basis of a subspace at blocks.0.hook_resid_post: found shape [3, 2]; expected [8, k], \
             the first axis being d_model",
        ),
        (
            run(
                Target::new(Site::Pattern.at(0)).in_subspace(three()),
                Edit::Zero,
            ),
            "`blocks.0.attn.hook_pattern` would never fire: it is in a subspace of columns, but its \
             axes are [head, dest, src]",
        ),
        (
            run(
                Target::new(POINT).at_columns(1).in_subspace(eight()),
                Edit::Zero,
            ),
            "`blocks.0.hook_resid_post` would never fire: columns are selected, and a subspace, \
             which may be one of columns",
        ),
        (
            run(
                Target::new(POINT).in_subspace(eight()),
                Edit::Set(Values::scalar(f32::INFINITY)),
            ),
            "set at blocks.0.hook_resid_post[in 2 of 8 dimensions]: found inf; expected finite \
             numbers in a subspace",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

/// A safetensors file of F32 tensors.
fn file(tensors: &[(&str, &[usize], &[f32])]) -> tempfile::NamedTempFile {
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize};
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let data: Vec<Vec<u8>> = tensors.iter().map(|t| bytes(t.2)).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), data)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap(),
        )
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serialize(views, None).unwrap()).unwrap();
    file
}

/// Rows, columns or a single vector: the longer axis is the space.
#[test]
fn subspaces_of_files() {
    let open = |tensors: &[(&str, &[usize], &[f32])]| Subspace::open(file(tensors).path());
    let rows = [0.6, 0.8, 0.0, 0.0, 0.0, 1.0];
    let columns = [0.6, 0.0, 0.8, 0.0, 0.0, 1.0];
    let expected = Subspace::new(arr2(&[[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]])).unwrap();
    assert_eq!(open(&[("basis", &[2, 3], &rows)]).unwrap(), expected);
    assert_eq!(open(&[("B", &[3, 2], &columns)]).unwrap(), expected);
    let one = Subspace::new(arr2(&[[0.6], [0.8], [0.0]])).unwrap();
    assert_eq!(open(&[("v", &[3], &rows[..3])]).unwrap(), one);
    let refused = |tensors: &[(&str, &[usize], &[f32])], found: &str| {
        let message = open(tensors).unwrap_err().to_string();
        let expected = "expected one F32 tensor, an orthonormal basis `[k, d]`, `[d, k]` or `[d]`";
        assert!(
            message.contains(found) && message.ends_with(expected),
            "{message}"
        );
    };
    refused(&[], "0 tensors []");
    let two: [(&str, &[usize], &[f32]); 2] = [("a", &[1], &[1.0]), ("b", &[1], &[1.0])];
    refused(&two, "2 tensors [a, b]");
    refused(&[("v", &[1, 2, 1], &[0.6, 0.8])], "`v`: shape [1, 2, 1]");
    refused(
        &[("v", &[2], &[0.6, 0.6])],
        "`v`: basis of a subspace: product of its vectors 0 and 0",
    );
    refused(
        &[("v", &[0], &[])],
        "`v`: basis of a subspace: found shape [1, 0]",
    );
    assert!(
        Subspace::open("no such file")
            .unwrap_err()
            .to_string()
            .contains("no such file")
    );
}
