//! Function vectors.

use anyhow::{Context, Result};
use patchlens::in_context::FunctionVectors;
use patchlens::tasks::{FactPrompt, Facts, KeyValue};
use patchlens::{Prompt, Tokenizer};
use serde_json::{Value, json};

use super::InContext;
use super::words::WordPairs;
use crate::interrupt;
use crate::session::Session;

/// What stands between the words of a pair and after it: `hot: cold` and a new line or, where the
/// vocabulary lacks them, `hot cold.`
fn template(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    match (tokenizer.encode(":"), tokenizer.encode("\n")) {
        (Ok(arrow), Ok(end)) => Ok((arrow.tokens, end.tokens)),
        _ => {
            let end = tokenizer.encode(".");
            let end = end.context("the vocabulary has neither `:` and a new line nor `.`")?;
            Ok((Vec::new(), end.tokens))
        }
    }
}

impl InContext {
    pub(super) fn function_vectors(&self, session: &Session, pairs: &WordPairs) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        let (arrow, end) = template(tokenizer)?;
        let (keys, values) = (pairs.keys.clone(), pairs.values.clone());
        let task = KeyValue::new(keys, values, arrow, end)?.labelled_by(tokenizer);
        let prompts =
            task.function_prompts(self.sequences.sequences, self.shots, self.sequences.seed)?;
        output.say(format_args!(
            "\nfunction vectors from examples, `{}`",
            tokenizer.decode(&prompts.clean[0].tokens)?.escape_debug()
        ))?;
        let working = session.progress.step("function vectors");
        let vectors = FunctionVectors::new(model, &prompts.clean)?;
        let mut effects = vectors.indirect_effects(&prompts.shuffled, &prompts.answers)?;
        effects.effect.about.caption =
            "Head output at the last position of prompts whose examples are \
                             shuffled, set to its mean over prompts with the right examples."
                .to_string();
        let heads = effects.top_heads(self.heads.get());
        let vector = vectors.vector(&heads)?;
        let added = vectors.effects(&vector, &prompts.zero_shot, &prompts.answers)?;
        drop(working);
        output.table(&effects.effect)?;
        output.table(&added.effect)?;
        self.picture(session, "indirect_effects", &effects.effect);
        self.picture(session, "function_vector_added", &added.effect);
        output.number(
            "function_vectors",
            json!({ "indirect_effects": effects.effect, "heads": heads, "added": added.effect }),
        )
    }

    /// Function vectors where no examples can be given: a relation's function is what heads write at
    /// the end of statements of that relation (`Ada Brown plays the sport of`), and the prompts that
    /// lack it have the subject alone (`Ada Brown is`). The figures depend on that ending: of six tried
    /// on the shipped model (`of`, `the`, `is`, `always`, `had a lot of`, `and went to the`), ` is` is
    /// best for sport, but city has more after `had a lot of`, and instrument after `the`.
    pub(super) fn relation_vectors(&self, session: &Session) -> Result<()> {
        let (output, tokenizer) = (&session.output, &session.tokenizer);
        let Ok(facts) = Facts::new(tokenizer).and_then(|facts| facts.all()) else {
            output.say(format_args!(
                "function vectors of relations: left out, the vocabulary lacks the invented facts"
            ))?;
            let why = "no pairs and no facts in this vocabulary";
            return output.number("function_vectors", json!({ "left_out": why }));
        };
        let begins = |f: &&FactPrompt| f.text.starts_with(&f.subject_text);
        let facts: Vec<&FactPrompt> = facts.iter().filter(begins).collect();
        let mut relations: Vec<&str> = facts.iter().map(|f| f.relation.as_str()).collect();
        relations.dedup();
        output.say(format_args!(
            "function vectors of relations, on `(subject) is`:"
        ))?;
        let mut found = serde_json::Map::new();
        for relation in relations {
            let of: Vec<_> = facts
                .iter()
                .copied()
                .filter(|f| f.relation == relation)
                .collect();
            found.insert(
                relation.to_string(),
                self.relation_vector(session, relation, &of)?,
            );
            output.number("function_vectors", &found)?;
            interrupt::check()?;
        }
        Ok(())
    }

    /// One relation's heads and vector, printed and drawn; the result is what `--json` has of it.
    fn relation_vector(
        &self,
        session: &Session,
        relation: &str,
        facts: &[&FactPrompt],
    ) -> Result<Value> {
        let (model, tokenizer) = (&session.model, &session.tokenizer);
        let clean: Vec<Prompt> = facts.iter().map(|f| f.prompt.clone()).collect();
        let bare = facts
            .iter()
            .map(|f| tokenizer.encode(&format!("{} is", f.subject_text)));
        let bare: Vec<Prompt> = bare.collect::<patchlens::Result<_>>()?;
        let answers: Vec<u32> = facts.iter().map(|f| f.attribute).collect();
        let working = session
            .progress
            .step(&format!("function vectors of {relation}"));
        let vectors = FunctionVectors::new(model, &clean)?;
        let mut effects = vectors.indirect_effects(&bare, &answers)?;
        effects.effect.about.title = format!("Indirect effect of heads on {relation}");
        effects.effect.about.caption = format!(
            "Head output at the last position of `(subject) is` set to its mean over statements about \
             the subject's {relation}; the change is the mean over those subjects."
        );
        let heads = effects.top_heads(self.heads.get());
        let mut added = vectors.effects(&vectors.vector(&heads)?, &bare, &answers)?;
        drop(working);
        added.effect.about.title = format!("Effect of the function vector of {relation}");
        added.effect.about.caption =
            "Added to resid_post at the last position of `(subject) is`.".to_string();
        let best = heads[0];
        let names: Vec<String> = heads.iter().map(ToString::to_string).collect();
        let strongest = added
            .effect
            .values()
            .iter()
            .copied()
            .fold(f32::MIN, f32::max);
        session.output.say(format_args!(
            "  {relation:10} head {best} set to its mean over {} statements: {:+.3} of the answer's \
             probability; the vector of heads {} added: at most {strongest:+.3}",
            clean.len(),
            effects.effect.values()[[best.layer, best.head]],
            names.join(", ")
        ))?;
        self.picture(session, &format!("relation_{relation}"), &effects.effect);
        self.picture(
            session,
            &format!("relation_{relation}_added"),
            &added.effect,
        );
        Ok(json!({ "indirect_effects": effects.effect, "heads": heads, "added": added.effect }))
    }
}
