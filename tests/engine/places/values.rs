//! f2: values of each place, or of its shape.

use super::*;

fn ramp(shape: &[usize]) -> ArrayD<f32> {
    let mut next = 0.0;
    ArrayD::from_shape_simple_fn(shape, || {
        next += 0.1;
        next
    })
}

/// Values of the target's shape have the bits of the same values put into the whole activation.
#[test]
fn f2_values_may_have_the_shape_of_the_target() {
    let model = small();
    let tokens = [1, 2, 3, 4, 5];
    let run = |target: &Target, edit: Edit| {
        let list = [Intervention::new(target.clone(), edit)];
        let logits = model.run_with_hooks(tokens, Interventions::new(&list[..]))?;
        Ok(bits(&logits))
    };
    let z = Target::new(Site::Z.at(0)).at_positions([1, 3]);
    let pattern = Target::new(Site::Pattern.at(0)).at_positions([2, 4]);
    let targets = [
        Target::new(Site::MlpOut.at(0)).at_positions([3, 4]),
        Target::new(Site::MlpOut.at(0)).at_positions([0, -1]),
        z.clone(),
        z.clone().at_heads(1),
        Target::new(Site::Result.at(1))
            .at_heads(0)
            .at_positions(1..4),
        pattern.clone(),
        pattern.at_heads(1).at_src([0, 2]),
    ];
    for target in targets {
        let axes = target.point.axes();
        let whole = axes.shape(model.config(), tokens.len());
        let mut picked: Vec<Vec<usize>> = whole.iter().map(|n| (0..*n).collect()).collect();
        picked[axes.pos_axis()] = target.positions.resolve(0, tokens.len());
        if axes.has_heads() {
            picked[1 - axes.pos_axis()] = target.heads.resolve(0, 2);
        }
        if axes == patchlens::hook::Axes::Attention {
            picked[2] = target.src.resolve(0, tokens.len());
        }
        let shape: Vec<usize> = picked.iter().map(Vec::len).collect();
        let values = ramp(&shape);
        let mut all = Array::zeros(whole);
        for (index, value) in values.indexed_iter() {
            let place: Vec<usize> = (0..shape.len())
                .map(|axis| picked[axis][index[axis]])
                .collect();
            all[&place[..]] = *value;
        }
        for edit in [Edit::Set, Edit::Add] {
            let found = run(&target, edit(Values::array(values.clone())));
            let expected = run(&target, edit(Values::array(all.clone())));
            assert_eq!(found.unwrap(), expected.unwrap(), "{target}");
        }
    }
    // One row for all that are named still is one.
    let row = Values::array(ramp(&[8]));
    assert!(
        run(
            &Target::new(Site::MlpOut.at(0)).at_positions([3, 4]),
            Edit::Set(row)
        )
        .is_ok()
    );

    let wrong = |target: Target, shape: &[usize]| {
        message(run(&target, Edit::Set(Values::array(ramp(shape)))))
    };
    let two = Target::new(Site::MlpOut.at(0)).at_positions([3, 4]);
    assert_eq!(
        wrong(two, &[3, 8]),
        "set at blocks.0.hook_mlp_out[pos 3,4] (sequence 0): found shape [3, 8]; expected [5, 8], \
         [pos, d_model], or [2, 8] for its target alone, named in ascending order"
    );
    // Which of the two rows would be whose?
    let descending = Target::new(Site::MlpOut.at(0)).at_positions([4, 3]);
    assert!(wrong(descending, &[2, 8]).contains("named in ascending order"));
    assert!(!wrong(Site::MlpOut.at(0).into(), &[2, 8]).contains("target alone"));
}

/// In a batch, each prompt has its own target, and a sweep has the bits of full runs.
#[test]
fn f2_f13_values_of_each_prompts_own_target() {
    let (model, prompts) = (small(), ragged());
    let sweep = Sweep::new(&model, &prompts).unwrap();
    let values = Values::array(arr2(&[[0.5; 8], [-0.5; 8]]));
    let pairs = Select::each([[0, 2], [1, 4], [1, 2]]);
    let target = Target::new(Site::MlpOut.at(0)).at_positions(pairs);
    let one = vec![Intervention::new(target.clone(), Edit::Set(values))];
    let scalars = [0.5, -0.5].map(Values::scalar);
    let halves = [[0, 1, 1], [2, 4, 2]].map(|at| target.clone().at_positions(Select::each(at)));
    let two: Cell = std::iter::zip(halves, scalars)
        .map(|(target, value)| Intervention::new(target, Edit::Set(value)))
        .collect();
    let metric = logit_diff(3, 5);
    let run = |cell: &Cell| sweep.run(std::slice::from_ref(cell), &metric).unwrap();
    assert_eq!(bits(&run(&one).values), bits(&run(&two).values));
    assert_same(&sweep, &[one], &metric, "own targets");
}
