//! t2: caches know their model and what made them, and whatever takes a cache looks.

use std::path::Path;

use ndarray::ArrayViewMutD;
use patchlens::attribution::DirectLogitAttribution;
use patchlens::circuits::ExactEdges;
use patchlens::generate::Generation;
use patchlens::gradient::Backward;
use patchlens::intervention::Values;
use patchlens::lens::LogitLens;
use patchlens::model::{Fingerprint, RunKind};
use patchlens::patching::ActivationPatching;
use patchlens::paths::PathPatching;
use patchlens::{
    ActivationCache, Base, Config, Edit, Error, HookPoint, Intervention, Interventions, Prompt,
    Prompts, Result, Run, Selection, Site, Sweep, Target, Transformer, hook_fn, logit_diff,
};
use safetensors::SafeTensors;
use safetensors::tensor::serialize;

mod kinds;

mod saved;

const TOKENS: [u32; 3] = [1, 2, 3];

fn config() -> Config {
    Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        n_ctx: 6,
        d_vocab: 11,
        ..Config::gpt2()
    }
}

fn model(seed: u64) -> Transformer {
    Transformer::random(config(), seed).unwrap()
}

/// Everything that a run keeps of one prompt, under some hooks.
fn cached(model: &Transformer, hooks: impl patchlens::Hooks) -> ActivationCache {
    let everything = Selection::everything(model.config());
    let run = Run {
        cache: Some(&everything),
        ..Run::default()
    };
    let output = model.run(&Prompt::from(TOKENS), hooks, &run);
    output.unwrap().caches.remove(0)
}

fn zero_head() -> Interventions<'static> {
    let target = Target::new(Site::Z.at(0)).at_heads([1]);
    Interventions::new(vec![Intervention::new(target, Edit::Zero)])
}

/// A reader of caches, what it is called and what it says.
type Reading = (&'static str, Result<()>);

/// What needs a plain run of this model.
fn as_base(model: &Transformer, cache: &ActivationCache) -> Reading {
    let given = Base::given(model, &Prompt::from(TOKENS), std::slice::from_ref(cache));
    ("base", given.map(|_| ()))
}

/// What reads any run of this model.
fn readings(model: &Transformer, cache: &ActivationCache) -> [Reading; 2] {
    let labels = ["a", "b", "c"].map(String::from).to_vec();
    let metric = logit_diff(1, 2);
    let attribution =
        DirectLogitAttribution::from_cache(model, cache.clone(), labels, &metric).map(|_| ());
    let lens = LogitLens::new(model).logits(cache, Site::ResidMid.at(1));
    [("attribution", attribution), ("lens", lens.map(|_| ()))]
}

/// Whatever runs interventions with these values.
fn donations(model: &Transformer, values: &Values) -> [Reading; 6] {
    let point = Site::MlpOut.at(1);
    let list = || vec![Intervention::new(point, Edit::Patch(values.clone()))];
    let hooks = || Interventions::new(list());
    let prompt = Prompt::from(TOKENS);
    let metric = logit_diff(1, 2);
    let base = Base::new(model, &prompt).unwrap();
    let objective = |_: usize, logits: ndarray::ArrayView2<'_, f32>| {
        (0.0, ndarray::Array2::zeros(logits.dim()))
    };
    let want = Backward {
        parameters: true,
        ..Backward::default()
    };
    [
        (
            "run",
            model.run(&prompt, hooks(), &Run::default()).map(|_| ()),
        ),
        ("hooks", model.run_with_hooks(TOKENS, hooks()).map(|_| ())),
        (
            "gradients",
            model
                .gradients(&prompt, hooks(), objective, &want)
                .map(|_| ()),
        ),
        (
            "sweep",
            Sweep::over(&base).run(&[list()], &metric).map(|_| ()),
        ),
        (
            "naive",
            Sweep::over(&base).run_naive(&[list()], &metric).map(|_| ()),
        ),
        ("base over", Base::over(&base, &prompt, list()).map(|_| ())),
    ]
}

#[track_caller]
fn all_well(results: impl IntoIterator<Item = Reading>) {
    for (name, result) in results {
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[track_caller]
fn all_say(results: impl IntoIterator<Item = Reading>, parts: &[&str]) {
    for (name, result) in results {
        let error = result.expect_err(name);
        assert!(matches!(error, Error::Provenance { .. }), "{name}: {error}");
        let message = error.to_string();
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_fingerprint_is_of_every_bit_and_of_nothing_else() {
    let golden = crate::common::open("tiny-gelu-new");
    // Whatever the version, the process and the machine: files carry it.
    assert_eq!(
        golden.fingerprint().to_string(),
        "a1efb8d1493f925be4309981d44fd692"
    );
    let (config, parameters) = golden.clone().into_parts();
    let of = |config: &Config, parameters: &patchlens::parameters::Parameters| {
        let model = Transformer::new(config.clone(), parameters.clone());
        model.unwrap().fingerprint()
    };
    assert_eq!(of(&config, &parameters), golden.fingerprint());
    let mut by_columns = parameters.clone();
    let c_fc = &mut by_columns.h[0].mlp.c_fc.weight;
    *c_fc = c_fc.t().as_standard_layout().into_owned().reversed_axes();
    assert!(!c_fc.is_standard_layout());
    assert_eq!(of(&config, &by_columns), golden.fingerprint());

    let mut found = vec![golden.fingerprint()];
    for i in 0..parameters.tensors().len() {
        let mut other = parameters.clone();
        let (_, mut tensor) = other.tensors_mut().remove(i);
        let last = tensor.iter_mut().last().unwrap();
        *last = f32::from_bits(last.to_bits() ^ 1);
        found.push(of(&config, &other));
    }
    let configs = [
        Config {
            layer_norm_eps: 1e-6,
            ..config.clone()
        },
        Config {
            n_heads: 1,
            ..config.clone()
        },
        Config {
            scale_attn_weights: false,
            ..config.clone()
        },
        Config {
            scale_attn_by_inverse_layer_idx: true,
            ..config.clone()
        },
        Config {
            activation: patchlens::config::Activation::Relu,
            ..config.clone()
        },
    ];
    found.extend(configs.iter().map(|config| of(config, &parameters)));
    let different: std::collections::HashSet<Fingerprint> = found.iter().copied().collect();
    assert_eq!(different.len(), found.len());
}

/// The same whatever the number of threads, also where a tensor is hashed in pieces.
#[test]
fn threads_do_not_show_in_a_fingerprint() {
    let config = Config {
        d_vocab: 40_000,
        ..config()
    };
    let of = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let model = Transformer::random(config.clone(), 3).unwrap();
        pool.unwrap().install(|| model.fingerprint())
    };
    assert_eq!(of(1), of(3));
}

#[test]
fn t2_another_model_is_an_error_whatever_its_shapes() {
    let own = model(0);
    let wider = Config {
        d_model: 12,
        ..config()
    };
    let deeper = Config {
        n_layers: 3,
        ..config()
    };
    let others = [
        model(1),
        Transformer::random(wider, 0).unwrap(),
        Transformer::random(deeper, 0).unwrap(),
    ];
    for other in others {
        let cache = cached(&other, ());
        let names = [own.fingerprint(), other.fingerprint()].map(|f| f.to_string());
        let names = [&names[0][..], &names[1]];
        all_say([as_base(&own, &cache)], &names);
        all_say(readings(&own, &cache), &names);
        // It knows its model, though that is gone.
        drop(other);
        let values = Values::from_caches(std::slice::from_ref(&cache), Site::MlpOut.at(1));
        all_say(donations(&own, &values.unwrap()), &names);
        let mean = Values::mean(&[cache.clone(), cache], Site::MlpOut.at(1));
        all_say(donations(&own, &mean.unwrap()), &names);
    }
}

#[test]
fn t2_patching_across_models_has_a_name() {
    let (own, other) = (model(0), model(1));
    let point = Site::MlpOut.at(1);
    let cache = cached(&other, ());
    let values = Values::from_caches(std::slice::from_ref(&cache), point).unwrap();
    let values = values.of_other_model();
    all_well(donations(&own, &values));
    let patch = vec![Intervention::new(point, Edit::Patch(values))];
    let found = cached(&own, Interventions::new(patch));
    assert_eq!(found.get(point).unwrap(), cache.get(point).unwrap());
    let wider = Transformer::random(
        Config {
            d_model: 12,
            ..config()
        },
        0,
    )
    .unwrap();
    let values = Values::from_caches(&[cached(&wider, ())], point).unwrap();
    for (name, result) in donations(&own, &values.of_other_model()) {
        let error = result.expect_err(name);
        assert!(matches!(error, Error::Shape { .. }), "{name}: {error}");
    }
    let both = [cached(&own, ()), cache];
    let message = Values::from_caches(&both, point).unwrap_err().to_string();
    let names = [&own, &other].map(|model| model.fingerprint().to_string());
    assert!(names.iter().all(|name| message.contains(name)), "{message}");
}

#[test]
fn the_same_model_made_twice_is_one() {
    let (own, again) = (model(0), model(0));
    let cache = cached(&again, ());
    all_well([as_base(&own, &cache)]);
    all_well(readings(&own, &cache));
    let values = Values::from_caches(&[cached(&own, ()), cache], Site::MlpOut.at(1));
    assert!(values.is_ok());
    let bases = [&own, &again].map(|model| Base::new(model, &Prompt::from(TOKENS)).unwrap());
    let metric = logit_diff(1, 2);
    let study = ActivationPatching::over(&bases[0], &bases[1]).unwrap();
    let found = study.run(patchlens::Grid::Heads(Site::Z), &metric).unwrap();
    assert!(found.effect.values().iter().all(|v| *v == 0.0));
}

#[test]
fn t2_base_runs_of_two_models_are_no_pair() {
    let models = [model(0), model(1)];
    let [a, b] = [&models[0], &models[1]].map(|m| Base::new(m, &Prompt::from(TOKENS)).unwrap());
    let names = [&models[0], &models[1]].map(|model| model.fingerprint().to_string());
    let names = [&names[0][..], &names[1]];
    let results = [
        ("patching", ActivationPatching::over(&a, &b).map(|_| ())),
        ("paths", PathPatching::over(&a, &b).map(|_| ())),
        ("edges", ExactEdges::over(&a, &b).map(|_| ())),
    ];
    all_say(results, &names);
}

#[test]
fn t2_a_run_that_hooks_changed_is_no_base_but_a_donor() {
    let own = model(0);
    let cache = cached(&own, zero_head());
    assert_eq!(cache.run_kind(), Some(RunKind::UnderHooks));
    let expected = ["a run that hooks changed", "a plain run", "Base::over"];
    all_say([as_base(&own, &cache)], &expected);
    all_well(readings(&own, &cache));
    let values = Values::from_caches(std::slice::from_ref(&cache), Site::MlpOut.at(1));
    all_well(donations(&own, &values.unwrap()));
    // A closure's changes are seen as well, at every kind of point.
    for point in HookPoint::all(2) {
        let change = hook_fn(point, |_, mut x: ArrayViewMutD<'_, f32>| {
            let first = x.iter_mut().next().unwrap();
            *first = f32::from_bits(first.to_bits() ^ 1);
        });
        let kind = cached(&own, change).run_kind();
        assert_eq!(kind, Some(RunKind::UnderHooks), "{point}");
    }
}

#[test]
fn gradients_are_no_activations() {
    let own = model(0);
    let everything = Selection::matching(own.config(), |at| at == Site::MlpOut.at(1));
    let objective =
        |_: usize, logits: ndarray::ArrayView2<'_, f32>| (0.0, ndarray::Array2::ones(logits.dim()));
    let want = Backward {
        gradients: Some(&everything),
        activations: Some(&everything),
        ..Backward::default()
    };
    let found = own.gradients(&Prompt::from(TOKENS), zero_head(), objective, &want);
    let found = found.unwrap();
    assert_eq!(found.activations[0].run_kind(), Some(RunKind::UnderHooks));
    let cache = &found.gradients[0];
    assert_eq!(cache.run_kind(), Some(RunKind::Gradients));
    assert_eq!(cache.fingerprint(), Some(own.fingerprint()));
    all_say([as_base(&own, cache)], &["found gradients", "a plain run"]);
    all_say(
        readings(&own, cache),
        &["found gradients", "a run that hooks"],
    );
    // Steering along a gradient is a use.
    let values = Values::from_caches(std::slice::from_ref(cache), Site::MlpOut.at(1)).unwrap();
    let steer = vec![Intervention::new(Site::MlpOut.at(1), Edit::Add(values))];
    own.run_with_hooks(TOKENS, Interventions::new(steer))
        .unwrap();
}

/// Generation checks interventions by the same rule.
#[test]
fn t2_generation_looks_too() {
    let (own, other) = (model(0), model(1));
    let (_, cache) = other
        .run_with_cache([1], &Selection::points([Site::MlpOut.at(1)]))
        .unwrap();
    let values = Values::from_caches(&[cache], Site::MlpOut.at(1)).unwrap();
    let target = Target::new(Site::MlpOut.at(1)).at_positions([0]);
    let patch = vec![Intervention::new(target, Edit::Patch(values))];
    let generation = Generation::greedy(1);
    let found = own.generate(&Prompt::from([1]), Interventions::new(patch), &generation);
    all_say(
        [("generation", found.map(|_| ()))],
        &[&other.fingerprint().to_string()],
    );
}
