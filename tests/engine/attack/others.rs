//! The comparisons beyond single runs and sweeps: bases under interventions, generation, gradients
//! and paths.

use ndarray::{Axis, Slice};
use patchlens::config::MlpKind;
use patchlens::generate::{Generated, Generation};
use patchlens::gradient::Backward;
use patchlens::paths::{PathPatching, PathReceiver, PathSender};
use patchlens::sweep::Cell;
use patchlens::{
    Base, Head, HookPoint, Interventions, Prompts, Qkv, Run, Selection, Site, Sweep, hook_fn,
    logit_diff,
};

use super::cell::{Drawn, for_one};
use super::draw::NEW_TOKENS;
use super::ways::{POOLS, Ways, bits, same_caches};
use crate::full_passes::Path;

impl Ways<'_> {
    /// A sweep over runs under interventions themselves.
    pub fn over_a_base(&mut self, cells: &[Vec<Drawn>]) {
        let lists: Vec<Cell> = cells.iter().map(|cell| self.list(cell)).collect();
        let Some(under) = lists.first() else {
            return;
        };
        let plain = Base::new(self.model(), &self.case.others).unwrap();
        let Ok(base) = Base::over(&plain, &self.case.prompts, under.clone()) else {
            return;
        };
        let metric = self.metric();
        let sweep = Sweep::over(&base);
        let before = base.metric(&metric).unwrap();
        let none = sweep.run_naive(&[vec![]], &metric).unwrap();
        assert_eq!(bits(&before), bits(&none), "base under {under:?}");
        for list in &lists {
            let cell = std::slice::from_ref(list);
            // A change before one of the base's is rejected by the sweep alone.
            if let Ok(found) = sweep.run(cell, &metric) {
                let naive = sweep.run_naive(cell, &metric).unwrap();
                assert_eq!(bits(&found.values), bits(&naive), "{list:?} over {under:?}");
                self.seen.over_a_base += 1;
            }
        }
    }

    /// Step by step over a cache of keys and values, against one pass over the whole text.
    pub fn generation(&mut self, cell: &[Drawn]) {
        let list = self.list(cell);
        let prompts = &self.case.prompts;
        let mut hooks = Interventions::new(&list[..]);
        let greedy = Generation::greedy(NEW_TOKENS);
        let Ok(found) = self.model().generate(prompts, &mut hooks, &greedy) else {
            return;
        };
        let run = |text: &[u32]| text[..text.len() - 1].to_vec();
        let texts = Prompts::new(found.iter().map(|of| run(&of.tokens))).unwrap();
        let mut again = Interventions::new(&list[..]);
        let whole = self
            .model()
            .run(&texts, &mut again, &Run::default())
            .unwrap();
        for (i, of) in found.iter().enumerate() {
            let logits = whole.logits.get(i);
            let expected = logits.slice_axis(Axis(0), Slice::from(of.prompt_len - 1..));
            assert_eq!(
                bits(&of.logits),
                bits(expected),
                "generation, prompt {i}: {list:?}"
            );
        }
        let [stepwise, whole] = [hooks, again].map(|hooks| hooks.receipt());
        assert_eq!(stepwise.blocked, whole.blocked, "generation: {list:?}");
        for (i, (drawn, fired)) in cell.iter().zip(&stepwise.fired).enumerate() {
            // After the blocks, a step runs its last row only.
            let late = drawn.point > HookPoint::Block(usize::MAX, Site::ResidPost);
            let first = |of: &Generated| if late { of.prompt_len - 1 } else { 0 };
            let from: Vec<usize> = found.iter().map(first).collect();
            let rows = self.rows(&texts, drawn, &from);
            assert_eq!(fired.rows, rows, "rows in generation: {list:?}");
            let changed = self.changed_rows(&texts, &list, i, &from);
            assert_eq!(fired.changed_rows, changed, "generation, {i}: {list:?}");
        }
        self.seen.generated += 1;
    }

    /// Gradients under interventions: of a batch, of each prompt alone, on other threads.
    pub fn gradients(&mut self, cell: &[Drawn]) {
        let everything = Selection::everything(self.model().config());
        let want = Backward {
            gradients: Some(&everything),
            ..Backward::default()
        };
        let metric = logit_diff(1, 4);
        let list = self.list(cell);
        let prompts = &self.case.prompts;
        let all = || {
            let hooks = Interventions::new(&list[..]);
            self.model().gradients(prompts, hooks, &metric, &want)
        };
        // Split inputs, and values that are not finite.
        let Ok(batch) = all() else {
            return;
        };
        for pool in &*POOLS {
            let again = pool.install(all).unwrap();
            for (a, b) in again.gradients.iter().zip(&batch.gradients) {
                same_caches(a, b, &format!("gradients, threads: {list:?}"));
            }
        }
        for (i, prompt) in prompts.iter().enumerate() {
            let hooks = Interventions::new(for_one(cell, i, prompts.len()));
            let alone = self
                .model()
                .gradients(prompt, hooks, &metric, &want)
                .unwrap();
            let what = format!("gradients, prompt {i}: {list:?}");
            same_caches(&alone.gradients[0], &batch.gradients[i], &what);
            assert_eq!(
                alone.values[0].to_bits(),
                batch.values[i].to_bits(),
                "{what}"
            );
        }
        self.seen.gradients += 1;
    }

    /// The length of the gradient at a random point, against the slope along it.
    pub fn slope(&mut self) {
        let points: Vec<HookPoint> = HookPoint::of(self.model().config()).collect();
        let point = self.source.pick(&points);
        let selection = Selection::points([point]);
        let want = Backward {
            gradients: Some(&selection),
            ..Backward::default()
        };
        let metric = logit_diff(1, 4);
        let prompt = &self.case.prompts[0];
        let found = self.model().gradients(prompt, (), &metric, &want).unwrap();
        let gradient = found.gradients[0].get(point).unwrap();
        let length = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        // Shorter ones drown in rounding.
        if !(1e-2..1e2).contains(&length) {
            return;
        }
        let moved = |step: f64| {
            let hook = hook_fn(point, |_, mut x| {
                let along = |(x, g): (&mut f32, &f32)| *x += (step * f64::from(*g) / length) as f32;
                x.iter_mut().zip(gradient.iter()).for_each(along);
            });
            let logits = self.model().run_with_hooks(prompt, hook).unwrap();
            f64::from(metric.evaluate(0, logits.view()).unwrap())
        };
        // A long step suffers from curvature, a short one from rounding; at a kink, the gradient is
        // the slope on one side.
        let here = moved(0.0);
        let slopes = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4].map(|step| {
            let (ahead, behind) = (moved(step) - here, here - moved(-step));
            [ahead, behind, (ahead + behind) / 2.0].map(|change| change / step)
        });
        let close = |slope: &f64| (slope - length).abs() < 0.03 * length;
        if !slopes.iter().flatten().any(close) {
            let near = |slope: &f64, other: &f64| (slope - other).abs() < 0.01 * slope.abs();
            let smooth =
                |two: &[[f64; 3]]| two.iter().flatten().all(|slope| near(slope, &two[0][0]));
            let none = !slopes.windows(2).any(smooth);
            assert!(none, "{point}: slopes {slopes:?}, length {length}");
            return;
        }
        self.seen.slopes += 1;
    }

    /// One path, against full passes with every head patched.
    pub fn path(&mut self) {
        let config = self.model().config();
        let (n_layers, n_heads) = (config.n_layers, config.n_heads);
        let source = &mut *self.source;
        let mut head = || Head::new(source.below(n_layers), source.below(n_heads));
        let (sender, at) = (head(), head());
        let inputs = [
            (Qkv::Q, Site::QInput),
            (Qkv::K, Site::KInput),
            (Qkv::V, Site::VInput),
        ];
        let (receiver, place) = match self.source.below(5) {
            0 => (PathReceiver::mlp(at.layer), (Site::MlpIn, at.layer, None)),
            1 => (
                PathReceiver::final_residual(),
                (Site::ResidPost, n_layers - 1, None),
            ),
            _ => {
                let (input, site) = self.source.pick(&inputs);
                (
                    PathReceiver::head(at, input),
                    (site, at.layer, Some(at.head)),
                )
            }
        };
        let freeze_mlps = self.source.chance(50);
        let metric = self.metric();
        let (model, prompts, others) = (self.model(), &self.case.prompts, &self.case.others);
        let study = PathPatching::new(model, prompts, others).unwrap();
        let study = study.freeze_mlps(freeze_mlps);
        let senders = [vec![PathSender::new(sender)]];
        let found = match study.run_sets(&senders, std::slice::from_ref(&receiver), &metric) {
            Ok(found) => found,
            Err(error) => {
                let later =
                    at.layer > sender.layer || (place.0 == Site::MlpIn && at.layer == sender.layer);
                let lacks = place.0 == Site::MlpIn && config.mlp == MlpKind::None;
                let none = lacks || !later && place.0 != Site::ResidPost;
                assert!(none, "{sender} to {receiver}: {error}");
                return;
            }
        };
        let path = Path {
            model,
            original: prompts,
            new: others,
            sender,
            receiver: place,
            freeze_mlps,
        };
        let expected = path.by_full_passes(&metric);
        assert_eq!(bits(&found.values), expected, "{sender} to {receiver}");
        self.seen.paths += 1;
    }
}
