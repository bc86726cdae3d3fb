//! Logit lens, tuned lens, and caches as files.

mod files;
mod tuned;

use crate::common::Comparison;
use ndarray::Axis;
use patchlens::lens::{LensFit, LogitLens, TunedLens};
use patchlens::metric::{kl_divergence, log_probability, rank};
use patchlens::parameters::Parameters;
use patchlens::report::{Palette, PrintStyle, legible};
use patchlens::{Config, HookPoint, Prompt, Selection, Site, Tokenizer, Transformer};

const BOUND: f32 = 1e-5;

fn small(seed: u64) -> Transformer {
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 12,
        n_ctx: 32,
        d_vocab: 19,
        ..Config::gpt2()
    };
    let mut parameters = Parameters::random(&config, seed).unwrap();
    // Weights of 0.02 hardly move the residual stream; larger ones make every layer matter.
    for (name, mut tensor) in parameters.tensors_mut() {
        if !name.contains("ln_") {
            tensor.mapv_inplace(|v| 15.0 * v);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn prompts(n: usize) -> Vec<Prompt> {
    let token = |i: usize, j: usize| ((i * i * 5 + 7 * j * (i + 1) + j * j) % 19) as u32;
    (0..n)
        .map(|i| Prompt::from((0..8 + i % 5).map(|j| token(i, j)).collect::<Vec<_>>()))
        .collect()
}

#[test]
fn logit_lens_equals_transformer_lens_and_ends_with_the_models_bits() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let golden = crate::common::tensors(name, "analysis.safetensors");
        let metadata = crate::common::metadata(name);
        let labels = metadata["analysis"]["labels"]["logit_lens"]
            .as_array()
            .unwrap();
        let mut comparison = Comparison::new(BOUND);
        for i in 0..2 {
            let tokens = crate::common::tokens(&metadata["prompts"][i]);
            let lens = LogitLens::new(&model);
            let found = lens.run(&Prompt::from(&tokens[..])).unwrap();
            assert_eq!(&found.kl_to_final.axes()[0].labels, labels);
            let (logits, cache) = model
                .run_with_cache(&tokens, &Selection::standard(model.config()))
                .unwrap();
            for (row, point) in lens.points.iter().enumerate() {
                let key = format!("p{i}/logit_lens");
                let expected = golden[&key].index_axis(Axis(0), row);
                let found = lens.logits(&cache, *point).unwrap();
                comparison.add(&format!("{key} {point}"), found.view().into_dyn(), expected);
                if row + 1 == lens.points.len() {
                    assert_eq!(found, logits);
                }
            }
        }
        comparison.finish(name);
    }
}

/// The readout's numbers against the metrics, one by one.
#[test]
fn readout_agrees_with_the_metrics() {
    let model = small(3);
    let prompt = &prompts(1)[0];
    let mut lens = LogitLens::new(&model);
    lens.points.push(Site::AttnOut.at(1));
    lens.points.push(Site::MlpOut.at(0));
    lens.tokens = vec![4, 11];
    lens.top_k = 3;
    let found = lens.run(prompt).unwrap();
    let (truth, cache) = model
        .run_with_cache(prompt, &Selection::standard(model.config()))
        .unwrap();
    let kl = kl_divergence();
    for (row, point) in lens.points.iter().enumerate() {
        let logits = lens.logits(&cache, *point).unwrap();
        for position in 0..prompt.len() {
            let at = |metric: patchlens::Metric| {
                let metric = metric.at_position(position);
                metric.evaluate(0, logits.view()).unwrap()
            };
            let kl = kl
                .clone()
                .at_position(position)
                .with_reference(&[truth.view()])
                .unwrap();
            let kl = kl.evaluate(0, logits.view()).unwrap();
            assert!((found.kl_to_final.values()[[row, position]] - kl).abs() < 1e-6);
            for (i, token) in lens.tokens.iter().enumerate() {
                let index = [i, row, position];
                let values = found.rank.as_ref().unwrap().values();
                assert_eq!(values[index], at(rank(&[*token])));
                let values = found.log_probability.as_ref().unwrap().values();
                assert_eq!(values[index], at(log_probability(&[*token])));
            }
            for k in 0..3 {
                let token = found.top_tokens[[row, position, k]];
                assert_eq!(at(rank(&[token])), k as f32, "{point}, position {position}");
                let p = found.top_probabilities.values()[[row, position, k]];
                assert!((p - at(log_probability(&[token])).exp()).abs() < 1e-6);
            }
        }
    }
    let last = found.kl_to_final.values().index_axis_move(Axis(0), 4);
    assert!(
        last.iter().all(|v| *v == 0.0),
        "the end is the model's own answer: {last}"
    );
    assert!(found.kl_to_final.values()[[0, 3]] > 1e-3);
}

/// Both once left out what was not finite, and then found two distributions equal.
#[test]
fn nan_shows_in_the_kl_of_a_lens_and_of_a_metric() {
    let (config, mut parameters) = small(3).into_parts();
    // Their sum overflows, so that the model's own answer is NaN.
    parameters.h[0].mlp.c_proj.bias[0] = 3e38;
    parameters.h[1].mlp.c_proj.bias[0] = 3e38;
    let model = Transformer::new(config, parameters).unwrap();
    let prompt = &prompts(1)[0];
    let logits = model.forward(prompt).unwrap();
    assert!(logits.iter().all(|v| v.is_nan()));
    let kl = LogitLens::new(&model).run(prompt).unwrap().kl_to_final;
    assert!(kl.values().iter().all(|v| v.is_nan()), "{}", kl.values());

    let sound = small(3).forward(prompt).unwrap();
    for [reference, run] in [[&logits, &sound], [&sound, &logits]] {
        let metric = kl_divergence().with_reference(&[reference.view()]).unwrap();
        assert!(metric.evaluate(0, run.view()).unwrap().is_nan());
    }
}

#[test]
fn identity_translators_are_the_logit_lens_to_the_bit() {
    let model = crate::common::open("tiny-gelu-new");
    let tokens = crate::common::tokens(&crate::common::metadata("tiny-gelu-new")["prompts"][0]);
    let plain = LogitLens::new(&model);
    let identity = TunedLens::identity(model.config(), &plain.points).unwrap();
    let tuned = LogitLens::tuned(&model, &identity).unwrap();
    let everything = Selection::everything(model.config());
    let (_, cache) = model.run_with_cache(&tokens, &everything).unwrap();
    for point in &plain.points {
        let [a, b] = [&plain, &tuned].map(|lens| lens.logits(&cache, *point).unwrap());
        assert!(
            a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()),
            "{point}"
        );
    }
}

#[test]
fn a_lens_for_another_model_and_other_bad_input_is_an_error() {
    let (model, other) = (small(1), crate::common::open("tiny-gelu-new"));
    let points = [Site::ResidPre.at(1)];
    let lens = TunedLens::identity(other.config(), &points).unwrap();
    let message = LogitLens::tuned(&model, &lens).unwrap_err().to_string();
    assert!(
        message.contains("another model") && message.contains("[24, 24]"),
        "{message}"
    );
    let deep = Config {
        n_layers: 5,
        ..model.config().clone()
    };
    let lens = TunedLens::identity(&deep, &[Site::ResidPre.at(4)]).unwrap();
    let message = LogitLens::tuned(&model, &lens).unwrap_err().to_string();
    assert!(message.contains("layer 4 is out of range"), "{message}");

    let lens = TunedLens::identity(model.config(), &points).unwrap();
    let mut tuned = LogitLens::tuned(&model, &lens).unwrap();
    tuned.points = vec![Site::ResidPre.at(0)];
    let message = tuned.run(&Prompt::from([1])).unwrap_err().to_string();
    assert!(message.contains("blocks.0.hook_resid_pre"), "{message}");
    let mut plain = LogitLens::new(&model);
    plain.points = vec![Site::Z.at(0)];
    let message = plain.run(&Prompt::from([1])).unwrap_err().to_string();
    assert!(message.contains("[pos, head, d_head]"), "{message}");
    plain = LogitLens::new(&model);
    let error = |lens: &LogitLens<'_>| lens.run(&Prompt::from([1])).unwrap_err().to_string();
    plain.tokens = vec![19];
    let message = error(&plain);
    assert!(message.contains("token 19 is out of range"), "{message}");
    plain.tokens = vec![3];
    plain.token_labels = Some(vec![]);
    let message = error(&plain);
    assert!(
        message.contains("found 0; expected 1, one per token"),
        "{message}"
    );
    plain.token_labels = None;
    plain.top_k = 0;
    let message = error(&plain);
    assert!(
        message.contains("top_k: found 0; expected 1 to 19"),
        "{message}"
    );
    plain.points = vec![];
    assert!(error(&plain).contains("points of a lens: found 0"));
    // Four rows cannot fix eight dimensions.
    let few = LensFit::new(&model, &Prompt::from([1, 2, 3, 4]))
        .unwrap()
        .points(&points)
        .run(0.0);
    assert!(few.unwrap_err().to_string().contains("ridge"));
    assert!(
        LensFit::new(&model, &Prompt::from([1, 2, 3, 4]))
            .unwrap()
            .points(&points)
            .run(0.1)
            .is_ok()
    );
    let nan = LensFit::new(&model, &Prompt::from([1, 2]))
        .unwrap()
        .points(&points)
        .run(f64::NAN);
    assert!(nan.unwrap_err().to_string().contains("ridge: found NaN"));
}

/// Hugging Face's `hidden_states`: those of the layers are `resid_pre`, and the one after them has
/// been through the final LayerNorm, so that the unembedding alone gives the model's logits.
#[test]
fn b27_the_last_layer_of_a_lens_is_the_model() {
    let model = small(3);
    let (config, parameters) = (model.config(), model.parameters());
    let n_layers = config.n_layers;
    for prompt in prompts(3) {
        let everything = Selection::everything(config);
        let (logits, cache) = model.run_with_cache(&prompt, &everything).unwrap();
        let lens = LogitLens::new(&model);
        let last = Site::ResidPost.at(n_layers - 1);
        let own = lens.logits(&cache, last).unwrap();
        assert!(
            own.iter()
                .zip(&logits)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
        let kl = lens.run(&prompt).unwrap().kl_to_final;
        assert_eq!(kl.axes()[0].labels.last().unwrap(), "final_post");
        let row = kl.values().index_axis_move(Axis(0), 2 * n_layers);
        assert!(row.iter().all(|v| v.to_bits() == 0), "{row}");

        // `hidden_states[n_layers]`, made of the hook and of the residual stream.
        let normalized = cache.get(HookPoint::LnFinalNormalized).unwrap();
        let hidden = &normalized * &parameters.ln_f.weight + &parameters.ln_f.bias;
        let hidden = hidden.into_dimensionality::<ndarray::Ix2>().unwrap();
        let again = hidden.dot(&parameters.w_u());
        let difference =
            crate::common::difference(again.view().into_dyn(), logits.view().into_dyn());
        assert!(difference < 1e-4, "{difference}");
        let stream = cache.get(last).unwrap();
        let apart = crate::common::difference(hidden.view().into_dyn(), stream);
        assert!(
            apart > 0.1,
            "the last residual stream is something else: {apart}"
        );
        // `hidden_states[i]` before: what the layer before wrote.
        for layer in 1..n_layers {
            let pre = cache.get(Site::ResidPre.at(layer)).unwrap();
            assert_eq!(pre, cache.get(Site::ResidPost.at(layer - 1)).unwrap());
        }
    }
}

#[test]
fn f11_the_defaults_of_a_lens_work_with_three_tokens() {
    let config = Config {
        d_vocab: 3,
        ..small(1).config().clone()
    };
    let model = Transformer::random(config, 1).unwrap();
    let found = LogitLens::new(&model).run(&Prompt::from([1, 2])).unwrap();
    assert_eq!(found.top_tokens.dim(), (5, 2, 3));
}

/// In a terminal each cell of a lens has the likeliest token's text beside its probability.
#[test]
fn f18_a_terminal_shows_the_tokens_of_a_lens() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let text = "When Mary and John went to the store, John gave a drink to";
    let prompt = tokenizer.encode(text).unwrap();
    let found = LogitLens::new(&model).run(&prompt).unwrap();
    let likeliest = found.likeliest(&tokenizer).unwrap();
    let (points, n, _) = found.top_tokens.dim();
    let printed = likeliest.print_style(PrintStyle {
        width: 1000,
        ..PrintStyle::default()
    });
    let printed = printed.to_string();
    let rows = likeliest.axes()[0].labels.iter().map(|name| {
        let mut of_point = printed.lines().filter(|line| line.trim().starts_with(name));
        of_point.next().expect("one line per point")
    });
    let rows: Vec<&str> = rows.collect();
    for (point, line) in rows.iter().enumerate() {
        for position in 0..n {
            let token = tokenizer.token_label(found.top_tokens[[point, position, 0]]);
            let shown = legible(&token);
            // Long words are cut in the middle.
            let start: String = shown.chars().take(4).collect();
            assert!(line.contains(&start), "{shown} at {position} of {line}");
        }
    }
    // The answer, and how likely it is.
    let last = rows[points - 1].trim_end().rsplit_once(' ').unwrap();
    assert!(last.0.trim_end().ends_with("·Mary"), "{last:?}");
    assert!(last.1.parse::<f32>().unwrap() > 0.9, "{last:?}");
    assert_eq!(points, 2 * model.config().n_layers + 1);
}

/// A `tokenizer.json` whose tokens are `t0`, `t1`, ...
fn numbered(n: usize) -> Vec<u8> {
    let vocab: serde_json::Map<_, _> = (0..n).map(|i| (format!("t{i}"), i.into())).collect();
    let model = serde_json::json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "t0" });
    let file = serde_json::json!({ "version": "1.0", "added_tokens": [], "model": model });
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn tokens_have_names_and_a_point_from_which_they_are_on_top() {
    let model = small(3);
    let prompt = &prompts(1)[0];
    let mut lens = LogitLens::new(&model);
    let last = prompt.len() - 1;
    let own = lens.run(prompt).unwrap().top_tokens[[4, last, 0]];
    lens.tokens = vec![(own + 1) % 19, own];
    lens.token_labels = Some(vec![" no".to_string(), " yes".to_string()]);
    let found = lens.run(prompt).unwrap();
    let rank = found.rank.as_ref().unwrap();
    for labelled in [rank, found.log_probability.as_ref().unwrap()] {
        assert_eq!(labelled.axes()[0].labels, [" no", " yes"]);
        assert_eq!(labelled.about.palette, Palette::Sequential);
    }
    // By the likeliest tokens themselves.
    for position in 0..prompt.len() {
        for (i, token) in lens.tokens.iter().enumerate() {
            let on_top: Vec<bool> = (0..5)
                .map(|p| found.top_tokens[[p, position, 0]] == *token)
                .collect();
            let stays = (0..5).find(|p| on_top[*p..].iter().all(|top| *top));
            assert_eq!(
                found.on_top_from(i, position).unwrap(),
                stays,
                "{i} {position}"
            );
        }
    }
    let tokenizer = Tokenizer::from_bytes(&numbered(19)).unwrap();
    let likeliest = found.likeliest(&tokenizer).unwrap();
    assert_eq!(likeliest.values().shape(), [5, prompt.len()]);
    for (index, text) in likeliest.texts().unwrap().indexed_iter() {
        let token = found.top_tokens[[index[0], index[1], 0]];
        assert_eq!(*text, format!("t{token}"));
        let p = found.top_probabilities.values()[[index[0], index[1], 0]];
        assert_eq!(likeliest.values()[&index], p);
    }
    let small = Tokenizer::from_bytes(&numbered(2)).unwrap();
    let likeliest = found.likeliest(&small).unwrap();
    for (index, text) in likeliest.texts().unwrap().indexed_iter() {
        let token = found.top_tokens[[index[0], index[1], 0]];
        let name = if token < 2 { "t" } else { "#" };
        assert_eq!(*text, format!("{name}{token}"));
    }
    assert!(found.on_top_from(1, last).unwrap().is_some());
    assert_eq!(found.on_top_from(0, last).unwrap(), None);
    let message = found.on_top_from(2, 0).unwrap_err().to_string();
    assert!(message.contains("token 2 is out of range"), "{message}");
    let message = found.on_top_from(0, 99).unwrap_err().to_string();
    assert!(message.contains("pos 99 is out of range"), "{message}");
}
