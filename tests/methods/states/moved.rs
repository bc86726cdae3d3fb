//! Against full runs, on the shipped model's facts, and what cannot be moved.

use super::*;

/// The sweeps have the bits of runs with the same interventions, one by one.
#[test]
fn they_have_the_bits_of_full_runs() {
    let golden = Golden::new("tiny-gelu");
    let [bases, sources] = ["bases", "sources"].map(|key| golden.prompts(key));
    let model = &golden.model;
    let metric = golden.metric();
    let scope = Patchscopes::new(model, &sources, &bases).unwrap();
    let found = scope.run(&metric).unwrap();
    let caches = Base::new(model, &sources).unwrap();
    for ((read, write, i), value) in found
        .values
        .into_dimensionality::<ndarray::Ix3>()
        .unwrap()
        .indexed_iter()
    {
        let point = Site::ResidPost.at(read);
        let state = caches.caches([point]).unwrap()[i]
            .get(point)
            .unwrap()
            .to_owned();
        let state = state.index_axis(Axis(0), sources[i].len() - 1).to_owned();
        let hook = hook_fn(Site::ResidPost.at(write), |_, mut resid| {
            let last = resid.len_of(Axis(0)) - 1;
            resid.index_axis_mut(Axis(0), last).assign(&state);
        });
        let logits = model.run_with_hooks(&bases[i], hook).unwrap();
        let expected = metric.evaluate(0, logits.view()).unwrap();
        assert_eq!(value.to_bits(), expected.to_bits(), "{read} {write} {i}");
        let next = scope.next_tokens(read, write).unwrap();
        let probability = probability(&[7]).evaluate(0, logits.view()).unwrap();
        assert!((next[[i, 7]] - probability).abs() < 1e-6);
    }
    // All states of a run, put into itself, change nothing.
    let all = || Alignment::roles([("all", Select::All, Select::All)]);
    let study = Interchange::new(model, &bases, &bases, all()).unwrap();
    let found = study.run(&metric).unwrap();
    assert_eq!((found.plan.lanes, found.plan.unchanged), (0, 6));
    // Everything after the first layer is the source run.
    let shuffled = Prompts::new([[9, 31, 2], [22, 3, 14]]).unwrap();
    let others = Prompts::new([[7, 7, 1], [1, 2, 3]]).unwrap();
    let study = Interchange::new(model, &others, &shuffled, all()).unwrap();
    let found = study.run(&metric).unwrap();
    let source = study.source().metric(&metric).unwrap();
    for layer in 0..model.config().n_layers {
        let of_layer = found.values.index_axis(Axis(0), layer);
        assert_eq!(of_layer.index_axis(Axis(0), 0), source.view().into_dyn());
    }
    let labels = study.source().likeliest().unwrap();
    let shares = study.run(&accuracy(&labels)).unwrap();
    assert!(shares.raw().values().iter().all(|share| *share == 1.0));
    let wrong: Vec<u32> = labels.iter().map(|token| (token + 1) % 50).collect();
    let shares = study.run(&accuracy(&wrong)).unwrap();
    assert!(shares.raw().values().iter().all(|share| *share == 0.0));
}

/// One source prompt for several targets, and one target prompt for several sources.
#[test]
fn one_prompt_for_all() {
    let golden = Golden::new("tiny-gelu");
    let [bases, sources] = ["bases", "sources"].map(|key| golden.prompts(key));
    let (model, metric) = (&golden.model, golden.metric());
    let run = |source: &[Prompt], target: &[Prompt]| {
        let [source, target] = [source, target].map(|list| Prompts::new(list).unwrap());
        let scope = Patchscopes::new(model, &source, &target).unwrap();
        scope.run(&metric).unwrap().values
    };
    let (bases, sources) = (bases.as_slice(), sources.as_slice());
    let one_target = run(sources, &bases[..1]);
    let one_source = run(&sources[..1], bases);
    for i in 0..2 {
        let alone = run(&sources[i..=i], &bases[..1]);
        let last = Axis(2);
        assert_eq!(one_target.index_axis(last, i), alone.index_axis(last, 0));
        let alone = run(&sources[..1], &bases[i..=i]);
        assert_eq!(one_source.index_axis(last, i), alone.index_axis(last, 0));
    }
}

/// On the shipped model: the subject's state makes another subject's prompt say its sport.
#[test]
fn a_state_brings_its_fact_along() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let source = tokenizer.encode("Ada Brown plays the sport of").unwrap();
    let target = tokenizer.encode("Leo Green plays the sport of").unwrap();
    let scope = Patchscopes::new(&model, &source, &target).unwrap();
    let scope = scope.read_at(1).write_at(1);
    let likeliest = scope.likeliest(&tokenizer).unwrap();
    let texts = likeliest.texts().unwrap();
    let own = tokenizer.token_text(scope.target().likeliest().unwrap()[0]);
    assert_ne!(own, " boxing");
    // Once the state is made, and until it is read.
    assert_eq!(texts[[2, 2]], " boxing");
    assert_eq!(texts[[3, 3]], own);
    let text = scope.generate(2, 2, &Generation::greedy(1)).unwrap();
    assert_eq!(tokenizer.decode(text[0].new_tokens()).unwrap(), " boxing");
    assert!(likeliest.absent().iter().all(Option::is_none));
    let mut runs = 0;
    let ended = scope.clone().observe(|_| {
        runs += 1;
        std::ops::ControlFlow::Break(())
    });
    let ended = ended
        .memory_limit(30_000_000)
        .likeliest(&tokenizer)
        .unwrap();
    assert!(!ended.about.partial || ended.absent().iter().any(|a| *a == Some(Absent::NotRun)));
    drop(ended);
}

#[test]
fn what_cannot_be_moved_is_an_error() {
    let golden = Golden::new("tiny-gelu");
    let model = &golden.model;
    let prompt = |n: u32| Prompts::new([(0..n).collect::<Vec<u32>>()]).unwrap();
    let metric = golden.metric();
    fn message<T>(result: Result<T>) -> String {
        result.err().expect("an error").to_string()
    }
    let scope = |source: Select, target: Select| {
        let scope = Patchscopes::new(model, prompt(4), prompt(3)).unwrap();
        message(scope.read_at(source).write_at(target).run(&metric))
    };
    let three = Prompts::new([[1], [2], [3]]).unwrap();
    let two = Prompts::new([[1], [2]]).unwrap();
    let roles = |base: Select, source: Select| Alignment::roles([("role", base, source)]);
    let end = || roles((-1).into(), (-1).into());
    let study = Interchange::new(model, prompt(3), prompt(4), end()).unwrap();
    let wide = common::open("tiny-gelu-new");
    let across = {
        let source = Base::new(&wide, &two).unwrap();
        message(Patchscopes::over(&source, &Base::new(model, &two).unwrap()))
    };
    let whole = Patchscopes::new(model, &two, &two).unwrap();
    for (found, expected) in [
        (
            scope(4.into(), 0.into()),
            "position of the source prompt: pos 4 is out of range; expected 0..4",
        ),
        (
            scope(0.into(), 3.into()),
            "position of the target prompt: pos 3 is out of range; expected 0..3",
        ),
        (
            scope([0, 1].into(), 0.into()),
            "position of the source prompt: found [0, 1]; expected one",
        ),
        (
            message(Patchscopes::new(model, &three, &two)),
            "source prompts: found 3; expected 1 or 2, one per target prompt",
        ),
        (
            across,
            "d_model of the source's model: found 24; expected 20, as the target's",
        ),
        (
            message(whole.clone().site(Site::Z).run(&metric)),
            "site of patchscopes: found attn.hook_z with axes [pos, head, d_head]; expected axes \
             [pos, d_model]",
        ),
        (
            message(whole.next_tokens(0, 3)),
            "blocks.3.hook_resid_post: layer 3 is out of range; expected 0..3, nearest \
             `blocks.2.hook_resid_post`",
        ),
        (
            message(whole.next_tokens(7, 0)),
            "blocks.7.hook_resid_post: layer 7 is out of range; expected 0..3, nearest \
             `blocks.2.hook_resid_post`",
        ),
        (
            message(Interchange::new(model, &two, &three, end())),
            "second prompts of an alignment: found 3; expected 2, one per first prompt",
        ),
        (
            message(Interchange::new(
                model,
                prompt(3),
                prompt(4),
                roles(3.into(), 0.into()),
            )),
            "role role of the first prompts: pos 3 is out of range; expected 0..3",
        ),
        (
            message(study.clone().site(Site::Pattern).run(&metric)),
            "site of an interchange: found attn.hook_pattern with axes [head, dest, src]; expected \
             a site whose last axis does not depend on the prompt",
        ),
        (
            message(study.clone().part(Part::Columns(20.into())).run(&metric)),
            "blocks.0.hook_resid_post: d_model 20 is out of range; expected 0..20",
        ),
    ] {
        assert_eq!(found, expected);
    }
}
