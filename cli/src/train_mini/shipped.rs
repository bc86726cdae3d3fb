//! The model built into the crate does what its card says.

use patchlens::{Tokenizer, Transformer};

use super::evaluation::Evaluation;

/// Prompts of each task.
const PROMPTS: usize = 300;

#[test]
fn it_reaches_its_bounds_on_held_out_prompts() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let evaluation = Evaluation::of(&model, &tokenizer, PROMPTS).unwrap();
    println!("{evaluation}");
    assert_eq!(evaluation.missed(), [""; 0]);
}

/// The bounds are none that any model reaches.
#[test]
fn an_untrained_model_misses_them() {
    let (config, _) = Transformer::mini().into_parts();
    let model = Transformer::random(config, 0).unwrap();
    let evaluation = Evaluation::of(&model, &Tokenizer::mini(), PROMPTS).unwrap();
    assert_eq!(evaluation.missed().len(), 5, "{evaluation}");
}

#[test]
fn model_and_tokenizer_fit_together_and_stay_small() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    assert_eq!(model.config().d_vocab, tokenizer.vocab_size());
    assert!(model.parameters().count() * 4 < 4_000_000);
}
