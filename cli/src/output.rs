//! Where a study's results go: text to stdout, files at the end.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ndarray::Array2;
use patchlens::report::{Labelled, Page, Scatter, use_color};
use patchlens::write_atomically;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::options::Common;

/// What a study has found so far.
#[derive(Default)]
struct Found {
    /// Results to save, by file name.
    results: Vec<(String, Labelled)>,
    /// Scatter plots, by file name.
    plots: Vec<(String, Scatter)>,
    /// Files of their own, by name.
    files: Vec<(String, String)>,
    /// Everything for the JSON file.
    numbers: Map<String, Value>,
    /// What was said before the first result, and after it, for the report.
    introduction: String,
    text: String,
    begun: bool,
    /// All heads' patterns over a prompt.
    attention: Option<Attention>,
}

struct Attention {
    heading: String,
    heads: Vec<(String, Array2<f32>)>,
    tokens: Vec<String>,
}

/// Prints a study's results as they come, and saves them at the end, also if that comes early.
pub struct Output {
    study: &'static str,
    /// The question that it answers: the title of its page.
    title: String,
    model: String,
    json: Option<PathBuf>,
    out: Option<PathBuf>,
    quiet: bool,
    /// Whether there is nothing to show: results of a part of the work.
    muted: bool,
    found: RefCell<Found>,
}

impl Output {
    /// Checks before the work starts that its results can be written at its end.
    ///
    /// # Errors
    /// If a folder is missing or cannot be made.
    pub fn new(study: &'static str, title: String, common: &Common, model: String) -> Result<Self> {
        if let Some(path) = common.json.as_deref().filter(|path| !is_stdout(path)) {
            check_file("--json", path)?;
        }
        if let Some(dir) = &common.out {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("--out {}: making the folder", dir.display()))?;
        }
        Ok(Output {
            study,
            title,
            model,
            json: common.json.clone(),
            out: common.out.clone(),
            quiet: common.quiet,
            muted: false,
            found: RefCell::default(),
        })
    }

    /// Shows nothing, if so.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// What the model is called.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Prints a result in words, unless stdout is for JSON.
    ///
    /// # Errors
    /// If stdout is closed, as by `head`.
    pub fn say(&self, text: impl Display) -> Result<()> {
        let text = text.to_string();
        if self.prints() {
            writeln!(std::io::stdout().lock(), "{text}")?;
        }
        let mut found = self.found.borrow_mut();
        let so_far = if found.begun {
            &mut found.text
        } else {
            &mut found.introduction
        };
        *so_far += &text;
        so_far.push('\n');
        Ok(())
    }

    /// Whether results go to stdout as texts.
    fn prints(&self) -> bool {
        !self.muted && !self.json.as_deref().is_some_and(is_stdout)
    }

    /// Whether there is a page for pictures.
    pub fn has_page(&self) -> bool {
        self.out.is_some()
    }

    /// Shows all heads' patterns `[dest, src]` over a prompt on the page.
    pub fn attention(
        &self,
        heading: String,
        heads: Vec<(String, Array2<f32>)>,
        tokens: Vec<String>,
    ) {
        self.found.borrow_mut().attention = Some(Attention {
            heading,
            heads,
            tokens,
        });
    }

    /// Prints a table, with colours on a terminal, unless stdout is for JSON.
    ///
    /// # Errors
    /// As [`Output::say`].
    pub fn table(&self, table: &Labelled) -> Result<()> {
        self.found.borrow_mut().begun = true;
        if self.prints() {
            writeln!(std::io::stdout().lock(), "{}", table.colored(use_color()))?;
        }
        Ok(())
    }

    /// Tells people something on stderr that is no result.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Keeps a result for all files.
    ///
    /// # Errors
    /// None that a result of this program has.
    pub fn keep(&self, name: &str, result: &Labelled) -> Result<()> {
        self.number(name, result)?;
        self.picture(name, result);
        Ok(())
    }

    /// Keeps a result for the folder and the report alone.
    pub fn picture(&self, name: &str, result: &Labelled) {
        let mut result = result.clone();
        let model = &mut result.about.model;
        model.get_or_insert_with(|| self.model.clone());
        let mut found = self.found.borrow_mut();
        found.begun = true;
        found.results.push((name.to_string(), result));
    }

    /// Keeps a scatter plot for the folder and the report.
    pub fn scatter(&self, name: &str, plot: &Scatter) {
        let mut found = self.found.borrow_mut();
        found.plots.push((name.to_string(), plot.clone()));
    }

    /// Keeps a file of its own for the folder.
    pub fn file(&self, name: &str, contents: String) {
        let mut found = self.found.borrow_mut();
        found.files.push((name.to_string(), contents));
    }

    /// Keeps numbers for the JSON file alone.
    ///
    /// # Errors
    /// None that a number of this program has.
    pub fn number(&self, name: &str, value: impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value)?;
        self.found
            .borrow_mut()
            .numbers
            .insert(name.to_string(), value);
        Ok(())
    }

    /// Writes all files; `partial` if the study has not found all that it was asked for.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn finish(self, partial: bool) -> Result<()> {
        let found = self.found.take();
        let partial = partial || found.results.iter().any(|(_, r)| r.about.partial);
        if let Some(dir) = &self.out {
            for (name, result) in &found.results {
                save(result, dir, name)?;
            }
            for (name, plot) in &found.plots {
                plot.save(dir.join(format!("{name}.svg")))?;
                plot.save(dir.join(format!("{name}.png")))?;
            }
            self.report(&found)?.save(dir.join("report.html"))?;
            for (name, contents) in &found.files {
                write_text(&dir.join(name), contents)?;
            }
            self.note(format_args!("saved {}", dir.display()));
        }
        let document = json!({
            "patchlens": env!("CARGO_PKG_VERSION"),
            "study": self.study,
            "model": self.model,
            "partial": partial,
            "results": found.numbers,
        });
        let text = serde_json::to_string_pretty(&document)?;
        match &self.json {
            Some(path) if is_stdout(path) => writeln!(std::io::stdout().lock(), "{text}")?,
            Some(path) => {
                write_text(path, &text)?;
                self.note(format_args!("saved {}", path.display()));
            }
            None => {}
        }
        Ok(())
    }
}

impl Output {
    /// One page with all results, and what was said.
    fn report(&self, found: &Found) -> Result<Page> {
        let text = |page: Page, heading: &str, text: &str| match text.trim() {
            "" => page,
            text => page.text(heading, text),
        };
        let mut page = text(Page::new(&self.title), "What was run", &found.introduction);
        for (name, result) in &found.results {
            page = page.result(name, result)?;
        }
        for (_, plot) in &found.plots {
            page = page.scatter(plot)?;
        }
        page = text(page, "In words", &found.text);
        let files: Vec<&str> = found.files.iter().map(|(name, _)| &name[..]).collect();
        page = text(page, "More files in the same folder", &files.join("\n"));
        let Some(attention) = &found.attention else {
            return Ok(page);
        };
        let heads: Vec<_> = attention
            .heads
            .iter()
            .map(|(name, p)| (name, p.view()))
            .collect();
        Ok(page.attention(&attention.heading, &heads, &attention.tokens)?)
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Checks before the work starts that an option's file can be written at its end.
///
/// # Errors
/// For a file in a folder that is missing, and what is no regular file: a pipe could block for
/// ever.
pub fn check_file(option: &str, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let found = if !folder.is_dir() {
        "no such folder"
    } else if path.is_dir() {
        "a folder"
    } else if path.exists() && !path.is_file() {
        "a device, pipe or socket"
    } else {
        return Ok(());
    };
    bail!(
        "{option} {}: found {found}; expected a file in a folder that exists",
        path.display()
    )
}

/// Writes a text; an older file stays whole until the new one is.
///
/// # Errors
/// If it cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    let written = write_atomically(path, |file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("writing {}", path.display()))
}

/// Saves a result under a name in several formats; results over a number become line plots.
fn save(result: &Labelled, dir: &Path, name: &str) -> Result<()> {
    let path = |extension: &str| dir.join(format!("{name}.{extension}"));
    for extension in ["svg", "png"] {
        match result.curves() {
            Ok(curves) => curves.save(path(extension))?,
            Err(_) => result.save(path(extension))?,
        }
    }
    for extension in ["csv", "npy"] {
        result.save(path(extension))?;
    }
    Ok(())
}
