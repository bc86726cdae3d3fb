//! What must hold to the bit: full passes with every head patched by hand, identities, no path.

use ndarray::Axis as Dim;
use patchlens::intervention::Values;
use patchlens::metric::{log_probability, probability};
use patchlens::paths::{PathEffects, PathPatching, PathReceiver, PathSender, Senders};
use patchlens::report::Absent;
use patchlens::{
    Base, Component, Edit, Head, HookPoint, Intervention, Qkv, Site, Sweep, Target, logit_diff,
};

use super::{bits, heads, model, pairs};
use crate::full_passes::{Path, caches};

fn of_cell(result: &PathEffects, index: [usize; 2]) -> Vec<u32> {
    let cell = result.values.view().index_axis_move(Dim(0), index[0]);
    bits(cell.index_axis(Dim(0), index[1]).iter().copied())
}

#[test]
fn bits_of_full_passes_with_every_head_patched_by_hand() {
    let model = model(3);
    let (original, new) = pairs();
    let metric = logit_diff(3, 5);
    let ends = [
        (
            PathReceiver::head(Head::new(2, 1), Qkv::Q),
            (Site::QInput, 2, Some(1)),
        ),
        (
            PathReceiver::head(Head::new(1, 0), Qkv::K),
            (Site::KInput, 1, Some(0)),
        ),
        (
            PathReceiver::head(Head::new(2, 0), Qkv::V),
            (Site::VInput, 2, Some(0)),
        ),
        (PathReceiver::mlp(1), (Site::MlpIn, 1, None)),
        (PathReceiver::final_residual(), (Site::ResidPost, 2, None)),
    ];
    for freeze_mlps in [false, true] {
        let study = PathPatching::new(&model, &original, &new).unwrap();
        let study = study.freeze_mlps(freeze_mlps);
        for (receiver, place) in &ends {
            let result = study
                .run(Senders::Heads, std::slice::from_ref(receiver), &metric)
                .unwrap();
            let mut changed = 0;
            for (layer, head) in (0..3).flat_map(|l| [(l, 0), (l, 1)]) {
                let found = of_cell(&result, [layer, head]);
                if result.effect.values()[[layer, head]].is_nan() {
                    continue;
                }
                let path = Path {
                    model: &model,
                    original: &original,
                    new: &new,
                    sender: Head::new(layer, head),
                    receiver: *place,
                    freeze_mlps,
                };
                let expected = path.by_full_passes(&metric);
                assert_eq!(found, expected, "{layer}.{head} to {receiver}");
                changed += usize::from(found != bits(result.original.iter().copied()));
            }
            assert!(changed > 0, "{receiver}: nothing changes");
        }
    }
}

#[test]
fn all_nodes_along_all_paths_give_the_new_run() {
    let model = model(4);
    let config = model.config();
    let (original, new) = pairs();
    let metric = logit_diff(3, 5);
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let everything = [vec![PathSender::new(Component::Embedding)], heads(config)].concat();
    let to = [PathReceiver::final_residual()];
    let found = study.run_sets(&[everything], &to, &metric).unwrap();

    // Activation patching of the same nodes.
    let donors = caches(&model, &new, &[]);
    let points = (0..3).map(|l| Site::Z.at(l)).chain([HookPoint::Embed]);
    let cell = points.map(|p| Intervention::new(p, Edit::patch(&donors, p).unwrap()));
    let sweep = Sweep::new(&model, &original).unwrap();
    let patched = sweep.run(&[cell.collect()], &metric).unwrap();
    assert_eq!(bits(found.values.clone()), bits(patched.values));
    let new = found.new.unwrap();
    assert_eq!(bits(found.values), bits(new.clone()));
    assert_ne!(new, found.original);
}

#[test]
fn ablated_senders_equal_full_passes_with_every_head_patched_by_hand() {
    let model = model(8);
    let (original, _) = pairs();
    let base = Base::new(&model, &original).unwrap();
    let zeros = (0..3).map(|layer| (Site::Z.at(layer), Edit::Zero));
    let study = PathPatching::ablating(&base, zeros).unwrap();
    let metric = logit_diff(3, 5);
    let receiver = PathReceiver::head(Head::new(2, 0), Qkv::K);
    let to = std::slice::from_ref(&receiver);
    let found = study.run(Senders::Heads, to, &metric).unwrap();
    assert!(found.new.is_none());
    let b = caches(&model, &original, &[]);
    for head in [Head::new(0, 1), Head::new(1, 0)] {
        let mut c: Vec<Intervention> = (0..3)
            .map(|l| Intervention::new(Site::Z.at(l), Edit::patch(&b, Site::Z.at(l)).unwrap()))
            .collect();
        let zero = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
        c.push(Intervention::new(zero, Edit::Zero));
        let saved = caches(&model, &original, &c);
        let at = Site::KInput.at(2);
        let values = Values::from_caches(&saved, at).unwrap();
        let d = Intervention::new(Target::new(at).at_heads(0), Edit::Patch(values));
        let expected = Sweep::over(&base).run_naive(&[vec![d]], &metric).unwrap();
        assert_eq!(of_cell(&found, [head.layer, head.head]), bits(expected));
        assert_ne!(
            of_cell(&found, [head.layer, head.head]),
            bits(found.original.clone())
        );
        // The interventions of run D by themselves.
        let d = study.received(&[head.into()], to).unwrap();
        let again = Sweep::over(&base).run(&[d], &metric).unwrap();
        assert_eq!(of_cell(&found, [head.layer, head.head]), bits(again.values));
    }
    // A sender without an edit, one that cannot be sent, and none at all.
    let error = |sender: PathSender| study.received(&[sender], to).unwrap_err().to_string();
    let none = error(Component::Mlp(0).into());
    assert!(
        none.contains("`mlp0`") && none.contains("blocks.0.hook_mlp_out"),
        "{none}"
    );
    let bias = error(Component::AttentionBias(0).into());
    assert!(bias.contains("`b_O0`") && bias.contains("an MLP"), "{bias}");
    let still = Sweep::over(&base)
        .run(&[study.received(&[], to).unwrap()], &metric)
        .unwrap();
    assert_eq!((still.plan.lanes, still.multiply_adds), (0, 0));
}

#[test]
fn equal_prompts_change_no_bit() {
    let model = model(5);
    let (original, _) = pairs();
    let study = PathPatching::new(&model, &original, &original).unwrap();
    let study = study.linearised(true);
    let to = [
        PathReceiver::head(Head::new(2, 0), Qkv::Q),
        PathReceiver::final_residual(),
    ];
    let found = study
        .run(Senders::Components, &to, &probability(&[4]))
        .unwrap();
    let sum: f64 = found.original.iter().map(|v| f64::from(*v)).sum();
    let mean = (sum / found.original.len() as f64) as f32;
    let linear = found.linear.as_ref().unwrap();
    for raw in [found.raw(), linear.raw()] {
        assert!(raw.values().iter().all(|v| v.to_bits() == mean.to_bits()));
    }
    let relative = found.relative().unwrap();
    for table in [&found.effect, &linear.effect, &linear.error, &relative] {
        assert!(table.values().iter().all(|v| *v == 0.0));
    }
}

#[test]
fn no_path_is_not_zero() {
    let model = model(6);
    let (original, new) = pairs();
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let study = study.linearised(true);
    let metric = log_probability(&[4]);
    let nan_layers = |to: &[PathReceiver]| -> Vec<[bool; 3]> {
        let found = study.run(Senders::Components, to, &metric).unwrap();
        let linear = found.linear.as_ref().unwrap();
        let tables = [
            &found.effect,
            found.raw(),
            &linear.effect,
            linear.raw(),
            &linear.error,
            &found.relative().unwrap(),
        ];
        let nan: Vec<bool> = tables[0].values().iter().map(|v| v.is_nan()).collect();
        for table in tables {
            let reasons = table.absent();
            let no_path = reasons.iter().flatten().all(|r| *r == Absent::NoPath);
            assert!(no_path, "{}", table.about.title);
            let same = table
                .values()
                .iter()
                .map(|v| v.is_nan())
                .eq(nan.iter().copied());
            assert!(same, "{}", table.about.title);
        }
        nan.chunks(3).map(|l| [l[0], l[1], l[2]]).collect()
    };
    let (yes, no) = ([false; 3], [true; 3]);
    assert_eq!(
        nan_layers(&[PathReceiver::final_residual()]),
        [yes, yes, yes]
    );
    assert_eq!(
        nan_layers(&[PathReceiver::head(Head::new(2, 0), Qkv::Q)]),
        [yes, yes, no]
    );
    assert_eq!(
        nan_layers(&[PathReceiver::head(Head::new(1, 1), Qkv::V)]),
        [yes, no, no]
    );
    // Heads of the MLP's own layer come before it, the MLP itself does not.
    let own = [false, false, true];
    assert_eq!(nan_layers(&[PathReceiver::mlp(1)]), [yes, own, no]);
    let both = [
        PathReceiver::mlp(1),
        PathReceiver::head(Head::new(1, 0), Qkv::K),
    ];
    assert_eq!(nan_layers(&both), [yes, own, no]);

    // Positions that do not meet have no path either.
    let sets = [1, 2].map(|p| vec![PathSender::new(Head::new(0, 1)).at_positions(p)]);
    let to = [PathReceiver::final_residual().at_positions(2)];
    let found = study.run_sets(&sets, &to, &metric).unwrap();
    let nan: Vec<bool> = found.effect.values().iter().map(|v| v.is_nan()).collect();
    assert_eq!(nan, [true, false]);
}
