//! Training of the small model: a seed gives one model to the bit, and training trains.

use std::path::Path;

use ndarray::{Axis, Slice};
use patchlens::gradient::{Backward, cross_entropy};
use patchlens::parameters::Parameters;
use patchlens::tasks::{Corpus, mini_tokenizer_json};
use patchlens::{
    Config, Edit, Head, Intervention, Interventions, Prompt, Site, Target, Tokenizer, Transformer,
};

use super::adamw::AdamW;
use super::dropout::Dropout;
use super::training::{Settings, Training, loss_without};

const STEPS: u64 = 20;

fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        // Enough rows for products and row loops to be split over threads.
        batch: 24,
        copying: None,
        drop_heads: 0.2,
        optimizer: AdamW {
            rate: [5e-3, 1e-3],
            ..AdamW::new(STEPS)
        },
    }
}

fn config(tokenizer: &Tokenizer) -> Config {
    Config {
        n_layers: 2,
        n_heads: 4,
        d_model: 64,
        d_mlp: 256,
        n_ctx: 64,
        d_vocab: tokenizer.vocab_size(),
        ..Config::gpt2()
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(mini_tokenizer_json().unwrap().as_bytes()).unwrap()
}

/// Trains up to a step; gives the file to go on from, and the losses.
fn train(seed: u64, threads: usize, from: Option<&[u8]>, until: u64) -> (Vec<u8>, Vec<f64>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let tokenizer = tokenizer();
        let corpus = Corpus::new(&tokenizer, seed).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut training = match from {
            None => Training::new(settings(seed), config(&tokenizer)).unwrap(),
            Some(bytes) => {
                std::fs::write(&path, bytes).unwrap();
                Training::resume(&path, settings(seed), config(&tokenizer)).unwrap()
            }
        };
        let mut losses = Vec::new();
        while training.step < until {
            let loss;
            (training, loss) = training.advance(&corpus).unwrap();
            losses.push(loss);
        }
        training.save(&path).unwrap();
        (std::fs::read(&path).unwrap(), losses)
    })
}

#[test]
fn a_seed_gives_the_same_bits_with_more_threads_and_after_a_stop() {
    let (one, losses) = train(5, 1, None, STEPS);
    let (two, _) = train(5, 2, None, STEPS);
    assert!(one == two, "2 threads give another file");
    let (stopped, first) = train(5, 2, None, 7);
    let (resumed, rest) = train(5, 1, Some(&stopped), STEPS);
    assert!(one == resumed, "stopping gives another file");
    assert_eq!([first, rest].concat(), losses);
    let (other, _) = train(6, 2, None, STEPS);
    assert!(one != other, "another seed gives the same file");
}

#[test]
fn heads_of_the_last_layer_can_begin_by_copying() {
    let tokenizer = tokenizer();
    let begun = |copying| {
        let settings = Settings {
            copying,
            ..settings(1)
        };
        let training = Training::new(settings, config(&tokenizer)).unwrap();
        training.model.into_parts().1
    };
    let (plain, copying) = (begun(None), begun(Some(3.0)));
    let d_model = plain.wpe.ncols();
    let values = |parameters: &Parameters, layer: usize| {
        let weight = &parameters.h[layer].attn.c_attn.weight;
        weight
            .slice_axis(Axis(1), Slice::from(2 * d_model..))
            .to_owned()
    };
    assert_eq!(values(&copying, 1), values(&plain, 1) * 3.0);
    assert_eq!(values(&copying, 1).t(), copying.h[1].attn.c_proj.weight);
    assert_ne!(values(&plain, 1).t(), plain.h[1].attn.c_proj.weight);
    assert_eq!(copying.h[0].attn.c_proj, plain.h[0].attn.c_proj);
    assert_eq!(values(&copying, 0), values(&plain, 0));
}

/// Zeros in W_O give the loss that zeros at z give, and nothing of a head left out moves.
#[test]
fn a_head_left_out_of_a_step_neither_helps_nor_learns() {
    let config = config(&tokenizer());
    let model = Transformer::random(config.clone(), 3).unwrap();
    let prompts = [Prompt::from([5, 6, 7, 5, 6]), Prompt::from([9, 8, 9])];
    let weights = [vec![0.25; 4], vec![0.5; 2]];
    let left_out = [Head::new(0, 1), Head::new(0, 3)];
    let zero = |head: &Head| {
        let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
        Intervention::new(target, Edit::Zero)
    };
    let list: Vec<Intervention> = left_out.iter().map(zero).collect();
    let loss = cross_entropy(&prompts, &weights).unwrap();
    let hooks = Interventions::new(&list[..]);
    let hooked = model.gradients(&prompts, hooks, loss, &Backward::default());
    let expected: f64 = hooked.unwrap().values.iter().sum();
    let (value, gradient) = loss_without(&model, &left_out, &prompts, &weights).unwrap();
    assert_eq!(value, expected);
    let (whole, _) = loss_without(&model, &[], &prompts, &weights).unwrap();
    assert_ne!(value, whole);

    let d_head = config.d_model / config.n_heads;
    let attention = &gradient.h[0].attn;
    for head in 0..config.n_heads {
        let place = |block: usize| {
            let first = block * config.d_model + head * d_head;
            Slice::from(first..first + d_head)
        };
        let read = (0..3).map(|block| attention.c_attn.weight.slice_axis(Axis(1), place(block)));
        let written = attention.c_proj.weight.slice_axis(Axis(0), place(0));
        let still = read
            .chain([written])
            .all(|part| part.iter().all(|g| *g == 0.0));
        assert_eq!(still, left_out.contains(&Head::new(0, head)), "head {head}");
    }
}

#[test]
fn heads_are_left_out_at_random_but_for_the_last_layers() {
    let config = config(&tokenizer());
    let drawn = |probability, step| Dropout::of_step(probability, 1, step).draw(&config);
    assert_eq!(drawn(0.3, 7), drawn(0.3, 7));
    assert!((0..50).all(|step| drawn(0.0, step).is_empty()));
    let all: Vec<Head> = (0..1000).flat_map(|step| drawn(0.3, step)).collect();
    assert!(all.iter().all(|head| head.layer == 0));
    for head in 0..config.n_heads {
        let share = all.iter().filter(|h| h.head == head).count() as f64 / 1000.0;
        // Three standard errors of 1000 draws.
        assert!((share - 0.3).abs() < 0.045, "head {head}: {share}");
    }
}

#[test]
fn losses_fall() {
    let (_, losses) = train(0, 2, None, STEPS);
    let uniform = (tokenizer().vocab_size() as f64).ln();
    assert!((losses[0] - uniform).abs() < 0.1, "{losses:?}");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[STEPS as usize - 5..]));
    assert!(last < first - 0.05, "{losses:?}");
}

#[test]
fn going_on_with_other_settings_is_an_error() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let training = Training::new(settings(1), config(&tokenizer)).unwrap();
    training.save(&path).unwrap();
    let message = |path: &Path, settings, config| {
        let error = Training::resume(path, settings, config).unwrap_err();
        format!("{error:#}")
    };
    let other = message(&path, settings(2), config(&tokenizer));
    assert!(
        other.contains("found a run with Settings { seed: 1"),
        "{other}"
    );
    let narrow = Config {
        d_mlp: 128,
        ..config(&tokenizer)
    };
    let other = message(&path, settings(1), narrow);
    assert_eq!(
        other,
        "`h.0.mlp.c_fc.weight`: found shape [64, 256]; expected [64, 128]"
    );
    let missing = message(&folder.path().join("none"), settings(1), config(&tokenizer));
    assert!(missing.starts_with("reading "), "{missing}");
}
