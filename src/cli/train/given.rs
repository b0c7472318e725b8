//! Which flags of `train` were given.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use super::flags::Flags;

/// The names of the flags that were given, as opposed to those that have their default value.
#[derive(Debug)]
pub struct GivenFlags(Vec<String>);

impl GivenFlags {
    /// Returns whether a flag, such as `epochs`, was given.
    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|given| given == flag)
    }
}

impl Args for GivenFlags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for GivenFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<GivenFlags, clap::Error> {
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let flags = Flags::command();
        let given = flags.get_arguments().filter(|arg| matches.ids().any(|id| id == arg.get_id()));
        let given = given.filter(|arg| is_given(arg.get_id().as_str()));
        Ok(GivenFlags(given.filter_map(|arg| Some(arg.get_long()?.to_owned())).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = GivenFlags::from_arg_matches(matches)?;
        Ok(())
    }
}
