//! Case t8: several runs for one folder, some of them dead, paused, or in another PID namespace.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::server::{CUT, MODEL, MODEL_SHA, Quirk, model_bytes};
use super::{Outcome, Setting, with_fetcher};

/// Make the tests `curl::NAME` and `wget::NAME` of each function.
macro_rules! with_both_fetchers {
    ($($name:ident)*) => {
        mod curl { $(#[test] fn $name() { super::with_fetcher("curl", super::$name); })* }
        mod wget { $(#[test] fn $name() { super::with_fetcher("wget", super::$name); })* }
    };
}

with_both_fetchers! {
    t8_three_starts_at_once_all_succeed  t8_runs_in_pid_namespaces_take_turns
    t8_waits_for_a_living_run_but_not_for_a_killed_one
    t8_waits_for_a_run_elsewhere_while_it_gives_signs_of_life
    t8_a_run_that_was_taken_for_dead_stops
}

/// Three runs at once; each file is fetched once.
fn assert_turns(fetcher: &'static str, shell: &[&str]) {
    let setting = Setting::new(fetcher, &[]);
    let outcomes = thread::scope(|scope| {
        let runs = [(); 3].map(|()| scope.spawn(|| setting.run_in(shell, &[])));
        runs.map(|run| run.join().unwrap())
    });
    for outcome in &outcomes {
        setting.assert_complete(outcome);
    }
    let answers = setting.server.answers();
    assert_eq!(answers.len(), 3, "{answers:?} {outcomes:?}");
}

fn t8_three_starts_at_once_all_succeed(fetcher: &'static str) {
    for _ in 0..4 {
        assert_turns(fetcher, &["sh"]);
    }
}

/// In each of these the script is process 1. In the last ones `/proc` is that of the outer one.
fn t8_runs_in_pid_namespaces_take_turns(fetcher: &'static str) {
    for options in [&["-rpf", "--mount-proc"][..], &["-rpf"]] {
        let tried = Command::new("unshare").args(options).arg("true").output();
        if !tried.is_ok_and(|output| output.status.success()) {
            println!("skipped: no PID namespaces by unshare {options:?}");
            continue;
        }
        let shell = [&["unshare"], options, &["sh"]].concat();
        for _ in 0..3 {
            assert_turns(fetcher, &shell);
        }
    }
}

/// The files `run.ID` and their lines that are not empty.
fn runs(setting: &Setting) -> Vec<(PathBuf, Vec<String>)> {
    let Ok(names) = fs::read_dir(setting.dir.join(".lock")) else {
        return Vec::new();
    };
    let paths = names.map(|entry| entry.unwrap().path());
    let runs = paths.filter(|path| path.file_stem().unwrap() == "run");
    runs.map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.is_empty());
        let lines = lines.map(str::to_string).collect();
        (path, lines)
    })
    .collect()
}

/// The PIDs of a run and of its curl or wget, which waits for an answer.
fn stalled(setting: &Setting) -> (String, String) {
    while setting.server.answers().is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    let (_, lines) = runs(setting).pop().unwrap();
    let script = lines[0].split(' ').nth(1).unwrap();
    (script.to_string(), lines[1].clone())
}

fn kill(pid: &str) {
    let status = Command::new("kill").args(["-9", pid]).status();
    assert!(status.unwrap().success());
}

fn t8_waits_for_a_living_run_but_not_for_a_killed_one(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Stall]);
    let begun = |number: usize| {
        let runs = runs(&setting);
        assert_eq!(runs.len(), number, "{runs:?}");
        runs.iter().filter(|(_, lines)| lines.len() > 1).count()
    };
    let (outcome, script): (Outcome, String) = thread::scope(|scope| {
        let killed = scope.spawn(|| setting.run(&[]));
        let (script, child) = stalled(&setting);
        let run = scope.spawn(|| setting.run(&[]));
        while runs(&setting).len() < 2 {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(begun(2), 1, "it did not wait");
        kill(&script);
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(begun(2), 1, "it did not wait for what the run began");
        kill(&child);
        let since = Instant::now();
        let outcome = run.join().unwrap();
        assert!(since.elapsed() < Duration::from_secs(30), "{outcome:?}");
        assert_eq!(killed.join().unwrap().0, None);
        (outcome, script)
    });
    setting.assert_complete(&outcome);
    outcome.assert(0, &[&format!("waiting for another run (process {script})")]);
}

fn t8_waits_for_a_run_elsewhere_while_it_gives_signs_of_life(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[]);
    let (queue, part) = (setting.dir.join(".lock"), format!("{MODEL}.part"));
    fs::create_dir(&queue).unwrap();
    fs::write(queue.join("ticket.7.abc"), "").unwrap();
    fs::write(queue.join("run.abc"), "elsewhere 1 box\n").unwrap();
    fs::write(setting.dir.join(&part), &model_bytes()[..CUT]).unwrap();
    let append = |name: PathBuf| fs::File::options().append(true).open(name).unwrap();
    let (mut sign, mut paused) = (
        append(queue.join("run.abc")),
        append(setting.dir.join(part)),
    );
    let env = [("PATCHLENS_STALE", "8"), ("PATCHLENS_SHA256", MODEL_SHA)];
    let outcome = thread::scope(|scope| {
        let run = scope.spawn(|| setting.run(&env));
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(500));
            sign.write_all(b"\n").unwrap();
        }
        assert!(setting.server.answers().is_empty(), "it did not wait");
        run.join().unwrap()
    });
    outcome.assert(
        0,
        &[
            "process 1 in another container",
            "host: box",
            "resuming at 90000",
        ],
    );
    // It was only paused, and goes on writing.
    paused.write_all(b"more").unwrap();
    setting.assert_complete(&outcome);
}

fn t8_a_run_that_was_taken_for_dead_stops(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Stall]);
    let outcome = thread::scope(|scope| {
        let run = scope.spawn(|| setting.run(&[]));
        let (_, child) = stalled(&setting);
        fs::remove_dir_all(setting.dir.join(".lock")).unwrap();
        kill(&child);
        run.join().unwrap()
    });
    let words = ["another run has taken over", "run the same command again"];
    setting.assert_refused(&outcome, "config.json", 1, &words);
    assert_eq!(setting.server.answers().len(), 1, "{outcome:?}");
}
