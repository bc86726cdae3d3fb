//! What heads do in a task: what their ablation costs, what they write to the logits directly, and
//! whether they read the answer where they attend.

use ndarray::{Array1, Array2, Array4, Axis as Dim};

use super::circuits::Head;
use super::copy_scores::Decoder;
use super::head_ablation::{Replacement, ablate_at, direct_effect};
use super::head_card::{AnswerRead, Score, TaskEvidence};
use super::head_scores::{Role, attention_to_roles};
use super::statistics::over_first;
use crate::cache::Selection;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::metric::{Metric, logit_diffs};
use crate::model::{KeepLogits, Run, Transformer};
use crate::ops::part;
use crate::prompt::Prompt;
use crate::report::Labelled;
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
        }
    }

    fn answer_role(&self) -> Result<Option<&Role>> {
        let Some(answer) = &self.answer else {
            return Ok(None);
        };
        match self.roles.iter().find(|role| role.name == *answer) {
            Some(role) => Ok(Some(role)),
            None => {
                let names: Vec<_> = self.roles.iter().map(|role| role.name.as_str()).collect();
                let expected = format!("one of the roles [{}]", names.join(", "));
                Err(Error::invalid("answer", answer, expected))
            }
        }
    }
}

/// How a task's evidence is measured.
#[derive(Clone, Copy)]
pub(super) struct TaskSettings {
    pub ablation: Replacement,
    /// The logits among which the answer must be.
    pub top: usize,
    pub memory_limit: u64,
}

/// What was measured of a task, for all heads.
pub(super) struct MeasuredTask {
    pub base: f32,
    lost: Labelled,
    lost_at_end: Labelled,
    direct: Labelled,
    roles: Option<Labelled>,
    reads: Option<Reads>,
    answer: Option<String>,
}

impl MeasuredTask {
    pub fn new(model: &Transformer, task: &HeadTask, settings: TaskSettings) -> Result<Self> {
        let answer = task.answer_role()?;
        let roles = match task.roles.is_empty() {
            true => None,
            false => Some(attention_to_roles(
                model,
                &task.prompts,
                &task.end,
                &task.roles,
            )?),
        };
        let reads = match (&roles, answer) {
            (Some(attention), Some(answer)) => {
                Some(Reads::new(model, task, attention, answer, settings)?)
            }
            _ => None,
        };
        let (prompts, metric) = (&task.prompts, &task.metric);
        let TaskSettings {
            ablation,
            memory_limit,
            ..
        } = settings;
        let ablated =
            |at: Option<&Role>| ablate_at(model, prompts, metric, ablation, memory_limit, at);
        let everywhere = ablated(None)?;
        Ok(MeasuredTask {
            base: everywhere.base_mean().0,
            lost: everywhere.lost,
            lost_at_end: ablated(Some(&task.end))?.lost,
            direct: direct_effect(model, prompts, metric, ablation, memory_limit)?.lost,
            roles,
            reads,
            answer: task.answer.clone(),
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
                .flat_map(|roles| Score::by_name(roles, head))
                .collect(),
            reads: self.reads.as_ref().map(|reads| reads.of(head)),
            answer: self.answer.clone(),
        }
    }
}

/// For each head, the role that it attends to most from the end, and whether it writes the answer
/// for what it reads there.
struct Reads {
    /// The role's index, `[layer, head]`.
    role: Array2<usize>,
    names: Vec<String>,
    /// `[sign, layer, head]`, means over prompts and standard errors.
    found: [ndarray::ArrayD<f32>; 2],
}

impl Reads {
    fn new(
        model: &Transformer,
        task: &HeadTask,
        attention: &Labelled,
        answer: &Role,
        settings: TaskSettings,
    ) -> Result<Self> {
        let config = model.config();
        let role = Array2::from_shape_fn((config.n_layers, config.n_heads), |(layer, head)| {
            let to = |role: usize| attention.values()[[role, layer, head]];
            let by = |a: &usize, b: &usize| to(*a).total_cmp(&to(*b));
            (0..task.roles.len()).max_by(by).unwrap_or_default()
        });
        let ends = task.prompts.iter().zip(&task.end.positions);
        let prompts: Vec<Prompt> = ends
            .map(|(prompt, end)| Prompt::from(&prompt.tokens[..=*end]))
            .collect();
        let tokens = task.prompts.iter().zip(&answer.positions);
        let tokens: Vec<u32> = tokens.map(|(prompt, at)| prompt.tokens[*at]).collect();
        let decoder = Decoder::new(
            model,
            &prompts,
            &tokens,
            settings.top,
            settings.memory_limit,
        )?;
        let shape = (prompts.len(), 2, config.n_layers, config.n_heads);
        let mut hits = Array4::zeros(shape);
        for layer in 0..config.n_layers {
            let positions = |head: usize| &task.roles[role[[layer, head]]].positions;
            let outputs = outputs_of(model, &task.prompts, layer, positions)?;
            for (head, found) in decoder.both_signs(&outputs)?.outer_iter().enumerate() {
                let of_layer = hits.view_mut().index_axis_move(Dim(2), layer);
                of_layer.index_axis_move(Dim(2), head).assign(&found.t());
            }
        }
        Ok(Reads {
            role,
            names: task.roles.iter().map(|role| role.name.clone()).collect(),
            found: over_first(hits.view().into_dyn()).into(),
        })
    }

    fn of(&self, head: Head) -> AnswerRead {
        let role = self.names[self.role[[head.layer, head.head]]].clone();
        let [mean, error] = &self.found;
        let score = |sign: usize, name: &str| {
            let index = [sign, head.layer, head.head];
            Score::new(name, mean[index], Some(error[index]))
        };
        AnswerRead {
            answer: score(0, "answer read"),
            negative: score(1, "answer read, negated"),
            role,
        }
    }
}

/// What each head of a layer would write with all its attention at one position of each prompt,
/// `[head][prompt]`, each `[d_model]`; without `b_O`.
fn outputs_of<'p>(
    model: &Transformer,
    prompts: &[Prompt],
    layer: usize,
    positions: impl Fn(usize) -> &'p Vec<usize>,
) -> Result<Vec<Vec<Array1<f32>>>> {
    let (config, point) = (model.config(), Site::V.at(layer));
    let selection = Selection::points([point]);
    let run = Run {
        cache: Some(&selection),
        stop_at_layer: Some(layer + 1),
        logits: KeepLogits::None,
    };
    let caches = model.run(prompts, (), &run)?.caches;
    let of_head = |head: usize| {
        let columns = head * config.d_head()..(head + 1) * config.d_head();
        let of_prompt = |(cache, position): (&crate::cache::ActivationCache, &usize)| {
            let values = part(cache.flat(point)?, 1, columns.clone());
            Ok(values.row(*position).dot(&model.w_o(layer, head)))
        };
        caches.iter().zip(positions(head)).map(of_prompt).collect()
    };
    (0..config.n_heads).map(of_head).collect()
}
