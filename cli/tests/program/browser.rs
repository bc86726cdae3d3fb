//! Pages of the program in a real browser without a window: what they show, that nothing fails,
//! and that the keyboard and a screen reader have all of it. Needs Chromium; says so loudly where
//! there is none.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Runs before the page's own script.
const BEFORE: &str = "<script>window.failures = [];
window.addEventListener('error', event => failures.push(event.message));
window.addEventListener('securitypolicyviolation', event => failures.push('policy: ' + event.violatedDirective));
</script>";

/// Runs after it: uses the page as somebody without a mouse would, and writes down what it met.
const AFTER: &str = r#"<script>
const probe = () => {
  const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const readoutOf = node => node.querySelector("[role=status]") || readoutOf(node.parentElement);
  const maps = [...document.querySelectorAll("table.map")].map(table => {
    const cells = [...table.querySelectorAll("tbody td")];
    const entries = cells.filter(cell => cell.tabIndex === 0);
    const readout = readoutOf(table);
    entries[0].focus();
    const first = readout.textContent;
    press(document.activeElement, "ArrowRight");
    const second = readout.textContent;
    press(document.activeElement, "End");
    const last = readout.textContent;
    return {
      role: table.getAttribute("role"), caption: table.caption.textContent, entries: entries.length,
      rows: table.querySelectorAll("tbody th[scope=row]").length, columns: table.querySelectorAll("thead th[scope=col]").length,
      cells: cells.length, texts: cells.map(cell => cell.textContent), first, second, last,
    };
  });
  const bars = [...document.querySelectorAll("table.bars")].map(table => ({
    caption: table.caption.textContent, rows: table.querySelectorAll("tbody th[scope=row]").length,
  }));
  const buttons = [...document.querySelectorAll(".thumbs button")];
  const last = buttons[buttons.length - 1];
  if (last) last.click();
  const found = {
    failures: window.failures, title: document.title, language: document.documentElement.lang,
    headings: [...document.querySelectorAll("h2")].map(node => node.textContent),
    maps, bars, wide: document.documentElement.scrollWidth > window.innerWidth,
    downloads: [...document.querySelectorAll("a[download]")].map(a => [a.download, decodeURIComponent(a.href.split(",").slice(1).join(","))]),
    heads: buttons.map(button => button.getAttribute("aria-label")),
    enlarged: last && [last.getAttribute("aria-pressed"), ...[...document.querySelectorAll(".panel caption")].map(node => node.textContent)],
    outside: [...document.querySelectorAll("[src], link[href]")].length,
  };
  const node = document.createElement("script");
  node.type = "application/json";
  node.id = "found";
  node.textContent = JSON.stringify(found).replace(/</g, "\\u003c");
  document.body.appendChild(node);
};
setTimeout(() => { try { probe(); } catch (error) { document.body.append("PROBE FAILED " + error.stack); } }, 200);
</script>"#;

fn browser() -> Option<PathBuf> {
    let found = ["chromium", "chromium-browser", "google-chrome", "chrome"]
        .iter()
        .flat_map(|name| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .collect::<Vec<_>>()
        })
        .find(|path| path.is_file());
    if found.is_none() {
        // Past the test runner, which hides what tests that pass have printed.
        let said = "\n!! SKIPPED: no Chromium here; the pages were not tested in a browser\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    found
}

/// What the probe found in a page, in a window of this width.
fn visit(browser: &Path, page: &Path, width: usize) -> Value {
    let html = fs::read_to_string(page).unwrap();
    let html = html.replacen("<style>", &format!("{BEFORE}<style>"), 1);
    let html = html.replacen("</body>", &format!("{AFTER}</body>"), 1);
    let dir = tempfile::tempdir().unwrap();
    let probed = dir.path().join("page.html");
    fs::write(&probed, html).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .arg(format!(
            "--user-data-dir={}",
            dir.path().join("profile").display()
        ))
        .arg(format!("--window-size={width},900"))
        .args(["--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("file://{}", probed.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let begin = r#"<script type="application/json" id="found">"#;
    let at = dom.find(begin).unwrap_or_else(|| {
        panic!(
            "the probe did not run: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let rest = &dom[at + begin.len()..];
    serde_json::from_str(&rest[..rest.find("</script>").unwrap()]).unwrap()
}

fn study(arguments: &[&str], out: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_patchlens"))
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// What every page must do, whatever is on it.
fn sound(found: &Value) {
    assert_eq!(found["failures"], serde_json::json!([]));
    assert_eq!(found["language"], "en");
    assert_eq!(found["outside"], 0, "nothing is loaded from elsewhere");
    for map in found["maps"].as_array().unwrap() {
        assert_eq!(map["role"], "grid");
        assert_eq!(map["entries"], 1, "Tab enters a table once");
        let (rows, columns) = (&map["rows"], &map["columns"]);
        let cells = rows.as_u64().unwrap() * columns.as_u64().unwrap();
        assert_eq!(map["cells"], cells);
        assert!(map["caption"].as_str().unwrap().contains("rows: "));
        let first = map["first"].as_str().unwrap();
        assert!(first.contains(": "), "a cell is named and read: {first}");
        if columns.as_u64().unwrap() > 1 {
            assert_ne!(map["first"], map["second"], "arrows move");
        }
    }
}

#[test]
fn a_report_of_patching() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    study(&["patch", "--sweep", "z"], dir.path());
    for width in [500, 1400] {
        let found = visit(&browser, &dir.path().join("report.html"), width);
        sound(&found);
        assert!(!found["wide"].as_bool().unwrap(), "it fits {width} pixels");
        assert_eq!(texts(&found["heads"]).len(), 16, "patterns over the text");
        let map = &found["maps"][0];
        assert_eq!((&map["rows"], &map["columns"]), (&4.into(), &4.into()));
        if width > 1000 {
            let cells = texts(&map["texts"]);
            assert!(cells.iter().all(|text| text.contains('±')), "{cells:?}");
        }
        let (name, csv) = (&found["downloads"][0][0], &found["downloads"][0][1]);
        let saved = fs::read_to_string(dir.path().join(name.as_str().unwrap())).unwrap();
        assert_eq!(csv, &saved, "the numbers to download are the file's");
    }
}

#[test]
fn pages_of_heads() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    study(&["heads"], dir.path());
    let mut pages: Vec<PathBuf> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "html"))
        .collect();
    pages.sort();
    let mut heads = 0;
    for page in &pages {
        let found = visit(&browser, page, 1400);
        sound(&found);
        heads = heads.max(texts(&found["heads"]).len());
        if let Some(first) = texts(&found["heads"]).first() {
            assert!(first.starts_with("attention of head 0.0"), "{first}");
            let enlarged = texts(&found["enlarged"]);
            assert_eq!(enlarged[0], "true");
            let caption = enlarged.last().unwrap();
            assert!(caption.starts_with("attention of head 3.3"), "{caption}");
        }
    }
    assert_eq!(heads, 16, "thumbnails of all heads");
}

#[test]
fn reports_of_all_other_studies() {
    let Some(browser) = browser() else { return };
    for name in [
        "paths",
        "trace",
        "knockout",
        "interchange",
        "patchscope",
        "lens",
        "ablate",
        "circuits",
        "attribute",
        "steer",
        "induction",
        "in-context",
    ] {
        let dir = tempfile::tempdir().unwrap();
        study(&[name], dir.path());
        let found = visit(&browser, &dir.path().join("report.html"), 1400);
        sound(&found);
        let drawn =
            found["maps"].as_array().unwrap().len() + found["bars"].as_array().unwrap().len();
        assert!(drawn > 0, "{name}: nothing is drawn");
        assert!(!found["wide"].as_bool().unwrap(), "{name} fits its window");
    }
}
