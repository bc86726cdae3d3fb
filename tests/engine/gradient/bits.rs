//! To the bit: batches, threads, and asking for less.

use ndarray::ArrayView2;
use patchlens::config::Activation;
use patchlens::gradient::{Backward, Gradients};
use patchlens::{Config, HookPoint, Prompts, Selection, Site, Transformer};

use super::{everything, random, smooth};

fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.unwrap().install(f)
}

fn bits(gradients: &Gradients, prompt: usize) -> Vec<(HookPoint, Vec<u32>)> {
    let cache = &gradients.gradients[prompt];
    let bits = |p| cache.get(p).unwrap().iter().map(|v| v.to_bits()).collect();
    cache.points().map(|p| (p, bits(p))).collect()
}

/// Large enough for products and row loops to be split over threads.
fn wide() -> (Transformer, Prompts) {
    let config = Config {
        n_layers: 2,
        n_heads: 4,
        d_model: 64,
        d_mlp: 256,
        n_ctx: 40,
        d_vocab: 300,
        ..Config::gpt2()
    };
    let lengths = [40, 1, 17, 33, 40, 29, 38, 40, 5, 40, 37, 40];
    let prompt = |(i, n): (usize, usize)| -> Vec<u32> {
        (0..n).map(|p| ((i * 97 + p * 31) % 300) as u32).collect()
    };
    let prompts = lengths.into_iter().enumerate().map(prompt);
    (
        Transformer::random(config, 1).unwrap(),
        Prompts::new(prompts).unwrap(),
    )
}

#[test]
fn a_batch_has_the_bits_of_each_prompt_alone() {
    let (model, prompts) = wide();
    // The objective depends on the prompt's index, so alone it has to be told.
    let together = everything(&model, &prompts);
    for (i, prompt) in prompts.iter().enumerate() {
        let all = Selection::everything(model.config());
        let want = Backward {
            gradients: Some(&all),
            ..Backward::default()
        };
        let objective = |_: usize, logits: ArrayView2<'_, f32>| smooth(i, logits);
        let alone = model.gradients(prompt, (), objective, &want).unwrap();
        assert_eq!(alone.values[0].to_bits(), together.values[i].to_bits());
        assert_eq!(bits(&alone, 0), bits(&together, i), "prompt {i}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (model, prompts) = wide();
    let one = on_threads(1, || everything(&model, &prompts));
    for threads in [2, 4] {
        let more = on_threads(threads, || everything(&model, &prompts));
        assert_eq!(one.parameters, more.parameters);
        for i in 0..prompts.len() {
            assert_eq!(bits(&one, i), bits(&more, i), "{threads} threads");
        }
    }
}

#[test]
fn asking_for_less_gives_the_same_bits() {
    let model = random(Activation::GeluNew, false);
    let prompts = Prompts::new([vec![5, 17, 3, 30, 17], vec![2, 5, 9]]).unwrap();
    let all = everything(&model, &prompts);
    for point in HookPoint::all(2) {
        let selection = Selection::points([point]).at_positions([0, 2]);
        let activations = Selection::points([Site::Pattern.at(0), Site::Q.at(1)]);
        let want = Backward {
            gradients: Some(&selection),
            activations: Some(&activations),
            ..Backward::default()
        };
        let some = model.gradients(&prompts, (), smooth, &want).unwrap();
        assert!(some.parameters.is_none());
        for i in 0..2 {
            assert_eq!(some.gradients[i].points().collect::<Vec<_>>(), [point]);
            let axis = ndarray::Axis(point.axes().pos_axis());
            let expected = all.gradients[i].get(point).unwrap().select(axis, &[0, 2]);
            assert_eq!(some.gradients[i].get(point).unwrap(), expected, "{point}");
            let run = model.run_with_cache(&prompts[i], &activations).unwrap().1;
            for kept in activations.iter() {
                assert_eq!(
                    some.activations[i].get(kept).unwrap(),
                    run.get(kept).unwrap()
                );
            }
            assert_eq!(some.activations[i].points().count(), 2);
        }
    }
    let want = Backward {
        parameters: true,
        ..Backward::default()
    };
    let only = model.gradients(&prompts, (), smooth, &want).unwrap();
    assert_eq!(only.parameters, all.parameters);
    assert!(only.gradients.is_empty() && only.activations.is_empty());
    let nothing = model.gradients(&prompts, (), smooth, &Backward::default());
    assert_eq!(nothing.unwrap().values, all.values);
}
