//! Training of the small model: a seed gives one model to the bit, and training trains.

#[path = "../examples/train_mini/adamw.rs"]
mod adamw;
#[path = "../examples/train_mini/training.rs"]
mod training;

use std::path::Path;

use ndarray::{Axis, Slice};
use patchlens::tasks::{Corpus, mini_tokenizer_json};
use patchlens::{Config, Parameters, Tokenizer};

use adamw::AdamW;
use training::{Settings, Training};

const STEPS: u64 = 20;

fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        // Enough rows for products and row loops to be split over threads.
        batch: 24,
        copying: None,
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
