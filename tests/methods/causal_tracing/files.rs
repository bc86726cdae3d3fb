//! Facts as texts and from files.

use patchlens::tasks::{FactPrompt, KnownFacts};

use crate::small_tokenizer::mini;

#[test]
fn subjects_occur_once() {
    let tokenizer = mini();
    let fact =
        |text: &str, subject: &str| FactPrompt::new(&tokenizer, text, subject, " tennis", "");
    let found = fact("Ada Brown plays the sport of", "Ada Brown").unwrap();
    assert_eq!(found.subject, 0..2);
    for (text, subject, part) in [
        (
            "Ada Brown plays the sport of",
            "Leo Brown",
            "no such subject",
        ),
        (
            "Ada Brown plays the sport of Ada Brown",
            "Ada Brown",
            "twice",
        ),
        ("Ada Brown plays the sport of", "", "no such subject"),
    ] {
        let error = fact(text, subject).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn facts_come_from_a_file() {
    let tokenizer = mini();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.json");
    let text = r#"[
        {"known_id": 0, "subject": "Ada Brown", "attribute": "tennis", "relation_id": "P1",
         "template": "{} plays the sport of", "prompt": "Ada Brown plays the sport of"},
        {"subject": "Ada", "attribute": "tennis", "prompt": "Ada likes Ada"},
        {"subject": "Leo White", "attribute": "ice tennis", "prompt": "Leo White likes"},
        {"subject": "Leo White", "attribute": " golf", "prompt": "The sport that Leo White plays is "}
    ]"#;
    std::fs::write(&path, text).unwrap();
    let known = KnownFacts::open(&path, &tokenizer, false).unwrap();
    let subjects: Vec<_> = known.facts.iter().map(|f| f.subject.clone()).collect();
    assert_eq!(subjects, [0..2, 3..5]);
    assert_eq!(known.facts[0].relation, "P1");
    assert_eq!(known.facts[1].attribute_text, " golf");
    let skipped: Vec<usize> = known.skipped.iter().map(|s| s.index).collect();
    assert_eq!(skipped, [1, 2]);
    assert!(
        known.skipped[0].reason.contains("twice"),
        "{}",
        known.skipped[0].reason
    );
    let with_bos = KnownFacts::open(&path, &tokenizer, true).unwrap();
    assert_eq!(with_bos.facts[0].subject, 1..3);
    for bad in [
        "[]",
        "{}",
        r#"[{"prompt": "Ada"}]"#,
        "[",
        &text.replace("Brown", "Zzz")[..60],
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = KnownFacts::open(&path, &tokenizer, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("facts.json") && error.contains("expected"),
            "{error}"
        );
    }
}
