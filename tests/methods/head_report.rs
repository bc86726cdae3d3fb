//! The head report and the circuit search on the shipped model: their figures are those of full
//! runs, and labels have the evidence that they claim.
use ndarray::{ArrayD, Axis, Slice};
use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::attribution::{Decomposition, direct_logit_attribution};
use patchlens::heads::{
    HeadLabel, HeadReport, HeadReporter, HeadTask, InductionSearch, InductionThresholds,
};
use patchlens::in_context::{FunctionVectors, TokenPair, in_context_score_by_head, repeated_loss};
use patchlens::metric::logit_diffs;
use patchlens::tasks::{Corruption, Ioi, IoiPair, IoiPrompt, Repeated, RepeatedPrompt, Split};
use patchlens::{
    Config, Edit, Head, Intervention, Labelled, Prompt, Prompts, Run, Selection, Site, Sweep,
    Target, Tokenizer, Transformer,
};

fn pairs(tokenizer: &Tokenizer) -> Vec<IoiPair> {
    let ioi = Ioi::new(tokenizer).unwrap().split(Split::HeldOut).unwrap();
    ioi.pairs(256, Corruption::RandomNames, 0).unwrap()
}

/// More prompts for means.
fn more_pairs(tokenizer: &Tokenizer) -> Vec<IoiPair> {
    let ioi = Ioi::new(tokenizer).unwrap();
    ioi.pairs(256, Corruption::RandomNames, 1).unwrap()
}

fn task(pairs: &[IoiPair]) -> HeadTask {
    let clean: Vec<_> = pairs.iter().map(|pair| pair.clean.clone()).collect();
    HeadTask::ioi(&clean)
}

fn report(model: &Transformer, tokenizer: &Tokenizer, ablation: Replacement) -> HeadReport {
    let pairs = pairs(tokenizer);
    let repeated = Repeated::new(tokenizer).unwrap().with_bos().unwrap();
    let prompts = repeated.prompts(8, 20, 2, 0).unwrap();
    let prompts: Vec<Prompt> = prompts.iter().map(Prompt::from).collect();
    let names = pairs.iter().map(|pair| pair.clean.io).collect();
    HeadReporter::new(model, &prompts)
        .unwrap()
        .copy_tokens(names, Some(tokenizer.bos().unwrap()))
        .replacement(ablation)
        .task(task(&pairs))
        .run()
        .unwrap()
}

#[test]
fn what_a_card_says_a_head_costs_is_what_full_runs_cost() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let report = report(&model, &tokenizer, Replacement::Zero);
    let task = task(&pairs(&tokenizer));
    let sweep = Sweep::new(&model, &task.prompts).unwrap();
    let zero = |head: &Head| {
        let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
        vec![Intervention::new(target, Edit::Zero)]
    };
    let heads: Vec<Head> = Head::all(model.config()).collect();
    let cells: Vec<_> = heads.iter().map(zero).collect();
    let ablated = sweep.run_naive(&cells, &task.metric).unwrap();
    let base = sweep.run_naive(&[Vec::new()], &task.metric).unwrap();
    for (head, row) in heads.iter().zip(ablated.rows()) {
        let expected = (&base.row(0) - &row).mean().unwrap();
        let found = report.card(*head).unwrap().task.as_ref().unwrap();
        let lost = found.lost.value.unwrap();
        assert!(
            (lost - expected).abs() < 1e-4,
            "{head}: {lost}, by full runs {expected}"
        );
    }
}

/// The labels say which heads write the answer, by what reaches the logits from them alone.
/// Ablation at END, after which all that is behind the head reacts, must agree.
#[test]
fn heads_labelled_as_name_movers_are_those_whose_ablation_costs_most() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    for replacement in [Replacement::OverallMean, Replacement::Zero] {
        let report = report(&model, &tokenizer, replacement.clone());
        println!("{replacement}: base {:?}\n{report}", report.base);
        let movers = report.with_label(HeadLabel::NameMover);
        assert!(!movers.is_empty(), "no head is said to move names");
        let evidence = |head: &Head| report.card(*head).unwrap().task.as_ref().unwrap();
        let at_end = |head: &Head| evidence(head).lost_at_end.value.unwrap();
        let others = Head::all(model.config()).filter(|head| !movers.contains(head));
        let most = others.map(|head| at_end(&head)).fold(f32::MIN, f32::max);
        for head in &movers {
            let (cost, task, least) = (at_end(head), evidence(head), report.thresholds);
            println!("{head}: {cost} against {most}; {task}");
            assert!(cost > most, "{head}: {cost} against {most}");
            assert_eq!(report.card(*head).unwrap().label, HeadLabel::NameMover);
            assert!(task.share(&task.direct).unwrap() >= least.effect);
            let reads = task.reads.as_ref().unwrap();
            assert_eq!(reads.role, "IO");
            assert!(reads.answer.value.unwrap() >= least.copy, "{reads:?}");
        }
    }
}

/// What IOI's logit difference loses when each head is replaced at END by its mean over prompts of
/// the same template with other names (Wang et al. 2022), `[layer, head]`.
fn cost_at_end(model: &Transformer, clean: &[IoiPrompt], others: &[IoiPrompt]) -> Labelled {
    let templates = |of: &[IoiPrompt]| of.iter().map(|p| p.template).collect();
    let replacement = Replacement::TemplateMean {
        templates: templates(clean),
        counterfactual: Prompts::new(others).unwrap(),
        counterfactual_templates: templates(others),
    };
    let ends = clean.iter().map(|p| vec![p.positions.end]).collect();
    let ablation = Ablation::new(model, clean, replacement).and_then(|a| a.with_class("END", ends));
    let metric = HeadTask::ioi(clean).metric;
    ablation
        .unwrap()
        .run(Each::HeadAt("END"), &metric)
        .unwrap()
        .lost()
        .unwrap()
}

/// An experiment that the labels were not made from: knock-outs at END with means over prompts of
/// the same template, which leave a head what it writes whatever the names are.
#[test]
fn most_name_movers_also_cost_most_when_their_template_is_known() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let movers =
        report(&model, &tokenizer, Replacement::OverallMean).with_label(HeadLabel::NameMover);
    let (pairs, more) = (pairs(&tokenizer), more_pairs(&tokenizer));
    let clean: Vec<IoiPrompt> = pairs.iter().map(|pair| pair.clean.clone()).collect();
    let others = pairs.iter().chain(&more).map(|p| p.corrupted.clone());
    let cost = cost_at_end(&model, &clean, &others.collect::<Vec<_>>());
    println!("{cost}");
    let knocked_out = |head: &Head| cost.values()[[head.layer, head.head]];
    let mut heads: Vec<Head> = Head::all(model.config()).collect();
    heads.sort_by(|a, b| knocked_out(b).total_cmp(&knocked_out(a)));
    let agree = heads[..movers.len()].iter().filter(|h| movers.contains(h));
    assert!(agree.count() + 1 >= movers.len(), "{heads:?} {movers:?}");
    assert!(movers.contains(&heads[0]));
}

/// Zero ablation along the direct path is what the final LayerNorm and the unembedding make of the
/// last residual stream without the head's output, computed here from the cache in f64. With the
/// scale held instead, it is direct logit attribution.
#[test]
fn direct_effects_are_those_of_the_final_stream_without_the_head() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let (pairs, task) = (pairs(&tokenizer), task(&pairs(&tokenizer)));
    let ablation = Ablation::new(&model, &task.prompts, Replacement::Zero).unwrap();
    let direct = ablation
        .run(Each::HeadDirectly, &task.metric)
        .unwrap()
        .lost()
        .unwrap();
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();
    let by_heads = Decomposition::Heads;
    let attributed =
        direct_logit_attribution(&model, &task.prompts, by_heads, &logit_diffs(&names)).unwrap();
    let n_layers = model.config().n_layers;
    let last = Site::ResidPost.at(n_layers - 1);
    let points = (0..n_layers).map(|layer| Site::Result.at(layer));
    let keep = Selection::points(points.chain([last]));
    let run = Run {
        cache: Some(&keep),
        ..Run::default()
    };
    let caches = model.run(&task.prompts, (), &run).unwrap().caches;
    for (i, head) in Head::all(model.config()).enumerate() {
        let (mut reacts, mut held) = (0.0, 0.0);
        for (pair, cache) in pairs.iter().zip(&caches) {
            let end = pair.clean.positions.end;
            let stream = cache.get(last).unwrap();
            let result = cache.get(Site::Result.at(head.layer)).unwrap();
            let whole = stream.index_axis(Axis(0), end).mapv(f64::from);
            let written = result.slice_axis(Axis(0), Slice::from(end..end + 1));
            let written = written.index_axis(Axis(1), head.head).mapv(f64::from);
            let without = &whole - &written.index_axis(Axis(0), 0);
            let (base, scale) = read_out(&model, whole, None, &pair.clean);
            reacts += base - read_out(&model, without.clone(), None, &pair.clean).0;
            held += base - read_out(&model, without, Some(scale), &pair.clean).0;
        }
        let [reacts, held] = [reacts, held].map(|sum| (sum / pairs.len() as f64) as f32);
        let found = direct.values()[[head.layer, head.head]];
        assert!((found - reacts).abs() < 1e-3, "{head}: {found} {reacts}");
        let found = attributed.values()[[i]];
        assert!((found - held).abs() < 1e-3, "{head}: {found} {held}");
    }
}

/// The logit difference of a final residual stream, and the LayerNorm's scale, which may be held.
fn read_out(
    model: &Transformer,
    stream: ArrayD<f64>,
    scale: Option<f64>,
    prompt: &IoiPrompt,
) -> (f64, f64) {
    let parameters = model.parameters();
    let centred = &stream - stream.mean().unwrap();
    let variance = centred.mapv(|v| v * v).mean().unwrap();
    let scale = scale.unwrap_or((variance + f64::from(model.config().layer_norm_eps)).sqrt());
    let row = |token: u32| parameters.wte.row(token as usize).mapv(f64::from);
    let direction = row(prompt.io) - row(prompt.s);
    let [weight, bias] =
        [&parameters.ln_f.weight, &parameters.ln_f.bias].map(|v| v.mapv(f64::from));
    let normalized = centred / scale * weight + bias;
    ((normalized * direction).sum(), scale)
}

#[test]
fn the_circuit_is_made_of_heads_that_pass_its_own_thresholds() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let repeated = Repeated::new(&tokenizer).unwrap().with_bos().unwrap();
    let sequences = repeated.prompts(8, 20, 2, 3).unwrap();
    let loss = repeated_loss(&model, &sequences).unwrap();
    let search = InductionSearch::new(&model, &sequences).unwrap();
    let found = search.run().unwrap();
    println!(
        "{:?} {:?} {:?}",
        loss.first_loss, loss.second_loss, loss.second_accuracy
    );
    println!(
        "{}\n{:?}\n{:#?}",
        found.removed, found.induction_heads, found.edges
    );
    println!("{:?} {:?}", found.senders_removed, found.induction_removed);
    assert!((found.gain.mean - loss.gain.mean).abs() < 1e-4);
    // Four heads do the same: each alone removes little and keeps much.
    assert_eq!(found.induction_heads.len(), found.kept_alone.len());
    for (head, kept) in found.induction_heads.iter().zip(&found.kept_alone) {
        let attention = found.patterns.values()[[2, head.layer, head.head]];
        let removed = found.removed.values()[[head.layer, head.head]];
        assert!(
            attention >= found.thresholds.attention,
            "{head}: {attention}"
        );
        assert!(
            removed.max(*kept) >= found.thresholds.share,
            "{head}: {removed} {kept}"
        );
    }
    assert!(found.induction_removed.unwrap() > 0.5 && found.senders_removed.unwrap() > 0.5);
    assert!(found.previous_token_removed.unwrap() > 0.5);
    let senders = found.senders();
    assert!(!senders.is_empty());
    for head in senders {
        let previous = found.patterns.values()[[0, head.layer, head.head]];
        assert!(previous > 0.4, "{head}: {previous}");
    }
    let least = found.thresholds.share;
    for edge in &found.edges {
        assert!(edge.from.layer < edge.to.layer);
        let share = edge.share_removed_from_all.max(edge.share_kept_alone);
        let ([whole, cut], [none, alone]) = (edge.attention, edge.attention_alone);
        let attention = (whole - cut).max(alone - none);
        assert!(share >= least && attention >= whole * least, "{edge:?}");
    }
    assert_eq!(
        found.induction_removed.is_none(),
        found.induction_heads.is_empty()
    );
}

#[test]
fn results_tell_how_many_prompts_they_are_means_of() {
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 0).unwrap();
    let repeated: Vec<RepeatedPrompt> = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        .into_iter()
        .map(|once| RepeatedPrompt {
            prompt: Prompt::from([once, once].concat()),
            start: 0,
            period: 3,
        })
        .collect();
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    let loss = repeated_loss(&model, &repeated).unwrap();
    assert_eq!(loss.loss.about.counts["sequences"], 3);
    assert_eq!(loss.accuracy.about.counts["sequences"], 3);
    let tokens = TokenPair { late: 5, early: 2 };
    let ablation = Ablation::new(&model, &prompts, Replacement::OverallMean).unwrap();
    let change = in_context_score_by_head(&ablation, tokens).unwrap();
    assert_eq!(change.effect.about.counts["prompts"], 3);
    let vectors = FunctionVectors::new(&model, &prompts).unwrap();
    let effects = vectors.indirect_effects(&prompts, &[1, 4, 7]).unwrap();
    assert_eq!(effects.effect.about.counts["prompts"], 3);
    let vector = vectors.vector(&[Head::new(0, 1)]).unwrap();
    let added = vectors.effects(&vector, &prompts, &[1, 4, 7]).unwrap();
    assert_eq!(added.effect.about.counts["prompts"], 3);
    assert_eq!(added.without, effects.without);

    for (what, attention, share) in [
        ("attention", 2.0, 0.05),
        ("attention", f32::NAN, 0.05),
        ("share", 0.3, -0.1),
        ("share", 0.3, f32::INFINITY),
    ] {
        let thresholds = InductionThresholds {
            attention,
            share,
            ..InductionThresholds::default()
        };
        let search = InductionSearch::new(&model, &repeated).unwrap();
        let search = search.thresholds(thresholds);
        let error = search.run().unwrap_err();
        let error = error.to_string();
        assert!(error.contains(what) && error.contains("0 to 1"), "{error}");
    }
}
