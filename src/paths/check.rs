//! What is checked before anything runs.

use super::nodes::{PathReceiver, PathSender};
use super::{PathPatching, names};
use crate::error::{Error, Result};
use crate::intervention::{Edit, Intervention, Target};
use crate::model::RunShape;
use crate::prompt::Prompt;

/// Checks senders and receivers; tells for each set of senders whether a path leads from it to a
/// receiver.
pub(super) fn check(
    study: &PathPatching<'_>,
    senders: &[Vec<PathSender>],
    receivers: &[PathReceiver],
) -> Result<Vec<bool>> {
    let config = study.model.config();
    let shape = RunShape::whole(config, study.original.iter().map(Prompt::len).collect());
    // The place alone is checked; the values come later.
    let exists = |target: Target| Intervention::new(target, Edit::Zero).check(&shape);
    for (i, set) in senders.iter().enumerate() {
        if set.is_empty() {
            return Err(Error::invalid(
                format!("set of senders {i}"),
                "no sender",
                "at least one",
            ));
        }
        set.iter().try_for_each(|s| exists(s.target()))?;
    }
    if senders.is_empty() {
        return Err(Error::invalid("senders", 0, "at least one set"));
    }
    if receivers.is_empty() {
        return Err(Error::invalid("receivers", 0, "at least one"));
    }
    receivers
        .iter()
        .try_for_each(|r| exists(r.target(config)))?;
    check_distinct(receivers, &shape.lengths)?;

    let frozen = study.frozen();
    let leads = |set: &[PathSender], receiver: &PathReceiver| {
        set.iter()
            .any(|sender| sender.leads_to(receiver, config, &shape.lengths, frozen))
    };
    let unreached = |receiver: &&PathReceiver| !senders.iter().any(|set| leads(set, receiver));
    if let Some(receiver) = receivers.iter().find(unreached) {
        let all: Vec<&PathSender> = senders.iter().flatten().collect();
        let from = match all.len() {
            ..=4 => names(&all),
            n => format!("any of {n} senders"),
        };
        return Err(Error::invalid(
            "receivers",
            format!("`{receiver}`, to which no path leads from {from}"),
            "receivers after a sender in the graph, at a position that is sent",
        ));
    }
    let any = |set: &Vec<PathSender>| receivers.iter().any(|receiver| leads(set, receiver));
    Ok(senders.iter().map(any).collect())
}

/// No input may be received twice: its linearised effect would count twice.
fn check_distinct(receivers: &[PathReceiver], lengths: &[usize]) -> Result<()> {
    for (i, receiver) in receivers.iter().enumerate() {
        let overlaps = |other: &&PathReceiver| receiver.overlaps(other, lengths);
        if let Some(other) = receivers[..i].iter().find(overlaps) {
            return Err(Error::invalid(
                "receivers",
                format!("`{other}` and `{receiver}`"),
                "each input once",
            ));
        }
    }
    Ok(())
}
