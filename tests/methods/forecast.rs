//! Forecasts from a model's shape against the plans, and the counts, of the studies themselves.

use patchlens::forecast::Forecast;
use patchlens::metric::{kl_divergence, probability};
use patchlens::patching::ActivationPatching;
use patchlens::report::About;
use patchlens::sweep::Cell;
use patchlens::tracing::{CausalTracing, Restore, Severed, SubjectCorruption, TracedFact};
use patchlens::{
    Base, Config, Edit, Error, Grid, Intervention, Prompt, Prompts, Site, Sweep, Target,
    Transformer, logit_diff,
};

fn config() -> Config {
    Config {
        n_layers: 3,
        n_heads: 2,
        d_model: 16,
        d_mlp: 64,
        n_ctx: 12,
        d_vocab: 50,
        ..Config::gpt2()
    }
}

fn prompts(salt: u32) -> Prompts {
    let prompt = |i: u32| (0..8).map(|p| (p * 7 + i * 11 + salt) % 50).collect();
    Prompts::new((0..3).map(prompt).collect::<Vec<Vec<u32>>>()).unwrap()
}

#[test]
fn patching_costs_what_its_forecast_says() {
    let model = Transformer::random(config(), 3).unwrap();
    let (clean, everywhere) = (prompts(0), prompts(5));
    // The same up to token 5.
    let late = clean.iter().zip(&everywhere).map(|(clean, other)| {
        let tokens = [&clean.tokens[..5], &other.tokens[5..]].concat();
        Prompt::from(tokens)
    });
    let late = Prompts::new(late.collect::<Vec<_>>()).unwrap();
    for grid in [
        Grid::Positions(Site::ResidPre),
        Grid::HeadPositions(Site::Z),
        Grid::Heads(Site::Pattern),
        Grid::EveryBlock,
        Grid::Columns(Site::MlpPost, 1),
    ] {
        for metric in [logit_diff(1, 2), probability(&[3]), kl_divergence()] {
            let forecast =
                Forecast::patching(&config(), &clean, &everywhere, grid, &metric).unwrap();
            let [first, second] = bases(&model, &clean, &everywhere);
            let study = ActivationPatching::over(&first, &second).unwrap();
            let found = study.run(grid, &metric).unwrap();
            let what = format!("{grid:?} {}", metric.name());
            let (planned, actual) = (&forecast.plan, &found.plan);
            assert!(planned.peak_bytes >= actual.peak_bytes, "{what}");
            if grid.sites().contains(&Site::Pattern) {
                // The first row attends to itself alone, in both runs.
                assert!(planned.multiply_adds > actual.multiply_adds, "{what}");
            } else {
                assert_eq!(planned.multiply_adds, actual.multiply_adds, "{what}");
                assert_eq!(planned.lanes, actual.lanes, "{what}");
            }
            assert_eq!(planned.naive_multiply_adds, actual.naive_multiply_adds);
            let base = first.multiply_adds() + second.multiply_adds();
            assert!(forecast.base_multiply_adds >= base - base / 5, "{what}");
            assert!(forecast.base_multiply_adds <= base + base / 5, "{what}");

            // Which values agree is not known without weights: it is an upper bound.
            let forecast = Forecast::patching(&config(), &clean, &late, grid, &metric).unwrap();
            let [first, second] = bases(&model, &clean, &late);
            let study = ActivationPatching::over(&first, &second).unwrap();
            let found = study.run(grid, &metric).unwrap();
            assert!(forecast.plan.multiply_adds > found.plan.multiply_adds);
        }
    }
}

fn bases<'m>(model: &'m Transformer, clean: &Prompts, corrupted: &Prompts) -> [Base<'m>; 2] {
    let clean = Base::new(model, clean).unwrap();
    let corrupted = Base::over(&clean, corrupted, Vec::new()).unwrap();
    [clean, corrupted]
}

#[test]
fn a_trace_costs_what_its_forecast_says() {
    let model = Transformer::random(config(), 3).unwrap();
    let fact = TracedFact::new(prompts(0)[1].clone(), 0..2).unwrap();
    let noise = SubjectCorruption::Noise {
        std: 0.5,
        seed: 1,
        samples: 4,
    };
    let tracing = CausalTracing::new(&model, noise.clone());
    for restore in [
        Restore::states(),
        Restore::mlp(2),
        Restore::attention(3),
        Restore::states().severing(Severed::Mlp),
    ] {
        let facts = [fact.clone()];
        let forecast = Forecast::tracing(&config(), &noise, &facts, &[restore]).unwrap();
        let found = tracing.trace(&fact, restore).unwrap();
        let counted = found.indirect_effect.about.counts[About::MULTIPLY_ADDS];
        let planned = forecast.plan.multiply_adds;
        assert!(planned >= counted, "{restore:?}: {planned}, {counted}");
        if restore.severed.is_none() {
            let share = planned as f64 / counted as f64;
            assert!(share < 1.05, "{restore:?}: {planned}, {counted}");
        }
        let twice = [fact.clone(), fact.clone()];
        let two = Forecast::tracing(&config(), &noise, &twice, &[restore]).unwrap();
        assert_eq!(two.multiply_adds(), 2 * forecast.multiply_adds());
        assert_eq!(two.peak_bytes(), forecast.peak_bytes());
    }
}

#[test]
fn a_sweep_costs_what_its_forecast_says() {
    let model = Transformer::random(config(), 3).unwrap();
    let zero = |layer: usize| {
        let target = Target::new(Site::MlpOut.at(layer)).at_positions([1, 4]);
        vec![Intervention::new(target, Edit::Zero)]
    };
    let cells: Vec<Cell> = (0..3).map(zero).collect();
    let (prompts, metric) = (prompts(0), logit_diff(1, 2));
    let forecast = Forecast::sweep(&config(), &prompts, &cells, &metric).unwrap();
    let found = Sweep::new(&model, &prompts)
        .unwrap()
        .run(&cells, &metric)
        .unwrap();
    assert_eq!(forecast.plan.multiply_adds, found.plan.multiply_adds);
    assert_eq!(forecast.base_multiply_adds, found.base_multiply_adds);
    let parameters = model.parameters().count() as u64;
    assert_eq!(forecast.weight_bytes, 4 * parameters);
    let seconds = forecast.seconds(forecast.measured_rate());
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
}

#[test]
fn what_could_not_run_has_no_forecast() {
    let (config, metric) = (config(), logit_diff(1, 2));
    let at = |layer, position| {
        let target = Target::new(Site::MlpOut.at(layer)).at_positions(position);
        [vec![Intervention::new(target, Edit::Zero)]]
    };
    let of = |config: &Config, cells: &[Cell]| {
        Forecast::sweep(config, prompts(0), cells, &metric).unwrap_err()
    };
    assert!(matches!(of(&config, &at(3, 0)), Error::OutOfRange { .. }));
    assert!(matches!(of(&config, &at(0, 8)), Error::OutOfRange { .. }));
    let short = Config {
        n_ctx: 5,
        ..config.clone()
    };
    assert!(matches!(of(&short, &at(0, 0)), Error::Prompt { .. }));
    let none = Config {
        n_layers: 0,
        ..config.clone()
    };
    assert!(matches!(of(&none, &at(0, 0)), Error::Config { .. }));
    let ragged = Prompts::new([vec![1, 2, 3], vec![1, 2]]).unwrap();
    let grid = Grid::Positions(Site::ResidPre);
    let error = Forecast::patching(&config, &ragged, &ragged, grid, &metric).unwrap_err();
    assert!(error.to_string().contains("[3, 2]"), "{error}");
    let grid = Grid::Heads(Site::Z);
    Forecast::patching(&config, &ragged, &ragged, grid, &metric).unwrap();
    let noise = SubjectCorruption::noise(0.1);
    let none = Forecast::tracing(&config, &noise, &[], &[Restore::states()]);
    assert!(matches!(none.unwrap_err(), Error::Invalid { .. }));
}
