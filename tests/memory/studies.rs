//! The memory of whole studies, from their first base run on, stays under their limit, for metrics
//! that read a number, a row, or all logits.

use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::circuits::{EdgeSet, ExactEdges};
use patchlens::metric::kl_divergence;
use patchlens::patching::ActivationPatching;
use patchlens::paths::{PathPatching, PathReceiver, Senders};
use patchlens::{Config, Error, Grid, Metric, Prompts, Result, Site, Transformer, logit_diff};

use crate::phases::{closure, on_new_threads};
use crate::{ALLOCATOR, alone};

/// The most bytes that a study takes at any one time.
fn used<T: Send>(study: impl FnOnce() -> Result<T> + Send) -> Result<u64> {
    patchlens::ops::release_memory();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = on_new_threads(study)?;
    let used = (ALLOCATOR.peak_usage() - before) as u64;
    drop(result);
    Ok(used)
}

/// Runs a study within the least memory that errors name, and within some more.
fn check<T: Send>(name: &str, study: impl Fn(u64) -> Result<T> + Sync) {
    let mut limit = 1;
    let mut steps = 0;
    // Each phase names what itself needs.
    let least = loop {
        match used(|| study(limit)) {
            Ok(_) => break limit,
            Err(Error::MemoryLimit { least, .. }) => {
                assert!(least > limit, "{name}: {limit} is not enough, nor {least}");
                limit = least;
                steps += 1;
                assert!(steps < 6, "{name}: no limit that is named is enough");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    };
    for limit in [least, 2 * least] {
        let used = used(|| study(limit)).unwrap();
        assert!(used <= limit, "{name}: used {used} of {limit}");
        println!(
            "{name}: {steps} steps, limit {limit}, used {used} ({:.2})",
            used as f64 / limit as f64
        );
    }
}

#[test]
fn studies_stay_under_their_limit() {
    let _alone = alone();
    let config = Config {
        n_layers: 3,
        n_heads: 4,
        d_model: 64,
        d_mlp: 256,
        d_vocab: 4000,
        n_ctx: 64,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 1).unwrap();
    let prompts = |n: usize, salt: usize| {
        let token =
            move |i: usize, p: usize| ((p * 31 + i * 7 + salt * usize::from(p > 3)) % 4000) as u32;
        Prompts::new((0..n).map(|i| (0..50).map(|p| token(i, p)).collect::<Vec<u32>>())).unwrap()
    };
    let (clean, corrupted, many) = (prompts(12, 0), prompts(12, 5), prompts(200, 9));
    for metric in [logit_diff(1, 2), kl_divergence(), closure()] {
        let metric: &Metric = &metric;
        let name = metric.name();
        check(&format!("patching, {name}"), |limit| {
            let study = ActivationPatching::new(&model, &clean, &corrupted)?;
            study.memory_limit(limit).run(Grid::Heads(Site::Z), metric)
        });
        check(&format!("paths, {name}"), |limit| {
            let study = PathPatching::new(&model, &clean, &corrupted)?;
            let to = [PathReceiver::final_residual()];
            study
                .memory_limit(limit)
                .run(Senders::Components, &to, metric)
        });
        check(&format!("exact edges, {name}"), |limit| {
            let study = ExactEdges::new(&model, &clean, &corrupted)?.memory_limit(limit);
            study.run(&EdgeSet::full(study.graph()), metric)
        });
        let counterfactual = Replacement::counterfactual_mean(&many).unwrap();
        for replacement in [Replacement::Zero, Replacement::OverallMean, counterfactual] {
            for each in [Each::Head, Each::HeadDirectly] {
                check(
                    &format!("ablation, {replacement}, {each:?}, {name}"),
                    |limit| {
                        let study = Ablation::new(&model, &clean, replacement.clone())?;
                        study.memory_limit(limit).run(each, metric)
                    },
                );
            }
        }
    }
}
