//! What edges outside and inside a circuit carry, against the goldens of `circuits.py`.

use std::collections::BTreeSet;

use ndarray::{Axis, Ix3};
use patchlens::circuits::{CircuitRun, EdgeAblation};

use super::evaluation::{circuits, study};
use super::{Golden, MODELS};
use crate::common::difference;

#[test]
fn ablations_are_those_of_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let circuits = circuits(&golden);
        assert_eq!(circuits.len(), 20);
        for (key, ablation) in [
            ("corrupted", EdgeAblation::Corrupted),
            (
                "mean",
                EdgeAblation::MeanByPosition(golden.corrupted.clone()),
            ),
            (
                "mean_over_pos",
                EdgeAblation::Mean(golden.corrupted.clone()),
            ),
            ("zero", EdgeAblation::Zero),
        ] {
            let study = study(&golden).ablation(ablation).unwrap();
            let found = study.run(&circuits, &golden.metric).unwrap();
            let expected = golden.tensors[&format!("circuits/{key}")].view();
            let expected = expected.into_dimensionality().unwrap();
            golden.expect(found.values.view(), expected, key);
        }
    }
}

/// The edges of each pair carry what another one's sources wrote, one for all circuits; which one,
/// the seed says.
#[test]
fn resampled_edges_are_those_of_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let expected = golden.tensors["circuits/resample"].view();
        let expected = expected.into_dimensionality::<Ix3>().unwrap();
        let pairs = golden.clean.len();
        let mut drawn = BTreeSet::new();
        for seed in 0..8 {
            let study = study(&golden)
                .ablation(EdgeAblation::Resample { seed })
                .unwrap();
            let found = study.run(&circuits(&golden), &golden.metric).unwrap();
            let donor = |pair: &usize| {
                let own = found.values.column(*pair);
                let of = |donor: &usize| {
                    let expected = expected.index_axis(Axis(0), *donor);
                    difference(own.into_dyn(), expected.column(*pair).into_dyn()) < 1e-5
                };
                let fitting: Vec<usize> = (0..pairs).filter(of).collect();
                assert_eq!(
                    fitting.len(),
                    1,
                    "{model}, seed {seed}, pair {pair}: {fitting:?}"
                );
                fitting[0]
            };
            let donors: Vec<usize> = (0..pairs).map(|pair| donor(&pair)).collect();
            let none_its_own = donors
                .iter()
                .enumerate()
                .all(|(pair, donor)| pair != *donor);
            let all: BTreeSet<usize> = donors.iter().copied().collect();
            assert!(none_its_own && all.len() == pairs, "{donors:?}");
            drawn.insert(donors);
        }
        assert!(drawn.len() > 2, "{drawn:?}");
    }
}

#[test]
fn edges_that_carry_cached_values_are_those_of_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let study = study(&golden).circuit_run(CircuitRun::Edge);
        let found = study.run(&circuits(&golden), &golden.metric).unwrap();
        let expected = golden.tensors["circuits/edge_patch"].view();
        let expected = expected.into_dimensionality().unwrap();
        golden.expect(found.values.view(), expected, "edge_patch");
        assert!(
            found
                .effect
                .about
                .caption
                .starts_with("Corrupted runs in which every edge of")
        );
    }
}
