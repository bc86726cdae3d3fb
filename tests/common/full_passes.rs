//! Path patching by full passes with every head patched by hand, to compare with.

use patchlens::intervention::Values;
use patchlens::{
    ActivationCache, Edit, Head, Intervention, Interventions, Metric, Prompts, Run, Selection,
    Site, Sweep, Target, Transformer,
};

/// Everything of the runs of some prompts under interventions.
pub fn caches(
    model: &Transformer,
    prompts: &Prompts,
    hooks: &[Intervention],
) -> Vec<ActivationCache> {
    let selection = Selection::everything(model.config());
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    let hooks = Interventions::new(hooks.to_vec());
    model.run(prompts, hooks, &run).unwrap().caches
}

/// Wang et al. (2022)'s paths from one head to one receiver, given by its place in the model.
pub struct Path<'p> {
    pub model: &'p Transformer,
    pub original: &'p Prompts,
    pub new: &'p Prompts,
    pub sender: Head,
    /// Site, layer and, of a head's input, the head.
    pub receiver: (Site, usize, Option<usize>),
    pub freeze_mlps: bool,
}

impl Path<'_> {
    /// The metric of run D, `[prompt]` as bits: runs A and B as they are, C with every head (and
    /// MLP) patched, D with the receiver's input.
    pub fn by_full_passes(&self, metric: &Metric) -> Vec<u32> {
        let Path { model, sender, .. } = self;
        let a = caches(model, self.new, &[]);
        let b = caches(model, self.original, &[]);
        let patch = |caches: &[ActivationCache], target: Target| {
            let edit = Edit::patch(caches, target.point).unwrap();
            Intervention::new(target, edit)
        };
        let mut c = Vec::new();
        for layer in 0..model.config().n_layers {
            c.push(patch(&b, Target::new(Site::Z.at(layer))));
            let mlp = Site::MlpOut.at(layer);
            if self.freeze_mlps && mlp.check(model.config()).is_ok() {
                c.push(patch(&b, Target::new(mlp)));
            }
        }
        let z = Target::new(Site::Z.at(sender.layer));
        c.push(patch(&a, z.at_heads(sender.head)));
        let saved = caches(model, self.original, &c);
        let (site, layer, head) = self.receiver;
        let at = site.at(layer);
        let target = match head {
            Some(head) => Target::new(at).at_heads(head),
            None => Target::new(at),
        };
        let values = Values::from_caches(&saved, at).unwrap();
        let d = vec![vec![Intervention::new(target, Edit::Patch(values))]];
        let sweep = Sweep::new(model, self.original).unwrap();
        let values = sweep.run_naive(&d, metric).unwrap();
        values.iter().map(|v| v.to_bits()).collect()
    }
}
