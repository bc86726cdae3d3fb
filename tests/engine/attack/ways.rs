//! The ways to compute the same numbers, compared by their bits.

use std::sync::LazyLock;

use ndarray::{ArrayView1, Axis, Slice};
use patchlens::metric::{kl_divergence, log_probability, logit, probability, rank};
use patchlens::sweep::Cell;
use patchlens::{
    ActivationCache, Error, HookPoint, Intervention, Interventions, Metric, Prompts, Run,
    RunOutput, Selection, Site, Sweep, Transformer, hook_fn, logit_diff,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::cell::{Drawn, for_all, for_one};
use super::draw::Case;
use super::seen::Seen;
use super::source::{Kinds, Source};

/// One thread, and three.
pub static POOLS: LazyLock<[ThreadPool; 2]> = LazyLock::new(|| {
    [1, 3].map(|threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    })
});

/// All comparisons on what a seed draws.
pub fn compare(seed: u64, kinds: Kinds) -> Seen {
    let mut source = Source::new(seed, kinds);
    let case = source.case();
    let mut ways = Ways {
        case: &case,
        source: &mut source,
        seen: Seen::default(),
    };
    let accepted = ways.accepted();
    let naive: Vec<RunOutput> = accepted.iter().map(|cell| ways.full(cell)).collect();
    ways.sweeps(&accepted, &naive);
    for (cell, naive) in accepted.iter().zip(&naive) {
        ways.receipt(cell);
        ways.observed(cell, naive);
        ways.alone(cell, naive);
        ways.threads(cell, naive);
        ways.gradients(cell);
    }
    ways.over_a_base(&accepted);
    case.growing.iter().for_each(|cell| ways.generation(cell));
    ways.slope();
    ways.path();
    ways.seen
}

/// Values as their bits.
pub fn bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    values.into_iter().map(|v| v.to_bits()).collect()
}

fn logits(output: &RunOutput) -> Vec<Vec<u32>> {
    output.logits.iter().map(bits).collect()
}

/// A number of all logits that differs if any of their bits do, all but surely.
fn digest() -> Metric {
    Metric::from_fn("digest", |_, logits| {
        let mix = |sum: u64, v: &f32| {
            let sum = (sum ^ u64::from(v.to_bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            sum ^ (sum >> 29)
        };
        (logits.iter().fold(1, mix) >> 40) as f32
    })
}

/// What the seed has drawn, and the numbers that are still drawn on the way.
pub struct Ways<'c> {
    pub case: &'c Case,
    pub source: &'c mut Source,
    pub seen: Seen,
}

impl<'c> Ways<'c> {
    pub fn model(&self) -> &'c Transformer {
        &self.case.model
    }

    /// A cell for all prompts.
    pub fn list(&self, cell: &[Drawn]) -> Cell {
        for_all(cell, self.case.prompts.len())
    }

    fn full(&self, cell: &[Drawn]) -> RunOutput {
        let hooks = Interventions::new(self.list(cell));
        let run = Run::default();
        self.model().run(&self.case.prompts, hooks, &run).unwrap()
    }

    /// A metric that reads one position or all of them.
    pub fn metric(&mut self) -> Metric {
        let d_vocab = self.model().config().d_logits();
        let (first, step) = (
            self.source.below(d_vocab),
            self.source.within(1..=d_vocab - 1),
        );
        // The other one differs.
        let tokens = [first, (first + step) % d_vocab].map(|token| token as u32);
        let metric = match self.source.below(7) {
            0 => return digest(),
            1 => logit(&tokens[..1]),
            2 => probability(&tokens[..1]),
            3 => log_probability(&tokens[..1]),
            4 => rank(&tokens[..1]),
            5 => {
                let other = self.model().forward([0]).unwrap();
                let kl = kl_divergence().at_position(0);
                return kl.with_reference(&[other.view()]).unwrap();
            }
            _ => logit_diff(tokens[0], tokens[1]),
        };
        let shortest = *self.case.prompts.lengths().iter().min().unwrap();
        if self.source.chance(60) {
            return metric;
        }
        metric.at_position(self.source.below(shortest))
    }

    /// The cells that can run; those that cannot are rejected in both ways.
    fn accepted(&mut self) -> Vec<Vec<Drawn>> {
        let sweep = Sweep::new(self.model(), &self.case.prompts).unwrap();
        let runs = |cell: &[Drawn]| {
            let list = self.list(cell);
            let hooks = Interventions::new(&list[..]);
            let naive = self.model().run(&self.case.prompts, hooks, &Run::default());
            let cells = [list.clone()];
            let swept = sweep.run(&cells, &digest());
            let accepted = naive.is_ok();
            let message = |error: Option<Error>| error.map(|error| error.to_string());
            let [naive, swept] = [naive.err(), swept.err()].map(message);
            assert_eq!(naive, swept, "rejected: {list:?}");
            accepted
        };
        let accepted: Vec<Vec<Drawn>> = self
            .case
            .cells
            .iter()
            .filter(|c| runs(c))
            .cloned()
            .collect();
        self.seen.cells += self.case.cells.len();
        self.seen.rejected += self.case.cells.len() - accepted.len();
        let narrow = accepted.iter().filter(|c| c.iter().any(Drawn::is_narrow));
        self.seen.narrow += narrow.count();
        accepted
    }

    /// A sweep of all cells, in one chunk and in many, on one thread and on three.
    fn sweeps(&mut self, cells: &[Vec<Drawn>], naive: &[RunOutput]) {
        if cells.is_empty() {
            return;
        }
        let lists: Vec<Cell> = cells.iter().map(|cell| self.list(cell)).collect();
        let sweep = Sweep::new(self.model(), &self.case.prompts).unwrap();
        for (metric, all_rows) in [(digest(), true), (self.metric(), false)] {
            let expected: Vec<u32> = naive
                .iter()
                .flat_map(|output| output.logits.iter().enumerate())
                .map(|(prompt, logits)| metric.evaluate(prompt, logits).unwrap().to_bits())
                .collect();
            let run = |sweep: &Sweep<'_>, what: &str| {
                let found = sweep.run(&lists, &metric).unwrap();
                assert_eq!(
                    bits(&found.values),
                    expected,
                    "{what}, {metric:?}: {lists:?}"
                );
                assert_eq!(found.multiply_adds, found.plan.multiply_adds, "{what}");
                assert_eq!(found.rows, found.plan.rows, "{what}");
                assert!(
                    !found.partial && found.finished.iter().all(|f| *f),
                    "{what}"
                );
                found
            };
            let found = run(&sweep, "sweep");
            for (i, output) in naive.iter().enumerate() {
                let blocked = found.blocked.get(&i).copied().unwrap_or_default();
                if all_rows {
                    assert_eq!(blocked, output.blocked, "blocked: {:?}", lists[i]);
                }
                // Of rows that the metric does not read, nothing is known.
                assert!(blocked.rows <= output.blocked.rows, "{:?}", lists[i]);
            }
            for pool in &*POOLS {
                let again = pool.install(|| run(&sweep, "threads"));
                assert_eq!(again.blocked, found.blocked, "threads");
            }
            let small = sweep.clone().memory_limit(1);
            if let Err(Error::MemoryLimit { least, .. }) = small.run(&lists, &metric) {
                let again = run(&sweep.clone().memory_limit(least), "chunks");
                assert_eq!(again.blocked, found.blocked, "chunks");
            }
        }
        self.seen.blocked_rows += naive
            .iter()
            .map(|output| output.blocked.rows)
            .sum::<usize>();
        let nan =
            |output: &&RunOutput| output.logits.iter().any(|of| of.iter().any(|v| v.is_nan()));
        self.seen.not_a_number += naive.iter().filter(nan).count();
    }

    /// Receipts against what the caches of two runs show, without and with each intervention.
    fn receipt(&mut self, cell: &[Drawn]) {
        let list = self.list(cell);
        let mut hooks = Interventions::new(&list[..]);
        let prompts = &self.case.prompts;
        self.model()
            .run(prompts, &mut hooks, &Run::default())
            .unwrap();
        let receipt = hooks.receipt();
        let lengths = prompts.lengths();
        let from = vec![0; lengths.len()];
        for (i, (drawn, fired)) in cell.iter().zip(&receipt.fired).enumerate() {
            let taken = drawn.sequences.places(0, lengths.len());
            assert_eq!(fired.times, taken.len(), "times: {list:?}");
            let rows = self.rows(prompts, drawn, &from);
            assert_eq!(fired.rows, rows, "rows: {list:?}");
            let changed = self.changed_rows(prompts, &list, i, &from);
            assert_eq!(fired.changed_rows, changed, "changed rows of {i}: {list:?}");
            self.seen.changed_rows += changed;
        }
    }

    /// How many rows an intervention names, of positions from one on, by prompt.
    pub fn rows(&self, prompts: &Prompts, drawn: &Drawn, from: &[usize]) -> usize {
        let lengths = prompts.lengths();
        let heads = |prompt: usize| {
            if drawn.point.axes().has_heads() {
                drawn
                    .heads
                    .places(prompt, self.model().config().n_heads)
                    .len()
            } else {
                1
            }
        };
        let of_prompt = |prompt: usize| {
            let positions = drawn.positions.places(prompt, lengths[prompt]);
            positions.range(from[prompt]..).count() * heads(prompt)
        };
        let taken = drawn.sequences.places(0, lengths.len());
        taken.into_iter().map(of_prompt).sum()
    }

    /// How many rows one of several interventions changes, when its turn comes, of positions from
    /// one on, by prompt.
    pub fn changed_rows(
        &self,
        prompts: &Prompts,
        list: &[Intervention],
        which: usize,
        from: &[usize],
    ) -> usize {
        let point = list[which].target.point;
        let selection = Selection::points([point]);
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let until = |end: usize| {
            let stays =
                |(i, other): &(usize, &Intervention)| *i < end || other.target.point != point;
            let some = list.iter().enumerate().filter(stays);
            let hooks = Interventions::new(some.map(|(_, i)| i.clone()).collect::<Vec<_>>());
            self.model().run(prompts, hooks, &run).unwrap().caches
        };
        let axis = Axis(point.axes().pos_axis());
        let differing = |((a, b), from): ((&ActivationCache, &ActivationCache), &usize)| {
            let [a, b] = [a, b].map(|cache| cache.get(point).unwrap());
            let [a, b] = [&a, &b].map(|whole| whole.slice_axis(axis, Slice::from(*from..)));
            let rows = a.rows().into_iter().zip(b.rows());
            // A weight of attention may be −0 behind the mask.
            let zeros = |row: ArrayView1<'_, f32>| match point {
                HookPoint::Block(_, Site::Pattern) => bits(&row.mapv(|v| v + 0.0)),
                _ => bits(row),
            };
            rows.filter(|(a, b)| zeros(*a) != zeros(*b)).count()
        };
        let [before, after] = [until(which), until(which + 1)];
        before.iter().zip(&after).zip(from).map(differing).sum()
    }

    /// Caching and looking change nothing.
    fn observed(&mut self, cell: &[Drawn], naive: &RunOutput) {
        let list = self.list(cell);
        let config = self.model().config();
        let mut points: Vec<HookPoint> = HookPoint::of(config).collect();
        if self.source.chance(70) {
            points.retain(|_| self.source.chance(20));
        }
        let prompts = &self.case.prompts;
        let look = hook_fn(points.clone(), |_, _| ());
        let hooks = (Interventions::new(&list[..]), look);
        let looked = self.model().run(prompts, hooks, &Run::default()).unwrap();
        let selection = Selection::points(points.clone());
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let hooks = Interventions::new(&list[..]);
        let cached = self.model().run(prompts, hooks, &run).unwrap();
        for (what, output) in [("looked", looked), ("cached", cached)] {
            assert_eq!(
                logits(&output),
                logits(naive),
                "{what} at {points:?}: {list:?}"
            );
            assert_eq!(
                output.blocked, naive.blocked,
                "{what} at {points:?}: {list:?}"
            );
        }
    }

    /// Each prompt of the batch alone.
    fn alone(&mut self, cell: &[Drawn], naive: &RunOutput) {
        let everything = Selection::everything(self.model().config());
        let run = Run {
            cache: Some(&everything),
            ..Run::default()
        };
        let prompts = &self.case.prompts;
        let list = self.list(cell);
        let batch = self
            .model()
            .run(prompts, Interventions::new(&list[..]), &run);
        let batch = batch.unwrap();
        let mut blocked = 0;
        for (i, prompt) in prompts.iter().enumerate() {
            let own = for_one(cell, i, prompts.len());
            let what = format!("prompt {i}: {list:?}");
            let hooks = Interventions::new(&own[..]);
            let alone = self.model().run(prompt, hooks, &run).unwrap();
            assert_eq!(
                bits(alone.logits.get(0)),
                bits(naive.logits.get(i)),
                "{what}"
            );
            blocked += alone.blocked.rows;
            same_caches(&alone.caches[0], &batch.caches[i], &what);
        }
        assert_eq!(blocked, naive.blocked.rows, "blocked alone: {list:?}");
    }

    fn threads(&mut self, cell: &[Drawn], naive: &RunOutput) {
        for pool in &*POOLS {
            let output = pool.install(|| self.full(cell));
            assert_eq!(
                logits(&output),
                logits(naive),
                "threads: {:?}",
                self.list(cell)
            );
            assert_eq!(
                output.blocked,
                naive.blocked,
                "threads: {:?}",
                self.list(cell)
            );
        }
    }
}

/// Asserts that two caches hold the same bits at the same points.
pub fn same_caches(a: &ActivationCache, b: &ActivationCache, what: &str) {
    assert!(a.points().eq(b.points()), "{what}");
    for point in a.points() {
        let of = |cache: &ActivationCache| -> Vec<u32> { bits(cache.get(point).unwrap()) };
        assert_eq!(of(a), of(b), "{what}: {point}");
    }
}
