//! Every kind of study, resumed from every line of its journal, and divided.

use std::fs;

use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::circuits::{Acdc, CircuitEvaluation, EdgeSet, ExactEdges};
use patchlens::heads::InductionSearch;
use patchlens::journal::{Journal, Shard, merge};
use patchlens::metric::kl_divergence;
use patchlens::patching::ActivationPatching;
use patchlens::paths::{PathPatching, PathReceiver, Senders};
use patchlens::tasks::Repeated;
use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
use patchlens::{Error, Grid, Metric, Prompts, Result, Site, logit_diff};

use super::{Run, STUDY, bits, line_ends, model, open, pairs, run_shards};

/// The least memory that a study takes, which cuts it into the most chunks.
fn least<T: std::fmt::Debug>(run: impl Fn(u64) -> Result<T>) -> u64 {
    let mut limit = 1;
    loop {
        match run(limit) {
            Ok(_) => return limit,
            Err(Error::MemoryLimit { least, .. }) => limit = least,
            Err(other) => panic!("{other}"),
        }
    }
}

fn some(prompts: &[usize]) -> [Prompts; 2] {
    pairs().map(|list| Prompts::new(prompts.iter().map(|i| &list[*i])).unwrap())
}

fn metric() -> Metric {
    logit_diff(2, 5)
}

fn patching(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, corrupted]) = (model(), some(prompts));
    let study = ActivationPatching::new(&model, &clean, &corrupted)?;
    let run = |limit| {
        let study = study.clone().memory_limit(limit);
        study
            .journal(journal)
            .run(Grid::Heads(Site::Z), &kl_divergence())
    };
    let least = least(|limit| {
        study
            .clone()
            .memory_limit(limit)
            .run(Grid::Heads(Site::Z), &metric())
    });
    let found = run(least + 20_000)?;
    Ok([found.values, found.per_prompt]
        .iter()
        .flatten()
        .copied()
        .collect())
}

fn paths(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, corrupted]) = (model(), some(prompts));
    let study = PathPatching::new(&model, &clean, &corrupted)?.linearised(true);
    let head = patchlens::Head { layer: 1, head: 0 };
    let to = [PathReceiver::head(head, patchlens::Qkv::V)];
    let found = study
        .journal(journal)
        .run(Senders::Components, &to, &metric())?;
    let linear = found.linear.as_ref().unwrap();
    let linear = linear.effect.values().to_owned();
    let counts = found.effect.about.counts.values();
    let counts = counts.map(|count| *count as f32);
    Ok(found
        .per_prompt
        .iter()
        .copied()
        .chain(linear)
        .chain(counts)
        .collect())
}

fn tracing(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, _]) = (model(), pairs());
    let facts = prompts.iter().map(|i| {
        let fact = TracedFact::new(clean[*i].clone(), 0..2)?;
        let likeliest = patchlens::Base::new(&model, &clean[*i])?.likeliest()?[0];
        Ok(fact.with_attribute(likeliest))
    });
    let facts = facts.collect::<Result<Vec<_>>>()?;
    let noise = SubjectCorruption::Noise {
        std: 0.5,
        seed: 1,
        samples: 3,
    };
    let study = CausalTracing::new(&model, noise).journal(journal);
    let sets = study.trace_set(&facts, &[Restore::states(), Restore::mlp(2)])?;
    let of_fact = sets.iter().flat_map(|set| &set.kept);
    Ok(of_fact
        .flat_map(|(_, trace)| trace.restored.iter().copied().collect::<Vec<_>>())
        .collect())
}

fn ablation(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, _]) = (model(), some(prompts));
    let study = Ablation::new(&model, &clean, Replacement::OverallMean)?.journal(journal);
    let heads = study.run(Each::Head, &metric())?;
    let direct = study.run(Each::HeadDirectly, &metric())?;
    Ok([heads.values, direct.values]
        .iter()
        .flatten()
        .copied()
        .collect())
}

fn edges(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, corrupted]) = (model(), some(prompts));
    let study = ExactEdges::new(&model, &clean, &corrupted)?.journal(journal);
    let found = study.run(&EdgeSet::full(study.graph()), &metric())?;
    Ok(found.per_prompt.into_iter().collect())
}

fn circuits(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, corrupted]) = (model(), some(prompts));
    let study = CircuitEvaluation::new(&model, &clean, &corrupted)?.journal(journal);
    let graph = study.graph();
    let all: Vec<_> = EdgeSet::full(graph).edges().collect();
    let circuits = (1..all.len()).step_by(5).map(|n| {
        let mut circuit = EdgeSet::empty(graph);
        all[..n]
            .iter()
            .try_for_each(|edge| circuit.insert(*edge).map(|_| ()))?;
        Ok(circuit)
    });
    let circuits = circuits.collect::<Result<Vec<_>>>()?;
    Ok(study
        .run(&circuits, &metric())?
        .values
        .into_iter()
        .collect())
}

fn acdc(prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let (model, [clean, corrupted]) = (model(), some(prompts));
    let study = Acdc::new(&model, &clean, &corrupted)?.journal(journal);
    let found = study.run(&[0.01, 0.1], &metric())?;
    let decisions = found.searches.iter().flat_map(|search| &search.decisions);
    Ok(decisions.map(|decision| decision.metric as f32).collect())
}

/// A study resumed from each line of its journal, and from the middle of each line.
fn resumes(study: &Run<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let all: Vec<usize> = (0..pairs()[0].len()).collect();
    let plain = bits(&study(&all, None).unwrap());
    let first = open(&path);
    assert_eq!(bits(&study(&all, Some(&first)).unwrap()), plain);
    let results = first.counts().results;
    assert!(results > 0);
    assert_eq!(first.counts().computed, results);
    drop(first);
    let whole = fs::read(&path).unwrap();
    let ends = line_ends(&path);
    let middles = ends
        .windows(2)
        .map(|ends| usize::midpoint(ends[0], ends[1]));
    for cut in middles.chain(ends.iter().copied()) {
        fs::write(&path, &whole[..cut]).unwrap();
        let journal = open(&path);
        let there = journal.counts().results;
        assert_eq!(
            bits(&study(&all, Some(&journal)).unwrap()),
            plain,
            "cut at {cut}"
        );
        assert_eq!(journal.counts().computed, results - there);
        assert_eq!(journal.counts().results, results);
    }
}

/// A study over 1, 2, 3 and 7 shards.
fn divides(study: &Run<'_>, alone: bool) {
    let all: Vec<usize> = (0..pairs()[0].len()).collect();
    let plain = bits(&study(&all, None).unwrap());
    for of in [1, 2, 3, 7] {
        let folder = tempfile::tempdir().unwrap();
        let shards = run_shards(folder.path(), of, study, alone);
        let path = folder.path().join("merged");
        let merged = merge(&shards, &path, false).unwrap();
        assert_eq!((merged.shards, merged.missing.len()), (of, 0));
        let journal = open(&path);
        assert_eq!(
            bits(&study(&all, Some(&journal)).unwrap()),
            plain,
            "{of} shards"
        );
        let counts = journal.counts();
        assert_eq!((counts.computed, counts.left), (0, 0), "{of} shards");
        assert!(counts.taken > 0);
    }
}

#[test]
fn patching_resumes_and_divides() {
    resumes(&patching);
    divides(&patching, true);
}

#[test]
fn paths_resume_and_divide() {
    resumes(&paths);
    divides(&paths, true);
}

#[test]
fn tracing_resumes_and_divides() {
    resumes(&tracing);
    divides(&tracing, true);
}

#[test]
fn ablation_resumes_and_divides() {
    resumes(&ablation);
    // Its means are over all prompts, so each shard has to run them all.
    divides(&ablation, false);
}

#[test]
fn exact_edges_resume_and_divide() {
    resumes(&edges);
    divides(&edges, true);
}

#[test]
fn circuits_resume() {
    resumes(&circuits);
}

#[test]
fn acdc_resumes() {
    resumes(&acdc);
}

#[test]
fn what_depends_on_earlier_runs_is_not_divided() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::new(0, 2).unwrap();
    let open = |name: &str| {
        let path = folder.path().join(name);
        let journal = Journal::open_shard(path, &model(), STUDY, shard, None).unwrap();
        journal.part(shard.part(&[4, 5, 4, 3]))
    };
    let all = [0, 1, 2, 3];
    let model = model();
    let repeated = Repeated::from_tokens((1..9).collect()).unwrap();
    let repeated = repeated.with_bos_token(0).prompts(2, 4, 2, 0).unwrap();
    let induction = InductionSearch::new(&model, &repeated).unwrap();
    for error in [
        acdc(&all, Some(&open("acdc"))).unwrap_err(),
        circuits(&all, Some(&open("circuits"))).unwrap_err(),
        induction.journal(&open("induction")).run().unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("found one of shard 1/2; expected one of the whole study"),
            "{error}"
        );
    }
}

#[test]
fn prompts_that_do_not_fit_a_part_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::new(0, 2).unwrap();
    let journal = Journal::open_shard(folder.path().join("a"), &model(), STUDY, shard, None);
    let journal = journal.unwrap().part(shard.part(&[4, 5]));
    let error = patching(&[0, 1, 2], Some(&journal))
        .unwrap_err()
        .to_string();
    assert!(error.contains("found 3; expected 2"), "{error}");
}

#[test]
fn closures_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder.path().join("a"));
    let (model, [clean, corrupted]) = (model(), some(&[0]));
    let study = ActivationPatching::new(&model, &clean, &corrupted)
        .unwrap()
        .journal(&journal);
    let closure = Metric::from_fn("mine", |_, logits| logits[[0, 0]]);
    let error = study
        .run(Grid::Heads(Site::Z), &closure)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("metric `mine`") && error.contains("found a closure"),
        "{error}"
    );
    let edit = patchlens::Edit::map(|_, row| row.fill(0.0));
    let cell = vec![patchlens::Intervention::new(Site::MlpOut.at(0), edit)];
    let sweep = patchlens::Sweep::new(&model, &clean)
        .unwrap()
        .journal(&journal);
    let error = sweep.run(&[cell], &metric()).unwrap_err().to_string();
    assert!(
        error.contains("blocks.0.hook_mlp_out") && error.contains("a closure"),
        "{error}"
    );
}

#[test]
fn blocked_rows_are_kept_too() {
    use patchlens::intervention::Values;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let (model, [clean, _]) = (model(), some(&[0, 1]));
    let block = patchlens::Target::new(Site::AttnScores.at(0)).at_src(0);
    let edit = patchlens::Edit::Set(Values::scalar(f32::NEG_INFINITY));
    let cells = [vec![patchlens::Intervention::new(block, edit)]];
    let run = |journal: Option<&Journal>| {
        let sweep = patchlens::Sweep::new(&model, &clean)?.journal(journal);
        sweep.run(&cells, &metric())
    };
    let plain = run(None).unwrap();
    assert!(!plain.blocked.is_empty());
    for _ in 0..2 {
        let found = run(Some(&open(&path))).unwrap();
        assert_eq!(found.blocked, plain.blocked);
        assert_eq!(found.values, plain.values);
        assert_eq!(found.multiply_adds, plain.multiply_adds);
        assert_eq!(found.rows, plain.rows);
    }
}
