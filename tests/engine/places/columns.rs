//! Columns of the last axis: neurons, dimensions.

use std::sync::{Arc, Mutex};

use ndarray::{Array2, ArrayViewMutD, Axis, Zip, arr2};
use patchlens::generate::Generation;
use patchlens::hook::Axes;
use patchlens::patching::{ActivationPatching, Corrections};
use patchlens::{Grid, Visit, hook_fn};

use super::*;

/// An edit of some columns has the bits of a hook that changes these alone.
#[test]
fn columns_are_what_a_hook_by_hand_makes_of_them() {
    let (model, prompts) = (small(), ragged());
    let columns = [1, 3];
    let logits = |hooks: &mut dyn patchlens::Hooks| {
        let output = model.run(&prompts, hooks, &Run::default()).unwrap();
        output.logits.iter().flat_map(bits).collect::<Vec<u32>>()
    };
    let points = HookPoint::all(2).filter(|at| !matches!(at.axes(), Axes::Attention | Axes::Scale));
    for point in points {
        let by_hand = |of: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>| {
            let last = Axis(activation.ndim() - 1);
            let pos = Axis(0);
            for (row, mut rows) in activation.axis_iter_mut(pos).enumerate() {
                if of.positions[row] == 0 {
                    continue;
                }
                for column in columns {
                    let last = Axis(last.0 - 1);
                    let mut column = rows.index_axis_mut(last, column);
                    column.mapv_inplace(|v| v * -1.5);
                }
            }
        };
        let all_but_first = Select::each(prompts.iter().map(|p| 1..p.len()));
        let target = Target::new(point).at_positions(all_but_first);
        let edit = Intervention::new(target.at_columns(columns), Edit::Scale(-1.5));
        let mut hooks = Interventions::new(vec![edit]);
        assert_eq!(
            logits(&mut hooks),
            logits(&mut hook_fn(point, by_hand)),
            "{point}"
        );
        let fired = &hooks.receipt().fired[0];
        assert_eq!(fired.rows, fired.changed_rows, "{fired:?}");
    }
}

/// Every column of every point in one sweep, with the bits of full runs.
#[test]
fn every_column_is_a_cell() {
    let (model, prompts) = (small(), ragged());
    let others: Vec<Vec<u32>> = prompts
        .iter()
        .map(|p| p.tokens.iter().map(|t| (t + 3) % 23).collect())
        .collect();
    let others = Prompts::new(others).unwrap();
    let donor = Base::new(&model, &others).unwrap();
    let sweep = Sweep::new(&model, &prompts).unwrap();
    for point in HookPoint::all(2).filter(|at| at.axes() != Axes::Attention) {
        let width = *point.axes().shape(model.config(), 1).last().unwrap();
        let caches = donor.caches([point]).unwrap();
        let cell = |column: usize| {
            let target = Target::new(point).at_columns(column);
            let edit = match column % 3 {
                0 => Edit::patch(&caches, point).unwrap(),
                1 => Edit::Zero,
                _ => Edit::Add(Values::scalar(0.5)),
            };
            let target = if column.is_multiple_of(2) {
                target.at_positions(-1)
            } else {
                target
            };
            vec![Intervention::new(target, edit)]
        };
        let cells: Vec<Cell> = (0..width).map(cell).collect();
        let metric = logit_diff(3, 5);
        assert_same(&sweep, &cells, &metric, &point.to_string());
    }
}

/// A column costs what its rows cost, and a column that stays as it is costs nothing.
#[test]
fn a_column_costs_what_its_rows_cost() {
    let (model, prompts) = (small(), ragged());
    let sweep = Sweep::new(&model, &prompts).unwrap();
    let metric = logit_diff(3, 5);
    let at = Target::new(Site::MlpPost.at(0)).at_positions(1);
    let plan = |target: Target, edit: Edit| {
        let cell = vec![Intervention::new(target, edit)];
        let found = sweep.run(&[cell], &metric).unwrap();
        assert_eq!(found.multiply_adds, found.plan.multiply_adds);
        found.plan
    };
    let one = plan(at.clone().at_columns(4), Edit::Scale(2.0));
    let row = plan(at.clone(), Edit::Scale(2.0));
    let cost = |plan: &Plan| (plan.lanes, plan.rows, plan.multiply_adds);
    assert_eq!(cost(&one), cost(&row));
    assert!(one.rows < 2 * sweep.prompts().iter().map(|p| p.len() as u64).sum::<u64>());
    let same = plan(at.clone().at_columns(4), Edit::Scale(1.0));
    assert_eq!((same.lanes, same.unchanged), (0, 3));
    // Only heads whose columns change: layer 1's other head attends as before.
    let z = Target::new(Site::Q.at(1)).at_positions(-1).at_heads(1);
    let (one, head) = (
        plan(z.clone().at_columns(2), Edit::Zero),
        plan(z, Edit::Zero),
    );
    assert_eq!(cost(&one), cost(&head));
}

/// Values may have the shape of the target's columns, as those of its positions.
#[test]
fn values_shaped_like_the_columns() {
    let model = small();
    let run = |target: Target, values: Values| {
        let list = vec![Intervention::new(target, Edit::Set(values))];
        Ok(bits(
            &model.run_with_hooks([1, 2, 3], Interventions::new(list))?,
        ))
    };
    let neurons = Target::new(Site::MlpPost.at(0)).at_columns([2, 5]);
    let two = neurons.clone().at_positions([0, 2]);
    let mut whole = Array2::zeros((3, 25));
    for (row, column, value) in [(0, 2, 0.5), (0, 5, -1.0), (2, 2, 1.5), (2, 5, 2.0)] {
        whole[[row, column]] = value;
    }
    let part = Values::array(arr2(&[[0.5, -1.0], [1.5, 2.0]]));
    let found = run(two.clone(), part).unwrap();
    assert_eq!(found, run(two, Values::array(whole)).unwrap());
    let one_for_all = run(neurons.clone(), Values::array(arr1(&[0.5, -1.0]))).unwrap();
    let each = Values::array(arr2(&[[0.5, -1.0]; 3]));
    assert_eq!(one_for_all, run(neurons.clone(), each).unwrap());
    assert_eq!(
        message(run(neurons, Values::array(arr1(&[0.5, 1.0, 2.0])))),
        "set at blocks.0.mlp.hook_post[d_mlp 2,5] (sequence 0): found shape [3]; expected [3, 25], \
         [pos, d_mlp], or [3, 2] for its target alone, named in ascending order"
    );
    // By head, and in a batch by prompt.
    let z = Target::new(Site::Z.at(1)).at_heads(1).at_columns([1, -1]);
    let values = Array::from_shape_vec((3, 1, 2), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let found = run(z, Values::array(values.clone())).unwrap();
    let mut by_hand = hook_fn(Site::Z.at(1), |_, mut z| {
        Zip::from(z.index_axis_mut(Axis(1), 1).axis_iter_mut(Axis(0)))
            .and(values.outer_iter())
            .for_each(|mut z, values| {
                (z[1], z[3]) = (values[[0, 0]], values[[0, 1]]);
            });
    });
    let logits = model.run_with_hooks([1, 2, 3], &mut by_hand).unwrap();
    assert_eq!(found, bits(&logits));
}

/// One call patches every neuron of a layer; one gradient run estimates them all.
#[test]
fn a_grid_of_columns() {
    let (model, clean) = (small(), Prompts::new([[1, 2, 3, 4]]).unwrap());
    let corrupted = Prompts::new([[1, 5, 3, 4]]).unwrap();
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let metric = logit_diff(3, 5);
    let (clean, corrupted) = (
        Base::new(&model, &clean).unwrap(),
        Base::new(&model, &corrupted).unwrap(),
    );
    for (site, shape) in [(Site::MlpPost, vec![25]), (Site::Z, vec![2, 4])] {
        let grid = Grid::Columns(site, 0);
        let found = study.run(grid, &metric).unwrap();
        assert_eq!(found.effect.values().shape(), shape);
        let estimate = study.estimate(grid, &metric).unwrap();
        let point = site.at(0);
        let edit = Edit::patch(&clean.caches([point]).unwrap(), point).unwrap();
        let targets = grid.targets(model.config(), 4);
        let cells: Vec<Cell> = targets
            .into_iter()
            .map(|target| vec![Intervention::new(target, edit.clone())])
            .collect();
        let naive = Sweep::over(&corrupted).run_naive(&cells, &metric).unwrap();
        assert_eq!(bits(&found.values), bits(&naive), "{site:?}");
        // The whole activation's estimate is the sum of its columns'.
        let whole = match site {
            Site::Z => study.estimate(Grid::Heads(site), &metric).unwrap(),
            _ => study.estimate(Grid::Positions(site), &metric).unwrap(),
        };
        let whole: f32 = whole.effect.values().index_axis(Axis(0), 0).sum();
        assert!((estimate.effect.values().sum() - whole).abs() < 1e-5 * whole.abs().max(1.0));
        // Small changes are as estimated: the first neurons' patches are nearly linear.
        let [found, estimate] = [&found.effect, &estimate.effect].map(|e| e.values().to_owned());
        let distance = (&found - &estimate).mapv(|v| v * v).sum().sqrt();
        assert!(
            distance < 0.7 * found.mapv(|v| v * v).sum().sqrt(),
            "{site:?}: {distance}"
        );
    }
    let wrong = |grid: Grid| message(study.run(grid, &metric));
    assert_eq!(
        wrong(Grid::Columns(Site::Pattern, 0)),
        "grid Columns(Pattern, 0): found attn.hook_pattern with axes [head, dest, src]; expected a \
         site without sources"
    );
    assert!(wrong(Grid::Columns(Site::MlpPost, 2)).contains("layer 2 is out of range"));
    let fixed = study.estimate_with(Corrections::STAR, Grid::Columns(Site::Q, 1), &metric);
    assert_eq!(
        message(fixed),
        "grid for the QK fix: found columns of attn.hook_q; expected whole queries and keys, or no \
         QK fix"
    );
}

#[test]
fn columns_that_are_not_there() {
    let model = small();
    let wrong = |target: Target| {
        let list = vec![Intervention::new(target, Edit::Zero)];
        message(model.run_with_hooks([1, 2, 3], Interventions::new(list)))
    };
    let neurons = Target::new(Site::MlpPost.at(0));
    for (target, expected) in [
        (
            neurons.clone().at_columns(25),
            "blocks.0.mlp.hook_post: d_mlp 25 is out of range; expected 0..25",
        ),
        (
            Target::new(Site::Z.at(0)).at_columns(-5),
            "blocks.0.attn.hook_z: d_head: found -5; expected -4..4",
        ),
        (
            neurons.at_columns(Vec::<usize>::new()),
            "`blocks.0.mlp.hook_post` would never fire: no d_mlp is selected",
        ),
        (
            Target::new(Site::Pattern.at(0)).at_columns(0),
            "`blocks.0.attn.hook_pattern` would never fire: columns are selected, but its axes are \
             [head, dest, src]: select sources",
        ),
    ] {
        assert_eq!(wrong(target), expected);
    }
}

/// A closure learns of which sequence a row is: in a batch, in a sweep and in generation.
#[test]
fn a_row_names_its_sequence() {
    let (model, prompts) = (small(), ragged());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let at = || Target::new(Site::MlpOut.at(0)).at_positions(1);
    let edit = {
        let seen = Arc::clone(&seen);
        Edit::map(move |row, values| {
            seen.lock().unwrap().push((row.sequence, row.position));
            values.fill(row.sequence as f32);
        })
    };
    let taken = || {
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let list = vec![Intervention::new(at(), edit)];
    let hooks = Interventions::new(list.clone());
    model.run(&prompts, hooks, &Run::default()).unwrap();
    let each = vec![(0, 1), (1, 1), (2, 1)];
    assert_eq!(taken(), each);
    let sweep = Sweep::new(&model, &prompts).unwrap();
    assert_same(
        &sweep,
        std::slice::from_ref(&list),
        &logit_diff(3, 5),
        "rows name their sequence",
    );
    assert_eq!(taken(), each);
    let generation = Generation::greedy(2);
    let hooks = Interventions::new(list);
    model.generate(&prompts, hooks, &generation).unwrap();
    assert_eq!(taken(), each);
}
