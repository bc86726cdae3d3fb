//! Every study, on its task and on prompts of one's own.

use std::fs;

use crate::{CLEAN, CORRUPTED, fails, json, ok, pair};

#[test]
fn every_study_runs_on_its_task() {
    let folder = tempfile::tempdir().unwrap();
    for (study, options, result) in [
        ("paths", &["--prompts", "4"][..], "to_logits"),
        ("trace", &["--prompts", "3", "--samples", "2"], "states"),
        ("knockout", &["--prompts", "3"], "relative"),
        ("interchange", &[], "effect"),
        ("patchscope", &["--tokens", "2"], "likeliest"),
        ("lens", &["--prompts", "3", "--fit", "20"], "tuned_lens_kl"),
        ("attribute", &["--prompts", "4"], "dla_writers"),
        (
            "steer",
            &["--prompts", "100", "--tries", "4", "--scales", "0,1"],
            "steering_by_layer",
        ),
        (
            "ablate",
            &["--prompts", "4", "--without", "3.0,3.2"],
            "together",
        ),
        (
            "circuits",
            &["--prompts", "2", "--acdc", "0.5", "--acdc", "2"],
            "acdc_0.5",
        ),
        (
            "circuits",
            &["--prompts", "2", "--screen", "30"],
            "screened",
        ),
        ("heads", &["--prompts", "4", "--sequences", "2"], "report"),
        ("induction", &["--sequences", "2"], "removed"),
        ("in-context", &["--sequences", "2"], "mapping"),
    ] {
        let out = folder.path().join(study);
        let file = folder.path().join(format!("{study}.json"));
        let files = [
            "--out",
            out.to_str().unwrap(),
            "--json",
            file.to_str().unwrap(),
            "--quiet",
        ];
        let text = ok(&[&[study][..], options, &files].concat());
        assert!(text.lines().count() > 10, "{study}: {text}");
        assert!(!text.contains("NaN"), "{study}: {text}");
        let document = json(&fs::read_to_string(&file).unwrap());
        assert_eq!(document["study"], study);
        assert!(
            !document["results"][result].is_null(),
            "{study}: no {result}"
        );
        let pictures = fs::read_dir(&out).unwrap().count();
        assert!(pictures >= 4, "{study}: {pictures} files");
    }
}

/// Every study that can be asked about one's own prompts.
#[test]
fn every_study_that_can_runs_on_own_prompts() {
    let both = pair();
    let one = ["--clean", CLEAN, "--answer", " Mary", "--wrong", " John"];
    let paths = ok(&[&["paths"][..], &both].concat());
    assert!(
        paths.contains("heads that raise the logit difference"),
        "{paths}"
    );
    let attribute = ok(&[&["attribute"][..], &one].concat());
    assert!(
        attribute.contains("answer ` Mary`, rival ` John`"),
        "{attribute}"
    );
    let lens = ok(&[
        "lens",
        "--clean",
        "Ada Brown plays the sport of",
        "--fit",
        "0",
    ]);
    assert!(
        lens.contains("By the logit lens, the answer is the likeliest from"),
        "{lens}"
    );
    let steer = ok(&[&["steer", "--scales", "0,1"][..], &both].concat());
    assert!(steer.contains("log-probability of ` Mary`"), "{steer}");
    let trace = ok(&[
        "trace",
        "--clean",
        "Ada Brown plays the sport of",
        "--subject",
        "Ada Brown",
        "--answer",
        " boxing",
        "--samples",
        "2",
    ]);
    assert!(
        trace.contains("1 of 1 facts kept") || trace.contains("0 of 1 facts"),
        "{trace}"
    );
    let interchange = ok(&[
        "interchange",
        "--base",
        "Leo Green plays the sport of",
        "--source",
        "Ada Brown plays the sport of",
        "--role",
        "subject=0,1:0,1",
        "--role",
        "end=-1:-1",
    ]);
    assert!(
        interchange.contains("probability") && interchange.contains("subject"),
        "{interchange}"
    );
    let patchscope = ok(&[
        "patchscope",
        "--source",
        "Ada Brown",
        "--target",
        "Leo Green plays the sport of",
        "--write-at",
        "1",
        "--tokens",
        "1",
    ]);
    assert!(patchscope.contains("L2 into L2: boxing"), "{patchscope}");
    let neurons = ok(&[&["patch", "--sweep", "z", "--neurons", "0"][..], &both].concat());
    assert!(
        neurons.contains("mlp.hook_post") && neurons.contains("10 of 512 cells"),
        "{neurons}"
    );
    let task = ok(&[
        "patch",
        "--task",
        "greater-than",
        "--prompts",
        "2",
        "--sweep",
        "z",
    ]);
    assert!(task.contains("mean probability difference"), "{task}");
    let stderr = fails(2, &[&["attribute"][..], &both].concat());
    assert!(stderr.contains("--corrupted is not used here"), "{stderr}");
}

/// Prompts of different length are aligned, answers of several tokens measured as a whole.
#[test]
fn b33_longer_answers_and_prompts_of_different_length() {
    let unequal = [
        "patch",
        "--clean",
        CLEAN,
        "--corrupted",
        "When Mary and John went to the store Mary gave a drink to",
    ];
    let one = ["--answer", " Mary", "--wrong", " John"];
    let refused = fails(1, &[&unequal[..], &one].concat());
    assert!(
        refused.contains("so that positions correspond"),
        "{refused}"
    );
    let aligned = ok(&[&unequal[..], &one, &["--align", "ends"]].concat());
    assert!(aligned.contains("no samples"), "{aligned}");
    let roles = [
        "--role",
        "S2=9:8",
        "--role",
        "end=-1:-1",
        "--sweep",
        "resid_pre",
    ];
    let roles = ok(&[&unequal[..], &one, &roles].concat());
    assert!(roles.contains("role"), "{roles}");
    assert!(roles.contains("S2") && roles.contains("end"), "{roles}");
    let wrong = fails(2, &[&unequal[..], &one, &["--role", "S2=9"]].concat());
    assert!(wrong.contains("expected a name and positions"), "{wrong}");
    let pair = [
        &["patch", "--sweep", "z", "--clean", CLEAN, "--corrupted"][..],
        &[CORRUPTED],
    ];
    let pair = pair.concat();
    let whole = ok(&[&pair[..], &["--answer", " Mary and"]].concat());
    assert!(whole.contains("log-probability of the answer"), "{whole}");
    assert!(whole.contains("right ` Mary and`, wrong none"), "{whole}");
    let first = ["--answer", " Mary and", "--wrong", " John", "--first-token"];
    let first = ok(&[&pair[..], &first].concat());
    let single = ok(&[&pair[..], &one].concat());
    assert_eq!(first, single);
    let both = ["--answer", " Mary and", "--wrong", " John"];
    let refused = fails(2, &[&pair[..], &both].concat());
    assert!(refused.contains("or --first-token"), "{refused}");
    let steer = [
        "steer",
        "--clean",
        CLEAN,
        "--corrupted",
        CORRUPTED,
        "--answer",
        " Mary and",
    ];
    assert!(fails(2, &steer).contains("found 2 tokens"));
    let trace = ok(&[
        "trace",
        "--clean",
        "Ada Brown plays the sport of",
        "--subject",
        "Ada Brown",
        "--answer",
        " boxing.",
        "--samples",
        "2",
    ]);
    assert!(trace.contains("1 of 1 facts kept"), "{trace}");
}

/// A file whose answers have several tokens is measured as such a prompt of one's own is.
#[test]
fn b33_longer_answers_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.json");
    let entry = serde_json::json!({"clean": CLEAN, "corrupt": CORRUPTED, "answers": [" Mary and"]});
    fs::write(&path, serde_json::json!([entry, entry]).to_string()).unwrap();
    let file = ["--pairs", path.to_str().unwrap(), "--prompts", "1"];
    let own = [
        &["--clean", CLEAN, "--corrupted", CORRUPTED][..],
        &["--answer", " Mary and"],
    ];
    let own = own.concat();
    let patched = |prompts: &[&str]| {
        let text = ok(&[&["patch", "--sweep", "z", "--json"], prompts].concat());
        json(&text)["results"]["z"].clone()
    };
    let found = patched(&file);
    assert_eq!(found["unit"], "log-probability of the answer (nats)");
    assert_eq!(found["values"], patched(&own)["values"]);
    let both = ["--pairs", path.to_str().unwrap()];
    for study in ["ablate", "paths"] {
        let text = ok(&[&[study], &both[..]].concat());
        assert!(text.contains("right ` Mary and`, wrong none"), "{text}");
    }
    for study in ["attribute", "steer"] {
        let refused = fails(2, &[&[study], &both[..]].concat());
        assert!(
            refused.contains("found 2 tokens; expected one here"),
            "{refused}"
        );
    }
    let refused = fails(
        2,
        &[&["patch", "--metric", "logit-diff"], &both[..]].concat(),
    );
    assert!(
        refused.contains("an answer of several tokens has no such"),
        "{refused}"
    );
}

/// An answer that is given twice would count double.
#[test]
fn answers_are_given_once() {
    let own = [
        "--clean",
        CLEAN,
        "--corrupted",
        CORRUPTED,
        "--answer",
        " Mary",
    ];
    let twice = |more: &[&str]| fails(2, &[&["patch"], &own[..], more].concat());
    let right = twice(&["--answer", " Mary"]);
    assert!(
        right.contains("found ` Mary` twice among the right"),
        "{right}"
    );
    let wrong = twice(&["--wrong", " John", "--wrong", " Tom", "--wrong", " John"]);
    assert!(
        wrong.contains("found ` John` twice among the wrong"),
        "{wrong}"
    );
    let first = twice(&["--answer", " Mary and", "--first-token"]);
    assert!(first.contains("found ` Mary` twice"), "{first}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.json");
    let pair = |answers: &[&str]| serde_json::json!({"clean": CLEAN, "answers": answers});
    let pairs = serde_json::json!([pair(&[" Mary", " Mary"]), pair(&[" Mary", " Tom"])]);
    fs::write(&path, pairs.to_string()).unwrap();
    let found = ok(&["ablate", "--json", "--pairs", path.to_str().unwrap()]);
    let left_out = &json(&found)["results"]["left_out"];
    let expected = "pair 0: found ` Mary` twice among the right answers; expected each once";
    assert_eq!(*left_out, serde_json::json!([expected]));
}

/// A safetensors file with the first unit vectors of a space as rows.
fn unit_vectors(path: &std::path::Path, vectors: usize, dimensions: usize) {
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize};
    let one = |i: usize| f32::from(i.is_multiple_of(dimensions + 1)).to_le_bytes();
    let bytes: Vec<u8> = (0..vectors * dimensions).flat_map(one).collect();
    let view = TensorView::new(Dtype::F32, vec![vectors, dimensions], &bytes).unwrap();
    fs::write(path, serialize([("basis", view)], None).unwrap()).unwrap();
}

/// Patching what lies in a subspace of a file: in all dimensions it is the plain patch.
#[test]
fn patching_in_a_subspace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("basis.safetensors");
    let file = path.to_str().unwrap();
    let within = ["--subspace", file];
    let patched = |options: &[&str]| {
        let text = ok(&[&["patch", "--json"], options, &pair()[..]].concat());
        json(&text)["results"].clone()
    };
    unit_vectors(&path, 128, 128);
    let all = patched(&within);
    let plain = patched(&[]);
    for site in ["resid_pre", "attn_out", "mlp_out"] {
        assert_eq!(all[site]["values"], plain[site]["values"], "{site}");
    }
    // Heads are not that wide.
    assert!(all["z"].is_null() && !plain["z"].is_null());
    unit_vectors(&path, 2, 128);
    let two = patched(&within);
    assert_eq!(
        two["subspace"],
        serde_json::json!({"vectors": 2, "dimensions": 128})
    );
    assert_ne!(two["resid_pre"]["values"], plain["resid_pre"]["values"]);
    let out = folder.path().join("out");
    let text = ok(&[
        &["patch", "--out", out.to_str().unwrap()],
        &within[..],
        &pair(),
    ]
    .concat());
    assert!(
        text.contains("patched: what lies in 2 of 128 dimensions"),
        "{text}"
    );
    let picture = fs::read_to_string(out.join("resid_pre.svg")).unwrap();
    assert!(picture.contains("in 2 of 128 dimensions"));
    let wrong = fails(
        2,
        &[&["patch", "--sweep", "z"], &within[..], &pair()].concat(),
    );
    assert!(
        wrong.contains("expected those of the site: z has 32"),
        "{wrong}"
    );
    unit_vectors(&path, 1, 32);
    assert!(!patched(&within)["z"].is_null());
    unit_vectors(&path, 1, 33);
    let wrong = fails(2, &[&["patch"], &within[..], &pair()].concat());
    assert!(wrong.contains("found a basis in 33 dimensions"), "{wrong}");
}
