//! The pictures of FINDINGS.md are those that the studies save.
//!
//! `PATCHLENS_BLESS=1 cargo test --release -p patchlens-cli findings` makes them anew.

use std::fs;
use std::path::Path;

use crate::ok;

/// A study, the picture of it that is shown, and as what.
const SHOWN: [(&str, &str, &str); 14] = [
    ("patch", "z", "patch"),
    ("paths", "path_patching_to_logits", "paths"),
    ("ablate", "heads", "ablate"),
    ("circuits", "faithfulness", "circuits"),
    ("heads", "knocked_out_at_end", "heads"),
    ("attribute", "dla_components", "attribute"),
    ("trace", "states", "trace"),
    ("knockout", "relative", "knockout"),
    ("lens", "logit_lens_on_top", "lens"),
    ("patchscope", "likeliest", "patchscope"),
    ("interchange", "effect", "interchange"),
    ("steer", "steering_by_layer", "steer"),
    ("induction", "gain_removed_by_head", "induction"),
    ("in-context", "mapping_resid_pre", "in_context"),
];

#[test]
fn findings_show_what_the_studies_save() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("FINDINGS.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (study, saved, shown) in SHOWN {
        let out = dir.path().join(study);
        ok(&[study, "--quiet", "--out", out.to_str().unwrap()]);
        let made = fs::read_to_string(out.join(format!("{saved}.svg"))).unwrap();
        let name = format!("guide/pictures/findings_{shown}.svg");
        assert!(
            text.contains(&format!("({name})")),
            "FINDINGS.md lacks {name}"
        );
        let kept = root.join(&name);
        if std::env::var_os("PATCHLENS_BLESS").is_some() {
            fs::write(&kept, &made).unwrap();
        }
        assert!(
            made == fs::read_to_string(&kept).unwrap(),
            "{name} is another picture"
        );
    }
}
