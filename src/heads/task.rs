//! What heads do in a task: what their ablation costs, what they write to the logits directly, and
//! whether that is the answer.

use ndarray::{Array1, Array2, Array4, ArrayD, Axis as Dim};

use crate::ablation::heads::{Replacement, ablate_at, caches_at, direct_effect};
use crate::cache::ActivationCache;
use crate::component::Head;
use crate::error::{Error, Result};
use crate::heads::card::{Reading, Score, TaskEvidence};
use crate::heads::copy_scores::{Decoder, of_head};
use crate::heads::role::Role;
use crate::heads::scores::attention_to_roles;
use crate::hook::Site;
use crate::metric::{Metric, logit_diffs};
use crate::model::Transformer;
use crate::prompt::Prompt;
use crate::report::Labelled;
use crate::statistics::over_first;
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
#[derive(Clone, Copy)]
pub(crate) struct TaskSettings {
    pub ablation: Replacement,
    /// The logits among which the answer must be.
    pub top: usize,
    pub memory_limit: u64,
}

/// What was measured of a task, for all heads.
pub(crate) struct MeasuredTask {
    pub base: f32,
    lost: Labelled,
    lost_at_end: Labelled,
    direct: Labelled,
    roles: Option<Labelled>,
    reads: Option<Reads>,
    answer: Option<String>,
    rival: Option<String>,
}

impl MeasuredTask {
    pub fn new(model: &Transformer, task: &HeadTask, settings: TaskSettings) -> Result<Self> {
        let answer = task.role("answer", task.answer.as_ref())?;
        let rival = task.role("rival", task.rival.as_ref())?;
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
                let roles = [Some(answer), rival];
                Some(Reads::new(model, task, attention, roles, settings)?)
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
            base: everywhere.base_mean().mean,
            lost: everywhere.lost,
            lost_at_end: ablated(Some(&task.end))?.lost,
            direct: direct_effect(model, prompts, metric, ablation, memory_limit)?.lost,
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

/// For each head, the role that it attends to most from the end, and whether what it writes there
/// has the answer, or the wrong one, on top.
struct Reads {
    /// The role's index, `[layer, head]`.
    role: Array2<usize>,
    names: Vec<String>,
    /// For answer and wrong answer, `[sign, layer, head]`: means over prompts, standard errors.
    found: [Option<[ArrayD<f32>; 2]>; 2],
}

impl Reads {
    fn new(
        model: &Transformer,
        task: &HeadTask,
        attention: &Labelled,
        tokens: [Option<&Role>; 2],
        settings: TaskSettings,
    ) -> Result<Self> {
        let config = model.config();
        let role = Array2::from_shape_fn((config.n_layers, config.n_heads), |(layer, head)| {
            let to = |role: usize| attention.values()[[role, layer, head]];
            let by = |a: &usize, b: &usize| to(*a).total_cmp(&to(*b));
            (0..task.roles.len()).max_by(by).unwrap_or_default()
        });
        let outputs: Vec<_> = (0..config.n_layers)
            .map(|layer| outputs_at(model, &task.prompts, layer, &task.end))
            .collect::<Result<_>>()?;
        let found = |of: Option<&Role>| {
            of.map(|of| on_top(model, task, &outputs, of, settings))
                .transpose()
        };
        Ok(Reads {
            role,
            names: task.roles.iter().map(|role| role.name.clone()).collect(),
            found: [found(tokens[0])?, found(tokens[1])?],
        })
    }

    fn of(&self, head: Head) -> Reading {
        let score = |token: usize, sign: usize, name: &str| {
            let [mean, error] = self.found[token].as_ref()?;
            let index = [sign, head.layer, head.head];
            Some(Score::new(name, mean[index], Some(error[index])))
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

/// Head outputs of each layer, `[layer][head][prompt]`, each `[d_model]`.
type Outputs = [Vec<Vec<Array1<f32>>>];

/// Whether a role's token is on top of the outputs at the task's end, `[sign, layer, head]`: means
/// over prompts and standard errors.
fn on_top(
    model: &Transformer,
    task: &HeadTask,
    outputs: &Outputs,
    of: &Role,
    settings: TaskSettings,
) -> Result<[ArrayD<f32>; 2]> {
    let config = model.config();
    let ends = task.prompts.iter().zip(&task.end.positions);
    let until_end = ends.map(|(prompt, end)| Prompt::from(&prompt.tokens[..=*end]));
    let prompts: Vec<Prompt> = until_end.collect();
    let tokens = task.prompts.iter().zip(&of.positions);
    let tokens: Vec<u32> = tokens.map(|(prompt, at)| prompt.tokens[*at]).collect();
    let limit = settings.memory_limit;
    let decoder = Decoder::new(model, &prompts, &tokens, settings.top, limit)?;
    let mut hits = Array4::zeros((prompts.len(), 2, config.n_layers, config.n_heads));
    for (layer, outputs) in outputs.iter().enumerate() {
        for (head, found) in decoder.both_signs(outputs)?.outer_iter().enumerate() {
            of_head(&mut hits, layer, head).assign(&found.t());
        }
    }
    Ok(over_first(hits.view().into_dyn()).into())
}

/// What each head of a layer writes at a role, `[head][prompt]`, each `[d_model]`; without `b_O`.
fn outputs_at(
    model: &Transformer,
    prompts: &[Prompt],
    layer: usize,
    at: &Role,
) -> Result<Vec<Vec<Array1<f32>>>> {
    let point = Site::Result.at(layer);
    let caches = caches_at(model, prompts, point)?;
    let of_one = |head: usize| {
        let of_prompt = |(cache, position): (&ActivationCache, &usize)| {
            let output = cache.get(point)?.index_axis_move(Dim(0), *position);
            let output = output.index_axis_move(Dim(0), head);
            Ok(output.iter().copied().collect())
        };
        caches.iter().zip(&at.positions).map(of_prompt).collect()
    };
    (0..model.config().n_heads).map(of_one).collect()
}
