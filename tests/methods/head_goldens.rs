//! Head detection, pattern and copy scores, weight circuits and composition against
//! TransformerLens, on random weights and on the shipped model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::common::Comparison;

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use patchlens::heads::{
    Attention, AttentionPattern, AttentionScores, Closeness, CopyScores, Detection, pattern_scores,
};
use patchlens::prompt::IntoPrompts;
use patchlens::report::{Absent, Labelled};
use patchlens::weights::{Circuits, Embedding, FactoredMatrix};
use patchlens::{Head, Prompt, Qkv, Transformer};

mod weights;

/// What every head attends to.
pub fn attended(
    model: &Transformer,
    prompts: impl IntoPrompts,
    what: Attention<'_>,
) -> patchlens::Result<Labelled> {
    Ok(AttentionScores::new(model, prompts)?.run(what)?.effect)
}

/// The study is that of its prompts one by one, may be ended early, and keeps within its memory.
#[test]
fn attention_scores_are_a_study() {
    let model = crate::common::open("tiny-gelu");
    let prompts: Vec<Prompt> = (0..20).map(|i| Prompt::from([1, 2, i, 1, 2, i])).collect();
    let prompts = patchlens::Prompts::new(prompts).unwrap();
    let all = AttentionScores::new(&model, &prompts).unwrap();
    let what = Attention::Patterns(&AttentionPattern::STANDARD);
    let whole = all.run(what).unwrap();
    assert!(!whole.effect.about.partial);
    for (i, prompt) in prompts.iter().enumerate() {
        let one = attended(&model, prompt, what).unwrap();
        let of_all = whole.per_prompt.index_axis(ndarray::Axis(3), i).into_dyn();
        let same = of_all.iter().zip(one.values());
        assert!(
            same.into_iter().all(|(a, b)| a.to_bits() == b.to_bits()),
            "prompt {i}"
        );
    }
    let mut seen = Vec::new();
    let ended = AttentionScores::new(&model, &prompts)
        .unwrap()
        .observe(|progress| {
            seen.push(progress.done);
            std::ops::ControlFlow::Break(())
        });
    let part = ended.run(what).unwrap();
    drop(ended);
    assert!(part.effect.about.partial && part.per_prompt.dim().3 == seen[0] && seen[0] < 20);
    assert!(
        part.per_prompt
            .iter()
            .zip(
                whole
                    .per_prompt
                    .slice_axis(ndarray::Axis(3), (..seen[0]).into())
            )
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );

    let bounded = |bytes| {
        AttentionScores::new(&model, &prompts)
            .unwrap()
            .memory_limit(bytes)
            .run(what)
    };
    let Err(patchlens::Error::MemoryLimit { least, .. }) = bounded(1) else {
        panic!("one byte is too little");
    };
    assert_eq!(
        bounded(least).unwrap().per_prompt.mapv(f32::to_bits),
        whole.per_prompt.mapv(f32::to_bits)
    );
}

const BOUND: f32 = 1e-5;

const KINDS: [(&str, AttentionPattern); 3] = [
    ("previous_token_head", AttentionPattern::PreviousToken),
    ("duplicate_token_head", AttentionPattern::DuplicateToken),
    ("induction_head", AttentionPattern::Induction),
];

/// A model, and what TransformerLens makes of it.
struct Golden {
    name: &'static str,
    model: Transformer,
    tensors: BTreeMap<String, ArrayD<f32>>,
    /// Of `analysis.py` for random models, of `heads.py` for the shipped one.
    metadata: serde_json::Value,
    /// Of `heads.py`.
    heads: serde_json::Value,
}

/// The random models and the shipped one.
fn goldens() -> Vec<Golden> {
    let heads = |name: &str| {
        let text = std::fs::read_to_string(crate::common::dir(name).join("heads.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let random = crate::common::MODELS.map(|name| {
        let mut tensors = crate::common::tensors(name, "analysis.safetensors");
        tensors.extend(crate::common::tensors(name, "heads.safetensors"));
        Golden {
            name,
            model: crate::common::open(name),
            tensors,
            metadata: crate::common::metadata(name)["analysis"].clone(),
            heads: heads(name),
        }
    });
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/mini");
    let shipped = Golden {
        name: "mini",
        model: Transformer::open(assets).unwrap(),
        tensors: crate::common::tensors("mini", "heads.safetensors"),
        metadata: heads("mini"),
        heads: heads("mini"),
    };
    random.into_iter().chain([shipped]).collect()
}

impl Golden {
    fn head(&self, what: &str) -> Head {
        let [layer, head] = crate::common::tokens(&self.heads[what])[..] else {
            panic!("{}: no head {what}", self.name);
        };
        Head::new(layer as usize, head as usize)
    }

    fn prompts(&self, what: &str) -> Vec<Prompt> {
        let list = self.heads[what].as_array().unwrap().iter();
        list.map(|p| Prompt::from(crate::common::tokens(p)))
            .collect()
    }
}

#[test]
fn head_detection() {
    for golden in goldens() {
        let Golden {
            name,
            model,
            tensors: reference,
            metadata,
            ..
        } = golden;
        let tokens = crate::common::tokens(&metadata["repeating_prompt"]);
        let prompt = Prompt::from(&tokens[..]);
        let mut comparison = Comparison::new(BOUND);
        for (kind, pattern) in KINDS {
            let matrix = pattern.matrix(&tokens);
            let key = format!("heads/{kind}/detection_pattern");
            assert_eq!(matrix.view().into_dyn(), reference[&key], "{name} {key}");
            let measures = [("mul", Closeness::Mul), ("abs", Closeness::Abs)];
            let exclusions = [
                ("none", (false, false)),
                ("bos", (true, false)),
                ("current", (false, true)),
                ("both", (true, true)),
            ];
            for (measure_name, measure) in measures {
                for (excluded, (exclude_bos, exclude_current_token)) in exclusions {
                    let detection = Detection {
                        measure,
                        exclude_bos,
                        exclude_current_token,
                    };
                    let patterns = [matrix.clone()];
                    let found =
                        attended(&model, &prompt, Attention::Matrices(&patterns, detection))
                            .unwrap();
                    let key = format!("heads/{kind}/{measure_name}/{excluded}");
                    comparison.add(&key, found.values(), reference[&key].view());
                }
            }
        }
        comparison.finish(name);
    }
}

/// TransformerLens has zeros where there is no path.
fn with_zeros(scores: &Labelled) -> ArrayD<f32> {
    let mut values = scores.values().to_owned();
    values.zip_mut_with(&scores.absent(), |value, absent| {
        if *absent == Some(Absent::NoPath) {
            *value = 0.0;
        }
    });
    values
}

#[test]
fn composition_of_all_pairs() {
    for golden in goldens() {
        let (name, reference) = (golden.name, &golden.tensors);
        let mut comparison = Comparison::new(BOUND);
        for kind in Qkv::ALL {
            let found = Circuits::new(&golden.model)
                .composition_scores(kind)
                .unwrap();
            let key = format!("composition/{kind:?}");
            let found = with_zeros(&found);
            comparison.add(&key, found.view(), reference[&key].view());
        }
        let table = Circuits::new(&golden.model).composition_table().unwrap();
        let table = with_zeros(&table);
        for (i, kind) in Qkv::ALL.into_iter().enumerate() {
            let expected = &reference[&format!("composition/{kind:?}")];
            let found = table.index_axis(Axis(0), i);
            let expected = expected.to_shape(found.shape()).unwrap();
            comparison.add(&format!("table {kind:?}"), found, expected.view());
        }
        comparison.finish(name);
    }
}
