//! The text that the shipped model is trained on: an endless stream of single sentences and
//! random sequences, whose items can be asked for in any order.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Facts, GreaterThan, Ioi, Order, Repeated, Split, choose, rng};
use crate::error::Result;
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// Weight of the loss on a sentence's answer.
const ANSWER: f32 = 5.0;
/// Weight on every other token of a sentence: they are easy, or can't be known.
const TEXT: f32 = 0.1;
/// Weight on a token that repeats what stood a period earlier.
const COPY: f32 = 1.0;
/// Most tokens of a repeated sequence without BOS, for a context of 64.
const LONGEST: usize = 60;
/// Tokens in one repeat; there are as many repeats as fit, and at least two.
const PERIODS: std::ops::RangeInclusive<usize> = 4..=30;

/// The four tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// [`Ioi`]
    Ioi,
    /// [`Facts`]
    Facts,
    /// [`GreaterThan`]
    GreaterThan,
    /// [`Repeated`]
    Repeated,
}

impl Task {
    /// The tasks, each as often as it is drawn out of ten times.
    const SHARES: [(Task, usize); 4] = [
        (Task::Ioi, 3),
        (Task::Facts, 3),
        (Task::GreaterThan, 1),
        (Task::Repeated, 3),
    ];

    fn draw(rng: &mut ChaCha8Rng) -> Task {
        let shares = Task::SHARES.map(|(task, share)| vec![task; share]).concat();
        *choose(&shares, rng)
    }
}

/// One sequence to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingItem {
    /// Which task it is from.
    pub task: Task,
    /// Tokens, `[pos]`.
    pub tokens: Vec<u32>,
    /// `[pos - 1]`: how much the loss of predicting `tokens[i + 1]` at position `i` counts.
    pub weights: Vec<f32>,
}

/// The stream of training items: three tenths IOI, three facts, one greater-than, three repeated
/// sequences. Half of the items begin with BOS; sentences end with a full stop and EOS.
///
/// Nothing in it is from [`Split::HeldOut`]. Which item stands at an index depends on the seed
/// and the index alone, so training can go on where it stopped.
#[derive(Clone, Debug)]
pub struct Corpus<'t> {
    seed: u64,
    bos: u32,
    stop: u32,
    ioi: Ioi<'t>,
    facts: Facts<'t>,
    greater_than: GreaterThan<'t>,
    repeated: Repeated<'t>,
}

impl<'t> Corpus<'t> {
    /// A stream for a tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) when it can't encode one of the tasks, or
    /// lacks a full stop or BOS.
    pub fn new(tokenizer: &'t Tokenizer, seed: u64) -> Result<Self> {
        Ok(Corpus {
            seed,
            bos: tokenizer.bos()?,
            stop: tokenizer.token(".")?,
            ioi: Ioi::new(tokenizer)?.split(Split::Train)?,
            facts: Facts::new(tokenizer)?.split(Split::Train),
            greater_than: GreaterThan::new(tokenizer)?.split(Split::Train)?,
            repeated: Repeated::new(tokenizer)?,
        })
    }

    /// The item at an index.
    ///
    /// # Errors
    /// As the tasks' own generators.
    pub fn item(&self, index: u64) -> Result<TrainingItem> {
        let mut rng = rng(self.seed);
        rng.set_stream(index);
        let task = Task::draw(&mut rng);
        let mut item = match task {
            Task::Ioi => {
                let order = *choose(&[Order::Abba, Order::Baba], &mut rng);
                let ioi = self.ioi.draw(order, &mut rng)?;
                self.sentence(task, &ioi.prompt, ioi.io)
            }
            Task::Facts => {
                let fact = self.facts.draw(&mut rng)?;
                self.sentence(task, &fact.prompt, fact.attribute)
            }
            Task::GreaterThan => {
                let year = self.greater_than.draw(&mut rng)?;
                self.sentence(task, &year.prompt, *choose(year.later(), &mut rng))
            }
            Task::Repeated => {
                let period = rng.random_range(PERIODS);
                let repeats = LONGEST / period;
                let sequence = self.repeated.draw(period, repeats, &mut rng)?;
                let mut weights = vec![0.0; repeats * period - 1];
                weights[sequence.predictable()].fill(COPY);
                TrainingItem {
                    task,
                    tokens: sequence.prompt.tokens,
                    weights,
                }
            }
        };
        if rng.random() {
            let first = if task == Task::Repeated { 0.0 } else { TEXT };
            item.tokens.insert(0, self.bos);
            item.weights.insert(0, first);
        }
        Ok(item)
    }

    fn sentence(&self, task: Task, prompt: &Prompt, answer: u32) -> TrainingItem {
        let tokens = [&prompt.tokens[..], &[answer, self.stop, self.bos]].concat();
        let mut weights = vec![TEXT; tokens.len() - 1];
        weights[prompt.len() - 1] = ANSWER;
        TrainingItem {
            task,
            tokens,
            weights,
        }
    }
}
