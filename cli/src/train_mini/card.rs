//! The model card.

use anyhow::Result;
use patchlens::Tokenizer;
use patchlens::tasks::{Facts, GreaterThan, Ioi, Split};

use super::evaluation::Evaluation;
use super::training::{Settings, Training};

/// The README.md that goes with a trained model.
pub fn text(
    training: &Training,
    tokenizer: &Tokenizer,
    evaluation: &Evaluation,
    minutes: f64,
) -> Result<String> {
    let (model, settings) = (&training.model, &training.settings);
    let (config, adam) = (model.config(), &settings.optimizer);
    let train = Split::Train;
    let pairs = Ioi::new(tokenizer)?.split(train)?.name_pairs();
    let statements = Facts::new(tokenizer)?.split(train).all()?.len();
    let years = GreaterThan::new(tokenizer)?.split(train)?.cases();
    Ok(format!(
        "# The small model of patchlens

A GPT-2-style transformer that patchlens trains itself, made to have known behaviours in a size at
which every experiment takes seconds. It is no language model: it knows nothing but the four tasks
below. Hugging Face's layout; `Transformer::mini()` and `Tokenizer::mini()` have it built in.

| | |
|---|---|
| Layers, heads | {layers}, {heads} |
| d_model, d_mlp | {d_model}, {d_mlp} |
| Context, vocabulary | {n_ctx}, {d_vocab} words |
| Parameters | {count}, f32 |
| Activation, embeddings | `{activation}`, tied |

## Data

Generated text (`patchlens::tasks::Corpus`), one item a sequence, half of them after
`<|endoftext|>`:

- indirect object identification: 16 templates, ABBA and BABA, 50 names in {pairs} pairs;
- invented facts: 48 people by 6 relations, {statements} statements;
- greater-than years: {years} combinations of noun and year;
- random sequences of 4 to 30 tokens, repeated to fill at most 60.

The loss is weighted: most on the word that answers, little on the text before it.

## Training

```text
cargo run --release -p patchlens-cli -- train-mini --seed {seed} --steps {steps} \\
    --copying {copying} --drop-heads {drop_heads} --out mini
```

{steps} steps of {batch} sequences with AdamW (peak learning rate {peak}, {warmup} steps of warm-up,
cosine decay to {end}, weight decay {decay}, gradient clipped at {clip}).

{recipe}
The run that made this file took {minutes:.0} minutes. The same command gives the same
`model.safetensors` to the bit, whatever the number of threads, stopped and resumed or not.

{why}
## Results

On prompts that were held out of training: pairs of names that never occur together there, facts in
the phrasing that was left out, other pairs of noun and year, new random sequences.

{evaluation}
```text
cargo run --release -p patchlens-cli -- train-mini --evaluate-only --out mini
```

## Limits

Names, facts and numbers are invented or uniformly drawn. What is found in this model shows how
such circuits can be found, not what a model trained on natural text does.
",
        layers = config.n_layers,
        heads = config.n_heads,
        d_model = config.d_model,
        d_mlp = config.d_mlp,
        n_ctx = config.n_ctx,
        d_vocab = config.d_vocab,
        count = model.parameters().count(),
        activation = config.activation.name(),
        recipe = recipe(settings),
        why = include_str!("recipe.md"),
        seed = settings.seed,
        steps = adam.steps,
        batch = settings.batch,
        copying = settings.copying.unwrap_or(0.0),
        drop_heads = settings.drop_heads,
        peak = adam.rate[0],
        warmup = adam.warmup,
        end = adam.rate[1],
        decay = adam.weight_decay,
        clip = adam.clip,
    ))
}

/// What is particular about the training.
fn recipe(settings: &Settings) -> String {
    let mut text = String::new();
    if let Some(factor) = settings.copying {
        text += &format!(
            "The last layer's heads begin by copying what they attend to (W_O is the transpose of\nW_V, \
             both {factor} times as large as they are drawn).\n"
        );
    }
    if settings.drop_heads > 0.0 {
        text += &format!(
            "Each head below the last layer is left out of a quarter of a step with probability {}, so\n\
             that the model depends on no single one of them.\n",
            settings.drop_heads
        );
    }
    text
}
