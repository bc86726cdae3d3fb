//! What edges outside a circuit carry.

mod means;

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array2, ArrayD};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::base::Base;
use crate::cache::ActivationCache;
use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::config::Element;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::model::Transformer;
use crate::model::stage::Kind;
use crate::pairs::Pairs;
use crate::prompt::Prompts;
use means::{Total, by_position};

/// What the edges outside a circuit carry.
///
/// With means and zeros the empty circuit is no run of the model: every part reads a stream of
/// ablated contributions, position embeddings and biases, and writes what it makes of that. So a
/// node that no kept edge leads to does not write its mean: [pruning](crate::circuits::EdgeSet::pruned) changes such
/// circuits.
///
/// ```
/// use patchlens::circuits::{EdgeAblation, CircuitEvaluation, EdgeSet};
/// use patchlens::{Config, Prompts, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let clean = Prompts::new([[1, 2, 3], [5, 2, 3]])?;
/// let corrupted = Prompts::new([[1, 4, 3], [5, 8, 3]])?;
/// let study = CircuitEvaluation::new(&model, &clean, &corrupted)?;
/// let circuit = EdgeSet::from_names(study.graph(), ["input->a1.h0<v>", "a1.h0->logits"])?;
/// for ablation in [
///     EdgeAblation::Corrupted,
///     EdgeAblation::MeanByPosition(corrupted.clone()),
///     EdgeAblation::Mean(corrupted.clone()),
///     EdgeAblation::Zero,
///     EdgeAblation::Resample { seed: 0 },
/// ] {
///     let study = study.clone().ablation(ablation)?;
///     let found = study.run(&[circuit.clone(), EdgeSet::empty(study.graph())], &logit_diff(2, 4))?;
///     assert_eq!(found.values.row(1), found.corrupted); // the empty circuit
/// }
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EdgeAblation {
    /// What their sources wrote in the corrupted run of the pair, the default (interchange, or
    /// "resample", ablation of Conmy et al. 2023; MIB's counterfactual).
    Corrupted,
    /// What their sources write at each position, averaged over those of these prompts that have
    /// as many tokens as the pair (Wang et al. 2022).
    MeanByPosition(Prompts),
    /// What their sources write, averaged over all positions of these prompts.
    Mean(Prompts),
    /// Nothing.
    Zero,
    /// What their sources wrote in the corrupted run of another pair of the same length, drawn at
    /// random: a permutation of the pairs by this seed that leaves none in its place (Chan et al.
    /// 2022, causal scrubbing).
    Resample {
        /// Seed.
        seed: u64,
    },
}

impl EdgeAblation {
    /// What an edge carries, in words.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            EdgeAblation::Corrupted => "what its source wrote in the corrupted run",
            EdgeAblation::MeanByPosition(_) => {
                "the mean of what its source writes at each position of other prompts"
            }
            EdgeAblation::Mean(_) => "the mean of what its source writes in other prompts",
            EdgeAblation::Zero => "nothing",
            EdgeAblation::Resample { .. } => {
                "what its source wrote in the corrupted run of another pair"
            }
        }
    }
}

/// What each source writes, in order, `[pos, d_model]` each.
pub(super) type Written = Arc<[Array2<f32>]>;

/// The runs that a circuit lies between.
#[derive(Clone, Debug)]
pub(super) struct Ends<'m> {
    /// The runs in which every edge carries what its source writes.
    pub full: Base<'m>,
    /// Those in which none does.
    pub empty: Base<'m>,
    /// What edges carry there, by pair, if that is not what their sources write in these runs.
    pub carried: Option<Vec<Written>>,
}

/// What a place of the stream is where every source's part of it is ablated, and these parts.
struct Ablated {
    /// By place, see [`streams`].
    streams: BTreeMap<HookPoint, Array2<f32>>,
    written: Written,
}

/// The places at which parts of the model read the stream.
pub(super) fn streams(graph: Graph) -> impl Iterator<Item = HookPoint> {
    let n_layers = graph.n_layers();
    let sites = if graph.has_mlps() {
        &[Site::ResidPre, Site::ResidMid][..]
    } else {
        &[Site::ResidPre]
    };
    let of_layer = |layer: usize| sites.iter().map(move |site| site.at(layer));
    let last = Site::ResidPost.at(n_layers - 1);
    (0..n_layers).flat_map(of_layer).chain([last])
}

impl<'m> Ends<'m> {
    /// Between the runs of pairs.
    ///
    /// # Errors
    /// [`Error::NotCached`] if given caches lack an activation.
    pub fn corrupted(pairs: &Pairs<'m>) -> Result<Self> {
        if pairs.corrupted.interventions().is_empty() {
            return Ok(Ends {
                full: pairs.clean.clone(),
                empty: pairs.corrupted.clone(),
                carried: None,
            });
        }
        // What is added to the stream itself is no source's, so that circuits of edges lack it.
        let of_stream = |point| match point {
            HookPoint::PosEmbed => true,
            HookPoint::Block(_, site) => matches!(
                site,
                Site::Result | Site::AttnOut | Site::ResidPre | Site::ResidMid | Site::ResidPost
            ),
            _ => false,
        };
        let expected = "ones at what a source writes, or within one: `attn.hook_z`, `hook_mlp_out`";
        let corrupted = &pairs.corrupted;
        corrupted.check_none_at("circuits", of_stream, expected)?;
        let own: Vec<usize> = (0..pairs.len()).collect();
        Self::left_by(pairs, &own)
    }

    /// Between the clean runs and what interventions have left of corrupted ones: `of_pair` says
    /// of which, by pair.
    fn left_by(pairs: &Pairs<'m>, of_pair: &[usize]) -> Result<Self> {
        // Parts that read what such a run reads do not write what its interventions have left.
        let graph = pairs.graph();
        let reads = graph.sources().map(Source::point).chain(streams(graph));
        let caches = pairs.corrupted.held(reads)?;
        let left = |cache: &ActivationCache| {
            let stream = |at| Ok((at, cache.flat(at)?.to_owned()));
            let written = graph.sources().map(|u| u.output(pairs.model(), cache));
            Ok(Ablated {
                streams: streams(graph).map(stream).collect::<Result<_>>()?,
                written: written.collect::<Result<_>>()?,
            })
        };
        let ablated: Vec<Ablated> = caches.iter().map(left).collect::<Result<_>>()?;
        Self::ablated(pairs, &ablated, of_pair)
    }

    /// Between the clean runs and an ablation.
    ///
    /// # Errors
    /// [`Error::Prompt`] for prompts to average over that the model cannot run;
    /// [`Error::Invalid`] if none of them has as many tokens as a pair, or if a pair has no other
    /// one of its length to draw from.
    pub fn new(pairs: &Pairs<'m>, ablation: &EdgeAblation) -> Result<Self> {
        let model = pairs.model();
        let lengths = pairs.clean.prompts().lengths();
        let mut each = lengths.clone();
        each.sort_unstable();
        each.dedup();
        let ablated: Vec<Ablated> = match ablation {
            EdgeAblation::Corrupted => return Self::corrupted(pairs),
            EdgeAblation::Resample { seed } => return Self::resampled(pairs, *seed),
            EdgeAblation::MeanByPosition(prompts) => {
                let mean = |n: &usize| by_position(model, prompts, *n);
                each.iter().map(mean).collect::<Result<_>>()?
            }
            EdgeAblation::Mean(prompts) => {
                let mut total = Total::default();
                total.add(model, prompts.as_slice(), |_| 0)?;
                each.iter().map(|n| total.over(model, *n, |_| 0)).collect()
            }
            EdgeAblation::Zero => each.iter().map(|n| zero(model, *n)).collect(),
        };
        let place = |n| each.binary_search(n).expect("each length is among them");
        let of_pair: Vec<usize> = lengths.iter().map(place).collect();
        Self::ablated(pairs, &ablated, &of_pair)
    }

    /// The corrupted runs of other pairs.
    fn resampled(pairs: &Pairs<'m>, seed: u64) -> Result<Self> {
        let corrupted = pairs.corrupted.prompts();
        let others = permutation(&corrupted.lengths(), seed)?;
        if !pairs.corrupted.interventions().is_empty() {
            return Self::left_by(pairs, &others);
        }
        let prompts = others.iter().map(|i| corrupted[*i].clone());
        Ok(Ends {
            full: pairs.clean.clone(),
            empty: Base::over(&pairs.clean, Prompts::new(prompts)?, Vec::new())?,
            carried: None,
        })
    }

    /// Runs whose parts read ablated streams: `of_pair` says which, by pair.
    fn ablated(pairs: &Pairs<'m>, ablated: &[Ablated], of_pair: &[usize]) -> Result<Self> {
        let set = |at: HookPoint| {
            let array = |i: &usize| ablated[*i].streams[&at].clone().into_dyn();
            let values: Vec<ArrayD<f32>> = match ablated {
                [_] => vec![array(&0)],
                _ => of_pair.iter().map(array).collect(),
            };
            Intervention::new(Target::new(at), Edit::Set(Values::arrays(values)))
        };
        let set: Vec<Intervention> = streams(pairs.graph()).map(set).collect();
        let carried = of_pair.iter().map(|i| Arc::clone(&ablated[*i].written));
        Ok(Ends {
            full: pairs.clean.clone(),
            empty: Base::over(&pairs.clean, pairs.clean.prompts(), set)?,
            carried: Some(carried.collect()),
        })
    }

    /// The same with the roles of both runs exchanged.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless both are plain runs.
    pub fn exchanged(self) -> Result<Self> {
        if self.carried.is_some() {
            let found = "means, zeros or corrupted runs under interventions";
            let expected = "plain corrupted runs, which circuits' runs depart from";
            return Err(Error::invalid(
                "ablation under `CircuitRun::Edge`",
                found,
                expected,
            ));
        }
        Ok(Ends {
            full: self.empty,
            empty: self.full,
            carried: None,
        })
    }
}

/// A random permutation that leaves nothing in its place and exchanges prompts of one length only.
fn permutation(lengths: &[usize], seed: u64) -> Result<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, n) in lengths.iter().enumerate() {
        groups.entry(*n).or_default().push(i);
    }
    let mut to = vec![0; lengths.len()];
    for (n, mut members) in groups {
        if let [alone] = members[..] {
            return Err(Error::invalid(
                "pairs to resample from",
                format!("pair {alone} alone with {n} tokens"),
                "at least two pairs of each length",
            ));
        }
        // One cycle through all of them.
        members.shuffle(&mut rng);
        for (i, from) in members.iter().enumerate() {
            to[*from] = members[(i + 1) % members.len()];
        }
    }
    Ok(to)
}

/// Position embeddings alone, and nothing written; biases of the attention are no source's.
fn zero(model: &Transformer, n: usize) -> Ablated {
    let graph = Graph::new(model.config());
    let parameters = model.parameters();
    let mut stream = positions(model, n);
    let mut all = BTreeMap::new();
    for (layer, block) in parameters.h.iter().enumerate() {
        all.insert(Site::ResidPre.at(layer), stream.clone());
        stream += &block.attn.c_proj.bias;
        if graph.has_mlps() {
            all.insert(Site::ResidMid.at(layer), stream.clone());
        }
    }
    all.insert(Site::ResidPost.at(graph.n_layers() - 1), stream);
    let nothing = Array2::zeros((n, graph.d_model()));
    Ablated {
        streams: all,
        written: graph.sources().map(|_| nothing.clone()).collect(),
    }
}

/// The part of the stream that no source writes: position embeddings, if they are added to it,
/// `[pos, d_model]`.
fn positions(model: &Transformer, n: usize) -> Array2<f32> {
    let config = model.config();
    let apart = Kind::of(config).reads_positions();
    if apart || !config.has(Element::Positions) {
        return Array2::zeros((n, config.d_model));
    }
    crate::ops::part(model.parameters().wpe.view(), 0, 0..n).to_owned()
}
