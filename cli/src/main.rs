//! The program `patchlens`.

use std::process::ExitCode;

fn main() -> ExitCode {
    patchlens_cli::main()
}
