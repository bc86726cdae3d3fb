//! What heads do in a task: what their ablation costs, what they write to the logits directly, and
//! whether that is the answer.

use ndarray::{Array2, Array3, ArrayView1, Axis as Dim};

use crate::ablation::{Ablation, Each, Replacement};
use crate::base::Base;
use crate::component::Head;
use crate::error::{Error, Result};
use crate::heads::attention::{Attention, AttentionScores};
use crate::heads::card::{Reading, Score, TaskEvidence};
use crate::heads::copy_scores::{Decoder, stacked};
use crate::heads::role::Role;
use crate::heads::scores::about;
use crate::hook::Site;
use crate::limits::Limits;
use crate::metric::{Metric, logit_diffs};
use crate::model::Transformer;
use crate::prompt::Prompt;
use crate::report::Labelled;
use crate::statistics::mean;
use crate::tasks::IoiPrompt;

/// A task whose metric the heads' ablation is measured by.
#[derive(Clone, Debug)]
pub struct HeadTask {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// The metric, such as the logit difference.
    pub metric: Metric,
    /// The position that predicts the answer.
    pub end: Role,
    /// Labelled positions: IO, S1, S2, subject, ...
    pub roles: Vec<Role>,
    /// The name of the role whose token is the answer.
    pub answer: Option<String>,
    /// The name of the role whose token is the wrong answer.
    pub rival: Option<String>,
}

impl HeadTask {
    /// Indirect object identification: the logit difference of IO and S, from END to the names
    /// (IO, S1, S2) and to the tokens after the subject (S1+1, S2+1), where models keep what they
    /// have found out about it.
    pub fn ioi(prompts: &[IoiPrompt]) -> Self {
        let answers: Vec<(u32, u32)> = prompts.iter().map(|p| (p.io, p.s)).collect();
        let role =
            |name: &str, of: fn(&IoiPrompt) -> usize| Role::new(name, prompts.iter().map(of));
        HeadTask {
            prompts: prompts.iter().map(Prompt::from).collect(),
            metric: logit_diffs(&answers),
            end: role("END", |p| p.positions.end),
            roles: vec![
                role("IO", |p| p.positions.io),
                role("S1", |p| p.positions.s1),
                role("S2", |p| p.positions.s2),
                role("S1+1", |p| p.positions.s1 + 1),
                role("S2+1", |p| p.positions.s2 + 1),
            ],
            answer: Some("IO".to_string()),
            rival: Some("S1".to_string()),
        }
    }

    /// The role of this name, which the errors call `what`.
    fn role(&self, what: &str, name: Option<&String>) -> Result<Option<&Role>> {
        let Some(name) = name else {
            return Ok(None);
        };
        match self.roles.iter().find(|role| role.name == *name) {
            Some(role) => Ok(Some(role)),
            None => {
                let names: Vec<_> = self.roles.iter().map(|role| role.name.as_str()).collect();
                let expected = format!("one of the roles [{}]", names.join(", "));
                Err(Error::invalid(what, name, expected))
            }
        }
    }
}

/// How a task's evidence is measured.
pub(crate) struct TaskSettings<'l> {
    pub replacement: Replacement,
    /// The logits among which the answer must be.
    pub top: usize,
    pub limits: Limits<'l>,
}

/// What was measured of a task, for all heads.
pub(crate) struct MeasuredTask {
    pub base: f32,
    pub partial: bool,
    lost: Labelled,
    lost_at_end: Labelled,
    direct: Labelled,
    roles: Option<Labelled>,
    reads: Option<Reads>,
    answer: Option<String>,
    rival: Option<String>,
}

impl MeasuredTask {
    pub fn new<'m>(
        model: &'m Transformer,
        task: &HeadTask,
        settings: TaskSettings<'m>,
    ) -> Result<Self> {
        let answer = task.role("answer", task.answer.as_ref())?;
        let rival = task.role("rival", task.rival.as_ref())?;
        let base = Base::new(model, &task.prompts)?;
        task.end.check(base.prompts())?;
        let mut ablation = Ablation::over(&base, settings.replacement)?
            .with_class(&task.end.name, task.end.class())?;
        ablation.limits = settings.limits;
        let everywhere = ablation.run(Each::Head, &task.metric)?;
        let at_end = ablation.run(Each::HeadAt(&task.end.name), &task.metric)?;
        let direct = ablation.run(Each::HeadDirectly, &task.metric)?;
        let roles = if task.roles.is_empty() {
            None
        } else {
            let prompts = base.prompts();
            let scores = AttentionScores::new(model, prompts)?;
            let to_roles = Attention::ToRoles {
                dest: &task.end,
                src: &task.roles,
            };
            let limit = ablation.limits.memory;
            Some(scores.memory_limit(limit).run(to_roles)?.effect)
        };
        let reads = match (&roles, answer) {
            (Some(attention), Some(answer)) => {
                let limits = ablation.limits.quiet();
                let written = Written::new(&base, &task.end, settings.top, limits)?;
                Some(Reads::new(
                    task,
                    attention,
                    &written,
                    [Some(answer), rival],
                )?)
            }
            _ => None,
        };
        let partial = [&everywhere, &at_end, &direct]
            .iter()
            .any(|of| of.effect.about.partial);
        Ok(MeasuredTask {
            base: mean(everywhere.clean.iter().copied()),
            partial,
            lost: everywhere.lost()?,
            lost_at_end: at_end.lost()?,
            direct: direct.lost()?,
            roles,
            reads,
            answer: task.answer.clone(),
            rival: task.rival.clone(),
        })
    }

    pub fn of(&self, head: Head) -> TaskEvidence {
        let index = [head.layer, head.head];
        TaskEvidence {
            base: self.base,
            lost: Score::at(&self.lost, "metric lost", &index),
            lost_at_end: Score::at(&self.lost_at_end, "metric lost at the end", &index),
            direct: Score::at(&self.direct, "direct effect", &index),
            roles: (self.roles.iter())
                .flat_map(|roles| Score::by_label(roles, head))
                .collect(),
            reads: self.reads.as_ref().map(|reads| reads.of(head)),
            answer: self.answer.clone(),
            rival: self.rival.clone(),
        }
    }
}

/// What the heads write at the task's end.
struct Written<'m> {
    model: &'m Transformer,
    /// By layer, `[prompt, head, d_model]`.
    outputs: Vec<Array3<f32>>,
    top: usize,
    limits: Limits<'m>,
}

impl<'m> Written<'m> {
    fn new(base: &Base<'m>, end: &Role, top: usize, limits: Limits<'m>) -> Result<Self> {
        let model = base.model();
        let layers = 0..model.config().n_layers;
        let caches = base.held(layers.clone().map(|layer| Site::Z.at(layer)))?;
        let outputs = layers.map(|layer| {
            let at_end = caches.iter().zip(&end.positions);
            let at_end = at_end.map(|(cache, at)| {
                let z = cache.flat(Site::Z.at(layer))?;
                Ok(z.index_axis_move(Dim(0), *at))
            });
            let rows: Vec<ArrayView1<'_, f32>> = at_end.collect::<Result<_>>()?;
            Ok(model.head_results(layer, stacked(&rows).view()))
        });
        Ok(Written {
            outputs: outputs.collect::<Result<_>>()?,
            model,
            top,
            limits,
        })
    }

    /// The share of prompts with one token on top of the outputs, `[sign, layer, head]`.
    fn share(&self, tokens: &[u32]) -> Result<Labelled> {
        let decoder = Decoder::new(self.model, tokens, self.top, self.limits.clone())?;
        let about = about("On top of what heads write", "", "share of prompts");
        decoder.hits(tokens, &self.outputs)?.summary(about)
    }
}

/// For each head, the role that it attends to most from the end, and whether what it writes there
/// has the answer, or the wrong one, on top.
struct Reads {
    /// The role's index, `[layer, head]`.
    role: Array2<usize>,
    names: Vec<String>,
    /// The share of prompts with answer and wrong answer on top, `[sign, layer, head]`.
    on_top: [Option<Labelled>; 2],
}

impl Reads {
    fn new(
        task: &HeadTask,
        attention: &Labelled,
        written: &Written<'_>,
        [answer, rival]: [Option<&Role>; 2],
    ) -> Result<Self> {
        let [_, layers, heads] = *attention.values().shape() else {
            unreachable!("attention is by role, layer and head");
        };
        let role = Array2::from_shape_fn((layers, heads), |(layer, head)| {
            let to = |role: usize| attention.values()[[role, layer, head]];
            let by = |a: &usize, b: &usize| to(*a).total_cmp(&to(*b));
            (0..task.roles.len()).max_by(by).unwrap_or_default()
        });
        let share = |of: Option<&Role>| {
            let of = of.map(|of| task.prompts.iter().zip(&of.positions));
            let tokens = of.map(|of| of.map(|(prompt, at)| prompt.tokens[*at]).collect());
            tokens
                .map(|tokens: Vec<u32>| written.share(&tokens))
                .transpose()
        };
        Ok(Reads {
            role,
            names: task.roles.iter().map(|role| role.name.clone()).collect(),
            on_top: [share(answer)?, share(rival)?],
        })
    }

    fn of(&self, head: Head) -> Reading {
        let score = |token: usize, sign: usize, name: &str| {
            let index = [sign, head.layer, head.head];
            Some(Score::at(self.on_top[token].as_ref()?, name, &index))
        };
        let missing = |name: &str| Score::new(name, f32::NAN, None);
        let answer = |sign, name| score(0, sign, name).unwrap_or_else(|| missing(name));
        Reading {
            role: self.names[self.role[[head.layer, head.head]]].clone(),
            answer: answer(0, "answer on top"),
            answer_negated: answer(1, "answer on top, negated"),
            rival: score(1, 0, "wrong answer on top"),
            rival_negated: score(1, 1, "wrong answer on top, negated"),
        }
    }
}
