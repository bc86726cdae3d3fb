//! What shells and manuals need: completions, man pages.

use std::io::Write as _;

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

/// Completions for a shell
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens completions bash > ~/.local/share/bash-completion/completions/patchlens
  patchlens completions zsh > ~/.zfunc/_patchlens
  patchlens completions fish > ~/.config/fish/completions/patchlens.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Writes them to stdout.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn run(&self, mut command: Command) -> Result<()> {
        // The generator panics where it cannot write.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "patchlens", &mut text);
        std::io::stdout().lock().write_all(&text)?;
        Ok(())
    }
}

/// The manual page, for `man -l -`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens man | man -l -
  patchlens man patch > patchlens-patch.1")]
pub struct Man {
    /// A subcommand [default: the program itself]
    subcommand: Option<String>,
}

impl Man {
    /// Writes it to stdout.
    ///
    /// # Errors
    /// For an unknown subcommand, or if stdout is closed.
    pub fn run(&self, mut command: Command) -> Result<()> {
        command.build();
        let page = match &self.subcommand {
            None => command,
            Some(name) => {
                let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
                let found = command.find_subcommand(name).ok_or_else(|| {
                    let expected = names.join(", ");
                    crate::usage::usage(format!("man: found `{name}`; expected one of {expected}"))
                })?;
                found.clone()
            }
        };
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        std::io::stdout().lock().write_all(&text)?;
        Ok(())
    }
}
