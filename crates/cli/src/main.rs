//! The one binary `taffrail`: reads the arguments, runs a command, says how it ended.
//!
//! Results go to standard output, everything else to standard error; a closed pipe ends quietly.

mod arguments;
mod child;
mod commands;
mod context;
mod directory;
mod duration;
mod exit;
mod figures;
mod input;
mod output;
mod place;
mod render;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let context = arguments.context();
    match arguments.command.run(&context, Arguments::command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
