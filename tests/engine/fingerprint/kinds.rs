//! t2: which runs are plain.

use super::*;

#[test]
fn hooks_that_change_nothing_leave_a_run_plain() {
    let own = model(0);
    for point in HookPoint::all(2) {
        let look = hook_fn(point, |_, _| {});
        let once = Interventions::new(vec![Intervention::new(point, Edit::Scale(1.0))]);
        let cache = cached(&own, (look, once));
        assert_eq!(cache.run_kind(), Some(RunKind::Plain), "{point}");
        all_well([as_base(&own, &cache)]);
    }
    // Of a batch, only the sequence that is changed.
    let target = Target::new(Site::Z.at(0)).at_sequences([1]);
    let hooks = Interventions::new(vec![Intervention::new(target, Edit::Zero)]);
    let points = Selection::points([Site::Z.at(1)]);
    let run = Run {
        cache: Some(&points),
        ..Run::default()
    };
    let prompts = Prompts::new([TOKENS, TOKENS]).unwrap();
    let caches = own.run(&prompts, hooks, &run).unwrap().caches;
    let kinds = [0, 1].map(|i| caches[i].run_kind().unwrap());
    assert_eq!(kinds, [RunKind::Plain, RunKind::UnderHooks]);
}

#[test]
fn bases_know_what_their_caches_are() {
    let own = model(0);
    let (prompt, point) = (Prompt::from(TOKENS), Site::ResidPost.at(1));
    let base = Base::new(&own, &prompt).unwrap();
    let kind = |base: &Base<'_>| {
        let caches = base.caches([point]).unwrap();
        assert_eq!(caches[0].fingerprint(), Some(own.fingerprint()));
        caches[0].run_kind().unwrap()
    };
    let other = Base::over(&base, &Prompt::from([1, 4, 3]), Vec::new()).unwrap();
    let zero = vec![Intervention::new(Site::Z.at(0), Edit::Zero)];
    let hooked = Base::over(&base, &prompt, zero).unwrap();
    let nothing = vec![Intervention::new(Site::Z.at(0), Edit::Scale(1.0))];
    let unchanged = Base::over(&base, &prompt, nothing).unwrap();
    use RunKind::{Plain, UnderHooks};
    let kinds = [&base, &other, &hooked, &unchanged].map(kind);
    assert_eq!(kinds, [Plain, Plain, UnderHooks, Plain]);
    let caches = hooked.caches([point]).unwrap();
    all_say([as_base(&own, &caches[0])], &["a run that hooks changed"]);
}

#[test]
fn gradients_are_no_activations() {
    let own = model(0);
    let point = Site::ResidPost.at(0);
    let points = Selection::points([point]);
    let want = Backward {
        gradients: Some(&points),
        ..Backward::default()
    };
    let prompt = Prompt::from(TOKENS);
    let gradients = own
        .gradients(&prompt, (), logit_diff(3, 5), &want)
        .unwrap()
        .gradients;
    let values = || Values::from_caches(&gradients, point).unwrap();
    let run = |edit: Edit| {
        own.run_with_hooks(
            TOKENS,
            Interventions::new(vec![Intervention::new(point, edit)]),
        )
    };
    for edit in [
        Edit::patch(&gradients, point).unwrap(),
        Edit::Mean(Values::mean(&gradients, point).unwrap()),
    ] {
        let error = run(edit).unwrap_err().to_string();
        assert!(
            error.contains("found gradients; expected activations"),
            "{error}"
        );
    }
    assert!(run(Edit::Add(values())).is_ok());
}
