//! The program as people run it: every subcommand, wrong usage, statuses, files.

mod browser;
mod findings;
mod journal;
mod studies;
mod usage;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const CLEAN: &str = "When Mary and John went to the store, John gave a drink to";
const CORRUPTED: &str = "When Mary and John went to the store, Mary gave a drink to";

const STUDIES: [&str; 14] = [
    "patch",
    "paths",
    "trace",
    "knockout",
    "interchange",
    "patchscope",
    "lens",
    "attribute",
    "steer",
    "ablate",
    "circuits",
    "heads",
    "induction",
    "in-context",
];

fn patchlens(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchlens"));
    command.args(arguments).output().unwrap()
}

/// Stdout of a run that must succeed.
fn ok(arguments: &[&str]) -> String {
    let output = patchlens(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Stderr of a run that must end with this status, and print no result.
fn fails(status: i32, arguments: &[&str]) -> String {
    let output = patchlens(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stderr}"
    );
    assert!(output.stdout.is_empty(), "{arguments:?}");
    stderr
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The options of one pair.
fn pair() -> Vec<&'static str> {
    vec![
        "--clean",
        CLEAN,
        "--corrupted",
        CORRUPTED,
        "--answer",
        " Mary",
        "--wrong",
        " John",
    ]
}

#[test]
fn help_and_version_everywhere() {
    assert!(ok(&["-V"]).starts_with("patchlens "));
    let help = ok(&["--help"]);
    assert!(
        help.contains("Exit status") && help.contains("--pairs"),
        "{help}"
    );
    assert!(ok(&["steer", "--help"]).contains("[default: 400 of a task"));
    for name in STUDIES.iter().chain(&["train-mini", "completions", "man"]) {
        let help = ok(&[name, "--help"]);
        assert!(
            help.contains("Examples:") && help.contains("Usage:"),
            "{name}: {help}"
        );
        assert!(
            help.lines().all(|line| !line.contains("[default: ]")),
            "{help}"
        );
    }
}

#[test]
fn completions_and_man_pages() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&["completions", shell]).contains("corrupted"), "{shell}");
    }
    assert!(ok(&["man"]).contains(".TH patchlens 1"));
    assert!(ok(&["man", "patch"]).contains("corrupted"));
    assert!(fails(2, &["man", "nothing"]).contains("expected one of patch"));
}

#[test]
fn failures_end_with_1_and_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    let stderr = fails(1, &["patch", "--model", missing]);
    assert!(
        stderr.contains("opening the model") && stderr.contains(missing),
        "{stderr}"
    );
    let stderr = fails(1, &["patch", "--pairs", missing]);
    assert!(stderr.contains(missing), "{stderr}");
    let stderr = fails(1, &["patch", "--json", &format!("{missing}/x.json")]);
    assert!(
        stderr.contains("found no such folder; expected"),
        "{stderr}"
    );
    let mut longer = pair();
    longer[3] = "When Mary went to the store";
    let stderr = fails(1, &[&["patch"][..], &longer].concat());
    assert!(
        stderr.contains("found 6 tokens") && stderr.contains("expected 14"),
        "{stderr}"
    );
    let mut spaceless = pair();
    spaceless[5] = "Mary";
    let stderr = fails(1, &[&["patch"][..], &spaceless].concat());
    assert!(stderr.contains("` Mary` is"), "{stderr}");
}

#[test]
fn patch_of_the_task_prints_saves_and_is_json() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    let file = folder.path().join("study.json");
    let (dir, path) = (out.to_str().unwrap(), file.to_str().unwrap());
    let text = ok(&[
        "patch",
        "--prompts",
        "4",
        "--out",
        dir,
        "--json",
        path,
        "--quiet",
    ]);
    for part in [
        "S2@9",
        "END:to@13",
        "Largest changes of the metric by one patch",
        "attn.hook_z",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for extension in ["svg", "png", "csv", "npy"] {
        assert!(out.join(format!("z.{extension}")).exists(), "{extension}");
    }
    let document = json(&fs::read_to_string(&file).unwrap());
    assert_eq!(document["study"], "patch");
    assert_eq!(document["partial"], false);
    let z = &document["results"]["z"];
    assert_eq!(
        (&z["shape"], &z["normalization"]),
        (&json("[4, 4]"), &json("\"change\""))
    );
    // The raw values are there too: the change and the corrupted run's metric.
    let raw = &document["results"]["z_raw"];
    let of = |table: &serde_json::Value| table["values"][14].as_f64().unwrap();
    let corrupted = z["baselines"]["corrupted"].as_f64().unwrap();
    assert!((of(z) + corrupted - of(raw)).abs() < 1e-4, "{z} {raw}");
    // The same on stdout, where nothing else is printed.
    let direct = json(&ok(&[
        "patch",
        "--prompts",
        "4",
        "--json",
        "--memory",
        "64M",
        "--threads",
        "1",
    ]));
    assert_eq!(
        direct["results"]["resid_pre"],
        document["results"]["resid_pre"]
    );
}

#[test]
fn a_plan_says_what_a_study_will_cost_and_opens_no_weights() {
    // A folder of GPT-2 XL without its weights, which would take 6 GB.
    let folder = tempfile::tempdir().unwrap();
    let xl = r#"{"model_type": "gpt2", "n_layer": 48, "n_head": 25, "n_embd": 1600,
        "n_positions": 1024, "vocab_size": 50257}"#;
    fs::write(folder.path().join("config.json"), xl).unwrap();
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/mini/tokenizer.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    let dir = folder.path().to_str().unwrap();
    let fact = [
        "--clean",
        "Ada Brown plays the sport of",
        "--subject",
        "Ada Brown",
    ];
    let fact = [&fact[..], &["--answer", " boxing", "--model", dir]].concat();
    let text = ok(&[&["trace", "--plan"][..], &fact].concat());
    for part in [
        "weights           6230.4 MB",
        "memory in all",
        "time              at most",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let run = [&["patch", "--json"][..], &pair()].concat();
    let planned = json(&ok(&[&run[..], &["--plan"]].concat()));
    let forecast = &planned["results"]["forecast"];
    let sum = |results: &serde_json::Value| {
        let sweeps = ["resid_pre", "attn_out", "mlp_out", "z"].iter();
        let each = sweeps.map(|s| results[s]["counts"]["multiply-adds"].as_u64().unwrap());
        each.sum::<u64>()
    };
    let done = sum(&json(&ok(&run))["results"]);
    let plan = forecast["plan"]["multiply_adds"].as_u64().unwrap();
    assert!(plan >= done, "{plan} {done}");
    assert!(forecast["seconds"].as_f64().unwrap() > 0.0);
    for unused in [["--align", "ends"], ["--subspace", "x"], ["--journal", "x"]] {
        fails(2, &[&["patch", "--plan"], &unused[..]].concat());
    }
    fails(2, &["trace", "--plan", "--journal", "x"]);
}

#[test]
fn patch_of_own_prompts() {
    let text = ok(&[&["patch"][..], &pair()].concat());
    assert!(text.contains("right ` Mary`, wrong ` John`"), "{text}");
    assert!(text.contains("·John/Mary@9"), "{text}");
    let noising = [
        &["patch", "--direction", "noising", "--sweep", "z"][..],
        &pair(),
    ]
    .concat();
    let changes = ok(&noising);
    assert!(changes.contains("noising: corrupted patched into clean"));
    assert!(changes.contains("change of the logit difference against the clean run"));
    // On request, and the ranking says so.
    let with = |kind| ok(&[&noising[..], &["--values", kind]].concat());
    assert!(with("raw").contains("#  head  logit difference\n"));
    assert!(with("normalized").contains("#  head  logit difference, normalized\n"));
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn patch_of_a_file_of_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |clean: &str, corrupted: &str, answer: &str| {
        format!(
            "{{\"clean\": \"{clean}\", \"corrupt\": \"{corrupted}\", \"answers\": [\"{answer}\"], \
             \"wrong_answers\": [\" John\", \" Tom\"]}}\n"
        )
    };
    let longer = |name: &str| {
        format!("Then, Mary and John had a long argument, and afterwards {name} said to")
    };
    let lines = [
        entry(CLEAN, CORRUPTED, " Mary"),
        entry(CLEAN, "When Mary", " Mary"),
        entry(CLEAN, CORRUPTED, "Mary"),
        entry(&longer("John"), &longer("Mary"), " Mary"),
    ];
    let path = write(folder.path(), "pairs.jsonl", &lines.concat());
    let output = patchlens(&[
        "patch",
        "--pairs",
        &path,
        "--json",
        "--metric",
        "logit-diff-max",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("pair 1: 14 tokens clean, 2 corrupted"),
        "{stderr}"
    );
    assert!(stderr.contains("pair 2 (line 3): "), "{stderr}");
    let document = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(document["results"]["left_out"].as_array().unwrap().len(), 2);
    // Two lengths: by head alone.
    let names: Vec<&String> = document["results"].as_object().unwrap().keys().collect();
    assert!(names.contains(&&"z".to_string()) && !names.contains(&&"resid_pre".to_string()));
    let stderr = fails(
        2,
        &["patch", "--pairs", &path, "--sweep", "resid_pre", "--quiet"],
    );
    assert!(
        stderr.contains("14 tokens (pairs 0), 15 tokens (pairs 1)"),
        "{stderr}"
    );
}

/// Every study on its task, with few prompts: text, JSON and files.
/// The first Ctrl-C ends a training with a checkpoint, status 3.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_cleanly_with_partial_results() {
    use std::io::Read as _;
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap().to_string();
    let mut program = Command::new(env!("CARGO_BIN_EXE_patchlens"));
    program.args(["train-mini", "--out", &out, "--checkpoint-every", "1"]);
    let mut child = program
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let checkpoint = folder.path().join("checkpoint.safetensors");
    let begun = Instant::now();
    while !checkpoint.exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    assert!(checkpoint.exists());
}
