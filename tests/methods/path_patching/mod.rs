//! Path patching against PyTorch, against full passes, and against what must hold exactly.

mod exact;
mod golden;

use std::ops::ControlFlow;

use patchlens::metric::{kl_divergence, log_probability, probability, probability_diff, rank};
use patchlens::paths::{PathPatching, PathReceiver, PathSender, Senders};
use patchlens::report::Absent;
use patchlens::{
    Base, Component, Config, Edit, Error, Head, Prompt, Prompts, Qkv, Select, Site, Transformer,
    logit_diff,
};

/// The goldens' order of senders: the embedding, then each layer's heads and MLP.
fn senders(config: &Config) -> Vec<Vec<PathSender>> {
    let layer = |l: usize| {
        let heads = (0..config.n_heads).map(move |h| vec![PathSender::new(Head::new(l, h))]);
        heads.chain([vec![PathSender::new(Component::Mlp(l))]])
    };
    let layers = (0..config.n_layers).flat_map(layer);
    [vec![PathSender::new(Component::Embedding)]]
        .into_iter()
        .chain(layers)
        .collect()
}

fn heads(config: &Config) -> Vec<PathSender> {
    Head::all(config).map(PathSender::new).collect()
}

fn model(seed: u64) -> Transformer {
    let config = Config {
        n_layers: 3,
        n_heads: 2,
        d_model: 8,
        d_mlp: 19,
        n_ctx: 12,
        d_vocab: 23,
        ..Config::gpt2()
    };
    let (config, mut parameters) = Transformer::random(config, seed).unwrap().into_parts();
    // GPT-2's initialisation is so small that edits hardly matter: enlarge it.
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 12.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn pairs() -> (Prompts, Prompts) {
    let original = [vec![1, 2, 3, 4, 5, 6], vec![8, 9, 10], vec![11, 12, 13, 14]];
    let new = [vec![1, 2, 9, 4, 5, 7], vec![3, 2, 1], vec![11, 12, 13, 14]];
    (Prompts::new(original).unwrap(), Prompts::new(new).unwrap())
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn memory_limit_and_observer() {
    let model = model(7);
    let (original, new) = pairs();
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let to = [
        PathReceiver::head(Head::new(2, 1), Qkv::K),
        PathReceiver::mlp(2),
    ];
    let metric = kl_divergence();
    let free = study.run(Senders::Components, &to, &metric).unwrap();
    // Packing buffers of the matrix products count with 4 MiB a thread.
    let limit = (4 << 20) * rayon_threads() + 40_000;
    let mut told = Vec::new();
    let tight = study.clone().memory_limit(limit).observe(|progress| {
        told.push((progress.done, progress.total));
        ControlFlow::Continue(())
    });
    let found = tight.run(Senders::Components, &to, &metric).unwrap();
    drop(tight);
    assert_eq!(bits(free.per_prompt), bits(found.per_prompt));
    assert_eq!(told.last(), Some(&(9, 9)));

    let study = study.memory_limit(1000);
    let error = study.run(Senders::Components, &to, &metric).unwrap_err();
    assert!(error.to_string().contains("memory limit"), "{error}");
}

/// Cells that a cancelled study did not reach are not run, which is neither "no path" nor a number.
#[test]
fn f15_cancelled_senders_are_not_run() {
    let model = model(7);
    let (original, new) = pairs();
    let to = [PathReceiver::mlp(1)];
    let metric = logit_diff(3, 5);
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let study = study.linearised(true);
    let whole = study.run(Senders::Components, &to, &metric).unwrap();
    // About one lane per chunk.
    let mut limit = 1;
    let limit = loop {
        let small = study.clone().memory_limit(limit);
        match small.run(Senders::Components, &to, &metric) {
            Ok(_) => break limit,
            Err(Error::MemoryLimit { limit: own, least }) => {
                assert_eq!(own, limit);
                assert!(least > limit);
                limit = least;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut reports = 0;
    let cancelled = study.memory_limit(limit).observe(move |_| {
        reports += 1;
        if reports > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let found = cancelled.run(Senders::Components, &to, &metric).unwrap();
    let linear = found.linear.as_ref().unwrap();
    for table in [&found.effect, found.raw(), &linear.effect, &linear.error] {
        assert!(table.about.partial);
        let counts = [Absent::NoPath, Absent::NotRun].map(|reason| {
            let reasons = table.absent();
            reasons.iter().filter(|r| **r == Some(reason)).count()
        });
        // No path from layer 2 and from the MLP of layer 1 itself; of the others some have run.
        assert_eq!(counts[0], 4);
        assert!((1..5).contains(&counts[1]), "{counts:?}");
    }
    for (own, whole) in found.values.iter().zip(&whole.values) {
        assert!(own.is_nan() || own.to_bits() == whole.to_bits());
    }
}

fn rayon_threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

#[test]
fn errors_name_what_is_wrong() {
    let model = model(8);
    let (original, new) = pairs();
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let metric = logit_diff(3, 5);
    let run = |to: &[PathReceiver]| {
        let result = study.run(Senders::Heads, to, &metric);
        result.unwrap_err().to_string()
    };
    let last = PathReceiver::final_residual();
    let table = [
        (run(&[]), "receivers: found 0"),
        (
            run(&[PathReceiver::head(Head::new(1, 2), Qkv::Q)]),
            "blocks.1.hook_q_input: head 2",
        ),
        (
            run(&[PathReceiver::mlp(3)]),
            "blocks.3.hook_mlp_in: layer 3",
        ),
        (
            run(&[last.clone().at_positions(3)]),
            "blocks.2.hook_resid_post in prompt 1: pos 3",
        ),
        (
            run(&[PathReceiver::head(Head::new(0, 1), Qkv::V)]),
            "`values of 0.1`, to which no path",
        ),
        (
            run(&[last.clone(), PathReceiver::head(Head::new(0, 1), Qkv::K)]),
            "`keys of 0.1`, to which no path",
        ),
        (
            run(&[last.clone(), last.clone().at_positions(1)]),
            "`final residual at pos 1`; expected each input once",
        ),
    ];
    for (found, expected) in table {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    let sets = |sets: &[Vec<PathSender>]| {
        let result = study.run_sets(sets, &[PathReceiver::final_residual()], &metric);
        result.unwrap_err().to_string()
    };
    let table = [
        (sets(&[]), "senders: found 0"),
        (sets(&[vec![]]), "set of senders 0: found no sender"),
        (
            sets(&[vec![PathSender::new(Head::new(5, 0))]]),
            "blocks.5.attn.hook_z: layer 5",
        ),
        (
            sets(&[vec![PathSender::new(Head::new(1, 9))]]),
            "blocks.1.attn.hook_z: head 9",
        ),
    ];
    for (found, expected) in table {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    // The receiver comes before the sender, or at another position.
    let one = |sender: PathSender, receiver: PathReceiver| {
        let result = study.run_sets(&[vec![sender]], &[receiver], &metric);
        result.unwrap_err().to_string()
    };
    let table = [
        (
            one(
                PathSender::new(Head::new(2, 0)),
                PathReceiver::head(Head::new(1, 1), Qkv::Q),
            ),
            "`queries of 1.1`, to which no path leads from 2.0; expected receivers after",
        ),
        (
            one(PathSender::new(Component::Mlp(1)), PathReceiver::mlp(1)),
            "`mlp1`, to which no path leads from mlp1;",
        ),
        (
            one(
                PathSender::new(Head::new(0, 1)).at_positions(1),
                last.clone().at_positions(0),
            ),
            "`final residual at pos 0`, to which no path leads from 0.1 at pos 1;",
        ),
    ];
    for (found, expected) in table {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    let shorter = Prompts::new([vec![1, 2, 3, 4, 5, 6], vec![8, 9], vec![1, 2, 3, 4]]).unwrap();
    let error = PathPatching::new(&model, &original, &shorter)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("new prompt 1: 2 tokens; expected 3 as the original"),
        "{error}"
    );
    let error = study
        .run(
            Senders::HeadPositions,
            &[PathReceiver::final_residual()],
            &metric,
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("original prompt 1: 3 tokens"), "{error}");
    let study = study.clone().linearised(true);
    let end = [PathReceiver::final_residual().at_positions(Select::Last)];
    let error = study.run(Senders::Heads, &end, &rank(&[4])).unwrap_err();
    assert!(error.to_string().contains("rank"), "{error}");
    let twice = [Edit::Zero, Edit::Scale(0.5)].map(|edit| (Site::Z.at(1), edit));
    let base = Base::new(&model, &original).unwrap();
    let error = PathPatching::ablating(&base, twice)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found two at `blocks.1.attn.hook_z`"),
        "{error}"
    );
}

/// The linearised effect is the slope of the exact one: for a small step both agree.
#[test]
fn small_steps_are_linear() {
    let (config, mut parameters) = model(9).into_parts();
    // Two tokens that differ a little.
    let mut near = parameters.wte.row(1).to_owned();
    near.iter_mut()
        .enumerate()
        .for_each(|(i, v)| *v += 2e-3 * (i as f32 - 3.5));
    parameters.wte.row_mut(2).assign(&near);
    let model = Transformer::new(config, parameters).unwrap();
    let (original, new) = (Prompt::from([4, 1, 7, 9]), Prompt::from([4, 2, 7, 9]));
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let study = study.linearised(true);
    let reference = model.forward([5, 6, 7, 8]).unwrap();
    let metrics = [
        logit_diff(3, 5),
        probability(&[4]),
        probability_diff(&[(vec![1, 2], vec![3, 6])]),
        log_probability(&[4]),
        kl_divergence().with_reference(&[reference.view()]).unwrap(),
    ];
    let sets = [
        vec![PathSender::new(Component::Embedding)],
        vec![PathSender::new(Head::new(0, 1))],
    ];
    for metric in metrics {
        let found = study
            .run_sets(
                &sets,
                &[PathReceiver::head(Head::new(1, 0), Qkv::V)],
                &metric,
            )
            .unwrap();
        let change = &found.effect;
        let error = &found.linear.as_ref().unwrap().error;
        for (change, error) in change.values().iter().zip(error.values()) {
            assert!(change.abs() > 1e-5, "{metric:?}: {change}");
            assert!(
                error.abs() < 0.1 * change.abs(),
                "{metric:?}: {error} of {change}"
            );
        }
    }
}
