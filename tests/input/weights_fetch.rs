//! `weights-fetch.sh` against a small HTTP server on 127.0.0.1, once with curl and once with
//! wget (skipped, with a line that says so, where one is not installed).

mod hostile;
mod server;
mod turns;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use server::{CONFIG, CUT, Files, MODEL, MODEL_LEN, MODEL_SHA, Quirk, Server, model_bytes};

/// Exit code, standard output and standard error of the script.
#[derive(Debug)]
struct Outcome(Option<i32>, String, String);

impl Outcome {
    fn assert(&self, code: i32, words: &[&str]) {
        assert_eq!(self.0, Some(code), "{self:?}");
        for word in words {
            assert!(self.2.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// Run the script; kill it and panic if it takes longer than a minute.
fn run_script(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    run_script_in(&["sh"], args, env)
}

/// The same, by the shell or what starts it.
fn run_script_in(shell: &[&str], args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights-fetch.sh");
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(script).args(args);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in "HF_ENDPOINT REVISION PATCHLENS_SHA256 PATCHLENS_FETCHER PATCHLENS_STALE".split(' ')
    {
        command.env_remove(name);
    }
    command.envs([("no_proxy", "127.0.0.1"), ("PATCHLENS_WAIT", "0")]);
    command.env("PATCHLENS_TRIES", "2").envs(env.to_vec());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("the script hangs: {args:?} {env:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code();
    Outcome(code, text(output.stdout), text(output.stderr))
}

/// One server, one fetcher, one target directory, removed at the end.
struct Setting {
    fetcher: &'static str,
    server: Arc<Server>,
    dir: PathBuf,
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Setting {
    fn new(fetcher: &'static str, quirks: &'static [Quirk]) -> Setting {
        Setting::with(fetcher, Server::start(quirks, Files::good()))
    }

    fn with(fetcher: &'static str, server: Arc<Server>) -> Setting {
        let port = server.url.rsplit(':').next().unwrap();
        let name = format!("patchlens fetch {} {port}", std::process::id());
        let dir = env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Setting {
            fetcher,
            server,
            dir,
        }
    }

    /// Fetch gpt2 at a revision with no known checksums.
    fn run(&self, env: &[(&str, &str)]) -> Outcome {
        self.run_in(&["sh"], env)
    }

    fn run_in(&self, shell: &[&str], env: &[(&str, &str)]) -> Outcome {
        let mut all = vec![("HF_ENDPOINT", self.server.url.as_str())];
        all.extend([("REVISION", "rev1"), ("PATCHLENS_FETCHER", self.fetcher)]);
        all.extend(env);
        run_script_in(shell, &["gpt2", self.dir.to_str().unwrap()], &all)
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    /// All files are there and right, and nothing else is.
    fn assert_complete(&self, outcome: &Outcome) {
        outcome.assert(0, &[]);
        assert!(outcome.1.contains("has all 3 files of gpt2"), "{outcome:?}");
        assert_eq!(self.file("config.json").unwrap(), CONFIG.as_bytes());
        assert!(self.file(MODEL) == Some(model_bytes()), "{outcome:?}");
        assert!(self.file("tokenizer.json").is_some() && self.file("SOURCE").is_some());
        assert_eq!(fs::read_dir(&self.dir).unwrap().count(), 4);
    }

    /// The script failed, said so in these words, and left no NAME behind.
    fn assert_refused(&self, outcome: &Outcome, name: &str, code: i32, words: &[&str]) {
        outcome.assert(code, words);
        assert_eq!(self.file(name), None, "{outcome:?}");
        assert!(!outcome.1.contains("done:"), "{outcome:?}");
    }

    fn assert_nothing_sent_twice(&self) {
        let rest = (Some(CUT), 206, MODEL_LEN - CUT);
        assert_eq!(self.server.model_answers(), [(None, 200, CUT), rest]);
    }
}

/// Make the tests `curl::NAME` and `wget::NAME` of each function.
macro_rules! with_both_fetchers {
    ($($name:ident)*) => {
        mod curl { $(#[test] fn $name() { super::with_fetcher("curl", super::$name); })* }
        mod wget { $(#[test] fn $name() { super::with_fetcher("wget", super::$name); })* }
    };
}

with_both_fetchers! {
    fetches_all_files_though_busy  resumes_in_the_same_run  resumes_in_the_next_run
    copes_with_a_server_that_cannot_resume
    refuses_a_wrong_checksum  refuses_a_file_that_is_not_the_pinned_one
    refuses_html_and_cut_files  says_which_url_is_missing
    leaves_good_files_alone  leaves_wrong_files_alone  does_not_mix_two_revisions
}

fn with_fetcher(fetcher: &'static str, test: fn(&'static str)) {
    match Command::new(fetcher).arg("--version").output() {
        Ok(_) => test(fetcher),
        Err(_) => println!("skipped: {fetcher} is not installed"),
    }
}

/// A server of this config and this model.
fn serving(fetcher: &'static str, config: impl AsRef<[u8]>, model: &[u8]) -> Setting {
    let files = Files {
        config: config.as_ref().to_vec(),
        model: model.to_vec(),
        ..Files::good()
    };
    Setting::with(fetcher, Server::start(&[], files))
}

fn fetches_all_files_though_busy(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Redirect, Quirk::Busy]);
    let outcome = setting.run(&[("PATCHLENS_SHA256", MODEL_SHA)]);
    setting.assert_complete(&outcome);
    assert!(outcome.1.contains("0.2 MB, SHA-256 matches"), "{outcome:?}");
    assert!(
        outcome.1.contains("57 bytes, checksum not known"),
        "{outcome:?}"
    );
    outcome.assert(0, &["model.safetensors: broken off", "HTTP status 503"]);
    let asked = setting.server.answers();
    let at = "/openai-community/gpt2/resolve/rev1";
    for (answer, name) in asked.iter().zip(["config.json", "tokenizer.json", MODEL]) {
        assert_eq!(answer.path, format!("{at}/{name}"));
    }
}

fn resumes_in_the_same_run(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Cut, Quirk::Redirect]);
    let outcome = setting.run(&[("PATCHLENS_SHA256", MODEL_SHA)]);
    setting.assert_complete(&outcome);
    setting.assert_nothing_sent_twice();
    outcome.assert(0, &["resuming at 90000 bytes"]);
}

fn resumes_in_the_next_run(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Cut]);
    let first = setting.run(&[("PATCHLENS_TRIES", "1")]);
    let words = ["have 90000 bytes", "run the same command again to resume"];
    setting.assert_refused(&first, MODEL, 1, &words);
    setting.assert_complete(&setting.run(&[("PATCHLENS_SHA256", MODEL_SHA)]));
    setting.assert_nothing_sent_twice();
}

fn copes_with_a_server_that_cannot_resume(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Cut, Quirk::NoRange]);
    setting.assert_complete(&setting.run(&[("PATCHLENS_SHA256", MODEL_SHA)]));
    let tried_to_resume = (Some(CUT), 200, MODEL_LEN);
    assert_eq!(
        setting.server.model_answers()[..2],
        [(None, 200, CUT), tried_to_resume]
    );
}

fn refuses_a_wrong_checksum(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[]);
    let wrong = MODEL_SHA.replace('9', "0");
    let outcome = setting.run(&[("PATCHLENS_SHA256", &wrong)]);
    let line = format!("SHA-256: expected {wrong}, found {MODEL_SHA}");
    setting.assert_refused(&outcome, MODEL, 3, &[&line, "delete it and run again"]);
}

fn refuses_a_file_that_is_not_the_pinned_one(fetcher: &'static str) {
    let config = format!("{{{}}}", " ".repeat(663)); // as long as the real one
    let setting = serving(fetcher, &config, b"");
    let outcome = setting.run(&[("REVISION", "")]);
    let words = ["failed its check", "SHA-256: expected 0daed7749b4f02b8"];
    setting.assert_refused(&outcome, "config.json", 3, &words);
}

fn refuses_html_and_cut_files(fetcher: &'static str) {
    let page = &b"<!DOCTYPE html>\n<html><body>please log in {}</body></html>\n"[..];
    let (json, model) = (CONFIG.as_bytes(), &model_bytes()[..]);
    let not_json = "not a whole JSON object";
    let too_short = "its tensors end at byte 200098, the file at byte 150000";
    for (config, model, name, word) in [
        (page, model, "config.json", not_json),
        (&b"{\"n_layer\": 1"[..], model, "config.json", not_json),
        (json, page, MODEL, "not a safetensors file"),
        (json, &model[..150_000], MODEL, too_short),
    ] {
        let setting = serving(fetcher, config, model);
        setting.assert_refused(&setting.run(&[]), name, 3, &[name, word]);
    }
}

fn says_which_url_is_missing(fetcher: &'static str) {
    let setting = serving(fetcher, CONFIG, b"");
    let url = format!("/openai-community/gpt2/resolve/rev1/{MODEL}");
    let words = ["not found (HTTP status 404)", &url, "check HF_ENDPOINT"];
    setting.assert_refused(&setting.run(&[]), MODEL, 1, &words);
    assert_eq!(setting.server.answers().len(), 3, "no second try after 404");
}

fn leaves_good_files_alone(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[]);
    setting.assert_complete(&setting.run(&[]));
    let again = setting.run(&[("PATCHLENS_SHA256", &MODEL_SHA.to_uppercase())]);
    setting.assert_complete(&again);
    assert_eq!(setting.server.answers().len(), 3, "{again:?}");
    assert!(again.1.contains("already there, 0.2 MB"), "{again:?}");
}

fn leaves_wrong_files_alone(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[]);
    fs::write(setting.dir.join("config.json"), "my notes").unwrap();
    let outcome = setting.run(&[]);
    setting.assert_refused(&outcome, MODEL, 3, &["config.json is there but failed"]);
    assert_eq!(setting.file("config.json").unwrap(), b"my notes");
}

fn does_not_mix_two_revisions(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Cut]);
    setting.run(&[("PATCHLENS_TRIES", "1")]).assert(1, &[]);
    let outcome = setting.run(&[("REVISION", "rev2")]);
    let words = ["holds another checkpoint", "gpt2 rev1", "gpt2 rev2"];
    setting.assert_refused(&outcome, MODEL, 2, &words);
}

#[test]
fn wrong_use_is_explained() {
    let models = "known models: gpt2 gpt2-medium gpt2-large gpt2-xl distilgpt2";
    for (args, env, word) in [
        ("gpt3", ("REVISION", "x"), models),
        ("--nope", ("REVISION", "x"), "unknown option '--nope'"),
        ("gpt2 a b", ("REVISION", "x"), "too many arguments"),
        ("gpt2", ("PATCHLENS_SHA256", "12ab"), "has 4 digits"),
        ("gpt2", ("PATCHLENS_FETCHER", "telnet"), "curl or wget"),
        ("gpt2", ("PATCHLENS_STALE", "4"), "at least 5"),
    ] {
        run_script(&Vec::from_iter(args.split(' ')), &[env]).assert(2, &[word]);
    }
}

#[test]
fn help_names_every_model_and_variable() {
    let outcome = run_script(&["--help"], &[]);
    outcome.assert(0, &[]);
    let words = "gpt2-medium gpt2-large gpt2-xl distilgpt2 HF_ENDPOINT REVISION \
        SHA256 FETCHER TRIES WAIT STALE status";
    for word in words.split_whitespace() {
        assert!(outcome.1.contains(word), "--help does not name {word}");
    }
}
