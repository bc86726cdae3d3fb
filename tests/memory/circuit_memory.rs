//! The memory of gradient runs and of circuits' runs stays under its stated bound, on GPT-2 small's
//! widths with 3 layers. What the base runs keep is there before.

use crate::{ALLOCATOR, alone};
use patchlens::circuits::{
    Approximation, CircuitEvaluation, EdgeAttribution, EdgeSet, Graph, Steps,
};
use patchlens::patching::{ActivationPatching, Corrections};
use patchlens::{Config, Error, Grid, Prompts, Result, Site, Transformer, logit_diff};

/// The most bytes that a study takes at any one time.
fn used<T>(study: impl FnOnce() -> T) -> u64 {
    patchlens::ops::release_memory();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = study();
    let used = (ALLOCATOR.peak_usage() - before) as u64;
    drop(result);
    used
}

/// Runs a study within the least memory, and within enough for several pairs at a time.
fn check<T>(name: &str, study: impl Fn(u64) -> Result<T>) {
    study(u64::MAX).unwrap(); // the base runs
    let least = match study(1) {
        Err(Error::MemoryLimit { least, .. }) => least,
        Err(error) => panic!("{name}: {error}"),
        Ok(_) => panic!("{name}: no limit"),
    };
    let mut peaks = Vec::new();
    for limit in [least, 3 * least] {
        let used = used(|| study(limit).unwrap());
        println!("{name}: limit {limit}, used {used}");
        assert!(used <= limit, "{name}: used {used} of {limit}");
        peaks.push(used);
    }
    assert!(peaks[0] < peaks[1], "{name}: a tighter limit uses less");
}

#[test]
fn gradient_runs_and_circuits_stay_under_the_limit() {
    let _alone = alone();
    let config = Config {
        n_layers: 3,
        d_vocab: 2000,
        n_ctx: 64,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 1).unwrap();
    let tokens = |salt: u32| {
        let prompt = move |i: u32| (0..15).map(move |p| (p * 31 + i * 7 + salt) % 2000);
        (0..4).map(move |i| prompt(i).collect::<Vec<u32>>())
    };
    let (clean, corrupted) = (
        Prompts::new(tokens(0)).unwrap(),
        Prompts::new(tokens(5)).unwrap(),
    );
    let metric = logit_diff(1, 2);
    let edges = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    for method in [
        Approximation::Eap,
        Approximation::EapIg(Steps::Left(2)),
        Approximation::ReceiverExactIg(Steps::Left(2)),
    ] {
        check(&format!("{method:?}"), |limit| {
            edges.clone().memory_limit(limit).run(method, &metric)
        });
    }
    let patching = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    for (grid, corrections) in [
        (Grid::HeadPositions(Site::Result), Corrections::default()),
        (Grid::HeadPositions(Site::K), Corrections::STAR),
    ] {
        check(&format!("{grid:?}"), |limit| {
            let study = patching.clone().memory_limit(limit);
            study.estimate_with(corrections, grid, &metric)
        });
    }
    let graph = Graph::new(model.config());
    // A third of the edges, and the others: lanes over either run, in which every part computes.
    let third = EdgeSet::new(graph, graph.edges().step_by(3)).unwrap();
    let circuits = [third.complement(), third];
    let circuits: Vec<EdgeSet> = circuits.into_iter().cycle().take(6).collect();
    let evaluation = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    check("circuits", |limit| {
        evaluation
            .clone()
            .memory_limit(limit)
            .run(&circuits, &metric)
    });
}
