//! `--plan`: what a study will cost, said before its model is opened.

use anyhow::{Context, Result};
use patchlens::forecast::Forecast;
use patchlens::{Config, Tokenizer, Transformer};
use serde_json::json;

use crate::options::Common;
use crate::output::Output;
use crate::session::{output, threads};

/// What is known of a study without the model's weights.
pub struct Outline {
    pub config: Config,
    pub tokenizer: Tokenizer,
    pub output: Output,
    /// Whether it is the model that the library ships.
    pub shipped: bool,
}

impl Outline {
    /// Reads the model's config and its tokenizer; checks that the results can be written.
    ///
    /// # Errors
    /// If a file cannot be read, or the output not be written.
    pub fn open(study: &'static str, common: &Common) -> Result<Self> {
        threads(common.threads)?;
        let output = output(study, common)?;
        let dir = common.model.as_deref();
        let (config, tokenizer) = match dir {
            Some(dir) => (
                Config::open(dir).context("opening the model's config")?,
                Tokenizer::open(dir).context("opening the tokenizer")?,
            ),
            None => (Transformer::mini().config().clone(), Tokenizer::mini()),
        };
        Ok(Outline {
            config,
            tokenizer,
            output,
            shipped: dir.is_none(),
        })
    }

    /// Prints what the study will cost, and how long it will take on this machine.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn tell(self, forecast: &Forecast) -> Result<()> {
        let rate = forecast.measured_rate();
        let (seconds, peak) = (forecast.seconds(rate), forecast.peak_bytes());
        self.output.say(format_args!(
            "{forecast}\
             memory in all     {:.1} MB at most\n\
             time              at most {} at {:.0} G multiply-adds a second, as measured just now",
            peak as f64 / 1e6,
            duration(seconds),
            rate / 1e9
        ))?;
        let numbers = json!({
            "multiply_adds": forecast.multiply_adds(),
            "peak_bytes": peak,
            "weight_bytes": forecast.weight_bytes,
            "rate": rate,
            "seconds": seconds,
            "plan": forecast.plan,
        });
        self.output.number("forecast", numbers)?;
        self.output.finish(false)
    }
}

/// `40 s`, `12 min` or `3.5 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_the_unit_that_people_count_in() {
        let texts = [0.04, 44.0, 119.0, 130.0, 7199.0, 9000.0].map(duration);
        assert_eq!(
            texts,
            ["0.0 s", "44 s", "119 s", "2 min", "120 min", "2.5 h"]
        );
    }
}
