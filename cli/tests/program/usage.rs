//! Options that make no sense, and files that no option may name: told before any work.

use std::fs;
use std::process::Command;

use crate::{CLEAN, CORRUPTED, fails, write};

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["patch", "--nothing"][..],
        &["nothing"],
        &["patch", "--clean", CLEAN],
        &["patch", "--memory", "lots"],
        &["patch", "--threads", "0"],
        &["patch", "--task", "facts"],
        &[
            "patch", "--clean", CLEAN, "--pairs", "x.json", "--answer", " Mary",
        ],
        &["patch", "--clean", CLEAN, "--answer", " Mary"],
        &["train-mini", "--drop-heads", "1"],
        &["train-mini", "--threads", "65535"],
        // Found before the work, not after it.
        &["patch", "--neurons", "99"],
        &["patch", "--prompts", "4294967295"],
        &["circuits", "--acdc", "nan"],
        &["circuits", "--carries", "1.5"],
        &["circuits", "--steps", "99999999999"],
        &["trace", "--samples", "99999999999"],
        &["steer", "--tokens", "0"],
        &["steer", "--scales", "1,nan"],
        &["lens", "--ridge", "nan"],
        &["lens", "--save-lens", "lens.json"],
        &["lens", "--fit", "18446744073709551615"],
        // None of what belongs to --clean is silently left out.
        &["patch", "--task", "ioi", "--answer", " Mary"],
        &["patch", "--prompts", "2", "--wrong", " John"],
        &["patch", "--pairs", "x.json", "--corrupted", CORRUPTED],
        &["patch", "--pairs", "x.json", "--first-token"],
        &["trace", "--facts", "x.json", "--subject", "Ada Brown"],
        &["knockout", "--facts", "x.json", "--answer", " boxing"],
    ] {
        let stderr = fails(2, arguments);
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
    assert!(fails(2, &["patch", "--memory", "lots"]).contains("found `lots`; expected"));
    assert!(fails(2, &["patch", "--seed", "-1"]).contains("found `-1`; expected"));
    let twice = fails(2, &["ablate", "--without", "3.0,3.0"]);
    assert!(twice.contains("found 3.0 twice"), "{twice}");
    let late = fails(1, &["in-context", "--late", "0"]);
    assert!(late.contains("--late: found 0"), "{late}");
    let memory = fails(1, &["patch", "--memory", "1", "--json"]);
    assert!(memory.contains("set by --memory"), "{memory}");
}

#[test]
fn no_option_writes_over_the_file_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "file", "[]");
    let same = folder.path().join(".").join("file");
    let same = same.to_str().unwrap();
    let dir = folder.path().to_str().unwrap();
    for arguments in [
        &["patch", "--journal", &file, "--json", same][..],
        &["patch", "--pairs", &file, "--json", same],
        &["trace", "--facts", &file, "--journal", same],
        &["lens", "--lens", &file, "--save-lens", same],
        &["merge", "--into", &file, same, "other"],
        &["patch", "--model", dir, "--json", &file],
    ] {
        let stderr = fails(2, arguments);
        assert!(
            stderr.contains("; expected two") || stderr.contains("in the model's folder"),
            "{arguments:?}: {stderr}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "[]");
    }
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    let stderr = fails(2, &["patch", "--journal", missing, "--json", missing]);
    assert!(stderr.contains("--json and --journal"), "{stderr}");
    let inputs = fails(1, &["in-context", "--text", &file, "--pairs", &file]);
    assert!(!inputs.contains("expected two"), "{inputs}");
}

/// A pipe that nobody writes to, or reads from, would block for ever.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("checkpoint.safetensors");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let (dir, pipe) = (folder.path().to_str().unwrap(), pipe.to_str().unwrap());
    for arguments in [
        &["in-context", "--text", pipe][..],
        &["in-context", "--pairs", pipe],
        &["train-mini", "--resume", "--out", dir],
        &["lens", "--json", pipe],
    ] {
        let stderr = fails(1, arguments);
        assert!(
            stderr.contains("a device, pipe or socket; expected"),
            "{stderr}"
        );
    }
}
