//! Case t8: files that change or do not end, error pages, endpoints that are no addresses.

use std::fs;

use super::server::{CONFIG, CUT, Files, MODEL, MODEL_LEN, Quirk, Server, TOKENIZER, model_bytes};
use super::{Setting, run_script, with_fetcher};

/// Make the tests `curl::NAME` and `wget::NAME` of each function.
macro_rules! with_both_fetchers {
    ($($name:ident)*) => {
        mod curl { $(#[test] fn $name() { super::with_fetcher("curl", super::$name); })* }
        mod wget { $(#[test] fn $name() { super::with_fetcher("wget", super::$name); })* }
    };
}

with_both_fetchers! {
    t8_if_range_lets_an_unchanged_file_be_resumed  t8_a_changed_file_is_fetched_anew
    t8_a_part_of_unknown_version_is_not_resumed
    t8_an_endless_answer_is_stopped  t8_a_part_beyond_the_end_is_not_resumed
    t8_error_pages_are_refused  t8_passwords_are_not_shown
}

const BEGUN: (Option<usize>, u16, usize) = (None, 200, CUT);
const WHOLE: (u16, usize) = (200, MODEL_LEN);
const REST: (Option<usize>, u16, usize) = (Some(CUT), 206, MODEL_LEN - CUT);

fn t8_if_range_lets_an_unchanged_file_be_resumed(fetcher: &'static str) {
    const DATE: &str = "Sun, 25 Nov 2001 10:00:00 GMT";
    let etag: &[Quirk] = &[Quirk::Cut, Quirk::Redirect, Quirk::Version("\"v 1\"")];
    let date: &[Quirk] = &[Quirk::Cut, Quirk::Modified(DATE)];
    let weak: &[Quirk] = &[
        Quirk::Cut,
        Quirk::Version("W/\"v1\""),
        Quirk::Modified(DATE),
    ];
    for (quirks, validator) in [(etag, "\"v 1\""), (date, DATE), (weak, DATE)] {
        let setting = Setting::new(fetcher, quirks);
        setting
            .run(&[("PATCHLENS_TRIES", "1")])
            .assert(1, &["to resume"]);
        setting.assert_complete(&setting.run(&[]));
        assert_eq!(setting.server.model_answers(), [BEGUN, REST]);
        let last = setting.server.answers().pop().unwrap();
        assert_eq!(last.if_range.as_deref(), Some(validator));
    }
}

fn t8_a_changed_file_is_fetched_anew(fetcher: &'static str) {
    // The second one sends parts even of other versions; only its answer's version tells.
    let honest: &[Quirk] = &[Quirk::Version("\"v2\"")];
    let careless: &[Quirk] = &[Quirk::Version("\"v2\""), Quirk::NoIfRange];
    for quirks in [honest, careless] {
        let mut setting = Setting::new(fetcher, &[Quirk::Cut, Quirk::Version("\"v1\"")]);
        setting
            .run(&[("PATCHLENS_TRIES", "1")])
            .assert(1, &["to resume"]);
        let mut model = model_bytes();
        model[1000..].iter_mut().for_each(|byte| *byte ^= 1);
        let files = Files {
            model: model.clone(),
            ..Files::good()
        };
        setting.server = Server::start(quirks, files);
        let outcome = setting.run(&[]);
        outcome.assert(0, &["resuming at 90000 bytes", "starting over"]);
        assert!(
            setting.file(MODEL) == Some(model),
            "old and new bytes mixed: {outcome:?}"
        );
        assert_eq!(fs::read_dir(&setting.dir).unwrap().count(), 4);
        let answers = setting.server.answers();
        let asked = answers
            .iter()
            .find(|answer| answer.start == Some(CUT))
            .unwrap();
        assert_eq!(asked.if_range.as_deref(), Some("\"v1\""));
        let (_, status, sent) = setting.server.model_answers().pop().unwrap();
        assert_eq!((status, sent), WHOLE);
    }
}

fn t8_a_part_of_unknown_version_is_not_resumed(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[Quirk::Cut]);
    setting.run(&[("PATCHLENS_TRIES", "1")]).assert(1, &[]);
    let outcome = setting.run(&[]);
    setting.assert_complete(&outcome);
    outcome.assert(0, &["no telling whether the server still has the file"]);
    assert_eq!(
        setting.server.model_answers(),
        [BEGUN, (None, WHOLE.0, WHOLE.1)]
    );
}

/// The pinned config.json has 665 bytes; of one that is not known the limit is 64 MB.
fn t8_an_endless_answer_is_stopped(fetcher: &'static str) {
    const MIB: usize = 1 << 20;
    for (revision, begun, expected, found, asked) in [
        ("", "", "expected 665 bytes", MIB, 1),
        ("", "{\"resumed\":", "expected 665 bytes", MIB, 2),
        ("rev1", "", "expected at most 64000000 bytes", 62 * MIB, 1),
    ] {
        let setting = Setting::new(fetcher, &[Quirk::Endless]);
        if !begun.is_empty() {
            fs::write(setting.dir.join("config.json.part"), begun).unwrap();
        }
        let outcome = setting.run(&[("REVISION", revision)]);
        let words = ["config.json: the server sends more", expected, "found "];
        setting.assert_refused(&outcome, "config.json", 3, &words);
        let left = fs::read_dir(&setting.dir).unwrap().count();
        assert_eq!(left, 1, "only SOURCE is left: {outcome:?}");
        let answers = setting.server.answers();
        assert_eq!(answers.len(), asked, "{outcome:?}");
        // What the sockets hold in addition, on either side, is some MiB.
        let sent = answers.iter().map(|answer| answer.sent).max();
        assert!(sent.unwrap() < found + 32 * MIB, "{sent:?} {outcome:?}");
    }
}

fn t8_a_part_beyond_the_end_is_not_resumed(fetcher: &'static str) {
    let setting = Setting::new(fetcher, &[]);
    fs::write(setting.dir.join("config.json.part"), [b' '; 666]).unwrap();
    let outcome = setting.run(&[("REVISION", "")]);
    outcome.assert(3, &["666 bytes are there of a file of at most 665 bytes"]);
    assert_eq!(setting.server.answers()[0].start, None);
}

fn t8_error_pages_are_refused(fetcher: &'static str) {
    let not_json = "not a whole JSON object";
    let no_layers = "no field n_layer that is a number";
    for (page, why) in [
        ("<!DOCTYPE html>\n<html>{\"n_layer\": 1}</html>", not_json),
        ("{\"n_layer\": 1, \"n_head\": 1,}", not_json),
        ("{} {}", not_json),
        ("[1, 2]", not_json),
        ("{\"n_layer\": 1 2}", not_json),
        ("{\"n_layer\": \"1}", not_json),
        (&CONFIG[..CONFIG.len() - 1], not_json),
        ("{}", no_layers),
        ("{\"error\": \"Repository not found\"}", no_layers),
        (
            "{\"error\": \"\\\"n_layer\\\": 1\", \"status\": 200}",
            no_layers,
        ),
        (&CONFIG.replace(": 1,", ": \"1\","), no_layers),
        (&format!("{{\"was\": {CONFIG}}}"), no_layers),
        (&CONFIG.replace("vocab_size", "size"), "no field vocab_size"),
    ] {
        let files = Files {
            config: page.into(),
            ..Files::good()
        };
        let setting = Setting::with(fetcher, Server::start(&[], files));
        setting.assert_refused(&setting.run(&[]), "config.json", 3, &["config.json", why]);
    }
    for (page, why) in [
        (CONFIG, "no field model that is an object"),
        ("{\"model\": \"gone\"}", "no field model that is an object"),
        (
            &TOKENIZER.replace("{\"a\": 0, \"\\\"\": 1}", "[]"),
            "no field model.vocab that is an object",
        ),
        (
            &TOKENIZER.replace("[]", "{}"),
            "no field model.merges that is an array",
        ),
    ] {
        let files = Files {
            tokenizer: page.into(),
            ..Files::good()
        };
        let setting = Setting::with(fetcher, Server::start(&[], files));
        setting.assert_refused(
            &setting.run(&[]),
            "tokenizer.json",
            3,
            &["tokenizer.json", why],
        );
    }
}

fn t8_passwords_are_not_shown(fetcher: &'static str) {
    let good = Setting::new(fetcher, &[]);
    let missing = Files {
        model: Vec::new(),
        ..Files::good()
    };
    let missing = Setting::with(fetcher, Server::start(&[], missing));
    let unreachable = Setting::new(fetcher, &[]);
    for (setting, address, code) in [
        (&good, good.server.url.as_str(), 0),
        (&missing, &missing.server.url, 1),
        (&unreachable, "http://127.0.0.1:1", 1),
    ] {
        let endpoint = address.replace("//", "//some.one:s3cret%40%2F@");
        let outcome = setting.run(&[("HF_ENDPOINT", &endpoint)]);
        outcome.assert(code, &["//***@127.0.0.1:"]);
        let shown = format!("{}{}", outcome.1, outcome.2);
        assert!(
            !shown.contains("some.one") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}

#[test]
fn t8_what_is_no_address_never_reaches_curl() {
    let dir = tempfile::tempdir().unwrap();
    let (made, target) = (dir.path().join("made"), dir.path().join("to"));
    let made = made.to_str().unwrap();
    for endpoint in [
        &format!("-o{made}"),
        &format!("--output={made}"),
        "ftp://127.0.0.1",
        "file:///etc",
        "s3cret@127.0.0.1",
        "http://",
        "http://127.0.0.1/?x=",
        "http://127.0.0.1/#x",
        "http://127.0.0.1/{a,b}",
        "http://127.0.0.1/ -o x",
        "http://127.0.0.1/\n-o",
        "http://127.0.0.1/\"",
        "http://me:s3c@s3cret@127.0.0.1",
        "http://me:s3c/s3cret@127.0.0.1",
    ] {
        let env = [("HF_ENDPOINT", endpoint)];
        let outcome = run_script(&["gpt2", target.to_str().unwrap()], &env);
        outcome.assert(2, &["HF_ENDPOINT "]);
        assert!(!outcome.2.contains("s3cret"), "{outcome:?}");
    }
    for revision in ["../../x", "a b", "x?y", "x#y", "a/../../b"] {
        let env = [
            ("REVISION", revision),
            ("HF_ENDPOINT", "http://127.0.0.1:1"),
        ];
        let outcome = run_script(&["gpt2", target.to_str().unwrap()], &env);
        outcome.assert(2, &["REVISION is"]);
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was made"
    );
}
