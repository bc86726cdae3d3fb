//! What is checked before anything runs.

use super::nodes::{PathReceiver, PathSender, leads};
use super::{PathPatching, Sent, names};
use crate::error::{Error, Result};
use crate::intervention::{Edit, Intervention, Target};
use crate::model::stage::Kind;

/// Checks senders and receivers; returns for each set of senders whether a path leads from it to a
/// receiver.
pub(super) fn check(
    study: &PathPatching<'_>,
    senders: &[Vec<PathSender>],
    receivers: &[PathReceiver],
) -> Result<Vec<bool>> {
    let config = study.model().config();
    let lengths = study.original.prompts().lengths();
    if let Some(i) = senders.iter().position(Vec::is_empty) {
        let what = format!("set of senders {i}");
        return Err(Error::invalid(what, "no sender", "at least one"));
    }
    if senders.is_empty() {
        return Err(Error::invalid("senders", 0, "at least one set"));
    }
    if receivers.is_empty() {
        return Err(Error::invalid("receivers", 0, "at least one"));
    }
    places(study, senders.iter().flatten(), receivers)?;
    check_distinct(receivers, &lengths)?;

    let sent = senders
        .iter()
        .map(|set| set.iter().map(PathSender::target).collect());
    let sent: Vec<Vec<Target>> = sent.collect::<Result<_>>()?;
    let received = receivers.iter().map(|r| r.target(config));
    let received: Vec<Target> = received.collect();
    let kind = Kind::of(config);
    let leads = |from: &Target, to: &Target| leads(kind, from, to, &lengths);
    let reaches = |set: &[Target], to: &Target| set.iter().any(|from| leads(from, to));
    let unreached = |to: &Target| !sent.iter().any(|set| reaches(set, to));
    if let Some(i) = received.iter().position(unreached) {
        let receiver = &receivers[i];
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
    let any = |set: &Vec<Target>| received.iter().any(|to| reaches(set, to));
    Ok(sent.iter().map(any).collect())
}

/// Checks that the model has all nodes, at the positions given, and that the senders have edits.
pub(super) fn places<'s>(
    study: &PathPatching<'_>,
    senders: impl IntoIterator<Item = &'s PathSender>,
    receivers: &[PathReceiver],
) -> Result<()> {
    // The place alone is checked; the values come later.
    let at = |target: Target| Intervention::new(target, Edit::Zero);
    let config = study.model().config();
    for sender in senders {
        let target = sender.target()?;
        let point = target.point;
        study.original.check_all(&[at(target)])?;
        if let Sent::Edits(edits) = &study.sent
            && !edits.contains_key(&point)
        {
            let expected = format!("one at `{point}`");
            let what = format!("edit for the sender `{sender}`");
            return Err(Error::invalid(what, "none", expected));
        }
    }
    let receivers: Vec<Intervention> = receivers.iter().map(|r| at(r.target(config))).collect();
    study.original.check_all(&receivers)
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
