//! Long work: killed at random moments, ended by signals, out of disk, in parts on many machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{fails, json, ok};

/// A study of each kind: a sweep, tracing, edges.
const STUDIES: [&[&str]; 3] = [
    &[
        "patch",
        "--prompts",
        "24",
        "--sweep",
        "resid_pre",
        "--sweep",
        "pattern",
    ],
    &["trace", "--prompts", "12"],
    &["circuits", "--prompts", "6", "--carries", "0.5"],
];

/// How often each study is killed; the proof of a release takes 50.
fn kills() -> u32 {
    let asked = std::env::var("PATCHLENS_KILLS").ok();
    asked.map_or(4, |n| n.parse().expect("a number of kills"))
}

fn with<'a>(study: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [study, &["--memory", "24M"], more].concat()
}

/// Everything that a study finds, as JSON.
fn result(study: &[&str], more: &[&str]) -> serde_json::Value {
    json(&ok(&with(study, &[more, &["--json", "--quiet"]].concat())))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchlens"));
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn killed_at_random_moments_a_study_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (i, study) in STUDIES.into_iter().enumerate() {
        let begun = Instant::now();
        let whole = result(study, &[]);
        let time = begun.elapsed();
        let path = folder.path().join(format!("journal{i}"));
        let kept = ["--journal", text(&path), "--quiet"];
        for kill in 0..kills() {
            // Spread over the study's time by the golden ratio; each goes on where the last ended.
            let moment = (f64::from(kill + 1) * 0.618_034).fract();
            let mut child = start(&with(study, &kept));
            sleep(time.mul_f64(moment));
            child.kill().unwrap();
            child.wait().unwrap();
            if kill % 8 == 7 {
                // Else there would soon be nothing left to be killed at.
                let lines = fs::read(&path).unwrap();
                fs::write(&path, &lines[..lines.len() / 2]).unwrap();
            }
        }
        assert_eq!(
            result(study, &["--journal", text(&path)]),
            whole,
            "{study:?}"
        );
        // Once more, with nothing left to compute.
        let again = with(study, &["--journal", text(&path), "--json", "-"]);
        let output = super::patchlens(&again);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(", 0 of them computed now"), "{told}");
    }
}

#[cfg(unix)]
#[test]
fn signals_end_a_study_with_a_status_that_means_again() {
    let folder = tempfile::tempdir().unwrap();
    let patch = &["patch", "--prompts", "400", "--sweep", "pattern"][..];
    let circuits = &["circuits", "--prompts", "100"][..];
    for (signal, study, result) in [
        ("TERM", patch, "pattern"),
        ("INT", patch, "pattern"),
        ("USR1", circuits, "exact"),
        ("HUP", circuits, "exact"),
    ] {
        let path = folder.path().join(signal);
        let found = folder.path().join("found.json");
        let kept = ["--journal", text(&path), "--json", text(&found)];
        let mut child = start(&[study, &kept].concat());
        // It listens once its journal is there.
        while !path.exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(200));
        let id = child.id().to_string();
        let kill = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), Some(75), "{signal}");
        let found = json(&fs::read_to_string(&found).unwrap());
        assert_eq!(found["partial"], true, "{signal}");
        assert!(!found["results"][result].is_null(), "{signal}");
        let journal = fs::read_to_string(&path).unwrap();
        assert!(
            journal.ends_with('\n') && !journal.contains("\nend "),
            "{signal}"
        );
        if study == circuits {
            // It goes on from there, though the last of its edges are not in the journal yet.
            let mut child = start(&[study, &kept].concat());
            while fs::metadata(&path).unwrap().len() <= journal.len() as u64 {
                assert!(child.try_wait().unwrap().is_none(), "{signal}");
                sleep(Duration::from_millis(5));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A file that cannot grow beyond some kilobytes stands for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_the_study_can_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let study = with(STUDIES[0], &["--journal", text(&path)]);
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_patchlens")])
        .args(&study);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(text(&path)), "{told}");
    let found = result(STUDIES[0], &["--journal", text(&path)]);
    assert_eq!(found, result(STUDIES[0], &[]));
}

/// Runs every shard of a study; returns their journals.
fn shards(folder: &Path, study: &[&str], of: usize) -> Vec<PathBuf> {
    let run = |i: usize| {
        let path = folder.join(format!("{i}-of-{of}"));
        let shard = format!("{i}/{of}");
        let told = super::patchlens(&with(study, &["--journal", text(&path), "--shard", &shard]));
        assert!(
            told.status.success(),
            "{}",
            String::from_utf8_lossy(&told.stderr)
        );
        assert!(told.stdout.is_empty(), "a part has nothing to show");
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains(&format!("shard {shard} is done")), "{told}");
        path
    };
    (1..=of).map(run).collect()
}

#[test]
fn shards_merge_to_the_bits_of_one_machine() {
    let more: [&[&str]; 3] = [
        &["knockout", "--prompts", "9"],
        &["ablate", "--prompts", "9", "--without", "3.0,3.2"],
        &[
            "patch",
            "--prompts",
            "5",
            "--sweep",
            "mlp_out",
            "--neurons",
            "1",
        ],
    ];
    for study in STUDIES.into_iter().chain(more) {
        shards_give_the_whole(study);
    }
}

fn shards_give_the_whole(study: &[&str]) {
    let whole = result(study, &[]);
    let folder = tempfile::tempdir().unwrap();
    let merged = folder.path().join("merged");
    let shards = shards(folder.path(), study, 3);
    // Once more, with everything known.
    assert_eq!(self::shards(folder.path(), study, 3), shards);
    let journals: Vec<&str> = shards.iter().map(|path| text(path)).collect();
    let told = ok(&[&["merge", "--into", text(&merged)], &journals[..]].concat());
    assert!(told.contains("3 of 3 shards"), "{told}");
    assert_eq!(
        result(study, &["--journal", text(&merged)]),
        whole,
        "{study:?}"
    );
}

/// What is measured depends on all pairs of a file, whatever part of them a shard runs.
#[test]
fn shards_of_a_file_measure_what_the_whole_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, answers: [(&str, &[&str]); 4]| {
        let pair = |(right, wrong): (&str, &[&str])| {
            serde_json::json!({"clean": super::CLEAN, "corrupt": super::CORRUPTED,
                "answers": [right], "wrong_answers": wrong})
        };
        let path = folder.path().join(name);
        fs::write(&path, serde_json::json!(answers.map(pair)).to_string()).unwrap();
        path
    };
    let long = [" Mary and John", " Mary", " Mary and", " Mary and John"];
    let long = file("long.json", long.map(|answer| (answer, &[][..])));
    let wrong: [&[&str]; 4] = [&[" John"], &[" John"], &[], &[]];
    let mixed = file("mixed.json", wrong.map(|wrong| (" Mary", wrong)));
    for path in [&long, &mixed] {
        shards_give_the_whole(&["patch", "--sweep", "z", "--pairs", text(path)]);
    }
    shards_give_the_whole(&["circuits", "--carries", "0.5", "--pairs", text(&mixed)]);
}

/// A merged journal that lacks shards: what is there is shown, and of the rest nothing concluded.
#[test]
fn a_partial_merge_concludes_nothing_from_what_it_lacks() {
    let studies: [(&[&str], &str); 5] = [
        (&["ablate", "--prompts", "6"], "No head alone"),
        (&["knockout", "--prompts", "9"], "in no layer"),
        (&["patch", "--prompts", "6", "--sweep", "z"], "nowhere by"),
        (&["paths", "--prompts", "6"], "Through the"),
        (&["circuits", "--prompts", "6"], "agrees with"),
    ];
    for (study, conclusion) in studies {
        let folder = tempfile::tempdir().unwrap();
        let [part, merged] = ["part", "merged"].map(|name| folder.path().join(name));
        ok(&with(study, &["--journal", text(&part), "--shard", "1/3"]));
        ok(&["merge", "--partial", "--into", text(&merged), text(&part)]);
        let told = ok(&with(study, &["--journal", text(&merged)]));
        assert!(told.contains("cells were not run"), "{study:?}: {told}");
        assert!(!told.contains(conclusion), "{study:?}: {told}");
        let found = result(study, &["--journal", text(&merged)]);
        assert_eq!(found["partial"], true, "{study:?}");
    }
}

#[test]
fn steps_that_depend_on_each_other_are_divided_one_after_the_other() {
    let study: &[&str] = &["paths", "--prompts", "6"];
    let whole = result(study, &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut known: Option<PathBuf> = None;
    // To the logits, then to queries, then to values.
    for step in 0..3 {
        let mut journals = Vec::new();
        for i in 1..=2 {
            let path = folder.path().join(format!("{step}-{i}"));
            let shard = format!("{i}/2");
            let mut arguments = with(study, &["--journal", text(&path), "--shard", &shard]);
            if let Some(known) = &known {
                arguments.extend(["--known", text(known)]);
            }
            ok(&arguments);
            journals.push(path);
        }
        let journals: Vec<&str> = journals.iter().map(|path| text(path)).collect();
        let into = folder.path().join(format!("merged{step}"));
        let before = known.as_deref().map(text);
        let journals = journals.into_iter().chain(before);
        ok(&["merge", "--into", text(&into)]
            .into_iter()
            .chain(journals)
            .collect::<Vec<_>>());
        known = Some(into);
    }
    let found = result(study, &["--journal", text(&known.unwrap())]);
    assert_eq!(found, whole);
}

#[test]
fn schedulers_say_which_shard_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let run = |variables: &[(&str, &str)], shard: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchlens"));
        command.args(with(
            STUDIES[1],
            &["--journal", text(&path), "--shard", shard],
        ));
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let output = run(&[("JOB_COMPLETION_INDEX", "1")], "auto:0-3");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && told.contains("shard 2/4 is done"),
        "{told}"
    );
    let output = run(&[("JOB_COMPLETION_INDEX", "1")], "auto");
    assert_eq!(output.status.code(), Some(2));
    let missing = fails(
        1,
        &[
            "merge",
            "--into",
            text(&folder.path().join("m")),
            text(&path),
        ],
    );
    assert!(missing.contains("--array=0,2,3, of all 0-3"), "{missing}");
}

#[test]
fn what_does_not_belong_together_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    ok(&with(STUDIES[1], &["--journal", text(&path)]));
    let before = fs::read(&path).unwrap();
    let other = super::patchlens(&["trace", "--prompts", "11", "--journal", text(&path)]);
    assert_eq!(other.status.code(), Some(1));
    let other = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(
        other.contains("a journal of study `trace --prompts 12`"),
        "{other}"
    );
    assert!(
        other.contains("expected of study `trace --prompts 11`"),
        "{other}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    let notes = folder.path().join("notes.txt");
    fs::write(&notes, "of mine").unwrap();
    let foreign = fails(1, &["merge", "--into", text(&notes), text(&path)]);
    assert!(
        foreign.contains("expected a journal of patchlens"),
        "{foreign}"
    );
    assert_eq!(fs::read(&notes).unwrap(), b"of mine");
    fails(2, &["patch", "--shard", "1/2"]);
    fails(2, &["patch", "--journal", "a", "--shard", "3/2"]);
    fails(
        2,
        &["patch", "--journal", "a", "--shard", "1/2", "--out", "b"],
    );
    fails(2, &["lens", "--journal", "a"]);
}
