//! Circuits: which edges between heads and MLPs carry a behaviour.

mod screen;

use anyhow::Result;
use clap::Args;
use ndarray::Array2;
use patchlens::circuits::{
    Acdc, Approximation, CircuitEvaluation, EdgeAttribution, EdgeEffects, EdgeScores, EdgeSet,
    ExactEdges, FaithfulnessCurve, Ranking, ScoredCircuit, Steps,
};
use patchlens::report::{About, Absent, Axis, Labelled};
use patchlens::tasks::Corruption;
use patchlens::{Base, Metric, Prompts};

use crate::interrupt;
use crate::missing::not_run;
use crate::numbers;
use crate::options::{Common, PromptArgs, TaskName, prompts_by_default};
use crate::questions::{Questions, Takes};
use crate::session::Session;
use crate::usage::usage;
use crate::work::Divided;

/// Circuits: which edges between heads and MLPs carry the behaviour?
///
/// The effect of every edge (what a head, MLP or the embedding writes, as one later reader reads
/// it), computed exactly, and estimated by gradients (EAP, EAP-IG) and with what the reader makes
/// of it computed (receiver-exact); how well the estimates agree; and which share of the behaviour
/// is left if all edges but the best n carry the corrupted run.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(TAKES.prompts)))]
#[command(after_help = "\
Examples:
  patchlens circuits --out study
  patchlens circuits --task greater-than --carries 0.95
  patchlens circuits --approximate --acdc 0.02 --acdc 0.2 --metric kl
  patchlens circuits --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --corrupted \"When Mary and John went to the store, Mary gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\"
  patchlens circuits --pairs pairs.json --screen 1000 --model weights/gpt2")]
pub struct Circuits {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Do not compute exact effects, which take a minute per pair in GPT-2 small: rank by
    /// receiver-exact scores
    #[arg(long)]
    approximate: bool,
    /// Compute exact effects only of the N edges with the largest receiver-exact scores, which
    /// estimate them best, and of N random others, which bound what was missed
    #[arg(long, value_name = "N", conflicts_with = "approximate",
        value_parser = numbers::from_1::<usize>())]
    screen: Option<usize>,
    /// Points at which EAP-IG and receiver-exact scores take gradients
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = numbers::whole::<usize>(1..=10_000))]
    steps: usize,
    /// The share of the behaviour that the circuit shall carry
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, value_parser = numbers::share)]
    carries: f32,
    /// Also search by ACDC: keep the edges whose removal raises KL, or lowers any other metric, by
    /// this much, in the metric's unit (may be given several times)
    #[arg(long, value_name = "TAU", value_parser = numbers::finite)]
    acdc: Vec<f32>,
}

const TAKES: Takes = Takes {
    tasks: &[TaskName::Ioi, TaskName::GreaterThan, TaskName::KeyValue],
    prompts: 8,
    corruption: Corruption::Aba,
    template: None,
    corrupted: true,
    wrong: false,
    unequal: false,
};

/// Shares of all edges whose circuits are run.
const SHARES: [f64; 12] = [
    0.0, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0,
];
/// How many edges are listed.
const LISTED: usize = 10;

impl Circuits {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let output = &session.output;
        let questions = Questions::new(&self.prompts, TAKES, &session.tokenizer, output)?;
        let (questions, metric) = session.begin(questions, false, self.prompts.metric)?;
        session.introduce(&questions)?;
        let corrupted = Prompts::new(&questions.corrupted)?;
        let clean = Base::new(&session.model, &questions.clean)?;
        let corrupted = Base::new(&session.model, &corrupted)?;
        let metric = clean.refer(&metric)?;
        let pairs = Study {
            session,
            questions: &questions,
            runs: [&clean, &corrupted],
            metric: &metric,
        };
        if session.work.is_part() {
            if !self.all_exact() {
                return Err(usage("--shard is for exact effects of all edges"));
            }
            pairs.exact()?;
            session.work.last_step()?;
        }
        let found = self.effects(&pairs)?;
        let (best, effects) = &found[0];
        output.say(format_args!(
            "The {} edges with the largest effects ({best}):\n{}",
            LISTED.min(effects.edges.len()),
            effects.effect.top(LISTED)
        ))?;
        interrupt::check()?;
        if let Some(missing) = not_run(&effects.effect) {
            return output.say(format_args!(
                "{missing}: how well estimates agree with them, and which circuits they make, \
                 needs all of them."
            ));
        }
        if self.all_exact() {
            pairs.agreements(effects, &found[1..])?;
        }
        self.circuits(&pairs, &found)
    }

    /// What circuits of the edges with the largest effects carry.
    fn circuits(&self, pairs: &Study<'_>, found: &[(&'static str, EdgeEffects)]) -> Result<()> {
        let output = &pairs.session.output;
        let mut scores = found
            .iter()
            .map(|(name, effects)| Ok((*name, effects.scores()?)))
            .collect::<Result<Vec<_>>>()?;
        if let Some(n) = self.screen {
            let screened = pairs.screened(n, Steps::Right(self.steps))?;
            scores.insert(0, ("screened", screened));
            interrupt::check()?;
        }
        let curve = pairs.curve(&scores)?;
        output.say(curve.curves()?)?;
        output.keep("faithfulness", &curve)?;
        interrupt::check()?;
        output.say(pairs.areas(&scores)?)?;
        interrupt::check()?;
        output.say(pairs.smallest(&scores[0].1, self.carries)?)?;
        if !self.acdc.is_empty() {
            output.say(pairs.acdc(&self.acdc)?)?;
        }
        interrupt::check()
    }

    /// Whether all edges have their exact effects.
    fn all_exact(&self) -> bool {
        !self.approximate && self.screen.is_none()
    }

    /// The effects of all edges, those that circuits are made of first.
    fn effects(&self, pairs: &Study<'_>) -> Result<Vec<(&'static str, EdgeEffects)>> {
        let (output, steps) = (&pairs.session.output, Steps::Right(self.steps));
        let mut found = Vec::new();
        let mut keep = |name: &'static str, effects: EdgeEffects| -> Result<()> {
            output.keep(&key(name), &pairs.questions.seeded(&effects.effect))?;
            found.push((name, effects));
            Ok(())
        };
        if self.all_exact() {
            keep("exact", pairs.exact()?)?;
        }
        for (name, method) in [
            ("receiver-exact", Approximation::ReceiverExactIg(steps)),
            ("EAP-IG", Approximation::EapIg(steps)),
            ("EAP", Approximation::Eap),
        ] {
            if interrupt::requested() {
                break;
            }
            match pairs.estimate(name, method) {
                Ok(effects) => keep(name, effects)?,
                // A KL divergence to the clean run itself has no gradient there.
                Err(error) if name == "EAP" => output.note(format_args!("EAP left out: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Prompt pairs whose runs all parts share.
struct Study<'s> {
    session: &'s Session,
    questions: &'s Questions,
    /// Clean, corrupted.
    runs: [&'s Base<'s>; 2],
    metric: &'s Metric,
}

impl Study<'_> {
    fn exact(&self) -> Result<EdgeEffects> {
        let study = ExactEdges::over(self.runs[0], self.runs[1])?
            .memory_limit(self.session.memory)
            .journal(self.session.work.journal())
            .observe(self.session.progress.observer("exact edges"));
        Ok(study.run(&EdgeSet::full(study.graph()), self.metric)?)
    }

    fn estimate(&self, name: &str, method: Approximation) -> Result<EdgeEffects> {
        let study = EdgeAttribution::over(self.runs[0], self.runs[1])?
            .memory_limit(self.session.memory)
            .journal(self.session.work.journal())
            .observe(self.session.progress.observer(name));
        Ok(study.run(method, self.metric)?)
    }

    /// How well estimates agree with the exact effects.
    fn agreements(
        &self,
        exact: &EdgeEffects,
        estimates: &[(&'static str, EdgeEffects)],
    ) -> Result<()> {
        let output = &self.session.output;
        let unit = format!("exact effect ({})", exact.effect.about.unit);
        for (name, estimate) in estimates {
            let agreement = estimate.agreement(exact)?;
            output.say(format_args!(
                "How well {name} agrees with the exact effects:\n{agreement}\n"
            ))?;
            let plot = agreement.scatter(name, &unit);
            output.scatter(&format!("{}_agreement", key(name)), &plot);
        }
        Ok(())
    }

    fn evaluation(&self, what: &str) -> Result<CircuitEvaluation<'_>> {
        Ok(CircuitEvaluation::over(self.runs[0], self.runs[1])?
            .memory_limit(self.session.memory)
            .journal(self.session.work.journal())
            .observe(self.session.progress.observer(what)))
    }

    /// The share of the behaviour by method and share of the edges; without values where it was
    /// ended.
    fn curve(&self, scores: &[(&'static str, EdgeScores)]) -> Result<Labelled> {
        let mut values = Array2::from_elem((scores.len(), SHARES.len()), f32::NAN);
        let mut errors = values.clone();
        let mut absent = values.mapv(|_| Some(Absent::NotRun));
        let mut axes = Vec::new();
        let mut about = About::default();
        for (i, (name, scores)) in scores.iter().enumerate() {
            let study = self.evaluation(&format!("circuits by {name}"))?;
            let found = study.curve(scores, Ranking::Absolute, &SHARES, self.metric)?;
            let shares = found.faithfulness;
            values.row_mut(i).assign(&shares.values());
            absent.row_mut(i).assign(&shares.absent());
            if let Some(std_error) = shares.std_error() {
                errors.row_mut(i).assign(&std_error);
            }
            axes = shares.axes().to_vec();
            about = shares.about;
            if interrupt::requested() {
                break;
            }
        }
        about.partial = absent.iter().any(|reason| *reason == Some(Absent::NotRun));
        about.caption = "The edges with the largest effects by each method carry the clean run, \
                         all others the corrupted one."
            .to_string();
        axes.insert(0, Axis::new("scores", scores.iter().map(|(name, _)| *name)));
        let curve = Labelled::new(values, axes, about)?.with_absent(absent)?;
        let several = self.questions.clean.len() > 1;
        Ok(self.questions.seeded(&if several {
            curve.with_std_error(errors)?
        } else {
            curve
        }))
    }

    /// MIB's two areas for each method, in words.
    fn areas(&self, scores: &[(&'static str, EdgeScores)]) -> Result<String> {
        let shares = FaithfulnessCurve::MIB_SHARES;
        let mut lines =
            vec!["Areas as in MIB:            CPR (higher is better)  CMD (lower)".into()];
        for (name, scores) in scores {
            let study = self.evaluation(&format!("areas by {name}"))?;
            let signed = study.curve(scores, Ranking::Signed, &shares, self.metric)?;
            let absolute = study.curve(scores, Ranking::Absolute, &shares, self.metric)?;
            let (cpr, cmd) = (signed.area(), absolute.distance());
            let number = |area: Option<f64>| area.map_or("not run".into(), |a| format!("{a:.3}"));
            lines.push(format!(
                "  {name:27} {:>20} {:>12}",
                number(cpr),
                number(cmd)
            ));
            let areas = serde_json::json!({ "cpr": cpr, "cmd": cmd });
            self.session
                .output
                .number(&format!("{}_areas", key(name)), areas)?;
        }
        Ok(lines.join("\n"))
    }

    /// The fewest of the best edges that carry a share, saved and in words; by bisection, as if the
    /// share grew with every edge.
    fn smallest(&self, scores: &EdgeScores, share: f32) -> Result<String> {
        let total = scores.graph().n_edges();
        let carried = |n: usize| -> Result<f32> {
            let circuit = scores.top_n(n, Ranking::Absolute)?;
            let study = self.evaluation("smallest circuit")?;
            let found = study.run(&[circuit], self.metric)?;
            interrupt::check()?;
            Ok(found.faithfulness()?.values()[[0]])
        };
        let (mut too_few, mut enough) = (0, total);
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            if carried(middle)? >= share {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        let circuit = scores.top_n(enough, Ranking::Absolute)?;
        let (pruned, reached) = (circuit.pruned(), carried(enough)?);
        let output = &self.session.output;
        let names: Vec<String> = pruned.edges().map(|edge| edge.to_string()).collect();
        output.number("circuit", &names)?;
        let title = format!("{enough} best of {total} edges");
        match pruned.drawing(Some(scores), &title) {
            Ok(drawing) => {
                output.file("circuit.svg", drawing.to_svg()?);
                output.file("circuit.html", drawing.to_html()?);
            }
            Err(error) => output.note(format_args!("not drawn: {error}")),
        }
        output.file("circuit.dot", pruned.to_dot(Some(scores))?);
        let file = ScoredCircuit::new(scores.clone(), circuit)?;
        output.file("circuit.json", file.to_json());
        let nodes: Vec<String> = pruned.nodes().iter().map(ToString::to_string).collect();
        let missed = if reached >= share {
            String::new()
        } else {
            format!(", less than the {share} asked for")
        };
        Ok(format!(
            "The {enough} best of {total} edges carry {:.0} % of the behaviour{missed}; {} of them \
             lead from the input to the logits, through {} nodes:\n  {}",
            100.0 * reached,
            pruned.len(),
            nodes.len(),
            nodes.join(" ")
        ))
    }

    /// The circuits that ACDC finds with some thresholds, saved and in words.
    fn acdc(&self, taus: &[f32]) -> Result<String> {
        let study = Acdc::over(self.runs[0], self.runs[1])?
            .memory_limit(self.session.memory)
            .journal(self.session.work.journal())
            .observe(self.session.progress.observer("ACDC"));
        let found = study.run(taus, self.metric)?;
        let output = &self.session.output;
        output.keep("acdc", &self.questions.seeded(&found.kept))?;
        interrupt::check()?;
        let circuits: Vec<EdgeSet> = found.searches.iter().map(|s| s.circuit.clone()).collect();
        let shares = self.evaluation("ACDC's circuits")?;
        let shares = shares.run(&circuits, self.metric)?.faithfulness()?;
        interrupt::check()?;
        let total = study.graph().n_edges();
        let mut lines = vec![format!("ACDC, {} runs:", found.runs)];
        for (search, share) in found.searches.iter().zip(shares.values()) {
            let (tau, circuit) = (search.tau, &search.circuit);
            lines.push(format!(
                "  threshold {tau}: {} of {total} edges, which carry {:.0} % of the behaviour",
                circuit.len(),
                100.0 * share
            ));
            let names: Vec<String> = circuit.edges().map(|edge| edge.to_string()).collect();
            output.number(&format!("acdc_{tau}"), &names)?;
            output.file(&format!("acdc_{tau}.dot"), circuit.to_dot(None)?);
        }
        Ok(lines.join("\n"))
    }
}

/// What a method is called in files.
fn key(method: &str) -> String {
    method.to_lowercase().replace('-', "_")
}
