//! Journals as files: torn, damaged, of something else, merged.

use std::fs;
use std::path::{Path, PathBuf};

use patchlens::journal::{Journal, Shard, merge};
use patchlens::patching::ActivationPatching;
use patchlens::{Config, Grid, Metric, Result, Site, Transformer, logit_diff};

use super::{STUDY, bits, line_ends, model, open, pairs, run_shards};

fn study(metric: &Metric, prompts: &[usize], journal: Option<&Journal>) -> Result<Vec<f32>> {
    let model = model();
    let [clean, corrupted] =
        pairs().map(|list| -> Vec<_> { prompts.iter().map(|i| list[*i].clone()).collect() });
    let study = ActivationPatching::new(&model, &clean, &corrupted)?.journal(journal);
    let found = study.run(Grid::Heads(Site::Z), metric)?;
    Ok(found.values.iter().copied().collect())
}

const ALL: [usize; 4] = [0, 1, 2, 3];

fn run(journal: Option<&Journal>) -> Result<Vec<f32>> {
    study(&logit_diff(2, 5), &ALL, journal)
}

/// A journal of the whole study.
fn written(folder: &Path) -> (PathBuf, Vec<u32>) {
    let path = folder.join("journal");
    let journal = open(&path);
    let values = run(Some(&journal)).unwrap();
    assert!(!journal.is_finished());
    journal.finish().unwrap();
    assert!(journal.is_finished());
    (path, bits(&values))
}

fn refused(path: &Path) -> String {
    let before = fs::read(path).unwrap();
    let error = Journal::open(path, &model(), STUDY).unwrap_err();
    assert_eq!(fs::read(path).unwrap(), before, "the file was changed");
    error.to_string()
}

#[test]
fn torn_tails_of_every_length_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (path, values) = written(folder.path());
    let whole = fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let journal = open(&path);
        let lines = line_ends(&path);
        assert_eq!(
            *lines.last().unwrap() as u64,
            fs::metadata(&path).unwrap().len()
        );
        // Running it takes a while: around the lines' ends only.
        if length % 97 == 0 || lines.iter().any(|end| end.abs_diff(length) < 2) {
            assert_eq!(
                bits(&run(Some(&journal)).unwrap()),
                values,
                "cut to {length}"
            );
        }
    }
}

#[test]
fn a_damaged_byte_is_an_error_and_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = written(folder.path());
    let whole = fs::read(&path).unwrap();
    let last = whole.len() - 1;
    for at in (0..last).step_by(7).chain([last - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&path, &damaged).unwrap();
        let error = refused(&path);
        let said = ["is damaged", "another kind of file"]
            .iter()
            .any(|what| error.contains(what));
        assert!(said, "byte {at}: {error}");
    }
}

#[test]
fn a_journal_of_something_else_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = written(folder.path());
    // Torn, too: not even that is cut off from what is somebody else's.
    let torn = fs::read(&path).unwrap();
    fs::write(&path, &torn[..torn.len() - 3]).unwrap();
    let error = Journal::open(&path, &model(), "other")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a journal of study `test`; expected of study `other`"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), torn[..torn.len() - 3]);
    let other = Transformer::random(
        Config {
            n_layers: 3,
            ..model().config().clone()
        },
        3,
    )
    .unwrap();
    let error = Journal::open(&path, &other, STUDY).unwrap_err().to_string();
    assert!(error.contains("a journal of model"), "{error}");
    let shard = Shard::new(0, 2).unwrap();
    let error = Journal::open_shard(&path, &model(), STUDY, shard, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a journal of shard `the whole study`; expected of shard `1/2`"),
        "{error}"
    );
    for foreign in ["", "{\"prompts\": []}\n", "{\"a\": 1}", "\u{0}\u{1}"] {
        fs::write(&path, foreign).unwrap();
        if foreign.is_empty() {
            continue;
        }
        assert!(refused(&path).contains("another kind of file"));
    }
    assert!(Journal::open(folder.path(), &model(), STUDY).is_err());
}

#[test]
fn another_metric_or_other_prompts_find_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = written(folder.path());
    let before = fs::read(&path).unwrap();
    for (metric, prompts) in [(logit_diff(2, 6), &ALL[..]), (logit_diff(5, 2), &ALL)] {
        let error = study(&metric, prompts, Some(&open(&path)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none of them of this study"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    // Some of the prompts are found among all of them.
    let journal = open(&path);
    study(&logit_diff(2, 5), &ALL[..2], Some(&journal)).unwrap();
    assert_eq!(journal.counts().computed, 0);
}

#[test]
fn one_process_writes_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let first = open(&path);
    let error = Journal::open(&path, &model(), STUDY)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another process is writing"), "{error}");
    drop(first);
    open(&path);
}

#[test]
fn what_belongs_together_is_merged() {
    let folder = tempfile::tempdir().unwrap();
    let values = bits(&run(None).unwrap());
    let run_shard =
        |prompts: &[usize], journal: Option<&Journal>| study(&logit_diff(2, 5), prompts, journal);
    let shards = run_shards(folder.path(), 3, &run_shard, true);
    let to = folder.path().join("merged");

    let error = merge(&shards[..2], &to, false).unwrap_err().to_string();
    assert!(
        error.contains("2 of 3 shards; missing or unfinished: 3/3"),
        "{error}"
    );
    assert!(!to.exists());

    // A partial merge is marked, and what it lacks is not computed.
    let merged = merge(&shards[1..], &to, true).unwrap();
    assert_eq!(merged.to_resubmit(), "1");
    let journal = open(&to);
    let partial = run(Some(&journal)).unwrap();
    assert!(journal.counts().left > 0 && journal.counts().computed == 0);
    assert_eq!(
        partial.iter().filter(|v| v.is_nan()).count(),
        journal.counts().left
    );
    let told = partial.iter().zip(&values);
    assert!(
        told.filter(|(v, _)| !v.is_nan())
            .all(|(v, own)| v.to_bits() == *own)
    );

    // A shard given twice must agree.
    let again = folder.path().join("again");
    fs::copy(&shards[1], &again).unwrap();
    let doubled = [&shards[0], &shards[1], &again, &shards[2]];
    let merged = merge(&doubled, &to, false).unwrap();
    assert_eq!(merged.doubled, [Shard::new(1, 3).unwrap()]);
    drop(journal);
    assert_eq!(bits(&run(Some(&open(&to))).unwrap()), values);
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let run_shard =
        |prompts: &[usize], journal: Option<&Journal>| study(&logit_diff(2, 5), prompts, journal);
    let shards = run_shards(folder.path(), 2, &run_shard, true);
    let thirds = run_shards(folder.path(), 3, &run_shard, true);
    let to = folder.path().join("merged");
    let error = |journals: &[&PathBuf]| merge(journals, &to, true).unwrap_err().to_string();
    assert!(error(&[&shards[0], &thirds[1]]).contains("one of 2"));

    // An unfinished one counts as missing.
    let text = fs::read_to_string(&shards[1]).unwrap();
    let unfinished: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("end"))
        .collect();
    fs::write(&shards[1], unfinished.join("\n") + "\n").unwrap();
    let missing = merge(&shards, &to, false).unwrap_err().to_string();
    assert!(missing.contains("missing or unfinished: 2/2"), "{missing}");

    // The whole study is no shard; another study is none of this.
    let (whole, _) = written(folder.path());
    assert!(error(&[&whole]).contains("none of a shard"));
    let other = folder.path().join("other");
    let shard = Shard::new(1, 2).unwrap();
    drop(Journal::open_shard(&other, &model(), "other", shard, None).unwrap());
    assert!(error(&[&shards[0], &other]).contains("a journal of study `other`"));
    assert!(merge(&[] as &[PathBuf], &to, true).is_err());
}

#[test]
fn two_shards_that_contradict_each_other_are_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let run_shard =
        |prompts: &[usize], journal: Option<&Journal>| study(&logit_diff(2, 5), prompts, journal);
    let shards = run_shards(folder.path(), 1, &run_shard, true);
    let text = fs::read_to_string(&shards[0]).unwrap();
    // The same line with its first value changed, and a right checksum.
    let line = text.lines().nth(1).unwrap();
    let (content, _) = line.rsplit_once(" #").unwrap();
    let at = content.find('=').unwrap() + 8;
    let digit = if content.as_bytes()[at] == b'0' {
        "1"
    } else {
        "0"
    };
    let content = format!("{}{digit}{}", &content[..at], &content[at + 1..]);
    let sum = twox_hash::XxHash3_64::oneshot(content.as_bytes());
    let other = folder.path().join("other");
    fs::write(
        &other,
        text.replace(line, &format!("{content} #{sum:016x}")),
    )
    .unwrap();
    let error = merge(&[&shards[0], &other], folder.path().join("m"), false);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("to the bit, as elsewhere"), "{error}");
}
