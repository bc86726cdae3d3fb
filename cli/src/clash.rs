//! Files that one option names and another one would write over.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

/// Arguments that name a file which is written.
const WRITTEN: [&str; 4] = ["json", "journal", "save_lens", "into"];
/// Arguments that name a folder from which a model is read.
const MODELS: [&str; 2] = ["model", "source_model"];

/// A path that an argument has.
struct Named {
    id: String,
    /// The argument as messages name it.
    argument: String,
    path: PathBuf,
}

impl Named {
    fn is_written(&self) -> bool {
        WRITTEN.contains(&self.id.as_str())
    }
}

/// Checks that no file is both written and named otherwise, before any work.
///
/// # Errors
/// For two arguments with one file, one of which is written; for a file of a model that would be.
pub fn check(program: &Command, matches: &ArgMatches) -> clap::error::Result<()> {
    let files = named(program, matches);
    let clash = |text: String| program.clone().error(ErrorKind::ArgumentConflict, text);
    for (i, file) in files.iter().enumerate() {
        for other in &files[..i] {
            if (file.is_written() || other.is_written()) && place(&file.path) == place(&other.path)
            {
                return Err(clash(format!(
                    "{} and {}: found one file, {}; expected two",
                    other.argument,
                    file.argument,
                    file.path.display()
                )));
            }
        }
        let models = files.iter().filter(|f| MODELS.contains(&f.id.as_str()));
        let mut folders = models.map(|model| place(&model.path));
        if file.is_written()
            && file.path.exists()
            && folders.any(|folder| place(&file.path).parent() == Some(&folder))
        {
            return Err(clash(format!(
                "{}: found {}, a file in the model's folder; expected one that is not there yet",
                file.argument,
                file.path.display()
            )));
        }
    }
    Ok(())
}

/// All paths that the subcommand's arguments have, but for stdout.
fn named(program: &Command, matches: &ArgMatches) -> Vec<Named> {
    let Some((name, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let command = program.find_subcommand(name);
    let arguments = command.into_iter().flat_map(Command::get_arguments);
    let mut files = Vec::new();
    for argument in arguments {
        let id = argument.get_id().as_str();
        let Ok(Some(paths)) = matches.try_get_many::<PathBuf>(id) else {
            continue;
        };
        let named = |path: &PathBuf| Named {
            id: id.to_string(),
            argument: argument
                .get_long()
                .map_or_else(|| id.to_string(), |long| format!("--{long}")),
            path: path.clone(),
        };
        files.extend(paths.filter(|path| *path != Path::new("-")).map(named));
    }
    files
}

/// Where a path leads, also that of a file which is not there yet.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let there = path.canonicalize().or_else(|_| {
        let folder = folder.unwrap_or(Path::new(".")).canonicalize()?;
        std::io::Result::Ok(folder.join(path.file_name().unwrap_or_default()))
    });
    there.unwrap_or_else(|_| path.to_path_buf())
}
