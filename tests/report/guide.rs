//! The pictures of README and guide are made by the programs that stand beside them, which are
//! written out here and compared with those texts line by line.
//!
//! `PATCHLENS_BLESS=1 cargo test --release --test report guide` makes the pictures anew. Each is
//! kept twice: as SVG, and inside a line of markdown that the docs can show without a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;

/// Where a program saves a file.
type Place<'p> = &'p dyn Fn(&str) -> PathBuf;

/// A chapter, its picture, and the program between two markers of this file that makes it.
struct Picture {
    chapter: &'static str,
    name: &'static str,
    make: fn(Place<'_>) -> patchlens::Result<()>,
}

const PICTURES: [Picture; 9] = [
    Picture {
        chapter: "README.md",
        name: "heads",
        make: heads,
    },
    Picture {
        chapter: "guide/patching.md",
        name: "resid_pre",
        make: resid_pre,
    },
    Picture {
        chapter: "guide/ioi.md",
        name: "ioi_heads",
        make: ioi_heads,
    },
    Picture {
        chapter: "guide/tracing.md",
        name: "fact",
        make: fact,
    },
    Picture {
        chapter: "guide/tracing.md",
        name: "knockout",
        make: knockout,
    },
    Picture {
        chapter: "guide/paths.md",
        name: "paths",
        make: paths,
    },
    Picture {
        chapter: "guide/lenses.md",
        name: "attribution",
        make: attribution,
    },
    Picture {
        chapter: "guide/heads.md",
        name: "induction",
        make: induction,
    },
    Picture {
        chapter: "guide/ablation.md",
        name: "ablation",
        make: ablation,
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program of this file with a name, as a text shows it.
fn program(name: &str) -> String {
    let own = include_str!("guide.rs");
    let begin = format!("    // begin {name}\n");
    let at = own
        .find(&begin)
        .unwrap_or_else(|| panic!("no program {name}"));
    let rest = &own[at + begin.len()..];
    let lines = rest[..rest.find("    // end\n").unwrap()].lines();
    let lines = lines.map(|line| line.strip_prefix("    ").unwrap_or(line));
    let text: Vec<&str> = lines.collect();
    // The tests save into a folder of their own.
    text.join("\n")
        .replace("path(\"", "\"")
        .replace("\"))", "\")")
}

#[test]
fn guide_pictures_are_those_of_their_programs() {
    let dir = tempfile::tempdir().unwrap();
    let bless = std::env::var_os("PATCHLENS_BLESS").is_some();
    let mut inline: BTreeMap<&str, String> = BTreeMap::new();
    for Picture {
        chapter,
        name,
        make,
    } in &PICTURES
    {
        let text = fs::read_to_string(root().join(chapter)).unwrap();
        assert!(
            text.contains(&format!("pictures/{name}.svg")),
            "{chapter} shows {name}"
        );
        for line in program(name).lines() {
            assert!(text.contains(line.trim()), "{chapter} lacks `{line}`");
        }
        make(&|file| dir.path().join(file)).unwrap();
        let made = fs::read_to_string(dir.path().join(format!("{name}.svg"))).unwrap();
        let kept = root().join(format!("guide/pictures/{name}.svg"));
        if bless {
            fs::write(&kept, &made).unwrap();
        }
        assert!(
            made == fs::read_to_string(&kept).unwrap(),
            "{chapter}: {name} is another picture"
        );
        let data = base64::engine::general_purpose::STANDARD.encode(&made);
        let line = format!("[{name}]: data:image/svg+xml;base64,{data}\n");
        if let Some(chapter) = chapter.strip_prefix("guide/") {
            *inline.entry(chapter).or_default() += &line;
        }
    }
    for (chapter, shown) in inline {
        let kept = root().join("guide/pictures").join(chapter);
        if bless {
            fs::write(&kept, &shown).unwrap();
        }
        assert!(
            shown == fs::read_to_string(&kept).unwrap(),
            "{}",
            kept.display()
        );
    }
}

/// Links of the texts lead to files and headings that are there.
#[test]
fn links_of_the_texts_lead_somewhere() {
    let mut texts: Vec<PathBuf> = ["README.md", "FINDINGS.md", "DESIGN.md", "CONTRIBUTING.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    for entry in fs::read_dir(root().join("guide")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            texts.push(path);
        }
    }
    let mut links = 0;
    for path in &texts {
        let text = fs::read_to_string(path).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .map(|rest| &rest[..rest.find(')').unwrap()]);
        let definitions = text
            .lines()
            .filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        for target in targets.chain(definitions.map(|(_, to)| to)) {
            links += 1;
            if target.starts_with("https://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{}: {target}", path.display());
            if !heading.is_empty() {
                let there = fs::read_to_string(&to).unwrap();
                let found = there.lines().filter_map(|line| line.strip_prefix('#'));
                let mut found = found.map(|line| anchor(line.trim_start_matches('#')));
                assert!(found.any(|a| a == heading), "{}: {target}", path.display());
            }
        }
    }
    assert!(links > 30, "{links} links");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.trim().to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

fn heads(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::prelude::*;
    // begin heads
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini()); // or ::open("weights/gpt2")?
    let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let corrupted =
        tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
    let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);

    let found = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
    println!("{}\n{}", found.effect, found.effect.top(3));
    found.effect.save(path("heads.svg"))
    // end
}

fn resid_pre(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::prelude::*;
    // begin resid_pre
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let corrupted =
        tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
    let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);

    let grid = Grid::Positions(Site::ResidPre);
    let found = activation_patching(&model, &clean, &corrupted, grid, &metric)?;
    found.effect.save(path("resid_pre.svg"))?;
    // end
    Ok(())
}

fn ioi_heads(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::metric::logit_diffs;
    use patchlens::prelude::*;
    use patchlens::tasks::{Corruption, Ioi};
    // begin ioi_heads
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let pairs = Ioi::new(&tokenizer)?
        .template(0)?
        .pairs(8, Corruption::Aba, 0)?;
    let clean = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let corrupted = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();

    let study = ActivationPatching::new(&model, &clean, &corrupted)?;
    let heads = study.run(Grid::Heads(Site::Z), &logit_diffs(&names))?;
    heads.normalized()?.save(path("ioi_heads.svg"))?;
    // end
    Ok(())
}

fn fact(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::prelude::*;
    use patchlens::tasks::FactPrompt;
    use patchlens::tracing::{Restore, SubjectCorruption, TracedFact, subject_noise_std};
    // begin fact
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let text = "Ada Brown plays the sport of";
    let fact = FactPrompt::new(&tokenizer, text, "Ada Brown", " boxing", "sport")?;
    let fact = TracedFact::from(&fact);
    let std = subject_noise_std(&model, std::slice::from_ref(&fact))?;

    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(std));
    let trace = tracing.trace(&fact, Restore::states())?;
    trace.indirect_effect.save(path("fact.svg"))?;
    // end
    Ok(())
}

fn knockout(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::knockout::{AttentionKnockout, cuts_of_facts};
    use patchlens::metric::probability;
    use patchlens::prelude::*;
    use patchlens::tasks::{Facts, Split};
    use patchlens::tracing::TracedFact;
    // begin knockout
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let facts = Facts::new(&tokenizer)?.split(Split::Train).all()?;
    let facts: Vec<TracedFact> = facts.iter().step_by(10).map(TracedFact::from).collect();
    let prompts = Prompts::new(facts.iter().map(|fact| &fact.prompt))?;

    let study = AttentionKnockout::new(&model, &prompts)?.window(1);
    let metric = probability(&study.base().likeliest()?);
    let found = study.run(&cuts_of_facts(&facts)?, &metric)?;
    found.relative()?.save(path("knockout.svg"))?;
    // end
    Ok(())
}

fn paths(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::metric::logit_diffs;
    use patchlens::paths::{PathReceiver, Senders};
    use patchlens::prelude::*;
    use patchlens::tasks::{Corruption, Ioi};
    // begin paths
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let pairs = Ioi::new(&tokenizer)?.pairs(16, Corruption::RandomNames, 0)?;
    let original = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let new = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();

    let study = PathPatching::new(&model, &original, &new)?;
    let end = [PathReceiver::final_residual().at_positions(Select::Last)];
    let found = study.run(Senders::Components, &end, &logit_diffs(&names))?;
    found.relative()?.save(path("paths.svg"))?;
    // end
    Ok(())
}

fn attribution(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::attribution::{Decomposition, direct_logit_attribution};
    use patchlens::metric::logit_diffs;
    use patchlens::prelude::*;
    use patchlens::tasks::Ioi;
    // begin attribution
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Ioi::new(&tokenizer)?.prompts(20, 0)?;
    let names: Vec<(u32, u32)> = drawn.iter().map(|p| (p.io, p.s)).collect();
    let prompts = Prompts::new(&drawn)?;

    let (by, metric) = (Decomposition::Components, logit_diffs(&names));
    let shares = direct_logit_attribution(&model, &prompts, by, &metric)?;
    shares.save(path("attribution.svg"))?;
    // end
    Ok(())
}

fn induction(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::heads::{AttentionPattern, pattern_scores};
    use patchlens::prelude::*;
    use patchlens::tasks::Repeated;
    // begin induction
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Repeated::new(&tokenizer)?
        .with_bos()?
        .prompts(8, 24, 2, 0)?;
    let prompts = Prompts::new(drawn.iter().map(|sequence| sequence.prompt.clone()))?;

    let scores = pattern_scores(&model, &prompts, &[AttentionPattern::Induction])?;
    scores.save(path("induction.svg"))?;
    // end
    Ok(())
}

fn ablation(path: Place<'_>) -> patchlens::Result<()> {
    use patchlens::metric::logit_diffs;
    use patchlens::prelude::*;
    use patchlens::tasks::Ioi;
    // begin ablation
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Ioi::new(&tokenizer)?.prompts(32, 0)?;
    let names: Vec<(u32, u32)> = drawn.iter().map(|p| (p.io, p.s)).collect();
    let prompts = Prompts::new(&drawn)?;

    let ablation = Ablation::new(&model, &prompts, Replacement::OverallMean)?;
    let heads = ablation.run(Each::Head, &logit_diffs(&names))?;
    heads.effect.save(path("ablation.svg"))?;
    // end
    Ok(())
}
