//! Activations, logits and losses against TransformerLens, name by name.

use crate::common::Comparison;
use ndarray::{arr0, arr1};
use patchlens::metric::next_token_loss;
use patchlens::{HookPoint, Selection};

/// f32 against f32 computed in another order: relative to each tensor's largest value.
const BOUND: f32 = 1e-5;

#[test]
fn every_hook_point_equals_transformer_lens() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let reference = crate::common::tensors(name, "reference.safetensors");
        let metadata = crate::common::metadata(name);
        let mut comparison = Comparison::new(BOUND);
        for (i, prompt) in ["p0", "p1"].into_iter().enumerate() {
            let tokens = crate::common::tokens(&metadata["prompts"][i]);
            let everything = Selection::everything(model.config());
            let (logits, cache) = model.run_with_cache(&tokens, &everything).unwrap();
            for point in HookPoint::all(model.config().n_layers) {
                let key = format!("{prompt}/{point}");
                let expected = reference
                    .get(&key)
                    .unwrap_or_else(|| panic!("no golden {key}"));
                comparison.add(&key, cache.get(point).unwrap(), expected.view());
            }
            let key = format!("{prompt}/logits");
            comparison.add(&key, logits.view().into_dyn(), reference[&key].view());
            let (loss, per_token) = next_token_loss(logits.view(), &tokens).unwrap();
            let key = format!("{prompt}/loss");
            comparison.add(&key, arr0(loss).into_dyn().view(), reference[&key].view());
            let key = format!("{prompt}/loss_per_token");
            comparison.add(
                &key,
                arr1(&per_token).into_dyn().view(),
                reference[&key].view(),
            );
        }
        comparison.finish(name);
    }
}
